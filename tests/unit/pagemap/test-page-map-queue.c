/*
 * Page map: the pages that the source holds, against a model
 *
 * A guest stores, RAM's scan goes on, the destination answers, places appear
 * and vanish, in random order; after each step no page may be lost.  The order
 * is drawn from GLib's test seed: it is printed, and --seed gives it back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/pagemap/queue.h"

enum { DEVICES = 4 };

static const unsigned block_pages[] = { 1, 0, 63, 64, 65, 130 };

/* What a page names; device 0: nothing */
typedef struct Place {
    uint16_t device;
    uint64_t offset;
} Place;

/* Sets of pages; a page's number counts over all blocks */
typedef struct World {
    PmQueue *q;
    unsigned pages;
    uint16_t block[512];
    uint32_t page[512];
    Place place[512];
    Place sorted[512];          /* what the pass has, of a page in it */
    bool known[DEVICES + 1];

    /* Content: a number that each store changes */
    unsigned content[512];
    unsigned there[512];        /* at the destination */

    GHashTable *dirty;
    GHashTable *queued;
    GHashTable *in_flight;      /* to the content that was tagged */
    GHashTable *again;
    GHashTable *direct;
    GHashTable *pass;           /* to nothing */
    GHashTable *expect_dirty;   /* by the call under way */
    GHashTable *ask;            /* likewise: a new pass has to look at them */
} World;

static gpointer key(unsigned p)
{
    return GUINT_TO_POINTER(p);
}

static bool has(GHashTable *set, unsigned p)
{
    return g_hash_table_contains(set, key(p));
}

static void add(GHashTable *set, unsigned p)
{
    g_assert_true(g_hash_table_add(set, key(p)));
}

static void del(GHashTable *set, unsigned p)
{
    g_assert_true(g_hash_table_remove(set, key(p)));
}

static unsigned draw(unsigned below)
{
    return g_test_rand_int_range(0, below);
}

static bool draw_from(GHashTable *set, unsigned *p)
{
    GHashTableIter i;
    gpointer k;
    unsigned n = g_hash_table_size(set);

    if (!n) {
        return false;
    }
    n = draw(n);
    g_hash_table_iter_init(&i, set);
    do {
        g_assert_true(g_hash_table_iter_next(&i, &k, NULL));
    } while (n--);
    *p = GPOINTER_TO_UINT(k);
    return true;
}

static unsigned number(const World *w, uint16_t block, uint32_t page)
{
    unsigned p = 0;

    g_assert_cmpuint(block, <, G_N_ELEMENTS(block_pages));
    g_assert_cmpuint(page, <, block_pages[block]);
    for (unsigned b = 0; b < block; b++) {
        p += block_pages[b];
    }
    return p + page;
}

static PmFound find(void *opaque, uint16_t block, uint32_t page,
                    uint16_t *device, uint64_t *offset)
{
    World *w = opaque;
    unsigned p = number(w, block, page);

    /* When a pass begins, each page once; and when it leaves the pass */
    g_assert_true(g_hash_table_remove(w->ask, key(p)) || has(w->pass, p));
    if (!w->place[p].device) {
        return PM_FOUND_NOTHING;
    }
    if (!w->known[w->place[p].device]) {
        return PM_FOUND_LATER;
    }
    *device = w->place[p].device;
    *offset = w->place[p].offset;
    return PM_FOUND_PLACE;
}

static void dirty(void *opaque, uint16_t block, uint32_t page)
{
    World *w = opaque;
    unsigned p = number(w, block, page);

    g_assert_false(pm_queue_has(w->q, block, page));
    /* Each once; the model says which */
    del(w->expect_dirty, p);
    /* RAM's bit may be set by the guest already. */
    g_hash_table_add(w->dirty, key(p));
}

static const PmQueueOps ops = { find, dirty };

static void world_init(World *w)
{
    *w = (World) { .q = pm_queue_new(&ops, w) };
    for (unsigned b = 0; b < G_N_ELEMENTS(block_pages); b++) {
        g_assert_cmpint(pm_queue_add_block(w->q, block_pages[b]), ==, b);
        g_assert_cmpuint(pm_queue_pages(w->q, b), ==, block_pages[b]);
        for (unsigned i = 0; i < block_pages[b]; i++) {
            w->block[w->pages] = b;
            w->page[w->pages++] = i;
        }
    }
    g_assert_cmpuint(w->pages, <=, G_N_ELEMENTS(w->block));
    w->dirty = g_hash_table_new(NULL, NULL);
    w->queued = g_hash_table_new(NULL, NULL);
    w->in_flight = g_hash_table_new(NULL, NULL);
    w->again = g_hash_table_new(NULL, NULL);
    w->direct = g_hash_table_new(NULL, NULL);
    w->pass = g_hash_table_new(NULL, NULL);
    w->expect_dirty = g_hash_table_new(NULL, NULL);
    w->ask = g_hash_table_new(NULL, NULL);
    for (unsigned p = 0; p < w->pages; p++) {
        w->content[p] = 1;
        add(w->dirty, p);
    }
}

static void world_free(World *w)
{
    GHashTable *sets[] = { w->dirty, w->queued, w->in_flight, w->again,
                           w->direct, w->pass, w->expect_dirty, w->ask };

    pm_queue_free(w->q);
    for (unsigned i = 0; i < G_N_ELEMENTS(sets); i++) {
        g_hash_table_destroy(sets[i]);
    }
}

static void check(const World *w)
{
    g_assert_cmpuint(pm_queue_queued(w->q), ==,
                     g_hash_table_size(w->queued));
    g_assert_cmpuint(pm_queue_in_flight(w->q), ==,
                     g_hash_table_size(w->in_flight));
    g_assert_cmpuint(g_hash_table_size(w->expect_dirty), ==, 0);
    g_assert_cmpuint(g_hash_table_size(w->ask), ==, 0);
    for (unsigned p = 0; p < w->pages; p++) {
        bool queued = has(w->queued, p), flies = has(w->in_flight, p);

        g_assert_false(queued && flies);
        g_assert_cmpint(pm_queue_has(w->q, w->block[p], w->page[p]), ==,
                        queued || flies);
        /* M2, M5: somebody knows of each difference */
        g_assert_true(w->there[p] == w->content[p] || queued || flies ||
                      has(w->dirty, p));
        /* M2: a store that the tag does not cover */
        if (flies && GPOINTER_TO_UINT(g_hash_table_lookup(w->in_flight,
                                                          key(p)))
                     != w->content[p]) {
            g_assert_true(has(w->dirty, p) || has(w->again, p));
        }
    }
}

static void step_store(World *w)
{
    unsigned p = draw(w->pages);

    w->content[p]++;
    g_hash_table_add(w->dirty, key(p));
}

/* RAM's scan comes to a page. */
static void step_scan(World *w)
{
    unsigned p;
    bool held;

    if (!draw_from(w->dirty, &p)) {
        return;
    }
    del(w->dirty, p);
    held = has(w->queued, p) || has(w->in_flight, p);
    if (has(w->in_flight, p)) {
        g_hash_table_add(w->again, key(p));
    }
    if (held && draw(2)) {
        pm_queue_again(w->q, w->block[p], w->page[p]);
        return;
    }
    if (!held && !w->place[p].device) {
        /* M3: as content, and nothing else is under way */
        w->there[p] = w->content[p];
        return;
    }
    if (pm_queue_hold(w->q, w->block[p], w->page[p])) {
        g_assert_false(!held && has(w->direct, p));
        if (!held) {
            add(w->queued, p);
        }
    } else {
        g_assert_false(held);
        del(w->direct, p);
        w->there[p] = w->content[p];
    }
}

static int by_place(const World *w, unsigned a, unsigned b)
{
    const Place *x = &w->sorted[a], *y = &w->sorted[b];

    return x->device != y->device ? x->device - y->device :
           x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* A pass that is at its end begins anew: with all that has a place. */
static void model_refill(World *w)
{
    if (g_hash_table_size(w->pass)) {
        return;
    }
    for (unsigned p = 0; p < w->pages; p++) {
        if (!has(w->queued, p)) {
            continue;
        }
        add(w->ask, p);
        if (!w->place[p].device) {
            add(w->expect_dirty, p);
        } else if (w->known[w->place[p].device]) {
            add(w->pass, p);
            w->sorted[p] = w->place[p];
        }
    }
}

/* A page in the pass, whose place is another one by now */
static bool has_moved(const World *w, unsigned p)
{
    return w->place[p].device != w->sorted[p].device ||
           w->place[p].offset != w->sorted[p].offset;
}

/* Pages that moved leave the pass before @end does; -1: all of them */
static void model_skip(World *w, int end)
{
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->pass, p) && has_moved(w, p) &&
            (end < 0 || by_place(w, p, end) < 0)) {
            del(w->pass, p);
            if (!w->place[p].device) {
                g_assert_false(has(w->expect_dirty, p));
            }
        }
    }
}

/* The queue's pages of which the model said that they are given up */
static void model_direct(World *w)
{
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->queued, p) &&
            !pm_queue_has(w->q, w->block[p], w->page[p])) {
            g_assert_true(has(w->dirty, p));
            del(w->queued, p);
            add(w->direct, p);
        }
    }
}

static bool is_end(World *w, unsigned p, int sign)
{
    GHashTableIter i;
    gpointer k;

    g_hash_table_iter_init(&i, w->pass);
    while (g_hash_table_iter_next(&i, &k, NULL)) {
        if (by_place(w, GPOINTER_TO_UINT(k), p) * sign < 0) {
            return false;
        }
    }
    return true;
}

static void step_take(World *w)
{
    PmQueued out[64];
    size_t max = draw(G_N_ELEMENTS(out) + 1), n, expect;

    model_refill(w);
    expect = 0;
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->pass, p) && !has_moved(w, p)) {
            expect++;
        } else if (has(w->pass, p) && !w->place[p].device) {
            add(w->expect_dirty, p);
        }
    }
    expect = MIN(max, expect);
    n = pm_queue_take(w->q, out, max);
    g_assert_cmpuint(n, ==, expect);
    for (size_t i = 0; i < n; i++) {
        unsigned p = number(w, out[i].block, out[i].page);

        g_assert_true(has(w->pass, p));
        model_skip(w, p);
        g_assert_true(is_end(w, p, 1));
        g_assert_cmpuint(out[i].device, ==, w->place[p].device);
        g_assert_cmpuint(out[i].offset, ==, w->place[p].offset);
        del(w->pass, p);
        del(w->queued, p);
        /* M3 */
        g_assert_false(has(w->in_flight, p));
        g_hash_table_insert(w->in_flight, key(p),
                            GUINT_TO_POINTER(w->content[p]));
    }
    if (n < max) {
        model_skip(w, -1);
    }
    /* Those that moved and are behind the last one that was taken */
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->pass, p) && has_moved(w, p)) {
            g_hash_table_remove(w->expect_dirty, key(p));
        }
    }
    model_direct(w);
}

static void step_verdict(World *w)
{
    bool placed = draw(3);
    unsigned tagged, p;

    if (!draw_from(w->in_flight, &p)) {
        return;
    }
    tagged = GPOINTER_TO_UINT(g_hash_table_lookup(w->in_flight, key(p)));
    del(w->in_flight, p);
    if (placed) {
        w->there[p] = tagged;
    } else {
        add(w->direct, p);
    }
    if (g_hash_table_remove(w->again, key(p)) || !placed) {
        add(w->expect_dirty, p);
    }
    g_assert_true(pm_queue_verdict(w->q, w->block[p], w->page[p], placed));
}

static void step_wrong_verdict(World *w)
{
    unsigned p = draw(w->pages);

    if (!has(w->in_flight, p)) {
        g_assert_false(pm_queue_verdict(w->q, w->block[p], w->page[p],
                                        draw(2)));
    }
}

static void step_give_back(World *w)
{
    unsigned max = draw(10), expect;
    g_autoptr(GHashTable) none = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) gone = g_hash_table_new(NULL, NULL);

    model_refill(w);
    expect = MIN(max, g_hash_table_size(w->pass));
    /* Which of equal ones is the queue's business: allow each of the pass. */
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->expect_dirty, p)) {
            add(none, p);
            add(gone, p);
        } else if (has(w->pass, p)) {
            add(w->expect_dirty, p);
        }
    }
    g_assert_cmpuint(pm_queue_give_back(w->q, max), ==, expect);
    for (unsigned p = 0; p < w->pages; p++) {
        if (!has(w->pass, p)) {
            continue;
        }
        if (has(w->expect_dirty, p)) {
            del(w->expect_dirty, p);
        } else {
            del(w->pass, p);
            expect--;
            add(none, p);
        }
    }
    g_assert_cmpuint(expect, ==, 0);
    /* Those that were given back come behind those that are left. */
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(none, p) && !has(gone, p)) {
            g_assert_true(is_end(w, p, -1));
        }
    }
    model_direct(w);
}

static void step_return_all(World *w)
{
    for (unsigned p = 0; p < w->pages; p++) {
        if (has(w->queued, p)) {
            add(w->expect_dirty, p);
        }
    }
    pm_queue_return_all(w->q);
    g_hash_table_remove_all(w->pass);
    model_direct(w);
    g_assert_cmpuint(g_hash_table_size(w->queued), ==, 0);
}

/* An entry appears, changes, or vanishes. */
static void step_place(World *w)
{
    unsigned p = draw(w->pages);

    /* Which of equal ones leaves the pass first is the queue's business. */
    for (unsigned i = 0; i < w->pages && has(w->pass, p); i++) {
        if (i != p && has(w->pass, i) && !by_place(w, i, p)) {
            return;
        }
    }
    w->place[p] = (Place) {
        .device = draw(DEVICES + 1),
        /* Often the same one; sometimes with high bits */
        .offset = draw(40) * 512ull | (uint64_t)draw(2) << 62,
    };
}

/* Draining: the guest stands still, and every page must get there. */
static void finish(World *w)
{
    unsigned rounds = 0;

    while (g_hash_table_size(w->dirty) || g_hash_table_size(w->queued) ||
           g_hash_table_size(w->in_flight)) {
        g_assert_cmpuint(++rounds, <, 100000);
        step_scan(w);
        step_take(w);
        step_verdict(w);
        check(w);
        if (rounds % 1000 == 0) {
            step_return_all(w);
        }
    }
    for (unsigned p = 0; p < w->pages; p++) {
        g_assert_cmpuint(w->there[p], ==, w->content[p]);
    }
}

static void test_model(void)
{
    for (int walk = 0; walk < 12; walk++) {
        World w;

        world_init(&w);
        for (int i = 0; i < 200; i++) {
            step_place(&w);
        }
        for (int i = 0; i < 4000; i++) {
            switch (draw(100)) {
            case 0:
                step_return_all(&w);
                break;
            case 1:
                w.known[1 + draw(DEVICES)] = true;
                break;
            case 2 ... 4:
                step_give_back(&w);
                break;
            case 5 ... 9:
                step_wrong_verdict(&w);
                break;
            case 10 ... 14:
                step_take(&w);
                break;
            case 15 ... 19:
                step_place(&w);
                break;
            case 20 ... 39:
                step_store(&w);
                break;
            case 40 ... 59:
                step_verdict(&w);
                break;
            default:
                step_scan(&w);
            }
            check(&w);
        }
        finish(&w);
        world_free(&w);
    }
}

/* Pages whose device is not known yet are given back, too (M6). */
static void test_unknown_device(void)
{
    World w;

    world_init(&w);
    for (unsigned p = 0; p < w.pages; p++) {
        w.place[p] = (Place) { 1 + p % DEVICES, p * 512 };
    }
    while (g_hash_table_size(w.dirty)) {
        step_scan(&w);
    }
    step_take(&w);
    step_give_back(&w);
    check(&w);
    g_assert_cmpuint(pm_queue_queued(w.q), ==, w.pages);
    step_return_all(&w);
    check(&w);
    g_assert_cmpuint(g_hash_table_size(w.dirty), ==, w.pages);
    while (g_hash_table_size(w.dirty)) {
        step_scan(&w);
    }
    check(&w);
    g_assert_cmpuint(pm_queue_queued(w.q), ==, 0);
    finish(&w);
    world_free(&w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/queue/model", test_model);
    g_test_add_func("/page-map/queue/unknown-device", test_unknown_device);
    return g_test_run();
}
