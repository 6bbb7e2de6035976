/*
 * NUMA scheduler: how far memory is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: of a topology and of what was said or measured.  The sources, and their
 * order, are in docs/devel/numa-sched.rst.
 */

#ifndef NUMA_SCHED_LATENCY_H
#define NUMA_SCHED_LATENCY_H

#include "topology.h"

/* The best first, as NumaLatencySource */
typedef enum NsSource {
    NS_OPERATOR,
    NS_HMAT,
    NS_MEASURED,
    NS_ACCESS,
    NS_SLIT,
    NS_FLAT,
} NsSource;

/* n * n by index of nodes, nanoseconds; 0: not known */
typedef struct NsGiven {
    NsSource source;            /* NS_OPERATOR, NS_HMAT or NS_MEASURED */
    const uint32_t *ns;
} NsGiven;

typedef struct NsLatency {
    uint32_t n;
    /*
     * [i * n + j]: from CPUs of i to memory of j; ns, or tenths of a local
     * access for SLIT and FLAT
     */
    uint32_t *value;
    uint32_t *ratio;            /* in millionths of L0; 1 to NS_MAX_RATIO */
    NsSource source;            /* of all entries */
} NsLatency;

/*
 * The matrix from the best source that has it: one of @given, which may be in
 * any order, or what the topology has.
 */
NsLatency *ns_latency(const NsTopology *t, const NsGiven *given,
                      uint32_t n_given);

void ns_latency_free(NsLatency *l);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsLatency, ns_latency_free)

/*
 * An operator's file: lines of "FROM TO NANOSECONDS" with node ids, blank
 * lines, and comments from '#' on.  Each pair of a node with CPUs and a
 * node with memory has to be there, once.  NULL with @errp set otherwise.
 */
uint32_t *ns_latency_parse(const NsTopology *t, const char *name,
                           const char *buf, size_t len, Error **errp);

#endif
