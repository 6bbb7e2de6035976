/*
 * NUMA scheduler: the plan
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "order.h"
#include "search.h"

/* A host and its groups in the order of order.h */
typedef struct Sorted {
    NsHost host;
    NsPlace *node;
    uint32_t *ratio;
    NsGroup *group;
    uint64_t *bytes;
    bool *allowed;
} Sorted;

static void sorted_clear(Sorted *s)
{
    g_free(s->node);
    g_free(s->ratio);
    g_free(s->group);
    g_free(s->bytes);
    g_free(s->allowed);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Sorted, sorted_clear)

static void sort_host(Sorted *s, const NsHost *h, const uint32_t *nodes)
{
    uint32_t n = h->n;

    s->host = *h;
    s->host.node = s->node = g_new(NsPlace, n);
    s->host.ratio = s->ratio = g_new(uint32_t, (size_t)n * n);
    for (uint32_t i = 0; i < n; i++) {
        s->node[i] = h->node[nodes[i]];
        for (uint32_t j = 0; j < n; j++) {
            s->ratio[(size_t)i * n + j] =
                h->ratio[(size_t)nodes[i] * n + nodes[j]];
        }
    }
}

static void sort_groups(Sorted *s, const NsGroup *group, uint32_t n,
                        const uint32_t *nodes, const uint32_t *groups)
{
    uint32_t width = s->host.n;

    s->group = g_new(NsGroup, n);
    s->bytes = g_new(uint64_t, (size_t)n * width);
    s->allowed = g_new(bool, (size_t)n * width);
    for (uint32_t k = 0; k < n; k++) {
        const NsGroup *g = &group[groups[k]];
        uint64_t *bytes = s->bytes + (size_t)k * width;
        bool *allowed = s->allowed + (size_t)k * width;

        s->group[k] = *g;
        s->group[k].bytes = bytes;
        s->group[k].allowed = allowed;
        for (uint32_t i = 0; i < width; i++) {
            bytes[i] = g->bytes[nodes[i]];
            allowed[i] = !g->allowed || g->allowed[nodes[i]];
            if (g->home == nodes[i]) {
                s->group[k].home = i;
            }
        }
    }
}

/* A cost is below 2^51, an index below 2 * NS_MAX_NODES. */
#define INDEX_BITS  11
QEMU_BUILD_BUG_ON(2 * NS_MAX_NODES > 1 << INDEX_BITS);

/*
 * Ascending, by merging.  qsort() calls a function for each comparison, which
 * takes a multiple of the time that they take.
 */
static void sort_keys(uint64_t *key, uint64_t *room, uint32_t n)
{
    for (uint32_t from = 1; from < n; from++) {
        uint32_t to = from;
        uint64_t v = key[from];

        /* Runs of 8 */
        for (; to % 8 && key[to - 1] > v; to--) {
            key[to] = key[to - 1];
        }
        key[to] = v;
    }
    for (uint32_t width = 8; width < n; width *= 2) {
        for (uint32_t from = 0; from < n; from += 2 * width) {
            uint32_t i = from, middle = MIN(from + width, n), j = middle;
            uint32_t end = MIN(from + 2 * width, n), to = from;

            while (i < middle && j < end) {
                bool second = key[j] < key[i];

                room[to++] = second ? key[j] : key[i];
                j += second;
                i += !second;
            }
            memcpy(room + to, key + i, (middle - i) * sizeof(*key));
            memcpy(room + to + (middle - i), key + j, (end - j) * sizeof(*key));
        }
        memcpy(key, room, n * sizeof(*key));
    }
}

/*
 * The options of a group, the cheapest first; those that cost the same in the
 * order of nodes, stay before follow.  @key: twice as many as there may be
 */
static uint32_t sorted_options(const NsHost *host, const NsGroup *g,
                               uint64_t *key, NsOption *raw, NsChoice *out)
{
    uint32_t n = ns_options(host, g, raw);

    for (uint32_t o = 0; o < n; o++) {
        key[o] = ns_option_cost(&raw[o]) << INDEX_BITS | o;
    }
    sort_keys(key, key + n, n);
    for (uint32_t o = 0; o < n; o++) {
        uint32_t index = key[o] & ((1 << INDEX_BITS) - 1);

        out[o] = (NsChoice) {
            .cost = key[o] >> INDEX_BITS, .bytes = raw[index].bytes,
            .node = raw[index].node, .follow = raw[index].follow,
        };
    }
    return n;
}

/* The search's view of the groups; returns where they start */
static NsChoice *pose(const Sorted *s, uint32_t n, uint32_t *cpu,
                      uint32_t *home, int *lost_home, uint64_t *limit,
                      NsChoices *choices)
{
    uint32_t width = s->host.n;
    NsChoice *all = g_new(NsChoice, (size_t)n * width * 2), *next = all;
    g_autofree NsOption *raw = g_new(NsOption, width * 2);
    g_autofree uint64_t *key = g_new(uint64_t, width * 4);

    for (uint32_t i = 0; i < width; i++) {
        limit[i] = s->node[i].used;
    }
    for (uint32_t k = 0; k < n; k++) {
        const NsGroup *g = &s->group[k];

        cpu[k] = g->cpu;
        choices[k] = (NsChoices) {
            .option = next,
            .n = sorted_options(&s->host, g, key, raw, next),
        };
        home[k] = NS_UNPLACED;
        lost_home[k] = -1;
        for (uint32_t o = 0; o < choices[k].n; o++) {
            if ((int)next[o].node == g->home && !next[o].follow) {
                home[k] = o;
            }
        }
        if (g->home >= 0) {
            limit[g->home] += g->cpu;
            if (home[k] == NS_UNPLACED) {
                lost_home[k] = g->home;
            }
        }
        next += choices[k].n;
    }
    for (uint32_t i = 0; i < width; i++) {
        limit[i] = MAX(limit[i], s->node[i].cpus * 1000ull);
    }
    return all;
}

/*
 * What the search was not told of an option.  To work it out again for one node
 * is cheaper than to keep those of all nodes.  @only: all false
 */
static NsOption whole_option(const NsHost *host, const NsGroup *group,
                             const NsChoice *c, bool *only)
{
    NsGroup g = *group;
    NsOption option[2];

    g.allowed = only;
    only[c->node] = true;
    ns_options(host, &g, option);
    only[c->node] = false;
    return option[c->follow];
}

NsPlan *ns_plan(const NsHost *host, const NsGroup *group, uint32_t n)
{
    g_auto(Sorted) s = {};
    g_autofree uint32_t *nodes = g_new(uint32_t, host->n);
    g_autofree uint32_t *groups = g_new(uint32_t, MAX(n, 1));
    g_autofree uint32_t *cpu = g_new(uint32_t, MAX(n, 1));
    g_autofree uint32_t *home = g_new(uint32_t, MAX(n, 1));
    g_autofree uint32_t *chosen = g_new(uint32_t, MAX(n, 1));
    g_autofree int *lost_home = g_new(int, MAX(n, 1));
    g_autofree uint64_t *limit = g_new(uint64_t, host->n);
    g_autofree NsChoices *choices = g_new(NsChoices, MAX(n, 1));
    g_autofree bool *only = g_new0(bool, host->n);
    g_autofree NsChoice *all = NULL;
    NsPlan *plan = g_new0(NsPlan, 1);
    NsProblem problem = {
        .host = &s.host, .n = n, .cpu = cpu, .home = home,
        .lost_home = lost_home, .choices = choices, .limit = limit,
    };

    ns_order(host, group, n, nodes, groups);
    sort_host(&s, host, nodes);
    sort_groups(&s, group, n, nodes, groups);
    all = pose(&s, n, cpu, home, lost_home, limit, choices);

    plan->n = n;
    plan->placed = g_new0(bool, MAX(n, 1));
    plan->choice = g_new0(NsOption, MAX(n, 1));
    plan->load = g_new(uint64_t, host->n);
    plan->exact = ns_search(&problem, chosen);
    for (uint32_t i = 0; i < host->n; i++) {
        plan->load[i] = host->node[i].used;
    }
    for (uint32_t k = 0; k < n; k++) {
        uint32_t g = groups[k];

        if (chosen[k] != NS_UNPLACED) {
            plan->placed[g] = true;
            plan->choice[g] = whole_option(&s.host, &s.group[k],
                                           &choices[k].option[chosen[k]],
                                           only);
            plan->choice[g].node = nodes[plan->choice[g].node];
            plan->load[plan->choice[g].node] += group[g].cpu;
            plan->total += ns_option_cost(&plan->choice[g]);
        } else if (group[g].home >= 0) {
            plan->load[group[g].home] += group[g].cpu;
        }
    }
    for (uint32_t i = 0; i < host->n; i++) {
        if (host->node[i].cpus) {
            plan->total += ns_share(&host->node[i], plan->load[i]);
        }
    }
    return plan;
}

void ns_plan_free(NsPlan *plan)
{
    if (plan) {
        g_free(plan->placed);
        g_free(plan->choice);
        g_free(plan->load);
        g_free(plan);
    }
}
