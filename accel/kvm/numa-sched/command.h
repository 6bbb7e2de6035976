/*
 * NUMA scheduler: what numa-sched-move is about to do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_COMMAND_H
#define NUMA_SCHED_COMMAND_H

#include "qapi/qapi-types-numa-sched.h"

/*
 * Of the last look @info: what it costs and brings to move the group of a vCPU
 * to node @target (id), or, where @vcpu is NULL, the vCPUs and the memory of
 * the guest's @node.  @bandwidth: bytes/s, not 0.  @group: its name, which is
 * @info's.  NULL with @errp set: there is none, or it may not.  Pure.
 */
NumaSchedMoveResult *ns_move_result(const NumaSchedInfo *info,
                                    const int64_t *vcpu, uint16_t node,
                                    uint32_t target, uint64_t bandwidth,
                                    const char **group, Error **errp);

#endif
