/*
 * NUMA scheduler: on which nodes memory is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * By move_pages(2) without nodes to move to, which only tells, in 0.3 us for a
 * page (measured).  It faults nothing in, and needs no privilege for one's own
 * pages.
 */

#ifndef NUMA_SCHED_RESIDENCY_H
#define NUMA_SCHED_RESIDENCY_H

#include "topology.h"

#define NS_MAX_SAMPLES  65536

typedef struct NsRange {
    const void *host;           /* of whole pages; may be unmapped meanwhile */
    uint64_t bytes;             /* at most NS_MAX_BYTES */
} NsRange;

/*
 * Draw at most @samples pages of a range, evenly apart, and add the bytes that
 * each stands for to the node it is on, by id (NS_MAX_NODES entries), or to
 * @absent if it is not in memory.  Calls with another @phase, any number, see
 * other pages.  All bytes of the range are added.  Returns 0, or -errno: the
 * kernel does not tell, and nothing was added.
 */
int ns_residency(const NsRange *range, uint32_t samples, uint64_t phase,
                 uint64_t *bytes, uint64_t *absent);

/*
 * The id of the node that each of @pages pages from @addr is on, or a negative
 * errno, to @node; at most NS_MAX_SAMPLES.  Returns 0, or -errno: the kernel
 * does not tell.
 */
int ns_page_nodes(uint64_t addr, uint32_t pages, int *node);

/* The same of @n pages anywhere, by their addresses */
int ns_nodes_of(const uint64_t *addr, uint32_t n, int *node);

/*
 * What ns_residency() found, by id, added to @bytes, by index of @t: memory of
 * a node that was made one with another is that one's.  That on nodes that are
 * not there for us is added to @absent.
 */
void ns_bytes_by_index(const NsTopology *t, const uint64_t *found,
                       uint64_t *bytes, uint64_t *absent);

#endif
