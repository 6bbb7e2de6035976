/*
 * NUMA scheduler: the search, branch and bound
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "search-int.h"

/* Looks at an option, see search.c */
#define BRANCH_STEPS    2000000
#define BRANCH_GROUPS   12

typedef struct Branch {
    Work *w;
    const uint32_t *order;      /* of the groups */
    const uint64_t *rest;       /* the least that groups from here on cost */
    uint64_t best;              /* total of what was found */
    uint32_t *found;
} Branch;

/* Whether its home has room for one that gets no choice */
static bool stays_out(const Work *w, uint32_t g)
{
    int home = w->p->lost_home[g];

    return home < 0 || w->load[home] + w->p->cpu[g] <= w->p->limit[home];
}

static uint64_t lost_share(const Work *w, uint32_t g)
{
    int home = w->p->lost_home[g];

    return home < 0 || !w->p->host->node[home].cpus ? 0 : share_at(w, home);
}

static void branch(Branch *b, uint32_t depth, uint64_t cost)
{
    const NsProblem *p = b->w->p;
    uint32_t g;

    if (depth == p->n) {
        if (cost < b->best) {
            b->best = cost;
            memcpy(b->found, b->w->chosen, p->n * sizeof(*b->found));
        }
        return;
    }
    g = b->order[depth];
    for (uint32_t i = 0; i < p->choices[g].n && b->w->steps > 0; i++) {
        const NsChoice *o = &p->choices[g].option[i];
        uint64_t with;

        if (cost + o->cost + b->rest[depth + 1] >= b->best) {
            break;
        }
        b->w->steps--;
        if (fits(b->w, g, o)) {
            with = cost + added(b->w, g, o);
            if (with + b->rest[depth + 1] < b->best) {
                put_in(b->w, g, i);
                branch(b, depth + 1, with);
                take_out(b->w, g);
            }
        }
    }
    /* One with a home that it may stay at need not be left out. */
    if (p->home[g] == NS_UNPLACED && b->w->steps > 0 &&
        stays_out(b->w, g) &&
        cost + UNPLACED_COST + b->rest[depth + 1] < b->best) {
        uint64_t before = lost_share(b->w, g);

        put_in(b->w, g, NS_UNPLACED);
        branch(b, depth + 1, cost + UNPLACED_COST + lost_share(b->w, g) -
                             before);
        take_out(b->w, g);
    }
}

bool ns_branch_and_bound(Work *w, uint32_t *chosen, uint64_t known)
{
    const NsProblem *p = w->p;
    g_autofree Rank *rank = g_new(Rank, p->n);
    g_autofree uint32_t *order = g_new(uint32_t, p->n);
    g_autofree uint64_t *rest = g_new0(uint64_t, p->n + 1);
    Branch b = {
        .w = w, .order = order, .rest = rest, .best = known, .found = chosen,
    };
    uint64_t base = 0;

    start_empty(w);
    for (uint32_t g = 0; g < p->n; g++) {
        take_out(w, g);
    }
    for (uint32_t i = 0; i < p->host->n; i++) {
        if (p->host->node[i].cpus) {
            base += share_at(w, i);
        }
    }
    for (uint32_t g = 0; g < p->n; g++) {
        rank[g] = (Rank) { .group = g, .key = stake(p, g) };
    }
    qsort(rank, p->n, sizeof(*rank), by_rank);
    for (uint32_t i = p->n; i-- > 0;) {
        uint32_t g = rank[i].group;

        order[i] = g;
        rest[i] = rest[i + 1] + (p->choices[g].n ?
                  p->choices[g].option->cost : UNPLACED_COST);
    }
    w->steps = BRANCH_STEPS;
    /* Nothing can be below this. */
    if (base + rest[0] < known) {
        if (p->n > BRANCH_GROUPS) {
            return false;
        }
        branch(&b, 0, base);
    }
    return w->steps > 0;
}
