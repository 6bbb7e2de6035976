/*
 * NUMA scheduler: what the parts of the search share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Inline, because most of a plan's time is spent here.
 */

#ifndef NUMA_SCHED_SEARCH_INT_H
#define NUMA_SCHED_SEARCH_INT_H

#include "search.h"

/* More than any option can cost, and 4096 times that is below 2^63 */
#define UNPLACED_COST   (1ull << 51)

/* What a group has on a node: the cost to stay and to follow, and its bytes */
typedef struct Cell {
    uint64_t cost[2];           /* UNPLACED_COST: there is no such option */
    uint64_t bytes;             /* that follow */
} Cell;

/* A placement that is being worked on */
typedef struct Work {
    const NsProblem *p;
    uint64_t *load;             /* by node, 1/1000 CPU */
    uint64_t *share;            /* by node: what that load costs */
    uint64_t *free;             /* by node, bytes that may still follow */
    uint32_t *chosen;           /* by group */
    /* Of what was chosen, where it is an option, by group */
    uint32_t *node;
    uint64_t *cost, *bytes;
    const Cell *cell;           /* [group * nodes + node] */
    const uint64_t *least;      /* [node * groups + group]: cost of a cell */
    int64_t steps;              /* that are left */
} Work;

static inline const NsChoice *option_of(const NsProblem *p, uint32_t group,
                                 uint32_t index)
{
    return &p->choices[group].option[index];
}

static inline uint64_t cost_of(const NsProblem *p, uint32_t group,
                               uint32_t index)
{
    return index == NS_UNPLACED ? UNPLACED_COST :
           option_of(p, group, index)->cost;
}

static inline void add_load(Work *w, uint32_t node, int64_t load)
{
    w->load[node] += load;
    w->share[node] = ns_share(&w->p->host->node[node], w->load[node]);
}

static inline void take_out(Work *w, uint32_t g)
{
    uint32_t index = w->chosen[g];

    if (index != NS_UNPLACED) {
        const NsChoice *o = option_of(w->p, g, index);

        add_load(w, o->node, -(int64_t)w->p->cpu[g]);
        w->free[o->node] += o->bytes;
    } else if (w->p->lost_home[g] >= 0) {
        add_load(w, w->p->lost_home[g], -(int64_t)w->p->cpu[g]);
    }
}

static inline void put_in(Work *w, uint32_t g, uint32_t index)
{
    w->chosen[g] = index;
    if (index != NS_UNPLACED) {
        const NsChoice *o = option_of(w->p, g, index);

        w->node[g] = o->node;
        w->cost[g] = o->cost;
        w->bytes[g] = o->bytes;
        add_load(w, o->node, w->p->cpu[g]);
        w->free[o->node] -= o->bytes;
    } else if (w->p->lost_home[g] >= 0) {
        add_load(w, w->p->lost_home[g], w->p->cpu[g]);
    }
}

static inline bool fits(const Work *w, uint32_t g, const NsChoice *o)
{
    return w->load[o->node] + w->p->cpu[g] <= w->p->limit[o->node] &&
           o->bytes <= w->free[o->node];
}

static inline uint64_t share_at(const Work *w, uint32_t node)
{
    return w->share[node];
}

/* What it adds to be there: the option, and what others lose */
static inline uint64_t added(const Work *w, uint32_t g, const NsChoice *o)
{
    const NsPlace *place = &w->p->host->node[o->node];

    return o->cost +
           ns_share(place, w->load[o->node] + w->p->cpu[g]) -
           share_at(w, o->node);
}

/* The cheapest option that fits, for a group that is taken out */
static inline uint32_t best(Work *w, uint32_t g, uint64_t *cost)
{
    const NsChoices *c = &w->p->choices[g];
    uint32_t found = NS_UNPLACED;

    *cost = UNPLACED_COST;
    for (uint32_t i = 0; i < c->n; i++) {
        /* They are sorted, and shared cores make none cheaper. */
        if (c->option[i].cost >= *cost) {
            break;
        }
        w->steps--;
        if (fits(w, g, &c->option[i])) {
            uint64_t a = added(w, g, &c->option[i]);

            if (a < *cost) {
                *cost = a;
                found = i;
            }
        }
    }
    return found;
}

static inline void start_empty(Work *w)
{
    const NsProblem *p = w->p;

    for (uint32_t i = 0; i < p->host->n; i++) {
        w->load[i] = 0;
        add_load(w, i, p->host->node[i].used);
        w->free[i] = p->host->node[i].free;
    }
    for (uint32_t g = 0; g < p->n; g++) {
        put_in(w, g, NS_UNPLACED);
    }
}

/* UINT64_MAX: one that may stay at home was left out for others */
static inline uint64_t total(const Work *w)
{
    uint64_t sum = 0;

    for (uint32_t g = 0; g < w->p->n; g++) {
        if (w->chosen[g] == NS_UNPLACED && w->p->home[g] != NS_UNPLACED) {
            return UINT64_MAX;
        }
        sum += cost_of(w->p, g, w->chosen[g]);
    }
    for (uint32_t i = 0; i < w->p->host->n; i++) {
        if (w->p->host->node[i].cpus) {
            sum += share_at(w, i);
        }
    }
    return sum;
}

typedef struct Rank {
    uint64_t key;
    uint32_t group;
} Rank;

static inline int by_rank(const void *a, const void *b)
{
    const Rank *x = a, *y = b;

    if (x->key != y->key) {
        return x->key > y->key ? -1 : 1;
    }
    return x->group < y->group ? -1 : x->group > y->group;
}

/* What it loses when its best node is taken */
static inline uint64_t stake(const NsProblem *p, uint32_t g)
{
    const NsChoices *c = &p->choices[g];

    for (uint32_t i = 1; i < c->n; i++) {
        if (c->option[i].node != c->option[0].node) {
            return c->option[i].cost -
                   c->option[0].cost;
        }
    }
    return UNPLACED_COST;
}

/* See search.c: the group goes where it adds least.  True: that is better */
bool ns_improve_by_move(Work *w, uint32_t g);

/*
 * Put a group that is nowhere, or dear, where it costs less, by moving out who
 * is in its way.  Once in a while only: it looks at all groups again and again.
 */
bool ns_improve_by_clearing(Work *w, uint32_t g);

/* Whether it is complete; @chosen has a placement of cost @known, or better */
bool ns_branch_and_bound(Work *w, uint32_t *chosen, uint64_t known);

#endif
