/*
 * NUMA scheduler: threads and memory of the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_GUEST_H
#define NUMA_SCHED_GUEST_H

#include "workers.h"

/*
 * A vCPU and the thread that it runs in; with icount they may share one.  Or a
 * thread that works for the guest: an iothread, or a worker of vhost.
 */
typedef struct NsVcpu {
    int index;                  /* -1: no vCPU */
    int tid;
    uint32_t group;
} NsVcpu;

/* Memory of a group, as QEMU has it mapped */
typedef struct NsGuestRange {
    const void *host;
    uint64_t bytes;
    uint64_t page;              /* size of the pages behind it */
    uint32_t group;
} NsGuestRange;

/*
 * Groups are the guest's nodes that have vCPUs.  A guest without nodes is one
 * group, or one for each vCPU if it has more of them than a node of the host
 * has CPUs; the memory is then nobody's.  vCPUs that share a thread are one
 * group, whatever the guest's nodes are.  Other threads belong to the group
 * when there is one only.
 */
typedef struct NsGuest {
    uint32_t n;                 /* groups */
    char **name;                /* "node0", "vcpu0" or "guest" */
    int *node;                  /* of the guest, by group; -1: it has none */
    GArray *vcpu;               /* NsVcpu */
    GArray *range;              /* NsGuestRange */
} NsGuest;

/*
 * What there is now.  @largest: CPUs of the host's largest node.  @workers: the
 * caller's, for all looks.  BQL; the result is the caller's, and ranges in it
 * may be unmapped at any time after.
 */
NsGuest *ns_guest_look(uint32_t largest, NsWorkers *workers);

void ns_guest_free(NsGuest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsGuest, ns_guest_free)

#endif
