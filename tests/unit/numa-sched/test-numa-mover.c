/*
 * NUMA scheduler: memory that moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/thread.h"
#include "mover-fake.h"
#include "numa-case.h"

#define MB      (1ull << 20)

typedef struct Run {
    NsMoverConfig c;
    NsMoverRange r;
    NsMoverProgress p;
    NsMover *m;
} Run;

static void start(Fake *f, Run *t, const uint32_t *score)
{
    fake_config(f, &t->c, &t->r, score);
    t->m = ns_mover_new(&t->c, &fake_sys, f, &error_abort);
}

static uint32_t on(const Fake *f, int node)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->n; i++) {
        n += f->page[i].node == node;
    }
    return n;
}

static void test_all(void)
{
    g_autoptr(Fake) f = fake_new(4096, GB);
    Run t;

    start(f, &t, NULL);
    g_assert_cmpint(f->policy, ==, 10);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.moved, ==, 16 * MB);
    g_assert_cmpuint(t.p.total, ==, 16 * MB);
    g_assert_cmpuint(t.p.worth, ==, 16 * MB);
    g_assert_cmpuint(t.p.units, ==, 4096);
    g_assert_cmpuint(t.p.calls, ==, 4);
    g_assert_cmpuint(t.p.failed + t.p.lost + t.p.undone, ==, 0);
    g_assert_false(t.p.scored);
    g_assert_cmpuint(on(f, 10), ==, 4096);
    g_assert_cmpint(f->policy, ==, 10);
    fake_check(f, 1);
    ns_mover_free(t.m);
}

/* Large pages move whole, by one address each */
static void test_large(void)
{
    g_autoptr(Fake) f = fake_new(8 * NS_MOVE_SUBPAGES, GB);
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = i / NS_MOVE_SUBPAGES % 2;
    }
    start(f, &t, NULL);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.huge_moved, ==, 4);
    g_assert_cmpuint(t.p.units, ==, 4 + 4 * NS_MOVE_SUBPAGES);
    g_assert_cmpuint(t.p.moved, ==, 16 * MB);
    fake_check(f, 1);
    ns_mover_free(t.m);
}

/* What is large is not known: no more moves at once than was asked for */
static void test_guess(void)
{
    g_autoptr(Fake) f = fake_new(16 * NS_MOVE_SUBPAGES, GB);
    uint64_t bytes = 0;
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = i / NS_MOVE_SUBPAGES % 2;
    }
    f->no_huge = true;
    start(f, &t, NULL);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.moved, ==, 32 * MB);
    g_assert_cmpuint(t.p.failed, ==, 0);
    for (guint i = 0; i < f->log->len; i++) {
        FakeLog *l = &g_array_index(f->log, FakeLog, i);

        bytes = i && l->time == l[-1].time ? bytes + l->bytes : l->bytes;
        g_assert_cmpuint(bytes, <=, 4 * MB);
    }
    fake_check(f, 1);
    ns_mover_abort(t.m);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.undone, ==, 32 * MB);
    g_assert_cmpuint(on(f, 0), ==, f->n);
    ns_mover_free(t.m);
}

/* A large page that is split between the look and the move */
static void test_split(void)
{
    g_autoptr(Fake) f = fake_new(4 * NS_MOVE_SUBPAGES, GB);
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = true;
    }
    start(f, &t, NULL);
    ns_mover_step(t.m);
    for (uint32_t i = 0; i < NS_MOVE_SUBPAGES; i++) {
        f->page[i].large = false;
    }
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.moved, ==, 8 * MB);
    g_assert_cmpuint(t.p.huge_moved, ==, 3);
    g_assert_cmpuint(on(f, 10), ==, f->n);
    ns_mover_free(t.m);
}

/* The hottest first; cold memory stays */
static void test_hot(void)
{
    g_autoptr(Fake) f = fake_new(4096, GB);
    g_autofree uint32_t *score = g_new0(uint32_t, 4096);
    uint32_t last = UINT32_MAX;
    Run t;

    for (uint32_t i = 0; i < 1024; i++) {
        score[i * 37 % 4096] = 1000 + i;
    }
    start(f, &t, score);
    ns_mover_free(t.m);
    t.c.epsilon = NS_MOVE_EPSILON;
    t.m = ns_mover_new(&t.c, &fake_sys, f, &error_abort);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_true(t.p.scored);
    g_assert_cmpuint(t.p.total, ==, 16 * MB);
    g_assert_cmpuint(t.p.worth, ==, 4 * MB);
    g_assert_cmpuint(t.p.moved, ==, 4 * MB);
    g_assert_cmpuint(f->log->len, ==, 1024);
    for (guint i = 0; i < f->log->len; i++) {
        uint64_t addr = g_array_index(f->log, FakeLog, i).addr;
        uint32_t s = score[(addr - FAKE_BASE) / NS_PAGE];

        g_assert_cmpuint(s, <, last);
        last = s;
    }
    ns_mover_free(t.m);
}

static void test_refresh(void)
{
    g_autoptr(Fake) f = fake_new(8192, GB);
    g_autofree uint32_t *score = g_new0(uint32_t, 8192);
    Run t;

    for (uint32_t i = 0; i < 8192; i++) {
        score[i] = 9000 - i;
    }
    start(f, &t, score);
    while (!f->log->len) {
        f->now = MAX(f->now, ns_mover_step(t.m));
    }
    for (uint32_t i = 0; i < 8192; i++) {
        score[i] = 1 + i;
    }
    ns_mover_refresh(t.m);
    fake_run(f, t.m, 10000);
    fake_check(f, 1);
    g_assert_cmpuint(g_array_index(f->log, FakeLog, 0).addr, ==, FAKE_BASE);
    g_assert_cmpuint(g_array_index(f->log, FakeLog, 1024).addr, ==,
                     FAKE_BASE + 8191 * NS_PAGE);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.moved, ==, 32 * MB);
    g_assert_cmpuint(t.p.total, ==, 32 * MB);
    ns_mover_free(t.m);
}

/* However often the order is made again, cold memory stays where it is. */
static void test_cold(void)
{
    g_autoptr(Fake) f = fake_new(16384, GB);
    g_autofree uint32_t *score = g_new0(uint32_t, 16384);
    uint64_t worth;
    Run t;

    for (uint32_t i = 0; i < 16384; i++) {
        score[i] = 100000000 / (i + 1);
    }
    fake_config(f, &t.c, &t.r, score);
    t.c.epsilon = NS_MOVE_EPSILON;
    g_assert_true(ns_mover_dry_run(&t.c, &fake_sys, f, &t.p, &error_abort));
    worth = t.p.worth;
    g_assert_cmpuint(worth, >, 0);
    g_assert_cmpuint(worth, <, t.p.total / 2);
    t.m = ns_mover_new(&t.c, &fake_sys, f, &error_abort);
    do {
        ns_mover_refresh(t.m);
        fake_run(f, t.m, 1);
        ns_mover_progress(t.m, &t.p);
    } while (t.p.state == NS_MOVER_RUNNING);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.moved, ==, worth);
    g_assert_cmpuint(t.p.worth, ==, worth);
    ns_mover_free(t.m);
}

static void test_pause(void)
{
    g_autoptr(Fake) f = fake_new(8192, GB);
    guint moved;
    Run t;

    start(f, &t, NULL);
    while (!f->log->len) {
        f->now = MAX(f->now, ns_mover_step(t.m));
    }
    moved = f->log->len;
    ns_mover_pause(t.m, true);
    for (int i = 0; i < 10; i++) {
        f->now += 1000000000;
        g_assert_cmpint(ns_mover_step(t.m), ==, INT64_MAX);
    }
    g_assert_cmpuint(f->log->len, ==, moved);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_PAUSED);
    ns_mover_pause(t.m, false);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.moved, ==, 32 * MB);
    ns_mover_free(t.m);
}

/* Busy pages are tried again, and given up in the end; others move */
static void test_busy(void)
{
    g_autoptr(Fake) f = fake_new(4096, GB);
    uint32_t steps;
    Run t;

    for (uint32_t i = 0; i < f->n; i += 64) {
        f->page[i].pinned = true;
    }
    f->page[1].status = -EACCES;
    f->page[2].node = f->page[2].first = -1;
    start(f, &t, NULL);
    steps = fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(steps, <, 200);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.failed, ==, 65 * NS_PAGE);
    g_assert_cmpuint(t.p.moved, ==, (4096 - 66) * NS_PAGE);
    g_assert_cmpuint(t.p.total, ==, 4095 * NS_PAGE);
    fake_check(f, 1);
    ns_mover_free(t.m);
}

/* M14: also when scores change all the time, and the hottest are busy */
static void test_busy_and_refreshed(void)
{
    g_autoptr(Fake) f = fake_new(4096, GB);
    g_autofree uint32_t *score = g_new0(uint32_t, 4096);
    uint32_t steps = 0;
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].pinned = i < 2048;
        score[i] = i < 2048 ? 1000000 : 1 + i % 7;
    }
    start(f, &t, score);
    do {
        ns_mover_refresh(t.m);
        steps += fake_run(f, t.m, 1);
        ns_mover_progress(t.m, &t.p);
        g_assert_cmpuint(t.p.total, ==, t.p.total ? 16 * MB : 0);
    } while (t.p.state == NS_MOVER_RUNNING && steps < 20000);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.failed, ==, 8 * MB);
    g_assert_cmpuint(t.p.moved, ==, 8 * MB);
    /* Once, and three times more */
    g_assert_cmpuint(t.p.units, <=, 2048 + 4 * 2048);
    fake_check(f, 1);
    ns_mover_free(t.m);
}

/* Of what moves as one, some is busy, and some may not move, each time */
static void test_partly_busy(void)
{
    for (int refreshed = 0; refreshed < 2; refreshed++) {
        g_autoptr(Fake) f = fake_new(4096, GB);
        Run t;

        f->no_huge = true;
        for (uint32_t i = 0; i < f->n; i++) {
            f->page[i].pinned = i % 512 < 12;
            f->page[i].status = i % 512 >= 400 ? -EACCES : 0;
        }
        start(f, &t, NULL);
        do {
            if (refreshed) {
                ns_mover_refresh(t.m);
            }
            fake_run(f, t.m, 1);
            ns_mover_progress(t.m, &t.p);
            g_assert_cmpuint(t.p.moved + t.p.failed, <=, t.p.total);
            g_assert_cmpuint(t.p.total, ==, t.p.total ? 16 * MB : 0);
        } while (t.p.state == NS_MOVER_RUNNING);
        g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
        g_assert_cmpuint(t.p.failed, ==, 8 * (12 + 112) * NS_PAGE);
        g_assert_cmpuint(t.p.moved, ==, 8 * (400 - 12) * NS_PAGE);
        fake_check(f, 1);
        ns_mover_free(t.m);
    }
}

static void test_room(void)
{
    g_autoptr(Fake) f = fake_new(16384, GB);
    Run t;

    f->free[1] = GB / 20 + 20 * MB;
    f->watermark = 4 * MB;
    start(f, &t, NULL);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_FULL);
    g_assert_cmpuint(f->free[1], >=, GB / 20 + 4 * MB);
    g_assert_cmpuint(f->free[1], <, GB / 20 + 4 * MB + NS_PAGE);
    g_assert_cmpint(f->policy, ==, -1);
    fake_check(f, 1);
    ns_mover_free(t.m);
}

/* M9: what moved goes back to where it came from, the newest first */
static void test_undo(void)
{
    g_autoptr(Fake) f = fake_new(8192, GB);
    guint moved;
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].node = f->page[i].first = i % 3 ? 20 : 0;
    }
    start(f, &t, NULL);
    fake_run(f, t.m, 6);
    moved = f->log->len;
    g_assert_cmpuint(moved, >, 0);
    g_assert_cmpuint(moved, <, 8192);
    ns_mover_abort(t.m);
    fake_run(f, t.m, 100000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_UNDONE);
    g_assert_cmpuint(t.p.undone, ==, t.p.moved);
    g_assert_cmpuint(t.p.lost, ==, 0);
    g_assert_cmpint(f->policy, ==, -1);
    g_assert_cmpuint(g_array_index(f->log, FakeLog, moved).addr, ==,
                     g_array_index(f->log, FakeLog, moved - 1).addr);
    for (uint32_t i = 0; i < f->n; i++) {
        g_assert_cmpint(f->page[i].node, ==, f->page[i].first);
    }
    fake_check(f, 2);
    ns_mover_free(t.m);
}

static void test_dry_run(void)
{
    g_autoptr(Fake) f = fake_new(4096, GB);
    Run t;

    fake_config(f, &t.c, &t.r, NULL);
    g_assert_true(ns_mover_dry_run(&t.c, &fake_sys, f, &t.p, &error_abort));
    g_assert_cmpuint(t.p.total, ==, 16 * MB);
    g_assert_cmpuint(t.p.moved, ==, 0);
    g_assert_cmpuint(f->log->len, ==, 0);
    g_assert_cmpint(f->policy, ==, -1);
}

/* M6, with what the kernel really moved */
static void test_pace(void)
{
    g_autoptr(Fake) f = fake_new(16384, GB);
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = i / NS_MOVE_SUBPAGES % 3 == 0;
    }
    fake_config(f, &t.c, &t.r, NULL);
    t.c.bandwidth = 8 * MB;
    t.m = ns_mover_new(&t.c, &fake_sys, f, &error_abort);
    fake_run(f, t.m, 100000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.moved, ==, 64 * MB);
    for (guint i = 0; i < f->log->len; i += 7) {
        FakeLog *l = &g_array_index(f->log, FakeLog, i);
        uint64_t sum = 0;

        for (guint k = i; k < f->log->len; k++) {
            FakeLog *e = &g_array_index(f->log, FakeLog, k);

            sum += e->bytes;
            g_assert_cmpfloat(sum, <=, 16.0 * MB + 8.0 * MB *
                              (e->time - l->time) / 1e9 + 8 * 4096);
        }
    }
    ns_mover_free(t.m);
}

/* A step's work, and what is remembered, do not grow with the guest. */
static void test_slices(void)
{
    g_autoptr(Fake) f = fake_new(1 << 21, 32 * GB);
    int64_t next = 0;
    uint64_t last;
    Run t;

    start(f, &t, NULL);
    last = f->asked_in_all;
    while (next != INT64_MAX) {
        next = ns_mover_step(t.m);
        g_assert_cmpuint(f->asked_in_all - last, <=, 65536);
        last = f->asked_in_all;
        f->now = MAX(f->now, next == INT64_MAX ? 0 : next);
    }
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpint(t.p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(t.p.moved, ==, 8 * GB);
    g_assert_cmpuint(t.p.total, ==, 8 * GB);
    ns_mover_free(t.m);
}

/* Of hugetlbfs: whole, as many as are free there */
static void test_hugetlb(void)
{
    g_autoptr(Fake) f = fake_new(8 * NS_MOVE_SUBPAGES, GB);
    Error *err = NULL;
    Run t;

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = true;
    }
    fake_config(f, &t.c, &t.r, NULL);
    t.r.page = NS_MOVE_HUGE;
    g_assert_null(ns_mover_new(&t.c, &fake_sys, f, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "'ram0'"));
    g_assert_nonnull(strstr(error_get_pretty(err), "nr_hugepages"));
    error_free(err);
    g_assert_cmpint(f->policy, ==, -1);
    f->hugetlb = 64 * MB;
    t.m = ns_mover_new(&t.c, &fake_sys, f, &error_abort);
    fake_run(f, t.m, 10000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.huge_moved, ==, 8);
    ns_mover_free(t.m);
    t.r.page = GB;
    err = NULL;
    g_assert_null(ns_mover_new(&t.c, &fake_sys, f, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "1048576 KiB"));
    error_free(err);
}

static void *others(void *opaque)
{
    NsMover *m = opaque;
    NsMoverProgress p = { };

    for (int i = 0; i < 20000; i++) {
        uint64_t moved = p.moved;

        ns_mover_pause(m, i % 2);
        ns_mover_progress(m, &p);
        g_assert_cmpuint(p.moved, >=, moved);
        g_assert_cmpuint(p.moved, <=, p.total);
    }
    ns_mover_pause(m, false);
    ns_mover_abort(m);
    return NULL;
}

/* Others may look, pause and abort while it is stepped. */
static void test_threads(void)
{
    g_autoptr(Fake) f = fake_new(65536, GB);
    QemuThread thread;
    bool over = false;
    Run t;

    start(f, &t, NULL);
    qemu_thread_create(&thread, "others", others, t.m, QEMU_THREAD_JOINABLE);
    while (!over) {
        fake_run(f, t.m, 1);
        ns_mover_progress(t.m, &t.p);
        over = t.p.state == NS_MOVER_UNDONE;
    }
    qemu_thread_join(&thread);
    g_assert_cmpuint(t.p.undone, ==, t.p.moved);
    g_assert_cmpuint(on(f, 0), ==, f->n);
    g_assert_cmpint(f->policy, ==, -1);
    ns_mover_free(t.m);
}

/* Anything, in any order */
static void one(uint32_t seed)
{
    static const int nodes[] = { 0, 10, 20, -1 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    uint32_t n = NS_MOVE_SUBPAGES * (1 + draw(rand, 12)), steps;
    g_autoptr(Fake) f = fake_new(n, GB);
    g_autofree uint32_t *score = g_new0(uint32_t, n);
    bool undo = draw(rand, 2);
    uint64_t least = GB / 20;
    Run t;

    f->no_huge = !draw(rand, 3);
    for (uint32_t i = 0; i < n; i++) {
        FakePage *p = &f->page[i];

        score[i] = draw(rand, 3) ? draw(rand, 100) : 0;
        if (i % NS_MOVE_SUBPAGES == 0) {
            p->large = draw(rand, 2);
            p->node = p->large ? nodes[draw(rand, 3)] : -1;
        } else if (f->page[i - 1].large) {
            *p = f->page[i - 1];
        }
        if (!p->large) {
            p->node = nodes[draw(rand, 4)];
            p->pinned = !draw(rand, 50);
            p->status = draw(rand, 100) ? 0 : -EACCES;
        }
        p->first = p->node;
    }
    if (!draw(rand, 3)) {
        f->free[1] = least + draw(rand, n) * NS_PAGE;
    }
    fake_config(f, &t.c, &t.r, draw(rand, 3) ? score : NULL);
    t.c.bandwidth = (8 * MB) << draw(rand, 10);
    t.c.invalidations = draw(rand, 2) ? 1000 + draw(rand, 100000) : 0;
    t.c.epsilon = draw(rand, 2) ? NS_MOVE_EPSILON : 0;
    t.c.all = draw(rand, 2);
    t.m = ns_mover_new(&t.c, &fake_sys, f, &error_abort);
    steps = draw(rand, 200);
    for (uint32_t i = 0; i < steps; i++) {
        f->pressure = !draw(rand, 5);
        if (!draw(rand, 10)) {
            ns_mover_refresh(t.m);
        }
        if (!draw(rand, 10)) {
            ns_mover_pause(t.m, draw(rand, 2));
        }
        fake_run(f, t.m, 1);
        fake_check(f, 1);
        g_assert_cmpuint(f->free[1], >=, least);
    }
    ns_mover_pause(t.m, false);
    if (undo) {
        ns_mover_abort(t.m);
    }
    g_assert_cmpuint(fake_run(f, t.m, 100000), <, 100000);
    ns_mover_progress(t.m, &t.p);
    g_assert_cmpuint(t.p.undone + t.p.lost, <=, t.p.moved);
    g_assert_cmpuint(t.p.moved, <=, t.p.total);
    fake_check(f, undo ? 2 : 1);
    if (undo) {
        g_assert_cmpint(t.p.state, ==, NS_MOVER_UNDONE);
        g_assert_cmpuint(t.p.undone, ==, t.p.moved);
        g_assert_cmpint(f->policy, ==, -1);
        for (uint32_t i = 0; i < n; i++) {
            g_assert_cmpint(f->page[i].node, ==, f->page[i].first);
        }
    }
    ns_mover_free(t.m);
}

static void test_random(void)
{
    for (uint32_t seed = 1; seed <= 400; seed++) {
        g_test_message("seed %u", seed);
        one(seed);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/mover/all", test_all);
    g_test_add_func("/numa-sched/mover/large", test_large);
    g_test_add_func("/numa-sched/mover/guess", test_guess);
    g_test_add_func("/numa-sched/mover/split", test_split);
    g_test_add_func("/numa-sched/mover/hot", test_hot);
    g_test_add_func("/numa-sched/mover/refresh", test_refresh);
    g_test_add_func("/numa-sched/mover/cold", test_cold);
    g_test_add_func("/numa-sched/mover/pause", test_pause);
    g_test_add_func("/numa-sched/mover/busy", test_busy);
    g_test_add_func("/numa-sched/mover/partly-busy", test_partly_busy);
    g_test_add_func("/numa-sched/mover/busy-and-refreshed",
                    test_busy_and_refreshed);
    g_test_add_func("/numa-sched/mover/room", test_room);
    g_test_add_func("/numa-sched/mover/undo", test_undo);
    g_test_add_func("/numa-sched/mover/dry-run", test_dry_run);
    g_test_add_func("/numa-sched/mover/pace", test_pace);
    g_test_add_func("/numa-sched/mover/slices", test_slices);
    g_test_add_func("/numa-sched/mover/hugetlb", test_hugetlb);
    g_test_add_func("/numa-sched/mover/threads", test_threads);
    g_test_add_func("/numa-sched/mover/random", test_random);
    return g_test_run();
}
