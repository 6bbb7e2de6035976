/*
 * NUMA scheduler: latencies that are measured, on the kernel that runs here
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No figure is compared: who else runs here is not known.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/measure.h"

#define BYTES       (4 * MiB)
#define LINE        64
#define ABSENT      1021            /* no host has it */

static const NsMeasureSys *const sys = &ns_measure_linux;

static bool has_node_0(void)
{
    uint64_t a, b, c;
    void *buf;
    int ret;

    if (!sys->node(NULL, 0, &a, &b, &c)) {
        g_test_skip("no node 0");
        return false;
    }
    ret = sys->map(NULL, 0, BYTES, &buf);
    if (ret == -ENOSYS || ret == -EPERM) {
        g_test_skip("no policies of memory");
        return false;
    }
    g_assert_cmpint(ret, ==, 0);
    sys->unmap(NULL, buf, BYTES);
    return true;
}

/* It meets each line once, and comes back to where it began. */
static void is_circle(char *buf, uint64_t bytes)
{
    uint64_t lines = bytes / LINE;
    g_autofree unsigned long *seen = bitmap_new(lines);
    void *at = buf;

    for (uint64_t i = 0; i < lines; i++) {
        uint64_t offset = (char *)at - buf;

        g_assert_cmpuint(offset, <, bytes);
        g_assert_cmpuint(offset % LINE, ==, 0);
        g_assert_false(test_and_set_bit(offset / LINE, seen));
        at = *(void **)at;
    }
    g_assert_true(at == buf);
}

static void test_circle(void)
{
    for (uint64_t bytes = NS_MEASURE_CHUNK; bytes <= 4 * NS_MEASURE_CHUNK;
         bytes *= 2) {
        g_autofree char *buf = g_malloc(bytes);

        for (uint64_t at = 0; at < bytes; at += NS_MEASURE_CHUNK) {
            sys->fill(NULL, buf, bytes, at, at + NS_MEASURE_CHUNK);
        }
        is_circle(buf, bytes);
    }
}

static void test_buffer(void)
{
    void *buf, *at;

    if (!has_node_0()) {
        return;
    }
    g_assert_cmpint(sys->map(NULL, 0, BYTES, &buf), ==, 0);
    /* None is there yet. */
    g_assert_cmpint(sys->elsewhere(NULL, 0, buf, BYTES), ==,
                    BYTES / qemu_real_host_page_size());
    sys->fill(NULL, buf, BYTES, 0, BYTES);
    g_assert_cmpint(sys->elsewhere(NULL, 0, buf, BYTES), ==, 0);
    g_assert_cmpint(sys->elsewhere(NULL, ABSENT, buf, BYTES), ==,
                    BYTES / qemu_real_host_page_size());
    at = buf;
    g_assert_cmpuint(sys->chase(NULL, &at, 1000), >, 0);
    g_assert_true(at != buf);
    sys->unmap(NULL, buf, BYTES);
}

static void test_absent_node(void)
{
    uint64_t a, b, c;
    void *buf = NULL;

    g_assert_false(sys->node(NULL, ABSENT, &a, &b, &c));
    g_assert_cmpint(sys->map(NULL, ABSENT, BYTES, &buf), <, 0);
    g_assert_cmpint(sys->map(NULL, UINT32_MAX, BYTES, &buf), ==, -EINVAL);
    g_assert_null(buf);
}

typedef struct Bound {
    const bool *allowed;
    int to, cpu, ret;
} Bound;

static void *bind_thread(void *opaque)
{
    g_autofree bool *cpu = g_new0(bool, NS_MAX_CPUS);
    Bound *b = opaque;

    cpu[b->to] = true;
    b->ret = sys->bind(NULL, cpu);
    b->cpu = sys->cpu(NULL);
    return NULL;
}

/* Only the thread that asks for it is bound. */
static void test_bind(void)
{
    g_autofree bool *before = g_new0(bool, NS_MAX_CPUS);
    g_autofree bool *after = g_new0(bool, NS_MAX_CPUS);
    Bound b = { .allowed = before };
    GThread *thread;

    g_assert_cmpint(sys->allowed(NULL, before), ==, 0);
    while (!before[b.to]) {
        b.to++;
    }
    thread = g_thread_new("bound", bind_thread, &b);
    g_thread_join(thread);
    g_assert_cmpint(b.ret, ==, 0);
    g_assert_cmpint(b.cpu, ==, b.to);
    g_assert_cmpint(sys->allowed(NULL, after), ==, 0);
    g_assert_cmpmem(before, NS_MAX_CPUS, after, NS_MAX_CPUS);
}

static void *measure_thread(void *opaque)
{
    NsTopology t = { .n = 2 };
    NsNode node[2] = { };
    NsMeasureConfig c = { .budget = NS_MEASURE_BUDGET, .duty = 100 };
    const bool *allowed = opaque;
    uint32_t cpu = 0;
    char *why = NULL;

    while (!allowed[cpu]) {
        cpu++;
    }
    t.node = node;
    node[0] = (NsNode) { .cpus = 1, .cores = 1, .cpu = &cpu, .size = GiB };
    node[1] = (NsNode) { .id = ABSENT, .size = GiB };
    g_assert_null(ns_measure(&t, &c, &why));
    return why;
}

/* Up to the node that is not there */
static void test_whole(void)
{
    g_autofree bool *allowed = g_new0(bool, NS_MAX_CPUS);
    g_autofree char *why = NULL;
    GThread *thread;

    if (!has_node_0()) {
        return;
    }
    g_assert_cmpint(sys->allowed(NULL, allowed), ==, 0);
    thread = g_thread_new("measure", measure_thread, allowed);
    why = g_thread_join(thread);
    g_test_message("%s", why);
    g_assert_nonnull(why);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/measure-linux/circle", test_circle);
    g_test_add_func("/numa-sched/measure-linux/buffer", test_buffer);
    g_test_add_func("/numa-sched/measure-linux/absent-node", test_absent_node);
    g_test_add_func("/numa-sched/measure-linux/bind", test_bind);
    g_test_add_func("/numa-sched/measure-linux/whole", test_whole);
    return g_test_run();
}
