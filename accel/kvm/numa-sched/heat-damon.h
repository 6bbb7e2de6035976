/*
 * NUMA scheduler: the use of pages, by DAMON
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_HEAT_DAMON_H
#define NUMA_SCHED_HEAT_DAMON_H

#include "heat.h"

/* For tests: as ns_heat_damon.open(), with a tree that is made up */
void *ns_damon_open_at(const char *root, const NsHeatRange *range, uint32_t n,
                       Error **errp);

#endif
