/*
 * NUMA scheduler: how much pages are used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "heat.h"
#include "plan.h"

#define MAX_COUNTERS    (1u << 24)      /* 32 MiB */

typedef struct Table {
    NsHeatRange range;
    uint16_t *count;
} Table;

struct NsHeat {
    Table *table;
    uint32_t n;
    uint64_t granule;           /* bytes that have one counter */
    const NsHeatOps *const *ops;
    const NsHeatOps *const *now;        /* of these; *now NULL: none */
    const NsHeatOps *one[2];
    void *opaque;
    bool forget;                /* what is seen now */
    uint64_t bytes, used;       /* of all ranges; seen used by the last look */
    uint64_t ns, looks;
};

static const NsHeatOps *const usual[] = {
    &ns_heat_pagemap_scan, &ns_heat_dirty_ring, &ns_heat_soft_dirty,
    &ns_heat_damon, &ns_heat_perf, NULL,
};

static uint64_t counters(const NsHeat *h, const NsHeatRange *r)
{
    return DIV_ROUND_UP(r->bytes, h->granule);
}

static void add_note(GPtrArray *notes, const char *name, Error *err)
{
    if (notes) {
        g_ptr_array_add(notes, g_strdup_printf("numa-sched: estimator '%s' can "
                        "not be used: %s", name, error_get_pretty(err)));
    }
    error_free(err);
}

/* The first from h->now on that works; none is one, too */
static void open_next(NsHeat *h, GPtrArray *notes)
{
    g_autofree NsHeatRange *range = g_new(NsHeatRange, h->n);

    for (uint32_t i = 0; i < h->n; i++) {
        range[i] = h->table[i].range;
    }
    for (; *h->now; h->now++) {
        Error *err = NULL;

        if ((*h->now)->by_name_only) {
            continue;
        }
        h->opaque = (*h->now)->open(range, h->n, &err);
        if (h->opaque) {
            return;
        }
        add_note(notes, (*h->now)->name, err);
    }
}

static void add_remark(const NsHeat *h, GPtrArray *notes)
{
    const NsHeatOps *ops = *h->now;
    g_autofree char *remark = notes && ops->remark ? ops->remark(h->opaque) :
                              NULL;

    if (remark) {
        g_ptr_array_add(notes, g_strdup_printf("numa-sched: estimator '%s': %s",
                                               ops->name, remark));
    }
}

static const NsHeatOps *find(const NsHeatOps *const *ops, const char *name)
{
    while (*ops && strcmp((*ops)->name, name)) {
        ops++;
    }
    return *ops;
}

NsHeat *ns_heat_new(const NsHeatRange *range, uint32_t n, const char *name,
                    const NsHeatOps *const *ops, GPtrArray *notes,
                    Error **errp)
{
    NsHeat *h = g_new0(NsHeat, 1);
    uint64_t bytes = 0;

    h->n = MIN(n, NS_HEAT_MAX_RANGES);
    for (uint32_t i = 0; i < h->n; i++) {
        bytes += MIN(range[i].bytes, NS_MAX_WORKING_SET);
        h->bytes = bytes;
    }
    h->granule = NS_PAGE;
    while (bytes / h->granule > MAX_COUNTERS - NS_HEAT_MAX_RANGES) {
        h->granule *= 2;
    }
    h->table = g_new0(Table, h->n);
    for (uint32_t i = 0; i < h->n; i++) {
        h->table[i].range = range[i];
        h->table[i].range.bytes = MIN(range[i].bytes, NS_MAX_WORKING_SET);
        h->table[i].count = g_new0(uint16_t,
                                   counters(h, &h->table[i].range));
    }
    h->ops = h->now = ops ?: usual;
    if (!strcmp(name, "auto")) {
        open_next(h, notes);
        return h;
    }
    h->one[0] = find(h->ops, name);
    h->now = h->one;
    if (h->one[0]) {
        g_autofree NsHeatRange *copy = g_memdup2(range, h->n * sizeof(*copy));

        h->opaque = h->one[0]->open(copy, h->n, errp);
        if (!h->opaque) {
            ns_heat_free(h);
            return NULL;
        }
    } else if (strcmp(name, "none")) {
        error_setg(errp, "numa-sched: there is no estimator '%s'", name);
        ns_heat_free(h);
        return NULL;
    }
    return h;
}

void ns_heat_free(NsHeat *h)
{
    if (h) {
        if (h->opaque) {
            (*h->now)->close(h->opaque);
        }
        for (uint32_t i = 0; i < h->n; i++) {
            g_free(h->table[i].count);
        }
        g_free(h->table);
        g_free(h);
    }
}

const char *ns_heat_name(const NsHeat *h)
{
    return h->opaque ? (*h->now)->name : "none";
}

bool ns_heat_counts_once(const NsHeat *h)
{
    return h->opaque && (*h->now)->counts_once;
}

bool ns_heat_sees_reads(const NsHeat *h)
{
    return h->opaque && (*h->now)->sees_reads;
}

static uint32_t aged(uint32_t count)
{
    return count - DIV_ROUND_UP(count, 4);
}

uint32_t ns_heat_full(uint32_t looks)
{
    uint32_t count = 0;

    /* It changes no more long before. */
    for (uint32_t i = 0; i < MIN(looks, 100); i++) {
        count = aged(count) + NS_HEAT_USE;
    }
    return count;
}

static void age(NsHeat *h)
{
    for (uint32_t i = 0; i < h->n; i++) {
        uint64_t n = counters(h, &h->table[i].range);

        for (uint64_t k = 0; k < n; k++) {
            h->table[i].count[k] = aged(h->table[i].count[k]);
        }
    }
}

static void take_look(NsHeat *h, GPtrArray *notes)
{
    Error *err = NULL;

    if ((*h->now)->look(h->opaque, h, &err)) {
        add_remark(h, notes);
    } else {
        add_note(notes, (*h->now)->name, err);
        (*h->now)->close(h->opaque);
        h->opaque = NULL;
        h->now++;
        open_next(h, notes);
    }
}

void ns_heat_look(NsHeat *h, GPtrArray *notes)
{
    int64_t began = get_clock();

    if (!h->opaque) {
        return;
    }
    age(h);
    h->used = 0;
    take_look(h, notes);
    h->ns += get_clock() - began;
    h->looks++;
}

void ns_heat_arm(NsHeat *h, GPtrArray *notes)
{
    int64_t began = get_clock();

    if (h->opaque) {
        h->forget = true;
        take_look(h, notes);
        h->forget = false;
        h->ns += get_clock() - began;
    }
}

uint32_t ns_heat_used(const NsHeat *h)
{
    return MIN(h->used, h->bytes) / NS_PAGE * 1000 /
           MAX(h->bytes / NS_PAGE, 1);
}

void ns_heat_add(NsHeat *h, uint64_t addr, uint64_t bytes, uint32_t n)
{
    ns_heat_add_part(h, addr, bytes, MIN((uint64_t)n * NS_HEAT_USE,
                                         UINT16_MAX));
}

void ns_heat_add_part(NsHeat *h, uint64_t addr, uint64_t bytes, uint32_t part)
{
    uint32_t more = MIN(part, UINT16_MAX);

    for (uint32_t i = 0; bytes && !h->forget && i < h->n; i++) {
        const NsHeatRange *r = &h->table[i].range;
        uint64_t end = addr + bytes < addr ? UINT64_MAX : addr + bytes;
        uint64_t from = MAX(addr, r->addr), to = MIN(end, r->addr + r->bytes);

        if (from >= to) {
            continue;
        }
        h->used += to - from;
        for (uint64_t k = (from - r->addr) / h->granule;
             k <= (to - 1 - r->addr) / h->granule; k++) {
            uint16_t *c = &h->table[i].count[k];

            *c = MIN(*c + more, UINT16_MAX);
        }
    }
}

void ns_heat_scores(const NsHeat *h, uint64_t addr, uint32_t pages,
                    uint32_t *score)
{
    memset(score, 0, (size_t)pages * sizeof(*score));
    for (uint32_t i = 0; i < h->n; i++) {
        const NsHeatRange *r = &h->table[i].range;

        if (r->addr >= addr + (uint64_t)pages * NS_PAGE ||
            addr >= r->addr + r->bytes) {
            continue;
        }
        for (uint32_t p = 0; p < pages; p++) {
            uint64_t at = addr + (uint64_t)p * NS_PAGE;

            if (at >= r->addr && at - r->addr < r->bytes) {
                score[p] = h->table[i].count[(at - r->addr) / h->granule];
            }
        }
    }
}

void ns_heat_cost(const NsHeat *h, uint64_t *ns, uint64_t *looks)
{
    *ns = h->ns;
    *looks = h->looks;
}
