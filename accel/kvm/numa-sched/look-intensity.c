/*
 * NUMA scheduler: how much of its time each group waits for memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "look.h"

/* vCPUs only: others wait for devices, and there may be any number of them. */
static GArray *threads_of(const NsLook *k)
{
    GArray *out = g_array_new(false, false, sizeof(NsMissing));
    g_autoptr(GHashTable) known = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < k->guest->vcpu->len; i++) {
        const NsVcpu *v = &g_array_index(k->guest->vcpu, NsVcpu, i);
        const NsSeenTask *task = g_hash_table_lookup(k->history->task,
                                                     GINT_TO_POINTER(v->tid));
        NsMissing m = { .tid = v->tid, .group = v->group };

        if (task && v->index >= 0 &&
            g_hash_table_add(known, GINT_TO_POINTER(v->tid))) {
            m.local = ns_intensity_local(k->l, task->node);
            g_array_append_val(out, m);
        }
    }
    return out;
}

static void measure(NsLook *k)
{
    g_autoptr(GArray) thread = threads_of(k);
    g_autofree NsWaited *waited = g_new0(NsWaited, k->guest->n);

    k->note = ns_misses_look(k->history->misses, (NsMissing *)thread->data,
                             thread->len, waited, k->guest->n);
    for (uint32_t g = 0; g < k->guest->n; g++) {
        uint32_t *value = &k->member[g]->intensity;
        uint32_t now = ns_intensity(&waited[g]);

        if (now) {
            *value = *value ? ns_smooth(*value, now) : now;
        }
    }
}

void ns_look_at_intensity(NsLook *k)
{
    const NsHistory *h = k->history;

    k->intensity = g_new(NumaSchedIntensitySource, k->guest->n);
    if (h->misses) {
        measure(k);
    }
    for (uint32_t g = 0; g < k->guest->n; g++) {
        uint32_t measured = k->member[g]->intensity;

        k->group[g].intensity = h->intensity >= 0 ? h->intensity :
                                measured ?: NS_INTENSITY;
        k->intensity[g] = h->intensity >= 0 ?
                          NUMA_SCHED_INTENSITY_SOURCE_OPERATOR :
                          measured ? NUMA_SCHED_INTENSITY_SOURCE_PERF :
                          NUMA_SCHED_INTENSITY_SOURCE_DEFAULT;
    }
}
