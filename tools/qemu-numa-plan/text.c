/*
 * qemu-numa-plan: the plan for people
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "planner.h"

static void print_nodes(const NumaPlan *a, bool places)
{
    printf("%6s %6s %6s %11s %11s", "node", "CPUs", "cores", "memory", "free");
    if (places) {
        printf(" %9s %9s", "load", "planned");
    }
    printf("\n");
    for (NumaPlanNodeList *n = a->nodes; n; n = n->next) {
        const NumaPlanNode *v = n->value;
        g_autofree char *size = size_to_str(v->size);
        g_autofree char *free_size = size_to_str(v->free);

        printf("%6u %6u %6u %11s %11s", v->id, v->cpus, v->cores, size,
               free_size);
        if (places) {
            printf(" %9.3f %9.3f", v->cpu / 1e3, v->load / 1e3);
        }
        printf("\n");
    }
}

static void print_latency(const NsTopology *t, const NsLatency *l)
{
    static const char *const unit[] = {
        [NS_OPERATOR] = "ns, from the operator's file",
        [NS_HMAT] = "ns, from the firmware's table (HMAT)",
        [NS_MEASURED] = "ns, measured",
        [NS_ACCESS] = "ns, from the kernel's access latency, scaled by"
                      " distance",
        [NS_SLIT] = "tenths of a local access, from the firmware's distances"
                    " (SLIT)",
        [NS_FLAT] = "tenths of a local access; nothing is known",
    };

    printf("\nlatency from CPUs (rows) to memory (columns), %s\n%6s",
           unit[l->source], "");
    for (uint32_t j = 0; j < t->n; j++) {
        if (t->node[j].size) {
            printf(" %6u", t->node[j].id);
        }
    }
    printf("\n");
    for (uint32_t i = 0; i < t->n; i++) {
        if (!t->node[i].cpus) {
            continue;
        }
        printf("%6u", t->node[i].id);
        for (uint32_t j = 0; j < t->n; j++) {
            if (t->node[j].size) {
                printf(" %6u", l->value[(size_t)i * t->n + j]);
            }
        }
        printf("\n");
    }
}

static void print_option(const NumaPlanOption *o, bool chosen)
{
    g_autofree char *bytes = size_to_str(o->bytes);

    printf("    %c node %-5u %-7s run %.6f copy %.6f cold %.6f: %.6f CPU",
           chosen ? '*' : ' ', o->node, NumaPlanMemory_str(o->memory),
           o->run / 1e9, o->copy / 1e9, o->cold / 1e9,
           (o->run + o->copy + o->cold) / 1e9);
    if (o->memory == NUMA_PLAN_MEMORY_FOLLOW) {
        printf(", %s move", bytes);
    }
    printf("\n");
}

static void print_places(const NumaPlan *a)
{
    printf("\n");
    for (NumaPlanPlaceList *p = a->places; p; p = p->next) {
        const NumaPlanPlace *v = p->value;
        const NumaPlanOption *c = v->choice;
        NumaPlanOptionList *o;
        g_autofree char *home = v->has_home ?
                                g_strdup_printf("node %u", v->home) :
                                g_strdup("no node");
        g_autofree char *to = c ? g_strdup_printf("node %u", c->node) :
                              g_strdup("no node");

        printf("%s: %s", v->name, home);
        if (!c || !v->has_home || c->node != v->home) {
            printf(" -> %s", to);
        }
        printf("%s: %s\n", c && c->memory == NUMA_PLAN_MEMORY_FOLLOW ?
               ", memory follows" : "", v->reason);
        for (o = v->options; o; o = o->next) {
            print_option(o->value, c && o->value->node == c->node &&
                         o->value->memory == c->memory);
        }
    }
    printf("\ntotal %.6f CPU", a->total / 1e9);
    if (a->has_before) {
        printf("; as it is now %.6f", a->before / 1e9);
    }
    printf("%s\n", a->exact ? "; no placement costs less" :
           "; there may be a better one");
}

void text_print(const NsTopology *t, const NsLatency *l, const NumaPlan *a,
                bool places)
{
    strList *note;

    print_nodes(a, places);
    print_latency(t, l);
    for (note = a->notes; note; note = note->next) {
        printf("note: %s\n", note->value);
    }
    if (places) {
        print_places(a);
    }
}
