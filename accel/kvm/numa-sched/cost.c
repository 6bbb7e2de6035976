/*
 * NUMA scheduler: what a group costs on a node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "plan.h"

#define COPY_NS         1500        /* of CPU time for a page */
#define COLD_NS         5000        /* for each 1/1000 CPU: 5 ms for a CPU */
#define SHARE           500000      /* nano-CPU for 1/1000 CPU: a half */

/* The mean latency of shares p, in millionths of L0, made a cost */
static uint64_t run_cost(const NsGroup *g, uint64_t mean)
{
    return g->cpu * ((NS_MAX_INTENSITY - g->intensity) * 1000ull +
                     g->intensity * mean / 1000);
}

/* Where the working set is */
typedef struct Part {
    uint32_t node;
    uint64_t pages;
    uint64_t share;             /* p(j), millionths */
} Part;

/*
 * One node's options.  Overflow: pages are at most 2^38, shares 10^6 in all,
 * ratios 10^9, and pages in the horizon 2^28 * 3600, so all products stay below
 * 2^61.
 */
static uint32_t options_on(const NsHost *h, const NsGroup *g,
                           const Part *part, uint32_t parts, uint64_t in_time,
                           uint32_t i, NsOption *out)
{
    const uint32_t *ratio = h->ratio + (size_t)i * h->n;
    uint64_t stay = 0, follow = 0, near = 0, moved = 0, rest;
    uint64_t cold = g->home >= 0 && g->home != i ?
                    (uint64_t)COLD_NS * g->cpu / h->horizon : 0;

    for (uint32_t k = 0; k < parts; k++) {
        /* A mask, because it is as good as random: no branch to predict */
        uint64_t is_far = -(uint64_t)(ratio[part[k].node] > ratio[i]);

        stay += part[k].share * ratio[part[k].node];
        moved += part[k].pages & is_far;
    }
    out[0] = (NsOption) {
        .node = i, .cold = cold,
        .run = run_cost(g, parts ? stay / NS_MILLION : NS_MILLION),
    };
    if (!moved || g->pinned || !h->node[i].memory ||
        moved * NS_PAGE > h->node[i].free) {
        return 1;
    }
    rest = moved <= in_time ? moved * NS_MILLION / (2 * in_time) :
           NS_MILLION - in_time * NS_MILLION / (2 * moved);
    for (uint32_t k = 0; k < parts; k++) {
        uint64_t is_far = -(uint64_t)(ratio[part[k].node] > ratio[i]);
        uint64_t part_near = (part[k].share - part[k].share * rest /
                              NS_MILLION) & is_far;

        near += part_near;
        follow += (part[k].share - part_near) * ratio[part[k].node];
    }
    follow += near * ratio[i];
    out[1] = (NsOption) {
        .node = i, .follow = true, .cold = cold,
        .run = run_cost(g, follow / NS_MILLION),
        .copy = moved * COPY_NS / h->horizon,
        .bytes = moved * NS_PAGE,
    };
    return 2;
}

uint32_t ns_options(const NsHost *h, const NsGroup *g, NsOption *out)
{
    g_autofree Part *part = g_new(Part, h->n);
    /* Pages that can move within the horizon */
    uint64_t in_time = h->bandwidth / NS_PAGE * h->horizon;
    uint64_t pages = 0;
    uint32_t parts = 0, n = 0;

    for (uint32_t j = 0; j < h->n; j++) {
        if (g->bytes[j] >= NS_PAGE) {
            part[parts++] = (Part) {
                .node = j, .pages = g->bytes[j] / NS_PAGE,
            };
            pages += g->bytes[j] / NS_PAGE;
        }
    }
    for (uint32_t k = 0; k < parts; k++) {
        part[k].share = part[k].pages * NS_MILLION / pages;
    }
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->node[i].cpus && (!g->allowed || g->allowed[i])) {
            n += options_on(h, g, part, parts, in_time, i, out + n);
        }
    }
    return n;
}

uint64_t ns_share(const NsPlace *place, uint64_t load)
{
    uint64_t cores = place->cores * 1000ull;

    return load > cores ? (load - cores) * SHARE : 0;
}

bool ns_cost_of_now(const NsHost *h, const NsGroup *group, uint32_t n,
                    uint64_t *total)
{
    g_autofree NsOption *option = g_new(NsOption, 2 * h->n);
    g_autofree uint64_t *load = g_new(uint64_t, h->n);

    *total = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        load[i] = h->node[i].used;
    }
    for (uint32_t k = 0; k < n; k++) {
        NsGroup g = group[k];
        uint32_t options, o = 0;

        g.allowed = NULL;
        options = ns_options(h, &g, option);
        while (o < options && (int)option[o].node != g.home) {
            o++;
        }
        if (o == options) {
            return false;
        }
        load[g.home] += g.cpu;
        *total += option[o].run;
    }
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->node[i].cpus) {
            *total += ns_share(&h->node[i], load[i]);
        }
    }
    return true;
}
