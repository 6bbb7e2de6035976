/*
 * qemu-pmem-replica: the exports of this daemon and what they show
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/thread-pool.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "qemu/uuid.h"
#include "tools/qemu-pmem-replica/qapi/qapi-commands.h"
#include "tools/qemu-pmem-replica/qapi/qapi-events.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "trace.h"

#define DEFAULT_JOURNAL_SIZE (64 * MiB)

static QTAILQ_HEAD(, ReplicaExport) exports =
    QTAILQ_HEAD_INITIALIZER(exports);

static PmemReplicaState state_locked(ReplicaExport *e)
{
    if (e->j->super.promoted) {
        return PMEM_REPLICA_STATE_PROMOTED;
    }
    if (e->j->damage) {
        return PMEM_REPLICA_STATE_DAMAGED;
    }
    if (e->copying) {
        return PMEM_REPLICA_STATE_COPYING;
    }
    if (!e->j->super.have_image) {
        return PMEM_REPLICA_STATE_EMPTY;
    }
    return e->conn ? PMEM_REPLICA_STATE_IN_SYNC
                   : PMEM_REPLICA_STATE_DISCONNECTED;
}

void export_announce(ReplicaExport *e, const char *reason)
{
    PmemReplicaState state = state_locked(e);
    PmemReplicaState previous = e->shown;

    if (state == previous) {
        return;
    }
    e->shown = state;
    trace_pmem_replica_state(e->name, PmemReplicaState_str(state),
                             reason ?: "");
    qapi_event_send_pmem_replica_state(e->name, state, previous, reason);
}

ReplicaExport *export_find(const char *name)
{
    ReplicaExport *e;

    QTAILQ_FOREACH(e, &exports, next) {
        if (g_str_equal(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

bool export_exists(void)
{
    return !QTAILQ_EMPTY(&exports);
}

ReplicaExport *export_only(void)
{
    ReplicaExport *e = QTAILQ_FIRST(&exports);

    return e && !QTAILQ_NEXT(e, next) ? e : NULL;
}

/* The files of an export; see docs/specs/pmem-ha-media.rst */
static GStrv files_of(const char *mem_path, const char *journal)
{
    static const char *const suffixes[] = { "", ".copy", ".replica", ".state" };
    char **files = g_new0(char *, ARRAY_SIZE(suffixes) + 2);
    g_autofree char *real = realpath(mem_path, NULL);
    g_autofree char *mem = NULL;
    g_autofree char *real_journal = realpath(journal, NULL);
    unsigned i;

    mem = real ? g_strdup(real) : g_canonicalize_filename(mem_path, NULL);
    for (i = 0; i < ARRAY_SIZE(suffixes); i++) {
        files[i] = g_strdup_printf("%s%s", mem, suffixes[i]);
    }
    files[i] = real_journal ? g_strdup(real_journal) :
                              g_canonicalize_filename(journal, NULL);
    return files;
}

/* One file for two purposes would be emptied by one of them. */
static bool check_files(const PmemReplicaExportOptions *o, Error **errp)
{
    g_auto(GStrv) mine = files_of(o->mem_path, o->journal);
    ReplicaExport *e;
    unsigned i;

    for (i = 0; mine[i + 1]; i++) {
        if (g_strv_contains((const char *const *)mine + i + 1, mine[i])) {
            error_setg(errp, "export '%s': journal '%s' is a file that belongs "
                       "to mem-path '%s'; name another one", o->name,
                       o->journal, o->mem_path);
            return false;
        }
    }
    QTAILQ_FOREACH(e, &exports, next) {
        g_auto(GStrv) theirs = files_of(e->mem_path, e->journal_path);

        for (i = 0; mine[i]; i++) {
            if (g_strv_contains((const char *const *)theirs, mine[i])) {
                error_setg(errp, "export '%s': file '%s' belongs to export "
                           "'%s', too; name other files", o->name, mine[i],
                           e->name);
                return false;
            }
        }
    }
    return true;
}

static bool check_options(const PmemReplicaExportOptions *o, Error **errp)
{
    if (!*o->name || strlen(o->name) > PMEM_HA_WIRE_MAX_NAME) {
        error_setg(errp, "export name '%s' must have 1 to %d bytes", o->name,
                   PMEM_HA_WIRE_MAX_NAME);
        return false;
    }
    if (export_find(o->name)) {
        error_setg(errp, "export '%s' exists already", o->name);
        return false;
    }
    if (!o->size || o->size > INT64_MAX ||
        !QEMU_IS_ALIGNED(o->size, PMEM_HA_PAGE_SIZE)) {
        error_setg(errp, "export '%s': size=%" PRIu64 " is not a positive "
                   "multiple of %d", o->name, o->size, PMEM_HA_PAGE_SIZE);
        return false;
    }
    if (o->has_journal_size && o->journal_size < MiB) {
        error_setg(errp, "export '%s': journal-size=%" PRIu64 " is less than "
                   "1 MiB", o->name, o->journal_size);
        return false;
    }
    return check_files(o, errp);
}

/* Open the image and bring it to the end of the log. */
static bool open_image(ReplicaExport *e, Error **errp)
{
    g_autofree char *owner = NULL;
    bool ok = true;

    owner = g_strdup_printf("export '%s' of qemu-pmem-replica holds this "
                            "image; journal %s\n", e->name, e->journal_path);
    e->img = image_open(e->mem_path, e->size, owner, e->j->super.have_image,
                        e->j->super.image_is_copy, errp);
    if (!e->img) {
        return false;
    }
    if (e->j->damage) {
        /* The image may hold more than what is left of the log: keep it. */
        return true;
    }
    WITH_QEMU_LOCK_GUARD(&e->apply_lock) {
        ok = export_apply_all(e, errp) && export_sync_image(e, errp);
        if (ok && !e->j->super.promoted) {
            WITH_QEMU_LOCK_GUARD(&e->lock) {
                ok = export_checkpoint(e, errp);
            }
        }
    }
    return ok;
}

static void export_free(ReplicaExport *e)
{
    image_close(e->img);
    journal_close(e->j);
    qemu_mutex_destroy(&e->apply_lock);
    qemu_mutex_destroy(&e->lock);
    qemu_cond_destroy(&e->attach_cond);
    qemu_cond_destroy(&e->work_cond);
    g_free(e->apply_buf);
    g_free(e->name);
    g_free(e->mem_path);
    g_free(e->journal_path);
    g_free(e->last_error);
    g_free(e->apply_error);
    g_free(e);
}

bool export_add(PmemReplicaExportOptions *o, Error **errp)
{
    ReplicaExport *e;

    if (!check_options(o, errp)) {
        return false;
    }
    e = g_new0(ReplicaExport, 1);
    qemu_mutex_init(&e->apply_lock);
    qemu_mutex_init(&e->lock);
    qemu_cond_init(&e->attach_cond);
    qemu_cond_init(&e->work_cond);
    e->name = g_strdup(o->name);
    e->mem_path = g_canonicalize_filename(o->mem_path, NULL);
    e->journal_path = g_canonicalize_filename(o->journal, NULL);
    e->size = o->size;
    e->journal_size = o->has_journal_size ? o->journal_size
                                          : DEFAULT_JOURNAL_SIZE;
    e->apply_buf = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    e->j = journal_open(e->journal_path, e->size, errp);
    if (!e->j) {
        goto fail;
    }
    e->applied = journal_base(e->j);
    e->applied_epoch = e->applied.epoch;
    if (e->j->discard) {
        warn_report("export '%s': epoch %" PRIu64 " was cut short after %"
                    PRIu64 " bytes and never acknowledged; it is discarded "
                    "(%s)", e->name, e->j->discarded_epoch,
                    e->j->discarded_bytes, e->j->discard);
    }
    if (e->j->damage) {
        error_report("export '%s': %s", e->name, e->j->damage);
    }
    /* J8: a promoted image without a marker belongs to another QEMU. */
    if (!e->j->super.promoted || image_is_marked(e->mem_path)) {
        if (!open_image(e, errp)) {
            goto fail;
        }
    }
    e->shown = state_locked(e);
    QTAILQ_INSERT_TAIL(&exports, e, next);
    qemu_thread_create(&e->worker, "apply", export_worker, e,
                       QEMU_THREAD_JOINABLE);
    return true;

fail:
    error_prepend(errp, "export '%s': ", e->name);
    export_free(e);
    return false;
}

void export_cleanup(void)
{
    ReplicaExport *e;

    while ((e = QTAILQ_FIRST(&exports))) {
        WITH_QEMU_LOCK_GUARD(&e->lock) {
            e->quit = true;
            qemu_cond_signal(&e->work_cond);
        }
        qemu_thread_join(&e->worker);
        QTAILQ_REMOVE(&exports, e, next);
        export_free(e);
    }
}

static PmemReplicaInfo *info_locked(ReplicaExport *e)
{
    const JournalSuper *s = &e->j->super;
    PmemReplicaInfo *i = g_new0(PmemReplicaInfo, 1);

    *i = (PmemReplicaInfo) {
        .name = g_strdup(e->name),
        .state = state_locked(e),
        .generation = s->generation,
        .epoch = e->j->end.epoch,
        .applied_epoch = e->applied_epoch,
        .acked_epoch = e->j->acked,
        .size = e->size,
        .mem_path = g_strdup(e->mem_path),
        .journal = g_strdup(e->journal_path),
        .journal_bytes = journal_log_bytes(e->j),
        .damage = g_strdup(e->j->damage),
        .last_error = g_strdup(e->apply_error ?: e->last_error),
    };
    if (s->bound) {
        i->uuid = qemu_uuid_unparse_strdup(&s->uuid);
        i->has_slot = true;
        i->slot = s->slot;
        i->has_label_size = true;
        i->label_size = s->label_size;
        i->has_devices = true;
        i->devices = s->n_more + 1;
    }
    if (e->conn) {
        i->peer = g_strdup(conn_peer(e->conn));
        i->ack = g_strdup(pmem_ha_ack_name(e->hello.ack));
    }
    if (e->copying) {
        i->has_copied_bytes = true;
        i->copied_bytes = e->copied_bytes;
    }
    if (e->j->discard) {
        i->has_discarded_epoch = true;
        i->discarded_epoch = e->j->discarded_epoch;
        i->has_discarded_bytes = true;
        i->discarded_bytes = e->j->discarded_bytes;
        i->discarded_reason = g_strdup(e->j->discard);
    }
    if (s->promoted) {
        i->state_file = g_strdup(s->state_path);
    }
    return i;
}

PmemReplicaInfoList *export_query(void)
{
    PmemReplicaInfoList *list = NULL;
    PmemReplicaInfoList **tail = &list;
    ReplicaExport *e;

    QTAILQ_FOREACH(e, &exports, next) {
        QEMU_LOCK_GUARD(&e->lock);
        QAPI_LIST_APPEND(tail, info_locked(e));
    }
    return list;
}

PmemReplicaInfoList *qmp_query_pmem_replica(Error **errp)
{
    return export_query();
}

typedef struct PromoteJob {
    ReplicaExport *e;
    const char *state_file;
    bool force;
    PmemReplicaPromotion *answer;
    Error *err;
} PromoteJob;

static int promote_in_thread(void *opaque)
{
    PromoteJob *job = opaque;

    job->answer = export_promote(job->e, job->state_file, job->force,
                                 &job->err);
    return 0;
}

static unsigned promotions;     /* main thread */

bool export_promotions(void)
{
    return promotions;
}

/*
 * A large image takes minutes to bring to its disk and to sum up; meanwhile
 * primaries of other exports must be let in.
 */
PmemReplicaPromotion *coroutine_fn
qmp_pmem_replica_promote(const char *export, const char *state_file,
                         bool has_force, bool force, Error **errp)
{
    ReplicaExport *e = export ? export_find(export) : export_only();
    PromoteJob job = {
        .e = e,
        .state_file = state_file,
        .force = has_force && force,
    };

    if (!e) {
        if (export) {
            error_setg(errp, "no export '%s' here", export);
        } else {
            error_setg(errp, "name the export: there is not exactly one");
        }
        return NULL;
    }
    promotions++;
    thread_pool_submit_co(promote_in_thread, &job);
    promotions--;
    error_propagate(errp, job.err);
    return job.answer;
}
