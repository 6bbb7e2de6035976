/*
 * Page map: which guest pages equal which blocks of the guest's disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A hint: whoever uses an entry compares the content (page-map.rst, M1).
 */

#ifndef QEMU_MIGRATION_PAGE_MAP_H
#define QEMU_MIGRATION_PAGE_MAP_H

#include "exec/cpu-common.h"

/* Where a page came from */
typedef struct PageMapPlace {
    uint64_t offset;        /* bytes; a multiple of 512 */
    uint16_t device;        /* blk_observer_id() of its BlockBackend; not 0 */
    bool written;           /* by the guest to the disk; else read from it */
} PageMapPlace;

/*
 * page_map_enabled: is there a -object page-map?
 *
 * Any thread.  The functions below may be called without one.
 */
bool page_map_enabled(void);

/*
 * page_map_lookup: the place of the guest page at ram_addr_t @addr (a multiple
 * of 4096)
 *
 * @host: its content, for the sample filter; NULL: do not filter.  With
 *        sample=on, a page whose sample differs has its entry cleared, counts
 *        as stale, and is not found.
 *
 * Any thread; wait-free.
 */
bool page_map_lookup(ram_addr_t addr, const void *host, PageMapPlace *place);

/*
 * page_map_learn: the page at @addr has the content of @place
 *
 * @host: its content, for the sample; may be NULL
 */
void page_map_learn(ram_addr_t addr, const void *host,
                    const PageMapPlace *place);

/* page_map_forget: clear the entry at @addr if it is still @place */
void page_map_forget(ram_addr_t addr, const PageMapPlace *place);

#endif
