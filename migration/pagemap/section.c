/*
 * Page map: the section "page-map"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * When it exists, who writes it, and what is said of it afterwards.
 */

#include "qemu/osdep.h"
#include "exec/target_page.h"
#include "io/channel-file.h"
#include "io/channel-socket.h"
#include "migration/misc.h"
#include "migration/page-map.h"
#include "migration/register.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-page-map-object.h"
#include "qemu/stats64.h"
#include "system/replay.h"
#include "../channel-block.h"
#include "../migration.h"
#include "../options.h"
#include "../qemu-file.h"
#include "destination.h"
#include "internal.h"
#include "pagemap.h"
#include "saver.h"

static struct {
    bool registered;
    const PmSaver *saver;       /* from setup to cleanup */
    bool ended;                 /* the end part was written */
    uint64_t stale_before;      /* of the object, when it began */
    bool have_stats;
    bool savevm;                /* what it was begun for */
    /* Of the last snapshot that was taken; dangles once it is */
    bool has_nodes;
    strList *nodes;
} section;

MigrationPageMapStats pm_stats;

bool page_map_check_caps(const bool *caps, Error **errp)
{
    static const MigrationCapability never[] = {
        /* Its cache has to be what the destination's memory is. */
        MIGRATION_CAPABILITY_XBZRLE,
        /* Its pages do not pass the hook. */
        MIGRATION_CAPABILITY_RDMA_PIN_ALL,
        /* The secondary's disks go on by themselves. */
        MIGRATION_CAPABILITY_X_COLO,
        MIGRATION_CAPABILITY_X_IGNORE_SHARED,
        /* The guest's disks change while it is taken. */
        MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
    };

    for (int i = 0; i < ARRAY_SIZE(never); i++) {
        if (caps[never[i]]) {
            error_setg(errp, "Capability 'x-page-map' is not compatible with"
                       " '%s': set one of them only",
                       MigrationCapability_str(never[i]));
            return false;
        }
    }
    if (!section.registered) {
        section.registered = true;
        register_savevm_live("page-map", 0, PM_WIRE_VERSION,
                             &page_map_handlers, NULL);
    }
    return true;
}

static bool migrate_page_map(void)
{
    return migrate_get_current()->capabilities[
        MIGRATION_CAPABILITY_X_PAGE_MAP];
}

bool page_map_return_path(QEMUFile *to_dst)
{
    Object *ioc;

    if (!migrate_page_map() || !page_map_enabled()) {
        return false;
    }
    /*
     * A pipe or a file may lead to nobody who answers; and with TLS, what is
     * done for two threads on one session depends on that capability.
     */
    ioc = OBJECT(qemu_file_get_ioc(to_dst));
    return object_dynamic_cast(ioc, TYPE_QIO_CHANNEL_SOCKET);
}

void page_map_snapshot_nodes(bool has_nodes, strList *nodes)
{
    section.has_nodes = has_nodes;
    section.nodes = nodes;
}

bool pm_snapshot_takes_part(BlockDriverState *node)
{
    if (!section.savevm || !section.has_nodes) {
        return true;
    }
    for (strList *l = section.nodes; l; l = l->next) {
        if (bdrv_find_node(l->value) == node) {
            return true;
        }
    }
    return false;
}

static bool is_savevm(QIOChannel *ioc)
{
    return object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_BLOCK);
}

/* A pipe is none: it may well lead to another host. */
static bool is_file(QIOChannel *ioc)
{
    return object_dynamic_cast(OBJECT(ioc), TYPE_QIO_CHANNEL_FILE) &&
           qio_channel_has_feature(ioc, QIO_CHANNEL_FEATURE_SEEKABLE);
}

/* Who can write the section for what is about to begin, or NULL */
static const PmSaver *choose(MigrationState *s)
{
    QIOChannel *ioc;

    /* Each request to a disk would have to be recorded. */
    if (replay_mode != REPLAY_MODE_NONE || !s->to_dst_file ||
        !migrate_page_map() || !page_map_enabled() ||
        qemu_target_page_size() != PM_PAGE_SIZE) {
        return NULL;
    }
    ioc = qemu_file_get_ioc(s->to_dst_file);
    if (is_savevm(ioc) || is_file(ioc)) {
        return &pm_snapshot_saver;
    }
    return s->rp_state.rp_thread_created ? &pm_live_saver : NULL;
}

/*
 * Decided once, at setup: an object that comes or goes later changes nothing.
 */
static bool is_active(void *opaque)
{
    MigrationState *s = migrate_get_current();

    if (section.saver) {
        return !section.ended;
    }
    if (s->state != MIGRATION_STATUS_SETUP) {
        return false;
    }
    /* Until save_setup() they would be those of an earlier migration. */
    section.have_stats = false;
    return choose(s);
}

static uint64_t stale_count(void)
{
    RCU_READ_LOCK_GUARD();
    PageMapState *s = page_map_state();

    return s ? stat64_get(&s->stale) : 0;
}

static void count_stale(void)
{
    /* Another object than that of the beginning counts from 0. */
    pm_stats.stale = MAX(stale_count(), section.stale_before) -
                     section.stale_before;
}

static int save_setup(QEMUFile *f, void *opaque, Error **errp)
{
    section.saver = choose(migrate_get_current());
    section.ended = false;
    section.savevm = is_savevm(qemu_file_get_ioc(f));
    section.stale_before = stale_count();
    memset(&pm_stats, 0, sizeof(pm_stats));
    section.have_stats = true;
    return section.saver->setup(f, errp);
}

static void save_cleanup(void *opaque)
{
    if (section.saver) {
        count_stale();
        pm_stats.held_pages = 0;
        section.saver->cleanup();
        section.saver = NULL;
    }
}

static int save_iterate(QEMUFile *f, void *opaque)
{
    return section.saver->iterate(f);
}

static int save_complete(QEMUFile *f, void *opaque)
{
    int ret = section.saver->complete(f);

    section.ended = ret == 0;
    return ret;
}

static void pending(void *opaque, uint64_t *must_precopy,
                    uint64_t *can_postcopy)
{
    *must_precopy += section.saver->pending();
}

bool page_map_save_page(RAMBlock *rb, unsigned long page, bool last_stage)
{
    return section.saver && section.saver->save_page(rb, page, last_stage);
}

bool page_map_can_switchover(void)
{
    return !section.saver || section.ended || section.saver->can_switchover();
}

bool page_map_omits(bool incoming)
{
    return incoming ? pm_dst_restores() : section.saver == &pm_snapshot_saver;
}

void page_map_fill_info(MigrationInfo *info)
{
    MigrationPageMapStats *s;
    uint64_t content;

    if (!section.have_stats) {
        return;
    }
    if (section.saver) {
        uint64_t held = section.saver->pending();

        count_stale();
        pm_stats.held_pages = held >> PM_PAGE_BITS;
        if (info->ram) {
            info->ram->remaining += held;
        }
    }
    s = QAPI_CLONE(MigrationPageMapStats, &pm_stats);
    content = s->mapped_pages << PM_PAGE_BITS;
    s->mapped_bytes = content;
    s->wire_bytes_saved = content > s->wire_bytes ? content - s->wire_bytes : 0;
    info->page_map = s;
}

const SaveVMHandlers page_map_handlers = {
    .is_active = is_active,
    .save_setup = save_setup,
    .save_cleanup = save_cleanup,
    .save_live_iterate = save_iterate,
    .PAGE_MAP_SAVE_COMPLETE = save_complete,
    .state_pending_estimate = pending,
    .state_pending_exact = pending,
    .load_state = pm_dst_load_state,
    .load_cleanup = pm_dst_load_cleanup,
};
