/*
 * NUMA scheduler: the plan as users get it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/util.h"
#include "qemu/units.h"
#include "answer.h"

NumaPlanOption *ns_answer_option(const NsTopology *t, const NsOption *o)
{
    NumaPlanOption *out = g_new0(NumaPlanOption, 1);

    out->node = t->node[o->node].id;
    out->memory = o->follow ? NUMA_PLAN_MEMORY_FOLLOW : NUMA_PLAN_MEMORY_STAY;
    out->run = o->run;
    out->copy = o->copy;
    out->cold = o->cold;
    out->bytes = o->bytes;
    return out;
}

static int by_cost(const void *a, const void *b)
{
    const NsOption *x = a, *y = b;
    uint64_t cx = ns_option_cost(x), cy = ns_option_cost(y);

    if (cx != cy) {
        return cx < cy ? -1 : 1;
    }
    if (x->node != y->node) {
        return x->node < y->node ? -1 : 1;
    }
    return x->follow - y->follow;
}

/* The cheapest option on the group's home */
static const NsOption *at_home(const NsGroup *g, const NsOption *option,
                               uint32_t n)
{
    for (uint32_t o = 0; o < n; o++) {
        if ((int)option[o].node == g->home) {
            return &option[o];
        }
    }
    return NULL;
}

static char *reason(const NsTopology *t, const NsGroup *g, bool placed,
                    const NsOption *choice, const NsOption *option, uint32_t n)
{
    const NsOption *home = at_home(g, option, n);

    if (!placed) {
        return g_strdup(n ? "no node that it may run on has room for it" :
                        "no node that it may run on has CPUs");
    }
    if (home && home->node == choice->node) {
        return g_strdup(choice->follow ? "its memory comes to it" :
                        ns_option_cost(&option[0]) ==
                        ns_option_cost(choice) ? "no node is better" :
                        "better nodes are needed by others");
    }
    if (home) {
        int64_t gain = ns_option_cost(home) - ns_option_cost(choice);

        return gain > 0 ?
               g_strdup_printf("%.3f CPU less than on node %u%s", gain / 1e9,
                               t->node[home->node].id, choice->follow ?
                               ", with its memory" : "") :
               g_strdup_printf("makes room on node %u",
                               t->node[home->node].id);
    }
    return g_strdup(ns_option_cost(&option[0]) == ns_option_cost(choice) ?
                    choice->follow ? "its memory can come to it" :
                    "nearest to its memory" :
                    "nearer nodes are needed by others");
}

static NumaPlanPlace *place_new(const NsTopology *t, const NsHost *host,
                                const NsGroup *g, const char *name,
                                bool placed, const NsOption *choice,
                                NsOption *option, bool explain)
{
    NumaPlanPlace *out = g_new0(NumaPlanPlace, 1);
    uint32_t n = ns_options(host, g, option);

    qsort(option, n, sizeof(*option), by_cost);
    out->name = g_strdup(name);
    out->has_home = g->home >= 0;
    out->home = out->has_home ? t->node[g->home].id : 0;
    if (placed) {
        out->choice = ns_answer_option(t, choice);
    }
    out->reason = reason(t, g, placed, choice, option, n);
    if (explain) {
        NumaPlanOptionList **tail = &out->options;

        out->has_options = true;
        for (uint32_t o = 0; o < n; o++) {
            QAPI_LIST_APPEND(tail, ns_answer_option(t, &option[o]));
        }
    }
    return out;
}

/* Its values are those of NsSource. */
QEMU_BUILD_BUG_ON(NUMA_LATENCY_SOURCE_OPERATOR != (int)NS_OPERATOR);
QEMU_BUILD_BUG_ON(NUMA_LATENCY_SOURCE_ACCESS != (int)NS_ACCESS);
QEMU_BUILD_BUG_ON(NUMA_LATENCY_SOURCE_FLAT != (int)NS_FLAT);

static void add_latency(NumaPlan *out, const NsTopology *t, const NsLatency *l)
{
    NumaPlanLatencyList **tail = &out->latency;

    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            NumaPlanLatency *e;

            if (!t->node[i].cpus || !t->node[j].size) {
                continue;
            }
            e = g_new0(NumaPlanLatency, 1);
            e->from = t->node[i].id;
            e->to = t->node[j].id;
            e->value = l->value[(size_t)i * t->n + j];
            e->ratio = l->ratio[(size_t)i * t->n + j];
            e->source = (NumaLatencySource)l->source;
            QAPI_LIST_APPEND(tail, e);
        }
    }
}

NumaPlan *ns_answer(const NsTopology *t, const NsLatency *l,
                    const NsHost *host, const NsGroup *group,
                    char *const *name, const NsPlan *plan, bool explain)
{
    NumaPlan *out = g_new0(NumaPlan, 1);
    NumaPlanNodeList **nodes = &out->nodes;
    NumaPlanPlaceList **places = &out->places;
    strList **notes = &out->notes;
    g_autofree NsOption *option = g_new(NsOption, 2 * t->n);

    for (uint32_t i = 0; i < t->n; i++) {
        NumaPlanNode *n = g_new0(NumaPlanNode, 1);

        n->id = t->node[i].id;
        n->cpus = t->node[i].cpus;
        n->cores = t->node[i].cores;
        n->size = t->node[i].size;
        n->free = host->node[i].free;
        n->cpu = host->node[i].used;
        n->load = plan->load[i];
        n->share = n->cpus ? ns_share(&host->node[i], n->load) : 0;
        QAPI_LIST_APPEND(nodes, n);
    }
    add_latency(out, t, l);
    for (guint i = 0; i < t->notes->len; i++) {
        QAPI_LIST_APPEND(notes, g_strdup(g_ptr_array_index(t->notes, i)));
    }
    for (uint32_t k = 0; k < plan->n; k++) {
        QAPI_LIST_APPEND(places, place_new(t, host, &group[k], name[k],
                                           plan->placed[k], &plan->choice[k],
                                           option, explain));
    }
    out->total = plan->total;
    out->has_before = ns_cost_of_now(host, group, plan->n, &out->before);
    out->exact = plan->exact;
    return out;
}
