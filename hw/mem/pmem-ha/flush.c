/*
 * pmem-ha: flushes that wait for their epoch
 *
 * A vCPU whose flush waits sleeps as if it were halted, with the BQL free,
 * and still serves its work queue.  Waiting in the MMIO handler or in a work
 * item instead hangs "stop" and every caller of run_on_cpu().
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "internal.h"
#include "trace.h"

/* In the vCPU's own thread, with the BQL: nobody races with its flag. */
static void pmem_ha_unblock_work(CPUState *cpu, run_on_cpu_data data)
{
    PmemHaDevice *s = data.host_ptr;
    bool found = false;
    unsigned i;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        for (i = 0; i < s->waiters->len; i++) {
            PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

            /* A stale item must not release a later flush of this vCPU. */
            if (w->cpu == cpu && w->target <= s->rec.acked) {
                uint64_t us = (get_clock() - w->since_ns) / SCALE_US;

                pmem_ha_histogram_add(&s->flush_us, us);
                trace_pmem_ha_flush_done(s->name, cpu->cpu_index, w->target,
                                         us);
                g_array_remove_index_fast(s->waiters, i);
                found = true;
                break;
            }
        }
    }
    if (found) {
        /* One instruction can write the hints of two devices. */
        cpu->flush_blocked = pmem_ha_cpu_waits(cpu);
        pmem_ha_crash_point("waiter-released");
        object_unref(OBJECT(cpu));
    }
    object_unref(OBJECT(s));
}

void pmem_ha_release_locked(PmemHaDevice *s)
{
    bool waiting = false;
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (w->target > s->rec.acked) {
            waiting = true;
        } else if (!w->releasing && !w->cpu->unplug) {
            w->releasing = true;
            object_ref(OBJECT(s));
            async_run_on_cpu(w->cpu, pmem_ha_unblock_work,
                             RUN_ON_CPU_HOST_PTR(s));
        }
    }
    if (!waiting && s->stalled) {
        pmem_ha_stall_settle(s);
    }
}

/*
 * A waiter that is satisfied counts no more: with one thread for all vCPUs, its
 * release may stand in line behind the captures that it would ask for.
 */
static bool any_unsatisfied_locked(PmemHaDevice *s)
{
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (w->target > s->rec.acked && !w->cpu->unplug) {
            return true;
        }
    }
    return false;
}

void pmem_ha_kick_capture_locked(PmemHaDevice *s)
{
    CPUState *cpu = current_cpu;

    if (!s->link_ready || s->epoch || s->capture_queued || s->capturing ||
        !(s->want_epoch || s->copy_running || any_unsatisfied_locked(s))) {
        return;
    }
    if (!cpu) {
        /* The first vCPU is never unplugged on these machines. */
        RCU_READ_LOCK_GUARD();
        cpu = first_cpu;
    }
    s->capture_queued = true;
    object_ref(OBJECT(s));
    async_safe_run_on_cpu(cpu, pmem_ha_capture_work, RUN_ON_CPU_HOST_PTR(s));
}

static void kick_vcpus_with_work(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (!cpu_work_list_empty(cpu)) {
            qemu_cpu_kick(cpu);
        }
    }
}

/*
 * A vCPU looks at its queue, and sleeps when that is empty, under the BQL.
 * Work that was queued in between without the BQL has woken nobody.
 */
void pmem_ha_wake_vcpus(void)
{
    if (bql_locked()) {
        kick_vcpus_with_work();
    } else {
        bql_lock();
        kick_vcpus_with_work();
        bql_unlock();
    }
}

/*
 * What changed since the epoch under way, for max-lag.  Counting takes time in
 * proportion to the device: no more than a tenth of the guest's goes there.
 */
static uint64_t dirty_for_lag(PmemHaDevice *s)
{
    int64_t start = get_clock();

    if (start >= s->lag_next_ns) {
        pmem_ha_vhost_fetch(s);
        s->lag_dirty = pmem_ha_dirty_bytes(s, s->max_lag);
        s->lag_next_ns = get_clock() + (get_clock() - start) * 10;
    }
    return s->lag_dirty;
}

/*
 * One instruction can write to hints more than once, of one device or of those
 * of a group: its vCPU waits for the last of these flushes.
 */
static void add_waiter_locked(PmemHaDevice *s, PmemHaWaiter *w)
{
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        PmemHaWaiter *old = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (old->cpu == w->cpu) {
            old->target = MAX(old->target, w->target);
            /* Work that is queued for an earlier target lets nothing go. */
            old->releasing = false;
            return;
        }
    }
    object_ref(OBJECT(w->cpu));
    g_array_append_val(s->waiters, *w);
}

void pmem_ha_flush(PmemHaDevice *s, CPUState *cpu)
{
    PmemHaWaiter w = {
        .cpu = cpu,
        .since_ns = get_clock(),
    };
    bool wait = cpu;
    uint64_t dirty = 0;

    assert(bql_locked());
    s = s->leader;
    if (pmem_ha_mirrors(s) && s->mode == PMEM_HA_MODE_ASYNC) {
        dirty = dirty_for_lag(s);
    }

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->flushes++;
        s->last_flush_ns = w.since_ns;
        if (!pmem_ha_mirrors(s)) {
            return;
        }
        if (s->mode == PMEM_HA_MODE_ASYNC) {
            /* Without an epoch under way, this flush begins one. */
            wait &= !s->link_ready ||
                    (s->epoch && s->epoch->bytes + dirty > s->max_lag);
        }
        if (wait) {
            /* What is being captured now may have passed our pages (I2). */
            w.target = s->rec.captured + (s->capturing ? 2 : 1);
            add_waiter_locked(s, &w);
            cpu->flush_blocked = true;
        } else {
            s->want_epoch = true;
        }
        trace_pmem_ha_flush(s->name, cpu ? cpu->cpu_index : -1, w.target);
        pmem_ha_crash_point("flush-queued");
        pmem_ha_kick_capture_locked(s);
    }
    if (wait) {
        pmem_ha_stall_arm(s);
        /* Leave guest code even if the capture is already under way. */
        qemu_cpu_kick(cpu);
    }
}

void pmem_ha_resubmit(PmemHaDevice *s, CPUState *cpu)
{
    PmemHaWaiter w = {
        .cpu = cpu,
        .target = UINT64_MAX,
        .since_ns = get_clock(),
    };

    assert(bql_locked());

    object_ref(OBJECT(cpu));
    cpu->flush_blocked = true;
    QEMU_LOCK_GUARD(&s->lock);
    g_array_append_val(s->waiters, w);
}

void pmem_ha_aim_waiters_locked(PmemHaDevice *s)
{
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        g_array_index(s->waiters, PmemHaWaiter, i).target =
            s->rec.captured + (s->capturing ? 2 : 1);
    }
    pmem_ha_kick_capture_locked(s);
}

void pmem_ha_forget_unplugged(PmemHaDevice *s)
{
    unsigned i = 0;

    assert(bql_locked());

    QEMU_LOCK_GUARD(&s->lock);
    while (i < s->waiters->len) {
        PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (w->cpu->unplug) {
            trace_pmem_ha_flush_dropped(s->name, w->cpu->cpu_index, w->target);
            object_unref(OBJECT(w->cpu));
            g_array_remove_index_fast(s->waiters, i);
        } else {
            i++;
        }
    }
    pmem_ha_release_locked(s);
}

void pmem_ha_drop_waiters(PmemHaDevice *s)
{
    CPUState *cpu;

    assert(bql_locked());

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        unsigned i;

        for (i = 0; i < s->waiters->len; i++) {
            PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

            trace_pmem_ha_flush_dropped(s->name, w->cpu->cpu_index, w->target);
            object_unref(OBJECT(w->cpu));
        }
        g_array_set_size(s->waiters, 0);
        pmem_ha_release_locked(s);
    }
    CPU_FOREACH(cpu) {
        cpu->flush_blocked = pmem_ha_cpu_waits(cpu);
    }
}
