/*
 * NUMA scheduler: what each vCPU writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "accel/kvm/numa-sched/plan.h"
#include "accel/kvm/numa-sched/residency.h"
#include "accel/kvm/numa-sched/working-vcpu.h"

#define AT      (1ull << 40)
#define MINUTE  (60 * NANOSECONDS_PER_SECOND)

/* Memory is on node 3 from this page on, on node 1 before. */
static uint64_t border;
static bool tells;

static int nodes_of(const uint64_t *addr, uint32_t n, int *node)
{
    g_assert_cmpuint(n, <=, NS_MAX_SAMPLES);
    for (uint32_t i = 0; i < n; i++) {
        node[i] = addr[i] >= AT + border * NS_PAGE ? 3 : 1;
    }
    return tells ? 0 : -ENOSYS;
}

static NsTopology *topology(uint32_t n, uint32_t first)
{
    NsTopology *t = g_new0(NsTopology, 1);

    t->n = n;
    t->node = g_new0(NsNode, n);
    for (int i = 0; i < NS_MAX_NODES; i++) {
        t->index[i] = -1;
    }
    for (uint32_t j = 0; j < n; j++) {
        t->node[j].id = first + 2 * j;
        t->index[first + 2 * j] = j;
    }
    return t;
}

static void topology_free(NsTopology *t)
{
    g_free(t->node);
    g_free(t);
}

/* vCPUs 0 to @vcpus - 1, a group each, or all of one */
static NsGuest *guest_new(int vcpus, bool together)
{
    NsGuest *g = g_new0(NsGuest, 1);

    g->n = together ? 1 : vcpus;
    g->name = g_new0(char *, g->n + 1);
    g->node = g_new0(int, g->n);
    g->vcpu = g_array_new(false, false, sizeof(NsVcpu));
    g->range = g_array_new(false, false, sizeof(NsGuestRange));
    for (int i = 0; i < vcpus; i++) {
        NsVcpu v = { .index = i, .tid = 100 + i, .group = together ? 0 : i };

        g_array_append_val(g->vcpu, v);
    }
    for (uint32_t i = 0; i < g->n; i++) {
        g->name[i] = together ? g_strdup("guest") :
                     g_strdup_printf("vcpu%u", i);
    }
    return g;
}

static void guest_free(NsGuest *g)
{
    g_strfreev(g->name);
    g_free(g->node);
    g_array_unref(g->vcpu);
    g_array_unref(g->range);
    g_free(g);
}

static uint64_t page(uint64_t number, uint32_t vcpu)
{
    return (AT / NS_PAGE + number) << 16 | vcpu;
}

/* @count pages from @from, of @vcpu, after the @n that are there */
static uint32_t wrote(uint64_t *pages, uint32_t n, uint32_t vcpu, uint64_t from,
                      uint64_t count)
{
    /* In an order that says nothing */
    for (uint64_t i = count; i-- > 0;) {
        pages[n++] = page(from + i, vcpu);
    }
    return n;
}

static void check_bytes(const uint64_t *bytes, uint64_t one, uint64_t three)
{
    g_assert_nonnull(bytes);
    g_assert_cmpuint(bytes[0], ==, one * NS_PAGE);
    g_assert_cmpuint(bytes[1], ==, three * NS_PAGE);
}

static void test_vcpus(void)
{
    NsTopology *t = topology(2, 1);
    NsGuest *g = guest_new(3, false);
    NsVcpuSets *s = ns_vcpu_sets_new();
    g_autofree uint64_t *pages = g_new(uint64_t, 1000);
    uint32_t n = 0;

    border = 100;
    tells = true;
    g_assert_null(ns_vcpu_sets_vcpu(s, t, 0, 1));
    n = wrote(pages, n, 0, 50, 80);
    n = wrote(pages, n, 1, 100, 10);
    /* Of one that is not there */
    n = wrote(pages, n, 9, 0, 200);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, g, t, 1, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 0, 1), 50, 30);
    check_bytes(ns_vcpu_sets_vcpu(s, t, 1, 1), 0, 10);
    check_bytes(ns_vcpu_sets_vcpu(s, t, 2, 1), 0, 0);
    check_bytes(ns_vcpu_sets_group(s, t, "vcpu0", 1), 50, 30);
    check_bytes(ns_vcpu_sets_group(s, t, "vcpu1", 1), 0, 10);
    g_assert_null(ns_vcpu_sets_vcpu(s, t, 9, 1));
    /* Half of the way */
    n = wrote(pages, 0, 1, 100, 30);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, g, t, MINUTE, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 0, MINUTE), 25, 15);
    check_bytes(ns_vcpu_sets_group(s, t, "vcpu1", MINUTE), 0, 20);
    /* Nothing at all says nothing. */
    g_assert_false(ns_vcpu_sets_add(s, pages, 0, g, t, MINUTE + 1, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 0, MINUTE + 1), 25, 15);
    /* Not for ever, and not of other nodes */
    check_bytes(ns_vcpu_sets_vcpu(s, t, 0, 11 * MINUTE - 1), 25, 15);
    g_assert_null(ns_vcpu_sets_vcpu(s, t, 0, 11 * MINUTE));
    g_assert_null(ns_vcpu_sets_group(s, t, "vcpu0", 11 * MINUTE));
    g_assert_null(ns_vcpu_sets_vcpu(NULL, t, 0, MINUTE));
    ns_vcpu_sets_free(s);
    guest_free(g);
    topology_free(t);
}

static void test_one_group(void)
{
    NsTopology *t = topology(2, 1);
    NsGuest *g = guest_new(3, true);
    NsVcpuSets *s = ns_vcpu_sets_new();
    g_autofree uint64_t *pages = g_new(uint64_t, 1000);
    NsGuestRange r = { (void *)(uintptr_t)(AT + 10 * NS_PAGE), 100 * NS_PAGE };
    uint32_t n = 0;

    border = 100;
    tells = true;
    /* The same pages by two, and some of the first one only */
    n = wrote(pages, n, 2, 0, 120);
    n = wrote(pages, n, 0, 50, 80);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, g, t, 1, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 0, 1), 50, 30);
    check_bytes(ns_vcpu_sets_vcpu(s, t, 2, 1), 100, 20);
    check_bytes(ns_vcpu_sets_group(s, t, "guest", 1), 100, 30);
    /* Memory of its own: nothing else is its */
    ns_vcpu_sets_free(s);
    s = ns_vcpu_sets_new();
    g_array_append_val(g->range, r);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, g, t, 1, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 2, 1), 100, 20);
    check_bytes(ns_vcpu_sets_group(s, t, "guest", 1), 90, 10);
    ns_vcpu_sets_free(s);
    guest_free(g);
    topology_free(t);
}

/* More pages than are asked for: some stand for all. */
static void test_many(void)
{
    const uint32_t many = 3 * NS_MAX_SAMPLES + 5;
    g_autofree uint64_t *pages = g_new(uint64_t, many);
    NsTopology *t = topology(2, 1);
    NsGuest *g = guest_new(2, false);
    NsVcpuSets *s = ns_vcpu_sets_new();
    const uint64_t *bytes;
    uint32_t n;

    border = NS_MAX_SAMPLES;
    tells = true;
    n = wrote(pages, 0, 0, 0, 2 * NS_MAX_SAMPLES);
    n = wrote(pages, n, 1, 2 * NS_MAX_SAMPLES, many - 2 * NS_MAX_SAMPLES);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, g, t, 1, nodes_of));
    bytes = ns_vcpu_sets_vcpu(s, t, 0, 1);
    for (int j = 0; j < 2; j++) {
        g_assert_cmpuint(bytes[j] / NS_PAGE, >=, NS_MAX_SAMPLES - 4);
        g_assert_cmpuint(bytes[j] / NS_PAGE, <=, NS_MAX_SAMPLES + 4);
    }
    bytes = ns_vcpu_sets_vcpu(s, t, 1, 1);
    g_assert_cmpuint(bytes[0], ==, 0);
    g_assert_cmpuint(bytes[1] / NS_PAGE, >=, NS_MAX_SAMPLES);
    g_assert_cmpuint(bytes[1] / NS_PAGE, <=, NS_MAX_SAMPLES + 9);
    ns_vcpu_sets_free(s);
    guest_free(g);
    topology_free(t);
}

static void test_changes(void)
{
    NsTopology *t = topology(2, 1), *other = topology(2, 3);
    NsGuest *three = guest_new(3, false), *two = guest_new(2, false);
    NsVcpuSets *s = ns_vcpu_sets_new();
    uint64_t pages[10];
    uint32_t n;

    border = 100;
    tells = true;
    n = wrote(pages, 0, 2, 0, 10);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, three, t, 1, nodes_of));
    /* The kernel says nothing: what is known stays. */
    tells = false;
    g_assert_false(ns_vcpu_sets_add(s, pages, n, two, t, 2, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 2, 2), 10, 0);
    /* Somebody wrote, but none of these. */
    tells = true;
    n = wrote(pages, 0, 9, 0, 1);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, three, t, 3, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 2, 3), 5, 0);
    /* One is unplugged. */
    n = wrote(pages, 0, 2, 0, 10);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, two, t, 4, nodes_of));
    g_assert_null(ns_vcpu_sets_vcpu(s, t, 2, 4));
    g_assert_null(ns_vcpu_sets_group(s, t, "vcpu2", 4));
    check_bytes(ns_vcpu_sets_vcpu(s, t, 1, 4), 0, 0);
    /* Other nodes: by index these bytes would be somewhere else. */
    g_assert_null(ns_vcpu_sets_vcpu(s, other, 1, 4));
    border = 5;
    n = wrote(pages, 0, 1, 0, 10);
    g_assert_true(ns_vcpu_sets_add(s, pages, n, two, other, 5, nodes_of));
    check_bytes(ns_vcpu_sets_vcpu(s, other, 1, 5), 5, 0);
    ns_vcpu_sets_free(s);
    guest_free(three);
    guest_free(two);
    topology_free(t);
    topology_free(other);
}

static void test_share(void)
{
    g_assert_cmpuint(ns_written_share(1 << 20, 1 << 20), ==, 1000);
    g_assert_cmpuint(ns_written_share(0, 1 << 20), ==, 250);
    g_assert_cmpuint(ns_written_share(1 << 19, 1 << 20), ==, 625);
    g_assert_cmpuint(ns_written_share(1ull << 50, 1 << 20), ==, 1000);
    g_assert_cmpuint(ns_written_share(0, 0), ==, 1000);
    g_assert_cmpuint(ns_written_share(0, 1), ==, 250);
    g_assert_cmpuint(ns_written_share(1ull << 50, 1ull << 50), ==, 1000);
}

/* Pages of this process, and one that was unmapped */
static void test_nodes(void)
{
    g_autofree char *buffer = g_malloc0(4 * NS_PAGE);
    uint64_t addr[] = { ROUND_UP((uintptr_t)buffer, NS_PAGE), NS_PAGE };
    int node[2];

    /* What is only allocated need not be there. */
    memset(buffer, 1, 4 * NS_PAGE);
    if (ns_nodes_of(addr, 2, node)) {
        g_test_skip("the kernel does not say where pages are");
        return;
    }
    g_assert_cmpint(node[0], >=, 0);
    g_assert_cmpint(node[1], <, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/written/vcpus", test_vcpus);
    g_test_add_func("/numa-sched/written/one-group", test_one_group);
    g_test_add_func("/numa-sched/written/many", test_many);
    g_test_add_func("/numa-sched/written/changes", test_changes);
    g_test_add_func("/numa-sched/written/share", test_share);
    g_test_add_func("/numa-sched/written/nodes", test_nodes);
    return g_test_run();
}
