/*
 * NUMA scheduler: pages that KVM's dirty rings say were written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A reader has two tables: one is filled while the other is read, so that who
 * reaps (under kvm_slots_lock, often with the BQL) never waits for a reader.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/host-utils.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "plan.h"
#include "ring.h"

#define MAX_VCPU    0xffff
#define MAX_PAGE    (1ull << 48)
/* More are hardly ever needed in a half full table, unless a guest means to. */
#define PROBES      128

struct NsRing {
    NsHeatRange *range;         /* by address */
    uint32_t n;
    bool by_vcpu;
    uint32_t slots;             /* power of two; half of it is used at most */
    uint64_t *taken;            /* the reader's own */
    QLIST_ENTRY(NsRing) next;

    /* Under the lock */
    uint64_t *page;             /* page number, vCPU in 16 bits; 0: free */
    uint32_t used;
    uint64_t lost;
};

bool ns_ring_is_read;

static QemuMutex lock;
static QLIST_HEAD(, NsRing) readers = QLIST_HEAD_INITIALIZER(readers);
static char *failure;           /* under the lock; NULL: logging could begin */
static const NsRingSource *source;
static bool logs, is_held;      /* BQL */
static int64_t logs_since;      /* BQL, ns */

static void __attribute__((constructor)) ring_init(void)
{
    qemu_mutex_init(&lock);
}

void ns_ring_set_source(const NsRingSource *s)
{
    source = s;
}

bool ns_ring_exists(void)
{
    return source && source->exists();
}

void ns_ring_apply(void)
{
    Error *err = NULL;
    bool wanted;

    WITH_QEMU_LOCK_GUARD(&lock) {
        wanted = !QLIST_EMPTY(&readers);
    }
    wanted = wanted && !is_held;
    if (wanted == logs) {
        return;
    }
    if (!wanted) {
        source->stop();
        logs = false;
        return;
    }
    logs = source->start(&err);
    logs_since = get_clock();
    WITH_QEMU_LOCK_GUARD(&lock) {
        g_free(failure);
        failure = logs ? NULL : g_strdup(error_get_pretty(err));
    }
    error_free(err);
}

bool ns_ring_is_fresh(void)
{
    return logs && get_clock() - logs_since < NS_RING_FRESH;
}

void ns_ring_hold(bool held)
{
    if (!source || held == is_held) {
        return;
    }
    is_held = held;
    if (held) {
        ns_ring_apply();
    } else {
        source->schedule();
    }
}

static int by_addr(const void *a, const void *b)
{
    const NsHeatRange *x = a, *y = b;

    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static uint32_t slots_for(const NsRing *r)
{
    uint64_t pages = 0;

    for (uint32_t i = 0; i < r->n; i++) {
        pages += MIN(r->range[i].bytes / NS_PAGE, NS_RING_MOST);
    }
    pages = r->n && !r->by_vcpu ? MIN(pages, NS_RING_MOST) : NS_RING_MOST;
    return pow2ceil(MAX(2 * pages, 2 * PROBES));
}

NsRing *ns_ring_open(const NsHeatRange *range, uint32_t n, bool by_vcpu,
                     Error **errp)
{
    NsRing *r;

    if (!ns_ring_exists()) {
        error_setg(errp, "estimator 'dirty-ring' needs KVM with dirty rings: "
                   "use -accel kvm,dirty-ring-size=4096");
        return NULL;
    }
    if (qemu_real_host_page_size() != NS_PAGE) {
        error_setg(errp, "estimator 'dirty-ring' needs a host with pages of "
                   "4096 bytes: use another estimator");
        return NULL;
    }
    r = g_new0(NsRing, 1);
    r->n = MIN(n, NS_HEAT_MAX_RANGES);
    r->range = g_memdup2(range, r->n * sizeof(*range));
    if (r->n) {
        qsort(r->range, r->n, sizeof(*r->range), by_addr);
    }
    r->by_vcpu = by_vcpu;
    r->slots = slots_for(r);
    r->page = g_new0(uint64_t, r->slots);
    r->taken = g_new0(uint64_t, r->slots);
    QEMU_LOCK_GUARD(&lock);
    if (QLIST_EMPTY(&readers)) {
        g_clear_pointer(&failure, g_free);
    }
    QLIST_INSERT_HEAD(&readers, r, next);
    qatomic_set(&ns_ring_is_read, true);
    source->schedule();
    return r;
}

void ns_ring_close(NsRing *r)
{
    WITH_QEMU_LOCK_GUARD(&lock) {
        QLIST_REMOVE(r, next);
        qatomic_set(&ns_ring_is_read, !QLIST_EMPTY(&readers));
        source->schedule();
    }
    g_free(r->range);
    g_free(r->page);
    g_free(r->taken);
    g_free(r);
}

const uint64_t *ns_ring_take(NsRing *r, uint32_t *n, uint64_t *lost,
                             Error **errp)
{
    uint32_t k = 0;

    memset(r->taken, 0, r->slots * sizeof(*r->taken));
    WITH_QEMU_LOCK_GUARD(&lock) {
        uint64_t *full = r->page;

        if (failure) {
            error_setg(errp, "dirty logging could not begin: %s", failure);
            return NULL;
        }
        r->page = r->taken;
        r->taken = full;
        *lost = r->lost;
        r->used = r->lost = 0;
    }
    for (uint32_t i = 0; i < r->slots; i++) {
        uint64_t page = r->taken[i];

        r->taken[i] = 0;
        if (page) {
            r->taken[k++] = page;
        }
    }
    *n = k;
    return r->taken;
}

static bool is_in_range(const NsRing *r, uint64_t addr)
{
    uint32_t from = 0, to = r->n;

    while (from < to) {
        uint32_t mid = from + (to - from) / 2;

        if (r->range[mid].addr <= addr) {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    return !r->n ||
           (from && addr - r->range[from - 1].addr < r->range[from - 1].bytes);
}

/* Each bit of the result depends on each of @x. */
static uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static void add(NsRing *r, uint64_t page)
{
    uint32_t at = mixed(page);

    for (uint32_t i = 0; i < PROBES; i++, at++) {
        uint64_t *slot = &r->page[at & (r->slots - 1)];

        if (*slot == page) {
            return;
        }
        if (!*slot) {
            if (r->used < r->slots / 2) {
                *slot = page;
                r->used++;
                return;
            }
            break;
        }
    }
    r->lost++;
}

void ns_ring_page(uint32_t vcpu, const void *page)
{
    uint64_t addr = (uintptr_t)page, number = addr / NS_PAGE;
    NsRing *r;

    if (!number || number >= MAX_PAGE || vcpu > MAX_VCPU) {
        return;
    }
    QEMU_LOCK_GUARD(&lock);
    QLIST_FOREACH(r, &readers, next) {
        if (is_in_range(r, addr)) {
            add(r, number << 16 | (r->by_vcpu ? vcpu : 0));
        }
    }
}
