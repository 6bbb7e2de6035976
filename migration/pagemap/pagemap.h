/*
 * Page map: between the migration core and the section "page-map"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The design is in docs/devel/migration/page-map.rst.
 */

#ifndef MIGRATION_PAGEMAP_PAGEMAP_H
#define MIGRATION_PAGEMAP_PAGEMAP_H

#include "exec/cpu-common.h"
#include "migration/register.h"
#include "qapi/qapi-types-migration.h"
#include "qemu/coroutine.h"

/* What the hooks in QEMU's own files call */

/* page_map_mig_init: once, before anything else here */
void page_map_mig_init(void);

/*
 * page_map_handlers: of the section
 *
 * It is registered when the capability is first set, so that the numbers of the
 * other sections stay what they are without it; and it precedes that of RAM all
 * the same.
 */
extern const SaveVMHandlers page_map_handlers;

/*
 * page_map_check_caps: can the capabilities @caps be used with x-page-map?
 *
 * @caps: MIGRATION_CAPABILITY__MAX of them
 *
 * Registers the section if they can.  BQL
 */
bool page_map_check_caps(const bool *caps, Error **errp);

/*
 * page_map_return_path: has the migration that begins to have a return path,
 * even without the capability return-path?
 */
bool page_map_return_path(QEMUFile *to_dst);

/*
 * page_map_save_page: RAM's scan has cleared the dirty bit of a page
 *
 * True: the page is held, and must not be sent.
 *
 * Migration thread, under RAM's bitmap_mutex.
 */
bool page_map_save_page(RAMBlock *rb, unsigned long page, bool last_stage);

/*
 * page_map_can_switchover: is no page held, and is there not much left to send?
 *
 * Migration thread.
 */
bool page_map_can_switchover(void);

/*
 * page_map_snapshot_nodes: what the snapshot that begins consists of
 *
 * @nodes: names, if @has_nodes; else all disks that can be written to.  The
 *         list has to live until the state of the machine is saved.
 *
 * BQL
 */
void page_map_snapshot_nodes(bool has_nodes, strList *nodes);

/*
 * page_map_omits: does RAM's section go without pages that are on disks?
 *
 * @incoming: of the migration or snapshot that is loaded; else of that which is
 *            saved
 */
bool page_map_omits(bool incoming);

/*
 * page_map_link_rate: bytes per second that the link carries; 0 if unknown
 *
 * What RAM sends says little, while most of it is fetched.  Migration thread.
 */
uint64_t page_map_link_rate(void);

/*
 * page_map_take_placed: bytes that were fetched since the last call
 *
 * For RAM's decision whether the guest dirties faster than memory is moved.
 * Migration thread.
 */
uint64_t page_map_take_placed(void);

/*
 * page_map_verdict: a message of the return path
 *
 * Thread of the return path.  False with @errp set if it is malformed.
 */
bool page_map_verdict(const uint8_t *buf, size_t len, Error **errp);

/*
 * page_map_fill_info: statistics of the last migration, if it had a page map
 *
 * @info: its other members are set.  While the migration goes on, memory that
 *        is held remains to be transferred.
 *
 * BQL
 */
void page_map_fill_info(MigrationInfo *info);

/* What the hooks provide */

/* ram.c: the page has to be sent; takes bitmap_mutex */
void ram_page_map_dirty(RAMBlock *rb, unsigned long page);

/* migration.c: send a message of the return path; the destination */
int migrate_send_rp_page_map(const uint8_t *buf, size_t len);

#endif
