/*
 * Page map: pages that the source holds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no I/O, no QEMU state.  The states, and M1 to M6, are in
 * docs/devel/migration/page-map.rst.  One thread at a time; the callbacks must
 * not change the queue.
 */

#ifndef MIGRATION_PAGEMAP_QUEUE_H
#define MIGRATION_PAGEMAP_QUEUE_H

/* Pages that are sorted at a time: 16 MiB of memory for 4 GiB of guest */
#define PM_QUEUE_PASS   (1024 * 1024)

typedef struct PmQueue PmQueue;

/* A page that left the queue */
typedef struct PmQueued {
    uint64_t offset;        /* in the device */
    uint32_t page;          /* in the block */
    uint16_t block;
    uint16_t device;
} PmQueued;

typedef enum PmFound {
    PM_FOUND_PLACE,         /* @device and @offset are set */
    PM_FOUND_NOTHING,       /* send it as content */
    PM_FOUND_LATER,         /* there is no verdict on the device yet */
} PmFound;

typedef struct PmQueueOps {
    /* find: the place of a queued page */
    PmFound (*find)(void *opaque, uint16_t block, uint32_t page,
                    uint16_t *device, uint64_t *offset);
    /* dirty: the page is no longer held, and RAM has to send it */
    void (*dirty)(void *opaque, uint16_t block, uint32_t page);
} PmQueueOps;

PmQueue *pm_queue_new(const PmQueueOps *ops, void *opaque);
void pm_queue_free(PmQueue *q);

/*
 * pm_queue_add_block: a RAM block of @pages pages
 *
 * Returns its number, from 0; -1 if there are too many blocks (65535), or pages
 * (2^32 - 1).
 */
int pm_queue_add_block(PmQueue *q, uint64_t pages);

/* pm_queue_pages: of the block */
uint64_t pm_queue_pages(const PmQueue *q, uint16_t block);

/*
 * pm_queue_hold: RAM's scan has cleared the page's dirty bit, and there is an
 * entry for it
 *
 * True if the page is held: it is not sent now.  False: send its content.
 */
bool pm_queue_hold(PmQueue *q, uint16_t block, uint32_t page);

/*
 * pm_queue_has: is the page held?
 */
bool pm_queue_has(const PmQueue *q, uint16_t block, uint32_t page);

/*
 * pm_queue_again: RAM's scan has cleared the dirty bit of a held page
 *
 * It needs no other entry: its turn is still to come, or it becomes dirty with
 * the verdict.
 */
void pm_queue_again(PmQueue *q, uint16_t block, uint32_t page);

/*
 * pm_queue_take: up to @max queued pages become in flight
 *
 * By device and offset, ascending, until a pass is at its end.  Pages without
 * a place become direct; one whose place has changed waits for the next pass.
 * Returns the number of pages in @out; 0 if there is none, or each that was
 * left in the pass has to wait.  The next call then looks at each queued page
 * anew.
 */
size_t pm_queue_take(PmQueue *q, PmQueued *out, size_t max);

/*
 * pm_queue_verdict: what the destination says about a page in flight
 *
 * If it was refused it becomes direct.  False if the page is not in flight.
 */
bool pm_queue_verdict(PmQueue *q, uint16_t block, uint32_t page, bool placed);

/*
 * pm_queue_give_back: up to @max queued pages become direct
 *
 * Those with the highest device and offset first: the others are on their way
 * to be read in order.  Returns their number; 0 also if each that is left has
 * to wait for its device.
 */
size_t pm_queue_give_back(PmQueue *q, size_t max);

/*
 * pm_queue_return_all: every queued page becomes direct, even if its device is
 * not known yet
 *
 * What is in flight still waits for its verdict.
 */
void pm_queue_return_all(PmQueue *q);

/* Pages in either state */
uint64_t pm_queue_queued(const PmQueue *q);
uint64_t pm_queue_in_flight(const PmQueue *q);

#endif
