/*
 * Page map: pages that the source holds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "queue.h"

typedef struct PmQueueBlock {
    uint64_t pages;
    unsigned long *queued;
    unsigned long *in_flight;
    unsigned long *again;       /* dirtied while in flight */
    unsigned long *direct;      /* the next time it is sent as content */
} PmQueueBlock;

struct PmQueue {
    const PmQueueOps *ops;
    void *opaque;
    GArray *blocks;             /* of PmQueueBlock */
    uint64_t queued;
    uint64_t in_flight;
    /* The pass: queued pages in the disk's order; first .. last - 1 are left */
    PmQueued *pass;
    size_t first, last;
    /* Where the next pass goes on, when a pass did not take all */
    uint16_t scan_block;
    uint64_t scan_page;
};

PmQueue *pm_queue_new(const PmQueueOps *ops, void *opaque)
{
    PmQueue *q = g_new0(PmQueue, 1);

    q->ops = ops;
    q->opaque = opaque;
    q->blocks = g_array_new(false, true, sizeof(PmQueueBlock));
    return q;
}

void pm_queue_free(PmQueue *q)
{
    if (!q) {
        return;
    }
    for (guint i = 0; i < q->blocks->len; i++) {
        PmQueueBlock *b = &g_array_index(q->blocks, PmQueueBlock, i);

        g_free(b->queued);
        g_free(b->in_flight);
        g_free(b->again);
        g_free(b->direct);
    }
    g_array_free(q->blocks, true);
    g_free(q->pass);
    g_free(q);
}

int pm_queue_add_block(PmQueue *q, uint64_t pages)
{
    PmQueueBlock b = { .pages = pages };
    long bits;

    if (q->blocks->len == UINT16_MAX || pages > UINT32_MAX) {
        return -1;
    }
    /* Searching no bits at NULL would be undefined. */
    bits = MAX(pages, 1);
    b.queued = bitmap_new(bits);
    b.in_flight = bitmap_new(bits);
    b.again = bitmap_new(bits);
    b.direct = bitmap_new(bits);
    g_array_append_val(q->blocks, b);
    return q->blocks->len - 1;
}

static PmQueueBlock *block_of(const PmQueue *q, uint16_t block, uint32_t page)
{
    PmQueueBlock *b;

    assert(block < q->blocks->len);
    b = &g_array_index(q->blocks, PmQueueBlock, block);
    assert(page < b->pages);
    return b;
}

uint64_t pm_queue_pages(const PmQueue *q, uint16_t block)
{
    assert(block < q->blocks->len);
    return g_array_index(q->blocks, PmQueueBlock, block).pages;
}

bool pm_queue_has(const PmQueue *q, uint16_t block, uint32_t page)
{
    PmQueueBlock *b = block_of(q, block, page);

    return test_bit(page, b->queued) || test_bit(page, b->in_flight);
}

void pm_queue_again(PmQueue *q, uint16_t block, uint32_t page)
{
    PmQueueBlock *b = block_of(q, block, page);

    if (test_bit(page, b->in_flight)) {
        set_bit(page, b->again);
    }
}

bool pm_queue_hold(PmQueue *q, uint16_t block, uint32_t page)
{
    PmQueueBlock *b = block_of(q, block, page);

    if (pm_queue_has(q, block, page)) {
        pm_queue_again(q, block, page);
        return true;
    }
    if (test_and_clear_bit(page, b->direct)) {
        return false;
    }
    set_bit(page, b->queued);
    q->queued++;
    return true;
}

static void make_direct(PmQueue *q, uint16_t block, uint32_t page)
{
    PmQueueBlock *b = block_of(q, block, page);

    clear_bit(page, b->queued);
    set_bit(page, b->direct);
    q->queued--;
    q->ops->dirty(q->opaque, block, page);
}

static int compare(const void *x, const void *y)
{
    const PmQueued *a = x, *b = y;

    if (a->device != b->device) {
        return a->device < b->device ? -1 : 1;
    }
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Look at each queued page once, from where the last pass stopped */
static void refill(PmQueue *q)
{
    uint64_t left = q->queued;
    guint n_blocks = q->blocks->len;

    q->first = q->last = 0;
    if (!left) {
        return;
    }
    if (!q->pass) {
        q->pass = g_new(PmQueued, PM_QUEUE_PASS);
    }
    /* One more than all: the first may have been entered in the middle. */
    for (guint i = 0; i <= n_blocks && left && q->last < PM_QUEUE_PASS; i++) {
        PmQueueBlock *b = &g_array_index(q->blocks, PmQueueBlock,
                                         q->scan_block);
        uint64_t page = q->scan_page;

        while (left && q->last < PM_QUEUE_PASS) {
            PmQueued *e = &q->pass[q->last];

            page = find_next_bit(b->queued, b->pages, page);
            if (page >= b->pages) {
                break;
            }
            left--;
            switch (q->ops->find(q->opaque, q->scan_block, page, &e->device,
                                 &e->offset)) {
            case PM_FOUND_PLACE:
                e->block = q->scan_block;
                e->page = page;
                q->last++;
                break;
            case PM_FOUND_NOTHING:
                make_direct(q, q->scan_block, page);
                break;
            case PM_FOUND_LATER:
                break;
            }
            page++;
        }
        if (page >= b->pages) {
            q->scan_block = (q->scan_block + 1) % n_blocks;
            page = 0;
        }
        q->scan_page = page;
    }
    qsort(q->pass, q->last, sizeof(PmQueued), compare);
}

size_t pm_queue_take(PmQueue *q, PmQueued *out, size_t max)
{
    size_t n = 0;

    if (q->first == q->last) {
        refill(q);
    }
    while (n < max && q->first < q->last) {
        const PmQueued *e = &q->pass[q->first++];
        PmQueueBlock *b = block_of(q, e->block, e->page);
        uint16_t device;
        uint64_t offset;
        PmFound found;

        /* It may have been given back since the pass began. */
        if (!test_bit(e->page, b->queued)) {
            continue;
        }
        /*
         * A pass takes seconds.  A guest that reads on has other content in
         * the page by now, from another place: that is for the next pass.
         */
        found = q->ops->find(q->opaque, e->block, e->page, &device, &offset);
        if (found == PM_FOUND_NOTHING) {
            make_direct(q, e->block, e->page);
            continue;
        }
        if (found == PM_FOUND_LATER || device != e->device ||
            offset != e->offset) {
            continue;
        }
        clear_bit(e->page, b->queued);
        set_bit(e->page, b->in_flight);
        q->queued--;
        q->in_flight++;
        out[n++] = *e;
    }
    return n;
}

bool pm_queue_verdict(PmQueue *q, uint16_t block, uint32_t page, bool placed)
{
    PmQueueBlock *b = block_of(q, block, page);
    bool again;

    if (!test_and_clear_bit(page, b->in_flight)) {
        return false;
    }
    q->in_flight--;
    again = test_and_clear_bit(page, b->again);
    if (!placed) {
        set_bit(page, b->direct);
    }
    if (again || !placed) {
        q->ops->dirty(q->opaque, block, page);
    }
    return true;
}

size_t pm_queue_give_back(PmQueue *q, size_t max)
{
    size_t n = 0;

    if (q->first == q->last) {
        refill(q);
    }
    while (n < max && q->first < q->last) {
        const PmQueued *e = &q->pass[--q->last];

        if (test_bit(e->page, block_of(q, e->block, e->page)->queued)) {
            make_direct(q, e->block, e->page);
            n++;
        }
    }
    return n;
}

void pm_queue_return_all(PmQueue *q)
{
    /* The pass holds queued pages only. */
    q->first = q->last = 0;
    for (guint i = 0; i < q->blocks->len; i++) {
        PmQueueBlock *b = &g_array_index(q->blocks, PmQueueBlock, i);
        uint64_t page = find_first_bit(b->queued, b->pages);

        while (page < b->pages) {
            make_direct(q, i, page);
            page = find_next_bit(b->queued, b->pages, page + 1);
        }
    }
    assert(!q->queued);
}

uint64_t pm_queue_queued(const PmQueue *q)
{
    return q->queued;
}

uint64_t pm_queue_in_flight(const PmQueue *q)
{
    return q->in_flight;
}
