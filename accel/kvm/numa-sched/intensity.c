/*
 * NUMA scheduler: how much of its time a group waits for memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "intensity.h"
#include "plan.h"

bool ns_counter_since(const NsCounter *before, const NsCounter *now,
                      uint64_t *events, uint64_t *ns)
{
    uint64_t enabled = now->enabled - before->enabled;
    uint64_t running = now->running - before->running;
    double all;

    if (now->value < before->value || now->enabled < before->enabled ||
        now->running <= before->running) {
        return false;
    }
    *events = now->value - before->value;
    *ns = enabled;
    if (running < enabled) {
        all = (double)*events * enabled / running;
        *events = all < INT64_MAX ? (uint64_t)all : INT64_MAX;
    }
    return true;
}

void ns_waited_add(NsWaited *w, uint64_t events, uint32_t ns_each,
                   uint64_t cpu)
{
    uint64_t ns;

    if (umul64_overflow(events, ns_each, &ns) ||
        uadd64_overflow(w->waited, ns, &w->waited)) {
        w->waited = UINT64_MAX;
    }
    if (uadd64_overflow(w->cpu, cpu, &w->cpu)) {
        w->cpu = UINT64_MAX;
    }
}

uint32_t ns_intensity(const NsWaited *w)
{
    if (w->cpu < NS_INTENSITY_SHORTEST) {
        return 0;
    }
    if (w->waited >= w->cpu) {
        return NS_MAX_INTENSITY;
    }
    /* To less than a thousandth of a thousandth, and without an overflow */
    return MAX(w->waited / (w->cpu / NS_MAX_INTENSITY), 1);
}

static uint32_t nearest(const NsLatency *l, uint32_t from, uint32_t best)
{
    for (uint32_t j = 0; j < l->n; j++) {
        uint32_t ns = l->value[from * l->n + j];

        best = ns && (!best || ns < best) ? ns : best;
    }
    return best;
}

uint32_t ns_intensity_local(const NsLatency *l, int node)
{
    uint32_t best = 0;

    if (l->source == NS_SLIT || l->source == NS_FLAT) {
        return NS_INTENSITY_LOCAL;
    }
    if (node >= 0 && node < (int)l->n) {
        best = nearest(l, node, 0);
    } else {
        for (uint32_t i = 0; i < l->n; i++) {
            best = nearest(l, i, best);
        }
    }
    return best ?: NS_INTENSITY_LOCAL;
}
