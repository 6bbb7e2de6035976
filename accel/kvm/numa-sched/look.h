/*
 * NUMA scheduler: one look at the guest and the host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The sampler's thread only.
 */

#ifndef NUMA_SCHED_LOOK_H
#define NUMA_SCHED_LOOK_H

#include "affinity.h"
#include "guest.h"
#include "intensity.h"
#include "latency.h"
#include "plan.h"
#include "qapi/qapi-types-numa-sched.h"
#include "step.h"
#include "topology.h"
#include "usage.h"
#include "working-vcpu.h"

/* What is remembered of a group, by its name */
typedef struct NsMember {
    NsStay stay;
    uint64_t *bytes;            /* by node, smoothed; NULL: not known */
    NsRest rest;
    uint32_t cpu;               /* smoothed, 1/1000 */
    uint32_t intensity;         /* measured, smoothed, 1/1000; 0: not known */
    int home;                   /* id of the node; -1: not known */
    uint32_t *share;            /* of bytes, used; 1/1000; NULL: not known */
    int64_t share_at;           /* ns */
    int64_t watched_at;         /* ns: when that was last tried; 0: never */
    int64_t window;             /* ns: in which it is then; 0: not yet known */
    uint64_t seen;              /* the look in which it was there last */
} NsMember;

/* What is remembered of a thread, by its id */
typedef struct NsSeenTask {
    NsTask now;
    int64_t at;                 /* ns */
    uint32_t cpu;               /* smoothed, 1/1000 */
    bool known;                 /* there is a figure to smooth */
    int node;                   /* index; -1: not known */
    uint64_t seen;
} NsSeenTask;

/* What is remembered from one look to the next */
typedef struct NsHistory {
    uint64_t looks;
    uint32_t n;                 /* nodes of the last look, and their ids */
    uint32_t *id;
    uint32_t *used;             /* by others, smoothed, 1/1000 */
    GHashTable *member, *task;
    uint64_t *busy, *busy_now;  /* of the host's CPUs, by id */
    int64_t busy_at;            /* ns; 0: never */
    int intensity;              /* the operator's; -1: none was given */
    NsMisses *misses;           /* NULL: they are not counted */
} NsHistory;

void ns_history_init(NsHistory *history);
void ns_history_clear(NsHistory *history);

/* A thread of the guest, whatever number of vCPUs run in it */
typedef struct NsThread {
    int tid;
    uint32_t group;
    uint32_t cpu;               /* with waiting, smoothed, 1/1000 */
    uint32_t run;               /* without, since the last look */
    int node;                   /* index; -1: not known */
    int before;                 /* the same of the last look */
    NsBound bound;
} NsThread;

typedef struct NsLook {
    NsHistory *history;
    const NsGuest *guest;
    const NsVcpuSets *sets;     /* NULL: not known */
    NsTopology *t;
    NsLatency *l;
    int64_t now;                /* ns */
    int *node_of_cpu;
    GArray *thread;             /* NsThread */
    NsPlace *place;
    NsGroup *group;
    NsPhase *phase;
    NsMember **member;          /* by group */
    uint64_t *bytes, *absent;   /* n * nodes; n */
    uint64_t *resident;         /* n: of which bytes are the working set */
    bool *measured;             /* n: they are; otherwise all of it */
    bool *fixed, *allowed;      /* n; n * nodes */
    NumaSchedIntensitySource *intensity;    /* n: of those in @group */
    char *note;                 /* what could not be done; NULL: nothing */
} NsLook;

/*
 * Fill in what follows from @history, @guest, @sets, @t and @l, which are set:
 * threads, nodes, groups.  @root: see topology.h.  What can not be read counts
 * as nothing.
 */
void ns_look(NsLook *look, const char *root);

/* Its last part: the intensities of @group, whose rest is set */
void ns_look_at_intensity(NsLook *look);

void ns_look_clear(NsLook *look);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NsLook, ns_look_clear)

#endif
