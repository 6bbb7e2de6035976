/*
 * NUMA scheduler: which steps are decisions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "accel/kvm/numa-sched/steady.h"

static void test_twice(void)
{
    NsSteady s = { };

    g_assert_false(ns_steady_look(&s, "a"));
    g_assert_true(ns_steady_look(&s, "a"));
    g_assert_true(ns_steady_look(&s, "a"));
    g_assert_cmpuint(s.decisions, ==, 1);
    g_assert_false(ns_steady_look(&s, "b"));
    g_assert_false(ns_steady_look(&s, "c"));
    g_assert_false(ns_steady_look(&s, NULL));
    g_assert_false(ns_steady_look(&s, "c"));
    g_assert_true(ns_steady_look(&s, "c"));
    g_assert_cmpuint(s.decisions, ==, 2);
    ns_steady_clear(&s);
}

/* It comes back after @gap looks in which another one, or none, was best. */
static uint64_t returns(unsigned gap, bool other)
{
    NsSteady s = { };
    uint64_t decisions;

    ns_steady_look(&s, "a");
    g_assert_true(ns_steady_look(&s, "a"));
    for (unsigned i = 0; i < gap; i++) {
        g_autofree char *name = g_strdup_printf("b%u", i);

        g_assert_false(ns_steady_look(&s, other ? name : NULL));
    }
    g_assert_false(ns_steady_look(&s, "a"));
    g_assert_true(ns_steady_look(&s, "a"));
    decisions = s.decisions;
    ns_steady_clear(&s);
    return decisions;
}

static void test_comes_back(void)
{
    for (int other = 0; other < 2; other++) {
        g_assert_cmpuint(returns(1, other), ==, 1);
        g_assert_cmpuint(returns(NS_FORGET - 1, other), ==, 1);
        g_assert_cmpuint(returns(NS_FORGET, other), ==, 2);
    }
}

static void test_noise(void)
{
    NsSteady s = { };

    /* Two that are nearly equal take turns: neither is ever advised. */
    for (int i = 0; i < 1000; i++) {
        g_assert_false(ns_steady_look(&s, i % 2 ? "a" : "b"));
    }
    g_assert_cmpuint(s.decisions, ==, 0);
    ns_steady_clear(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/steady/twice", test_twice);
    g_test_add_func("/numa-sched/steady/comes-back", test_comes_back);
    g_test_add_func("/numa-sched/steady/noise", test_noise);
    return g_test_run();
}
