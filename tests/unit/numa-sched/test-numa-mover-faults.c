/*
 * NUMA scheduler: memory that moves, and a kernel that refuses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "mover-fake.h"
#include "numa-case.h"

#define MB      (1ull << 20)

static Fake *memory(void)
{
    Fake *f = fake_new(8 * NS_MOVE_SUBPAGES, GB);

    for (uint32_t i = 0; i < f->n; i++) {
        f->page[i].large = i / NS_MOVE_SUBPAGES % 2;
        f->page[i].pinned = i % 700 == 5 && !f->page[i].large;
    }
    return f;
}

/*
 * The fault comes with call number @at of the kernel; @abort_at: step of an
 * abort.  False: there is no such call, it is over.
 */
static bool one(uint32_t at, int fault, bool stays, uint32_t abort_at,
                NsMoverProgress *p)
{
    g_autoptr(Fake) f = memory();
    Error *err = NULL;
    NsMoverConfig c;
    NsMoverRange r;
    NsMover *m;
    bool hit;

    f->fault_at = at;
    f->fault = fault;
    f->fault_stays = stays;
    fake_config(f, &c, &r, NULL);
    c.bandwidth = 512 * MB;
    m = ns_mover_new(&c, &fake_sys, f, &err);
    if (!m) {
        g_assert_nonnull(strstr(error_get_pretty(err), "'ram0'"));
        error_free(err);
        g_assert_cmpint(f->policy, ==, -1);
        g_assert_cmpuint(f->log->len, ==, 0);
        p->state = NS_MOVER_FAILED;
        p->error = fault;
        p->moved = 0;
        return true;
    }
    if (abort_at) {
        fake_run(f, m, abort_at);
        ns_mover_abort(m);
    }
    g_assert_cmpuint(fake_run(f, m, 100000), <, 100000);
    ns_mover_progress(m, p);
    hit = f->calls >= at;
    fake_check(f, abort_at ? 2 : 1);
    g_assert_cmpint(p->state, >=, NS_MOVER_DONE);
    if (p->state != NS_MOVER_DONE) {
        g_assert_cmpint(f->policy, ==, -1);
    }
    if (p->state == NS_MOVER_FAILED) {
        g_assert_cmpint(p->error, >, 0);
    } else {
        g_assert_cmpint(p->error, ==, 0);
    }
    /* What moved is known, whatever failed. */
    if (!abort_at) {
        uint64_t there = 0;

        for (uint32_t i = 0; i < f->n; i++) {
            there += f->page[i].node == 10 ? NS_PAGE : 0;
        }
        if (stays) {
            /* Nobody says where pages are any longer. */
            g_assert_cmpuint(p->moved, <=, there);
        } else {
            g_assert_cmpuint(p->moved, ==, there);
        }
    }
    g_assert_cmpint(ns_mover_step(m), ==, INT64_MAX);
    ns_mover_free(m);
    return hit;
}

static void every_call(int fault, bool stays)
{
    NsMoverProgress p;

    for (uint32_t at = 1; one(at, fault, stays, 0, &p); at++) {
        g_assert_cmpuint(at, <, 1000);
    }
    for (uint32_t at = 1; one(at, fault, stays, 4, &p); at++) {
        g_assert_cmpuint(at, <, 1000);
    }
}

static void test_every_call(void)
{
    static const int errors[] = {
        EPERM, ENOSYS, EBUSY, ENOMEM, ENODEV, EINVAL, EACCES, EFAULT, EINTR,
    };

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        every_call(errors[i], false);
        every_call(errors[i], true);
    }
}

/* The node goes away at each call */
static void test_offline(void)
{
    NsMoverProgress p;
    bool failed = false;

    for (uint32_t at = 1; one(at, -1, true, 0, &p); at++) {
        failed |= p.state == NS_MOVER_FAILED && p.error == ENODEV && p.moved;
    }
    g_assert_true(failed);
}

static NsMoverProgress later(int error)
{
    NsMoverProgress p = { };

    /* node, ask, bind, ask, node, ask, and then the first move */
    g_assert_true(one(7, error, true, 0, &p));
    return p;
}

static void test_states(void)
{
    g_assert_cmpint(later(EPERM).state, ==, NS_MOVER_FAILED);
    g_assert_cmpint(later(EPERM).error, ==, EPERM);
    g_assert_cmpint(later(ENOSYS).error, ==, ENOSYS);
    g_assert_cmpint(later(EINVAL).error, ==, EINVAL);
    g_assert_cmpint(later(ENODEV).error, ==, ENODEV);
    g_assert_cmpint(later(ENOMEM).state, ==, NS_MOVER_FULL);
}

/* Pages that can not go back are not forgotten */
static void test_undo_lost(void)
{
    g_autoptr(Fake) f = fake_new(2048, GB);
    NsMoverProgress p;
    NsMoverConfig c;
    NsMoverRange r;
    NsMover *m;

    fake_config(f, &c, &r, NULL);
    m = ns_mover_new(&c, &fake_sys, f, &error_abort);
    fake_run(f, m, 10000);
    f->page[3].pinned = true;
    f->page[5].node = f->page[5].first = -1;
    ns_mover_abort(m);
    g_assert_cmpuint(fake_run(f, m, 1000), <, 1000);
    ns_mover_progress(m, &p);
    g_assert_cmpint(p.state, ==, NS_MOVER_UNDONE);
    g_assert_cmpuint(p.undone, ==, 2046 * NS_PAGE);
    g_assert_cmpuint(p.lost, ==, 2 * NS_PAGE);
    g_assert_cmpint(f->policy, ==, -1);
    ns_mover_free(m);
}

static void refuse(const NsMoverConfig *c, Fake *f, const char *word)
{
    NsMoverProgress p;
    Error *err = NULL;

    g_assert_null(ns_mover_new(c, &fake_sys, f, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), word));
    error_free(err);
    err = NULL;
    g_assert_false(ns_mover_dry_run(c, &fake_sys, f, &p, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), word));
    error_free(err);
    g_assert_cmpint(f->policy, ==, -1);
}

static void test_refused(void)
{
    g_autoptr(Fake) f = memory();
    NsMoverConfig c, bad;
    NsMoverRange r;

    fake_config(f, &c, &r, NULL);
    bad = c;
    bad.n_ranges = 0;
    refuse(&bad, f, "0 ranges");
    bad = c;
    bad.target = FAKE_NODES;
    refuse(&bad, f, "node 3");
    bad = c;
    bad.epsilon = NS_MOVE_MAX_EPSILON + 1;
    refuse(&bad, f, "epsilon 501");
    r.bytes--;
    refuse(&c, f, "'ram0'");
    r.bytes = 0;
    refuse(&c, f, "'ram0'");
    r.bytes = -(uint64_t)NS_PAGE;
    refuse(&c, f, "'ram0'");
    r.bytes = NS_PAGE;
    r.page = 65536;
    refuse(&c, f, "64 KiB");
    r.page = NS_PAGE;
    f->offline[1] = true;
    refuse(&c, f, "node 10");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/mover-faults/every-call", test_every_call);
    g_test_add_func("/numa-sched/mover-faults/offline", test_offline);
    g_test_add_func("/numa-sched/mover-faults/states", test_states);
    g_test_add_func("/numa-sched/mover-faults/undo-lost", test_undo_lost);
    g_test_add_func("/numa-sched/mover-faults/refused", test_refused);
    return g_test_run();
}
