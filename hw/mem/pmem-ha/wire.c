/*
 * pmem-ha: encode and decode the messages between a primary and its replica
 *
 * The format is drawn in docs/interop/pmem-ha-protocol.rst.  A header is 64
 * bytes, little endian:
 *
 *    0 magic        16 generation   48 seq
 *    4 version u16  24 epoch        56 payload crc32c
 *    6 type    u16  32 arg0         60 crc32c of bytes 0..59
 *    8 flags        40 arg1
 *   12 payload len
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/units.h"
#include "hw/mem/pmem-ha-wire.h"

/* As many slots as any machine has; a slot is a byte offset of a hint. */
#define MAX_SLOTS 256

/* What each type may carry; anything else is refused. */
typedef struct MsgRule {
    const char *name;
    uint32_t flags;
    uint32_t min_len;
    uint32_t max_len;
    bool needs_epoch;
} MsgRule;

static const MsgRule rules[PMEM_HA_MSG__MAX] = {
    [PMEM_HA_MSG_HELLO] = {
        "HELLO", 0, PMEM_HA_HELLO_FIXED + 1,
        PMEM_HA_HELLO_MAX,
    },
    [PMEM_HA_MSG_WELCOME] = {
        "WELCOME", 0, PMEM_HA_WELCOME_SIZE, PMEM_HA_WELCOME_SIZE,
    },
    [PMEM_HA_MSG_REFUSE] = { "REFUSE", 0, 0, PMEM_HA_WIRE_MAX_TEXT },
    [PMEM_HA_MSG_COPY] = { "COPY" },
    [PMEM_HA_MSG_DATA] = {
        "DATA", PMEM_HA_FLAG_ZERO, 0, PMEM_HA_WIRE_MAX_PAYLOAD,
    },
    [PMEM_HA_MSG_BEGIN] = {
        "BEGIN", PMEM_HA_FLAG_COMPLETES_COPY, 0, 0, true,
    },
    [PMEM_HA_MSG_COMMIT] = {
        "COMMIT", PMEM_HA_FLAG_COMPLETES_COPY, 4, 4, true,
    },
    [PMEM_HA_MSG_ACK] = { "ACK", 0, 0, 0, true },
    [PMEM_HA_MSG_FENCED] = { "FENCED" },
    [PMEM_HA_MSG_PING] = { "PING" },
    [PMEM_HA_MSG_PONG] = { "PONG" },
    [PMEM_HA_MSG_CLEAN] = { "CLEAN" },
    [PMEM_HA_MSG_FAIL] = { "FAIL", 0, 0, PMEM_HA_WIRE_MAX_TEXT },
};

const char *pmem_ha_msg_name(PmemHaMsgType type)
{
    unsigned i = type;

    return i < PMEM_HA_MSG__MAX && rules[i].name ? rules[i].name : "unknown";
}

const char *pmem_ha_ack_name(PmemHaAckLevel level)
{
    static const char *const names[PMEM_HA_ACK__MAX] = {
        [PMEM_HA_ACK_RECEIVED] = "received",
        [PMEM_HA_ACK_JOURNALED] = "journaled",
        [PMEM_HA_ACK_APPLIED] = "applied",
    };
    unsigned i = level;

    return i < PMEM_HA_ACK__MAX ? names[i] : "unknown";
}

uint32_t pmem_ha_wire_crc(const void *payload, size_t len)
{
    return len ? crc32c(0xffffffff, payload, len) : 0;
}

uint32_t pmem_ha_wire_digest(uint32_t digest, const PmemHaMsg *data)
{
    uint8_t buf[28];

    stl_le_p(buf, digest);
    stq_le_p(buf + 4, data->arg0);
    stq_le_p(buf + 12, data->arg1);
    stl_le_p(buf + 20, data->flags);
    stl_le_p(buf + 24, data->payload_crc);
    return crc32c(0xffffffff, buf, sizeof(buf));
}

void pmem_ha_wire_encode(const PmemHaMsg *m, uint8_t *buf)
{
    stl_le_p(buf, PMEM_HA_WIRE_MAGIC);
    stw_le_p(buf + 4, PMEM_HA_WIRE_VERSION);
    stw_le_p(buf + 6, m->type);
    stl_le_p(buf + 8, m->flags);
    stl_le_p(buf + 12, m->len);
    stq_le_p(buf + 16, m->generation);
    stq_le_p(buf + 24, m->epoch);
    stq_le_p(buf + 32, m->arg0);
    stq_le_p(buf + 40, m->arg1);
    stq_le_p(buf + 48, m->seq);
    stl_le_p(buf + 56, m->len ? m->payload_crc : 0);
    stl_le_p(buf + 60, crc32c(0xffffffff, buf, 60));
}

static bool check_data(const PmemHaMsg *m, uint64_t region_size, Error **errp)
{
    bool zero = m->flags & PMEM_HA_FLAG_ZERO;

    if (m->arg1 == 0 ||
        !QEMU_IS_ALIGNED(m->arg0 | m->arg1, PMEM_HA_PAGE_SIZE)) {
        error_setg(errp, "protocol error: DATA range 0x%" PRIx64 "+0x%" PRIx64
                   " is empty or not a multiple of %d",
                   m->arg0, m->arg1, PMEM_HA_PAGE_SIZE);
        return false;
    }
    if (m->arg1 > region_size || m->arg0 > region_size - m->arg1) {
        error_setg(errp, "protocol error: DATA range 0x%" PRIx64 "+0x%" PRIx64
                   " is outside of the region of 0x%" PRIx64 " bytes",
                   m->arg0, m->arg1, region_size);
        return false;
    }
    if (zero ? m->len != 0 : m->len != m->arg1) {
        error_setg(errp, "protocol error: DATA range of 0x%" PRIx64 " bytes "
                   "with a payload of %" PRIu32 " bytes", m->arg1, m->len);
        return false;
    }
    return true;
}

bool pmem_ha_wire_decode(const uint8_t *buf, uint64_t region_size,
                         uint64_t expect_seq, PmemHaMsg *m, Error **errp)
{
    const MsgRule *rule;
    unsigned type;

    if (ldl_le_p(buf) != PMEM_HA_WIRE_MAGIC) {
        error_setg(errp, "protocol error: magic 0x%08" PRIx32 " where 0x%08"
                   PRIx32 " must be; the peer does not speak pmem-ha (or uses "
                   "TLS where this end does not)",
                   (uint32_t)ldl_le_p(buf), PMEM_HA_WIRE_MAGIC);
        return false;
    }
    if (lduw_le_p(buf + 4) != PMEM_HA_WIRE_VERSION) {
        error_setg(errp, "protocol version %d of the peer is not version %d "
                   "of this end; use the same release on both hosts",
                   lduw_le_p(buf + 4), PMEM_HA_WIRE_VERSION);
        return false;
    }
    if (ldl_le_p(buf + 60) != crc32c(0xffffffff, buf, 60)) {
        error_setg(errp, "protocol error: bad checksum of a message header");
        return false;
    }
    type = lduw_le_p(buf + 6);
    if (type >= PMEM_HA_MSG__MAX || !rules[type].name) {
        error_setg(errp, "protocol error: unknown message type %u", type);
        return false;
    }
    rule = &rules[type];

    *m = (PmemHaMsg) {
        .type = type,
        .flags = ldl_le_p(buf + 8),
        .len = ldl_le_p(buf + 12),
        .generation = ldq_le_p(buf + 16),
        .epoch = ldq_le_p(buf + 24),
        .arg0 = ldq_le_p(buf + 32),
        .arg1 = ldq_le_p(buf + 40),
        .seq = ldq_le_p(buf + 48),
        .payload_crc = ldl_le_p(buf + 56),
    };
    if (m->generation > PMEM_HA_MAX_NUMBER || m->epoch > PMEM_HA_MAX_NUMBER) {
        error_setg(errp, "protocol error: %s with generation %" PRIu64 " and "
                   "epoch %" PRIu64 ", which no device can reach", rule->name,
                   m->generation, m->epoch);
        return false;
    }
    if (m->seq != expect_seq) {
        error_setg(errp, "protocol error: %s has sequence number %" PRIu64
                   " where %" PRIu64 " must be", rule->name, m->seq,
                   expect_seq);
        return false;
    }
    if (m->flags & ~rule->flags) {
        error_setg(errp, "protocol error: %s with unknown flags 0x%" PRIx32,
                   rule->name, m->flags & ~rule->flags);
        return false;
    }
    if (m->len < rule->min_len || m->len > rule->max_len) {
        error_setg(errp, "protocol error: %s with a payload of %" PRIu32
                   " bytes where %" PRIu32 " to %" PRIu32 " are allowed",
                   rule->name, m->len, rule->min_len, rule->max_len);
        return false;
    }
    if (m->len == 0 && m->payload_crc) {
        error_setg(errp, "protocol error: %s with a payload checksum but no "
                   "payload", rule->name);
        return false;
    }
    if (rule->needs_epoch && m->epoch == 0) {
        error_setg(errp, "protocol error: %s without an epoch", rule->name);
        return false;
    }
    if (type == PMEM_HA_MSG_DATA) {
        return check_data(m, region_size, errp);
    }
    return true;
}

bool pmem_ha_wire_check_payload(const PmemHaMsg *m, const void *payload,
                                Error **errp)
{
    if (pmem_ha_wire_crc(payload, m->len) != m->payload_crc) {
        error_setg(errp, "protocol error: bad checksum of the payload of %s "
                   "(%" PRIu32 " bytes)", pmem_ha_msg_name(m->type), m->len);
        return false;
    }
    return true;
}

/*
 * HELLO: uuid(16) size(8) label_size(8) slot(4) ack(4) captured(8) acked(8)
 * instance(8) name_len(4) flags(4), then the name.
 */
void pmem_ha_member_encode(const PmemHaMember *m, uint8_t *buf)
{
    memcpy(buf, m->uuid.data, 16);
    stq_le_p(buf + 16, m->size);
    stq_le_p(buf + 24, m->label_size);
    stl_le_p(buf + 32, m->slot);
    stl_le_p(buf + 36, 0);
}

void pmem_ha_member_decode(const uint8_t *buf, PmemHaMember *m)
{
    *m = (PmemHaMember) {
        .size = ldq_le_p(buf + 16),
        .label_size = ldq_le_p(buf + 24),
        .slot = ldl_le_p(buf + 32),
    };
    memcpy(m->uuid.data, buf, 16);
}

bool pmem_ha_member_is_equal(const PmemHaMember *a, const PmemHaMember *b)
{
    return a->size == b->size && a->label_size == b->label_size &&
           a->slot == b->slot && qemu_uuid_is_equal(&a->uuid, &b->uuid);
}

size_t pmem_ha_hello_encode(const PmemHaHello *h, uint8_t *buf)
{
    size_t n = strnlen(h->name, PMEM_HA_WIRE_MAX_NAME);
    unsigned i;

    memcpy(buf, h->uuid.data, 16);
    stq_le_p(buf + 16, h->size);
    stq_le_p(buf + 24, h->label_size);
    stl_le_p(buf + 32, h->slot);
    stl_le_p(buf + 36, h->ack);
    stq_le_p(buf + 40, h->captured);
    stq_le_p(buf + 48, h->acked);
    stq_le_p(buf + 56, h->instance);
    stl_le_p(buf + 64, n);
    stl_le_p(buf + 68, h->flags | (h->n_more ? PMEM_HA_HELLO_GROUP : 0));
    memcpy(buf + PMEM_HA_HELLO_FIXED, h->name, n);
    n += PMEM_HA_HELLO_FIXED;
    for (i = 0; i < h->n_more; i++) {
        pmem_ha_member_encode(&h->more[i], buf + n);
        n += PMEM_HA_MEMBER_SIZE;
    }
    if (h->flags & PMEM_HA_HELLO_ADOPT) {
        memcpy(buf + n, h->host.data, 16);
        stq_le_p(buf + n + 16, h->file_dev);
        stq_le_p(buf + n + 24, h->file_ino);
        n += PMEM_HA_HELLO_FILE;
    }
    return n;
}

/* A name goes into messages and logs: text, and nothing that moves a cursor. */
static bool name_is_clean(const uint8_t *name, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        if (name[i] < 0x20 || name[i] == 0x7f) {
            return false;
        }
    }
    return len && g_utf8_validate((const char *)name, len, NULL);
}

/* @len bytes behind the name; the sizes must leave some to the first device. */
static bool decode_members(const uint8_t *buf, size_t len, PmemHaHello *h,
                           Error **errp)
{
    uint64_t left = h->size;
    unsigned i;

    if (!(h->flags & PMEM_HA_HELLO_GROUP)) {
        if (len) {
            error_setg(errp, "protocol error: HELLO with %zu bytes behind the "
                       "name", len);
        }
        return !len;
    }
    if (!len || len % PMEM_HA_MEMBER_SIZE ||
        len > PMEM_HA_WIRE_MAX_MORE * PMEM_HA_MEMBER_SIZE) {
        error_setg(errp, "protocol error: HELLO of a group with %zu bytes "
                   "behind the name", len);
        return false;
    }
    h->n_more = len / PMEM_HA_MEMBER_SIZE;
    for (i = 0; i < h->n_more; i++) {
        PmemHaMember *m = &h->more[i];

        pmem_ha_member_decode(buf + i * PMEM_HA_MEMBER_SIZE, m);
        if (!m->size || !QEMU_IS_ALIGNED(m->size, PMEM_HA_PAGE_SIZE) ||
            m->size >= left || m->label_size >= m->size ||
            m->slot >= MAX_SLOTS ||
            ldl_le_p(buf + i * PMEM_HA_MEMBER_SIZE + 36)) {
            error_setg(errp, "protocol error: HELLO of a group whose device %u "
                       "has size 0x%" PRIx64 ", labels of 0x%" PRIx64
                       ", slot %" PRIu32 ", reserved 0x%" PRIx32, i + 2,
                       m->size, m->label_size, m->slot,
                       (uint32_t)ldl_le_p(buf + i * PMEM_HA_MEMBER_SIZE + 36));
            return false;
        }
        left -= m->size;
    }
    if (h->label_size >= left) {
        error_setg(errp, "protocol error: HELLO with labels of 0x%" PRIx64
                   " bytes in a device of 0x%" PRIx64, h->label_size, left);
        return false;
    }
    return true;
}

bool pmem_ha_hello_decode(const uint8_t *buf, size_t len, PmemHaHello *h,
                          Error **errp)
{
    const uint32_t known = PMEM_HA_HELLO_TAKE | PMEM_HA_HELLO_GROUP |
                           PMEM_HA_HELLO_ADOPT;
    size_t n, rest;

    if (len <= PMEM_HA_HELLO_FIXED || len > PMEM_HA_HELLO_MAX) {
        error_setg(errp, "protocol error: HELLO of %zu bytes", len);
        return false;
    }
    n = ldl_le_p(buf + 64);
    if (n > PMEM_HA_WIRE_MAX_NAME || n > len - PMEM_HA_HELLO_FIXED ||
        !name_is_clean(buf + PMEM_HA_HELLO_FIXED, n)) {
        error_setg(errp, "protocol error: HELLO with a malformed export name");
        return false;
    }
    memset(h, 0, sizeof(*h));
    memcpy(h->uuid.data, buf, 16);
    h->size = ldq_le_p(buf + 16);
    h->label_size = ldq_le_p(buf + 24);
    h->slot = ldl_le_p(buf + 32);
    h->ack = ldl_le_p(buf + 36);
    h->captured = ldq_le_p(buf + 40);
    h->acked = ldq_le_p(buf + 48);
    h->instance = ldq_le_p(buf + 56);
    h->flags = ldl_le_p(buf + 68);
    memcpy(h->name, buf + PMEM_HA_HELLO_FIXED, n);

    if (h->size == 0 || h->size > INT64_MAX ||
        !QEMU_IS_ALIGNED(h->size, PMEM_HA_PAGE_SIZE)) {
        error_setg(errp, "protocol error: HELLO with a size of 0x%" PRIx64
                   " bytes, which is not a positive multiple of %d",
                   h->size, PMEM_HA_PAGE_SIZE);
        return false;
    }
    if (h->label_size >= h->size) {
        error_setg(errp, "protocol error: HELLO with labels of 0x%" PRIx64
                   " bytes in a region of 0x%" PRIx64, h->label_size, h->size);
        return false;
    }
    if (h->slot >= MAX_SLOTS) {
        error_setg(errp, "protocol error: HELLO with slot %" PRIu32
                   ", the highest is %d", h->slot, MAX_SLOTS - 1);
        return false;
    }
    if (h->ack >= PMEM_HA_ACK__MAX) {
        error_setg(errp, "protocol error: HELLO asks for the unknown ack "
                   "level %" PRIu32, h->ack);
        return false;
    }
    if (h->flags & ~known) {
        error_setg(errp, "protocol error: HELLO with unknown flags 0x%" PRIx32,
                   h->flags & ~known);
        return false;
    }
    rest = len - PMEM_HA_HELLO_FIXED - n;
    if (h->flags & PMEM_HA_HELLO_ADOPT) {
        const uint8_t *file = buf + len - PMEM_HA_HELLO_FILE;

        if (!(h->flags & PMEM_HA_HELLO_TAKE) || rest < PMEM_HA_HELLO_FILE) {
            error_setg(errp, "protocol error: HELLO with ADOPT, and without "
                       "%s", h->flags & PMEM_HA_HELLO_TAKE ? "a file" : "TAKE");
            return false;
        }
        memcpy(h->host.data, file, 16);
        h->file_dev = ldq_le_p(file + 16);
        h->file_ino = ldq_le_p(file + 24);
        rest -= PMEM_HA_HELLO_FILE;
    }
    if (!decode_members(buf + PMEM_HA_HELLO_FIXED + n, rest, h, errp)) {
        return false;
    }
    if (h->acked > h->captured) {
        error_setg(errp, "protocol error: HELLO says that epoch %" PRIu64
                   " was acknowledged but only %" PRIu64 " captured",
                   h->acked, h->captured);
        return false;
    }
    return true;
}

void pmem_ha_welcome_encode(const PmemHaWelcome *w, uint8_t *buf)
{
    stl_le_p(buf, w->have_image);
    stl_le_p(buf + 4, 0);
    stq_le_p(buf + 8, w->have_image ? w->generation : 0);
    stq_le_p(buf + 16, w->have_image ? w->epoch : 0);
}

bool pmem_ha_welcome_decode(const uint8_t *buf, size_t len, PmemHaWelcome *w,
                            Error **errp)
{
    uint32_t have;

    if (len != PMEM_HA_WELCOME_SIZE) {
        error_setg(errp, "protocol error: WELCOME of %zu bytes", len);
        return false;
    }
    have = ldl_le_p(buf);
    *w = (PmemHaWelcome) {
        .have_image = have,
        .generation = ldq_le_p(buf + 8),
        .epoch = ldq_le_p(buf + 16),
    };
    if (have > 1 || ldl_le_p(buf + 4) != 0 ||
        (have ? w->generation == 0 : w->generation || w->epoch) ||
        w->generation > PMEM_HA_MAX_NUMBER || w->epoch > PMEM_HA_MAX_NUMBER) {
        error_setg(errp, "protocol error: WELCOME with inconsistent fields");
        return false;
    }
    return true;
}
