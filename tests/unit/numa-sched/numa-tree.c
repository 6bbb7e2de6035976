/*
 * NUMA scheduler: sysfs of hosts that are made up, below a temporary directory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include <ftw.h>
#include "numa-tree.h"

char *root;

char *path_of(const char *name)
{
    g_autofree char *path = g_build_filename(root, name, NULL);
    g_autofree char *dir = g_path_get_dirname(path);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    return g_steal_pointer(&path);
}

void put_bytes(const char *name, const void *data, size_t len)
{
    g_autofree char *path = path_of(name);
    FILE *f = fopen(path, "w");

    /* GLib would wait for the disk, for a file that no crash has to leave. */
    g_assert_nonnull(f);
    g_assert_cmpuint(fwrite(data, 1, len, f), ==, len);
    g_assert_cmpint(fclose(f), ==, 0);
}

void put(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

void G_GNUC_PRINTF(2, 3) put_node(unsigned id, const char *fmt, ...)
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

void put_memory(unsigned id, uint64_t mib, uint64_t free_mib)
{
    put_node(id, "meminfo Node %u MemTotal:  %" PRIu64 " kB\n"
             "Node %u MemFree:   %" PRIu64 " kB\n"
             "Node %u MemUsed:   1 kB\n", id, mib * 1024, id, free_mib * 1024,
             id);
}

void put_cpu(unsigned cpu, const char *file, const char *text)
{
    g_autofree char *name = g_strdup_printf(CPUS "cpu%u/%s", cpu, file);

    put(name, text);
}

static int on_remove(const char *path, const struct stat *st, int type,
                     struct FTW *ftw)
{
    return remove(path);
}

void remove_below(const char *name)
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
void check(const NsTopology *t)
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

NsTopology *get(void)
{
    NsTopology *t = ns_topology_read(root, &error_abort);

    check(t);
    return t;
}

/* How many notes have that text */
unsigned notes(const NsTopology *t, const char *text)
{
    unsigned n = 0;

    for (unsigned i = 0; i < t->notes->len; i++) {
        n += !!strstr(t->notes->pdata[i], text);
    }
    return n;
}

void check_node(const NsTopology *t, uint32_t i, uint32_t id,
                       uint32_t cpus, uint32_t cores, uint64_t mib)
{
    g_assert_cmpuint(i, <, t->n);
    g_assert_cmpuint(t->node[i].id, ==, id);
    g_assert_cmpuint(t->node[i].cpus, ==, cpus);
    g_assert_cmpuint(t->node[i].cores, ==, cores);
    g_assert_cmpuint(t->node[i].size, ==, mib * MiB);
}

void check_slit(const NsTopology *t, const char *expected)
{
    g_autoptr(GString) got = g_string_new(NULL);

    for (uint32_t i = 0; i < t->n * t->n; i++) {
        g_string_append_printf(got, "%s%u", i ? " " : "", t->slit[i]);
    }
    g_assert_cmpstr(got->str, ==, expected);
}

/* Two nodes with two CPUs each, one thread a core, 1 GiB and 2 GiB */
void put_plain(void)
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

void check_plain(const NsTopology *t)
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

void put_access(unsigned id, unsigned class, const char *latency,
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

/* Each test of a tree has one of its own. */
void with_tree(gconstpointer opaque)
{
    void (*const *test)(void) = opaque;

    start();
    (*test)();
    stop();
}
