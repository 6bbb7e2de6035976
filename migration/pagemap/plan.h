/*
 * Page map: which reads of a disk fetch the pages of a batch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no I/O, no QEMU state.
 */

#ifndef MIGRATION_PAGEMAP_PLAN_H
#define MIGRATION_PAGEMAP_PLAN_H

#include "wire.h"

#define PM_READ_MAX     (1024 * 1024)   /* bytes of a read */
#define PM_READ_GAP     (16 * 1024)     /* bytes between two of its pages */

/* A page of a batch and where it comes from */
typedef struct PmFetch {
    uint64_t offset;        /* in the device */
    uint32_t page;          /* in the block */
    uint16_t block;
    uint16_t device;
    uint16_t index;         /* in the batch: the bit of its verdict */
    PmTag tag;
} PmFetch;

/* fetch[first .. first + n - 1] lie in the read of @bytes at @offset */
typedef struct PmRead {
    uint64_t offset;
    uint32_t bytes;         /* at most PM_READ_MAX */
    uint32_t first;
    uint32_t n;             /* at least 1 */
} PmRead;

/* For qsort(): by device and offset, then by index */
int pm_fetch_by_place(const void *x, const void *y);

/*
 * pm_plan: sort the pages and merge them into reads
 *
 * @fetch: is sorted by device and offset
 * @n: pages, at most PM_MAX_BATCH
 * @reads: room for @n reads
 *
 * Pages of one read are of one device; the gaps between them are at most
 * PM_READ_GAP; pages may overlap, or be the same place twice.  Returns the
 * number of reads.
 */
size_t pm_plan(PmFetch *fetch, size_t n, PmRead *reads);

#endif
