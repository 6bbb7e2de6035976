/*
 * NUMA scheduler: what each vCPU writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "plan.h"
#include "residency.h"
#include "ring.h"
#include "working.h"
#include "working-vcpu.h"

#define STALE   (10 * 60 * NANOSECONDS_PER_SECOND)
#define ALL     1000

typedef struct Written {
    int64_t at;                 /* ns: of the last measurement */
    uint64_t *bytes;            /* by node, smoothed */
} Written;

struct NsVcpuSets {
    uint32_t n;                 /* nodes, and their ids */
    uint32_t *id;
    GHashTable *vcpu;           /* Written, by index */
    GHashTable *group;          /* by name */
};

/* One measurement: bytes by node */
typedef struct Count {
    const NsGuest *guest;
    uint32_t n;                 /* nodes */
    uint64_t *vcpu;             /* by position in guest->vcpu */
    uint64_t *group;
    GHashTable *at;             /* that position + 1, by index of the vCPU */
    bool *owns;                 /* by group: there is memory of its own */
    uint64_t *last;             /* by group: the page that it has counted */
} Count;

static void written_free(gpointer p)
{
    Written *w = p;

    g_free(w->bytes);
    g_free(w);
}

NsVcpuSets *ns_vcpu_sets_new(void)
{
    NsVcpuSets *s = g_new0(NsVcpuSets, 1);

    s->vcpu = g_hash_table_new_full(NULL, NULL, NULL, written_free);
    s->group = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                     written_free);
    return s;
}

void ns_vcpu_sets_free(NsVcpuSets *s)
{
    if (s) {
        g_hash_table_unref(s->vcpu);
        g_hash_table_unref(s->group);
        g_free(s->id);
        g_free(s);
    }
}

static bool same_nodes(const NsVcpuSets *s, const NsTopology *t)
{
    bool same = s->n == t->n;

    for (uint32_t j = 0; same && j < t->n; j++) {
        same = s->id[j] == t->node[j].id;
    }
    return same;
}

static int by_page(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static const NsVcpu *vcpu_at(const Count *c, guint i)
{
    return &g_array_index(c->guest->vcpu, NsVcpu, i);
}

static void count_init(Count *c, const NsGuest *guest, uint32_t nodes)
{
    guint vcpus = guest->vcpu->len;

    *c = (Count) {
        .guest = guest, .n = nodes,
        .vcpu = g_new0(uint64_t, (size_t)vcpus * nodes),
        .group = g_new0(uint64_t, (size_t)guest->n * nodes),
        .at = g_hash_table_new(NULL, NULL),
        .owns = g_new0(bool, guest->n),
        .last = g_new0(uint64_t, guest->n),
    };
    for (guint i = 0; i < vcpus; i++) {
        if (vcpu_at(c, i)->index >= 0) {
            g_hash_table_insert(c->at, GINT_TO_POINTER(vcpu_at(c, i)->index),
                                GUINT_TO_POINTER(i + 1));
        }
    }
    for (guint i = 0; i < guest->range->len; i++) {
        c->owns[g_array_index(guest->range, NsGuestRange, i).group] = true;
    }
}

static void count_clear(Count *c)
{
    g_free(c->vcpu);
    g_free(c->group);
    g_hash_table_unref(c->at);
    g_free(c->owns);
    g_free(c->last);
}

static bool is_own(const Count *c, uint32_t g, uint64_t addr)
{
    const GArray *range = c->guest->range;

    for (guint i = 0; c->owns[g] && i < range->len; i++) {
        const NsGuestRange *r = &g_array_index(range, NsGuestRange, i);

        if (r->group == g && addr - (uintptr_t)r->host < r->bytes) {
            return true;
        }
    }
    return !c->owns[g];
}

/* @bytes more, for which one page stands, on node @j */
static void count_page(Count *c, uint64_t page, uint32_t j, uint64_t bytes)
{
    uint64_t addr = ns_ring_addr(page);
    guint i = GPOINTER_TO_UINT(g_hash_table_lookup(
                  c->at, GINT_TO_POINTER(ns_ring_vcpu(page))));
    uint32_t g;

    if (!i--) {
        return;
    }
    c->vcpu[(size_t)i * c->n + j] += bytes;
    g = vcpu_at(c, i)->group;
    if (c->last[g] != addr && is_own(c, g, addr)) {
        c->group[(size_t)g * c->n + j] += bytes;
        c->last[g] = addr;
    }
}

static void learn(Written *w, const uint64_t *bytes, uint32_t n, int64_t now)
{
    bool is_new = !w->bytes;

    w->bytes = is_new ? g_new(uint64_t, n) : w->bytes;
    for (uint32_t j = 0; j < n; j++) {
        w->bytes[j] = is_new ? bytes[j] : (w->bytes[j] + bytes[j]) / 2;
    }
    w->at = now;
}

static Written *written_get(GHashTable *table, gconstpointer key, bool is_name)
{
    Written *w = g_hash_table_lookup(table, key);

    if (!w) {
        w = g_new0(Written, 1);
        g_hash_table_insert(table, is_name ? g_strdup(key) : (gpointer)key, w);
    }
    return w;
}

static gboolean is_gone(gpointer key, gpointer value, gpointer now)
{
    return ((Written *)value)->at != *(int64_t *)now;
}

static void learn_all(NsVcpuSets *s, const Count *c, int64_t now)
{
    for (guint i = 0; i < c->guest->vcpu->len; i++) {
        int index = vcpu_at(c, i)->index;

        if (index >= 0) {
            learn(written_get(s->vcpu, GINT_TO_POINTER(index), false),
                  c->vcpu + (size_t)i * c->n, c->n, now);
        }
    }
    for (uint32_t g = 0; g < c->guest->n; g++) {
        learn(written_get(s->group, c->guest->name[g], true),
              c->group + (size_t)g * c->n, c->n, now);
    }
    g_hash_table_foreach_remove(s->vcpu, is_gone, &now);
    g_hash_table_foreach_remove(s->group, is_gone, &now);
}

/* Addresses of every so many-th page; by how much each of them counts */
static uint32_t draw(const uint64_t *page, uint32_t n, uint64_t *addr,
                     uint32_t *drawn)
{
    uint32_t pages = 0, each, k = 0;

    for (uint32_t i = 0; i < n; i++) {
        pages += !i || ns_ring_addr(page[i]) != ns_ring_addr(page[i - 1]);
    }
    each = MAX(DIV_ROUND_UP(pages, NS_MAX_SAMPLES), 1);
    pages = 0;
    for (uint32_t i = 0; i < n; i++) {
        if ((!i || ns_ring_addr(page[i]) != ns_ring_addr(page[i - 1])) &&
            pages++ % each == 0) {
            addr[k++] = ns_ring_addr(page[i]);
        }
    }
    *drawn = k;
    return each;
}

bool ns_vcpu_sets_add(NsVcpuSets *s, uint64_t *page, uint32_t n,
                      const NsGuest *guest, const NsTopology *t, int64_t now,
                      NsNodesOf *nodes_of)
{
    g_autofree uint64_t *addr = g_new(uint64_t, NS_MAX_SAMPLES);
    g_autofree int *node = g_new(int, NS_MAX_SAMPLES);
    uint32_t drawn, each, k = 0;
    Count c;

    /* A guest that writes nothing at all was stopped, or held back. */
    if (!n) {
        return false;
    }
    qsort(page, n, sizeof(*page), by_page);
    each = draw(page, n, addr, &drawn);
    if (drawn && nodes_of(addr, drawn, node)) {
        return false;
    }
    if (!same_nodes(s, t)) {
        g_hash_table_remove_all(s->vcpu);
        g_hash_table_remove_all(s->group);
        s->n = t->n;
        s->id = g_renew(uint32_t, s->id, s->n);
        for (uint32_t j = 0; j < s->n; j++) {
            s->id[j] = t->node[j].id;
        }
    }
    count_init(&c, guest, t->n);
    for (uint32_t i = 0; i < n && k < drawn; i++) {
        int j;

        while (k < drawn && addr[k] < ns_ring_addr(page[i])) {
            k++;
        }
        if (k == drawn || addr[k] != ns_ring_addr(page[i])) {
            continue;
        }
        j = node[k] >= 0 && node[k] < NS_MAX_NODES ? t->index[node[k]] : -1;
        if (j >= 0) {
            count_page(&c, page[i], j, (uint64_t)each * NS_PAGE);
        }
    }
    learn_all(s, &c, now);
    count_clear(&c);
    return true;
}

static const uint64_t *known(const NsVcpuSets *s, const NsTopology *t,
                             const Written *w, int64_t now)
{
    return w && now - w->at < STALE && same_nodes(s, t) ? w->bytes : NULL;
}

const uint64_t *ns_vcpu_sets_vcpu(const NsVcpuSets *s, const NsTopology *t,
                                  int vcpu, int64_t now)
{
    return s ? known(s, t, g_hash_table_lookup(s->vcpu, GINT_TO_POINTER(vcpu)),
                     now) : NULL;
}

const uint64_t *ns_vcpu_sets_group(const NsVcpuSets *s, const NsTopology *t,
                                   const char *name, int64_t now)
{
    return s ? known(s, t, g_hash_table_lookup(s->group, name), now) : NULL;
}

uint32_t ns_written_share(uint64_t written, uint64_t bytes)
{
    uint64_t used = bytes ? MIN(written, bytes) / NS_PAGE * ALL /
                            MAX(bytes / NS_PAGE, 1) : ALL;

    used = MIN(used, ALL);
    /* Never nothing: what costs nothing may be anywhere. */
    return MAX(used + (ALL - used) * NS_WORKING_UNSEEN / ALL, 1);
}
