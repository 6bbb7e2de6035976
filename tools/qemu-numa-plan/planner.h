/*
 * qemu-numa-plan: place a workload on a host's NUMA nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The policy is accel/kvm/numa-sched/; here are its input and its output.
 */

#ifndef QEMU_NUMA_PLAN_PLANNER_H
#define QEMU_NUMA_PLAN_PLANNER_H

#include "accel/kvm/numa-sched/answer.h"
#include "accel/kvm/numa-sched/latency-read.h"

/* Figures of one workload on a host, as the policy takes them */
typedef struct Workload {
    NsHost host;
    NsPlace *place;             /* host.node */
    NsGroup *group;
    char **name;                /* by group; of the NumaPlanWorkload */
    uint32_t n;
    uint64_t *bytes;            /* of all groups */
    bool *allowed;
} Workload;

/*
 * Check @w against the host, and give it defaults.  False with @errp set, which
 * names the group and the member: an id the host has not, a figure out of its
 * range, two groups of one name.  @out has to be cleared in each case.
 */
bool workload_convert(const NsTopology *t, const NsLatency *l,
                      const NumaPlanWorkload *w, Workload *out, Error **errp);
void workload_clear(Workload *w);

/* Print it for people */
void text_print(const NsTopology *t, const NsLatency *l, const NumaPlan *answer,
                bool places);

#endif
