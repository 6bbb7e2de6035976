/*
 * NUMA scheduler: which part of the memory is used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/plan.h"
#include "accel/kvm/numa-sched/working.h"

#define CHUNK   NS_WORKING_CHUNK

/* An estimator that sees a part of what it is told to watch */
static struct {
    bool open_fails, is_open;
    uint32_t fails_at;          /* look; 0: never */
    uint32_t looks, every;      /* a use in one of so many */
    uint64_t addr, bytes;
} fake = { .every = 1 };

static void *fake_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    g_assert_false(fake.is_open);
    if (fake.open_fails) {
        error_setg(errp, "it is closed");
        return NULL;
    }
    fake.is_open = true;
    return &fake;
}

static bool fake_look(void *opaque, NsHeat *heat, Error **errp)
{
    if (++fake.looks == fake.fails_at) {
        error_setg(errp, "it went blind");
        return false;
    }
    if (fake.looks % fake.every == 0) {
        ns_heat_add(heat, fake.addr, fake.bytes, 1);
    }
    return true;
}

static void fake_close(void *opaque)
{
    g_assert_true(fake.is_open);
    fake.is_open = false;
}

static const NsHeatOps writes = {
    .name = "writes", .open = fake_open, .look = fake_look,
    .close = fake_close,
};
static const NsHeatOps reads = {
    .name = "reads", .open = fake_open, .look = fake_look,
    .close = fake_close, .sees_reads = true,
};
static const NsHeatOps *const all[] = { &writes, &reads, NULL };

/*
 * Chunks
 */

static void test_chunks(void)
{
    NsHeatRange chunk[NS_WORKING_CHUNKS];
    NsHeatRange small = { GiB + NS_PAGE, 2 * CHUNK - 2 * NS_PAGE };
    NsHeatRange one = { GiB, CHUNK };
    NsHeatRange many[] = {
        { GiB, 40 * CHUNK }, { 2 * GiB + NS_PAGE, CHUNK },
        { 3 * GiB + NS_PAGE, 88 * CHUNK + NS_PAGE },
    };
    uint32_t n, first = 0;

    g_assert_cmpuint(ns_working_chunks(&small, 0, chunk), ==, 0);
    g_assert_cmpuint(ns_working_chunks(&small, 1, chunk), ==, 0);
    g_assert_cmpuint(ns_working_chunks(&one, 1, chunk), ==, 1);
    g_assert_cmpuint(chunk[0].addr, ==, GiB);
    g_assert_cmpuint(chunk[0].bytes, ==, CHUNK);
    /* 40 whole ones, none, 87: every other one */
    n = ns_working_chunks(many, 3, chunk);
    g_assert_cmpuint(n, ==, NS_WORKING_CHUNKS);
    for (uint32_t i = 0; i < n; i++) {
        g_assert_cmpuint(chunk[i].addr % CHUNK, ==, 0);
        g_assert_cmpuint(chunk[i].bytes, ==, CHUNK);
        first += chunk[i].addr < 2 * GiB;
        if (chunk[i].addr < 2 * GiB) {
            g_assert_cmpuint(chunk[i].addr, <=, GiB + 39 * CHUNK);
        } else {
            g_assert_cmpuint(chunk[i].addr, >=, 3 * GiB + CHUNK);
            g_assert_cmpuint(chunk[i].addr, <=, 3 * GiB + 87 * CHUNK);
        }
        if (i) {
            g_assert_cmpuint(chunk[i].addr, >, chunk[i - 1].addr);
        }
    }
    g_assert_cmpuint(first, >=, 19);
    g_assert_cmpuint(first, <=, 21);
    /* As many as there are */
    many[0].bytes = 3 * CHUNK;
    many[2].bytes = 2 * CHUNK;
    g_assert_cmpuint(ns_working_chunks(many, 3, chunk), ==, 4);
    g_assert_cmpuint(chunk[3].addr, ==, 3 * GiB + CHUNK);
}

/*
 * What follows from what was seen
 */

static void test_shares(void)
{
    NsWorkingSeen seen[] = {
        { 1000, 1000 * 1000 }, { 1000, 1000 * 100 }, { 1000, 0 },
        { NS_WORKING_FEW - 1, 0 }, { 0, 0 },
    };
    uint32_t share[5], few = DIV_ROUND_UP(1100 * 1000,
                                           3000 + NS_WORKING_FEW - 1);

    g_assert_true(ns_working_shares(seen, 5, true, share));
    g_assert_cmpuint(share[0], ==, 1000);
    g_assert_cmpuint(share[1], ==, 100);
    g_assert_cmpuint(share[2], ==, 1);
    g_assert_cmpuint(share[3], ==, few);
    g_assert_cmpuint(share[4], ==, few);
    /* What was not written may have been read. */
    g_assert_true(ns_working_shares(seen, 5, false, share));
    g_assert_cmpuint(share[0], ==, 1000);
    g_assert_cmpuint(share[1], ==, 100 + 900 * NS_WORKING_UNSEEN / 1000);
    g_assert_cmpuint(share[2], ==, NS_WORKING_UNSEEN);
    /* More than all is all. */
    seen[1].score = UINT64_MAX;
    g_assert_true(ns_working_shares(seen, 5, true, share));
    g_assert_cmpuint(share[1], ==, 1000);
    g_assert_cmpuint(share[4], <=, 1000);
    memset(seen, 0, sizeof(seen));
    seen[0].pages = 1000;
    memset(share, 77, sizeof(share));
    g_assert_false(ns_working_shares(seen, 5, true, share));
    g_assert_cmpuint(share[0], ==, 77 * 0x01010101);
}

static void test_window(void)
{
    int64_t w = NS_WORKING_WINDOW;

    g_assert_cmpint(ns_working_window(w, 100), ==, w);
    g_assert_cmpint(ns_working_window(w, 400), ==, w);
    g_assert_cmpint(ns_working_window(w, 401), ==, w / 2);
    g_assert_cmpint(ns_working_window(w, 99), ==, w * 2);
    g_assert_cmpint(ns_working_window(NS_WORKING_SHORTEST, 1000), ==,
                    NS_WORKING_SHORTEST);
    g_assert_cmpint(ns_working_window(NS_WORKING_LONGEST, 0), ==,
                    NS_WORKING_LONGEST);
}

/*
 * A measurement
 */

static NsHeatRange memory;      /* of this process: 4 chunks, all there */

static NsTopology *one_node(void)
{
    NsTopology *t = g_new0(NsTopology, 1);

    t->n = 1;
    for (uint32_t id = 0; id < NS_MAX_NODES; id++) {
        t->index[id] = 0;       /* whichever it is on */
    }
    return t;
}

static NsWorking *watch(const char *name, int64_t now)
{
    NsWorking *w;

    fake.looks = 0;
    w = ns_working_new(&memory, 1, name, all, now, 100, &error_abort);
    g_assert_true(fake.is_open);
    return w;
}

/* All looks; returns how many there were */
static uint32_t look(NsWorking *w, int64_t now)
{
    uint32_t before = fake.looks;
    int64_t next = now;

    while (next != INT64_MAX) {
        next = ns_working_step(w, next);
    }
    return fake.looks - before;
}

static void test_measured(void)
{
    g_autofree NsTopology *t = one_node();
    NsWorking *w = watch("reads", 1000);
    int64_t window = 0;
    uint32_t share = 0, third;

    /* Not before its time */
    fake.every = 1;
    fake.addr = memory.addr;
    fake.bytes = CHUNK;
    g_assert_cmpint(ns_working_step(w, 1000), ==, 1100);
    g_assert_cmpint(ns_working_step(w, 1099), ==, 1100);
    g_assert_cmpuint(fake.looks, ==, 0);
    g_assert_false(ns_working_result(w, t, &share, &window));
    g_assert_cmpint(ns_working_step(w, 1100), ==, 1200);
    /* A late one moves those after it. */
    g_assert_cmpint(ns_working_step(w, 1250), ==, 1350);
    g_assert_cmpuint(look(w, 1350), ==, NS_WORKING_LOOKS - 2);
    g_assert_true(ns_working_result(w, t, &share, &window));
    g_assert_cmpuint(share, ==, 250);
    g_assert_cmpint(window, ==, NS_WORKING_SHORTEST);
    ns_working_free(w);
    g_assert_false(fake.is_open);

    /* What is used in every third window is so to a third, or near it. */
    w = watch("reads", 0);
    fake.every = 3;
    fake.bytes = 4 * CHUNK;
    look(w, 0);
    g_assert_true(ns_working_result(w, t, &third, &window));
    g_assert_cmpuint(third, >, 150);
    g_assert_cmpuint(third, <, 600);
    ns_working_free(w);

    w = watch("writes", 0);
    fake.every = 1;
    fake.bytes = CHUNK;
    look(w, 0);
    g_assert_true(ns_working_result(w, t, &share, &window));
    g_assert_cmpuint(share, ==, 250 +
                    DIV_ROUND_UP(750 * NS_WORKING_UNSEEN, 1000));
    ns_working_free(w);

    /* Nothing is used: nothing is known, but the window was too short. */
    w = ns_working_new(&memory, 1, "writes", all, 0, NS_WORKING_WINDOW,
                       &error_abort);
    fake.bytes = 0;
    look(w, 0);
    g_assert_false(ns_working_result(w, t, &share, &window));
    g_assert_cmpint(window, ==, 2 * NS_WORKING_WINDOW);
    g_assert_null(ns_working_failed(w));
    ns_working_free(w);
}

static void test_full(void)
{
    NsHeat *h = ns_heat_new(&memory, 1, "reads", all, NULL, &error_abort);
    uint32_t score;

    fake.every = 1;
    fake.looks = 0;
    fake.addr = memory.addr;
    fake.bytes = NS_PAGE;
    for (uint32_t i = 1; i < 120; i++) {
        ns_heat_look(h, NULL);
        ns_heat_scores(h, memory.addr, 1, &score);
        g_assert_cmpuint(score, ==, ns_heat_full(i));
    }
    g_assert_cmpuint(ns_heat_full(0), ==, 0);
    ns_heat_free(h);
}

static void test_fails(void)
{
    g_autofree NsTopology *t = one_node();
    NsHeatRange small = { memory.addr, NS_PAGE };
    Error *err = NULL;
    int64_t window;
    uint32_t share;
    NsWorking *w;

    g_assert_null(ns_working_new(&small, 1, "reads", all, 0, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "2 MiB"));
    g_clear_pointer(&err, error_free);

    g_assert_null(ns_working_new(&memory, 1, "none", all, 0, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "'none'"));
    g_clear_pointer(&err, error_free);

    fake.open_fails = true;
    for (int i = 0; i < 2; i++) {
        g_assert_null(ns_working_new(&memory, 1, i ? "auto" : "reads", all, 0,
                                     1, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "it is closed"));
        g_clear_pointer(&err, error_free);
    }
    fake.open_fails = false;

    /* Of the one that comes after it, half would be missing. */
    w = watch("auto", 0);
    fake.fails_at = 3;
    fake.bytes = CHUNK;
    g_assert_cmpuint(look(w, 0), ==, 3);
    fake.fails_at = 0;
    g_assert_nonnull(strstr(ns_working_failed(w), "it went blind"));
    g_assert_cmpint(ns_working_step(w, INT64_MAX - 1), ==, INT64_MAX);
    g_assert_false(ns_working_result(w, t, &share, &window));
    ns_working_free(w);
    g_assert_false(fake.is_open);
}

/* The kernel's estimator, and memory that is written in half of the windows */
static void test_real(void)
{
    g_autofree NsTopology *t = one_node();
    Error *err = NULL;
    int64_t window;
    uint32_t share;
    NsWorking *w = ns_working_new(&memory, 1, "auto", NULL, 0, 1, &err);

    if (!w) {
        g_test_skip(error_get_pretty(err));
        error_free(err);
        return;
    }
    for (uint32_t i = 1; i <= NS_WORKING_LOOKS; i++) {
        memset((void *)(uintptr_t)memory.addr, i, CHUNK);
        g_assert_cmpint(ns_working_step(w, i), ==,
                        i < NS_WORKING_LOOKS ? i + 1 : INT64_MAX);
    }
    g_assert_true(ns_working_result(w, t, &share, &window));
    g_assert_cmpuint(share, ==, 250 +
                    DIV_ROUND_UP(750 * NS_WORKING_UNSEEN, 1000));
    ns_working_free(w);
    g_assert_cmpuint(*(uint8_t *)(uintptr_t)memory.addr, ==, NS_WORKING_LOOKS);
}

int main(int argc, char **argv)
{
    char *map = mmap(NULL, 5 * CHUNK, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(map != MAP_FAILED);
    memory.addr = ROUND_UP((uintptr_t)map, CHUNK);
    memory.bytes = 4 * CHUNK;
    memset((void *)(uintptr_t)memory.addr, 1, memory.bytes);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/working/chunks", test_chunks);
    g_test_add_func("/numa-sched/working/shares", test_shares);
    g_test_add_func("/numa-sched/working/window", test_window);
    g_test_add_func("/numa-sched/working/measured", test_measured);
    g_test_add_func("/numa-sched/working/full", test_full);
    g_test_add_func("/numa-sched/working/fails", test_fails);
    g_test_add_func("/numa-sched/working/pagemap-scan", test_real);
    return g_test_run();
}
