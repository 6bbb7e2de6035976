/*
 * NUMA scheduler: the policy core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure functions of figures: no file, no clock, no random number, integers
 * only.  docs/devel/numa-sched.rst has the model; the formulas here are its
 * formulas.  Nothing keeps state: any thread may call, also two at once.
 *
 * Nodes are indices here, 0 to n - 1, whatever their ids are.
 */

#ifndef NUMA_SCHED_PLAN_H
#define NUMA_SCHED_PLAN_H

#define NS_PAGE             4096
#define NS_MILLION          1000000
#define NS_MAX_GROUPS       4096
#define NS_MAX_CPU          1000000         /* 1/1000 CPU, of a group or node */
#define NS_MAX_INTENSITY    1000
#define NS_MAX_RATIO        1000000000u
#define NS_MAX_WORKING_SET  (1ull << 50)    /* bytes, of a group on all nodes */
#define NS_MIN_BANDWIDTH    (1ull << 20)    /* bytes/s */
#define NS_MAX_BANDWIDTH    (1ull << 40)
#define NS_BANDWIDTH        (256ull << 20)
#define NS_MAX_HORIZON      3600            /* s; at least 1 */
#define NS_HORIZON          60

/* What a node has; ranges: topology.h */
typedef struct NsPlace {
    uint32_t cpus, cores;       /* online; no target without */
    bool memory;                /* it can take memory that follows */
    uint64_t free;              /* bytes */
    uint64_t used;              /* by others, 1/1000 CPU, at most NS_MAX_CPU */
} NsPlace;

typedef struct NsHost {
    uint32_t n;                 /* 1 to NS_MAX_NODES */
    const NsPlace *node;
    const uint32_t *ratio;      /* n * n: r(i,j), 1 to NS_MAX_RATIO */
    uint64_t bandwidth;         /* B, bytes/s */
    uint32_t horizon;           /* H, s */
} NsHost;

typedef struct NsGroup {
    uint32_t cpu;               /* U */
    uint32_t intensity;         /* m */
    int home;                   /* -1: none */
    bool pinned;
    const uint64_t *bytes;      /* n: working set by node */
    const bool *allowed;        /* n; NULL: all nodes */
} NsGroup;

/* A group on a node; costs in nano-CPU */
typedef struct NsOption {
    uint32_t node;
    bool follow;
    uint64_t run, copy, cold;
    uint64_t bytes;             /* that follow */
} NsOption;

static inline uint64_t ns_option_cost(const NsOption *o)
{
    return o->run + o->copy + o->cold;
}

/*
 * The options of a group, those on allowed nodes with CPUs only, whatever their
 * load: writes at most 2 * n to @out, and returns how many.  On each node, stay
 * comes before follow.
 */
uint32_t ns_options(const NsHost *host, const NsGroup *group, NsOption *out);

/* What sharing cores costs on a node with that load, nano-CPU */
uint64_t ns_share(const NsPlace *place, uint64_t load);

typedef struct NsPlan {
    uint32_t n;                 /* groups */
    bool *placed;
    NsOption *choice;           /* where placed */
    uint64_t *load;             /* by node, 1/1000 CPU, as planned */
    uint64_t total;             /* nano-CPU */
    bool exact;                 /* no valid placement costs less */
} NsPlan;

/* The plan; at most NS_MAX_GROUPS groups */
NsPlan *ns_plan(const NsHost *host, const NsGroup *group, uint32_t n);

void ns_plan_free(NsPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsPlan, ns_plan_free)

/*
 * What it costs when each group stays at its home, with its memory where it is;
 * false: a group has no home, or one without CPUs.
 */
bool ns_cost_of_now(const NsHost *host, const NsGroup *group, uint32_t n,
                    uint64_t *total);

#endif
