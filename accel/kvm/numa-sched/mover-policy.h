/*
 * NUMA scheduler: the policy of memory that moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Any thread.  See NsMoverSys.
 */

#ifndef NUMA_SCHED_MOVER_POLICY_H
#define NUMA_SCHED_MOVER_POLICY_H

int ns_mover_bind(void *opaque, uint64_t addr, uint64_t bytes, int node,
                  void **before);
int ns_mover_unbind(void *opaque, uint64_t addr, uint64_t bytes,
                    const void *before);

#endif
