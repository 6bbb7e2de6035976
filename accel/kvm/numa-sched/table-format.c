/*
 * NUMA scheduler: the bytes of the table that several QEMUs share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "table-format.h"

#define VERSION         1
#define HEADER_CRC      (NS_TABLE_RECORD - 4)
#define SLOT_NODES      32
#define NODE_BYTES      32

static const uint8_t magic[8] = { 'Q', 'N', 'U', 'M', 'A', 'T', 'B', 'L' };

QEMU_BUILD_BUG_ON(SLOT_NODES + NS_PROMISE_NODES * NODE_BYTES !=
                  NS_TABLE_RECORD);

/*
 * Promises
 */

static bool only_leaves(const NsPromiseNode *node)
{
    return !node->cpu_comes && !node->comes;
}

static void add_up(NsPromiseNode *to, const NsPromiseNode *what)
{
    to->cpu_comes = MIN((uint64_t)to->cpu_comes + what->cpu_comes, NS_MAX_CPU);
    to->cpu_leaves = MIN((uint64_t)to->cpu_leaves + what->cpu_leaves,
                         NS_MAX_CPU);
    to->comes = MIN(to->comes + MIN(what->comes, NS_MAX_BYTES), NS_MAX_BYTES);
    to->leaves = MIN(to->leaves + MIN(what->leaves, NS_MAX_BYTES),
                     NS_MAX_BYTES);
}

/* Take out the last node that something only leaves; false: there is none */
static bool make_room(NsPromise *p)
{
    for (uint32_t i = p->n; i--;) {
        if (only_leaves(&p->node[i])) {
            p->n--;
            memmove(&p->node[i], &p->node[i + 1],
                    (p->n - i) * sizeof(p->node[0]));
            return true;
        }
    }
    return false;
}

static uint32_t place_of(const NsPromise *p, uint32_t id)
{
    uint32_t at = 0;

    while (at < p->n && p->node[at].id < id) {
        at++;
    }
    return at;
}

bool ns_promise_add(NsPromise *p, const NsPromiseNode *what)
{
    uint32_t at = place_of(p, what->id);

    if (what->id >= NS_MAX_NODES) {
        return false;
    }
    if (at == p->n || p->node[at].id != what->id) {
        if (p->n == NS_PROMISE_NODES) {
            if (only_leaves(what)) {
                return true;
            }
            if (!make_room(p)) {
                return false;
            }
            at = place_of(p, what->id);
        }
        memmove(&p->node[at + 1], &p->node[at],
                (p->n - at) * sizeof(p->node[0]));
        p->node[at] = (NsPromiseNode) { .id = what->id };
        p->n++;
    }
    add_up(&p->node[at], what);
    return true;
}

/*
 * The header
 */

void ns_table_encode_header(uint8_t *r)
{
    memset(r, 0, NS_TABLE_RECORD);
    memcpy(r, magic, sizeof(magic));
    stl_le_p(r + 8, VERSION);
    stl_le_p(r + 12, NS_TABLE_SLOTS);
    stl_le_p(r + 16, NS_TABLE_RECORD);
    stl_le_p(r + HEADER_CRC, crc32c(0xffffffff, r, HEADER_CRC));
}

NsRecord ns_table_decode_header(const uint8_t *r)
{
    uint8_t mine[NS_TABLE_RECORD];

    if (buffer_is_zero(r, NS_TABLE_RECORD)) {
        return NS_RECORD_UNUSED;
    }
    if (memcmp(r, magic, sizeof(magic)) ||
        ldl_le_p(r + HEADER_CRC) != crc32c(0xffffffff, r, HEADER_CRC)) {
        return NS_RECORD_DAMAGED;
    }
    ns_table_encode_header(mine);
    return memcmp(r, mine, NS_TABLE_RECORD) ? NS_RECORD_VERSION :
                                              NS_RECORD_GOOD;
}

/*
 * Slots
 */

static uint32_t slot_crc(const uint8_t *r)
{
    return crc32c(0xffffffff, r + 4, NS_TABLE_RECORD - 4);
}

void ns_table_encode_slot(uint8_t *r, const NsSlot *slot)
{
    memset(r, 0, NS_TABLE_RECORD);
    stl_le_p(r + 4, slot->promise.n);
    stq_le_p(r + 8, slot->sequence);
    stl_le_p(r + 16, slot->pid);
    stl_le_p(r + 20, slot->term);
    for (uint32_t i = 0; i < slot->promise.n; i++) {
        const NsPromiseNode *node = &slot->promise.node[i];
        uint8_t *at = r + SLOT_NODES + i * NODE_BYTES;

        stl_le_p(at, node->id);
        stl_le_p(at + 4, node->cpu_comes);
        stl_le_p(at + 8, node->cpu_leaves);
        stq_le_p(at + 16, node->comes);
        stq_le_p(at + 24, node->leaves);
    }
    stl_le_p(r, slot_crc(r));
}

static bool decode_node(const uint8_t *at, NsPromiseNode *node)
{
    *node = (NsPromiseNode) {
        .id = ldl_le_p(at),
        .cpu_comes = ldl_le_p(at + 4),
        .cpu_leaves = ldl_le_p(at + 8),
        .comes = ldq_le_p(at + 16),
        .leaves = ldq_le_p(at + 24),
    };
    return node->id < NS_MAX_NODES && node->cpu_comes <= NS_MAX_CPU &&
           node->cpu_leaves <= NS_MAX_CPU && node->comes <= NS_MAX_BYTES &&
           node->leaves <= NS_MAX_BYTES && !ldl_le_p(at + 12);
}

static bool decode_promise(const uint8_t *r, NsPromise *p)
{
    size_t end;

    p->n = ldl_le_p(r + 4);
    if (p->n > NS_PROMISE_NODES) {
        return false;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (!decode_node(r + SLOT_NODES + i * NODE_BYTES, &p->node[i]) ||
            (i && p->node[i].id <= p->node[i - 1].id)) {
            return false;
        }
    }
    end = SLOT_NODES + p->n * NODE_BYTES;
    /* buffer_is_zero() may not be asked about nothing. */
    return end == NS_TABLE_RECORD ||
           buffer_is_zero(r + end, NS_TABLE_RECORD - end);
}

NsRecord ns_table_decode_slot(const uint8_t *r, NsSlot *slot)
{
    memset(slot, 0, sizeof(*slot));
    if (buffer_is_zero(r, NS_TABLE_RECORD)) {
        return NS_RECORD_UNUSED;
    }
    if (ldl_le_p(r) == slot_crc(r) && decode_promise(r, &slot->promise)) {
        slot->sequence = ldq_le_p(r + 8);
        slot->pid = ldl_le_p(r + 16);
        slot->term = ldl_le_p(r + 20);
        if (slot->term <= NS_PROMISE_MAX_TERM && !ldq_le_p(r + 24) &&
            (slot->term || !slot->promise.n)) {
            return NS_RECORD_GOOD;
        }
    }
    memset(slot, 0, sizeof(*slot));
    return NS_RECORD_DAMAGED;
}
