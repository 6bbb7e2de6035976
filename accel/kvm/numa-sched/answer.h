/*
 * NUMA scheduler: the plan as users get it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure; any thread.
 */

#ifndef NUMA_SCHED_ANSWER_H
#define NUMA_SCHED_ANSWER_H

#include "qapi/qapi-types-numa-sched.h"
#include "latency.h"
#include "plan.h"
#include "topology.h"

NumaPlanOption *ns_answer_option(const NsTopology *t, const NsOption *o);

/*
 * The plan of these groups, which have these names; @explain: with all options
 * of each group
 */
NumaPlan *ns_answer(const NsTopology *t, const NsLatency *l,
                    const NsHost *host, const NsGroup *group,
                    char *const *name, const NsPlan *plan, bool explain);

#endif
