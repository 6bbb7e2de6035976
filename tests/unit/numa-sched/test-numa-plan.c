/*
 * NUMA scheduler: the plan
 *
 * The expected optimum is found by trying all placements.  What a placement
 * costs is asked of the code under test here; there are costs that were
 * calculated by hand in tests/functional/test_numa_plan.py.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "accel/kvm/numa-sched/topology.h"
#include "accel/kvm/numa-sched/plan.h"
#include "numa-case.h"

/* What the search has to find: the most groups, then the least cost */
typedef struct Best {
    const Case *c;
    NsOption **option;
    uint32_t *options;
    uint64_t *load, *limit, *free;
    uint32_t placed;
    uint64_t cost;
    bool found;
} Best;

static void try_all(Best *b, uint32_t k, uint32_t placed, uint64_t cost)
{
    const Case *c = b->c;
    int home;
    bool has_home = false;

    if (k == c->n) {
        for (uint32_t i = 0; i < c->host.n; i++) {
            cost += c->node[i].cpus ? ns_share(&c->node[i], b->load[i]) : 0;
        }
        if (!b->found || placed > b->placed ||
            (placed == b->placed && cost < b->cost)) {
            b->found = true;
            b->placed = placed;
            b->cost = cost;
        }
        return;
    }
    home = c->group[k].home;
    for (uint32_t o = 0; o < b->options[k]; o++) {
        const NsOption *option = &b->option[k][o];
        uint32_t i = option->node;

        has_home |= (int)i == home;
        if (b->load[i] + c->group[k].cpu <= b->limit[i] &&
            option->bytes <= b->free[i]) {
            b->load[i] += c->group[k].cpu;
            b->free[i] -= option->bytes;
            try_all(b, k + 1, placed + 1, cost + ns_option_cost(option));
            b->load[i] -= c->group[k].cpu;
            b->free[i] += option->bytes;
        }
    }
    if (!has_home && (home < 0 || b->load[home] + c->group[k].cpu <=
                                  b->limit[home])) {
        if (home >= 0) {
            b->load[home] += c->group[k].cpu;
        }
        try_all(b, k + 1, placed, cost);
        if (home >= 0) {
            b->load[home] -= c->group[k].cpu;
        }
    }
}

static void optimum(const Case *c, uint32_t *placed, uint64_t *cost)
{
    uint32_t n = c->host.n;
    g_autofree uint64_t *load = g_new(uint64_t, n);
    g_autofree uint64_t *limit = g_new(uint64_t, n);
    g_autofree uint64_t *left = g_new(uint64_t, n);
    g_autofree uint32_t *options = g_new(uint32_t, c->n);
    g_autofree NsOption **option = g_new(NsOption *, c->n);
    Best b = {
        .c = c, .option = option, .options = options, .load = load,
        .limit = limit, .free = left,
    };

    for (uint32_t i = 0; i < n; i++) {
        load[i] = limit[i] = c->node[i].used;
        left[i] = c->node[i].free;
    }
    for (uint32_t k = 0; k < c->n; k++) {
        option[k] = g_new(NsOption, 2 * n);
        options[k] = ns_options(&c->host, &c->group[k], option[k]);
        if (c->group[k].home >= 0) {
            limit[c->group[k].home] += c->group[k].cpu;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        limit[i] = MAX(limit[i], c->node[i].cpus * 1000);
    }
    try_all(&b, 0, 0, 0);
    g_assert_true(b.found);
    *placed = b.placed;
    *cost = b.cost;
    for (uint32_t k = 0; k < c->n; k++) {
        g_free(option[k]);
    }
}

/* N1, and that the total is that of what was chosen */
static uint32_t check_valid(const Case *c, const NsPlan *plan)
{
    uint32_t n = c->host.n, placed = 0;
    g_autofree uint64_t *load = g_new(uint64_t, n);
    g_autofree uint64_t *start = g_new(uint64_t, n);
    g_autofree uint64_t *taken = g_new0(uint64_t, n);
    uint64_t total = 0;

    for (uint32_t i = 0; i < n; i++) {
        load[i] = start[i] = c->node[i].used;
    }
    for (uint32_t k = 0; k < c->n; k++) {
        const NsGroup *g = &c->group[k];
        const NsOption *o = &plan->choice[k];

        if (g->home >= 0) {
            start[g->home] += g->cpu;
        }
        if (!plan->placed[k]) {
            g_assert_true(g->home < 0 || !c->node[g->home].cpus ||
                          (g->allowed && !g->allowed[g->home]));
            if (g->home >= 0) {
                load[g->home] += g->cpu;
            }
            continue;
        }
        placed++;
        g_assert_cmpuint(o->node, <, n);
        g_assert_cmpuint(c->node[o->node].cpus, >, 0);
        g_assert_true(!g->allowed || g->allowed[o->node]);
        g_assert_true(!o->follow || (!g->pinned && c->node[o->node].memory));
        load[o->node] += g->cpu;
        taken[o->node] += o->bytes;
        total += ns_option_cost(o);
    }
    for (uint32_t i = 0; i < n; i++) {
        g_assert_cmpuint(load[i], ==, plan->load[i]);
        g_assert_cmpuint(load[i], <=, MAX(start[i], c->node[i].cpus * 1000));
        g_assert_cmpuint(taken[i], <=, c->node[i].free);
        total += c->node[i].cpus ? ns_share(&c->node[i], load[i]) : 0;
    }
    g_assert_cmpuint(total, ==, plan->total);
    return placed;
}

static void test_optimum(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(g_test_rand_int());

    for (int round = 0; round < 1500; round++) {
        g_autoptr(Case) c = case_draw(r, 1 + draw(r, 4), 1 + draw(r, 4),
                                      round % 3);
        g_autoptr(NsPlan) plan = ns_plan(&c->host, c->group, c->n);
        uint32_t placed, best;
        uint64_t cost;

        placed = check_valid(c, plan);
        optimum(c, &best, &cost);
        g_assert_cmpuint(placed, ==, best);
        g_assert_cmpuint(plan->total, ==, cost);
        g_assert_true(plan->exact);
    }
}

static void test_valid(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(g_test_rand_int());

    for (int round = 0; round < 60; round++) {
        g_autoptr(Case) c = case_draw(r, 1 + draw(r, 20), draw(r, 80),
                                      round % 2);
        g_autoptr(NsPlan) plan = ns_plan(&c->host, c->group, c->n);

        check_valid(c, plan);
    }
}

static void shuffle(GRand *r, uint32_t *index, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        index[i] = i;
    }
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = draw(r, i), swap = index[i - 1];

        index[i - 1] = index[j];
        index[j] = swap;
    }
}

/* The same case, with other numbers */
static Case *case_renumber(GRand *r, const Case *c, uint32_t *node,
                           uint32_t *group)
{
    uint32_t n = c->host.n;
    Case *d = case_new(n, c->n);

    shuffle(r, node, n);
    shuffle(r, group, c->n);
    for (uint32_t i = 0; i < n; i++) {
        d->node[node[i]] = c->node[i];
        for (uint32_t j = 0; j < n; j++) {
            d->ratio[node[i] * n + node[j]] = c->ratio[i * n + j];
        }
    }
    for (uint32_t k = 0; k < c->n; k++) {
        NsGroup *g = &d->group[group[k]];
        bool *allowed = d->allowed + group[k] * n;
        const uint64_t *bytes = g->bytes;

        *g = c->group[k];
        g->bytes = bytes;
        if (g->home >= 0) {
            g->home = node[g->home];
        }
        for (uint32_t i = 0; i < n; i++) {
            d->bytes[group[k] * n + node[i]] = c->group[k].bytes[i];
            allowed[node[i]] = !c->group[k].allowed || c->group[k].allowed[i];
        }
        g->allowed = allowed;
    }
    return d;
}

/* N3 */
static void test_numbering(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(g_test_rand_int());

    for (int round = 0; round < 60; round++) {
        g_autoptr(Case) c = case_draw(r, 1 + draw(r, 12), 1 + draw(r, 40),
                                      round % 2);
        g_autofree uint32_t *node = g_new(uint32_t, c->host.n);
        g_autofree uint32_t *group = g_new(uint32_t, c->n);
        g_autoptr(Case) d = case_renumber(r, c, node, group);
        g_autoptr(NsPlan) p = ns_plan(&c->host, c->group, c->n);
        g_autoptr(NsPlan) q = ns_plan(&d->host, d->group, d->n);

        g_assert_cmpuint(p->total, ==, q->total);
        g_assert_cmpint(p->exact, ==, q->exact);
        for (uint32_t k = 0; k < c->n; k++) {
            g_assert_cmpint(p->placed[k], ==, q->placed[group[k]]);
        }
    }
}

/* N2 */
static void test_nothing_to_gain(void)
{
    g_autoptr(Case) c = case_new(4, 8);
    g_autoptr(NsPlan) plan = NULL;

    for (uint32_t i = 0; i < 16; i++) {
        c->ratio[i] = NS_MILLION;
    }
    for (uint32_t k = 0; k < 8; k++) {
        c->group[k].home = k % 4;
        c->bytes[k * 4 + (k * 3 + 1) % 4] = 4 * GB;
    }
    plan = ns_plan(&c->host, c->group, c->n);
    g_assert_true(plan->exact);
    for (uint32_t k = 0; k < 8; k++) {
        g_assert_cmpint(plan->choice[k].node, ==, c->group[k].home);
        g_assert_false(plan->choice[k].follow);
    }
}

/* Small working sets come to the vCPU, it goes to large ones. */
static void test_size_decides(void)
{
    g_autoptr(Case) c = case_new(2, 2);
    g_autoptr(NsPlan) plan = NULL;

    c->group[0].home = c->group[1].home = 0;
    c->bytes[1] = 1024 * 1024;
    c->bytes[3] = 64 * GB;
    c->node[0].free = c->node[1].free = 256 * GB;
    plan = ns_plan(&c->host, c->group, c->n);
    g_assert_cmpint(plan->choice[0].node, ==, 0);
    g_assert_true(plan->choice[0].follow);
    g_assert_cmpuint(plan->choice[0].bytes, ==, 1024 * 1024);
    g_assert_cmpint(plan->choice[1].node, ==, 1);
    g_assert_false(plan->choice[1].follow);
}

/* Each is on the other's node, and neither has room for both. */
static void test_change_of_places(void)
{
    g_autoptr(Case) c = case_new(2, 2);
    g_autoptr(NsPlan) plan = NULL;

    for (uint32_t k = 0; k < 2; k++) {
        c->group[k].home = k;
        c->group[k].cpu = 6000;
        c->bytes[k * 2 + !k] = 512 * GB;
    }
    plan = ns_plan(&c->host, c->group, c->n);
    g_assert_cmpint(plan->choice[0].node, ==, 1);
    g_assert_cmpint(plan->choice[1].node, ==, 0);
}

/*
 * The first one's memory is where the second one is, which may also be where
 * the third one is, which may be anywhere; and on a node that is full, so that
 * the first one seems to have nothing at stake.  The others, which fill that
 * node, make it too many to try all.
 */
static void test_each_makes_room(void)
{
    g_autoptr(Case) c = case_new(4, 16);
    g_autoptr(NsPlan) plan = NULL;

    for (uint32_t i = 0; i < 4; i++) {
        c->node[i].cpus = c->node[i].cores = 8;
        c->node[i].free = 0;
    }
    for (uint32_t k = 0; k < c->n; k++) {
        c->group[k].cpu = k ? 5000 : 4000;
        c->group[k].home = k;
    }
    c->bytes[0 * 4 + 1] = c->bytes[0 * 4 + 3] = GB;
    c->group[1].allowed = c->allowed + 4;
    c->allowed[4 + 1] = c->allowed[4 + 2] = true;
    for (uint32_t k = 3; k < c->n; k++) {
        c->group[k].home = 3;
        c->group[k].cpu = 600;
        c->group[k].allowed = c->allowed + 4 * k;
        c->allowed[4 * k + 3] = true;
    }
    plan = ns_plan(&c->host, c->group, c->n);
    g_assert_cmpint(plan->choice[0].node, ==, 1);
    g_assert_cmpint(plan->choice[1].node, ==, 2);
    g_assert_cmpint(plan->choice[2].node, !=, 1);
    g_assert_cmpint(plan->choice[2].node, !=, 2);
    for (uint32_t i = 0; i < 4; i++) {
        g_assert_cmpuint(plan->load[i], <=, 8000);
    }
}

/* Two guests that hardly wait for memory share no cores beside idle ones. */
static void test_shared_cores(void)
{
    g_autoptr(Case) c = case_new(2, 2);
    g_autoptr(NsPlan) plan = NULL;

    for (uint32_t k = 0; k < 2; k++) {
        c->group[k].home = 0;
        c->group[k].cpu = 4000;
        c->group[k].intensity = 100;
        c->group[k].pinned = true;
        c->bytes[k * 2] = GB;
    }
    plan = ns_plan(&c->host, c->group, c->n);
    g_assert_cmpint(plan->choice[0].node, !=, plan->choice[1].node);
    /* 4 CPUs at 4 cores share nothing; 4 more all do. */
    g_assert_cmpuint(ns_share(&c->node[0], 4000), ==, 0);
    g_assert_cmpuint(ns_share(&c->node[0], 8000), ==, 4000 * 500000ull);
}

/* The extremes of all ranges; kind's bits: the largest B and H, and pinned */
static void test_extremes(void)
{
    for (int kind = 0; kind < 4; kind++) {
        g_autoptr(Case) c = case_new(3, 3);
        g_autoptr(NsPlan) plan = NULL;

        c->host.bandwidth = kind & 1 ? NS_MAX_BANDWIDTH : NS_MIN_BANDWIDTH;
        c->host.horizon = kind & 1 ? NS_MAX_HORIZON : 1;
        for (uint32_t i = 0; i < 9; i++) {
            c->ratio[i] = i % 4 ? NS_MAX_RATIO : NS_MILLION;
            c->bytes[i] = NS_MAX_WORKING_SET / 3;
        }
        for (uint32_t k = 0; k < 3; k++) {
            c->group[k].cpu = NS_MAX_CPU;
            c->group[k].intensity = NS_MAX_INTENSITY;
            c->group[k].home = k;
            c->group[k].pinned = kind & 2;
            c->node[k].free = NS_MAX_BYTES;
            c->node[k].used = NS_MAX_CPU;
        }
        plan = ns_plan(&c->host, c->group, c->n);
        check_valid(c, plan);
        if (kind & 2) {
            /* 2/3 of the accesses take 1000 times as long. */
            g_assert_cmpuint(plan->total, >,
                             3ull * NS_MAX_CPU * 666 * NS_MILLION);
            g_assert_cmpuint(plan->total, <,
                             3ull * NS_MAX_CPU * 669 * NS_MILLION);
        }
    }
}

/* make bench has the figure; -m perf prints it */
static void test_time(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(1);

    for (int round = 0; round < 10; round++) {
        g_autoptr(Case) c = case_draw(r, 64, 512, round % 2);
        g_autoptr(NsPlan) plan = NULL;
        double elapsed;

        g_test_timer_start();
        plan = ns_plan(&c->host, c->group, c->n);
        elapsed = g_test_timer_elapsed();
        g_test_minimized_result(elapsed, "64 nodes, 512 groups: %.1f ms",
                                elapsed * 1000);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/plan/optimum", test_optimum);
    g_test_add_func("/numa-sched/plan/valid", test_valid);
    g_test_add_func("/numa-sched/plan/numbering", test_numbering);
    g_test_add_func("/numa-sched/plan/nothing-to-gain", test_nothing_to_gain);
    g_test_add_func("/numa-sched/plan/size-decides", test_size_decides);
    g_test_add_func("/numa-sched/plan/change-of-places",
                    test_change_of_places);
    g_test_add_func("/numa-sched/plan/each-makes-room", test_each_makes_room);
    g_test_add_func("/numa-sched/plan/shared-cores", test_shared_cores);
    g_test_add_func("/numa-sched/plan/extremes", test_extremes);
    if (g_test_perf()) {
        g_test_add_func("/numa-sched/plan/time", test_time);
    }
    return g_test_run();
}
