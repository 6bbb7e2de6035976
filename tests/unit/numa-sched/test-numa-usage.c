/*
 * NUMA scheduler: what threads use, and where they and their memory are
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sched.h>
#include <sys/mman.h>
#include "qemu/timer.h"
#include "accel/kvm/numa-sched/affinity.h"
#include "accel/kvm/numa-sched/plan.h"
#include "accel/kvm/numa-sched/residency.h"
#include "accel/kvm/numa-sched/usage.h"
#include "accel/kvm/numa-sched/workers.h"
#include "numa-case.h"

/* In a block of its own size, so that a sanitizer sees what is behind it */
static char *exactly(const char *text, size_t len)
{
    return g_memdup2(text, len);
}

static void test_schedstat(void)
{
    static const char text[] = "123456789 42 7\n";
    static const char *const bad[] = {
        "", "\n", "12", "a 3 4", "-1 3 4", "1,2 3", "18446744073709551616 1 1",
        "9223372036854775808 1 1",
    };
    uint64_t run = 1, wait = 2;

    for (size_t len = 0; len <= strlen(text); len++) {
        g_autofree char *buf = exactly(text, len);

        /* A number at the end may have been longer. */
        g_assert_cmpint(ns_parse_schedstat(buf, len, &run, &wait), ==,
                        len > strlen("123456789 42"));
    }
    g_assert_true(ns_parse_schedstat(text, strlen(text), &run, &wait));
    g_assert_cmpuint(run, ==, 123456789);
    g_assert_cmpuint(wait, ==, 42);
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_false(ns_parse_schedstat(bad[i], strlen(bad[i]), &run, &wait));
    }
    g_assert_false(ns_parse_schedstat("1\0002 3 4", 8, &run, &wait));
    g_assert_cmpuint(run, ==, 123456789);
}

/* Field 39, after a name that looks like fields */
static void test_task_cpu(void)
{
    static const char rest[] =
        " S 1 2 3 0 -1 4194368 5 6 7 8 9 10 11 12 20 0 1 0 13 14 15 "
        "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 63 0 0 0 0 0\n";
    static const char *const name[] = { "CPU 0/KVM", "a) S 1 (b", "", ")))" };
    int cpu = -1;

    for (int i = 0; i < ARRAY_SIZE(name); i++) {
        g_autofree char *text = g_strdup_printf("77 (%s)%s", name[i], rest);
        size_t end = strstr(text, " 17 63") + 6 - text;

        cpu = -1;
        g_assert_true(ns_parse_task_cpu(text, strlen(text), &cpu));
        g_assert_cmpint(cpu, ==, 63);
        for (size_t len = 0; len <= end; len++) {
            g_autofree char *buf = exactly(text, len);

            g_assert_false(ns_parse_task_cpu(buf, len, &cpu));
        }
    }
    g_assert_false(ns_parse_task_cpu("no name", 7, &cpu));
}

static void test_cpus(void)
{
    static const char text[] =
        "cpu  100 1 1 1 1 1 1 1 1 1\n"
        "cpu0 1 2 3 1000 1000 4 5 6 7000 7000\n"
        "cpu2 10 20 30 0 0 40 50 60 0 0\n"
        "cpu9 1 1 1 1 1 1 1 1 1 1\n"
        "cpu1 1 2 x 1 1 1 1 1 1 1\n"
        "cpu3 1 2\n"
        "intr 1 2 3\n";
    uint64_t busy[4] = { 7, 7, 7, 7 };

    for (size_t len = 0; len <= strlen(text); len++) {
        g_autofree char *buf = exactly(text, len);

        ns_parse_cpus(buf, len, busy, ARRAY_SIZE(busy));
    }
    g_assert_cmpuint(busy[0], ==, 21);
    g_assert_cmpuint(busy[1], ==, 7);
    g_assert_cmpuint(busy[2], ==, 210);
    g_assert_cmpuint(busy[3], ==, 7);
}

static void test_usage(void)
{
    NsTask a = { .run = 1000, .wait = 500 }, b = a;
    uint32_t v = 0;

    g_assert_cmpuint(ns_task_cpu(&a, &b, SCALE_MS), ==, 0);
    b.run += 250 * SCALE_US;
    b.wait += 250 * SCALE_US;
    g_assert_cmpuint(ns_task_cpu(&a, &b, SCALE_MS), ==, 500);
    g_assert_cmpuint(ns_task_cpu(&a, &b, 1), ==, 1000);
    g_assert_cmpuint(ns_task_cpu(&a, &b, 0), ==, 0);
    g_assert_cmpuint(ns_task_cpu(&a, &b, -1), ==, 0);
    g_assert_cmpuint(ns_task_cpu(&b, &a, SCALE_MS), ==, 0);
    g_assert_cmpuint(ns_task_run(&a, &b, SCALE_MS), ==, 250);
    g_assert_cmpuint(ns_task_run(&b, &a, SCALE_MS), ==, 0);
    b.run = INT64_MAX;
    g_assert_cmpuint(ns_task_cpu(&a, &b, INT64_MAX), >=, 999);
    b.run = a.run;
    b.wait = INT64_MAX;
    g_assert_cmpuint(ns_task_cpu(&a, &b, 1), ==, 1000);

    /* It comes to what it is told, from both sides, and stays. */
    for (int i = 0; i < 100; i++) {
        v = ns_smooth(v, 1000);
    }
    g_assert_cmpuint(v, ==, 1000);
    g_assert_cmpuint(ns_smooth(v, 0), ==, 750);
    for (int i = 0; i < 100; i++) {
        v = ns_smooth(v, 3);
    }
    g_assert_cmpuint(v, ==, 3);
}

/* Two nodes, of the CPUs 0, 1, 2, 8 and 5 */
static NsTopology *two_nodes(void)
{
    static uint32_t first[] = { 0, 1, 2, 8 }, second[] = { 5 };
    static NsNode node[2] = {
        { .id = 3, .cpus = 4, .cpu = first }, { .id = 7, .cpus = 1,
                                                .cpu = second },
    };
    static NsTopology t = { .n = 2, .node = node };

    return &t;
}

static void test_others(void)
{
    NsTopology *t = two_nodes();
    uint64_t before[9] = { }, now[9] = { [0] = 100, [1] = 50, [5] = 9999 };
    uint64_t own[2] = { 400, 0 }, used[2];

    /* 100 ticks are a second of one CPU. */
    ns_used_by_others(t, before, now, 9, NANOSECONDS_PER_SECOND, 100, own,
                      used);
    g_assert_cmpuint(used[0], ==, 1100);
    g_assert_cmpuint(used[1], ==, 1000);
    /* More of our own than the ticks say; CPUs that the file did not have */
    own[0] = 5000;
    ns_used_by_others(t, before, now, 2, NANOSECONDS_PER_SECOND, 100, own,
                      used);
    g_assert_cmpuint(used[0], ==, 0);
    g_assert_cmpuint(used[1], ==, 0);
    /* A CPU that has just come, or that the file has no more */
    own[0] = 0;
    before[0] = NS_BUSY_UNKNOWN;
    now[5] = NS_BUSY_UNKNOWN;
    ns_used_by_others(t, before, now, 9, NANOSECONDS_PER_SECOND, 100, own,
                      used);
    g_assert_cmpuint(used[0], ==, 500);
    g_assert_cmpuint(used[1], ==, 0);
    before[0] = 0;
    now[5] = 9999;
    /* Back, and no time at all */
    own[0] = 0;
    ns_used_by_others(t, now, before, 9, NANOSECONDS_PER_SECOND, 100, own,
                      used);
    g_assert_cmpuint(used[0], ==, 0);
    ns_used_by_others(t, before, now, 9, 0, 100, own, used);
    g_assert_cmpuint(used[0], ==, 0);
}

static void test_nodes_of_cpus(void)
{
    int node[6];

    ns_nodes_of_cpus(two_nodes(), node, 6);
    g_assert_cmpint(node[0], ==, 0);
    g_assert_cmpint(node[2], ==, 0);
    g_assert_cmpint(node[3], ==, -1);
    g_assert_cmpint(node[5], ==, 1);
}

static void test_stay(void)
{
    NsStay s = { .home = -1 };
    uint32_t here[3] = { 1000, 0, 0 }, there[3] = { 0, 1000, 0 };
    uint32_t none[3] = { }, even[3] = { 500, 510, 0 };
    uint32_t idle_here[3] = { 1, 0, 0 }, idle_there[3] = { 0, 1, 0 };
    int at = 0;

    g_assert_cmpint(ns_stay(&s, none, 3), ==, -1);
    g_assert_cmpint(ns_stay(&s, here, 3), ==, 0);
    /* Nobody runs for a time: that is no reason to be elsewhere. */
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(ns_stay(&s, none, 3), ==, 0);
    }
    for (int i = 0; i < 20; i++) {
        g_assert_cmpint(ns_stay(&s, here, 3), ==, 0);
    }
    /* Balanced: now here, now there, busy or idle */
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(ns_stay(&s, even, 3), ==, 0);
    }
    for (int i = 0; i < 200; i++) {
        g_assert_cmpint(ns_stay(&s, i % 2 ? there : here, 3), ==, 0);
    }
    for (int i = 0; i < 200; i++) {
        g_assert_cmpint(ns_stay(&s, i % 2 ? idle_there : idle_here, 3), ==, 0);
    }
    /* It goes for good. */
    for (int i = 0; i < 40; i++) {
        ns_stay(&s, here, 3);
    }
    while (ns_stay(&s, there, 3) == 0) {
        at++;
    }
    g_assert_cmpint(at, ==, 6);
    g_assert_cmpint(s.home, ==, 1);
    /* Another host */
    g_assert_cmpint(ns_stay(&s, here, 1), ==, 0);
    ns_stay_clear(&s);
}

static void test_bound(void)
{
    NsTopology *t = two_nodes();
    bool cpu[9] = { };
    NsBound b = ns_bound(t, cpu, 9);

    g_assert_cmpint(b.node, ==, -1);
    cpu[8] = cpu[3] = true;
    b = ns_bound(t, cpu, 9);
    g_assert_cmpint(b.node, ==, 0);
    g_assert_true(b.narrow);
    cpu[0] = cpu[1] = cpu[2] = true;
    b = ns_bound(t, cpu, 9);
    g_assert_cmpint(b.node, ==, 0);
    g_assert_false(b.narrow);
    cpu[5] = true;
    b = ns_bound(t, cpu, 9);
    g_assert_cmpint(b.node, ==, -1);
    g_assert_false(b.narrow);
}

static void test_whole_nodes(void)
{
    NsTopology *t = two_nodes();
    bool cpu[9] = { [0] = true, [1] = true, [2] = true, [5] = true };
    bool whole[2] = { true, true };

    ns_not_whole(t, cpu, 9, whole);
    g_assert_false(whole[0]);
    g_assert_true(whole[1]);
    /* What was excluded stays so. */
    cpu[8] = true;
    ns_not_whole(t, cpu, 9, whole);
    g_assert_false(whole[0]);
    whole[0] = true;
    ns_not_whole(t, cpu, 9, whole);
    g_assert_true(whole[0]);
    ns_not_whole(t, cpu, 8, whole);
    g_assert_false(whole[0]);
}

static void test_cpu_list(void)
{
    NsTopology *t = two_nodes();
    NsNode none = { };
    g_autofree char *first = ns_cpu_list(&t->node[0]);
    g_autofree char *second = ns_cpu_list(&t->node[1]);
    g_autofree char *empty = ns_cpu_list(&none);

    g_assert_cmpstr(first, ==, "0-2,8");
    g_assert_cmpstr(second, ==, "5");
    g_assert_cmpstr(empty, ==, "");
}

/* This thread, as the kernel tells of it */
static void test_self(void)
{
    g_autofree bool *cpu = g_new0(bool, NS_MAX_CPUS);
    g_autofree uint64_t *busy = g_new0(uint64_t, NS_MAX_CPUS);
    cpu_set_t set;
    NsTask before, now;
    int tid = qemu_get_thread_id();
    int n = 0;
    uint64_t sum = 0;

    g_assert_true(ns_task_read(tid, &before));
    do {
        g_assert_true(ns_task_read(tid, &now));
    } while (now.run <= before.run);
    g_assert_cmpint(now.cpu, >=, 0);
    g_assert_false(ns_task_read(INT_MAX, &now));

    g_assert_true(ns_affinity_read(tid, cpu));
    g_assert_cmpint(sched_getaffinity(0, sizeof(set), &set), ==, 0);
    for (int i = 0; i < NS_MAX_CPUS; i++) {
        g_assert_cmpint(cpu[i], ==, i < CPU_SETSIZE && CPU_ISSET(i, &set));
        n += cpu[i];
    }
    g_assert_cmpint(n, ==, CPU_COUNT(&set));
    g_assert_false(ns_affinity_read(INT_MAX, cpu));

    g_assert_true(ns_cpus_read("/", busy, NS_MAX_CPUS));
    for (int i = 0; i < NS_MAX_CPUS; i++) {
        sum += busy[i];
    }
    g_assert_cmpuint(sum, >, 0);
    g_assert_false(ns_cpus_read("/nowhere", busy, NS_MAX_CPUS));
}

static uint64_t in_core(void *at, size_t size)
{
    size_t page = qemu_real_host_page_size();
    g_autofree unsigned char *vec = g_malloc0(size / page);
    uint64_t n = 0;

    g_assert_cmpint(mincore(at, size, vec), ==, 0);
    for (size_t i = 0; i < size / page; i++) {
        n += vec[i] & 1;
    }
    return n;
}

static void test_residency(void)
{
    enum { SIZE = 8 * 1024 * 1024 };
    g_autofree uint64_t *bytes = g_new0(uint64_t, NS_MAX_NODES);
    uint64_t absent = 0, sum = 0;
    char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NsRange r = { .host = at, .bytes = SIZE };
    int ret;

    g_assert_true(at != MAP_FAILED);
    madvise(at, SIZE, MADV_NOHUGEPAGE);
    ret = ns_residency(&r, 500, 1, bytes, &absent);
    if (ret == -ENOSYS || ret == -EPERM) {
        g_test_skip("move_pages is not allowed here");
        munmap(at, SIZE);
        return;
    }
    g_assert_cmpint(ret, ==, 0);
    g_assert_cmpuint(absent, ==, SIZE);
    /* To ask brings nothing in. */
    g_assert_cmpuint(in_core(at, SIZE), ==, 0);

    /* A half, seen by drawn pages; each byte counts once. */
    memset(at, 1, SIZE / 2);
    for (uint64_t phase = 0; phase < 40; phase++) {
        uint32_t samples = phase < 20 ? 512 : 511 - phase;

        memset(bytes, 0, NS_MAX_NODES * sizeof(*bytes));
        absent = sum = 0;
        ret = ns_residency(&r, samples, phase * 0x123456789abcdefull, bytes,
                           &absent);
        g_assert_cmpint(ret, ==, 0);
        for (int i = 0; i < NS_MAX_NODES; i++) {
            sum += bytes[i];
        }
        g_assert_cmpuint(sum + absent, ==, SIZE);
        g_assert_cmpuint(sum, >=, SIZE / 2 - SIZE / samples);
        g_assert_cmpuint(sum, <=, SIZE / 2 + SIZE / samples);
    }
    g_assert_cmpuint(in_core(at, SIZE), ==,
                     SIZE / 2 / qemu_real_host_page_size());

    /* Each page, more than there are, and parts of one */
    memset(bytes, 0, NS_MAX_NODES * sizeof(*bytes));
    absent = sum = 0;
    r.bytes = SIZE - 100;
    g_assert_cmpint(ns_residency(&r, UINT32_MAX, 3, bytes, &absent), ==, 0);
    for (int i = 0; i < NS_MAX_NODES; i++) {
        sum += bytes[i];
    }
    g_assert_cmpuint(sum, ==, SIZE / 2);
    g_assert_cmpuint(sum + absent, ==, r.bytes);
    absent = 0;
    r.bytes = 10;
    g_assert_cmpint(ns_residency(&r, 10, 3, bytes, &absent), ==, 0);
    g_assert_cmpuint(absent, ==, 10);

    /* What was unmapped meanwhile is absent. */
    munmap(at, SIZE);
    r.bytes = SIZE;
    absent = 0;
    g_assert_cmpint(ns_residency(&r, 16, 0, bytes, &absent), ==, 0);
    g_assert_cmpuint(absent, ==, SIZE);
}

/*
 * Workers of vhost
 */

static void thread(const char *root, int tid, const char *comm)
{
    g_autofree char *dir = g_strdup_printf("%s/%d", root, tid);
    g_autofree char *file = g_strdup_printf("%s/comm", dir);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, comm, -1, NULL));
}

static uint32_t workers(NsWorkers *w, const char *root, int has)
{
    g_autoptr(GArray) tids = g_array_new(false, false, sizeof(int));
    bool found = false;

    ns_workers_look(w, root, tids);
    for (guint i = 0; i < tids->len; i++) {
        found |= g_array_index(tids, int, i) == has;
    }
    g_assert_true(found || !tids->len);
    return tids->len;
}

static void test_workers(void)
{
    g_autofree char *root = g_dir_make_tmp("numa-task-XXXXXX", NULL);
    g_autofree char *rm = g_strdup_printf("rm -rf '%s'", root);
    g_autofree char *gone = g_strdup_printf("rm -rf '%s'/101", root);
    g_autoptr(NsWorkers) w = ns_workers_new();
    uint32_t found = 0;

    g_assert_cmpuint(workers(w, "/no/such/directory", 0), ==, 0);
    thread(root, 100, "qemu\n");
    thread(root, 101, "vhost-100\n");
    thread(root, 102, "a vhost-1\n");
    g_assert_cmpuint(workers(w, root, 101), ==, 1);
    /* A name is read once. */
    thread(root, 101, "other\n");
    thread(root, 102, "vhost-100\n");
    g_assert_cmpuint(workers(w, root, 101), ==, 1);
    /* What is gone is forgotten: the id may come again. */
    g_assert_cmpint(system(gone), ==, 0);
    g_assert_cmpuint(workers(w, root, 0), ==, 0);
    thread(root, 101, "CPU 0/TCG\n");
    g_assert_cmpuint(workers(w, root, 0), ==, 0);

    /* However many there are, each is found after some looks. */
    for (int i = 0; i < NS_WORKERS_READ + 20; i++) {
        thread(root, 1000 + i, "CPU\n");
    }
    thread(root, 5000, "vhost-100\n");
    for (int i = 0; i < 2; i++) {
        found = workers(w, root, 5000);
    }
    g_assert_cmpuint(found, ==, 1);
    g_assert_cmpint(system(rm), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/usage/schedstat", test_schedstat);
    g_test_add_func("/numa-sched/usage/task-cpu", test_task_cpu);
    g_test_add_func("/numa-sched/usage/cpus", test_cpus);
    g_test_add_func("/numa-sched/usage/usage", test_usage);
    g_test_add_func("/numa-sched/usage/others", test_others);
    g_test_add_func("/numa-sched/usage/nodes-of-cpus", test_nodes_of_cpus);
    g_test_add_func("/numa-sched/usage/stay", test_stay);
    g_test_add_func("/numa-sched/usage/bound", test_bound);
    g_test_add_func("/numa-sched/usage/whole-nodes", test_whole_nodes);
    g_test_add_func("/numa-sched/usage/cpu-list", test_cpu_list);
    g_test_add_func("/numa-sched/usage/self", test_self);
    g_test_add_func("/numa-sched/usage/residency", test_residency);
    g_test_add_func("/numa-sched/usage/workers", test_workers);
    return g_test_run();
}
