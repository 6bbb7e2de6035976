/*
 * NUMA scheduler: how much of its time a group waits for memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What m is, and what is measured of it, is in docs/devel/numa-sched.rst.
 */

#ifndef NUMA_SCHED_INTENSITY_H
#define NUMA_SCHED_INTENSITY_H

#include "latency.h"
#include "perf-event.h"

#define NS_INTENSITY            500         /* when nothing is known */
#define NS_INTENSITY_LOCAL      100         /* ns, if no source says it */
#define NS_INTENSITY_SHORTEST   1000000ull  /* ns of CPU time, to say it */
#define NS_INTENSITY_THREADS    512         /* that are counted, at most */

/*
 * The pure part
 */

/* What read(2) gives, with both times; ns that the thread ran */
typedef struct NsCounter {
    uint64_t value;
    uint64_t enabled;           /* and the event was there */
    uint64_t running;           /* and it was counted */
} NsCounter;

/*
 * Events between two readings, and ns that the thread ran meanwhile; events
 * that were not counted, because counters were shared, are added in
 * proportion.  False: none were counted, or a figure went back.
 */
bool ns_counter_since(const NsCounter *before, const NsCounter *now,
                      uint64_t *events, uint64_t *ns);

/* Of a group, since the last look; ns */
typedef struct NsWaited {
    uint64_t waited;            /* events * latency; at most UINT64_MAX */
    uint64_t cpu;
} NsWaited;

void ns_waited_add(NsWaited *w, uint64_t events, uint32_t ns_each,
                   uint64_t cpu);

/* m, 1 to 1000; 0: it ran too little to say */
uint32_t ns_intensity(const NsWaited *w);

/*
 * ns from CPUs of a node (index; -1: of any) to the nearest memory;
 * NS_INTENSITY_LOCAL where the latencies are in other units
 */
uint32_t ns_intensity_local(const NsLatency *l, int node);

/*
 * Counting (intensity-perf.c).  One thread at a time for each NsMisses.
 */

typedef struct NsMisses NsMisses;

/* A thread whose misses are counted */
typedef struct NsMissing {
    int tid;
    uint32_t group;             /* index */
    uint32_t local;             /* ns, of one miss */
} NsMissing;

/* @type, @config: of the event, as for perf_event_open(2); opens nothing */
NsMisses *ns_misses_new(const NsPerfSys *sys, void *opaque, uint32_t type,
                        uint64_t config);

/* The same, of what the hardware calls misses of its last cache */
NsMisses *ns_misses_new_linux(void);

void ns_misses_free(NsMisses *m);

/*
 * Take down @n threads, of which the first that there are descriptors for are
 * counted, and forget others.  What was counted since the last look is added
 * to the @groups entries of @group.  Returns a note for people, which the
 * caller frees, when it is refused; it is not tried again then.  NULL
 * otherwise, also where the host has no counters.
 */
char *ns_misses_look(NsMisses *m, const NsMissing *thread, uint32_t n,
                     NsWaited *group, uint32_t groups);

/* Threads that are counted now */
uint32_t ns_misses_threads(const NsMisses *m);

#endif
