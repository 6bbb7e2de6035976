/*
 * NUMA scheduler: pages that KVM's dirty rings say were written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/thread.h"
#include "accel/kvm/numa-sched/plan.h"
#include "accel/kvm/numa-sched/ring.h"

#define AT  (1ull << 40)

/* A machine that logs when the test says that its main loop runs */
static struct {
    bool exists, fails, logs;
    uint32_t scheduled, starts, stops;
} vm;

static bool vm_exists(void)
{
    return vm.exists;
}

static void vm_schedule(void)
{
    vm.scheduled++;
}

static bool vm_start(Error **errp)
{
    g_assert_false(vm.logs);
    if (vm.fails) {
        error_setg(errp, "no log");
        return false;
    }
    vm.logs = true;
    vm.starts++;
    return true;
}

static void vm_stop(void)
{
    g_assert_true(vm.logs);
    vm.logs = false;
    vm.stops++;
}

static const NsRingSource source = {
    vm_exists, vm_schedule, vm_start, vm_stop,
};

static void vm_reset(void)
{
    g_assert_false(qatomic_read(&ns_ring_is_read));
    ns_ring_apply();
    memset(&vm, 0, sizeof(vm));
    vm.exists = true;
    ns_ring_set_source(&source);
}

static NsRing *ring_open(uint64_t pages)
{
    NsHeatRange range = { AT, pages * NS_PAGE };

    return ns_ring_open(&range, 1, false, &error_abort);
}

static void wrote(uint32_t vcpu, uint64_t page)
{
    ns_ring_page(vcpu, (void *)(uintptr_t)(AT + page * NS_PAGE));
}

/* How many; each of them is below @end, and there once. */
static uint32_t take(NsRing *r, uint64_t end, uint64_t *lost)
{
    g_autofree bool *seen = g_new0(bool, end);
    uint32_t n;
    const uint64_t *page = ns_ring_take(r, &n, lost, &error_abort);

    for (uint32_t i = 0; i < n; i++) {
        uint64_t k = (ns_ring_addr(page[i]) - AT) / NS_PAGE;

        g_assert_cmpuint(k, <, end);
        g_assert_false(seen[k]);
        seen[k] = true;
    }
    return n;
}

static void test_pages(void)
{
    NsRing *r;
    uint64_t lost;

    vm_reset();
    r = ring_open(1000);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++) {
            wrote(i % 7, i);
            wrote(i % 5, i);
        }
        /* Of nobody, or of somebody else */
        wrote(0, 1000);
        ns_ring_page(0, (void *)(uintptr_t)(AT - 1));
        ns_ring_page(0, NULL);
        ns_ring_page(0, (void *)UINTPTR_MAX);
        ns_ring_page(UINT32_MAX, (void *)(uintptr_t)AT);
        g_assert_cmpuint(take(r, 1000, &lost), ==, 1000);
        g_assert_cmpuint(lost, ==, 0);
        g_assert_cmpuint(take(r, 1000, &lost), ==, 0);
    }
    ns_ring_close(r);
}

static void test_ranges(void)
{
    NsHeatRange range[] = {
        { AT + 8 * NS_PAGE, 2 * NS_PAGE }, { AT, NS_PAGE },
        { AT + 4 * NS_PAGE, 2 * NS_PAGE },
    };
    NsRing *r;
    uint64_t lost;

    vm_reset();
    r = ns_ring_open(range, 3, false, &error_abort);
    for (int i = 0; i < 20; i++) {
        wrote(0, i);
    }
    g_assert_cmpuint(take(r, 10, &lost), ==, 5);
    ns_ring_close(r);
}

static void test_by_vcpu(void)
{
    const uint64_t *page;
    uint32_t n, of[3] = { };
    uint64_t lost;
    NsRing *r;

    vm_reset();
    r = ns_ring_open(NULL, 0, true, &error_abort);
    for (int i = 0; i < 300; i++) {
        wrote(0, i);
        wrote(i % 3, i);
    }
    page = ns_ring_take(r, &n, &lost, &error_abort);
    g_assert_cmpuint(n, ==, 500);
    for (uint32_t i = 0; i < n; i++) {
        g_assert_cmpuint(ns_ring_vcpu(page[i]), <, 3);
        of[ns_ring_vcpu(page[i])]++;
    }
    g_assert_cmpuint(of[0], ==, 300);
    g_assert_cmpuint(of[1], ==, 100);
    g_assert_cmpuint(of[2], ==, 100);
    ns_ring_close(r);
}

/* Most pages of a large guest, more than there is room for */
static void test_lost(void)
{
    const uint64_t pages = 2 * NS_RING_MOST;
    uint64_t lost;
    NsRing *r;

    vm_reset();
    r = ring_open(pages);
    for (uint64_t i = 0; i < NS_RING_MOST; i++) {
        wrote(0, i);
    }
    g_assert_cmpuint(take(r, pages, &lost), ==, NS_RING_MOST);
    g_assert_cmpuint(lost, ==, 0);
    for (uint64_t i = 0; i < pages; i++) {
        wrote(0, i);
    }
    /* What is there already needs no room. */
    wrote(0, 0);
    g_assert_cmpuint(take(r, pages, &lost), ==, NS_RING_MOST);
    g_assert_cmpuint(lost, ==, pages - NS_RING_MOST);
    g_assert_cmpuint(take(r, pages, &lost), ==, 0);
    g_assert_cmpuint(lost, ==, 0);
    ns_ring_close(r);
}

static void test_two_readers(void)
{
    NsRing *a, *b;
    uint64_t lost;

    vm_reset();
    a = ring_open(10);
    ns_ring_apply();
    b = ring_open(20);
    ns_ring_apply();
    g_assert_cmpuint(vm.starts, ==, 1);
    for (int i = 0; i < 20; i++) {
        wrote(0, i);
    }
    g_assert_cmpuint(take(a, 10, &lost), ==, 10);
    ns_ring_close(a);
    ns_ring_apply();
    /* The other one still reads, and has not read yet. */
    g_assert_true(vm.logs);
    g_assert_true(qatomic_read(&ns_ring_is_read));
    g_assert_cmpuint(take(b, 20, &lost), ==, 20);
    ns_ring_close(b);
    g_assert_false(qatomic_read(&ns_ring_is_read));
    ns_ring_apply();
    g_assert_false(vm.logs);
    g_assert_cmpuint(vm.stops, ==, 1);
}

/* The main loop comes late, or more often than it was asked to. */
static void test_order(void)
{
    NsRing *r;

    vm_reset();
    r = ring_open(10);
    ns_ring_close(r);
    g_assert_cmpuint(vm.scheduled, ==, 2);
    ns_ring_apply();
    ns_ring_apply();
    g_assert_cmpuint(vm.starts + vm.stops, ==, 0);

    r = ring_open(10);
    ns_ring_apply();
    ns_ring_close(r);
    r = ring_open(10);
    ns_ring_apply();
    ns_ring_apply();
    g_assert_cmpuint(vm.starts, ==, 1);
    g_assert_cmpuint(vm.stops, ==, 0);
    ns_ring_close(r);
    ns_ring_apply();
    ns_ring_apply();
    g_assert_cmpuint(vm.stops, ==, 1);
    wrote(0, 0);
}

static void test_refused(void)
{
    NsHeatRange range = { AT, NS_PAGE };
    Error *err = NULL;
    uint64_t lost;
    uint32_t n;
    NsRing *r;

    vm_reset();
    vm.exists = false;
    g_assert_null(ns_ring_open(&range, 1, false, &err));
    g_assert_nonnull(strstr(error_get_pretty(err),
                            "-accel kvm,dirty-ring-size=4096"));
    g_clear_pointer(&err, error_free);
    ns_ring_set_source(NULL);
    g_assert_null(ns_ring_open(&range, 1, false, &err));
    g_clear_pointer(&err, error_free);

    /* Logging may not begin; the next one may try again. */
    vm_reset();
    vm.fails = true;
    r = ring_open(1);
    ns_ring_apply();
    g_assert_null(ns_ring_take(r, &n, &lost, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "no log"));
    error_free(err);
    ns_ring_close(r);
    ns_ring_apply();
    g_assert_cmpuint(vm.stops, ==, 0);
    vm.fails = false;
    r = ring_open(1);
    ns_ring_apply();
    g_assert_nonnull(ns_ring_take(r, &n, &lost, &error_abort));
    ns_ring_close(r);
}

static void test_estimator(void)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    NsHeatRange range = { AT, 4ull * NS_RING_MOST * NS_PAGE };
    uint32_t score[3];
    NsHeat *h;

    vm_reset();
    h = ns_heat_new(&range, 1, "dirty-ring", NULL, NULL, &error_abort);
    g_assert_cmpstr(ns_heat_name(h), ==, "dirty-ring");
    g_assert_false(ns_heat_sees_reads(h));
    ns_ring_apply();
    wrote(0, 1);
    wrote(1, 1);
    ns_heat_look(h, notes);
    ns_heat_scores(h, AT, 3, score);
    g_assert_cmpuint(score[0], ==, 0);
    g_assert_cmpuint(score[1], ==, NS_HEAT_USE);
    g_assert_cmpuint(score[2], ==, 0);
    g_assert_cmpuint(notes->len, ==, 0);
    for (uint32_t i = 0; i <= NS_RING_MOST; i++) {
        wrote(0, i);
    }
    ns_heat_look(h, notes);
    g_assert_cmpuint(notes->len, ==, 1);
    g_assert_nonnull(strstr(g_ptr_array_index(notes, 0), "'dirty-ring'"));
    ns_heat_free(h);
}

/* Only whoever asks for it has it, and nobody else reads of it. */
static void test_auto(void)
{
    static const NsHeatOps *const only[] = { &ns_heat_dirty_ring, NULL };
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    NsHeatRange range = { AT, NS_PAGE };
    NsHeat *h;

    vm_reset();
    vm.exists = false;
    h = ns_heat_new(&range, 1, "auto", only, notes, &error_abort);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    g_assert_cmpuint(notes->len, ==, 0);
    ns_heat_free(h);
    vm.exists = true;
    h = ns_heat_new(&range, 1, "auto", only, notes, &error_abort);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    g_assert_cmpuint(notes->len, ==, 0);
    ns_heat_free(h);
    h = ns_heat_new(&range, 1, "dirty-ring", only, notes, &error_abort);
    g_assert_cmpstr(ns_heat_name(h), ==, "dirty-ring");
    ns_heat_free(h);
}

enum { WRITERS = 4, EACH = 20000 };

static void *writer(void *opaque)
{
    for (int i = 0; i < EACH; i++) {
        wrote(0, GPOINTER_TO_INT(opaque) * EACH + i);
    }
    return NULL;
}

/* Reaping and reading at the same time: nothing is lost, nothing is twice. */
static void test_threads(void)
{
    QemuThread thread[WRITERS];
    uint64_t sum = 0, lost;
    NsRing *r;

    vm_reset();
    r = ring_open(WRITERS * EACH);
    for (int i = 0; i < WRITERS; i++) {
        qemu_thread_create(&thread[i], "writer", writer, GINT_TO_POINTER(i),
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < 50; i++) {
        ns_ring_close(ring_open(10));
        sum += take(r, WRITERS * EACH, &lost);
    }
    for (int i = 0; i < WRITERS; i++) {
        qemu_thread_join(&thread[i]);
    }
    sum += take(r, WRITERS * EACH, &lost);
    g_assert_cmpuint(sum, ==, WRITERS * EACH);
    ns_ring_close(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/ring/pages", test_pages);
    g_test_add_func("/numa-sched/ring/ranges", test_ranges);
    g_test_add_func("/numa-sched/ring/by-vcpu", test_by_vcpu);
    g_test_add_func("/numa-sched/ring/lost", test_lost);
    g_test_add_func("/numa-sched/ring/two-readers", test_two_readers);
    g_test_add_func("/numa-sched/ring/order", test_order);
    g_test_add_func("/numa-sched/ring/refused", test_refused);
    g_test_add_func("/numa-sched/ring/estimator", test_estimator);
    g_test_add_func("/numa-sched/ring/auto", test_auto);
    g_test_add_func("/numa-sched/ring/threads", test_threads);
    return g_test_run();
}
