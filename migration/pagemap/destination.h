/*
 * Page map: the reader of the section
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_PAGEMAP_DESTINATION_H
#define MIGRATION_PAGEMAP_DESTINATION_H

#include "fetch.h"

/*
 * pm_dst_load_state: a part of the section
 *
 * Main thread; in the coroutine of the incoming migration, or out of it.
 */
int pm_dst_load_state(QEMUFile *f, void *opaque, int version_id);

/* pm_dst_load_cleanup: nothing reads a disk afterwards (M7).  BQL */
int pm_dst_load_cleanup(void *opaque);

/* pm_dst_restores: is what is being loaded a snapshot that omits pages?  BQL */
bool pm_dst_restores(void);

/* answer.c: of a migration */
extern const PmFetchOps pm_answer_ops;

/* restore.c: of a snapshot */
extern const PmFetchOps pm_restore_ops;

/* pm_restore_begin: no record has failed.  Nothing is under way */
void pm_restore_begin(void);

/*
 * pm_restore_check: false with @errp set if a record was not placed
 *
 * Of those that are under way it says nothing yet.
 */
bool pm_restore_check(PmFetcher *f, Error **errp);

/* pm_restore_device: false with @errp set if @d is not what it was */
bool pm_restore_device(const PmDevice *d, int verdict, Error **errp);

#endif
