/*
 * pmem-ha: pause the guest while a flush can not be acknowledged
 *
 * A guest whose vCPU hangs in a store for long reports soft lockups and RCU
 * stalls.  So the whole guest is paused, clocks included, once a flush waits
 * for more than a second, and goes on when it is acknowledged.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-misc.h"
#include "qapi/qapi-events-pmem-ha.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "internal.h"
#include "trace.h"

#define STALL_TICK_MS 100

PmemHaState pmem_ha_state_locked(PmemHaDevice *s)
{
    switch (s->link_state) {
    case PMEM_HA_STATE_STANDALONE:
    case PMEM_HA_STATE_FENCED:
    case PMEM_HA_STATE_FAILED:
        return s->link_state;
    case PMEM_HA_STATE_IN_SYNC:
        if (s->stalled) {
            return PMEM_HA_STATE_STALLED;
        }
        if (s->mode == PMEM_HA_MODE_ASYNC && s->epoch) {
            return PMEM_HA_STATE_LAGGING;
        }
        return s->link_state;
    default:
        return s->stalled ? PMEM_HA_STATE_STALLED : s->link_state;
    }
}

void pmem_ha_announce_locked(PmemHaDevice *s, const char *reason)
{
    PmemHaState state = pmem_ha_state_locked(s);
    PmemHaState previous = s->shown;

    if (state == previous) {
        return;
    }
    s->shown = state;
    trace_pmem_ha_state(s->name, PmemHaState_str(previous),
                        PmemHaState_str(state), reason ?: "");
    qapi_event_send_pmem_ha_state(s->name, state, previous, reason);
}

/* Age of the oldest flush that is not satisfied; -1 without one. */
static int64_t oldest_wait_ms_locked(PmemHaDevice *s)
{
    int64_t now = get_clock();
    int64_t age = -1;
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (w->target > s->rec.acked) {
            age = MAX(age, (now - w->since_ns) / SCALE_MS);
        }
    }
    return age;
}

static void pmem_ha_stall_tick(void *opaque)
{
    PmemHaDevice *s = opaque;
    bool pause = false;
    bool waiting;
    int64_t age;

    pmem_ha_forget_unplugged(s);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        waiting = s->waiters->len;
        if (s->stalled && s->paused_by_us && s->loaded &&
            runstate_check(RUN_STATE_IO_ERROR)) {
            /* Paused where it came from; it goes on here when it can. */
            pmem_ha_take_locked(s);
        }
        age = oldest_wait_ms_locked(s);
        /*
         * With vCPUs held for an epoch that is being sent, of whichever device,
         * all is well; a pause would only cancel it.
         */
        if (age >= PMEM_HA_STALL_MS && runstate_is_running() &&
            !pmem_ha_any_direct_hold()) {
            g_autofree char *reason = NULL;

            reason = g_strdup_printf("a flush waits for replica '%s' at %s: %s",
                                     s->export, s->peer,
                                     s->last_error ?
                                     error_get_pretty(s->last_error) :
                                     "no answer yet");
            s->stalled = true;
            pause = true;
            pmem_ha_announce_locked(s, reason);
        }
    }
    if (pause) {
        s->paused_by_us = s->on_link_loss == PMEM_HA_LINK_LOSS_STALL;
        vm_stop(RUN_STATE_IO_ERROR);
    }
    if (waiting) {
        timer_mod(s->stall_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + STALL_TICK_MS);
    }
}

void pmem_ha_stall_arm(PmemHaDevice *s)
{
    if (!timer_pending(s->stall_timer)) {
        timer_mod(s->stall_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + STALL_TICK_MS);
    }
}

static void go_on(PmemHaDevice *s)
{
    Error *err = NULL;

    if (!s->came_paused) {
        vm_start();
        return;
    }
    /* Its disks are not active yet, as after any incoming migration. */
    s->came_paused = false;
    qmp_cont(&err);
    if (err) {
        error_reportf_err(err, "pmem-ha device '%s': the guest can not go on: ",
                          s->name);
    }
}

static void pmem_ha_settle_bh(void *opaque)
{
    PmemHaDevice *s = opaque;
    bool stop, resume = false;

    pmem_ha_adopt_settle(s);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        stop = s->stop_vm;
        s->stop_vm = false;
        if (s->stalled && oldest_wait_ms_locked(s) < 0) {
            s->stalled = false;
            resume = true;
        }
        pmem_ha_announce_locked(s, NULL);
    }
    if (stop) {
        /* Another device may have paused it: then it must not end that. */
        pmem_ha_stay_paused();
        if (runstate_is_running()) {
            vm_stop(RUN_STATE_IO_ERROR);
        }
    } else if (resume && s->paused_by_us) {
        s->paused_by_us = false;
        /* Unless somebody wants it stopped, or put it into another state. */
        if (runstate_check(RUN_STATE_IO_ERROR) && !vm_get_stop_asked()) {
            go_on(s);
        }
    }
}

void pmem_ha_stall_settle(PmemHaDevice *s)
{
    if (s->settle_bh) {
        qemu_bh_schedule(s->settle_bh);
    }
}

/* A guest that lost the right to write must not be let go on. */
static void pmem_ha_vm_state(void *opaque, bool running, RunState state)
{
    PmemHaDevice *s = opaque;
    bool fenced;

    if (!running && s->gives_image) {
        /* Before any device is saved, since the BQL is let go meanwhile. */
        pmem_ha_drain_to_give(s);
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        fenced = s->link_state == PMEM_HA_STATE_FENCED;
        if (running && !fenced) {
            pmem_ha_take_locked(s);
        }
    }
    if (running && fenced) {
        CPUState *cpu;

        /* The stop is a request: until it is served, nothing must run. */
        CPU_FOREACH(cpu) {
            cpu->flush_blocked = true;
        }
        error_report("pmem-ha device '%s': the replica was promoted, this "
                     "guest must not go on; use the promoted image", s->name);
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
    }
}

/* See check_unclean(). */
static void pmem_ha_beat(void *opaque)
{
    PmemHaDevice *s = opaque;

    if (runstate_is_running()) {
        pmem_ha_state_touch(s->state_file);
    }
    timer_mod(s->beat_timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + PMEM_HA_BEAT_MS);
}

void pmem_ha_stall_init(PmemHaDevice *s)
{
    if (s->state_file && s->replica) {
        s->beat_timer = timer_new_ms(QEMU_CLOCK_REALTIME, pmem_ha_beat, s);
        timer_mod(s->beat_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  PMEM_HA_BEAT_MS);
    }
    s->stall_timer = timer_new_ms(QEMU_CLOCK_REALTIME, pmem_ha_stall_tick, s);
    s->settle_bh = qemu_bh_new_guarded(pmem_ha_settle_bh, s,
                                       &DEVICE(s)->mem_reentrancy_guard);
    s->vmstate = qemu_add_vm_change_state_handler(pmem_ha_vm_state, s);
}

void pmem_ha_stall_cleanup(PmemHaDevice *s)
{
    qemu_del_vm_change_state_handler(s->vmstate);
    timer_free(s->beat_timer);
    timer_free(s->stall_timer);
    QEMU_LOCK_GUARD(&s->lock);
    qemu_bh_delete(s->settle_bh);
    s->settle_bh = NULL;
}
