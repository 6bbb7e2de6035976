/*
 * pmem-ha: the thread that talks to the replica
 *
 * An acknowledgement is received and recorded without the BQL, whatever the
 * main loop is busy with; only the vCPUs are woken under it (I7).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "internal.h"
#include "trace.h"

static bool handshake(PmemHaDevice *s, bool *need_copy, Error **errp)
{
    uint8_t buf[PMEM_HA_HELLO_MAX], payload[PMEM_HA_WIRE_MAX_TEXT];
    void *out = buf;
    unsigned i;
    PmemHaVerdict verdict;
    PmemHaWelcome w;
    PmemHaHello h = {
        .uuid = s->rec.uuid,
        .size = s->size,
        .label_size = NVDIMM(s)->label_size,
        .slot = s->slot,
        .ack = (PmemHaAckLevel)s->ack,     /* same order */
        .captured = s->rec.captured,
        .acked = s->rec.acked,
        .instance = s->instance,
        .flags = qatomic_read(&s->take) ? PMEM_HA_HELLO_TAKE : 0,
    };
    PmemHaMsg m = { .type = PMEM_HA_MSG_HELLO };

    g_strlcpy(h.name, s->export, sizeof(h.name));
    for (i = 1; i < s->n_parts; i++) {
        PmemHaDevice *dev = s->part[i].dev;

        h.more[h.n_more++] = (PmemHaMember) {
            .uuid = NVDIMM(dev)->uuid,
            .size = s->part[i].size,
            .label_size = NVDIMM(dev)->label_size,
            .slot = dev->slot,
        };
    }
    if (h.flags & PMEM_HA_HELLO_TAKE) {
        pmem_ha_adopt_hello(s, &h);
    }
    m.len = pmem_ha_hello_encode(&h, buf);
    m.payload_crc = pmem_ha_wire_crc(buf, m.len);
    if (!pmem_ha_link_send(s, &m, &out, 1, errp) ||
        !pmem_ha_link_recv(s, &m, payload, errp)) {
        return false;
    }
    if (m.type != PMEM_HA_MSG_WELCOME) {
        error_setg(errp, "replica '%s' at %s answered %s instead of WELCOME",
                   s->export, s->peer, pmem_ha_msg_name(m.type));
        return false;
    }
    if (!pmem_ha_welcome_decode(payload, m.len, &w, errp)) {
        return false;
    }

    QEMU_LOCK_GUARD(&s->lock);
    if (s->role != PMEM_HA_ROLE_PRIMARY ||
        !!(h.flags & PMEM_HA_HELLO_TAKE) != s->take) {
        error_setg(errp, "the role of this primary changed");
        return false;
    }
    if (s->take && s->adopting) {
        return pmem_ha_adopted_locked(s, &w, errp);
    }
    if (s->take && !pmem_ha_taken_locked(s, &w, errp)) {
        return false;
    }
    verdict = pmem_ha_judge_locked(s, &w, errp);
    trace_pmem_ha_verdict(s->name, verdict, s->rec.generation,
                          s->rec.captured, s->rec.acked,
                          w.have_image ? w.generation : 0,
                          w.have_image ? w.epoch : 0);
    if (verdict == PMEM_HA_VERDICT_REFUSE) {
        s->link.unproved = true;
        return false;
    }
    if (verdict == PMEM_HA_VERDICT_WAIT) {
        s->link.patient = true;
        return false;
    }
    *need_copy = verdict == PMEM_HA_VERDICT_COPY;
    s->greeted = true;
    pmem_ha_crash_point("verdict");
    qemu_cond_broadcast(&s->settled);
    return true;
}

/* A full copy of what is in memory now; racy, the epoch after it is not. */
static bool copy(PmemHaDevice *s, Error **errp)
{
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->link_state = PMEM_HA_STATE_RESYNC;
        s->copy_running = true;
        s->clearing = true;
        /* From here on dirty bits tell nothing about any older image (I3). */
        s->synced = false;
        s->proof_equal = false;
        s->resync_remaining = s->size;
        pmem_ha_announce_locked(s, NULL);
        pmem_ha_crash_point("resync-begun");
        object_ref(OBJECT(s));
        WITH_RCU_READ_LOCK_GUARD() {
            async_safe_run_on_cpu(first_cpu, pmem_ha_clear_work,
                                  RUN_ON_CPU_HOST_PTR(s));
        }
    }
    pmem_ha_wake_vcpus();
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        while (s->clearing && !s->quit) {
            qemu_cond_wait(&s->settled, &s->lock);
        }
        if (s->quit) {
            error_setg(errp, "QEMU ends");
            return false;
        }
    }
    pmem_ha_crash_point("resync-cleared");
    return pmem_ha_send_copy(s, errp);
}

static bool one_epoch(PmemHaDevice *s, PmemHaEpoch *e, Error **errp)
{
    uint8_t payload[PMEM_HA_WIRE_MAX_TEXT];
    bool completes = s->copy_running;
    PmemHaMsg m;

    if (!pmem_ha_send_epoch(s, e, completes, errp)) {
        return false;
    }
    if (!pmem_ha_link_recv(s, &m, payload, errp)) {
        return false;
    }
    if (m.type != PMEM_HA_MSG_ACK || m.epoch != e->number) {
        error_setg(errp, "replica '%s' at %s answered %s for epoch %" PRIu64
                   " instead of ACK for epoch %" PRIu64, s->export, s->peer,
                   pmem_ha_msg_name(m.type), m.epoch, e->number);
        return false;
    }

    QEMU_LOCK_GUARD(&s->lock);
    s->rec.acked = e->number;
    s->epoch = NULL;
    pmem_ha_epoch_free(e);
    trace_pmem_ha_acked(s->name, m.epoch);
    pmem_ha_crash_point("ack-recorded");
    if (completes) {
        s->copy_running = false;
        s->synced = true;
        s->had_replica = true;
        s->may_resync = false;
        pmem_ha_now_proved_locked(s);
        s->link_state = PMEM_HA_STATE_IN_SYNC;
        pmem_ha_announce_locked(s, NULL);
    }
    pmem_ha_release_locked(s);
    pmem_ha_kick_capture_locked(s);
    qemu_cond_broadcast(&s->settled);
    return true;
}

static bool ping(PmemHaDevice *s, Error **errp)
{
    uint8_t payload[PMEM_HA_WIRE_MAX_TEXT];
    PmemHaMsg m = { .type = PMEM_HA_MSG_PING };
    void *none = NULL;

    if (!pmem_ha_link_send(s, &m, &none, 1, errp) ||
        !pmem_ha_link_recv(s, &m, payload, errp)) {
        return false;
    }
    if (m.type != PMEM_HA_MSG_PONG) {
        error_setg(errp, "replica '%s' at %s answered %s instead of PONG",
                   s->export, s->peer, pmem_ha_msg_name(m.type));
        return false;
    }
    return true;
}

static void serve(PmemHaDevice *s, bool need_copy, Error **errp)
{
    bool ok;

    if (need_copy && !copy(s, errp)) {
        return;
    }
    qemu_mutex_lock(&s->lock);
    s->link_ready = true;
    /* The next loss is one again, for on-link-loss. */
    s->cancelled_by_us = false;
    error_free(s->last_error);
    s->last_error = NULL;
    if (!need_copy) {
        s->had_replica = true;
        s->link_state = PMEM_HA_STATE_IN_SYNC;
        pmem_ha_announce_locked(s, NULL);
    }
    pmem_ha_release_locked(s);
    pmem_ha_kick_capture_locked(s);
    qemu_mutex_unlock(&s->lock);
    pmem_ha_wake_vcpus();
    qemu_mutex_lock(&s->lock);
    while (!s->quit && s->role == PMEM_HA_ROLE_PRIMARY) {
        if (s->epoch_ready) {
            PmemHaEpoch *e = s->epoch;

            s->epoch_ready = false;
            qemu_mutex_unlock(&s->lock);
            ok = one_epoch(s, e, errp);
            pmem_ha_wake_vcpus();
            qemu_mutex_lock(&s->lock);
        } else if (!qemu_cond_timedwait(&s->work, &s->lock,
                                        PMEM_HA_PING_MS)) {
            qemu_mutex_unlock(&s->lock);
            ok = ping(s, errp);
            qemu_mutex_lock(&s->lock);
        } else {
            continue;
        }
        if (!ok) {
            break;
        }
    }
    qemu_mutex_unlock(&s->lock);
}

/* Whether no other attempt can turn out better without an operator. */
static bool refused_for_good(PmemHaDevice *s)
{
    switch (s->link.refusal) {
    case PMEM_HA_REFUSE_NO_EXPORT:
    case PMEM_HA_REFUSE_SIZE:
    case PMEM_HA_REFUSE_SLOT:
    case PMEM_HA_REFUSE_LABEL_SIZE:
    case PMEM_HA_REFUSE_UUID:
    case PMEM_HA_REFUSE_WENT_ON:
    case PMEM_HA_REFUSE_FILE:
        return true;
    default:
        return false;
    }
}

static void link_lost(PmemHaDevice *s, Error *err)
{
    bool was_connected;

    QEMU_LOCK_GUARD(&s->lock);
    if (s->role == PMEM_HA_ROLE_HANDED_OVER) {
        error_free(err);
        err = NULL;
        error_setg(&err, "handed over by a migration");
    }
    was_connected = s->link_ready;
    s->link_ready = false;
    s->session++;
    s->epoch_ready = false;
    qatomic_set(&s->direct_hold, false);
    s->copy_running = false;
    if (s->link.fenced_by) {
        s->link_state = PMEM_HA_STATE_FENCED;
        s->stop_vm = true;
    } else if (s->link.unproved || refused_for_good(s)) {
        s->link_state = PMEM_HA_STATE_FAILED;
    } else {
        s->link_state = PMEM_HA_STATE_CONNECTING;
    }
    if (was_connected && !s->cancelled_by_us) {
        s->reconnects++;
        if (s->on_link_loss == PMEM_HA_LINK_LOSS_STOP) {
            s->stop_vm = true;
        }
    }
    if (s->stop_vm) {
        pmem_ha_stall_settle(s);
    }
    error_free(s->last_error);
    s->last_error = err;
    pmem_ha_crash_point("link-lost");
    trace_pmem_ha_link_lost(s->name, err ? error_get_pretty(err) : "quit");
    if (!s->quit) {
        pmem_ha_announce_locked(s, err ? error_get_pretty(err) : NULL);
    }
    qemu_cond_broadcast(&s->settled);
}

/*
 * Whoever writes to the replica now, it is not us.  An incoming device looks
 * once whether the replica is there.  Returns whether to connect.
 */
static bool wait_for_role(PmemHaDevice *s, Error **errp)
{
    bool incoming;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        while (!s->quit && (s->role == PMEM_HA_ROLE_HANDED_OVER ||
                            (s->role == PMEM_HA_ROLE_INCOMING && s->greeted))) {
            qemu_cond_wait(&s->work, &s->lock);
        }
        incoming = s->role == PMEM_HA_ROLE_INCOMING;
        if (s->quit) {
            return false;
        }
    }
    if (incoming && pmem_ha_link_open(s, errp)) {
        QEMU_LOCK_GUARD(&s->lock);
        s->greeted = true;
        qemu_cond_broadcast(&s->settled);
    }
    return !incoming;
}

static void *replicator(void *opaque)
{
    PmemHaDevice *s = opaque;

    rcu_register_thread();
    while (!qatomic_read(&s->quit)) {
        Error *err = NULL;
        bool need_copy = false;

        if (wait_for_role(s, &err) && pmem_ha_link_open(s, &err) &&
            handshake(s, &need_copy, &err)) {
            if (qatomic_read(&s->adopted)) {
                pmem_ha_link_close(s);
                break;
            }
            serve(s, need_copy, &err);
        }
        link_lost(s, err);
        pmem_ha_link_close(s);

        WITH_QEMU_LOCK_GUARD(&s->lock) {
            bool final = s->link_state != PMEM_HA_STATE_CONNECTING;
            int pause = s->link.patient ? PMEM_HA_PATIENT_MS
                                        : PMEM_HA_RECONNECT_MS;

            while (!s->quit && !(s->link.patient && s->may_resync) &&
                   (qemu_cond_timedwait(&s->work, &s->lock, pause) || final)) {
                /* woken for an epoch that has to wait, or at the end */
            }
        }
    }
    bql_lock();
    object_unref(OBJECT(s));
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

void pmem_ha_replicator_start(PmemHaDevice *s)
{
    QemuThread thread;

    /* Detached: a connect() that hangs must not hold up the end of QEMU. */
    object_ref(OBJECT(s));
    qemu_thread_create(&thread, "pmem-ha", replicator, s,
                       QEMU_THREAD_DETACHED);
}

void pmem_ha_replicator_stop(PmemHaDevice *s)
{
    QEMU_LOCK_GUARD(&s->lock);

    qatomic_set(&s->quit, true);
    s->link_ready = false;
    qemu_cond_broadcast(&s->work);
    qemu_cond_broadcast(&s->settled);
    pmem_ha_link_shutdown_locked(s);
}

bool pmem_ha_replicator_wait(PmemHaDevice *s, Error **errp)
{
    int64_t deadline = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                       s->replica->connect_timeout_ms;

    QEMU_LOCK_GUARD(&s->lock);
    while (!s->greeted && s->link_state == PMEM_HA_STATE_CONNECTING) {
        int64_t left = deadline - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            break;
        }
        qemu_cond_timedwait(&s->settled, &s->lock, left);
    }
    if (s->greeted) {
        return true;
    }
    if (s->link_state != PMEM_HA_STATE_CONNECTING) {
        error_setg(errp, "pmem-ha device '%s': %s", s->name,
                   error_get_pretty(s->last_error));
        return false;
    }
    error_setg(errp, "pmem-ha device '%s': no replica '%s' at %s within "
               "connect-timeout-ms=%u: %s", s->name, s->export, s->peer,
               s->replica->connect_timeout_ms,
               s->last_error ? error_get_pretty(s->last_error) :
               s->link.ioc ? "what listens there has not answered" :
               "no connection yet");
    error_append_hint(errp, "Start qemu-pmem-replica there, correct the "
                      "address, or let the guest start without it by "
                      "connect-timeout-ms=0.\n");
    return false;
}
