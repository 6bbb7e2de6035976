/*
 * Fuzzer: messages between a primary and its replica
 *
 * Input: a size of the region (in pages, 1 byte), a mode (1 byte: bit 0 repairs
 * the checksums so that the checks behind them are reached), then a stream.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/units.h"
#include "hw/mem/pmem-ha-wire.h"

#include "fuzz.h"

/* What is accepted must survive being written and read again. */
static void check_hello(const uint8_t *payload, size_t len)
{
    uint8_t again[PMEM_HA_HELLO_MAX];
    PmemHaHello h;
    size_t n;

    if (!pmem_ha_hello_decode(payload, len, &h, NULL)) {
        return;
    }
    n = pmem_ha_hello_encode(&h, again);
    if (n != len || memcmp(again, payload, len)) {
        abort();
    }
}

static void check_welcome(const uint8_t *payload, size_t len)
{
    uint8_t again[PMEM_HA_WELCOME_SIZE];
    PmemHaWelcome w;

    if (!pmem_ha_welcome_decode(payload, len, &w, NULL)) {
        return;
    }
    pmem_ha_welcome_encode(&w, again);
    if (memcmp(again, payload, len)) {
        abort();
    }
}

static void check_message(const PmemHaMsg *m, const uint8_t *head,
                          uint64_t region)
{
    uint8_t again[PMEM_HA_WIRE_HEADER_SIZE];

    if (m->len > PMEM_HA_WIRE_MAX_PAYLOAD || m->type >= PMEM_HA_MSG__MAX) {
        abort();
    }
    if (m->type == PMEM_HA_MSG_DATA &&
        (m->arg1 > region || m->arg0 > region - m->arg1 ||
         (m->len && m->len != m->arg1))) {
        abort();
    }
    pmem_ha_wire_encode(m, again);
    if (memcmp(again, head, sizeof(again))) {
        abort();
    }
    pmem_ha_wire_digest(0, m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t region;
    uint64_t seq = 0;
    bool repair;

    if (size < 2) {
        return 0;
    }
    region = data[0] * (uint64_t)PMEM_HA_PAGE_SIZE;
    repair = data[1] & 1;
    data += 2;
    size -= 2;

    while (size >= PMEM_HA_WIRE_HEADER_SIZE) {
        uint8_t head[PMEM_HA_WIRE_HEADER_SIZE];
        const uint8_t *payload = data + sizeof(head);
        Error *err = NULL;
        PmemHaMsg m;

        memcpy(head, data, sizeof(head));
        size -= sizeof(head);
        if (repair) {
            uint32_t len = ldl_le_p(head + 12);

            stl_le_p(head, PMEM_HA_WIRE_MAGIC);
            stw_le_p(head + 4, PMEM_HA_WIRE_VERSION);
            stq_le_p(head + 48, seq);
            stl_le_p(head + 56, pmem_ha_wire_crc(payload, MIN(len, size)));
            stl_le_p(head + 60, crc32c(0xffffffff, head, 60));
        }
        if (!pmem_ha_wire_decode(head, region, seq, &m, &err)) {
            if (!err || !*error_get_pretty(err)) {
                abort();
            }
            error_free(err);
            return 0;
        }
        check_message(&m, head, region);
        if (m.len > size) {
            return 0;
        }
        if (m.len && pmem_ha_wire_check_payload(&m, payload, NULL)) {
            check_hello(payload, m.len);
            check_welcome(payload, m.len);
        }
        data = payload + m.len;
        size -= m.len;
        seq++;
    }
    return 0;
}
