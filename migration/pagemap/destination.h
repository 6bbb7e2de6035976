/*
 * Page map: the destination of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_PAGEMAP_DESTINATION_H
#define MIGRATION_PAGEMAP_DESTINATION_H

#include "compat.h"
#include "system/block-backend.h"
#include "plan.h"

/*
 * pm_dst_load_state: a part of the section
 *
 * Main thread; in the coroutine of the incoming migration, or out of it.
 */
int pm_dst_load_state(QEMUFile *f, void *opaque, int version_id);

/* pm_dst_load_cleanup: nothing reads a disk afterwards (M7).  BQL */
int pm_dst_load_cleanup(void *opaque);

/* fetch.c: reads disks in a thread of its own, and answers */

typedef struct PmFetcher PmFetcher;

/* A disk that pages may be fetched from */
typedef struct PmDstDevice {
    BlockBackend *blk;          /* of our own, on the guest's node */
    uint64_t length;
    uint16_t observer;          /* the number that this QEMU's map uses; or 0 */
} PmDstDevice;

/* A batch on its way; the fetcher frees it */
typedef struct PmDstBatch {
    QSIMPLEQ_ENTRY(PmDstBatch) next;
    uint32_t number;
    uint16_t n;                 /* at least 1 */
    PmFetch page[];
} PmDstBatch;

/* pm_fetcher_new: NULL with @errp set if there is no thread to be had */
PmFetcher *pm_fetcher_new(const PmKey *key, Error **errp);

/* pm_fetcher_block: block @number is @rb.  Main thread */
void pm_fetcher_block(PmFetcher *f, uint16_t number, RAMBlock *rb);

/*
 * pm_fetcher_device: @d names a disk: read the probes, and answer
 *
 * @dev: takes over the reference
 *
 * Main thread; not in a coroutine.
 */
void pm_fetcher_device(PmFetcher *f, const PmDevice *d, const PmDstDevice *dev);

/*
 * pm_fetcher_device_of: the disk with the number @number, if the source was
 * told that it is the same
 */
const PmDstDevice *pm_fetcher_device_of(PmFetcher *f, uint16_t number);

/*
 * pm_fetcher_submit: fetch a batch, and answer
 *
 * Everything in it has been validated.  Main thread.  False if more pages are
 * under way than the protocol allows: the batch is still the caller's.
 */
bool pm_fetcher_submit(PmFetcher *f, PmDstBatch *batch);

/* pm_fetcher_busy: pages without an answer */
unsigned pm_fetcher_busy(PmFetcher *f);

/* pm_fetcher_working: is anything under way, answers included? */
bool pm_fetcher_working(PmFetcher *f);

/*
 * pm_fetcher_free: wait for reads under way, end the thread, release the disks
 *
 * Main thread; not in a coroutine.
 */
void pm_fetcher_free(PmFetcher *f);

#endif
