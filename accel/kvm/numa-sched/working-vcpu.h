/*
 * NUMA scheduler: what each vCPU writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * From pages that are known to have been written by a vCPU: how many bytes of
 * them are on which node, each page once.  It is kept for each vCPU, and for
 * each group, of which a page that several of its vCPUs wrote is one page; half
 * of the way is taken with each measurement.  One thread at a time.
 */

#ifndef NUMA_SCHED_WORKING_VCPU_H
#define NUMA_SCHED_WORKING_VCPU_H

#include "guest.h"
#include "topology.h"

typedef struct NsVcpuSets NsVcpuSets;

NsVcpuSets *ns_vcpu_sets_new(void);
void ns_vcpu_sets_free(NsVcpuSets *sets);

/* As ns_nodes_of() */
typedef int NsNodesOf(const uint64_t *addr, uint32_t n, int *node);

/*
 * @page: what ns_ring_take() returned, which will be sorted; all of a window.
 * Of more than NS_MAX_SAMPLES pages some stand for all.  A group that has
 * memory of its own counts what is in that only.  What vCPUs that are not in
 * @guest wrote counts nowhere, nor what is on no node of @t.  Who was not
 * there is forgotten; all is, when the nodes of @t are others than the last
 * time.  @now: ns.  False: the kernel does not say where pages are, or nothing
 * was written at all, and nothing has changed.
 */
bool ns_vcpu_sets_add(NsVcpuSets *sets, uint64_t *page, uint32_t n,
                      const NsGuest *guest, const NsTopology *t, int64_t now,
                      NsNodesOf *nodes_of);

/*
 * Bytes by index of @t; NULL: not known, or older than ten minutes.  Good until
 * the next ns_vcpu_sets_add().  @sets may be NULL.
 */
const uint64_t *ns_vcpu_sets_vcpu(const NsVcpuSets *sets, const NsTopology *t,
                                  int vcpu, int64_t now);
const uint64_t *ns_vcpu_sets_group(const NsVcpuSets *sets, const NsTopology *t,
                                   const char *name, int64_t now);

/*
 * The part of a node's memory that counts, 1/1000: @written bytes of @bytes;
 * what was not written may be read, and counts a quarter.
 */
uint32_t ns_written_share(uint64_t written, uint64_t bytes);

#endif
