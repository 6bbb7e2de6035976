/*
 * NUMA scheduler: the nodes of hosts whose files are missing, or wrong
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "numa-tree.h"

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

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(void);
    } trees[] = {
        { "distance", test_distance },
        { "memory", test_memory },
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
        g_autofree char *path = g_strconcat("/numa-sched/topology-bad/",
                                            trees[i].name, NULL);

        g_test_add_data_func(path, &trees[i].test, with_tree);
    }
    return g_test_run();
}
