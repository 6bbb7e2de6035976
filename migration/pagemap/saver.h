/*
 * Page map: the ways to write the section
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * section.c chooses one when a migration or a snapshot begins.
 */

#ifndef MIGRATION_PAGEMAP_SAVER_H
#define MIGRATION_PAGEMAP_SAVER_H

#include "compat.h"
#include "qapi/qapi-types-page-map-object.h"

/* The migration thread calls them, or under the BQL the main one. */
typedef struct PmSaver {
    /* setup: the start part.  BQL.  cleanup follows even if it fails */
    int (*setup)(QEMUFile *f, Error **errp);
    void (*cleanup)(void);
    /* iterate: a part; 1 if there will be no other, 0, or a negative errno */
    int (*iterate)(QEMUFile *f);
    /* complete: the end part; the guest is stopped */
    int (*complete)(QEMUFile *f);
    /* pending: bytes of pages that are held; the BQL is enough, too */
    uint64_t (*pending)(void);
    /* save_page: page_map_save_page(), also after complete */
    bool (*save_page)(RAMBlock *rb, unsigned long page, bool last_stage);
    bool (*can_switchover)(void);
} PmSaver;

/* source.c: with a destination that answers */
extern const PmSaver pm_live_saver;

/* snapshot.c: with nobody who does */
extern const PmSaver pm_snapshot_saver;

/*
 * What is reported of the last one; section.c.  Members are single words: they
 * are read without a lock.
 */
extern MigrationPageMapStats pm_stats;

/*
 * pm_snapshot_takes_part: is the disk part of the snapshot that begins?
 *
 * @node: of the device.  BQL
 */
bool pm_snapshot_takes_part(BlockDriverState *node);

#endif
