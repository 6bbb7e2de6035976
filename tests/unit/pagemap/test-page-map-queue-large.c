/*
 * Page map: the pages that the source holds: many blocks, and more pages than
 * are sorted at a time
 *
 *     test-page-map-queue-large -m perf       also measures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/pagemap/queue.h"

/* More pages than are sorted at a time */
enum { LARGE = PM_QUEUE_PASS + 5000 };

static PmFound find_large(void *opaque, uint16_t block, uint32_t page,
                          uint16_t *device, uint64_t *offset)
{
    /* An order that has nothing to do with that in memory */
    *device = 1;
    *offset = (page * 2654435761u) * 4096ull;
    return opaque ? PM_FOUND_LATER : PM_FOUND_PLACE;
}

static void dirty_never(void *opaque, uint16_t block, uint32_t page)
{
    g_assert_not_reached();
}

static const PmQueueOps ops_large = { find_large, dirty_never };

static void test_blocks(void)
{
    PmQueue *q = pm_queue_new(&ops_large, NULL);

    g_assert_cmpint(pm_queue_add_block(q, UINT32_MAX + 1ull), ==, -1);
    g_assert_cmpint(pm_queue_add_block(q, UINT64_MAX), ==, -1);
    for (int i = 0; i < 65535; i++) {
        g_assert_cmpint(pm_queue_add_block(q, i % 3), ==, i);
    }
    g_assert_cmpint(pm_queue_add_block(q, 1), ==, -1);
    g_assert_true(pm_queue_hold(q, 65534, 65534 % 3 - 1));
    g_assert_cmpuint(pm_queue_queued(q), ==, 1);
    pm_queue_free(q);
    pm_queue_free(NULL);
}

static PmQueue *large(void *opaque)
{
    PmQueue *q = pm_queue_new(&ops_large, opaque);

    g_assert_cmpint(pm_queue_add_block(q, LARGE), ==, 0);
    for (unsigned p = 0; p < LARGE; p++) {
        g_assert_true(pm_queue_hold(q, 0, p));
    }
    return q;
}

static void test_large(void)
{
    g_autofree bool *seen = g_new0(bool, LARGE);
    g_autofree PmQueued *out = g_new(PmQueued, 2048);
    unsigned passes = 1, taken = 0, held = 0;
    PmQueue *q = large(NULL);
    uint64_t last = 0;
    size_t n;

    while ((n = pm_queue_take(q, out, 2048))) {
        taken += n;
        for (size_t i = 0; i < n; i++) {
            g_assert_false(seen[out[i].page]);
            seen[out[i].page] = true;
            passes += out[i].offset < last;
            last = out[i].offset;
            /* Some come once more, before the others had their turn. */
            if (out[i].page < 1000 && passes == 1) {
                g_assert_true(pm_queue_verdict(q, 0, out[i].page, true));
                g_assert_true(pm_queue_hold(q, 0, out[i].page));
                seen[out[i].page] = false;
                held++;
            }
        }
    }
    g_assert_cmpuint(held, ==, 1000);
    g_assert_cmpuint(taken, ==, LARGE + held);
    g_assert_cmpuint(passes, ==, 2);
    g_assert_cmpuint(pm_queue_queued(q), ==, 0);
    g_assert_cmpuint(pm_queue_in_flight(q), ==, LARGE);
    pm_queue_free(q);
}

/* A guest that dirties each page at once does not keep others waiting. */
static void test_fair(void)
{
    g_autofree bool *seen = g_new0(bool, LARGE);
    g_autofree PmQueued *out = g_new(PmQueued, 2048);
    PmQueue *q = large(NULL);
    unsigned missing = LARGE;

    for (unsigned taken = 0; missing; ) {
        size_t n = pm_queue_take(q, out, 2048);

        g_assert_cmpuint(n, >, 0);
        taken += n;
        g_assert_cmpuint(taken, <=, 2 * PM_QUEUE_PASS);
        for (size_t i = 0; i < n; i++) {
            missing -= !seen[out[i].page];
            seen[out[i].page] = true;
            g_assert_true(pm_queue_verdict(q, 0, out[i].page, true));
            g_assert_true(pm_queue_hold(q, 0, out[i].page));
        }
    }
    g_assert_cmpuint(pm_queue_queued(q), ==, LARGE);
    pm_queue_free(q);
}

static void test_speed(void)
{
    g_autofree PmQueued *out = g_new(PmQueued, 2048);
    PmQueue *q = large(NULL), *later = large(&later);
    double s;

    g_test_timer_start();
    pm_queue_take(q, out, 1);
    s = g_test_timer_elapsed();
    g_test_minimized_result(s * 1e3, "refill of %d pages: %.0f ms",
                            PM_QUEUE_PASS, s * 1e3);
    g_test_timer_start();
    while (pm_queue_take(q, out, 2048)) {
        /* count only the time */
    }
    s = g_test_timer_elapsed() / (LARGE / 2048);
    g_test_minimized_result(s * 1e6, "take of 2048 pages: %.0f us", s * 1e6);
    g_test_timer_start();
    g_assert_cmpuint(pm_queue_take(later, out, 2048), ==, 0);
    s = g_test_timer_elapsed();
    g_test_minimized_result(s * 1e3, "take while all of %d pages wait for "
                            "their device: %.1f ms", LARGE, s * 1e3);
    pm_queue_free(q);
    pm_queue_free(later);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/queue-large/blocks", test_blocks);
    g_test_add_func("/page-map/queue-large/passes", test_large);
    g_test_add_func("/page-map/queue-large/fair", test_fair);
    if (g_test_perf()) {
        g_test_add_func("/page-map/queue-large/speed", test_speed);
    }
    return g_test_run();
}
