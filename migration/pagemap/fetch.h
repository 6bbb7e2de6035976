/*
 * Page map: read pages from disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What is done with them is the operations': the destination of a migration
 * places them and answers (answer.c), the restore of a snapshot places them or
 * fails (restore.c), and who takes a snapshot compares (snapshot.c).
 */

#ifndef MIGRATION_PAGEMAP_FETCH_H
#define MIGRATION_PAGEMAP_FETCH_H

#include "compat.h"
#include "system/block-backend.h"
#include "plan.h"

typedef struct PmFetcher PmFetcher;

/* A disk that pages may be fetched from */
typedef struct PmDisk {
    BlockBackend *blk;          /* of our own, on the guest's node; or NULL */
    bool forbidden;             /* to read it would write to it */
    uint64_t length;
    uint16_t observer;          /* the number that this QEMU's map uses; or 0 */
} PmDisk;

/* A batch on its way */
typedef struct PmBatch {
    QSIMPLEQ_ENTRY(PmBatch) next;
    uint32_t number;
    uint16_t n;                 /* at least 1 */
    PmFetch page[];
} PmBatch;

/* All are called by the fetching thread, and none after pm_fetcher_free(). */
typedef struct PmFetchOps {
    /*
     * page: what the disk has at the place of @p
     *
     * @content: NULL if it can not be read
     *
     * Returns what becomes the bit of the page in @placed of the batch.
     */
    bool (*page)(PmFetcher *f, PmFetch *p, const uint8_t *content);
    /*
     * batch: each page of the batch was looked at; @batch is the callee's now
     *
     * Its pages are sorted by device and offset.  Not in a coroutine.
     */
    void (*batch)(PmFetcher *f, PmBatch *batch, const PmRp *rp);
    /* device: what the probes of @d say.  Not in a coroutine; may be NULL */
    void (*device)(PmFetcher *f, const PmDevice *d, PmDeviceVerdict verdict);
} PmFetchOps;

/*
 * pm_disk_open: a device's disk; false if it has none, or must not be read
 *
 * BQL, no coroutine.
 */
bool pm_disk_open(PmDisk *disk, BlockBackend *theirs);

/* pm_fetcher_new: NULL with @errp set if there is no thread to be had.  BQL */
PmFetcher *pm_fetcher_new(const PmKey *key, const PmFetchOps *ops,
                          Error **errp);

/* pm_fetcher_use: other operations, before there is anything to do */
void pm_fetcher_use(PmFetcher *f, const PmFetchOps *ops);

const PmKey *pm_fetcher_key(const PmFetcher *f);

/*
 * pm_fetcher_block: block @number is @rb
 *
 * Before pages of it are submitted, by the same thread.
 */
void pm_fetcher_block(PmFetcher *f, uint16_t number, RAMBlock *rb);
RAMBlock *pm_fetcher_block_of(PmFetcher *f, uint16_t number);

/*
 * pm_fetcher_device: @d names a disk: read the probes
 *
 * @disk: takes over the reference
 *
 * BQL; not in a coroutine.
 */
void pm_fetcher_device(PmFetcher *f, const PmDevice *d, const PmDisk *disk);

/*
 * pm_fetcher_disk: the disk with the number @number, if its verdict is that it
 * is the same
 */
const PmDisk *pm_fetcher_disk(PmFetcher *f, uint16_t number);

/* pm_fetcher_device_of: what has the number @number; or NULL */
const PmDevice *pm_fetcher_device_of(PmFetcher *f, uint16_t number);

/* pm_fetcher_verdict: on the device last added; -1 if there is none yet */
int pm_fetcher_verdict(PmFetcher *f);

/*
 * pm_fetcher_submit: fetch a batch
 *
 * Everything in it has been validated.  One thread at a time.  False if there
 * would be more than PM_MAX_IN_FLIGHT pages under way: the batch is still the
 * caller's.
 */
bool pm_fetcher_submit(PmFetcher *f, PmBatch *batch);

/* pm_fetcher_busy: pages under way */
unsigned pm_fetcher_busy(PmFetcher *f);

/* pm_fetcher_working: is anything under way, operations included? */
bool pm_fetcher_working(PmFetcher *f);

/*
 * pm_fetcher_wait: until at most @busy pages are under way
 *
 * 0: until nothing is, operations included.
 *
 * In a coroutine of the main thread, which then yields; or under the BQL, with
 * callbacks of the main loop being run; or by a thread without it.  One waits
 * at a time.
 */
void coroutine_mixed_fn pm_fetcher_wait(PmFetcher *f, unsigned busy);

/*
 * pm_fetcher_place: put the page in guest memory if it has the tag of @p
 *
 * Fetching thread.  The map learns it, too.
 */
bool pm_fetcher_place(PmFetcher *f, const PmFetch *p, const uint8_t *content);

/* pm_fetcher_hurry: no other read is begun; their pages can not be read */
void pm_fetcher_hurry(PmFetcher *f);

/* pm_fetcher_stops: it is being freed: what takes long may end early */
bool pm_fetcher_stops(PmFetcher *f);

/*
 * pm_fetcher_free: wait for reads under way, end the thread, release the disks
 *
 * BQL; not in a coroutine.
 */
void pm_fetcher_free(PmFetcher *f);

#endif
