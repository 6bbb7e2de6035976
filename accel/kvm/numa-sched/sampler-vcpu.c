/*
 * NUMA scheduler: when it is measured what vCPUs write
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In place of sampler-working.c where the estimator is dirty-ring: rings are
 * reaped once a second, which is too seldom for its windows, but they say who
 * wrote.  One window has some reaps, so that it does not matter when they are.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "residency.h"
#include "ring.h"
#include "sampler-int.h"

#define PERIOD  (30ll * NANOSECONDS_PER_SECOND)
#define WINDOW  (5ll * NANOSECONDS_PER_SECOND)

struct NsVcpuWatch {
    NsRing *ring;               /* NULL: not now */
    int64_t began, due;         /* ns; 0: never, INT64_MAX: nothing is */
    uint64_t *page;             /* of a window that is over, to be counted */
    uint32_t n;
    NsVcpuSets *sets;
};

static NsVcpuWatch *watch_of(NsSampler *s)
{
    if (!s->vcpus) {
        s->vcpus = g_new0(NsVcpuWatch, 1);
        s->vcpus->due = INT64_MAX;
        s->vcpus->sets = ns_vcpu_sets_new();
    }
    return s->vcpus;
}

static void note(NsSampler *s, const char *why)
{
    ns_sampler_note(s, g_strdup_printf("numa-sched '%s': working sets are not "
                    "measured: %s; all memory of a group counts", s->id, why));
}

/* Working sets of groups that have memory of their own are parts of that. */
static void share_memory(const NsLook *k, const NsVcpuSets *sets)
{
    for (uint32_t g = 0; g < k->guest->n; g++) {
        const uint64_t *written = ns_vcpu_sets_group(sets, k->t,
                                                     k->guest->name[g], k->now);
        NsMember *m = k->member[g];

        if (!written || !k->resident[g] || !m->bytes) {
            continue;
        }
        if (!m->share) {
            m->share = g_new(uint32_t, k->t->n);
        }
        for (uint32_t j = 0; j < k->t->n; j++) {
            m->share[j] = ns_written_share(written[j], m->bytes[j]);
        }
        m->share_at = k->now;
    }
}

void ns_sampler_look_at_vcpus(NsSampler *s, const NsLook *k)
{
    NsVcpuWatch *w;
    Error *err = NULL;

    /* Where nothing is far, it makes no difference what is written. */
    if (!s->working_sets || k->t->n < 2) {
        return;
    }
    w = watch_of(s);
    if (w->page) {
        if (ns_vcpu_sets_add(w->sets, w->page, w->n, k->guest, k->t, k->now,
                             ns_nodes_of)) {
            share_memory(k, w->sets);
        }
        g_clear_pointer(&w->page, g_free);
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->paused || s->stop) {
            return;
        }
    }
    if (w->ring || (w->began && k->now - w->began < PERIOD)) {
        return;
    }
    w->began = k->now;
    w->ring = ns_ring_open(NULL, 0, true, &err);
    if (w->ring) {
        w->due = k->now + WINDOW;
    } else {
        note(s, error_get_pretty(err));
        error_free(err);
    }
}

void ns_sampler_step_vcpus(NsSampler *s)
{
    NsVcpuWatch *w = s->vcpus;
    uint64_t began = ns_thread_us(), lost = 0;
    const uint64_t *page;
    Error *err = NULL;

    if (!w || !w->ring || get_clock() < w->due) {
        return;
    }
    page = ns_ring_take(w->ring, &w->n, &lost, &err);
    if (page) {
        /* One more, so that there is something when nothing was written */
        w->page = g_new(uint64_t, (size_t)w->n + 1);
        memcpy(w->page, page, w->n * sizeof(*page));
    } else {
        note(s, error_get_pretty(err));
        error_free(err);
    }
    if (lost) {
        ns_sampler_note(s, g_strdup_printf("numa-sched '%s': vCPUs wrote more "
                        "than the %u pages that are kept in a measurement: what"
                        " they wrote is at least what is shown", s->id,
                        NS_RING_MOST));
    }
    g_clear_pointer(&w->ring, ns_ring_close);
    w->due = INT64_MAX;
    s->microseconds += ns_thread_us() - began;
}

int64_t ns_sampler_vcpus_due(const NsSampler *s)
{
    return s->vcpus ? s->vcpus->due : INT64_MAX;
}

const NsVcpuSets *ns_sampler_vcpu_sets(const NsSampler *s)
{
    return s->vcpus ? s->vcpus->sets : NULL;
}

void ns_sampler_stop_vcpus(NsSampler *s)
{
    NsVcpuWatch *w = s->vcpus;

    if (w) {
        if (w->ring) {
            ns_ring_close(w->ring);
        }
        ns_vcpu_sets_free(w->sets);
        g_free(w->page);
        g_free(w);
        s->vcpus = NULL;
    }
}
