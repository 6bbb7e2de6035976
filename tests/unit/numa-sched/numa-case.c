/*
 * NUMA scheduler: hosts and groups for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "numa-case.h"

Case *case_new(uint32_t nodes, uint32_t groups)
{
    Case *c = g_new0(Case, 1);

    c->node = g_new0(NsPlace, nodes);
    c->ratio = g_new(uint32_t, nodes * nodes);
    c->group = g_new0(NsGroup, groups);
    c->bytes = g_new0(uint64_t, groups * nodes);
    c->allowed = g_new0(bool, groups * nodes);
    c->n = groups;
    c->host = (NsHost) {
        .n = nodes, .node = c->node, .ratio = c->ratio,
        .bandwidth = NS_BANDWIDTH, .horizon = NS_HORIZON,
    };
    for (uint32_t i = 0; i < nodes; i++) {
        c->node[i] = (NsPlace) {
            .cpus = 8, .cores = 4, .memory = true, .free = 16 * GB,
        };
        for (uint32_t j = 0; j < nodes; j++) {
            c->ratio[i * nodes + j] = i == j ? NS_MILLION : 2 * NS_MILLION;
        }
    }
    for (uint32_t k = 0; k < groups; k++) {
        c->group[k] = (NsGroup) {
            .cpu = 1000, .intensity = 500, .home = -1,
            .bytes = c->bytes + k * nodes,
        };
    }
    return c;
}

void case_free(Case *c)
{
    g_free(c->node);
    g_free(c->ratio);
    g_free(c->group);
    g_free(c->bytes);
    g_free(c->allowed);
    g_free(c);
}

uint32_t draw(GRand *r, uint32_t below)
{
    return g_rand_int_range(r, 0, below);
}

Case *case_draw(GRand *r, uint32_t nodes, uint32_t groups, bool tight)
{
    Case *c = case_new(nodes, groups);

    for (uint32_t i = 0; i < nodes; i++) {
        c->node[i].cpus = draw(r, 5) ? 1 + draw(r, 8) : 0;
        c->node[i].cores = (c->node[i].cpus + 1) / 2;
        c->node[i].memory = draw(r, 5);
        c->node[i].free = draw(r, 2) ? draw(r, 4) * GB : 64 * GB;
        c->node[i].used = draw(r, 2) ? draw(r, 4000) : 0;
        for (uint32_t j = 0; j < nodes; j++) {
            c->ratio[i * nodes + j] = NS_MILLION +
                                      (i == j ? 0 : draw(r, 5) * 600000);
        }
    }
    for (uint32_t k = 0; k < groups; k++) {
        NsGroup *g = &c->group[k];
        bool *allowed = c->allowed + k * nodes;

        g->cpu = draw(r, tight ? 5000 : 1000);
        g->intensity = draw(r, 1001);
        g->home = draw(r, nodes + 1) - 1;
        g->pinned = !draw(r, 4);
        for (uint32_t i = 0; i < nodes; i++) {
            c->bytes[k * nodes + i] = draw(r, 2) ? draw(r, 4096) * (GB / 1024) :
                                      0;
            allowed[i] = draw(r, 4);
        }
        if (!draw(r, 3)) {
            g->allowed = allowed;
        }
    }
    return c;
}
