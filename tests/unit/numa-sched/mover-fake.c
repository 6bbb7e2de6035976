/*
 * A kernel with nodes and pages, for tests of what moves memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "mover-fake.h"

static const int ids[FAKE_NODES] = { 0, 10, 20 };

static int index_of(int id)
{
    return id == 0 ? 0 : id == 10 ? 1 : id == 20 ? 2 : -1;
}

/* Does this call fail? */
static int fault(Fake *f)
{
    f->calls++;
    if (!f->fault_at || f->calls < f->fault_at ||
        (f->calls > f->fault_at && !f->fault_stays)) {
        return 0;
    }
    if (f->fault < 0) {
        f->offline[index_of(f->target)] = true;
        return 0;
    }
    return f->fault;
}

static uint32_t page_of(void *addr)
{
    return ((uintptr_t)addr - FAKE_BASE) / NS_PAGE;
}

/* The pages that move with page @i: first and number */
static uint32_t folio(const Fake *f, uint32_t i, uint32_t *n)
{
    *n = f->page[i].large ? NS_MOVE_SUBPAGES : 1;
    return f->page[i].large ? i / NS_MOVE_SUBPAGES * NS_MOVE_SUBPAGES : i;
}

/*
 * As Linux does it: those that can be taken are moved together, and once one of
 * them did not move, the status of none of them is written.
 */
static long move(Fake *f, unsigned long n, void **pages, const int *nodes,
                 int *status)
{
    g_autofree bool *taken = g_new0(bool, f->n);
    g_autofree bool *listed = g_new0(bool, n);
    long failed = 0;

    for (unsigned long k = 0; k < n; k++) {
        uint32_t i = page_of(pages[k]), count, first;
        int to = index_of(nodes[k]);

        g_assert_cmpint(to, >=, 0);
        g_assert_cmpuint(i, <, f->n);
        if (f->offline[to]) {
            return -ENODEV;
        }
        first = folio(f, i, &count);
        if (f->page[i].node < 0) {
            status[k] = -ENOENT;
        } else if (f->page[i].node == nodes[k] && !taken[first]) {
            status[k] = nodes[k];
        } else if (f->page[i].status) {
            status[k] = f->page[i].status;
        } else if (taken[first]) {
            status[k] = -EBUSY;
        } else if (f->page[i].pinned) {
            taken[first] = listed[k] = true;
            failed++;
        } else {
            FakeLog log = { .addr = (uintptr_t)pages[k], .time = f->now,
                            .bytes = (uint64_t)count * NS_PAGE,
                            .node = nodes[k] };

            if (f->free[to] < log.bytes) {
                return -ENOMEM;
            }
            taken[first] = listed[k] = true;
            f->free[index_of(f->page[i].node)] += log.bytes;
            f->free[to] -= log.bytes;
            for (uint32_t p = first; p < first + count; p++) {
                f->page[p].node = nodes[k];
                f->page[p].moves++;
            }
            g_array_append_val(f->log, log);
        }
    }
    for (unsigned long k = 0; k < n && !failed; k++) {
        if (listed[k]) {
            status[k] = f->page[page_of(pages[k])].node;
        }
    }
    return failed;
}

static long fake_move_pages(void *opaque, unsigned long n, void **pages,
                            const int *nodes, int *status)
{
    Fake *f = opaque;
    int error = fault(f);

    f->now += nodes ? 600000 + n * 500 : n * 300;
    if (error) {
        return -error;
    }
    if (nodes) {
        return move(f, n, pages, nodes, status);
    }
    for (unsigned long k = 0; k < n; k++) {
        g_assert_cmpuint(page_of(pages[k]), <, f->n);
        status[k] = f->page[page_of(pages[k])].node;
        status[k] = status[k] < 0 ? -ENOENT : status[k];
    }
    f->asked_in_all += n;
    return 0;
}

static int fake_bind(void *opaque, uint64_t addr, uint64_t bytes, int node,
                     void **before)
{
    Fake *f = opaque;
    int error = fault(f);

    if (error) {
        return -error;
    }
    *before = g_memdup2(&f->policy, sizeof(f->policy));
    f->policy = node;
    return 0;
}

static int fake_unbind(void *opaque, uint64_t addr, uint64_t bytes,
                       const void *before)
{
    Fake *f = opaque;

    f->policy = *(const int *)before;
    return 0;
}

static int fake_huge(void *opaque, uint64_t addr, uint64_t bytes,
                     unsigned long *bitmap)
{
    Fake *f = opaque;

    if (f->no_huge) {
        return -ENOTTY;
    }
    for (uint64_t at = 0; at < bytes; at += NS_PAGE) {
        if (f->page[(addr + at - FAKE_BASE) / NS_PAGE].large) {
            set_bit(at / NS_PAGE, bitmap);
        }
    }
    return 0;
}

static bool fake_node(void *opaque, int node, uint64_t *free, uint64_t *size,
                      uint64_t *watermark)
{
    Fake *f = opaque;
    int i = index_of(node);

    fault(f);
    if (i < 0 || f->offline[i]) {
        return false;
    }
    *free = f->free[i];
    *size = f->size;
    *watermark = f->watermark;
    return true;
}

static uint64_t fake_hugetlb(void *opaque, int node, uint64_t page)
{
    return ((Fake *)opaque)->hugetlb;
}

static bool fake_pressure(void *opaque)
{
    return ((Fake *)opaque)->pressure;
}

static int64_t fake_now(void *opaque)
{
    return ((Fake *)opaque)->now;
}

const NsMoverSys fake_sys = {
    .move_pages = fake_move_pages,
    .bind = fake_bind,
    .unbind = fake_unbind,
    .huge = fake_huge,
    .node = fake_node,
    .hugetlb = fake_hugetlb,
    .pressure = fake_pressure,
    .now = fake_now,
};

Fake *fake_new(uint32_t pages, uint64_t capacity)
{
    Fake *f = g_new0(Fake, 1);

    f->n = pages;
    f->page = g_new0(FakePage, pages);
    f->size = capacity;
    for (int i = 0; i < FAKE_NODES; i++) {
        f->free[i] = capacity;
    }
    f->policy = f->first_policy = -1;
    f->log = g_array_new(false, false, sizeof(FakeLog));
    f->target = 10;
    return f;
}

void fake_free(Fake *f)
{
    g_array_unref(f->log);
    g_free(f->page);
    g_free(f);
}

static void fake_scores(void *opaque, uint64_t addr, uint32_t pages,
                        uint32_t *score)
{
    memcpy(score, (uint32_t *)opaque + (addr - FAKE_BASE) / NS_PAGE,
           pages * sizeof(*score));
}

void fake_config(Fake *f, NsMoverConfig *c, NsMoverRange *r,
                 const uint32_t *score)
{
    static const uint32_t ratio[FAKE_NODES * FAKE_NODES] = {
        1000000, 2000000, 3000000,
        2000000, 1000000, 2000000,
        3000000, 2000000, 1000000,
    };

    *r = (NsMoverRange) { .addr = FAKE_BASE, .bytes = (uint64_t)f->n * NS_PAGE,
                          .page = NS_PAGE, .name = "ram0" };
    *c = (NsMoverConfig) {
        .range = r, .n_ranges = 1, .n = FAKE_NODES, .id = ids, .ratio = ratio,
        .cpu = 1, .target = 1, .bandwidth = NS_MAX_BANDWIDTH,
        .scores = score ? fake_scores : NULL, .scores_opaque = (void *)score,
    };
}

uint32_t fake_run(Fake *f, NsMover *m, uint32_t steps)
{
    for (uint32_t i = 0; i < steps; i++) {
        int64_t next = ns_mover_step(m);

        if (next == INT64_MAX) {
            return i + 1;
        }
        f->now = MAX(f->now, next);
    }
    return steps;
}

void fake_check(const Fake *f, uint32_t moves)
{
    for (uint32_t i = 0; i < f->n; i++) {
        const FakePage *p = &f->page[i];

        g_assert_true(p->node == p->first || p->node == f->target);
        g_assert_cmpuint(p->moves, <=, moves);
    }
}
