/*
 * NUMA scheduler: hosts and groups for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_NUMA_CASE_H
#define TEST_NUMA_CASE_H

#include "accel/kvm/numa-sched/plan.h"

#define GB  (1ull << 30)

typedef struct Case {
    NsHost host;
    NsPlace *node;
    uint32_t *ratio;
    NsGroup *group;
    uint32_t n;
    uint64_t *bytes;
    bool *allowed;
} Case;

/*
 * Nodes of 4 cores, 8 CPUs and 16 GB, twice as far from each other as from
 * themselves; groups that use one CPU, without a home or memory
 */
Case *case_new(uint32_t nodes, uint32_t groups);

void case_free(Case *c);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Case, case_free)

/* 0 to @below - 1 */
uint32_t draw(GRand *r, uint32_t below);

/* Anything; @tight: much of it does not fit */
Case *case_draw(GRand *r, uint32_t nodes, uint32_t groups, bool tight);

#endif
