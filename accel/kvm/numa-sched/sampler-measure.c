/*
 * NUMA scheduler: the thread that measures latencies, once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Not the sampler's thread, which has looks to do meanwhile, and whose affinity
 * is QEMU's.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "measure.h"
#include "sampler-int.h"

/* Also when there is no need to wait, it may have been told to stop. */
static bool rest(void *opaque, uint64_t ns)
{
    NsSampler *s = opaque;
    int64_t until = get_clock() + ns, now;

    QEMU_LOCK_GUARD(&s->lock);
    while (!s->stop && (now = get_clock()) < until) {
        qemu_cond_timedwait(&s->measure_cond, &s->lock,
                            (until - now) / SCALE_MS + 1);
    }
    return !s->stop;
}

static void *measure_thread(void *opaque)
{
    NsSampler *s = opaque;
    g_autoptr(NsTopology) t = ns_topology_read(s->root, NULL);
    NsMeasureConfig c = {
        .budget = NS_MEASURE_BUDGET, .duty = NS_MEASURE_DUTY,
        .rest = rest, .rest_opaque = s,
    };
    g_autofree char *why = NULL;
    NsMeasured *m = t ? ns_measure(t, &c, &why) : NULL;

    if (why) {
        ns_sampler_note(s, g_strdup_printf(
            "numa-sched '%s' property 'measure-latency': latencies are not "
            "measured: %s; property 'latency' takes a file of what "
            "'qemu-numa-plan --measure' found", s->id, why));
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->measured = m;
    return NULL;
}

void ns_sampler_measure(NsSampler *s)
{
    qemu_cond_init(&s->measure_cond);
    s->measures = true;
    qemu_thread_create(&s->measure, "numa-measure", measure_thread, s,
                       QEMU_THREAD_JOINABLE);
}

void ns_sampler_measure_end(NsSampler *s)
{
    if (s->measures) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            qemu_cond_signal(&s->measure_cond);
        }
        qemu_thread_join(&s->measure);
        qemu_cond_destroy(&s->measure_cond);
    }
}

uint32_t *ns_sampler_measured(NsSampler *s, const NsTopology *t)
{
    /* The first look comes before the lock. */
    if (!s->measures) {
        return NULL;
    }
    QEMU_LOCK_GUARD(&s->lock);
    return ns_measured_now(s->measured, t);
}
