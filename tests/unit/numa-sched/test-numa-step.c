/*
 * NUMA scheduler: following a plan step by step
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "accel/kvm/numa-sched/step.h"
#include "numa-case.h"

#define PERIOD  2000            /* ms */

/* A case with what the scheduler remembers of its groups */
typedef struct Run {
    Case *c;
    NsPhase *phase;
    NsRest *rest;
    int64_t now;
    uint32_t hysteresis;
    NsStep step;                /* the last one */
    uint32_t moves, returns;    /* from one node to another; and back */
} Run;

static Run *run_new(Case *c)
{
    Run *r = g_new0(Run, 1);

    r->c = c;
    r->phase = g_new0(NsPhase, c->n);
    r->rest = g_new(NsRest, c->n);
    for (uint32_t k = 0; k < c->n; k++) {
        ns_rest_init(&r->rest[k]);
    }
    r->hysteresis = NS_HYSTERESIS;
    return r;
}

static void run_free(Run *r)
{
    case_free(r->c);
    g_free(r->phase);
    g_free(r->rest);
    g_free(r);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Run, run_free)

/* One period: choose a step, and take it */
static uint32_t period(Run *r)
{
    g_autoptr(NsPlan) plan = NULL;
    Case *c = r->c;

    for (uint32_t k = 0; k < c->n; k++) {
        r->phase[k].resting = ns_rests(&r->rest[k], r->now);
    }
    plan = ns_step(&c->host, c->group, c->n, r->phase, r->hysteresis, &r->step);
    g_assert_cmpuint(r->step.n, <=, 2);
    for (uint32_t i = 0; i < r->step.n; i++) {
        uint32_t k = r->step.group[i];
        int from = c->group[k].home, to = r->step.to[i].node;

        if (from != to) {
            g_assert_false(r->phase[k].resting && from >= 0 &&
                           c->node[from].cpus &&
                           (!c->group[k].allowed || c->group[k].allowed[from]));
            r->moves++;
            r->returns += to == r->rest[k].left;
            ns_rest_moved(&r->rest[k], r->now, from, to);
        }
        c->group[k].home = to;
        r->phase[k].following = r->step.to[i].follow;
    }
    r->now += PERIOD;
    return r->step.n;
}

static void test_rest(void)
{
    NsRest r;

    ns_rest_init(&r);
    g_assert_false(ns_rests(&r, 0));
    ns_rest_moved(&r, 1000, 0, 1);
    g_assert_true(ns_rests(&r, 10999));
    g_assert_false(ns_rests(&r, 11000));
    /* On to another node: no longer than before */
    ns_rest_moved(&r, 11000, 1, 2);
    g_assert_true(ns_rests(&r, 20999));
    g_assert_false(ns_rests(&r, 21000));
    /* Back: twice as long */
    ns_rest_moved(&r, 21000, 2, 1);
    g_assert_true(ns_rests(&r, 40999));
    g_assert_false(ns_rests(&r, 41000));
    /* And so on, up to the bound */
    for (int i = 0; i < 12; i++) {
        ns_rest_moved(&r, 41000, 1 + i % 2, 2 - i % 2);
    }
    g_assert_cmpuint(r.residence, ==, NS_RESIDENCE_MAX);
    /* Calm times shorten it, to what it was at first. */
    ns_rests(&r, 41000 + 4 * NS_RESIDENCE_MAX - 1);
    g_assert_cmpuint(r.residence, ==, NS_RESIDENCE_MAX);
    ns_rests(&r, 41000 + 4 * NS_RESIDENCE_MAX);
    g_assert_cmpuint(r.residence, ==, NS_RESIDENCE_MAX / 2);
    ns_rests(&r, INT64_MAX / 2);
    g_assert_cmpuint(r.residence, ==, NS_RESIDENCE_MIN);
}

/* A group on node 0 whose memory, which cannot move, is on 1 by @percent */
static Run *split(uint32_t percent)
{
    Case *c = case_new(2, 1);

    c->group[0].home = 0;
    c->group[0].pinned = true;
    c->bytes[0] = (100 - percent) * GB / 100;
    c->bytes[1] = percent * GB / 100;
    return run_new(c);
}

/*
 * Half of the time waits, twice as long for the other node: what is gained is
 * (2 * x - 1) / (2 + x) of what it costs, 1/10 where x is 0.63.
 */
static void test_hysteresis(void)
{
    g_autoptr(Run) less = split(62);
    g_autoptr(Run) more = split(65);
    g_autoptr(Run) none = split(62);

    g_assert_cmpuint(period(less), ==, 0);
    g_assert_cmpuint(period(more), ==, 1);
    g_assert_cmpint(more->c->group[0].home, ==, 1);
    g_assert_cmpint(more->step.gain, >, more->step.cost / 10);
    g_assert_cmpuint(period(more), ==, 0);
    none->hysteresis = 0;
    g_assert_cmpuint(period(none), ==, 1);
}

/* What was near is far a moment later: it stays until its time is over. */
static void test_residence(void)
{
    g_autoptr(Run) r = split(90);

    g_assert_cmpuint(period(r), ==, 1);
    for (int back = 0; back < 8; back++) {
        uint64_t bytes = r->c->bytes[0];
        uint32_t residence = NS_RESIDENCE_MIN << MIN(back, 6);
        int64_t moved = r->now - PERIOD;

        r->c->bytes[0] = r->c->bytes[1];
        r->c->bytes[1] = bytes;
        while (!period(r)) {
            g_assert_cmpint(r->now - PERIOD - moved, <, residence);
        }
        g_assert_cmpint(r->now - PERIOD - moved, ==, residence);
    }
}

/* Each is on the other's node, and neither has room for both. */
static void test_change_of_places(void)
{
    /* 7 on 4 cores would share them; 12 on 8 CPUs do not fit. */
    for (int cpu = 3500; cpu <= 6000; cpu += 2500) {
        g_autoptr(Run) r = NULL;
        Case *c = case_new(2, 2);

        for (uint32_t k = 0; k < 2; k++) {
            c->group[k].home = k;
            c->group[k].cpu = cpu;
            c->bytes[k * 2 + !k] = 512 * GB;
        }
        r = run_new(c);
        g_assert_cmpuint(period(r), ==, 2);
        g_assert_cmpint(c->group[0].home, ==, 1);
        g_assert_cmpint(c->group[1].home, ==, 0);
        g_assert_cmpuint(period(r), ==, 0);
    }
}

/* As many as want to move, one in each period */
static void test_one_at_a_time(void)
{
    g_autoptr(Run) r = NULL;
    Case *c = case_new(4, 8);

    for (uint32_t k = 0; k < 8; k++) {
        c->group[k].home = 0;
        c->group[k].pinned = true;
        c->bytes[k * 4 + k % 4] = (k + 1) * GB;
    }
    r = run_new(c);
    for (int i = 0; i < 6; i++) {
        g_assert_cmpuint(period(r), ==, 1);
    }
    g_assert_cmpuint(period(r), ==, 0);
    for (uint32_t k = 0; k < 8; k++) {
        g_assert_cmpint(c->group[k].home, ==, k % 4);
    }
}

/* Who has no node, or lost it, comes first, and whether it has moved or not. */
static void test_homeless(void)
{
    g_autoptr(Run) r = split(100);
    Case *c = r->c;

    g_assert_cmpuint(period(r), ==, 1);
    g_assert_true(ns_rests(&r->rest[0], r->now));
    /* Its CPUs go offline. */
    c->node[1].cpus = c->node[1].cores = 0;
    g_assert_cmpuint(period(r), ==, 1);
    g_assert_cmpint(c->group[0].home, ==, 0);
    c->node[1].cpus = c->node[1].cores = 4;
    c->group[0].home = -1;
    g_assert_cmpuint(period(r), ==, 1);
    g_assert_cmpint(c->group[0].home, ==, 1);
}

/* Memory on its way is no reason for a step. */
static void test_following(void)
{
    g_autoptr(Run) r = NULL;
    Case *c = case_new(2, 1);

    c->group[0].home = 0;
    c->group[0].allowed = c->allowed;
    c->allowed[0] = true;
    c->bytes[1] = GB;
    r = run_new(c);
    g_assert_cmpuint(period(r), ==, 1);
    g_assert_cmpint(c->group[0].home, ==, 0);
    g_assert_true(r->phase[0].following);
    g_assert_cmpuint(r->moves, ==, 0);
    for (int i = 0; i < 4; i++) {
        c->bytes[0] += GB / 4;
        c->bytes[1] -= GB / 4;
        g_assert_cmpuint(period(r), ==, 0);
    }
}

/*
 * What the placement of now costs, calculated by hand of the options; false: a
 * group has no node that it may be on
 */
static bool total(const Case *c, const NsPhase *phase, uint64_t *res)
{
    uint32_t n = c->host.n;
    g_autofree NsOption *option = g_new(NsOption, 2 * n);
    g_autofree uint64_t *load = g_new0(uint64_t, n);
    bool all = true;

    *res = 0;
    for (uint32_t k = 0; k < c->n; k++) {
        uint32_t options = ns_options(&c->host, &c->group[k], option);
        const NsOption *stay = NULL, *follow = NULL;

        if (c->group[k].home >= 0) {
            load[c->group[k].home] += c->group[k].cpu;
        }
        for (uint32_t o = 0; o < options; o++) {
            if ((int)option[o].node == c->group[k].home) {
                *(option[o].follow ? &follow : &stay) = &option[o];
            }
        }
        all &= !!stay;
        if (stay) {
            *res += ns_option_cost(phase[k].following && follow ? follow :
                                   stay);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (c->node[i].cpus) {
            *res += ns_share(&c->node[i], load[i] + c->node[i].used);
        }
    }
    return all;
}

/* N1: no node gets above its CPUs, or what it had; nor above its memory */
static void check_room(const Run *r, const uint64_t *load_before)
{
    const Case *c = r->c;

    for (uint32_t i = 0; i < c->host.n; i++) {
        uint64_t load = c->node[i].used;

        for (uint32_t k = 0; k < c->n; k++) {
            load += c->group[k].home == i ? c->group[k].cpu : 0;
        }
        g_assert_cmpuint(load, <=, MAX(load_before[i],
                                       c->node[i].cpus * 1000ull));
    }
}

static void loads(const Case *c, uint64_t *load)
{
    for (uint32_t i = 0; i < c->host.n; i++) {
        load[i] = c->node[i].used;
    }
    for (uint32_t k = 0; k < c->n; k++) {
        if (c->group[k].home >= 0) {
            load[c->group[k].home] += c->group[k].cpu;
        }
    }
}

/* N5, N6, and that a step brings what it promises */
static void test_invariants(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(31);
    uint32_t steps = 0, pairs = 0;

    for (int round = 0; round < 2000; round++) {
        uint32_t nodes = 1 + draw(rand, 5);
        g_autoptr(Run) r = run_new(case_draw(rand, nodes, 1 + draw(rand, 6),
                                             round % 2));
        g_autofree uint64_t *load = g_new(uint64_t, nodes);
        uint64_t before, after;

        r->hysteresis = draw(rand, 3) * 100;
        for (int i = 0;; i++) {
            bool known = total(r->c, r->phase, &before);
            uint64_t cold = 0;

            loads(r->c, load);
            if (!period(r)) {
                break;
            }
            g_assert_cmpint(i, <, 100);
            check_room(r, load);
            steps++;
            pairs += r->step.n == 2;
            for (uint32_t k = 0; k < r->step.n; k++) {
                cold += r->step.to[k].cold;
            }
            if (known) {
                g_assert_true(total(r->c, r->phase, &after));
                g_assert_cmpint((int64_t)(before - after), ==,
                                r->step.gain + (int64_t)cold);
                g_assert_cmpint(r->step.gain, >,
                                r->step.cost / 1000 * r->hysteresis);
            }
            /* Residence is another test's. */
            r->now += NS_RESIDENCE_MAX;
        }
    }
    g_test_message("%u steps, %u of them by two", steps, pairs);
    g_assert_cmpuint(steps, >, 1000);
    g_assert_cmpuint(pairs, >, 10);
}

/* N5: whoever is where the plan wants it stays, even without a hysteresis. */
static void test_stable(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(32);

    for (int round = 0; round < 2000; round++) {
        g_autoptr(Run) r = run_new(case_draw(rand, 1 + draw(rand, 5),
                                             1 + draw(rand, 6), round % 2));
        g_autoptr(NsPlan) plan = ns_plan(&r->c->host, r->c->group, r->c->n);

        for (uint32_t k = 0; k < r->c->n; k++) {
            if (plan->placed[k]) {
                r->c->group[k].home = plan->choice[k].node;
                r->phase[k].following = plan->choice[k].follow;
            }
        }
        r->hysteresis = 0;
        g_assert_true(plan->exact);
        g_assert_cmpuint(period(r), ==, 0);
    }
}

static uint64_t noisy(GRand *rand, uint64_t value, uint32_t percent)
{
    return value * (100 - percent + draw(rand, 2 * percent + 1)) / 100;
}

/*
 * 1,000 periods of a guest that does the same all the time, seen with noise, on
 * a host where others come and go; memory follows as fast as the host allows.
 */
static void noise(uint32_t seed, uint32_t percent, Run **out)
{
    enum { NODES = 4, GROUPS = 8 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    Case *c = case_new(NODES, GROUPS);
    Run *r = run_new(c);
    uint64_t truth[GROUPS][NODES] = { };

    for (uint32_t i = 0; i < NODES; i++) {
        for (uint32_t j = 0; j < NODES; j++) {
            c->ratio[i * NODES + j] = i == j ? NS_MILLION :
                                      (i ^ j) == 2 ? 2200000 : 1600000;
        }
    }
    for (uint32_t k = 0; k < GROUPS; k++) {
        c->group[k].home = draw(rand, NODES);
        c->group[k].pinned = draw(rand, 2);
        for (uint32_t i = 0; i < NODES; i++) {
            truth[k][i] = draw(rand, 2) ? draw(rand, 2048) * (GB / 1024) : 0;
        }
    }
    *out = r;
    for (int t = 0; t < 1000; t++) {
        for (uint32_t i = 0; i < NODES; i++) {
            c->node[i].used = draw(rand, percent * 20 + 1);
        }
        for (uint32_t k = 0; k < GROUPS; k++) {
            int home = c->group[k].home;
            uint64_t room = c->host.bandwidth * PERIOD / 1000;

            for (uint32_t i = 0; r->phase[k].following && i < NODES; i++) {
                uint64_t bytes = i == home ? 0 : MIN(room, truth[k][i]);

                truth[k][i] -= bytes;
                truth[k][home] += bytes;
                room -= bytes;
            }
            c->group[k].cpu = noisy(rand, 900, percent);
            for (uint32_t i = 0; i < NODES; i++) {
                c->bytes[k * NODES + i] = noisy(rand, truth[k][i], percent);
            }
        }
        period(r);
        if (t == 100) {
            r->returns = r->moves = 0;
        }
    }
}

static void test_noise(void)
{
    for (uint32_t seed = 1; seed <= 30; seed++) {
        g_autoptr(Run) r = NULL;

        noise(seed, 10, &r);
        g_assert_cmpuint(r->moves, ==, 0);
    }
}

/* However large the noise is, each return takes twice as long as the last. */
static void test_much_noise(void)
{
    uint32_t moves = 0;

    for (uint32_t seed = 1; seed <= 30; seed++) {
        g_autoptr(Run) r = NULL;

        noise(seed, 60, &r);
        moves += r->moves;
        g_assert_cmpuint(r->returns, <=, 8 * 8);
    }
    g_test_message("%u moves", moves);
}

/*
 * Of the largest host: CPU time, as others may run here.  With full nodes and a
 * plan that is not followed, pairs of groups are looked at, too.
 */
static void test_time(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(1);

    for (int round = 0; round < 30; round++) {
        Run *run = run_new(case_draw(r, 64, 512, round % 2));
        struct timespec from, to;
        double ms;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        ns_plan_free(ns_step(&run->c->host, run->c->group, run->c->n,
                             run->phase, run->hysteresis, &run->step));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        ms = (to.tv_sec - from.tv_sec) * 1e3 +
             (to.tv_nsec - from.tv_nsec) / 1e6;
        g_test_minimized_result(ms, "64 nodes, 512 groups: a step of %u "
                                "groups: %.1f ms", run->step.n, ms);
        run_free(run);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/step/rest", test_rest);
    g_test_add_func("/numa-sched/step/hysteresis", test_hysteresis);
    g_test_add_func("/numa-sched/step/residence", test_residence);
    g_test_add_func("/numa-sched/step/change-of-places", test_change_of_places);
    g_test_add_func("/numa-sched/step/one-at-a-time", test_one_at_a_time);
    g_test_add_func("/numa-sched/step/homeless", test_homeless);
    g_test_add_func("/numa-sched/step/following", test_following);
    g_test_add_func("/numa-sched/step/invariants", test_invariants);
    g_test_add_func("/numa-sched/step/stable", test_stable);
    g_test_add_func("/numa-sched/step/noise", test_noise);
    g_test_add_func("/numa-sched/step/much-noise", test_much_noise);
    if (g_test_perf()) {
        g_test_add_func("/numa-sched/step/time", test_time);
    }
    return g_test_run();
}
