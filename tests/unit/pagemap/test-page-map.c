/*
 * Page map: the table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "qemu/atomic.h"
#include "qemu/units.h"
#include "migration/pagemap/map.h"

#define PAGE        ((uint64_t)PM_MAP_PAGE_SIZE)

static void set(PmMap *map, uint64_t addr, uint16_t device, uint64_t offset,
                bool written)
{
    PmEntry e = { .offset = offset, .device = device, .written = written };

    g_assert_true(pm_map_set(map, addr, &e, 0));
}

static void expect(PmMap *map, uint64_t addr, uint16_t device,
                   uint64_t offset, bool written)
{
    PmEntry e;

    g_assert_true(pm_map_get(map, addr, &e, NULL));
    g_assert_cmpuint(e.device, ==, device);
    g_assert_cmpuint(e.offset, ==, offset);
    g_assert_cmpint(e.written, ==, written);
}

static void expect_none(PmMap *map, uint64_t addr)
{
    PmEntry e;

    g_assert_false(pm_map_get(map, addr, &e, NULL));
}

static void test_bounds(void)
{
    PmMap *map = pm_map_new(false);
    PmEntry bad[] = {
        { .device = 0 },
        { .device = PM_MAP_MAX_DEVICE + 1 },
        { .device = 1, .offset = 1 },
        { .device = 1, .offset = 256 },
        { .device = 1, .offset = PM_MAP_MAX_OFFSET + 512 },
        { .device = 1, .offset = (uint64_t)INT64_MAX / 512 * 512 },
    };
    unsigned i;

    set(map, 0, 1, 0, false);
    set(map, PM_MAP_LIMIT - PAGE, PM_MAP_MAX_DEVICE, PM_MAP_MAX_OFFSET, true);
    expect(map, 0, 1, 0, false);
    expect(map, PM_MAP_LIMIT - 1, PM_MAP_MAX_DEVICE, PM_MAP_MAX_OFFSET, true);
    expect_none(map, PAGE);
    expect_none(map, PM_MAP_LIMIT - 2 * PAGE);

    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        /* What can not be noted leaves no older entry behind. */
        set(map, 7 * PAGE, 1, 512, false);
        g_assert_false(pm_map_set(map, 7 * PAGE, &bad[i], 0));
        expect_none(map, 7 * PAGE);
        g_assert_false(pm_map_clear_if(map, 7 * PAGE, &bad[i]));
    }
    bad[0] = (PmEntry) { .device = 1 };
    g_assert_false(pm_map_set(map, PM_MAP_LIMIT, &bad[0], 0));
    g_assert_false(pm_map_set(map, UINT64_MAX, &bad[0], 0));
    expect_none(map, PM_MAP_LIMIT);
    expect_none(map, UINT64_MAX);
    pm_map_clear(map, PM_MAP_LIMIT, UINT64_MAX);
    pm_map_clear(map, UINT64_MAX, 1);
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, 2);
    pm_map_clear(map, 1, UINT64_MAX);
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, 0);
    pm_map_free(map);
}

/* A range takes the pages that it touches, in one chunk or over several. */
static void test_ranges(void)
{
    uint64_t edge = PM_MAP_CHUNK_BITS + PM_MAP_PAGE_BITS;
    uint64_t at[] = { 0, PAGE, (1ull << edge) - PAGE, 1ull << edge,
                      (2ull << edge) - PAGE, 5ull << edge, 7ull << edge };
    PmMap *map = pm_map_new(false);
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(at); i++) {
        set(map, at[i], i + 1, i * 512, false);
    }
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, ARRAY_SIZE(at));
    g_assert_cmpuint(pm_map_count(map, 0, PAGE), ==, 1);
    g_assert_cmpuint(pm_map_count(map, 1, PAGE), ==, 1);
    g_assert_cmpuint(pm_map_count(map, PAGE, at[5] - PAGE), ==, 4);
    pm_map_clear(map, PAGE, 0);
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, ARRAY_SIZE(at));

    pm_map_clear(map, 2 * PAGE - 1, 1);
    expect_none(map, PAGE);
    expect(map, 0, 1, 0, false);
    pm_map_clear(map, at[3], 1ull << edge);     /* one whole chunk */
    expect_none(map, at[3]);
    expect_none(map, at[4]);
    expect(map, at[2], 3, 1024, false);
    pm_map_clear(map, at[2] + 1, at[5] - at[2]);
    expect_none(map, at[2]);
    expect_none(map, at[5]);
    expect(map, at[6], 7, 6 * 512, false);

    pm_map_clear_all(map);
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, 0);
    set(map, at[3], 9, 512, true);
    expect(map, at[3], 9, 512, true);
    pm_map_free(map);
}

static void test_clear_if(void)
{
    PmMap *map = pm_map_new(false);
    PmEntry e = { .offset = 1024, .device = 3, .written = true };
    PmEntry other = e;

    g_assert_false(pm_map_clear_if(map, PAGE, &e));
    g_assert_true(pm_map_set(map, PAGE, &e, 0));
    other.offset += 512;
    g_assert_false(pm_map_clear_if(map, PAGE, &other));
    other = e;
    other.device++;
    g_assert_false(pm_map_clear_if(map, PAGE, &other));
    expect(map, PAGE, 3, 1024, true);
    g_assert_true(pm_map_clear_if(map, PAGE, &e));
    expect_none(map, PAGE);
    /* The same place, whichever way it went */
    for (int n = 0; n < 4; n++) {
        e.written = n & 1;
        other = e;
        other.written = n & 2;
        g_assert_true(pm_map_set(map, PAGE, &e, 0));
        g_assert_true(pm_map_clear_if(map, PAGE, &other));
        expect_none(map, PAGE);
    }
    pm_map_free(map);
}

static void test_samples(void)
{
    PmMap *map = pm_map_new(true);
    PmEntry e = { .offset = 512, .device = 1 };
    uint64_t sample;

    g_assert_true(pm_map_samples(map));
    pm_map_set(map, PAGE, &e, 77);
    g_assert_true(pm_map_get(map, PAGE, &e, &sample));
    g_assert_cmpuint(sample, ==, 77);
    pm_map_set(map, PAGE, &e, 0);       /* not that of the content before */
    g_assert_true(pm_map_get(map, PAGE, &e, &sample));
    g_assert_cmpuint(sample, ==, 0);
    pm_map_free(map);

    map = pm_map_new(false);
    g_assert_false(pm_map_samples(map));
    pm_map_set(map, PAGE, &e, 77);
    g_assert_true(pm_map_get(map, PAGE, &e, &sample));
    g_assert_cmpuint(sample, ==, 0);
    pm_map_free(map);
}

/* Every 64 bytes that are meant to count do, each bit of them. */
static void test_sample(void)
{
    g_autofree uint8_t *page = g_malloc0(PAGE);
    uint64_t was = pm_sample(page);
    unsigned bit, seen = 0;

    g_assert_cmpuint(was, !=, 0);
    g_assert_cmpuint(pm_sample(page), ==, was);
    for (bit = 0; bit < PAGE * 8; bit++) {
        page[bit / 8] ^= 1 << bit % 8;
        seen += pm_sample(page) != was;
        page[bit / 8] ^= 1 << bit % 8;
    }
    g_assert_cmpuint(seen, ==, 4 * 64 * 8);
}

/* What was given back to the host does not stay resident. */
static void test_memory(void)
{
    PmMap *map = pm_map_new(true);
    uint64_t empty = pm_map_memory(map);
    PmEntry e = { .offset = 512, .device = 1 };

    g_assert_cmpuint(empty, <=, 512 * KiB);
    pm_map_set(map, 0, &e, 0);
    g_assert_cmpuint(pm_map_memory(map), ==, empty + 2 * MiB);
    pm_map_set(map, PAGE, &e, 1);
    g_assert_cmpuint(pm_map_memory(map), ==, empty + 4 * MiB);
    pm_map_set(map, 3 * GiB, &e, 1);
    g_assert_cmpuint(pm_map_memory(map), ==, empty + 8 * MiB);
    pm_map_clear_all(map);
    g_assert_cmpuint(pm_map_memory(map), ==, empty + 8 * MiB);
    pm_map_free(map);
}

#define THREADS     4
#define CHURN       20000
#define CHUNKS_USED 8

typedef struct Churn {
    PmMap *map;
    unsigned n;
    uint32_t seed;
} Churn;

/*
 * A thread's entries name the page in their offset: a torn or misplaced one
 * would name another.
 */
static void *churn(void *opaque)
{
    Churn *c = opaque;
    GRand *rand = g_rand_new_with_seed(c->seed);
    unsigned i;

    for (i = 0; i < CHURN; i++) {
        uint64_t chunk = g_rand_int_range(rand, 0, CHUNKS_USED);
        uint64_t page = chunk << PM_MAP_CHUNK_BITS |
                        g_rand_int_range(rand, 0, 64);
        uint64_t addr = page << PM_MAP_PAGE_BITS;
        PmEntry e = { .offset = page * 512, .device = c->n + 1 };

        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            pm_map_clear(c->map, addr, 16 * PAGE);
            break;
        case 1:
            pm_map_clear_if(c->map, addr, &e);
            break;
        case 2:
            if (i % 64 == 0) {
                pm_map_clear_all(c->map);
            }
            break;
        case 3:
        case 4:
            if (pm_map_get(c->map, addr, &e, NULL)) {
                g_assert_cmpuint(e.offset, ==, page * 512);
                g_assert_cmpuint(e.device, >=, 1);
                g_assert_cmpuint(e.device, <=, THREADS);
            }
            break;
        default:
            g_assert_true(pm_map_set(c->map, addr, &e, page + 1));
            break;
        }
    }
    g_rand_free(rand);
    return NULL;
}

static void test_threads(void)
{
    PmMap *map = pm_map_new(true);
    QemuThread thread[THREADS];
    Churn c[THREADS];
    unsigned i;

    for (i = 0; i < THREADS; i++) {
        c[i] = (Churn) { map, i, g_test_rand_int() };
        qemu_thread_create(&thread[i], "churn", churn, &c[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (i = 0; i < THREADS; i++) {
        qemu_thread_join(&thread[i]);
    }
    /* Chunks that two threads mapped at once are there once. */
    g_assert_cmpuint(pm_map_memory(map), <=,
                     512 * KiB + CHUNKS_USED * 4 * MiB);
    pm_map_clear_all(map);
    g_assert_cmpuint(pm_map_count(map, 0, UINT64_MAX), ==, 0);
    pm_map_free(map);
}

#define MEETINGS    2000

typedef struct Meeting {
    PmMap *map[MEETINGS];
    unsigned arrived[MEETINGS];
} Meeting;

typedef struct Guest {
    Meeting *m;
    unsigned n;
} Guest;

/* Both store to an empty map as nearly at once as they can. */
static void *meet(void *opaque)
{
    Guest *g = opaque;
    PmEntry e = { .device = 1 + g->n };
    unsigned i, spins;

    for (i = 0; i < MEETINGS; i++) {
        qatomic_inc(&g->m->arrived[i]);
        for (spins = 0; qatomic_read(&g->m->arrived[i]) < 2; spins++) {
            if (spins > 2000) {
                sched_yield();          /* there may be one processor */
            }
        }
        g_assert_true(pm_map_set(g->m->map[i], g->n * PAGE, &e, 0));
    }
    return NULL;
}

static void one_meeting(void)
{
    g_autofree Meeting *m = g_new0(Meeting, 1);
    QemuThread thread[2];
    Guest g[2];
    unsigned i;

    for (i = 0; i < MEETINGS; i++) {
        m->map[i] = pm_map_new(false);
    }
    for (i = 0; i < 2; i++) {
        g[i] = (Guest) { m, i };
        qemu_thread_create(&thread[i], "meet", meet, &g[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (i = 0; i < 2; i++) {
        qemu_thread_join(&thread[i]);
    }
    for (i = 0; i < MEETINGS; i++) {
        expect(m->map[i], 0, 1, 0, false);
        expect(m->map[i], PAGE, 2, 0, false);
        pm_map_free(m->map[i]);
    }
}

/* Not all at once: each takes two mappings of the process. */
static void test_first_store(void)
{
    unsigned i;

    for (i = 0; i < 12; i++) {
        one_meeting();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/bounds", test_bounds);
    g_test_add_func("/page-map/ranges", test_ranges);
    g_test_add_func("/page-map/clear-if", test_clear_if);
    g_test_add_func("/page-map/samples", test_samples);
    g_test_add_func("/page-map/sample", test_sample);
    g_test_add_func("/page-map/memory", test_memory);
    g_test_add_func("/page-map/threads", test_threads);
    g_test_add_func("/page-map/first-store", test_first_store);
    return g_test_run();
}
