/*
 * NUMA scheduler: on which CPUs a thread may run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sched.h>
#include "affinity.h"

NsBound ns_bound(const NsTopology *t, const bool *cpu, uint32_t n)
{
    NsBound b = { .node = -1 };

    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t allowed = 0;

        for (uint32_t k = 0; k < t->node[i].cpus; k++) {
            allowed += t->node[i].cpu[k] < n && cpu[t->node[i].cpu[k]];
        }
        if (allowed && b.node >= 0) {
            return (NsBound) { .node = -1 };
        }
        if (allowed) {
            b.node = i;
            b.narrow = allowed < t->node[i].cpus;
        }
    }
    return b;
}

void ns_not_whole(const NsTopology *t, const bool *cpu, uint32_t n,
                  bool *whole)
{
    for (uint32_t i = 0; i < t->n; i++) {
        whole[i] &= t->node[i].cpus > 0;
        for (uint32_t k = 0; k < t->node[i].cpus; k++) {
            uint32_t id = t->node[i].cpu[k];

            whole[i] &= id < n && cpu[id];
        }
    }
}

bool ns_affinity_read(int tid, bool *cpu)
{
    size_t size = CPU_ALLOC_SIZE(NS_MAX_CPUS);
    cpu_set_t *set = CPU_ALLOC(NS_MAX_CPUS);
    bool ok = set && !sched_getaffinity(tid, size, set);

    for (uint32_t i = 0; ok && i < NS_MAX_CPUS; i++) {
        cpu[i] = CPU_ISSET_S(i, size, set);
    }
    CPU_FREE(set);
    return ok;
}

int ns_affinity_write(int tid, const bool *cpu)
{
    g_autofree char *task = g_strdup_printf("/proc/self/task/%d", tid);
    size_t size = CPU_ALLOC_SIZE(NS_MAX_CPUS);
    cpu_set_t *set = CPU_ALLOC(NS_MAX_CPUS);
    /* The kernel would take the thread of any process. */
    int ret = !set ? -ENOMEM : access(task, F_OK) ? -ESRCH : 0;

    if (!ret) {
        CPU_ZERO_S(size, set);
        for (uint32_t i = 0; i < NS_MAX_CPUS; i++) {
            if (cpu[i]) {
                CPU_SET_S(i, size, set);
            }
        }
        ret = sched_setaffinity(tid, size, set) ? -errno : 0;
    }
    CPU_FREE(set);
    return ret;
}

char *ns_cpu_list(const NsNode *node)
{
    GString *s = g_string_new(NULL);

    for (uint32_t i = 0, j; i < node->cpus; i = j + 1) {
        j = i;
        while (j + 1 < node->cpus && node->cpu[j + 1] == node->cpu[j] + 1) {
            j++;
        }
        g_string_append_printf(s, "%s%u", i ? "," : "", node->cpu[i]);
        if (j > i) {
            g_string_append_printf(s, "-%u", node->cpu[j]);
        }
    }
    return g_string_free(s, false);
}
