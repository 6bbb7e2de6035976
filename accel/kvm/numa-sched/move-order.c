/*
 * NUMA scheduler: what memory moves first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "move-order.h"

#define FINE        (1u << 20)      /* of a mean of few accesses */
#define EVIDENT     64              /* accesses of a page: no chance in it */

typedef struct Entry {
    uint64_t key;                   /* gain of a page, rounded down */
    uint64_t addr;
    uint32_t index;
    bool hot, write_hot;
} Entry;

static int by_key(const void *a, const void *b)
{
    const Entry *x = a, *y = b;

    if (x->hot != y->hot) {
        return x->hot ? -1 : 1;
    }
    if (x->key != y->key) {
        return x->key > y->key ? -1 : 1;
    }
    /* Heat first: writes among those that nobody has seen mean nothing. */
    if (x->hot && x->write_hot != y->write_hot) {
        return x->write_hot ? 1 : -1;
    }
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* A mean whose sum may not fit 64 bits: rounded down all the same */
typedef struct Mean {
    uint64_t by, whole, rest;
} Mean;

static void mean_add(Mean *m, uint64_t value)
{
    m->whole += value / m->by;
    m->rest += value % m->by;
    if (m->rest >= m->by) {
        m->rest -= m->by;
        m->whole++;
    }
}

/*
 * Do scores differ by more than those of evenly used memory would?  These vary,
 * too, where few accesses were seen: by chi-square, whose mean is one for each
 * unit.  With x accesses of p pages, and s the mean of a page, it is the sum of
 * (x - s * p)^2 / (s * p), which is sum(x^2 / p) / s - sum(x).
 */
static bool is_skewed(const NsMoveUnit *unit, const Entry *e, uint32_t n,
                      uint64_t pages)
{
    Mean s = { .by = pages }, square = { .by = pages };

    for (uint32_t i = 0; i < n; i++) {
        const NsMoveUnit *u = &unit[e[i].index];
        uint64_t x = MIN(u->score, 1u << 20);

        mean_add(&s, (uint64_t)u->score * FINE);
        mean_add(&square, x * x * FINE / (u->bytes / NS_PAGE));
    }
    if (s.whole >= (uint64_t)EVIDENT * FINE) {
        return true;
    }
    return square.whole > s.whole * (s.whole + 2ull * n * FINE / pages) / FINE;
}

static void find_stop(NsMoveOrder *o, const NsMoveUnit *unit, const Entry *e,
                      const Mean *gain, uint32_t epsilon)
{
    uint64_t least = gain->whole / 1000 * epsilon +
                     gain->whole % 1000 * epsilon / 1000;

    o->stop = o->n;
    o->stop_bytes = o->bytes;
    if (!epsilon || !o->skewed) {
        return;
    }
    /* Pages that nobody has seen used have the key 0. */
    while (o->stop && (e[o->stop - 1].key < least || !e[o->stop - 1].hot)) {
        const NsMoveUnit *u = &unit[e[--o->stop].index];

        o->stop_bytes -= u->bytes - u->done;
    }
}

NsMoveOrder *ns_move_order(const NsMoveHost *h, const NsMoveUnit *unit,
                           uint32_t n, uint32_t epsilon)
{
    const uint32_t *row = h->ratio + (size_t)h->cpu * h->n;
    NsMoveOrder *o = g_new0(NsMoveOrder, 1);
    g_autofree Entry *e = g_new(Entry, n);
    uint64_t pages = 0;
    Mean gain = { };

    assert(n <= NS_MOVE_MAX_UNITS && epsilon <= NS_MOVE_MAX_EPSILON);
    for (uint32_t i = 0; i < n; i++) {
        const NsMoveUnit *u = &unit[i];

        if (u->shared || row[u->src] <= row[h->target]) {
            continue;
        }
        if (u->busy > h->tries) {
            o->busy_bytes += u->bytes - u->done;
            continue;
        }
        e[o->n++] = (Entry) {
            .key = (uint64_t)u->score * (row[u->src] - row[h->target]) /
                   (u->bytes / NS_PAGE),
            .addr = u->addr,
            .index = i,
            .hot = u->score,
            .write_hot = u->write_hot,
        };
        o->hot += !!u->score;
        o->bytes += u->bytes - u->done;
        pages += u->bytes / NS_PAGE;
    }
    o->unit = g_new(uint32_t, o->n);
    o->scored = o->hot;
    if (!o->n) {
        return o;
    }
    gain.by = pages;
    qsort(e, o->n, sizeof(*e), by_key);
    for (uint32_t i = 0; i < o->n; i++) {
        const NsMoveUnit *u = &unit[e[i].index];

        o->unit[i] = e[i].index;
        mean_add(&gain, (uint64_t)u->score * (row[u->src] - row[h->target]));
    }
    o->skewed = o->scored && is_skewed(unit, e, o->n, gain.by);
    find_stop(o, unit, e, &gain, epsilon);
    return o;
}

void ns_move_order_free(NsMoveOrder *o)
{
    if (o) {
        g_free(o->unit);
        g_free(o);
    }
}

uint32_t ns_move_next(const NsMoveOrder *o, const NsMoveUnit *unit, bool all)
{
    return o->next < (all ? o->n : o->stop) ? unit[o->unit[o->next]].bytes : 0;
}

uint32_t ns_move_take(NsMoveOrder *o, const NsMoveUnit *unit, uint64_t bytes,
                      uint32_t units, bool all)
{
    uint64_t sum = 0;
    uint32_t taken = 0, next;

    while ((next = ns_move_next(o, unit, all)) &&
           (!taken || (taken < units && sum + next <= bytes))) {
        sum += next;
        taken++;
        o->next++;
    }
    return taken;
}

static int descending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x > y ? -1 : x < y;
}

bool ns_move_split(const uint32_t score[NS_MOVE_SUBPAGES], bool hurry)
{
    uint32_t sorted[NS_MOVE_SUBPAGES];
    uint64_t top = 0, sum = 0;

    if (!hurry) {
        return false;
    }
    memcpy(sorted, score, sizeof(sorted));
    qsort(sorted, NS_MOVE_SUBPAGES, sizeof(*sorted), descending);
    for (uint32_t i = 0; i < NS_MOVE_SUBPAGES; i++) {
        top += i < NS_MOVE_SUBPAGES / 10 ? sorted[i] : 0;
        sum += sorted[i];
    }
    return sum >= NS_MOVE_SPLIT_MIN && top * 5 > sum * 4;
}

uint64_t ns_move_room(uint64_t free, uint64_t size, uint64_t watermark)
{
    uint64_t left = free > watermark ? free - watermark : 0;

    return left > size / 20 ? left - size / 20 : 0;
}
