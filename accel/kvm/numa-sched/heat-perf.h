/*
 * NUMA scheduler: the use of pages, by sampled accesses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_HEAT_PERF_H
#define NUMA_SCHED_HEAT_PERF_H

#include "heat.h"
#include "perf-sysfs.h"

#define NS_PERF_THREADS     512
#define NS_PERF_RATE        1000            /* samples of a thread, a second */
#define NS_PERF_MOST        65536           /* samples in one look */
#define NS_PERF_RING        16              /* pages, at most */
#define NS_PERF_FRAMES      (1ull << 22)    /* pages that are gone through */

/*
 * Do threads of QEMU access the guest's memory at QEMU's own addresses, as TCG
 * does?  Under KVM, which is what is assumed, these are the guest's.  Before
 * anything is opened.
 */
void ns_perf_own_addresses(bool own);

typedef struct NsPerfSampling {
    const char *name;           /* for people */
    NsPerfEvent event[2];
    uint32_t n;
    uint64_t period;            /* events; 0: NS_PERF_RATE */
    bool precise;               /* only then there are addresses */
    bool all_levels;            /* it can not leave out the kernel's */
    bool typed;                 /* it says which are loads and stores */
    bool physical;              /* addresses */
} NsPerfSampling;

/* For tests: as ns_heat_perf.open(), with events that are given */
void *ns_perf_open_event(const NsPerfSampling *sampling,
                         const NsHeatRange *range, uint32_t n, Error **errp);

/* For tests: find the events below @devices; false with @errp set: none */
bool ns_perf_choose(const char *devices, NsPerfSampling *sampling,
                    Error **errp);

/* For tests: threads that are sampled */
uint32_t ns_perf_threads(const void *opaque);

#endif
