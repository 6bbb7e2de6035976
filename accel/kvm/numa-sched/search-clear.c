/*
 * NUMA scheduler: the search, clearing
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A group is put where it costs less, and whoever is in its way leaves, which
 * may take the place of others in turn.
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "search-int.h"

static void restore(Work *w, const uint32_t *chosen)
{
    for (uint32_t g = 0; g < w->p->n; g++) {
        if (w->chosen[g] != chosen[g]) {
            take_out(w, g);
            put_in(w, g, chosen[g]);
        }
    }
}

/* Who leaves a node: as few as need be, or all, so that it is filled anew */
typedef enum Leave { FEW, ALL } Leave;

/*
 * Who leaves, so that the option fits: the least one that is enough, or else
 * the largest; NS_UNPLACED: nobody may.
 */
static uint32_t in_the_way(Work *w, uint32_t g, const NsChoice *o,
                           Leave leave, const bool *stays)
{
    uint64_t load = w->load[o->node] + w->p->cpu[g];
    bool cpu = leave == ALL || load > w->p->limit[o->node];
    uint64_t lacking = leave == ALL ? UINT64_MAX :
                       cpu ? load - w->p->limit[o->node] :
                       o->bytes - w->free[o->node];
    uint32_t found = NS_UNPLACED;
    uint64_t best_size = 0;

    w->steps -= w->p->n;
    for (uint32_t h = 0; h < w->p->n; h++) {
        uint64_t size = cpu ? w->p->cpu[h] : w->bytes[h];

        if (!stays[h] && w->chosen[h] != NS_UNPLACED && size &&
            w->node[h] == o->node &&
            (found == NS_UNPLACED ||
             (best_size < lacking ? size > best_size :
              size >= lacking && size < best_size))) {
            found = h;
            best_size = size;
        }
    }
    return found;
}

/* It has no choice at home, so that it need not have any. */
static bool may_be_lost(const Work *w, uint32_t g)
{
    int home = w->p->lost_home[g];

    return w->p->home[g] == NS_UNPLACED &&
           (home < 0 || w->load[home] <= w->p->limit[home]);
}

/*
 * Put a group that is nowhere there.  Whoever has to leave for it goes where
 * there is room, or is put somewhere in the same way.  False: they can not
 * all be placed, and none may be left out, as it may with @lost; the caller
 * restores what was.
 */
static bool force(Work *w, uint32_t g, uint32_t index, uint32_t depth,
                  Leave leave, bool lost, bool *stays)
{
    const NsProblem *p = w->p;
    const NsChoice *o = option_of(p, g, index);
    g_autofree uint32_t *left = g_new(uint32_t, p->n);
    g_autofree uint32_t *before = NULL;
    g_autofree bool *stayed = NULL;
    uint32_t n = 0;
    uint64_t cost;

    take_out(w, g);
    while (leave == ALL || !fits(w, g, o)) {
        uint32_t h = in_the_way(w, g, o, leave, stays);

        if (h == NS_UNPLACED) {
            break;
        }
        take_out(w, h);
        put_in(w, h, NS_UNPLACED);
        left[n++] = h;
    }
    if (!fits(w, g, o)) {
        put_in(w, g, NS_UNPLACED);
        return false;
    }
    put_in(w, g, index);
    stays[g] = true;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t h = left[i];
        const NsChoices *c = &p->choices[h];
        bool placed;

        take_out(w, h);
        put_in(w, h, best(w, h, &cost));
        placed = w->chosen[h] != NS_UNPLACED;
        for (uint32_t k = 0; !placed && depth && k < c->n && w->steps > 0;
             k++) {
            if (c->option[k].node != o->node) {
                g_free(before);
                before = g_memdup2(w->chosen, p->n * sizeof(*before));
                g_free(stayed);
                stayed = g_memdup2(stays, p->n * sizeof(*stayed));
                placed = force(w, h, k, depth - 1, leave, lost, stays);
                if (!placed) {
                    memcpy(stays, stayed, p->n * sizeof(*stays));
                    restore(w, before);
                }
            }
        }
        if (!placed && !(lost && may_be_lost(w, h))) {
            return false;
        }
    }
    return true;
}

/* Of the cost, what is worth the time: one in 256 of what is placed */
static uint64_t of_note(const Work *w, uint64_t cost)
{
    for (uint32_t g = 0; g < w->p->n; g++) {
        if (w->chosen[g] == NS_UNPLACED) {
            cost -= UNPLACED_COST;
        }
    }
    return cost / 256;
}

bool ns_improve_by_clearing(Work *w, uint32_t g)
{
    const NsProblem *p = w->p;
    const NsChoices *c = &p->choices[g];
    uint32_t old = w->chosen[g];
    uint64_t now = total(w), mine = UNPLACED_COST, least;
    g_autofree uint32_t *before = NULL;
    g_autofree bool *stays = NULL;

    w->steps -= p->n;
    if (now == UINT64_MAX) {
        return false;
    }
    least = of_note(w, now);
    if (old != NS_UNPLACED) {
        take_out(w, g);
        mine = added(w, g, option_of(p, g, old));
        put_in(w, g, old);
    }
    for (uint32_t i = 0; i < c->n && w->steps > 0 &&
         c->option[i].cost + least < mine; i++) {
        if (old != NS_UNPLACED && c->option[i].node == w->node[g]) {
            continue;
        }
        if (!before) {
            before = g_memdup2(w->chosen, p->n * sizeof(*before));
            stays = g_new(bool, p->n);
        }
        /* Only one that is nowhere may leave another one out. */
        for (int way = 0; way < (old == NS_UNPLACED ? 4 : 2) && w->steps > 0;
             way++) {
            Leave leave = way & 1 ? ALL : FEW;

            memset(stays, false, p->n * sizeof(*stays));
            take_out(w, g);
            put_in(w, g, NS_UNPLACED);
            if (force(w, g, i, 2, leave, way & 2, stays)) {
                for (uint32_t h = 0; h < p->n; h++) {
                    ns_improve_by_move(w, h);
                }
                if (total(w) < now) {
                    return true;
                }
            }
            restore(w, before);
        }
    }
    return false;
}
