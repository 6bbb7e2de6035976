/*
 * NUMA scheduler: an order of nodes and groups that their numbers do not change
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_ORDER_H
#define NUMA_SCHED_ORDER_H

#include "plan.h"

/*
 * Write the indices of nodes and of groups, sorted by what they are: their own
 * figures, and those of what they are near to, or use, three times over (the
 * colour refinement of Weisfeiler and Leman).  Those with equal colours are
 * interchangeable in practice.
 */
void ns_order(const NsHost *host, const NsGroup *group, uint32_t n,
              uint32_t *nodes, uint32_t *groups);

#endif
