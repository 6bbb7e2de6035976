/*
 * NUMA scheduler: what is promised to other QEMUs, and what they promise
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "promises.h"

#define TERM        60000       /* ms; renewed with each look */
/* Smoothing hides a group's CPU time from others for less than that. */
#define HIDDEN      ((int64_t)NS_RESIDENCE_MIN * SCALE_MS)

bool ns_promises_open(NsPromises *p, const char *dir, Error **errp)
{
    g_autofree char *usual = dir ? NULL : ns_table_default_dir();

    *p = (NsPromises) { .table = ns_table_open(dir ?: usual, NULL, errp) };
    return p->table;
}

void ns_promises_close(NsPromises *p)
{
    ns_table_close(p->table);
    p->table = NULL;
}

bool ns_promises_begin(NsPromises *p, NsLook *k, Error **errp)
{
    const NsOthers *others;

    if (!p->table) {
        return true;
    }
    if (ns_table_begin(p->table, &others, errp) != NS_BEGIN_DECIDE) {
        return false;
    }
    for (uint32_t i = 0; i < k->t->n; i++) {
        NsPromiseNode o = ns_others_at(others, k->t->node[i].id);
        NsPlace *place = &k->place[i];

        place->used = MIN(place->used + o.cpu_comes, NS_MAX_CPU);
        place->free -= MIN(place->free, o.comes);
    }
    return true;
}

static void add_step(NsPromise *out, const NsLook *k, const NsStep *step)
{
    for (uint32_t s = 0; s < step->n; s++) {
        const NsGroup *g = &k->group[step->group[s]];
        uint32_t to = step->to[s].node;
        NsPromiseNode there = { .id = k->t->node[to].id };

        if (g->home == (int)to) {
            continue;
        }
        there.cpu_comes = g->cpu;
        ns_promise_add(out, &there);
        if (g->home >= 0) {
            NsPromiseNode here = {
                .id = k->t->node[g->home].id, .cpu_leaves = g->cpu,
            };

            ns_promise_add(out, &here);
        }
    }
}

bool ns_promises_end(NsPromises *p, const NsLook *k, const NsStep *step,
                     uint32_t target, uint64_t coming, Error **errp)
{
    NsPromise own = { };

    if (!p->table) {
        return true;
    }
    if (step) {
        p->decided = (NsPromise) { };
        add_step(&p->decided, k, step);
        p->until = k->now + HIDDEN;
        for (uint32_t s = 0; s < step->n; s++) {
            /* From the moment on at which it begins, it is what is coming. */
            target = k->t->node[step->to[s].node].id;
            coming += step->to[s].bytes;
        }
    }
    if (k->now < p->until) {
        own = p->decided;
    }
    if (coming) {
        NsPromiseNode node = {
            .id = target, .comes = MIN(coming, NS_MAX_BYTES),
        };

        ns_promise_add(&own, &node);
    }
    if (!own.n && !p->some) {
        ns_table_cancel(p->table);
        return true;
    }
    p->some = own.n;
    if (!ns_table_commit(p->table, &own, TERM, errp)) {
        p->some = false;
        p->until = 0;
        return false;
    }
    return true;
}
