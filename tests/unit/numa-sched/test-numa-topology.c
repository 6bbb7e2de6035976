/*
 * NUMA scheduler: the nodes of hosts, good and bad
 *
 * Each test writes the sysfs of a host that it makes up below a temporary
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include <ftw.h>
#include "accel/kvm/numa-sched/topology.h"

#define NODES   "sys/devices/system/node/"
#define CPUS    "sys/devices/system/cpu/"

static char *root;

static char *path_of(const char *name)
{
    g_autofree char *path = g_build_filename(root, name, NULL);
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    return g_steal_pointer(&path);
}

static void put_bytes(const char *name, const void *data, size_t len)
{
    g_autofree char *path = path_of(name);

    g_assert_true(g_file_set_contents(path, data, len, NULL));
}

static void put(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

static void G_GNUC_PRINTF(2, 3) put_node(unsigned id, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    g_autofree char *name = NULL;
    va_list ap;

    /* "FILE TEXT" */
    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_assert_nonnull(strchr(text, ' '));
    *strchr(text, ' ') = '\0';
    name = g_strdup_printf(NODES "node%u/%s", id, text);
    put(name, text + strlen(text) + 1);
}

static void put_memory(unsigned id, uint64_t mib, uint64_t free_mib)
{
    put_node(id, "meminfo Node %u MemTotal:  %" PRIu64 " kB\n"
             "Node %u MemFree:   %" PRIu64 " kB\n"
             "Node %u MemUsed:   1 kB\n", id, mib * 1024, id, free_mib * 1024,
             id);
}

static void put_cpu(unsigned cpu, const char *file, const char *text)
{
    g_autofree char *name = g_strdup_printf(CPUS "cpu%u/%s", cpu, file);

    put(name, text);
}

static int on_remove(const char *path, const struct stat *st, int type,
                     struct FTW *ftw)
{
    return remove(path);
}

static void remove_below(const char *name)
{
    g_autofree char *path = g_build_filename(root, name, NULL);

    g_assert_cmpint(nftw(path, on_remove, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
}

static void start(void)
{
    root = g_dir_make_tmp("numa-topology-XXXXXX", NULL);
    g_assert_nonnull(root);
}

static void stop(void)
{
    remove_below("");
    g_clear_pointer(&root, g_free);
}

/* What holds for whatever was read */
static void check(const NsTopology *t)
{
    g_autofree unsigned long *seen = bitmap_new(NS_MAX_CPUS);
    uint32_t cpus = 0;

    g_assert_cmpuint(t->n, >=, 1);
    g_assert_cmpuint(t->n, <=, NS_MAX_NODES);
    for (uint32_t i = 0; i < t->n; i++) {
        const NsNode *node = &t->node[i];

        g_assert_cmpuint(node->id, <, NS_MAX_NODES);
        g_assert_true(!i || node[-1].id < node->id);
        g_assert_cmpint(ns_topology_find(t, node->id), ==, i);
        g_assert_cmpuint(node->cores, <=, node->cpus);
        g_assert_cmpint(!node->cores, ==, !node->cpus);
        for (uint32_t k = 0; k < node->cpus; k++) {
            g_assert_cmpuint(node->cpu[k], <, NS_MAX_CPUS);
            g_assert_true(!k || node->cpu[k - 1] < node->cpu[k]);
            g_assert_false(test_and_set_bit(node->cpu[k], seen));
        }
        cpus += node->cpus;
        g_assert_cmpuint(node->size, <=, NS_MAX_BYTES);
        g_assert_cmpuint(node->free, <=, node->size);
        g_assert_cmpuint(node->access_ns, <=, NS_MAX_LATENCY);
        for (uint32_t j = 0; j < t->n; j++) {
            g_assert_cmpuint(t->slit[i * t->n + j], <=, NS_MAX_SLIT);
            g_assert_true(!t->initiator[i * t->n + j] || node->cpus);
        }
    }
    g_assert_cmpuint(cpus, >=, 1);
    g_assert_cmpint(ns_topology_find(t, NS_MAX_NODES), ==, -1);
    g_assert_cmpint(ns_topology_find(t, UINT64_MAX), ==, -1);
    g_assert_cmpuint(t->notes->len, <=, 65);
}

static NsTopology *get(void)
{
    NsTopology *t = ns_topology_read(root, &error_abort);

    check(t);
    return t;
}

/* How many notes have that text */
static unsigned notes(const NsTopology *t, const char *text)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->notes->len; i++) {
        n += !!strstr(t->notes->pdata[i], text);
    }
    return n;
}

static void check_node(const NsTopology *t, uint32_t i, uint32_t id,
                       uint32_t cpus, uint32_t cores, uint64_t mib)
{
    g_assert_cmpuint(i, <, t->n);
    g_assert_cmpuint(t->node[i].id, ==, id);
    g_assert_cmpuint(t->node[i].cpus, ==, cpus);
    g_assert_cmpuint(t->node[i].cores, ==, cores);
    g_assert_cmpuint(t->node[i].size, ==, mib * MiB);
}

static void check_slit(const NsTopology *t, const char *expected)
{
    g_autoptr(GString) got = g_string_new(NULL);

    for (uint32_t i = 0; i < t->n * t->n; i++) {
        g_string_append_printf(got, "%s%u", i ? " " : "", t->slit[i]);
    }
    g_assert_cmpstr(got->str, ==, expected);
}

/* Two nodes with two CPUs each, one thread a core, 1 GiB and 2 GiB */
static void put_plain(void)
{
    put(CPUS "online", "0-3\n");
    for (unsigned cpu = 0; cpu < 4; cpu++) {
        g_autofree char *self = g_strdup_printf("%u\n", cpu);

        put_cpu(cpu, "topology/thread_siblings_list", self);
    }
    put(NODES "online", "0-1\n");
    put_node(0, "cpumap 3\n");
    put_node(1, "cpumap c\n");
    put_node(0, "distance 10 21\n");
    put_node(1, "distance 20 10\n");
    put_memory(0, 1024, 512);
    put_memory(1, 2048, 2048);
}

static void check_plain(const NsTopology *t)
{
    g_assert_cmpuint(t->n, ==, 2);
    check_node(t, 0, 0, 2, 2, 1024);
    check_node(t, 1, 1, 2, 2, 2048);
    g_assert_cmpuint(t->node[0].free, ==, 512 * MiB);
    g_assert_cmpuint(t->node[1].free, ==, 2048 * MiB);
    g_assert_cmpuint(t->node[1].cpu[0], ==, 2);
    g_assert_cmpuint(t->node[1].cpu[1], ==, 3);
    check_slit(t, "10 21 20 10");
    g_assert_cmpuint(t->node[0].access_ns, ==, 0);
}

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

static void test_distance(void)
{
    static const struct {
        const char *row, *slit;
        bool noted;
    } rows[] = {
        { "10 21\n", "10 21 20 10", false },
        { "10 21", "10 21 20 10", false },
        { " 10\t21 \r\n", "10 21 20 10", false },
        { "10 254\n", "10 254 20 10", false },
        { "10 255\n", "10 0 20 10", true },
        { "0 21\n", "0 21 20 10", true },
        { "10 256\n", "10 0 20 10", true },
        { "10 4294967306\n", "0 0 20 10", true },
        { "10 1000000000000000000000000000000\n", "0 0 20 10", true },
        { "10\n", "0 0 20 10", true },
        { "10 21 22\n", "0 0 20 10", true },
        { "\n", "0 0 20 10", true },
        { "", "0 0 20 10", true },
        { "10 -21\n", "0 0 20 10", true },
        { "10,21\n", "0 0 20 10", true },
        { "10\n21\n", "0 0 20 10", true },
    };

    put_plain();
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        g_autoptr(NsTopology) t = NULL;

        put_node(0, "distance %s", rows[i].row);
        t = get();
        check_slit(t, rows[i].slit);
        g_assert_cmpuint(t->notes->len, ==, rows[i].noted);
        g_assert_cmpuint(notes(t, "node0/distance: "), ==, rows[i].noted);
    }
}

static void test_memory(void)
{
    static const struct {
        const char *text;
        uint64_t size, free;
        bool noted;
    } files[] = {
        { "Node 0 MemTotal: 8 kB\nNode 0 MemFree: 4 kB\n", 8192, 4096, false },
        { "MemTotal: 8 kB\nMemFree: 8 kB", 8192, 8192, false },
        { "Node 0 MemTotal: 8 kB\nNode 0 MemFree: 9 kB\n", 8192, 0, true },
        { "Node 0 MemTotal: 8 kB\n", 8192, 0, true },
        { "Node 0 MemFree: 8 kB\n", 0, 0, true },
        { "Node 0 MemTotal: 1099511627776 kB\nNode 0 MemFree: 0 kB\n",
          NS_MAX_BYTES, 0, false },
        { "Node 0 MemTotal: 1099511627777 kB\nNode 0 MemFree: 0 kB\n", 0, 0,
          true },
        { "Node 0 MemTotal: 1000000000000000000000000000000 kB\n", 0, 0, true },
        { "Node 0 MemTotal: -1 kB\n", 0, 0, true },
        { "", 0, 0, true },
    };

    put_plain();
    for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
        g_autoptr(NsTopology) t = NULL;

        put_node(0, "meminfo %s", files[i].text);
        t = get();
        g_assert_cmpuint(t->node[0].size, ==, files[i].size);
        g_assert_cmpuint(t->node[0].free, ==, files[i].free);
        g_assert_cmpuint(t->notes->len, ==, files[i].noted);
    }
}

static void put_access(unsigned id, unsigned class, const char *latency,
                       int from, int from2)
{
    g_autofree char *dir = g_strdup_printf(NODES "node%u/access%u/initiators/",
                                           id, class);
    g_autofree char *name = g_strconcat(dir, "read_latency", NULL);

    put(name, latency);
    for (int i = 0; i < 2; i++) {
        g_autofree char *to = g_strdup_printf("../../../node%d",
                                              i ? from2 : from);
        g_autofree char *link_name = g_strdup_printf("%snode%d", dir,
                                                     i ? from2 : from);
        g_autofree char *path = path_of(link_name);

        g_assert_true(symlink(to, path) == 0 || errno == EEXIST);
    }
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

static void test_access_bad(void)
{
    static const char *const bad[] = {
        "0\n", "65536\n", "-1\n", "", "\n", "80 ns\n", "8\0" "0\n",
        "1000000000000000000000000000000\n",
    };

    put_plain();
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(NsTopology) t = NULL;

        put_access(0, 0, bad[i], 0, 1);
        if (i == 6) {
            put_bytes(NODES "node0/access0/initiators/read_latency", bad[i], 4);
        }
        t = get();
        check_plain(t);
        g_assert_false(t->initiator[0]);
        g_assert_cmpuint(t->notes->len, ==, 1);
    }
    /* Only from nodes that have no CPU, or are not there */
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(NsTopology) t = NULL;

        remove_below(NODES "node0/access0");
        put_access(0, 0, "80\n", i ? 2 : 3, 3);
        if (i) {
            put(NODES "online", "0-2\n");
            put_node(2, "cpumap 0\n");
        }
        t = get();
        g_assert_cmpuint(t->node[0].access_ns, ==, 0);
        g_assert_cmpuint(notes(t, "read_latency: of no node with CPUs"), ==, 1);
    }
}

static void test_missing(void)
{
    static const struct {
        const char *name;
        unsigned notes;
    } gone[] = {
        { NODES "online", 1 },
        { NODES "node0/meminfo", 1 },
        { NODES "node0/distance", 1 },
        { NODES "node0/cpumap", 3 },    /* cpulist, too, and the CPUs */
        { NODES "node0", 3 },           /* online, two CPUs, a long row */
        { CPUS "online", 1 },
        { CPUS "cpu0/topology", 1 },
        { CPUS "cpu0", 1 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(gone); i++) {
        g_autoptr(NsTopology) t = NULL;

        put_plain();
        remove_below(gone[i].name);
        t = get();
        g_assert_cmpuint(t->n, ==, i == 4 ? 1 : 2);
        g_assert_cmpuint(t->notes->len, ==, i == 4 ? 2 : gone[i].notes);
    }
}

/* What is neither a file nor a directory must not be waited for. */
static void test_odd_files(void)
{
    static const char *const names[] = {
        CPUS "online", NODES "online", NODES "node0/cpumap",
        NODES "node0/cpulist", NODES "node0/meminfo", NODES "node0/distance",
        CPUS "cpu0/topology/thread_siblings_list", CPUS "cpu1/online",
        NODES "node0/access0/initiators/read_latency", NODES "node0/access1",
    };

    for (unsigned kind = 0; kind < 4; kind++) {
        for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
            g_autofree char *path = path_of(names[i]);
            g_autoptr(NsTopology) t = NULL;

            remove_below("sys");
            put_plain();
            put_access(0, 0, "80\n", 0, 0);
            if (access(path, F_OK) == 0) {
                remove_below(names[i]);
            }
            g_free(path_of(names[i]));
            switch (kind) {
            case 0:
                g_assert_cmpint(mkfifo(path, 0600), ==, 0);
                break;
            case 1:
                g_assert_cmpint(mkdir(path, 0700), ==, 0);
                break;
            case 2:
                g_assert_cmpint(symlink("/dev/zero", path), ==, 0);
                break;
            default:
                g_assert_cmpint(symlink(path, path), ==, 0);
            }
            t = get();
            g_assert_cmpuint(t->n, ==, 2);
        }
    }
}

static void test_links(void)
{
    g_autofree char *from = path_of(NODES "node0");
    g_autofree char *to = path_of(NODES "real");
    g_autoptr(NsTopology) t = NULL;

    put_plain();
    g_assert_cmpint(rename(from, to), ==, 0);
    g_assert_cmpint(symlink("real", from), ==, 0);
    t = get();
    check_plain(t);
}

static void test_nul(void)
{
    static const char map[] = "00000000,00000003\n\0";
    static const char inside[] = "0\0000000003\n";
    g_autoptr(NsTopology) good = NULL;
    g_autoptr(NsTopology) bad = NULL;

    put_plain();
    put_bytes(NODES "node0/cpumap", map, sizeof(map));
    good = get();
    check_plain(good);
    g_assert_cmpuint(good->notes->len, ==, 0);
    put_bytes(NODES "node0/cpumap", inside, sizeof(inside));
    bad = get();
    check_node(bad, 0, 0, 0, 0, 1024);
    g_assert_cmpuint(notes(bad, "node0/cpumap: not a mask"), ==, 1);
}

static void test_large_file(void)
{
    g_autofree char *zeros = g_strnfill(200000, '0');
    g_autoptr(NsTopology) t = NULL;
    g_autoptr(NsTopology) limit = NULL;

    put_plain();
    put(NODES "node0/distance", zeros);
    put(CPUS "online", zeros);
    put_node(0, "cpumap %s", zeros);
    put_node(0, "cpulist 0-1\n");
    t = get();
    g_assert_cmpuint(t->n, ==, 2);
    check_node(t, 0, 0, 2, 2, 1024);
    g_assert_cmpuint(notes(t, ": too large"), ==, 3);

    /* The largest is read. */
    memset(zeros, '\n', 65536);
    memcpy(zeros, "10 21", 5);
    put_bytes(NODES "node0/distance", zeros, 65536);
    limit = get();
    check_slit(limit, "10 21 20 10");
}

/* As many nodes and CPUs as there may be, and more than is said of them */
static void test_many(void)
{
    g_autoptr(NsTopology) t = NULL;
    uint32_t cpus = 0;

    put(CPUS "online", "0-65535\n");
    put(NODES "online", "0-1023\n");
    for (unsigned id = 0; id < NS_MAX_NODES; id++) {
        put_node(id, "cpulist %u-%u\n", id * 64, id * 64 + 63);
    }
    t = get();
    g_assert_cmpuint(t->n, ==, NS_MAX_NODES);
    for (uint32_t i = 0; i < t->n; i++) {
        cpus += t->node[i].cpus;
    }
    g_assert_cmpuint(cpus, ==, NS_MAX_CPUS);
    g_assert_cmpuint(t->notes->len, ==, 65);
    g_assert_cmpuint(notes(t, "there is more"), ==, 1);
}

static void test_errors(void)
{
    static const char *const cpu_files[] = {
        NULL, "", "\n", "0-99999999999\n", "x",
    };
    g_autofree char *gone = g_build_filename(root, "gone", NULL);
    g_autofree char *file = path_of("file");
    const char *const bad_roots[] = { gone, file, "" };

    put("file", "");
    for (unsigned i = 0; i < ARRAY_SIZE(bad_roots); i++) {
        Error *err = NULL;

        g_assert_null(ns_topology_read(bad_roots[i], &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "cannot open"));
        g_assert_nonnull(strstr(error_get_pretty(err), bad_roots[i]));
        error_free(err);
    }
    /* No CPU: with and without nodes, and without anything at all */
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(cpu_files); i++) {
        const char *text = cpu_files[i / 2];
        Error *err = NULL;

        if (text) {
            put(CPUS "online", text);
        }
        if (i & 1) {
            put(NODES "node0/cpumap", "f\n");
        } else {
            g_free(path_of(NODES "x"));
            remove_below(NODES);
        }
        g_assert_null(ns_topology_read(root, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), root));
        g_assert_nonnull(strstr(error_get_pretty(err), CPUS "online"));
        error_free(err);
    }
    /* CPUs, but none in a node */
    for (unsigned i = 0; i < 3; i++) {
        Error *err = NULL;

        put(CPUS "online", "0-3\n");
        put(NODES "node0/cpumap", i == 0 ? "0\n" : i == 1 ? "f0\n" : "x\n");
        g_assert_null(ns_topology_read(root, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "node*/cpumap"));
        error_free(err);
    }
}

/* Each test of a tree has one of its own. */
static void with_tree(gconstpointer opaque)
{
    void (*const *test)(void) = opaque;

    start();
    (*test)();
    stop();
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
        { "distance", test_distance },
        { "memory", test_memory },
        { "access", test_access },
        { "access-bad", test_access_bad },
        { "missing", test_missing },
        { "odd-files", test_odd_files },
        { "links", test_links },
        { "nul", test_nul },
        { "large-file", test_large_file },
        { "many", test_many },
        { "errors", test_errors },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(trees); i++) {
        g_autofree char *path = g_strconcat("/numa-sched/topology/",
                                            trees[i].name, NULL);

        g_test_add_data_func(path, &trees[i].test, with_tree);
    }
    return g_test_run();
}
