/*
 * qemu-pmem-replica: what a primary may do to an export
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/uuid.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "trace.h"

/* A primary that was silent for so long may be replaced by another. */
#define SILENT_MS 5000

int export_refusal_of(int ret)
{
    switch (ret) {
    case -EPROTO:
        return PMEM_HA_REFUSE_PROTOCOL;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG:
        return PMEM_HA_REFUSE_NO_SPACE;
    default:
        return PMEM_HA_REFUSE_IO;
    }
}

uint64_t export_generation(ReplicaExport *e)
{
    QEMU_LOCK_GUARD(&e->lock);
    return e->j->super.generation;
}

void export_give_way(ReplicaExport *e)
{
    if (qatomic_read(&e->promoting)) {
        QEMU_LOCK_GUARD(&e->lock);
        while (qatomic_read(&e->promoting)) {
            qemu_cond_wait(&e->attach_cond, &e->lock);
        }
    }
}

bool export_is_promoted(ReplicaExport *e)
{
    QEMU_LOCK_GUARD(&e->lock);
    return e->j->super.promoted;
}

/* May connection @c still do something?  Lock held. */
static int check_owner(ReplicaExport *e, ReplicaConn *c)
{
    if (e->j->super.promoted) {
        return EXPORT_FENCED;
    }
    return e->conn == c ? EXPORT_OK : EXPORT_REPLACED;
}

/* The devices of a group and their order decide what stands where. */
static int check_members(ReplicaExport *e, const PmemHaHello *h, Error **errp)
{
    const JournalSuper *s = &e->j->super;
    unsigned i;

    if (h->n_more != s->n_more) {
        error_setg(errp, "export '%s' holds %u devices of a consistency-group, "
                   "the primary has %u; give it the same devices, or use a new "
                   "journal", e->name, s->n_more + 1, h->n_more + 1);
        return PMEM_HA_REFUSE_SIZE;
    }
    for (i = 0; i < s->n_more; i++) {
        if (!pmem_ha_member_is_equal(&s->more[i], &h->more[i])) {
            error_setg(errp, "export '%s': device %u of the consistency-group "
                       "has %" PRIu64 " bytes, label-size %" PRIu64 " and slot "
                       "%" PRIu32 ", the primary's has %" PRIu64 ", %" PRIu64
                       " and %" PRIu32 ", or another uuid; give it the same "
                       "devices in the same order", e->name, i + 2,
                       s->more[i].size, s->more[i].label_size,
                       s->more[i].slot, h->more[i].size,
                       h->more[i].label_size, h->more[i].slot);
            return PMEM_HA_REFUSE_SIZE;
        }
    }
    return EXPORT_OK;
}

/* Values that a HELLO must repeat; the messages name both. */
static int check_identity(ReplicaExport *e, const PmemHaHello *h,
                          Error **errp)
{
    const JournalSuper *s = &e->j->super;

    if (h->size != e->size) {
        error_setg(errp, "export '%s' has size %" PRIu64 ", the primary's "
                   "backend has %" PRIu64 "; give both the same size",
                   e->name, e->size, h->size);
        return PMEM_HA_REFUSE_SIZE;
    }
    if (!s->bound) {
        return EXPORT_OK;
    }
    if (!qemu_uuid_is_equal(&h->uuid, &s->uuid)) {
        g_autofree char *ours = qemu_uuid_unparse_strdup(&s->uuid);
        g_autofree char *theirs = qemu_uuid_unparse_strdup(&h->uuid);

        error_setg(errp, "export '%s' holds the device with uuid %s, the "
                   "primary's has uuid %s; use the export of that device, or "
                   "a new journal", e->name, ours, theirs);
        return PMEM_HA_REFUSE_UUID;
    }
    if (h->slot != s->slot) {
        error_setg(errp, "export '%s' holds a device in slot %" PRIu32 ", the "
                   "primary's is in slot %" PRIu32 "; give it the same slot",
                   e->name, s->slot, h->slot);
        return PMEM_HA_REFUSE_SLOT;
    }
    if (h->label_size != s->label_size) {
        error_setg(errp, "export '%s' holds a device with label-size %" PRIu64
                   ", the primary's has %" PRIu64 "; give it the same "
                   "label-size", e->name, s->label_size, h->label_size);
        return PMEM_HA_REFUSE_LABEL_SIZE;
    }
    return check_members(e, h, errp);
}

static void drop_epoch(ReplicaExport *e)
{
    journal_abort(e->j);
    e->copy_epoch_open = false;
}

/* Every committed epoch goes to the image, on stable storage. */
static int bring_to_image(ReplicaExport *e, Error **errp)
{
    QEMU_LOCK_GUARD(&e->apply_lock);

    if (!e->img) {
        return EXPORT_FENCED;
    }
    if (!export_apply_all(e, errp) || !export_sync_image(e, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    return EXPORT_OK;
}

/* TAKE was accepted, and the answer may have been lost.  Lock held. */
static bool taken_by(ReplicaExport *e, uint64_t generation,
                     const PmemHaHello *hello)
{
    return (hello->flags & PMEM_HA_HELLO_TAKE) && hello->instance &&
           hello->instance == e->j->super.taker &&
           generation + 1 == e->j->super.generation;
}

/* May a primary of @generation say HELLO?  Lock held. */
int export_check_peer(ReplicaExport *e, uint64_t generation,
                      const PmemHaHello *hello, Error **errp)
{
    const JournalSuper *s = &e->j->super;
    bool again = taken_by(e, generation, hello);
    int ret;

    if ((s->promoted && !(again && (hello->flags & PMEM_HA_HELLO_ADOPT))) ||
        (generation < s->generation && !again)) {
        return EXPORT_FENCED;
    }
    ret = check_identity(e, hello, errp);
    if (ret || !(hello->flags & PMEM_HA_HELLO_TAKE) || again) {
        return ret;
    }
    if (!s->have_image || generation != s->generation ||
        e->j->end.epoch > hello->captured) {
        error_setg(errp, "export '%s' holds %s: epoch %" PRIu64 " of "
                   "generation %" PRIu64 ", and what was handed over is epoch "
                   "%" PRIu64 " of generation %" PRIu64 "; use the newer "
                   "guest, or give this one a new and empty replica", e->name,
                   s->have_image ? "what is newer or of another lineage" :
                   "no image", e->j->end.epoch, s->generation, hello->captured,
                   generation);
        return PMEM_HA_REFUSE_WENT_ON;
    }
    return EXPORT_OK;
}

/* End the generation of a primary that handed over.  Lock held. */
static int take(ReplicaExport *e, uint64_t generation,
                const PmemHaHello *hello, Error **errp)
{
    JournalSuper s = e->j->super;

    if (taken_by(e, generation, hello)) {
        return EXPORT_OK;
    }
    journal_push_history(&s, e->j->end.epoch);
    s.generation++;
    s.taker = hello->instance;
    if (!journal_write_super(e->j, &s, true, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    trace_pmem_replica_taken(e->name, s.generation, e->j->end.epoch);
    pmem_ha_crash_point("taken");
    return EXPORT_OK;
}

static int attach(ReplicaExport *e, ReplicaConn *c, uint64_t generation,
                  const PmemHaHello *hello, PmemHaWelcome *welcome,
                  Error **errp)
{
    bool taking = hello->flags & PMEM_HA_HELLO_TAKE;
    int ret;

    QEMU_LOCK_GUARD(&e->lock);

    ret = export_check_peer(e, generation, hello, errp);
    if (ret) {
        return ret;
    }
    if (e->j->damage) {
        error_setg(errp, "export '%s' is damaged: %s. Promote it with force, "
                   "or move the journal away and restart qemu-pmem-replica to "
                   "make a full copy", e->name, e->j->damage);
        return PMEM_HA_REFUSE_DAMAGED;
    }
    while (e->conn) {
        /* Whoever handed over may not be able to close its connection. */
        if (e->hello.instance != hello->instance && !taking &&
            conn_silence_ms(e->conn) < SILENT_MS) {
            error_setg(errp, "export '%s' is in use by the primary at %s",
                       e->name, conn_peer(e->conn));
            return PMEM_HA_REFUSE_BUSY;
        }
        conn_kick(e->conn);
        qemu_cond_wait(&e->attach_cond, &e->lock);
    }
    /* While waiting, the lock was free: what was checked may have changed. */
    ret = export_check_peer(e, generation, hello, errp);
    if (ret) {
        return ret;
    }
    if (!journal_settle(e->j, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    if (taking) {
        ret = take(e, generation, hello, errp);
        if (ret) {
            return ret;
        }
        generation = e->j->super.generation;
    }
    e->conn = c;
    e->hello = *hello;
    e->peer_generation = generation;
    *welcome = (PmemHaWelcome) {
        .have_image = e->j->super.have_image,
        .generation = e->j->super.generation,
        .epoch = e->j->end.epoch,
    };
    export_announce(e, NULL);
    return EXPORT_OK;
}

int export_attach(ReplicaExport *e, ReplicaConn *c, uint64_t generation,
                  const PmemHaHello *hello, PmemHaWelcome *welcome,
                  Error **errp)
{
    ERRP_GUARD();
    int ret;

    if (hello->flags & PMEM_HA_HELLO_ADOPT) {
        return export_adopt(e, generation, hello, welcome, errp);
    }
    ret = attach(e, c, generation, hello, welcome, errp);
    /* WELCOME acknowledges what it names: at the level that was asked for. */
    if (ret == EXPORT_OK && hello->ack == PMEM_HA_ACK_APPLIED) {
        ret = bring_to_image(e, errp);
        if (ret) {
            export_detach(e, c, *errp ? error_get_pretty(*errp) : "promoted");
        }
    }
    return ret;
}

void export_detach(ReplicaExport *e, ReplicaConn *c, const char *reason)
{
    QEMU_LOCK_GUARD(&e->apply_lock);
    QEMU_LOCK_GUARD(&e->lock);

    if (e->conn != c) {
        return;
    }
    drop_epoch(e);
    if (e->copying && e->img) {
        image_copy_abandon(e->img);
    }
    e->copying = false;
    g_free(e->last_error);
    e->last_error = g_strdup(reason);
    e->conn = NULL;
    qemu_cond_broadcast(&e->attach_cond);
    export_announce(e, reason);
}

int export_copy(ReplicaExport *e, ReplicaConn *c, Error **errp)
{
    JournalSuper s;
    int ret;

    QEMU_LOCK_GUARD(&e->apply_lock);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ret = check_owner(e, c);
        if (ret) {
            return ret;
        }
        if (e->j->open || e->copy_epoch_open) {
            error_setg(errp, "protocol error: COPY within an epoch");
            return PMEM_HA_REFUSE_PROTOCOL;
        }
        e->copying = true;
        e->copied_bytes = 0;
        export_announce(e, NULL);
    }
    e->copy_next = 0;
    /* A decided copy that could not get its name must not be lost. */
    if (!export_finish_switch(e, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    if (e->img->copy_decided) {
        /* Not known, either, whether it was decided: make sure it was not. */
        QEMU_LOCK_GUARD(&e->lock);
        s = e->j->super;
        if (!journal_write_super(e->j, &s, false, errp)) {
            return PMEM_HA_REFUSE_IO;
        }
        e->img->copy_decided = false;
    }
    ret = image_copy_start(e->img, errp);
    return ret < 0 ? export_refusal_of(ret) : EXPORT_OK;
}

/* The log is longer than it should be: shorten it before it grows on. */
static int make_room(ReplicaExport *e, ReplicaConn *c, Error **errp)
{
    int ret;

    QEMU_LOCK_GUARD(&e->apply_lock);

    /* Promotion may have been first, and has given the image away. */
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ret = check_owner(e, c);
    }
    if (ret) {
        return ret;
    }
    if (!export_apply_all(e, errp) || !export_sync_image(e, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        return export_checkpoint(e, errp) ? EXPORT_OK : PMEM_HA_REFUSE_IO;
    }
    g_assert_not_reached();
}

static int begin_copy_epoch(ReplicaExport *e, const PmemHaMsg *m, Error **errp)
{
    const JournalSuper *s = &e->j->super;

    if (e->copied_bytes != e->size) {
        error_setg(errp, "protocol error: BEGIN of epoch %" PRIu64 " completes "
                   "a copy of which %" PRIu64 " of %" PRIu64 " bytes arrived",
                   m->epoch, e->copied_bytes, e->size);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    if (s->have_image && m->epoch <= e->j->end.epoch) {
        error_setg(errp, "protocol error: epoch %" PRIu64 " completes a copy, "
                   "but the replica holds epoch %" PRIu64 " already",
                   m->epoch, e->j->end.epoch);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    e->copy_epoch_open = true;
    e->copy_epoch = m->epoch;
    e->copy_records = 0;
    e->copy_bytes = 0;
    e->copy_digest = 0;
    return EXPORT_OK;
}

int export_begin(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                 Error **errp)
{
    bool completes = m->flags & PMEM_HA_FLAG_COMPLETES_COPY;
    bool full;
    int ret;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        full = !e->copying && !e->j->open && e->conn == c &&
               journal_log_bytes(e->j) > e->journal_size;
    }
    if (full) {
        ret = make_room(e, c, errp);
        if (ret) {
            return ret;
        }
    }

    QEMU_LOCK_GUARD(&e->lock);
    ret = check_owner(e, c);
    if (ret) {
        return ret;
    }
    if (e->j->open || e->copy_epoch_open || completes != e->copying) {
        error_setg(errp, "protocol error: BEGIN of epoch %" PRIu64 " %s",
                   m->epoch, completes == e->copying ? "within an epoch" :
                   completes ? "completes a copy that was not begun" :
                   "within a full copy");
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    if (completes) {
        return begin_copy_epoch(e, m, errp);
    }
    if (!e->j->super.have_image ||
        e->peer_generation != e->j->super.generation) {
        error_setg(errp, "protocol error: BEGIN of epoch %" PRIu64 " of "
                   "generation %" PRIu64 " without a full copy; the replica "
                   "holds %s of generation %" PRIu64, m->epoch,
                   e->peer_generation,
                   e->j->super.have_image ? "an image" : "no image",
                   e->j->super.generation);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    if (m->epoch != e->j->end.epoch + 1) {
        error_setg(errp, "protocol error: BEGIN of epoch %" PRIu64 " where %"
                   PRIu64 " must follow", m->epoch, e->j->end.epoch + 1);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    ret = journal_begin(e->j, m->epoch, errp);
    return ret < 0 ? export_refusal_of(ret) : EXPORT_OK;
}

/*
 * The ranges of an epoch are disjoint.  Without a bound, a peer could keep the
 * image busy, and promotion waiting, with messages that carry nothing.
 */
static int check_epoch_size(ReplicaExport *e, uint64_t bytes,
                            const PmemHaMsg *m, Error **errp)
{
    if (bytes + m->arg1 > e->size) {
        error_setg(errp, "protocol error: epoch %" PRIu64 " has more than the "
                   "%" PRIu64 " bytes of the region", m->epoch, e->size);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    return EXPORT_OK;
}

static int copy_data(ReplicaExport *e, const PmemHaMsg *m, const void *payload,
                     bool in_epoch, Error **errp)
{
    int ret;

    if (in_epoch) {
        ret = check_epoch_size(e, e->copy_bytes, m, errp);
        if (ret) {
            return ret;
        }
        e->copy_records++;
        e->copy_bytes += m->arg1;
        e->copy_digest = pmem_ha_wire_digest(e->copy_digest, m);
    } else if (m->arg0 != e->copy_next) {
        error_setg(errp, "protocol error: full copy goes on at 0x%" PRIx64
                   " where 0x%" PRIx64 " must follow", m->arg0, e->copy_next);
        return PMEM_HA_REFUSE_PROTOCOL;
    } else {
        e->copy_next += m->arg1;
    }
    if (!in_epoch && (m->flags & PMEM_HA_FLAG_ZERO)) {
        return EXPORT_OK;       /* as the new file is */
    }
    ret = image_copy_write(e->img, m->arg0, m->arg1, payload, errp);
    return ret < 0 ? export_refusal_of(ret) : EXPORT_OK;
}

int export_data(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                const void *payload, Error **errp)
{
    bool copying;
    bool in_epoch;
    int ret;

    if (m->flags & PMEM_HA_FLAG_ZERO) {
        payload = NULL;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ret = check_owner(e, c);
        if (ret) {
            return ret;
        }
        copying = e->copying;
        in_epoch = e->copy_epoch_open;
        if (!copying) {
            if (!e->j->open) {
                error_setg(errp, "protocol error: DATA outside of an epoch");
                return PMEM_HA_REFUSE_PROTOCOL;
            }
            ret = check_epoch_size(e, e->j->bytes, m, errp);
            if (ret) {
                return ret;
            }
            ret = journal_data(e->j, m, payload, errp);
            return ret < 0 ? export_refusal_of(ret) : EXPORT_OK;
        }
    }
    QEMU_LOCK_GUARD(&e->apply_lock);
    /* Promotion takes the copy away under this lock. */
    if (!e->img || e->img->copy_fd < 0) {
        return EXPORT_FENCED;
    }
    ret = copy_data(e, m, payload, in_epoch, errp);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        e->copied_bytes = e->copy_next;
    }
    return ret;
}

static int commit_copy(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                       uint32_t digest, Error **errp)
{
    JournalSuper s;
    int ret;

    QEMU_LOCK_GUARD(&e->apply_lock);

    if (!e->img || e->img->copy_fd < 0) {
        return EXPORT_FENCED;
    }
    if (m->arg0 != e->copy_records || m->arg1 != e->copy_bytes ||
        digest != e->copy_digest) {
        error_setg(errp, "protocol error: COMMIT of epoch %" PRIu64 " does not "
                   "match what arrived", m->epoch);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    ret = image_copy_sync(e->img, errp);
    if (ret < 0) {
        return export_refusal_of(ret);
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ret = check_owner(e, c);
        if (ret) {
            return ret;
        }
        s = e->j->super;
        s.have_image = true;
        s.image_is_copy = true;
        s.bound = true;
        s.uuid = e->hello.uuid;
        s.slot = e->hello.slot;
        s.label_size = e->hello.label_size;
        s.n_more = e->hello.n_more;
        memcpy(s.more, e->hello.more, sizeof(s.more));
        s.taker = s.generation == e->peer_generation ? s.taker : 0;
        s.generation = e->peer_generation;
        s.log_generation = e->peer_generation;
        s.applied = m->epoch;
        s.salt = journal_new_salt();
        /* From here until it is known what the file says, keep the copy. */
        e->img->copy_decided = true;
        if (!journal_write_super(e->j, &s, false, errp)) {
            s = e->j->super;
            e->img->copy_decided = !journal_write_super(e->j, &s, false, NULL);
            return PMEM_HA_REFUSE_IO;
        }
        journal_restart_log(e->j);
        e->applied = journal_base(e->j);
        e->applied_epoch = m->epoch;
        e->copying = false;
        e->copy_epoch_open = false;
        pmem_ha_crash_point("copy-decided");
        if (journal_mark(e->j, errp) < 0 || !conn_ack(c, m->epoch, errp)) {
            return PMEM_HA_REFUSE_IO;
        }
        pmem_ha_crash_point("ack-sent");
        export_announce(e, NULL);
    }
    return export_finish_switch(e, errp) ? EXPORT_OK : PMEM_HA_REFUSE_IO;
}

/* The epoch is committed: wait until it is in the image, then acknowledge. */
static int ack_applied(ReplicaExport *e, ReplicaConn *c, uint64_t epoch,
                       Error **errp)
{
    int ret = bring_to_image(e, errp);

    if (ret) {
        return ret;
    }
    QEMU_LOCK_GUARD(&e->lock);
    ret = check_owner(e, c);
    if (ret) {
        return ret;
    }
    return conn_ack(c, epoch, errp) ? EXPORT_OK : PMEM_HA_REFUSE_IO;
}

int export_commit(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                  uint32_t digest, Error **errp)
{
    PmemHaAckLevel ack;
    bool is_copy;
    int ret;

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        bool completes = m->flags & PMEM_HA_FLAG_COMPLETES_COPY;

        ret = check_owner(e, c);
        if (ret) {
            return ret;
        }
        ack = e->hello.ack;
        is_copy = e->copy_epoch_open;
        if (!(is_copy ? e->copy_epoch == m->epoch
                      : e->j->open && e->j->epoch == m->epoch) ||
            completes != is_copy) {
            error_setg(errp, "protocol error: COMMIT of epoch %" PRIu64
                       " without its BEGIN", m->epoch);
            return PMEM_HA_REFUSE_PROTOCOL;
        }
        if (!is_copy) {
            ret = journal_commit(e->j, m->arg0, m->arg1, digest, errp);
            if (ret < 0) {
                return export_refusal_of(ret);
            }
            if (ack == PMEM_HA_ACK_RECEIVED && !conn_ack(c, m->epoch, errp)) {
                return PMEM_HA_REFUSE_IO;
            }
            ret = journal_sync(e->j, errp);
            if (ret < 0) {
                return export_refusal_of(ret);
            }
            ret = journal_mark(e->j, errp);
            if (ret < 0) {
                return export_refusal_of(ret);
            }
            if (ack == PMEM_HA_ACK_JOURNALED && !conn_ack(c, m->epoch, errp)) {
                return PMEM_HA_REFUSE_IO;
            }
            pmem_ha_crash_point("ack-sent");
            qemu_cond_signal(&e->work_cond);
        }
    }
    if (is_copy) {
        return commit_copy(e, c, m, digest, errp);
    }
    return ack == PMEM_HA_ACK_APPLIED ? ack_applied(e, c, m->epoch, errp)
                                      : EXPORT_OK;
}
