/*
 * NUMA scheduler: the search for the cheapest valid placement
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "search.h"

/* More than any option can cost, and 4096 times that is below 2^63 */
#define UNPLACED_COST   (1ull << 51)
/* Looks at an option: a bound of the time, the same on each machine */
#define BRANCH_STEPS    2000000
#define BRANCH_GROUPS   12
#define IMPROVE_STEPS   400000      /* each time */

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

static const NsChoice *option_of(const NsProblem *p, uint32_t group,
                                 uint32_t index)
{
    return &p->choices[group].option[index];
}

static uint64_t cost_of(const NsProblem *p, uint32_t group, uint32_t index)
{
    return index == NS_UNPLACED ? UNPLACED_COST :
           option_of(p, group, index)->cost;
}

static void add_load(Work *w, uint32_t node, int64_t load)
{
    w->load[node] += load;
    w->share[node] = ns_share(&w->p->host->node[node], w->load[node]);
}

static void take_out(Work *w, uint32_t g)
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

static void put_in(Work *w, uint32_t g, uint32_t index)
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

static bool fits(const Work *w, uint32_t g, const NsChoice *o)
{
    return w->load[o->node] + w->p->cpu[g] <= w->p->limit[o->node] &&
           o->bytes <= w->free[o->node];
}

static uint64_t share_at(const Work *w, uint32_t node)
{
    return w->share[node];
}

/* What it adds to be there: the option, and what others lose */
static uint64_t added(const Work *w, uint32_t g, const NsChoice *o)
{
    const NsPlace *place = &w->p->host->node[o->node];

    return o->cost +
           ns_share(place, w->load[o->node] + w->p->cpu[g]) -
           share_at(w, o->node);
}

/* The cheapest option that fits, for a group that is taken out */
static uint32_t best(Work *w, uint32_t g, uint64_t *cost)
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

static void start_empty(Work *w)
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
static uint64_t total(const Work *w)
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

typedef struct Rank {
    uint64_t key;
    uint32_t group;
} Rank;

static int by_rank(const void *a, const void *b)
{
    const Rank *x = a, *y = b;

    if (x->key != y->key) {
        return x->key > y->key ? -1 : 1;
    }
    return x->group < y->group ? -1 : x->group > y->group;
}

/* What it loses when its best node is taken */
static uint64_t stake(const NsProblem *p, uint32_t g)
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

static bool improve_by_move(Work *w, uint32_t g)
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
            better |= improve_by_move(w, g);
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
    }
}

/*
 * Branch and bound
 */

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

/* Whether it is complete; @chosen has a placement of cost @known, or better */
static bool branch_and_bound(Work *w, uint32_t *chosen, uint64_t known)
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
    return branch_and_bound(&w, chosen, known);
}
