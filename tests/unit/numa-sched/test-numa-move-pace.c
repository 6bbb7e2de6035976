/*
 * NUMA scheduler: how fast memory moves, and what is needed to undo it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "accel/kvm/numa-sched/move-journal.h"
#include "accel/kvm/numa-sched/move-pace.h"
#include "numa-case.h"

#define MB      (1u << 20)
#define SEC     1000000000ll
#define LARGE    (2 * MB)

/* M6: over no time more than bandwidth * time + burst, of bytes or units */
static void window(GRand *rand)
{
    enum { N = 300 };
    uint64_t bandwidth = NS_MIN_BANDWIDTH << draw(rand, 14);
    uint32_t burst = NS_PACE_MAX_BATCH << draw(rand, 4);
    uint32_t invalidations = draw(rand, 2) ? 1 + draw(rand, 100000) : 0;
    int64_t now = draw(rand, 1000000) - 500000, time[N];
    uint64_t bytes[N], units[N];
    NsPace p;

    ns_pace_init(&p, now, bandwidth, burst, invalidations);
    for (int n = 0; n < N;) {
        NsPaceOffer o = ns_pace_next(&p, now, draw(rand, 2) ? NS_PAGE :
                                              LARGE);
        NsPaceReport r = { .ns = draw(rand, 20000000),
                           .pressure = !draw(rand, 10) };

        if (!o.bytes) {
            g_assert_cmpint(o.until, >, now);
            now = draw(rand, 4) ? o.until : now + draw(rand, SEC);
            continue;
        }
        g_assert_cmpuint(o.bytes, <=, NS_PACE_MAX_BATCH);
        g_assert_cmpuint(o.units, >, 0);
        r.asked = draw(rand, 3) ? o.bytes :
                  draw(rand, o.bytes / NS_PAGE + 1) * NS_PAGE;
        r.units = draw(rand, o.units + 1);
        r.moved = r.asked;
        time[n] = now;
        bytes[n] = r.asked;
        units[n++] = r.units;
        now += draw(rand, 2) ? r.ns : 0;
        ns_pace_report(&p, now, &r);
    }
    for (int i = 0; i < N; i++) {
        uint64_t sum = 0, count = 0;

        for (int j = i; j < N; j++) {
            double s = (time[j] - time[i]) / 1e9;

            sum += bytes[j];
            count += units[j];
            g_assert_cmpfloat(sum, <=, burst + bandwidth * s + 1);
            if (invalidations) {
                g_assert_cmpfloat(count, <=, MIN(invalidations, 1024) +
                                             invalidations * s + 1);
            }
        }
    }
}

static void test_pace_window(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(53);

    for (int round = 0; round < 200; round++) {
        window(rand);
    }
}

/* A machine whose calls cost @call and each page @page, ns */
typedef struct Machine {
    NsPace p;
    int64_t now;
    uint64_t call, page;
    uint64_t moved;
    uint32_t calls;
    bool pressure;
} Machine;

static void machine_run(Machine *m, int64_t until)
{
    while (m->now < until) {
        NsPaceOffer o = ns_pace_next(&m->p, m->now, NS_PAGE);
        NsPaceReport r = { .asked = o.bytes, .moved = o.bytes,
                           .units = o.units, .pressure = m->pressure };

        if (!o.bytes) {
            m->now = MIN(o.until, until);
            continue;
        }
        r.ns = m->call + m->page * (o.bytes / NS_PAGE);
        m->now += r.ns;
        m->moved += o.bytes;
        m->calls++;
        ns_pace_report(&m->p, m->now, &r);
    }
}

/* M7: full speed, then little and with no more calls, then full speed again */
static void test_pace_pressure(void)
{
    static const uint64_t call[] = { 0, 170000, 400000, NS_PACE_CALL };

    for (int i = 0; i < ARRAY_SIZE(call); i++) {
        Machine m = { .call = call[i], .page = 1500 };

        ns_pace_init(&m.p, 0, 256 * MB, NS_PACE_MAX_BATCH, 0);
        machine_run(&m, 10 * SEC);
        g_assert_cmpuint(m.moved, >=, 10ull * 256 * MB / 100 * 98);
        m.moved = m.calls = 0;
        m.pressure = true;
        machine_run(&m, 20 * SEC);
        g_assert_cmpuint(m.p.batch, ==, NS_PACE_MIN_BATCH);
        g_assert_cmpuint(m.moved, <=, 10ull * 256 * MB / 50);
        g_assert_cmpuint(m.calls, <=, 10 * 64 + 2);
        m.pressure = false;
        machine_run(&m, 22 * SEC);
        g_assert_cmpuint(m.p.batch, ==, NS_PACE_MAX_BATCH);
        m.moved = 0;
        machine_run(&m, 32 * SEC);
        g_assert_cmpuint(m.moved, >=, 10ull * 256 * MB / 100 * 98);
    }
}

/* Slow pages make it slower; what stays slow is usual after a while. */
static void test_pace_latency(void)
{
    Machine m = { .call = 400000, .page = 1500 };

    ns_pace_init(&m.p, 0, 256 * MB, NS_PACE_MAX_BATCH, 0);
    machine_run(&m, 5 * SEC);
    g_assert_cmpuint(m.p.batch, ==, NS_PACE_MAX_BATCH);
    /* Twice as slow is not slow. */
    m.page = 3000;
    machine_run(&m, 10 * SEC);
    g_assert_cmpuint(m.p.batch, ==, NS_PACE_MAX_BATCH);
    m.page = 60000;
    machine_run(&m, 11 * SEC);
    g_assert_cmpuint(m.p.batch, <=, NS_PACE_MAX_BATCH / 8);
    machine_run(&m, 120 * SEC);
    g_assert_cmpuint(m.p.batch, ==, NS_PACE_MAX_BATCH);
    /* And back: the floor follows at once. */
    m.page = 1500;
    machine_run(&m, 125 * SEC);
    m.page = 60000;
    machine_run(&m, 126 * SEC);
    g_assert_cmpuint(m.p.batch, <=, NS_PACE_MAX_BATCH / 8);
}

/* Pages that are busy: more of them than half */
static void test_pace_busy(void)
{
    NsPaceReport r = { };
    NsPace p;

    ns_pace_init(&p, 0, 256 * MB, NS_PACE_MAX_BATCH, 0);
    r.asked = ns_pace_next(&p, 0, NS_PAGE).bytes;
    g_assert_cmpuint(r.asked, ==, NS_PACE_MAX_BATCH);
    r.busy = r.asked / 2;
    ns_pace_report(&p, 0, &r);
    g_assert_cmpuint(p.batch, ==, NS_PACE_MAX_BATCH);
    r.asked = ns_pace_next(&p, SEC, NS_PAGE).bytes;
    r.busy = r.asked / 2 + NS_PAGE;
    ns_pace_report(&p, SEC, &r);
    g_assert_cmpuint(p.batch, ==, NS_PACE_MAX_BATCH / 2);
    /* Nothing asked: the offer is given back, and says nothing. */
    r = (NsPaceReport) { };
    g_assert_cmpuint(ns_pace_next(&p, 2 * SEC, LARGE).bytes, ==,
                     NS_PACE_MAX_BATCH / 2);
    ns_pace_report(&p, 2 * SEC, &r);
    g_assert_cmpuint(p.batch, ==, NS_PACE_MAX_BATCH / 2);
    g_assert_cmpuint(p.bytes.tokens, ==, NS_PACE_MAX_BATCH);
}

static void test_pace_states(void)
{
    NsPaceOffer o;
    NsPace p;

    ns_pace_init(&p, 0, 256 * MB, NS_PACE_MAX_BATCH, 0);
    ns_pace_pause(&p, true);
    o = ns_pace_next(&p, SEC, NS_PAGE);
    g_assert_cmpuint(o.bytes, ==, 0);
    g_assert_cmpint(o.until, ==, INT64_MAX);
    ns_pace_pause(&p, false);
    g_assert_cmpuint(ns_pace_next(&p, SEC, NS_PAGE).bytes, >, 0);
    ns_pace_stop(&p);
    ns_pace_pause(&p, false);
    g_assert_cmpuint(ns_pace_next(&p, 9 * SEC, NS_PAGE).bytes, ==, 0);
}

/* M8: whatever is reported, and whatever time it is */
static void test_pace_extremes(void)
{
    static const uint64_t values[] = { 0, 1, NS_PAGE, UINT32_MAX, INT64_MAX,
                                       UINT64_MAX };
    static const int64_t times[] = { INT64_MIN, -1, 0, SEC, INT64_MAX };
    g_autoptr(GRand) rand = g_rand_new_with_seed(54);

    for (int round = 0; round < 5000; round++) {
        NsPace p;
        int64_t now = times[draw(rand, 5)];

        ns_pace_init(&p, now, values[draw(rand, 6)], values[draw(rand, 6)],
                     values[draw(rand, 6)]);
        for (int i = 0; i < 20; i++) {
            NsPaceOffer o = ns_pace_next(&p, times[draw(rand, 5)],
                                         values[draw(rand, 6)]);
            NsPaceReport r = {
                .asked = values[draw(rand, 6)], .moved = values[draw(rand, 6)],
                .busy = values[draw(rand, 6)], .units = values[draw(rand, 6)],
                .ns = values[draw(rand, 6)], .pressure = draw(rand, 2),
            };

            g_assert_cmpuint(o.bytes, <=, NS_PACE_MAX_BATCH);
            if (draw(rand, 4)) {
                ns_pace_report(&p, times[draw(rand, 5)], &r);
            }
            g_assert_cmpuint(p.batch, >=, NS_PACE_MIN_BATCH);
            g_assert_cmpuint(p.batch, <=, NS_PACE_MAX_BATCH);
            g_assert_cmpuint(p.bytes.tokens, <=, p.bytes.size);
        }
    }
}

/* The worst in each report: it still moves, at 1/64 of the bandwidth. */
static void test_pace_goes_on(void)
{
    int64_t now = 0;
    NsPace p;

    ns_pace_init(&p, 0, NS_MIN_BANDWIDTH, 0, 1);
    for (int i = 0; i < 1000; i++) {
        NsPaceOffer o = ns_pace_next(&p, now, LARGE);
        NsPaceReport r = { .asked = o.bytes, .busy = o.bytes, .units = 1,
                           .ns = UINT64_MAX, .pressure = true };

        if (!o.bytes) {
            g_assert_cmpint(o.until - now, <=, 129 * SEC);
            now = o.until;
            o = ns_pace_next(&p, now, LARGE);
        }
        g_assert_cmpuint(o.bytes, >=, LARGE);
        ns_pace_report(&p, now, &r);
    }
}

/* M9: what is taken back is what moved, once each, to where it came from. */
static void undo(GRand *rand, uint32_t max, bool scattered)
{
    enum { PAGES = 512 };
    uint16_t src[PAGES];
    uint32_t when[PAGES] = { };     /* 0: it has not moved, or is back */
    uint64_t moved = 0, last;
    uint32_t clock = 1, at = 0;
    NsJournal j;
    NsRun run;

    ns_journal_init(&j, max);
    for (int i = 0; i < PAGES; i++) {
        src[i] = draw(rand, 64) ? 1 : 2;
    }
    for (int i = 0; i < 400; i++) {
        uint32_t n = 0;

        at = scattered ? draw(rand, PAGES) : (at + 1) % PAGES;
        while (at + n < PAGES && n < 8 && !when[at + n] &&
               src[at + n] == src[at]) {
            n++;
        }
        moved += n * NS_PAGE;
        if (ns_journal_add(&j, at * NS_PAGE, n * NS_PAGE, src[at])) {
            for (uint32_t k = at; k < at + n; k++) {
                when[k] = clock;
            }
            clock++;
        }
        g_assert_cmpuint(j.n, <=, max);
        g_assert_cmpuint(j.bytes + j.lost, ==, moved);
        if (!draw(rand, 10) && ns_journal_take_back(&j, NS_PAGE, &run)) {
            /* It could not be moved back. */
            g_assert_cmpuint(run.bytes, ==, NS_PAGE);
            ns_journal_add(&j, run.addr, run.bytes, run.src);
            g_assert_cmpuint(j.bytes + j.lost, ==, moved);
            if (j.lost) {
                break;
            }
        }
    }
    last = j.in_order && !scattered ? UINT64_MAX : 0;
    while (ns_journal_take_back(&j, (1 + draw(rand, 4)) * NS_PAGE, &run)) {
        uint32_t first = run.addr / NS_PAGE;

        for (uint32_t k = run.bytes / NS_PAGE; k--;) {
            g_assert_cmpuint(when[first + k], !=, 0);
            if (last) {
                g_assert_cmpuint(when[first + k], <=, last);
                last = when[first + k];
            }
            when[first + k] = 0;
            g_assert_cmpuint(src[first + k], ==, run.src);
        }
    }
    g_assert_cmpuint(j.bytes, ==, 0);
    ns_journal_clear(&j);
}

static void test_journal(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(55);

    for (int round = 0; round < 3000; round++) {
        undo(rand, 1 + draw(rand, 1 << draw(rand, 9)), round % 2);
    }
}

/* Runs that touch are joined before anything is lost. */
static void test_journal_bound(void)
{
    NsJournal j;
    NsRun run;

    ns_journal_init(&j, 8);
    for (int i = 0; i < 8; i++) {
        g_assert_true(ns_journal_add(&j, (i * 3 % 8) * NS_PAGE, NS_PAGE, 1));
    }
    g_assert_true(j.in_order);
    g_assert_true(ns_journal_add(&j, 100 * NS_PAGE, NS_PAGE, 1));
    g_assert_cmpuint(j.n, ==, 2);
    g_assert_false(j.in_order);
    for (int i = 0; i < 6; i++) {
        g_assert_true(ns_journal_add(&j, (200 + 2 * i) * NS_PAGE, NS_PAGE, 1));
    }
    /* These do not touch: what is new is lost, and said to be. */
    g_assert_false(ns_journal_add(&j, 300 * NS_PAGE, LARGE, 1));
    g_assert_cmpuint(j.lost, ==, LARGE);
    g_assert_cmpuint(j.bytes, ==, 15 * NS_PAGE);
    /* What continues the last one needs no place. */
    g_assert_true(ns_journal_add(&j, 211 * NS_PAGE, NS_PAGE, 1));
    while (ns_journal_take_back(&j, GB, &run)) {
        g_assert_cmpuint(run.src, ==, 1);
    }
    g_assert_true(j.in_order);
    g_assert_true(ns_journal_add(&j, 0, NS_PAGE, 1));
    ns_journal_clear(&j);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/move/pace-window", test_pace_window);
    g_test_add_func("/numa-sched/move/pace-pressure", test_pace_pressure);
    g_test_add_func("/numa-sched/move/pace-latency", test_pace_latency);
    g_test_add_func("/numa-sched/move/pace-busy", test_pace_busy);
    g_test_add_func("/numa-sched/move/pace-states", test_pace_states);
    g_test_add_func("/numa-sched/move/pace-extremes", test_pace_extremes);
    g_test_add_func("/numa-sched/move/pace-goes-on", test_pace_goes_on);
    g_test_add_func("/numa-sched/move/journal", test_journal);
    g_test_add_func("/numa-sched/move/journal-bound", test_journal_bound);
    return g_test_run();
}
