/*
 * NUMA scheduler: the nodes of hosts that are as they should be
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "numa-tree.h"

static void test_plain(void)
{
    g_autoptr(NsTopology) t = NULL;
    g_autoptr(NsTopology) again = NULL;
    g_autofree char *slash = g_strconcat(root, "/", NULL);

    put_plain();
    t = get();
    check_plain(t);
    g_assert_cmpuint(t->notes->len, ==, 0);
    again = ns_topology_read(slash, &error_abort);
    check_plain(again);
}

static void test_this_host(void)
{
    Error *err = NULL;
    g_autoptr(NsTopology) t = ns_topology_read("/", &err);

    /* A sandbox may hide what it needs, but then it is said. */
    if (t) {
        check(t);
    } else {
        g_assert_nonnull(strstr(error_get_pretty(err), "sys/devices/system"));
        error_free(err);
    }
}

static void test_sparse(void)
{
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    put(NODES "online", "0-1,33,1023\n");
    put_node(33, "cpumap 00000000,00000000\n");
    put_node(1023, "cpulist \x0a");
    put_memory(33, 4096, 0);
    put_memory(1023, 0, 0);
    put_node(0, "distance 10 21 30 40\n");
    put_node(1, "distance 20 10 31 41\n");
    put_node(33, "distance 32 33 10 50\n");
    put_node(1023, "distance 42 43 51 10\n");
    t = get();
    g_assert_cmpuint(t->n, ==, 4);
    check_node(t, 0, 0, 2, 2, 1024);
    check_node(t, 1, 1, 2, 2, 2048);
    check_node(t, 2, 33, 0, 0, 4096);   /* only memory */
    check_node(t, 3, 1023, 0, 0, 0);    /* nothing at all */
    check_slit(t, "10 21 30 40 20 10 31 41 32 33 10 50 42 43 51 10");
    g_assert_cmpint(ns_topology_find(t, 33), ==, 2);
    g_assert_cmpint(ns_topology_find(t, 2), ==, -1);
    g_assert_cmpint(ns_topology_find(t, 33 + (1ull << 32)), ==, -1);
    /* It is enough that one of cpumap and cpulist is there. */
    g_assert_cmpuint(t->notes->len, ==, 1);
    g_assert_cmpuint(notes(t, "node1023/cpumap: missing"), ==, 1);
}

static void test_no_memory(void)
{
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    put_memory(0, 0, 0);
    t = get();
    check_node(t, 0, 0, 2, 2, 0);
    g_assert_cmpuint(t->notes->len, ==, 0);
}

/* CPUs that are offline are in cpumap on some kernels. */
static void test_offline(void)
{
    g_autoptr(NsTopology) by_list = NULL;
    g_autoptr(NsTopology) by_file = NULL;
    g_autoptr(NsTopology) by_dir = NULL;

    put_plain();
    put_node(1, "cpumap fc\n");
    put(CPUS "online", "0,2-3,5\n");
    by_list = get();
    check_node(by_list, 0, 0, 1, 1, 1024);
    check_node(by_list, 1, 1, 3, 3, 2048);
    g_assert_cmpuint(by_list->node[1].cpu[2], ==, 5);
    g_assert_cmpuint(notes(by_list, "node 1: 1 CPUs have no core"), ==, 1);

    remove_below(CPUS "online");
    put_cpu(1, "online", "1\n");
    put_cpu(2, "online", "0\n");
    put_cpu(3, "online", "who knows\n");
    by_file = get();
    check_node(by_file, 0, 0, 2, 2, 1024);
    check_node(by_file, 1, 1, 1, 1, 2048);
    g_assert_cmpuint(by_file->node[1].cpu[0], ==, 3);
    g_assert_cmpuint(notes(by_file, CPUS "online: missing"), ==, 1);
    g_assert_cmpuint(notes(by_file, "cpu3/online: neither 0 nor 1"), ==, 1);

    /* A list without CPUs cannot be: it is not believed. */
    remove_below(CPUS "cpu2");
    remove_below(CPUS "cpu3/online");
    put_cpu(70000, "online", "1\n");
    put_cpu(4, "online", "1\n");
    put(CPUS "cpufreq/online", "1\n");
    put(CPUS "cpu007/online", "1\n");
    put(CPUS "cpu5", "a file\n");
    put(CPUS "online", "\n");
    by_dir = get();
    check_node(by_dir, 1, 1, 2, 2, 2048);
    g_assert_cmpuint(by_dir->node[1].cpu[0], ==, 3);
    g_assert_cmpuint(by_dir->node[1].cpu[1], ==, 4);
    g_assert_cmpuint(notes(by_dir, "cpu70000: numbers above 65535"), ==, 1);
}

static void test_threads(void)
{
    g_autoptr(NsTopology) t = NULL;

    put(CPUS "online", "0-15\n");
    put(NODES "online", "0-1\n");
    put_node(0, "cpumap 0ff\n");
    put_node(1, "cpumap ff00\n");
    /* Each source; 4 threads in a core; a sibling that is offline */
    put_cpu(0, "topology/thread_siblings_list", "0-3,99\n");
    put_cpu(1, "topology/core_cpus_list", "0-3\n");
    put_cpu(2, "topology/thread_siblings", "00000000,0000000f\n");
    put_cpu(3, "topology/core_cpus", "f\n");
    /* No info, or not believed: own core.  Without CPU 4, with a better one */
    put_cpu(4, "topology/thread_siblings_list", "0-3\n");
    put_cpu(5, "topology/thread_siblings_list", "0-99999999999\n");
    put_cpu(6, "topology/thread_siblings_list", "nonsense");
    put_cpu(6, "topology/core_cpus_list", "6-7\n");
    put_cpu(7, "topology/core_cpus_list", "6-7\n");
    /* By numbers: two cores of one package, one of another, -1 */
    for (unsigned cpu = 8; cpu < 16; cpu++) {
        put_cpu(cpu, "topology/physical_package_id", cpu < 12 ? "0\n" : "1\n");
        put_cpu(cpu, "topology/core_id", cpu < 10 ? "0\n" :
                cpu < 12 ? "4\n" : cpu < 14 ? "4\n" : "-1\n");
    }
    t = get();
    check_node(t, 0, 0, 8, 1 + 1 + 1 + 1, 0);
    check_node(t, 1, 1, 8, 2 + 1 + 2, 0);
    g_assert_cmpuint(notes(t, "node 0: 2 CPUs have no core"), ==, 1);
    g_assert_cmpuint(notes(t, "node 1: 2 CPUs have no core"), ==, 1);
    g_assert_cmpuint(notes(t, "not a set of threads"), ==, 3);
}

static void test_same_cpus(void)
{
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    put(NODES "online", "0-7\n");
    for (unsigned id = 0; id < 8; id++) {
        put_node(id, "cpumap %s\n", id == 5 ? "0" : "ff");
        put_node(id, "distance 1%u 20 20 20 20 25 20 20\n", id);
        put_memory(id, 1024, 64 * id);
    }
    put(NODES "node5/access0/initiators/read_latency", "9\n");
    put(NODES "node5/access0/initiators/node3", "");
    t = get();
    g_assert_cmpuint(t->n, ==, 2);
    check_node(t, 0, 0, 4, 4, 7 * 1024);
    check_node(t, 1, 5, 0, 0, 1024);
    g_assert_cmpuint(t->node[0].free, ==, (1 + 2 + 3 + 4 + 6 + 7) * 64 * MiB);
    check_slit(t, "10 25 15 25");
    g_assert_cmpuint(notes(t, "has the same CPUs as node 0"), ==, 6);
    /* A link to one of them is a link to all. */
    g_assert_true(t->initiator[1]);
    g_assert_cmpuint(t->node[1].access_ns, ==, 9);
}

static void test_same_cpus_large(void)
{
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    put_node(1, "cpumap 3\n");
    put_memory(0, NS_MAX_BYTES / MiB, NS_MAX_BYTES / MiB);
    put_memory(1, NS_MAX_BYTES / MiB, NS_MAX_BYTES / MiB);
    t = get();
    g_assert_cmpuint(t->n, ==, 1);
    g_assert_cmpuint(t->node[0].size, ==, NS_MAX_BYTES);
    g_assert_cmpuint(t->node[0].free, ==, NS_MAX_BYTES);
    g_assert_cmpuint(notes(t, "2 online CPUs are in no node"), ==, 1);
}

static void test_overlap(void)
{
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    put(NODES "online", "0-2\n");
    put_node(0, "cpumap 6\n");
    put_node(1, "cpumap f\n");
    put_node(2, "cpumap 9\n");
    put_memory(2, 1, 1);
    t = get();
    g_assert_cmpuint(t->n, ==, 3);
    check_node(t, 0, 0, 2, 2, 1024);
    check_node(t, 1, 1, 2, 2, 2048);
    check_node(t, 2, 2, 0, 0, 1);
    g_assert_cmpuint(t->node[0].cpu[0], ==, 1);
    g_assert_cmpuint(t->node[1].cpu[0], ==, 0);
    g_assert_cmpuint(t->node[1].cpu[1], ==, 3);
    g_assert_cmpuint(notes(t, "node 1: CPUs that nodes with lower"), ==, 1);
    g_assert_cmpuint(notes(t, "node 2: CPUs that nodes with lower"), ==, 1);
}

static void test_no_nodes(void)
{
    g_autoptr(NsTopology) t = NULL;

    put(CPUS "online", "0-5\n");
    put("proc/meminfo", "MemTotal:       2097152 kB\nMemFree:  1048576 kB\n");
    put(NODES "possible", "0\n");
    put(NODES "node2000/cpumap", "f\n");
    t = get();
    g_assert_cmpuint(t->n, ==, 1);
    check_node(t, 0, 0, 6, 6, 2048);
    g_assert_cmpuint(t->node[0].free, ==, GiB);
    check_slit(t, "0");
    g_assert_cmpuint(notes(t, "no node; all CPUs"), ==, 1);
    g_assert_cmpuint(notes(t, "node2000: numbers above 1023"), ==, 1);
}

static void test_online_differs(void)
{
    g_autoptr(NsTopology) more = NULL;
    g_autoptr(NsTopology) fewer = NULL;
    g_autoptr(NsTopology) other = NULL;
    g_autoptr(NsTopology) bad = NULL;

    /* A copy that lacks node 2: the rows have three numbers. */
    put_plain();
    put(NODES "online", "0-2\n");
    put_node(0, "distance 10 21 99\n");
    put_node(1, "distance 20 10 99\n");
    more = get();
    check_plain(more);
    g_assert_cmpuint(more->notes->len, ==, 1);

    put(NODES "online", "1\n");
    put_node(1, "distance 10\n");
    fewer = get();
    g_assert_cmpuint(fewer->n, ==, 1);
    check_node(fewer, 0, 1, 2, 2, 2048);
    check_slit(fewer, "10");
    g_assert_cmpuint(notes(fewer, "online: not the same nodes"), ==, 1);

    put(NODES "online", "7\n");
    other = get();
    g_assert_cmpuint(other->n, ==, 2);
    check_slit(other, "0 0 0 0");
    g_assert_cmpuint(notes(other, "not one distance for each node"), ==, 2);

    put(NODES "online", "0-99999999999\n");
    bad = get();
    g_assert_cmpuint(bad->n, ==, 2);
    g_assert_cmpuint(notes(bad, "not a list of the nodes"), ==, 1);
}

static void test_access(void)
{
    g_autoptr(NsTopology) t = NULL;
    static const bool initiators[] = {
        true, false, true, false,
        false, true, true, true,
        false, false, false, false,
        false, false, false, false,
    };

    put_plain();
    put(NODES "online", "0-1,4,9\n");
    put_memory(4, 64, 64);
    put_node(4, "cpumap 0\n");
    put_memory(9, 64, 64);
    put_node(9, "cpumap 0\n");
    put_access(0, 0, "80\n", 0, 0);
    put_access(1, 1, "90", 1, 1);
    /* Class 1 is better than class 0; node 77 is not there. */
    put_access(4, 0, "8\n", 9, 9);
    put_access(4, 1, "65535\n", 0, 1);
    put_access(4, 1, "65535\n", 77, 1024);
    /* Where it has no latency, class 0 counts; node 4 has no CPU. */
    put_access(9, 0, "120\n", 1, 4);
    put_access(9, 1, "0\n", 0, 0);
    t = get();
    g_assert_cmpuint(t->n, ==, 4);
    g_assert_cmpuint(t->node[0].access_ns, ==, 80);
    g_assert_cmpuint(t->node[1].access_ns, ==, 90);
    g_assert_cmpuint(t->node[2].access_ns, ==, 65535);
    g_assert_cmpuint(t->node[3].access_ns, ==, 120);
    g_assert_cmpmem(t->initiator, sizeof(initiators), initiators,
                    sizeof(initiators));
    g_assert_cmpuint(notes(t, "node9/access1/initiators/read_latency: not"),
                     ==, 1);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(void);
    } trees[] = {
        { "plain", test_plain },
        { "this-host", test_this_host },
        { "sparse", test_sparse },
        { "no-memory", test_no_memory },
        { "offline", test_offline },
        { "threads", test_threads },
        { "same-cpus", test_same_cpus },
        { "same-cpus-large", test_same_cpus_large },
        { "overlap", test_overlap },
        { "no-nodes", test_no_nodes },
        { "online-differs", test_online_differs },
        { "access", test_access },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(trees); i++) {
        g_autofree char *path = g_strconcat("/numa-sched/topology/",
                                            trees[i].name, NULL);

        g_test_add_data_func(path, &trees[i].test, with_tree);
    }
    return g_test_run();
}
