/*
 * Fuzzer: the table that several QEMUs share
 *
 * Input: a byte, then records, the last of which may be short (zeros follow).
 * Bit 0: the first one is a header, and the others are slots.  Bit 1: their
 * sums are put right, as who wants to do harm would do it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "accel/kvm/numa-sched/table-format.h"

#include "fuzz.h"

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void check_header(uint8_t *record, bool sum)
{
    uint8_t good[NS_TABLE_RECORD];
    NsRecord is;

    if (sum) {
        stl_le_p(record + NS_TABLE_RECORD - 4,
                 crc32c(0xffffffff, record, NS_TABLE_RECORD - 4));
    }
    is = ns_table_decode_header(record);
    ns_table_encode_header(good);
    must((is == NS_RECORD_GOOD) == !memcmp(record, good, sizeof(good)));
    must(is != NS_RECORD_VERSION || !memcmp(record, good, 8));
}

static void check_slot(uint8_t *record, bool sum, NsPromise *all)
{
    uint8_t again[NS_TABLE_RECORD];
    NsRecord is;
    NsSlot slot;

    if (sum) {
        stl_le_p(record, crc32c(0xffffffff, record + 4, NS_TABLE_RECORD - 4));
    }
    is = ns_table_decode_slot(record, &slot);
    must(is <= NS_RECORD_DAMAGED);
    if (is != NS_RECORD_GOOD) {
        must(!slot.promise.n && !slot.term);
        return;
    }
    must(slot.promise.n <= NS_PROMISE_NODES);
    must(slot.term <= NS_PROMISE_MAX_TERM && (slot.term || !slot.promise.n));
    for (uint32_t i = 0; i < slot.promise.n; i++) {
        const NsPromiseNode *node = &slot.promise.node[i];

        must(node->id < NS_MAX_NODES && (!i || node[-1].id < node->id));
        must(node->cpu_comes <= NS_MAX_CPU && node->cpu_leaves <= NS_MAX_CPU);
        must(node->comes <= NS_MAX_BYTES && node->leaves <= NS_MAX_BYTES);
        must(ns_promise_add(all, node) || all->n == NS_PROMISE_NODES);
    }
    ns_table_encode_slot(again, &slot);
    must(!memcmp(again, record, sizeof(again)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    NsPromise all = { };
    bool header, sum;

    if (!size) {
        return 0;
    }
    header = data[0] & 1;
    sum = data[0] & 2;
    for (data++, size--; size;) {
        size_t len = MIN(size, NS_TABLE_RECORD);
        /* Of its own size, so that reading beyond it is seen */
        g_autofree uint8_t *record = g_malloc0(NS_TABLE_RECORD);

        memcpy(record, data, len);
        if (header) {
            check_header(record, sum);
        } else {
            check_slot(record, sum, &all);
        }
        header = false;
        data += len;
        size -= len;
    }
    must(all.n <= NS_PROMISE_NODES);
    for (uint32_t i = 1; i < all.n; i++) {
        must(all.node[i - 1].id < all.node[i].id);
    }
    return 0;
}
