/*
 * NUMA scheduler: the search for the cheapest valid placement
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The problem is a generalized assignment problem (each group takes CPU time of
 * a node, and free memory where its own follows), with a convex cost of the
 * load added.  Small ones are solved by branch and bound, larger ones by
 * improving several starts: moves, exchanges, moves that first make room, and
 * where much is to be gained, moves of whoever is in the way, and so on.
 */

#ifndef NUMA_SCHED_SEARCH_H
#define NUMA_SCHED_SEARCH_H

#include "plan.h"

#define NS_UNPLACED     UINT32_MAX

/* What the search has to know of an option, in as few bytes as it takes */
typedef struct NsChoice {
    uint64_t cost;              /* below 2^51 */
    uint64_t bytes;             /* that follow */
    uint32_t node;
    bool follow;
} NsChoice;

typedef struct NsChoices {
    const NsChoice *option;     /* by cost, the cheapest first */
    uint32_t n;
} NsChoices;

typedef struct NsProblem {
    const NsHost *host;
    uint32_t n;                 /* groups */
    const uint32_t *cpu;        /* U by group */
    /* Option at home, with its memory where it is, or NS_UNPLACED */
    const uint32_t *home;
    /* Node whose load it is in when it is not placed; -1: none */
    const int *lost_home;
    const NsChoices *choices;   /* by group */
    const uint64_t *limit;      /* of the load, by node */
} NsProblem;

/*
 * Write the index of each group's option, or NS_UNPLACED.  True: no valid
 * placement places more groups, or as many at a lower cost.
 */
bool ns_search(const NsProblem *problem, uint32_t *chosen);

#endif
