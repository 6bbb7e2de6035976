/*
 * NUMA scheduler: how much pages are used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/heat.h"
#include "accel/kvm/numa-sched/plan.h"

enum { AT = 1 << 30, PAGES = 64 };

/* An estimator that sees what the test says */
typedef struct Fake {
    bool open_fails, look_fails, is_open;
    uint64_t addr, bytes;
    uint32_t n;
} Fake;

static Fake fake[2];

static void *fake_open(Fake *f, Error **errp)
{
    g_assert_false(f->is_open);
    if (f->open_fails) {
        error_setg(errp, "it is closed");
        return NULL;
    }
    f->is_open = true;
    return f;
}

static void *open_first(const NsHeatRange *range, uint32_t n, Error **errp)
{
    return fake_open(&fake[0], errp);
}

static void *open_second(const NsHeatRange *range, uint32_t n, Error **errp)
{
    return fake_open(&fake[1], errp);
}

static bool fake_look(void *opaque, NsHeat *heat, Error **errp)
{
    Fake *f = opaque;

    g_assert_true(f->is_open);
    ns_heat_add(heat, f->addr, f->bytes, f->n);
    if (f->look_fails) {
        error_setg(errp, "it went blind");
    }
    return !f->look_fails;
}

static void fake_close(void *opaque)
{
    Fake *f = opaque;

    g_assert_true(f->is_open);
    f->is_open = false;
}

static const NsHeatOps first = { "first", open_first, fake_look, fake_close };
static const NsHeatOps second = {
    "second", open_second, fake_look, fake_close
};
static const NsHeatOps *const both[] = { &first, &second, NULL };

static GPtrArray *notes_new(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

static NsHeat *heat_new(const char *name, GPtrArray *notes)
{
    NsHeatRange range[] = {
        { AT, PAGES * NS_PAGE },
        { AT + 2 * PAGES * NS_PAGE, PAGES * NS_PAGE },
    };

    return ns_heat_new(range, 2, name, both, notes, &error_abort);
}

static uint32_t score(const NsHeat *h, uint64_t addr)
{
    uint32_t s;

    ns_heat_scores(h, addr, 1, &s);
    return s;
}

static void test_counts(void)
{
    NsHeat *h = heat_new("none", NULL);
    uint32_t all[PAGES * 3];

    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    ns_heat_add(h, AT + NS_PAGE, NS_PAGE, 1);
    ns_heat_add(h, AT + 2 * NS_PAGE, 2 * NS_PAGE, 3);
    /* Anything else changes nothing. */
    ns_heat_add(h, AT + PAGES * NS_PAGE, PAGES * NS_PAGE, 9);
    ns_heat_add(h, 0, AT, 9);
    ns_heat_add(h, 0, 0, 9);
    ns_heat_add(h, UINT64_MAX - 5, UINT64_MAX, 9);
    ns_heat_scores(h, AT, PAGES * 3, all);
    for (uint32_t i = 0; i < PAGES * 3; i++) {
        g_assert_cmpuint(!!all[i], ==, i >= 1 && i <= 3);
    }
    g_assert_cmpuint(all[2], ==, 3 * all[1]);
    g_assert_cmpuint(all[3], ==, all[2]);
    /* All of both ranges, and what is between */
    ns_heat_add(h, 0, UINT64_MAX, 1);
    g_assert_cmpuint(score(h, AT), ==, all[1]);
    g_assert_cmpuint(score(h, AT + PAGES * NS_PAGE), ==, 0);
    g_assert_cmpuint(score(h, AT + 3 * PAGES * NS_PAGE - NS_PAGE), ==, all[1]);
    /* It stays at its most. */
    for (int i = 0; i < 100; i++) {
        ns_heat_add(h, AT, NS_PAGE, UINT32_MAX);
    }
    g_assert_cmpuint(score(h, AT), ==, UINT16_MAX);
    ns_heat_free(h);
}

static void test_ages(void)
{
    NsHeat *h;
    uint32_t s[2] = { };

    memset(fake, 0, sizeof(fake));
    h = heat_new("auto", NULL);
    g_assert_cmpstr(ns_heat_name(h), ==, "first");
    fake[0] = (Fake) { .is_open = true, .addr = AT, .bytes = NS_PAGE, .n = 1 };
    for (int i = 0; i < 50; i++) {
        ns_heat_look(h, NULL);
        g_assert_cmpuint(score(h, AT), >=, s[0]);
        s[0] = score(h, AT);
    }
    /* A page that is used in each look is 4 times as hot as after one. */
    g_assert_cmpuint(s[0], >, 900);
    g_assert_cmpuint(s[0], <=, 1024);
    fake[0].n = 0;
    for (int i = 0; s[0]; i++) {
        g_assert_cmpint(i, <, 30);
        ns_heat_look(h, NULL);
        g_assert_cmpuint(score(h, AT), <, s[0]);
        s[0] = score(h, AT);
    }
    ns_heat_free(h);
    g_assert_false(fake[0].is_open);
}

static void test_next(void)
{
    g_autoptr(GPtrArray) notes = notes_new();
    NsHeat *h;

    memset(fake, 0, sizeof(fake));
    fake[0].open_fails = true;
    h = heat_new("auto", notes);
    g_assert_cmpstr(ns_heat_name(h), ==, "second");
    g_assert_cmpuint(notes->len, ==, 1);
    g_assert_nonnull(strstr(g_ptr_array_index(notes, 0), "'first'"));
    g_assert_nonnull(strstr(g_ptr_array_index(notes, 0), "it is closed"));
    fake[1].look_fails = true;
    ns_heat_look(h, notes);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    g_assert_cmpuint(notes->len, ==, 2);
    g_assert_nonnull(strstr(g_ptr_array_index(notes, 1), "it went blind"));
    g_assert_false(fake[1].is_open);
    ns_heat_look(h, notes);
    g_assert_cmpuint(notes->len, ==, 2);
    ns_heat_free(h);

    /* In the middle of its work */
    memset(fake, 0, sizeof(fake));
    h = heat_new("auto", NULL);
    fake[0].look_fails = true;
    ns_heat_look(h, NULL);
    g_assert_cmpstr(ns_heat_name(h), ==, "second");
    g_assert_false(fake[0].is_open);
    ns_heat_free(h);
    g_assert_false(fake[1].is_open);
}

static void test_by_name(void)
{
    NsHeatRange range = { AT, NS_PAGE };
    Error *err = NULL;
    NsHeat *h;

    memset(fake, 0, sizeof(fake));
    h = heat_new("second", NULL);
    g_assert_cmpstr(ns_heat_name(h), ==, "second");
    fake[1].look_fails = true;
    ns_heat_look(h, NULL);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    ns_heat_free(h);
    fake[0].open_fails = true;
    g_assert_null(ns_heat_new(&range, 1, "first", both, NULL, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "it is closed"));
    error_free(err);
    err = NULL;
    g_assert_null(ns_heat_new(&range, 1, "third", both, NULL, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "'third'"));
    error_free(err);
}

/* 1 PiB has as many counters as 64 GiB. */
static void test_large(void)
{
    NsHeatRange range = { 1ull << 52, 1ull << 50 };
    NsHeat *h = ns_heat_new(&range, 1, "none", both, NULL, &error_abort);

    ns_heat_add(h, range.addr, NS_PAGE, 1);
    g_assert_cmpuint(score(h, range.addr), >, 0);
    g_assert_cmpuint(score(h, range.addr + 63 * MiB), >, 0);
    g_assert_cmpuint(score(h, range.addr + 256 * MiB), ==, 0);
    g_assert_cmpuint(score(h, range.addr + range.bytes - NS_PAGE), ==, 0);
    ns_heat_free(h);
}

/* Of this kernel: it sees the pages that were written to, and only these. */
static void test_real(gconstpointer opaque)
{
    const NsHeatOps *ops[] = { opaque, NULL };
    enum { N = 4096 };
    uint8_t *memory = mmap(NULL, N * NS_PAGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NsHeatRange range = { (uintptr_t)memory, N * NS_PAGE };
    g_autofree uint32_t *s = g_new(uint32_t, N);
    g_autoptr(GPtrArray) notes = notes_new();
    Error *err = NULL;
    NsHeat *h;
    unsigned sum = 0;

    g_assert_true(memory != MAP_FAILED);
    memset(memory, 1, N * NS_PAGE);
    h = ns_heat_new(&range, 1, ops[0]->name, ops, NULL, &err);
    if (!h) {
        g_test_skip(error_get_pretty(err));
        error_free(err);
        munmap(memory, N * NS_PAGE);
        return;
    }
    ns_heat_look(h, notes);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            /* Reads are not seen. */
            sum += memory[i * NS_PAGE + 7];
            if (i % 7 == round) {
                memory[i * NS_PAGE] = round;
            }
        }
        ns_heat_look(h, notes);
        ns_heat_scores(h, range.addr, N, s);
        for (int i = 0; i < N; i++) {
            g_assert_cmpuint(s[i] >= 256, ==, i % 7 == round);
        }
    }
    g_assert_cmpuint(sum, >, 0);
    g_assert_cmpuint(notes->len, ==, 0);
    g_assert_cmpstr(ns_heat_name(h), ==, ops[0]->name);
    ns_heat_free(h);
    /* Nothing is left: memory can be written to, and be watched again. */
    memset(memory, 2, N * NS_PAGE);
    h = ns_heat_new(&range, 1, ops[0]->name, ops, NULL, &error_abort);
    /* What is watched goes away. */
    munmap(memory, N * NS_PAGE);
    ns_heat_look(h, notes);
    ns_heat_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/heat/counts", test_counts);
    g_test_add_func("/numa-sched/heat/ages", test_ages);
    g_test_add_func("/numa-sched/heat/next", test_next);
    g_test_add_func("/numa-sched/heat/by-name", test_by_name);
    g_test_add_func("/numa-sched/heat/large", test_large);
    g_test_add_data_func("/numa-sched/heat/pagemap-scan",
                         &ns_heat_pagemap_scan, test_real);
    g_test_add_data_func("/numa-sched/heat/soft-dirty", &ns_heat_soft_dirty,
                         test_real);
    return g_test_run();
}
