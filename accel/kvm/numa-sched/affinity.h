/*
 * NUMA scheduler: on which CPUs a thread may run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_AFFINITY_H
#define NUMA_SCHED_AFFINITY_H

#include "topology.h"

/* What a thread's affinity says of the nodes */
typedef struct NsBound {
    int node;                   /* index of the only one; -1: several or none */
    bool narrow;                /* it may run on a part of that node's CPUs */
} NsBound;

/*
 * The CPUs of a set, @cpu being those that are allowed, by id.  CPUs that no
 * node has do not count.
 */
NsBound ns_bound(const NsTopology *t, const bool *cpu, uint32_t n);

/* Clear @whole[i] where a node has no CPUs, or not all are in such a set. */
void ns_not_whole(const NsTopology *t, const bool *cpu, uint32_t n,
                  bool *whole);

/*
 * Ask the kernel for a thread of this process (sched_setaffinity(2)): @cpu[id]
 * for the NS_MAX_CPUS ids.  False: it is gone, or must not be asked for.
 */
bool ns_affinity_read(int tid, bool *cpu);

/*
 * Bind a thread of this process to the CPUs with @cpu[id].  0, or a negative
 * errno: -ESRCH when it is gone, -EPERM when QEMU may not (-sandbox with
 * resourcecontrol=deny), -EINVAL when the cpuset has none of them.
 */
int ns_affinity_write(int tid, const bool *cpu);

/* The CPUs of a node as in a cpuset, such as "0-3,8"; the caller frees it */
char *ns_cpu_list(const NsNode *node);

#endif
