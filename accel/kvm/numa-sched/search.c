/*
 * NUMA scheduler: the search for the cheapest valid placement
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "search-int.h"

/* Looks at an option: a bound of the time, the same on each machine */
#define IMPROVE_STEPS   400000      /* each time */
/* Starts */

static void start_at_home(Work *w)
{
    start_empty(w);
    for (uint32_t g = 0; g < w->p->n; g++) {
        if (w->p->home[g] != NS_UNPLACED) {
            take_out(w, g);
            put_in(w, g, w->p->home[g]);
        }
    }
}

/* One after the other, those first that have most at stake, or are largest */
static void start_greedy(Work *w, bool largest)
{
    const NsProblem *p = w->p;
    g_autofree Rank *rank = g_new(Rank, p->n);

    start_empty(w);
    for (uint32_t g = 0; g < p->n; g++) {
        rank[g] = (Rank) {
            .group = g, .key = largest ? p->cpu[g] : stake(p, g),
        };
    }
    qsort(rank, p->n, sizeof(*rank), by_rank);
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t g = rank[i].group;
        uint64_t cost;

        take_out(w, g);
        put_in(w, g, best(w, g, &cost));
    }
}

/* Improvements: each returns whether it found one */

bool ns_improve_by_move(Work *w, uint32_t g)
{
    uint32_t old = w->chosen[g], found;
    uint64_t before = UNPLACED_COST, after;

    take_out(w, g);
    if (old != NS_UNPLACED) {
        before = added(w, g, option_of(w->p, g, old));
    }
    found = best(w, g, &after);
    if (after >= before) {
        found = old;
    }
    put_in(w, g, found);
    return found != old;
}

/*
 * The better one of @g's options on the node of @h, when that leaves: whether
 * memory follows; -1: it does not fit.  Adds what it costs, with what others
 * lose by it, to @cost.
 */
static int best_instead(Work *w, uint32_t g, uint32_t h, uint64_t *cost)
{
    uint32_t node = w->node[h];
    const NsPlace *place = &w->p->host->node[node];
    const Cell *c = &w->cell[(size_t)g * w->p->host->n + node];
    uint64_t load = w->load[node] - w->p->cpu[h];
    bool follow = c->cost[1] < c->cost[0] &&
                  c->bytes <= w->free[node] + w->bytes[h];

    w->steps--;
    if (load + w->p->cpu[g] > w->p->limit[node] ||
        c->cost[follow] == UNPLACED_COST) {
        return -1;
    }
    *cost += c->cost[follow] + ns_share(place, load + w->p->cpu[g]) -
             ns_share(place, load);
    return follow;
}

/* What both cost, less what is left of it on their nodes when both leave */
static uint64_t cost_of_pair(const Work *w, uint32_t g, uint32_t h)
{
    const NsPlace *place = w->p->host->node;
    uint32_t i = w->node[g], j = w->node[h];

    return w->cost[g] + w->cost[h] + share_at(w, i) + share_at(w, j) -
           ns_share(&place[i], w->load[i] - w->p->cpu[g]) -
           ns_share(&place[j], w->load[j] - w->p->cpu[h]);
}

/* Of the option, which there is */
static uint32_t index_of(const NsProblem *p, uint32_t g, uint32_t node,
                         bool follow)
{
    const NsChoices *c = &p->choices[g];
    uint32_t i = 0;

    while (c->option[i].node != node || c->option[i].follow != follow) {
        i++;
    }
    return i;
}

/* Both have options, on different nodes. */
static bool improve_by_exchange(Work *w, uint32_t g, uint32_t h)
{
    uint32_t node_g = w->node[g], node_h = w->node[h];
    uint64_t cost = 0;
    int to_g = best_instead(w, g, h, &cost);
    int to_h = to_g < 0 ? -1 : best_instead(w, h, g, &cost);

    if (to_h < 0 || cost >= cost_of_pair(w, g, h)) {
        return false;
    }
    take_out(w, g);
    take_out(w, h);
    put_in(w, g, index_of(w->p, g, node_h, to_g));
    put_in(w, h, index_of(w->p, h, node_g, to_h));
    return true;
}

/*
 * With each of those after it.  Most pairs cannot gain, whatever fits, and
 * there are so many that it has to be seen with few loads from memory.
 */
static bool improve_by_exchanges(Work *w, uint32_t g)
{
    uint32_t n = w->p->n;
    const Cell *mine = &w->cell[(size_t)g * w->p->host->n];
    bool better = false;

    if (w->chosen[g] == NS_UNPLACED) {
        return false;
    }
    for (uint32_t h = g + 1; h < n && w->steps > 0; h++) {
        uint32_t node_g = w->node[g], node_h = w->node[h];

        if (w->chosen[h] == NS_UNPLACED) {
            continue;
        }
        w->steps--;
        if (node_g != node_h &&
            MIN(mine[node_h].cost[0], mine[node_h].cost[1]) +
            w->least[(size_t)node_g * n + h] <
            w->cost[g] + w->cost[h] + w->share[node_g] + w->share[node_h]) {
            better |= improve_by_exchange(w, g, h);
        }
    }
    return better;
}

/* Move it to where there is no room, when one that is there has where to go */
static bool improve_by_making_room(Work *w, uint32_t g)
{
    const NsChoices *c = &w->p->choices[g];
    uint32_t old = w->chosen[g];
    uint64_t before = cost_of(w->p, g, old);

    if (old != NS_UNPLACED) {
        take_out(w, g);
        before = added(w, g, option_of(w->p, g, old));
        put_in(w, g, old);
    }
    for (uint32_t i = 0; i < c->n && w->steps > 0; i++) {
        const NsChoice *o = &c->option[i];

        if (o->cost >= before) {
            break;
        }
        if (old != NS_UNPLACED && o->node == option_of(w->p, g, old)->node) {
            continue;
        }
        for (uint32_t h = 0; h < w->p->n; h++) {
            uint32_t old_h = w->chosen[h], to;
            uint64_t was, cost;

            w->steps--;
            if (h == g || old_h == NS_UNPLACED ||
                option_of(w->p, h, old_h)->node != o->node) {
                continue;
            }
            take_out(w, g);
            take_out(w, h);
            /* In this order, what they cost together is a sum. */
            was = added(w, h, option_of(w->p, h, old_h));
            put_in(w, h, old_h);
            was += old == NS_UNPLACED ? UNPLACED_COST :
                   added(w, g, option_of(w->p, g, old));
            take_out(w, h);
            if (fits(w, g, o)) {
                uint64_t mine = added(w, g, o);

                put_in(w, g, i);
                to = best(w, h, &cost);
                if (to != NS_UNPLACED && mine + cost < was) {
                    put_in(w, h, to);
                    return true;
                }
                take_out(w, g);
            }
            put_in(w, h, old_h);
            put_in(w, g, old);
        }
    }
    return false;
}

/* @deep: not by moves only */
static void improve(Work *w, bool deep)
{
    uint32_t n = w->p->n;
    bool better = true;

    w->steps = IMPROVE_STEPS;
    while (better && w->steps > 0) {
        better = false;
        for (uint32_t g = 0; g < n && w->steps > 0; g++) {
            better |= ns_improve_by_move(w, g);
        }
        if (better || !deep) {
            continue;
        }
        for (uint32_t g = 0; g < n && w->steps > 0; g++) {
            better |= improve_by_exchanges(w, g);
        }
        if (better) {
            continue;
        }
        for (uint32_t g = 0; g < n && w->steps > 0; g++) {
            better |= improve_by_making_room(w, g);
        }
        for (uint32_t g = 0; !better && g < n && w->steps > 0; g++) {
            better = ns_improve_by_clearing(w, g);
        }
    }
}

bool ns_search(const NsProblem *p, uint32_t *chosen)
{
    size_t cells = (size_t)p->n * p->host->n;
    g_autofree Cell *cell = g_new(Cell, MAX(cells, 1));
    g_autofree uint64_t *least = g_new(uint64_t, MAX(cells, 1));
    g_autofree uint32_t *node = g_new0(uint32_t, MAX(p->n, 1));
    g_autofree uint64_t *cost_now = g_new0(uint64_t, MAX(p->n, 1));
    g_autofree uint64_t *bytes = g_new0(uint64_t, MAX(p->n, 1));
    g_autofree uint64_t *load = g_new(uint64_t, p->host->n);
    g_autofree uint64_t *share = g_new(uint64_t, p->host->n);
    g_autofree uint64_t *free_bytes = g_new(uint64_t, p->host->n);
    g_autofree uint32_t *now = g_new(uint32_t, MAX(p->n, 1));
    Work w = {
        .p = p, .load = load, .free = free_bytes, .chosen = now,
        .share = share, .least = least, .cell = cell,
        .node = node, .cost = cost_now, .bytes = bytes,
    };
    uint64_t known = UINT64_MAX, cost;

    for (size_t i = 0; i < cells; i++) {
        cell[i] = (Cell) { .cost = { UNPLACED_COST, UNPLACED_COST } };
    }
    for (uint32_t g = 0; g < p->n; g++) {
        Cell *own = &cell[(size_t)g * p->host->n];

        for (uint32_t i = 0; i < p->choices[g].n; i++) {
            const NsChoice *o = &p->choices[g].option[i];

            own[o->node].cost[o->follow] = o->cost;
            /* None if it stays */
            own[o->node].bytes += o->bytes;
        }
        for (uint32_t i = 0; i < p->host->n; i++) {
            least[(size_t)i * p->n + g] = MIN(own[i].cost[0],
                                                     own[i].cost[1]);
        }
    }
    for (int start = 0; start < 3; start++) {
        if (start == 0) {
            start_at_home(&w);
        } else {
            start_greedy(&w, start == 2);
        }
        improve(&w, false);
        cost = total(&w);
        if (cost < known) {
            known = cost;
            memcpy(chosen, now, p->n * sizeof(*chosen));
        }
    }
    start_empty(&w);
    for (uint32_t g = 0; g < p->n; g++) {
        take_out(&w, g);
        put_in(&w, g, chosen[g]);
    }
    improve(&w, true);
    known = total(&w);
    memcpy(chosen, now, p->n * sizeof(*chosen));
    return ns_branch_and_bound(&w, chosen, known);
}
