/*
 * Page map: the messages of a batch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no I/O, no QEMU state.
 */

#ifndef MIGRATION_PAGEMAP_RECORDS_H
#define MIGRATION_PAGEMAP_RECORDS_H

#include "plan.h"

/* pm_put_block_named: BLOCK; a name of at most 255 bytes */
void pm_put_block_named(GByteArray *out, uint16_t number, const char *name);

/*
 * pm_put_records: RUN for pages at consecutive offsets, and COMMIT
 *
 * @page: @n of them, 1 to PM_MAX_BATCH, sorted by device and offset
 */
void pm_put_records(GByteArray *out, uint32_t batch, const PmFetch *page,
                    size_t n);

#endif
