/*
 * NUMA scheduler: the nodes of a host that changes from look to look
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/residency.h"
#include "numa-tree.h"

static void check_same(const NsTopology *a, const NsTopology *b)
{
    size_t pairs = (size_t)a->n * a->n;

    g_assert_cmpuint(a->n, ==, b->n);
    for (uint32_t i = 0; i < a->n; i++) {
        const NsNode *x = &a->node[i], *y = &b->node[i];

        g_assert_cmpuint(x->id, ==, y->id);
        g_assert_cmpuint(x->cores, ==, y->cores);
        g_assert_cmpuint(x->size, ==, y->size);
        g_assert_cmpuint(x->free, ==, y->free);
        g_assert_cmpuint(x->access_ns, ==, y->access_ns);
        g_assert_cmpmem(x->cpu, x->cpus * sizeof(*x->cpu),
                        y->cpu, y->cpus * sizeof(*y->cpu));
    }
    g_assert_cmpmem(a->slit, pairs, b->slit, pairs);
    g_assert_cmpmem(a->initiator, pairs * sizeof(bool),
                    b->initiator, pairs * sizeof(bool));
    g_assert_cmpmem(a->index, sizeof(a->index), b->index, sizeof(b->index));
    g_assert_cmpuint(a->notes->len, ==, b->notes->len);
    for (unsigned i = 0; i < a->notes->len; i++) {
        g_assert_cmpstr(a->notes->pdata[i], ==, b->notes->pdata[i]);
    }
}

/* After a change, the same as a whole read; @t is what is known */
static NsTopology *refreshed(NsTopology *t)
{
    Error *err = NULL, *err2 = NULL;
    g_autoptr(NsTopology) now = ns_topology_refresh(t, root, &err);
    g_autoptr(NsTopology) whole = ns_topology_read(root, &err2);

    if (!whole) {
        g_assert_null(now);
        g_assert_cmpstr(error_get_pretty(err), ==, error_get_pretty(err2));
        error_free(err);
        error_free(err2);
        return NULL;
    }
    g_assert_nonnull(now);
    check(now);
    check_same(now, whole);
    return g_steal_pointer(&now);
}

/* Only the memory is read again as long as nothing else changes. */
static void test_memory_only(void)
{
    NsTopology *t, *first;

    put_plain();
    first = t = ns_topology_refresh(NULL, root, &error_abort);
    put_memory(1, 2048, 7);
    put_node(0, "distance 10 99\n");
    t = ns_topology_refresh(t, root, &error_abort);
    g_assert_true(t == first);
    g_assert_cmpuint(t->node[1].free, ==, 7 * MiB);
    check_slit(t, "10 21 20 10");
    put(CPUS "online", "0-2\n");
    t = ns_topology_refresh(t, root, &error_abort);
    check_slit(t, "10 99 20 10");
    g_assert_cmpuint(t->node[1].cpus, ==, 1);
    ns_topology_free(t);
}

static void change(GRand *r)
{
    static const char *const online[] = {
        "0-3\n", "0,2-3\n", "1\n", "4\n", "", "x\n",
    };
    static const char *const nodes[] = { "0-1\n", "0-2\n", "1\n", "x\n" };
    static const char *const map[] = { "3\n", "c\n", "1\n", "0\n", "x\n" };
    static const char *const list[] = { "0-1\n", "2\n", "\n" };
    static const char *const gone[] = {
        NODES "node2", CPUS "online", NODES "online", NODES "node1/cpumap",
        NODES "node0/meminfo",
    };
    unsigned node = g_rand_int_range(r, 0, 3);
    unsigned which = g_rand_int_range(r, 0, 12);

    if (which < 5) {
        put_memory(node, 1024, g_rand_int_range(r, 0, 1100));
    } else if (which < 7) {
        put(CPUS "online", online[g_rand_int_range(r, 0, 6)]);
    } else if (which == 7) {
        put(NODES "online", nodes[g_rand_int_range(r, 0, 4)]);
    } else if (which == 8) {
        put_node(node, "cpulist %s", list[g_rand_int_range(r, 0, 3)]);
    } else if (which < 11) {
        put_node(node, "cpumap %s", map[g_rand_int_range(r, 0, 5)]);
    } else {
        const char *name = gone[g_rand_int_range(r, 0, 5)];
        g_autofree char *path = g_build_filename(root, name, NULL);

        if (access(path, F_OK) == 0) {
            remove_below(name);
        }
    }
}

static void test_changes(void)
{
    uint32_t seed = g_test_rand_int();
    g_autoptr(GRand) r = g_rand_new_with_seed(seed);
    g_autoptr(NsTopology) t = NULL;

    g_test_message("seed %u", seed);
    put_plain();
    for (unsigned i = 0; i < 2000; i++) {
        /* Back to where it begins, lest all be broken for good */
        if (i % 20 == 0) {
            put_plain();
        }
        change(r);
        t = refreshed(g_steal_pointer(&t));
    }
}

/* Memory of a node that was made one with another is that one's. */
static void test_merged_memory(void)
{
    g_autofree uint64_t *found = g_new0(uint64_t, NS_MAX_NODES);
    g_autoptr(NsTopology) t = NULL;
    uint64_t bytes[2] = { }, absent = 1;

    put_plain();
    put(NODES "online", "0-2\n");
    put_node(2, "cpumap c\n");
    put_memory(2, 1024, 1024);
    t = get();
    g_assert_cmpuint(t->n, ==, 2);
    found[0] = 10;
    found[1] = 200;
    found[2] = 3000;
    found[3] = 40000;
    ns_bytes_by_index(t, found, bytes, &absent);
    g_assert_cmpuint(bytes[0], ==, 10);
    g_assert_cmpuint(bytes[1], ==, 3200);
    g_assert_cmpuint(absent, ==, 40001);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(void);
    } trees[] = {
        { "memory-only", test_memory_only },
        { "changes", test_changes },
        { "merged-memory", test_merged_memory },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(trees); i++) {
        g_autofree char *path = g_strconcat("/numa-sched/refresh/",
                                            trees[i].name, NULL);

        g_test_add_data_func(path, &trees[i].test, with_tree);
    }
    return g_test_run();
}
