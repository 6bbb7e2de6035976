/*
 * qemu-pmem-replica: bringing the image to the end of the log
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "trace.h"

/* A log that rests for so long is emptied. */
#define IDLE_MS 1000

bool export_finish_switch(ReplicaExport *e, Error **errp)
{
    JournalSuper s;
    bool pending;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        pending = e->j->super.image_is_copy;
    }
    if (!pending) {
        return true;
    }
    if (!image_copy_switch(e->img, errp)) {
        return false;
    }
    QEMU_LOCK_GUARD(&e->lock);
    s = e->j->super;
    s.image_is_copy = false;
    return journal_write_super(e->j, &s, false, errp);
}

/*
 * After a failure the kernel counts the lost pages as clean, and the next
 * fdatasync succeeds without them: they are written again, from the log.
 */
bool export_sync_image(ReplicaExport *e, Error **errp)
{
    if (image_sync(e->img, errp) == 0) {
        return true;
    }
    QEMU_LOCK_GUARD(&e->lock);
    e->applied = journal_base(e->j);
    e->applied_epoch = e->applied.epoch;
    return false;
}

/* Apply the next epoch, if there is one; apply_lock held. */
static bool apply_one(ReplicaExport *e, bool *more, Error **errp)
{
    Error *err = NULL;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        *more = e->applied.pos < e->j->end.pos;
    }
    if (!export_finish_switch(e, errp)) {
        return false;
    }
    if (!*more) {
        return true;
    }
    if (!journal_read_epoch(e->j, &e->applied, e->apply_buf, image_apply,
                            e->img, NULL, &err)) {
        error_propagate_prepend(errp, err, "cannot bring epoch %" PRIu64
                                " of export '%s' to its image: ",
                                e->applied.epoch + 1, e->name);
        return false;
    }
    trace_pmem_replica_apply(e->name, e->applied.epoch);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->applied_epoch = e->applied.epoch;
    }
    return true;
}

bool export_apply_all(ReplicaExport *e, Error **errp)
{
    bool more;

    do {
        if (!apply_one(e, &more, errp)) {
            return false;
        }
    } while (more);
    return true;
}

bool export_checkpoint(ReplicaExport *e, Error **errp)
{
    /* An epoch that arrived since goes to the next checkpoint. */
    if (e->j->open || e->j->damage || e->applied.pos != e->j->end.pos) {
        return true;
    }
    trace_pmem_replica_checkpoint(e->name, e->j->end.epoch,
                                  journal_log_bytes(e->j));
    if (!journal_checkpoint(e->j, e->journal_size, errp)) {
        return false;
    }
    e->applied = journal_base(e->j);
    return true;
}

static bool idle_checkpoint(ReplicaExport *e, Error **errp)
{
    QEMU_LOCK_GUARD(&e->apply_lock);

    if (!e->img) {
        return true;
    }
    if (!export_apply_all(e, errp) || !export_sync_image(e, errp)) {
        return false;
    }
    QEMU_LOCK_GUARD(&e->lock);
    return export_checkpoint(e, errp);
}

static bool work_once(ReplicaExport *e, Error **errp)
{
    bool more;

    QEMU_LOCK_GUARD(&e->apply_lock);
    return !e->img || apply_one(e, &more, errp);
}

/* Sleep until there is something to apply; *idle when time passed instead. */
static bool wait_for_work(ReplicaExport *e, bool *idle)
{
    QEMU_LOCK_GUARD(&e->lock);

    *idle = false;
    while (!e->quit) {
        bool work = e->applied_epoch < e->j->end.epoch && !e->apply_error &&
                    !e->j->damage;

        if (work) {
            return true;
        }
        if (!qemu_cond_timedwait(&e->work_cond, &e->lock, IDLE_MS)) {
            *idle = !e->j->open && !e->j->damage && !e->j->super.promoted &&
                    (journal_log_bytes(e->j) > 0 || e->apply_error);
            if (*idle) {
                return true;
            }
        }
    }
    return false;
}

void *export_worker(void *opaque)
{
    ReplicaExport *e = opaque;
    bool idle;

    while (wait_for_work(e, &idle)) {
        Error *err = NULL;
        bool ok = idle ? idle_checkpoint(e, &err) : work_once(e, &err);

        QEMU_LOCK_GUARD(&e->lock);
        g_clear_pointer(&e->apply_error, g_free);
        if (!ok) {
            /* What is acknowledged stays in the log; tried again when idle. */
            e->apply_error = g_strdup(error_get_pretty(err));
            error_report_err(err);
        }
    }
    return NULL;
}
