/*
 * NUMA scheduler: how much of its time a group waits for memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel is made up, but for the last test, whose event is one of the
 * kernel's own: there may be no counters here.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/atomic.h"
#include "qemu/thread.h"
#include "accel/kvm/numa-sched/intensity.h"
#include "accel/kvm/numa-sched/plan.h"

enum { FDS = 2048, FIRST = 1000, MS = 1000000 };

typedef struct Fake {
    int error;                  /* of each open */
    int refuses;                /* what exclude_hv is refused with */
    int opens, open_now, tid[FDS];
    bool is_open[FDS];
    ssize_t len;                /* of each read; 0: all of it */
    uint64_t value, enabled, running;
} Fake;

static Fake fake;

static int fake_open(void *opaque, const struct perf_event_attr *attr, int tid)
{
    g_assert_cmpuint(attr->size, ==, sizeof(*attr));
    g_assert_cmpuint(attr->type, ==, 7);
    g_assert_cmpuint(attr->config, ==, 9);
    g_assert_cmpuint(attr->sample_period, ==, 0);
    g_assert_true(attr->exclude_kernel);
    fake.opens++;
    if (fake.error) {
        return -fake.error;
    }
    if (fake.refuses && attr->exclude_hv) {
        return -fake.refuses;
    }
    for (int fd = 0; fd < FDS; fd++) {
        if (!fake.is_open[fd]) {
            fake.is_open[fd] = true;
            fake.tid[fd] = tid;
            fake.open_now++;
            return fd + FIRST;
        }
    }
    g_assert_not_reached();
}

static ssize_t fake_read(void *opaque, int fd, void *buf, size_t len)
{
    uint64_t all[] = { fake.value, fake.enabled, fake.running };

    g_assert_true(fake.is_open[fd - FIRST]);
    g_assert_cmpuint(len, ==, sizeof(all));
    if (fake.len) {
        return fake.len;
    }
    memcpy(buf, all, len);
    return len;
}

static void fake_close(void *opaque, int fd)
{
    g_assert_true(fake.is_open[fd - FIRST]);
    fake.is_open[fd - FIRST] = false;
    fake.open_now--;
}

static const NsPerfSys sys = { fake_open, fake_read, fake_close };

static NsMisses *begin(void)
{
    memset(&fake, 0, sizeof(fake));
    return ns_misses_new(&sys, NULL, 7, 9);
}

static void end(NsMisses *m)
{
    ns_misses_free(m);
    g_assert_cmpint(fake.open_now, ==, 0);
}

/* Misses, and ns in which they were counted, of @of ns */
static void runs(uint64_t misses, uint64_t counted, uint64_t of)
{
    fake.value += misses;
    fake.running += counted;
    fake.enabled += of;
}

static NsWaited look(NsMisses *m, const NsMissing *t, uint32_t n)
{
    NsWaited w[2] = { };
    char *note = ns_misses_look(m, t, n, w, 2);

    g_assert_null(note);
    g_assert_cmpuint(w[0].cpu, ==, 0);
    return w[1];
}

static void test_since(void)
{
    NsCounter before = { 10, 1000, 500 };
    NsCounter now = { 110, 3000, 1500 };
    uint64_t events, ns;

    /* It was counted half of the time. */
    g_assert_true(ns_counter_since(&before, &now, &events, &ns));
    g_assert_cmpuint(events, ==, 200);
    g_assert_cmpuint(ns, ==, 2000);
    now.running = 2500;
    g_assert_true(ns_counter_since(&before, &now, &events, &ns));
    g_assert_cmpuint(events, ==, 100);
    /* Never */
    now.running = 500;
    g_assert_false(ns_counter_since(&before, &now, &events, &ns));
    /* Backwards */
    now = (NsCounter) { 9, 3000, 1500 };
    g_assert_false(ns_counter_since(&before, &now, &events, &ns));
    now = (NsCounter) { 110, 999, 1500 };
    g_assert_false(ns_counter_since(&before, &now, &events, &ns));
    now = (NsCounter) { 110, 3000, 499 };
    g_assert_false(ns_counter_since(&before, &now, &events, &ns));
    /* Without an overflow */
    now = (NsCounter) { UINT64_MAX, UINT64_MAX, 501 };
    g_assert_true(ns_counter_since(&before, &now, &events, &ns));
    g_assert_cmpuint(events, ==, INT64_MAX);
}

static uint32_t m_of(uint64_t events, uint32_t each, uint64_t cpu)
{
    NsWaited w = { };

    ns_waited_add(&w, events, each, cpu);
    return ns_intensity(&w);
}

static void test_share(void)
{
    g_assert_cmpuint(m_of(2500, 100, MS), ==, 250);
    g_assert_cmpuint(m_of(2500, 200, MS), ==, 500);
    g_assert_cmpuint(m_of(0, 100, MS), ==, 1);
    g_assert_cmpuint(m_of(9999, 100, MS), ==, 999);
    g_assert_cmpuint(m_of(10000, 100, MS), ==, NS_MAX_INTENSITY);
    g_assert_cmpuint(m_of(UINT64_MAX, 100, MS), ==, NS_MAX_INTENSITY);
    g_assert_cmpuint(m_of(UINT64_MAX / 100, 100, UINT64_MAX), ==,
                     NS_MAX_INTENSITY);
    g_assert_cmpuint(m_of(UINT64_MAX / 200, 100, UINT64_MAX), ==, 500);
    /* Too short to say */
    g_assert_cmpuint(m_of(5000, 100, MS - 1), ==, 0);
    g_assert_cmpuint(m_of(0, 100, 0), ==, 0);
}

static void test_sum(void)
{
    NsWaited w = { };

    ns_waited_add(&w, 1000, 100, MS);
    ns_waited_add(&w, 1000, 300, 3 * MS);
    g_assert_cmpuint(ns_intensity(&w), ==, 100);
    ns_waited_add(&w, UINT64_MAX / 100, 100, UINT64_MAX - 1);
    ns_waited_add(&w, UINT64_MAX / 100, 100, UINT64_MAX - 1);
    g_assert_cmpuint(w.waited, ==, UINT64_MAX);
    g_assert_cmpuint(w.cpu, ==, UINT64_MAX);
}

static void test_local(void)
{
    /* Node 2 has no memory, node 3 not even CPUs. */
    uint32_t value[] = {
        90, 200, 0, 300,
        200, 80, 0, 310,
        140, 130, 0, 400,
        0, 0, 0, 0,
    };
    NsLatency l = { .n = 4, .value = value, .source = NS_MEASURED };

    g_assert_cmpuint(ns_intensity_local(&l, 0), ==, 90);
    g_assert_cmpuint(ns_intensity_local(&l, 1), ==, 80);
    g_assert_cmpuint(ns_intensity_local(&l, 2), ==, 130);
    g_assert_cmpuint(ns_intensity_local(&l, 3), ==, NS_INTENSITY_LOCAL);
    g_assert_cmpuint(ns_intensity_local(&l, -1), ==, 80);
    g_assert_cmpuint(ns_intensity_local(&l, 4), ==, 80);
    /* Tenths are no nanoseconds. */
    l.source = NS_SLIT;
    g_assert_cmpuint(ns_intensity_local(&l, 0), ==, NS_INTENSITY_LOCAL);
    l.source = NS_FLAT;
    g_assert_cmpuint(ns_intensity_local(&l, 0), ==, NS_INTENSITY_LOCAL);
}

static void test_threads(void)
{
    NsMissing t[] = { { 11, 1, 100 }, { 12, 1, 200 }, { 13, 1, 100 } };
    NsMisses *m = begin();
    NsWaited w = look(m, t, 2);

    /* What was before is not counted. */
    g_assert_cmpuint(w.cpu, ==, 0);
    g_assert_cmpint(fake.open_now, ==, 2);
    runs(1000, MS, MS);
    w = look(m, t, 2);
    g_assert_cmpuint(w.waited, ==, 300000);
    g_assert_cmpuint(w.cpu, ==, 2 * MS);
    /* 11 ends, and 13 comes. */
    runs(1000, MS, MS);
    w = look(m, t + 1, 2);
    g_assert_cmpuint(w.waited, ==, 200000);
    g_assert_cmpuint(w.cpu, ==, MS);
    g_assert_cmpint(fake.open_now, ==, 2);
    g_assert_cmpint(fake.opens, ==, 3);
    /* They do not run, so that they may be others of the same ids. */
    w = look(m, t + 1, 2);
    g_assert_cmpuint(w.cpu, ==, 0);
    g_assert_cmpint(fake.open_now, ==, 2);
    g_assert_cmpint(fake.opens, ==, 5);
    /* Nothing comes any more. */
    fake.len = -EIO;
    look(m, t + 1, 2);
    g_assert_cmpint(fake.open_now, ==, 0);
    fake.len = 8;
    look(m, t + 1, 2);
    g_assert_cmpint(fake.open_now, ==, 0);
    fake.len = 0;
    look(m, t, 3);
    g_assert_cmpuint(ns_misses_threads(m), ==, 3);
    look(m, t, 0);
    g_assert_cmpint(fake.open_now, ==, 0);
    /* There is no such group. */
    t[0].group = 2;
    look(m, t, 1);
    runs(1000, MS, MS);
    look(m, t, 1);
    end(m);
}

static void test_bounded(void)
{
    g_autofree NsMissing *t = g_new0(NsMissing, FDS);
    struct rlimit before, few = { .rlim_cur = 64 };
    NsMisses *m = begin();

    for (int i = 0; i < FDS; i++) {
        t[i] = (NsMissing) { .tid = i + 1, .group = 1, .local = 100 };
    }
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    look(m, t, FDS);
    g_assert_cmpuint(ns_misses_threads(m), ==,
                     MIN(NS_INTENSITY_THREADS, before.rlim_cur / 4));
    /* The process needs others. */
    few.rlim_max = before.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &few), ==, 0);
    look(m, t, FDS);
    g_assert_cmpuint(ns_misses_threads(m), ==, 16);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
    end(m);
}

/* @error: of which a note tells, or not, for good */
static void gives_up(int error, bool tells)
{
    NsMissing t[] = { { 11, 1, 100 }, { 12, 1, 100 } };
    NsWaited w[2] = { };
    NsMisses *m = begin();
    g_autofree char *note = NULL;

    look(m, t, 1);
    fake.error = error;
    note = ns_misses_look(m, t, 2, w, 2);
    g_assert_cmpint(!!note, ==, tells);
    if (tells) {
        g_assert_nonnull(strstr(note, "CAP_PERFMON"));
        g_assert_nonnull(strstr(note, "perf_event_paranoid"));
        g_assert_nonnull(strstr(note, "'memory-intensity'"));
    }
    g_assert_cmpint(fake.open_now, ==, 0);
    fake.error = fake.opens = 0;
    look(m, t, 2);
    g_assert_cmpint(fake.opens, ==, 0);
    end(m);
}

static void test_refused(void)
{
    gives_up(EACCES, true);
    gives_up(EPERM, true);
    gives_up(ENOSYS, true);
}

/* As in a virtual machine, where nobody can do anything about it */
static void test_no_counters(void)
{
    gives_up(ENOENT, false);
    gives_up(EOPNOTSUPP, false);
    gives_up(ENODEV, false);
    gives_up(EINVAL, false);
}

static void test_passes(void)
{
    static const int error[] = { ESRCH, EMFILE, ENFILE, ENOMEM, EBUSY };
    NsMissing t = { 11, 1, 100 };

    for (size_t i = 0; i < ARRAY_SIZE(error); i++) {
        NsMisses *m = begin();

        fake.error = error[i];
        look(m, &t, 1);
        g_assert_cmpint(fake.open_now, ==, 0);
        fake.error = 0;
        look(m, &t, 1);
        g_assert_cmpint(fake.open_now, ==, 1);
        end(m);
    }
}

static void test_hypervisor(void)
{
    static const int error[] = { EINVAL, EOPNOTSUPP };
    NsMissing t = { 11, 1, 100 };

    for (size_t i = 0; i < ARRAY_SIZE(error); i++) {
        NsMisses *m = begin();

        fake.refuses = error[i];
        look(m, &t, 1);
        g_assert_cmpint(fake.open_now, ==, 1);
        end(m);
    }
}

/*
 * This kernel
 */

typedef struct Spin {
    int tid;                    /* atomic; 0: not yet */
    uint64_t until;             /* atomic, ns of CPU time */
    uint64_t now;               /* atomic */
} Spin;

static void *spin(void *opaque)
{
    Spin *s = opaque;
    struct timespec ts;

    qatomic_set(&s->tid, qemu_get_thread_id());
    while (qatomic_read(&s->until) != UINT64_MAX) {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        qatomic_set(&s->now, ts.tv_sec * 1000000000ull + ts.tv_nsec);
    }
    return NULL;
}

/* Until it has run for two more milliseconds */
static void wait_for(Spin *s)
{
    uint64_t until = qatomic_read(&s->now) + 2 * MS;

    while (qatomic_read(&s->now) < until) {
        g_thread_yield();
    }
}

static unsigned descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void test_linux(void)
{
    NsMisses *m = ns_misses_new(&ns_perf_linux, NULL, PERF_TYPE_SOFTWARE,
                                PERF_COUNT_SW_TASK_CLOCK);
    Spin s = { };
    GThread *thread = g_thread_new("spin", spin, &s);
    NsWaited w = { };
    unsigned before = descriptors();
    NsMissing t = { .local = 1 };
    char *note;

    while (!(t.tid = qatomic_read(&s.tid))) {
        g_thread_yield();
    }
    note = ns_misses_look(m, &t, 1, &w, 1);
    if (note || !ns_misses_threads(m)) {
        g_test_skip(note ?: "perf_event_open does not work here");
        g_free(note);
    } else {
        g_assert_cmpuint(w.cpu, ==, 0);
        g_assert_cmpuint(descriptors(), ==, before + 1);
        wait_for(&s);
        g_assert_null(ns_misses_look(m, &t, 1, &w, 1));
        /* The event is a nanosecond on a CPU. */
        g_assert_cmpuint(w.cpu, >=, NS_INTENSITY_SHORTEST);
        g_assert_cmpuint(w.waited, >=, w.cpu / 2);
        g_assert_cmpuint(ns_intensity(&w), >=, NS_MAX_INTENSITY / 2);
        /* A thread that is not ours any more */
        g_assert_null(ns_misses_look(m, &t, 0, &w, 1));
        g_assert_cmpuint(descriptors(), ==, before);
        g_assert_null(ns_misses_look(m, &t, 1, &w, 1));
        g_assert_cmpuint(descriptors(), ==, before + 1);
    }
    qatomic_set(&s.until, UINT64_MAX);
    g_thread_join(thread);
    /* Ids of threads that are gone open nothing. */
    w = (NsWaited) { };
    g_assert_null(ns_misses_look(m, &t, 1, &w, 1));
    g_assert_null(ns_misses_look(m, &t, 1, &w, 1));
    ns_misses_free(m);
    g_assert_cmpuint(descriptors(), ==, before);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/intensity/since", test_since);
    g_test_add_func("/numa-sched/intensity/share", test_share);
    g_test_add_func("/numa-sched/intensity/sum", test_sum);
    g_test_add_func("/numa-sched/intensity/local", test_local);
    g_test_add_func("/numa-sched/intensity/threads", test_threads);
    g_test_add_func("/numa-sched/intensity/bounded", test_bounded);
    g_test_add_func("/numa-sched/intensity/refused", test_refused);
    g_test_add_func("/numa-sched/intensity/no-counters", test_no_counters);
    g_test_add_func("/numa-sched/intensity/passes", test_passes);
    g_test_add_func("/numa-sched/intensity/hypervisor", test_hypervisor);
    g_test_add_func("/numa-sched/intensity/linux", test_linux);
    return g_test_run();
}
