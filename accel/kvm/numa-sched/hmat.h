/*
 * NUMA scheduler: the firmware's table of latencies
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * HMAT and SRAT as in ACPI 6.5, 5.2.28 and 5.2.16.  The kernel shows of the
 * HMAT only what the best initiators of a node see; the table, which root can
 * read, has all pairs.  It names proximity domains: Linux numbers its nodes in
 * the order in which domains come up in the SRAT, those of CPUs first.
 */

#ifndef NUMA_SCHED_HMAT_H
#define NUMA_SCHED_HMAT_H

#include "topology.h"

/*
 * Read latencies from CPUs of i to memory of j, n * n by index of nodes, in ns;
 * 0: the table does not say.  Access latency counts where there is no read
 * latency.  @srat may be NULL: domains are then node ids.
 *
 * A table that says something else than sysfs of a pair that both know is not
 * of that host, or was numbered differently.  NULL with @why set, a constant
 * string, then, and when the bytes, which may be any, are no such table.  Pure.
 */
uint32_t *ns_hmat_parse(const NsTopology *t, const uint8_t *hmat, size_t len,
                        const uint8_t *srat, size_t srat_len,
                        const char **why);

/*
 * The same of the tables in sysfs below @root.  NULL: they can not be read,
 * which is usual, or are not used, which adds a note to @t.
 */
uint32_t *ns_hmat_read(NsTopology *t, const char *root);

#endif
