/*
 * Page map: rates, the window, and which way is faster
 *
 * Time is what the test says: nothing is measured.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/pagemap/pace.h"
#include "migration/pagemap/wire.h"

#define MS 1000000ll

static void near(double value, double expect)
{
    if (value < expect * 0.999 || value > expect * 1.001) {
        g_error("%f is not %f", value, expect);
    }
}

/* @rate bytes per second for @ms, in steps of @step ms */
static int64_t go(PmRate *r, int64_t now, double rate, int ms, int step,
                  bool peak)
{
    for (int i = 0; i < ms; i += step) {
        now += step * MS;
        pm_rate_step(r, now, rate * step / 1000, true, peak);
    }
    return now;
}

static void test_known(void)
{
    PmRate r = { 0 };

    g_assert_false(r.known);
    pm_rate_step(&r, 1000 * MS, 12345, true, false);
    g_assert_false(r.known);
    /* Too short to say something, however much it is */
    pm_rate_step(&r, 1049 * MS, 1000000, true, false);
    g_assert_false(r.known);
    pm_rate_step(&r, 1050 * MS, 0, true, false);
    g_assert_true(r.known);
    near(r.value, 20e6);
}

/* The same rate is the same whatever the steps are. */
static void test_steady(void)
{
    for (int step = 1; step < 2000; step = step * 2 + 1) {
        for (int peak = 0; peak < 2; peak++) {
            PmRate r = { 0 };
            int64_t now = 1;

            pm_rate_step(&r, now, 0, true, peak);
            go(&r, now, 1e9, 20 * MAX(step, 50), step, peak);
            g_assert_true(r.known);
            near(r.value, 1e9);
        }
    }
}

/* What was is forgotten with time, not with the number of calls. */
static void test_weight(void)
{
    for (int peak = 0; peak < 2; peak++) {
        PmRate often = { 0 }, once = { 0 };
        int64_t now = 1;

        pm_rate_step(&often, now, 0, true, peak);
        now = go(&often, now, 1e9, 1000, 50, peak);
        once = often;
        go(&often, now, 1e8, 500, 50, peak);
        go(&once, now, 1e8, 500, 500, peak);
        near(once.value, often.value);
        g_assert_cmpfloat(often.value, <, peak ? 7e8 : 2e8);
        g_assert_cmpfloat(often.value, >, 1e8);
        /* A long time leaves nothing of it. */
        go(&once, now + 500 * MS, 1e8, 3600000, 3600000, peak);
        near(once.value, 1e8);
    }
}

static void test_peak(void)
{
    PmRate r = { 0 };
    int64_t now = 1;

    pm_rate_step(&r, now, 0, true, true);
    now = go(&r, now, 1e8, 1000, 50, true);
    /* The better one at once, the worse one slowly */
    now = go(&r, now, 1e9, 50, 50, true);
    near(r.value, 1e9);
    go(&r, now, 1e8, 50, 50, true);
    g_assert_cmpfloat(r.value, >, 9e8);
}

/* Time in which there was nothing to do does not count. */
static void test_idle(void)
{
    PmRate r = { 0 };
    int64_t now = 1;

    pm_rate_step(&r, now, 0, true, false);
    now = go(&r, now, 1e9, 500, 50, false);
    pm_rate_step(&r, now += 10 * MS, 1e7, false, false);
    pm_rate_step(&r, now += 3600000 * MS, 0, true, false);
    near(r.value, 1e9);
    go(&r, now, 1e9, 500, 50, false);
    near(r.value, 1e9);

    /* Nor does a clock that stands still do harm. */
    pm_rate_step(&r, now, 1000, true, false);
    pm_rate_step(&r, now, 1000, true, false);
}

static void test_window(void)
{
    PmPace p = { .fetch = { .value = 1e12 } };
    double second = PM_PAGE_SIZE * 4;   /* bytes/s for each page of it */

    g_assert_cmpuint(pm_pace_window(&p), ==, PM_WINDOW_START);
    p.fetch.known = true;
    g_assert_cmpuint(pm_pace_window(&p), ==, PM_WINDOW_MAX);
    p.fetch.value = 0;
    g_assert_cmpuint(pm_pace_window(&p), ==, PM_WINDOW_MIN);
    p.fetch.value = 1e300;
    g_assert_cmpuint(pm_pace_window(&p), ==, PM_WINDOW_MAX);
    for (unsigned n = 1; n < 70000; n += 7) {
        p.fetch.value = n * second;
        g_assert_cmpuint(pm_pace_window(&p), ==,
                         MIN(MAX(n, PM_WINDOW_MIN), PM_WINDOW_MAX));
    }
    /* What the destination accepts */
    g_assert_cmpuint(PM_WINDOW_MAX, <=, PM_MAX_IN_FLIGHT);
}

static void test_faster(void)
{
    for (int i = 0; i < 4; i++) {
        PmPace p = {
            .fetch = { .value = 1, .known = i & 1 },
            .link = { .value = 2, .known = i & 2 },
        };

        g_assert_cmpint(pm_pace_link_is_faster(&p), ==, i == 3);
        /* F is not less than B */
        p.fetch.value = 2;
        g_assert_false(pm_pace_link_is_faster(&p));
        p.fetch.value = 3;
        g_assert_false(pm_pace_link_is_faster(&p));
    }
}

/* How long a verdict is under way, and pauses, do not count. */
static void test_served(void)
{
    for (int pause = 0; pause < 3; pause++) {
        PmPace p = { };
        int64_t sent = 1000 * MS;

        for (int i = 0; i < 100; i++) {
            /* Two batches at once: the second waits for the first. */
            pm_pace_served(&p, 10 * MS, sent + 10 * MS, 5000000);
            pm_pace_served(&p, 10 * MS, sent + 20 * MS, 5000000);
            sent += 20 * MS + pause * 1000 * MS;
        }
        g_assert_true(p.fetch.known);
        near(p.fetch.value, 5e8);
    }
}

static void test_waiting(void)
{
    PmPace p = { };
    double value;

    pm_pace_waiting(&p, 1000 * MS, 1499 * MS);
    g_assert_false(p.fetch.known);
    pm_pace_waiting(&p, 1000 * MS, 2000 * MS);
    g_assert_true(p.fetch.known);
    value = p.fetch.value;
    near(value, PM_MAX_BATCH * PM_PAGE_SIZE);
    /* A minute makes it less, and a verdict ends it. */
    pm_pace_waiting(&p, 1000 * MS, 61000 * MS);
    near(p.fetch.value, value / 60);
    for (int i = 1; i < 1000; i++) {
        pm_pace_served(&p, 10 * MS, (61010 + 10 * i) * MS, 5000000);
    }
    near(p.fetch.value, 5e8);
    value = p.fetch.value;
    pm_pace_waiting(&p, 61000 * MS, 71400 * MS);
    near(p.fetch.value, value);
}

/* What fills a buffer after a pause is not what the link keeps up. */
static void test_keeps_up(void)
{
    PmPace p = { };
    int64_t now = 1;

    pm_pace_sent(&p, now, 0, true);
    g_assert_cmpfloat(pm_pace_link_keeps_up(&p), ==, 0);
    for (int round = 0; round < 10; round++) {
        /* Better than nothing, while nothing else is known */
        pm_pace_sent(&p, now += 50 * MS, 20000000, true);
        near(pm_pace_link_keeps_up(&p), round ? 1e8 : 4e8);
        for (int i = 0; i < 10; i++) {
            pm_pace_sent(&p, now += 50 * MS, 5000000, true);
            near(pm_pace_link_keeps_up(&p), 1e8);
        }
        g_assert_cmpfloat(p.link.value, >, 2e8);
        /* The link is idle, and is no slower for that. */
        pm_pace_sent(&p, now += 50 * MS, 5000000, false);
        pm_pace_sent(&p, now += 3000 * MS, 0, false);
        near(pm_pace_link_keeps_up(&p), 1e8);
        pm_pace_sent(&p, now += 50 * MS, 0, true);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/pace/known", test_known);
    g_test_add_func("/page-map/pace/keeps-up", test_keeps_up);
    g_test_add_func("/page-map/pace/steady", test_steady);
    g_test_add_func("/page-map/pace/weight", test_weight);
    g_test_add_func("/page-map/pace/peak", test_peak);
    g_test_add_func("/page-map/pace/idle", test_idle);
    g_test_add_func("/page-map/pace/window", test_window);
    g_test_add_func("/page-map/pace/faster", test_faster);
    g_test_add_func("/page-map/pace/served", test_served);
    g_test_add_func("/page-map/pace/waiting", test_waiting);
    return g_test_run();
}
