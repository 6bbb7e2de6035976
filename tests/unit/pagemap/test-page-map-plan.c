/*
 * Page map: reads of a batch, against what they have to hold
 *
 *     test-page-map-plan -m perf      also measures
 *
 * Random batches are drawn from GLib's test seed: it is printed, and --seed
 * gives it back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/pagemap/plan.h"

static uint32_t draw(uint32_t below)
{
    return g_test_rand_int_range(0, below);
}

/* The pages before, by index: each must come back once, and unchanged. */
static void check_pages(const PmFetch *before, const PmFetch *after, size_t n)
{
    g_autofree bool *seen = g_new0(bool, n + 1);

    for (size_t i = 0; i < n; i++) {
        const PmFetch *a = &after[i];

        g_assert_cmpuint(a->index, <, n);
        g_assert_false(seen[a->index]);
        seen[a->index] = true;
        g_assert_cmpmem(a, sizeof(*a), &before[a->index], sizeof(*a));
        if (i) {
            g_assert_true(a[-1].device < a->device ||
                          (a[-1].device == a->device &&
                           a[-1].offset <= a->offset));
        }
    }
}

/* A page that comes after those of a read, and would have been in its bounds */
static bool could_join(const PmRead *r, const PmFetch *head, const PmFetch *f)
{
    uint64_t end = f->offset + PM_PAGE_SIZE;

    return head->device == f->device &&
           end - r->offset <= PM_READ_MAX &&
           (f->offset < r->offset + r->bytes ||
            f->offset - (r->offset + r->bytes) <= PM_READ_GAP);
}

static void check_reads(const PmFetch *f, size_t n, const PmRead *reads,
                        size_t n_reads)
{
    size_t next = 0;

    for (size_t i = 0; i < n_reads; i++) {
        const PmRead *r = &reads[i];
        uint64_t end = 0;

        g_assert_cmpuint(r->first, ==, next);
        g_assert_cmpuint(r->n, >=, 1);
        g_assert_cmpuint(r->bytes, <=, PM_READ_MAX);
        g_assert_cmpuint(r->bytes, >=, PM_PAGE_SIZE);
        g_assert_cmpuint(r->offset, ==, f[r->first].offset);
        next += r->n;
        g_assert_cmpuint(next, <=, n);
        for (size_t p = r->first; p < next; p++) {
            g_assert_cmpuint(f[p].device, ==, f[r->first].device);
            /* Covered */
            g_assert_cmpuint(f[p].offset, >=, r->offset);
            g_assert_cmpuint(f[p].offset - r->offset + PM_PAGE_SIZE, <=,
                             r->bytes);
            if (p > r->first && f[p].offset > end) {
                g_assert_cmpuint(f[p].offset - end, <=, PM_READ_GAP);
            }
            end = f[p].offset + PM_PAGE_SIZE;
        }
        /* Not longer than its pages, nor two where one would do */
        g_assert_cmpuint(r->offset + r->bytes, ==, end);
        if (next < n) {
            g_assert_false(could_join(r, &f[r->first], &f[next]));
        }
    }
    g_assert_cmpuint(next, ==, n);
}

static size_t plan(PmFetch *f, size_t n, PmRead *reads)
{
    g_autofree PmFetch *before = g_memdup2(f, n * sizeof(*f));
    /* Room for exactly n: a sanitizer sees more than that. */
    g_autofree PmRead *r = g_new(PmRead, n);
    size_t n_reads = pm_plan(f, n, r);

    g_assert_cmpuint(n_reads, <=, n);
    check_pages(before, f, n);
    check_reads(f, n, r, n_reads);
    if (reads && n_reads) {
        memcpy(reads, r, n_reads * sizeof(*r));
    }
    return n_reads;
}

static void test_random(void)
{
    g_autofree PmFetch *f = g_new0(PmFetch, PM_MAX_BATCH);

    for (int i = 0; i < 3000; i++) {
        size_t n = draw(i % 10 ? 40 : PM_MAX_BATCH + 1);
        unsigned devices = 1 + draw(3);
        /* From many pages at one place to one per read */
        uint32_t sectors = 1u << draw(26);
        uint64_t base = draw(2) ? 0 : INT64_MAX + 1ull - PM_PAGE_SIZE -
                                      sectors * 512ull;

        for (size_t p = 0; p < n; p++) {
            f[p] = (PmFetch) {
                .offset = base + draw(sectors) * 512ull,
                .device = draw(devices) * 65535 / 2,
                .page = draw(INT32_MAX),
                .block = draw(65536),
                .index = p,
            };
            if (draw(4) == 0 && p) {
                /* Right behind the one before, or a gap at the bound */
                f[p].device = f[p - 1].device;
                f[p].offset = MIN(f[p - 1].offset + PM_PAGE_SIZE +
                                  (draw(2) ? 0 : PM_READ_GAP - 512 +
                                   draw(3) * 512),
                                  INT64_MAX + 1ull - PM_PAGE_SIZE - 512);
            }
            memset(&f[p].tag, draw(256), sizeof(PmTag));
        }
        plan(f, n, NULL);
    }
}

static PmFetch at(uint16_t device, uint64_t offset, uint16_t index)
{
    return (PmFetch) { .device = device, .offset = offset, .index = index };
}

static void test_bounds(void)
{
    PmRead r[300];
    PmFetch f[300];

    g_assert_cmpuint(plan(f, 0, r), ==, 0);

    f[0] = at(1, 8192, 0);
    g_assert_cmpuint(plan(f, 1, r), ==, 1);
    g_assert_cmpuint(r[0].offset, ==, 8192);
    g_assert_cmpuint(r[0].bytes, ==, 4096);

    /* The gap: one below, at, and one above */
    for (int d = -512; d <= 512; d += 512) {
        f[0] = at(1, 4096 + PM_READ_GAP + d, 0);
        f[1] = at(1, 0, 1);
        g_assert_cmpuint(plan(f, 2, r), ==, d > 0 ? 2 : 1);
        g_assert_cmpuint(f[0].index, ==, 1);
    }
    /* The size: 256 pages, then one of 257 */
    for (int i = 0; i < 257; i++) {
        f[i] = at(1, (256 - i) * 4096, i);
    }
    g_assert_cmpuint(plan(f, 257, r), ==, 2);
    g_assert_cmpuint(r[0].bytes, ==, PM_READ_MAX);
    g_assert_cmpuint(r[1].n, ==, 1);
    /* A sector makes it too long. */
    for (int i = 0; i < 256; i++) {
        f[i] = at(1, i * 4096 + (i == 255 ? 512 : 0), i);
    }
    g_assert_cmpuint(plan(f, 256, r), ==, 2);

    /* Overlaps and the same place twice */
    f[0] = at(1, 512, 0);
    f[1] = at(1, 0, 1);
    f[2] = at(1, 512, 2);
    g_assert_cmpuint(plan(f, 3, r), ==, 1);
    g_assert_cmpuint(r[0].bytes, ==, 4096 + 512);

    /* Neighbours of two devices */
    f[0] = at(2, 4096, 0);
    f[1] = at(1, 0, 1);
    g_assert_cmpuint(plan(f, 2, r), ==, 2);

    /* The last place that a message can name */
    f[0] = at(1, (1ull << 63) - 4096 - 512, 0);
    f[1] = at(1, (1ull << 63) - 4096 - 1024, 1);
    g_assert_cmpuint(plan(f, 2, r), ==, 1);
}

static void test_speed(void)
{
    enum { TIMES = 200 };
    g_autofree PmFetch *f = g_new0(PmFetch, PM_MAX_BATCH);
    g_autofree PmRead *r = g_new(PmRead, PM_MAX_BATCH);
    double s = 0;

    for (int i = 0; i < TIMES; i++) {
        for (int p = 0; p < PM_MAX_BATCH; p++) {
            f[p] = at(draw(4), draw(1 << 20) * 512ull, p);
        }
        g_test_timer_start();
        pm_plan(f, PM_MAX_BATCH, r);
        s += g_test_timer_elapsed();
    }
    g_test_minimized_result(s * 1e6 / TIMES, "pm_plan: %.0f us for %d pages "
                            "in random order", s * 1e6 / TIMES, PM_MAX_BATCH);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/plan/bounds", test_bounds);
    g_test_add_func("/page-map/plan/random", test_random);
    if (g_test_perf()) {
        g_test_add_func("/page-map/plan/speed", test_speed);
    }
    return g_test_run();
}
