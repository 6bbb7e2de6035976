/*
 * NUMA scheduler: samples in a ring buffer of perf_event_open(2)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: what is in the ring may be anything.
 */

#ifndef NUMA_SCHED_PERF_RING_H
#define NUMA_SCHED_PERF_RING_H

#include <linux/perf_event.h>

/* What a sample may have; those that were not asked for are 0. */
#define NS_PERF_SAMPLE_TYPES \
    (PERF_SAMPLE_ADDR | PERF_SAMPLE_DATA_SRC | PERF_SAMPLE_PHYS_ADDR)

typedef struct NsPerfSample {
    uint16_t mode;              /* PERF_RECORD_MISC_USER and others */
    uint64_t addr;
    uint64_t source;            /* as union perf_mem_data_src */
    uint64_t phys;
} NsPerfSample;

typedef struct NsPerfCounts {
    uint64_t samples;
    uint64_t lost;              /* that the kernel says it lost */
    uint64_t bad;               /* times that the rest made no sense */
} NsPerfCounts;

/*
 * Call @found for each sample between @tail and @head, which count bytes from
 * the beginning of time, in a ring of @size bytes, a power of 2 and at least
 * 8.  @types: of NS_PERF_SAMPLE_TYPES, those that were asked for.  Adds to
 * @counts.  All up to @head is then done with.
 */
void ns_perf_ring(const void *ring, uint64_t size, uint64_t tail, uint64_t head,
                  uint64_t types,
                  void (*found)(void *opaque, const NsPerfSample *sample),
                  void *opaque, NsPerfCounts *counts);

#endif
