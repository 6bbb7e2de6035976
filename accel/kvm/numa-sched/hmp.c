/*
 * NUMA scheduler: info numa-sched
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-numa-sched.h"
#include "qemu/cutils.h"

static uint64_t cpu_on(const NumaSchedGroup *g, uint32_t node)
{
    uint64_t sum = 0;

    for (NumaSchedThreadList *t = g->threads; t; t = t->next) {
        if (t->value->has_node && t->value->node == node) {
            sum += t->value->cpu;
        }
    }
    return sum;
}

static uint64_t bytes_on(const NumaSchedGroup *g, uint32_t node)
{
    for (NumaPlanBytesList *b = g->working_set; b; b = b->next) {
        if (b->value->node == node) {
            return b->value->bytes;
        }
    }
    return 0;
}

/* Two lines, one column for each node */
static void print_group(Monitor *mon, const NumaSchedGroup *g,
                        const NumaPlanNodeList *nodes)
{
    monitor_printf(mon, "%-12s CPU   ", g->name);
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        bool home = g->has_home && g->home == n->value->id;

        monitor_printf(mon, "%10.3f%c", cpu_on(g, n->value->id) / 1e3,
                       home ? '*' : ' ');
    }
    monitor_printf(mon, "%s waits %u.%u %% (%s)\n%-12s memory",
                   g->fixed ? " fixed;" : "", g->intensity / 10,
                   g->intensity % 10,
                   NumaSchedIntensitySource_str(g->intensity_source), "");
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        g_autofree char *bytes = size_to_str(bytes_on(g, n->value->id));

        monitor_printf(mon, "%10s ", bytes);
    }
    monitor_printf(mon, " %u.%u %% at home", g->local / 10, g->local % 10);
    if (g->measured && !g->resident) {
        monitor_printf(mon, "; what it wrote");
    } else if (g->measured) {
        g_autofree char *bytes = size_to_str(g->resident);

        monitor_printf(mon, "; what is used of %s", bytes);
    }
    monitor_printf(mon, "\n");
}

static void print_nodes(Monitor *mon, const NumaPlanNodeList *nodes)
{
    monitor_printf(mon, "%-19s", "node");
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        monitor_printf(mon, "%10u ", n->value->id);
    }
    monitor_printf(mon, "\n%-19s", "CPUs");
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        monitor_printf(mon, "%10u ", n->value->cpus);
    }
    monitor_printf(mon, "\n%-19s", "used by others");
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        monitor_printf(mon, "%10.3f ", n->value->cpu / 1e3);
    }
    monitor_printf(mon, "\n%-19s", "free memory");
    for (const NumaPlanNodeList *n = nodes; n; n = n->next) {
        g_autofree char *bytes = size_to_str(n->value->free);

        monitor_printf(mon, "%10s ", bytes);
    }
    monitor_printf(mon, "\n");
}

static void print_decision(Monitor *mon, const NumaSchedDecision *d)
{
    for (NumaSchedMoveList *m = d->moves; m; m = m->next) {
        monitor_printf(mon, "%s %s to node %u (CPUs %s), its memory %s\n",
                       m == d->moves ? "better:" : "   and:",
                       m->value->name, m->value->to->node, m->value->cpus,
                       m->value->to->memory == NUMA_PLAN_MEMORY_FOLLOW ?
                       "follows" : "stays");
    }
    monitor_printf(mon, "        %.3f CPU less, of %.3f\n", d->gain / 1e9,
                   d->cost / 1e9);
}

static void print_moving(Monitor *mon, const NumaMigrateProgress *p)
{
    g_autofree char *moved = size_to_str(p->moved);
    g_autofree char *worth = size_to_str(p->worth);
    g_autofree char *total = size_to_str(p->total);

    monitor_printf(mon, "memory: %s to node %u: %s, %s of %s (%s in all), by "
                   "%s, %" PRIu64 " invalidations/s%s%s\n", p->group, p->target,
                   NumaMigrateState_str(p->state), moved, worth, total,
                   strcmp(p->estimator, "none") ? p->estimator : "address",
                   p->invalidations_per_second, p->reason ? ": " : "",
                   p->reason ?: "");
}

static void print_notes(Monitor *mon, strList *notes)
{
    while (notes) {
        monitor_printf(mon, "note: %s\n", notes->value);
        notes = notes->next;
    }
}

static void hmp_info_numa_sched(Monitor *mon, const QDict *qdict)
{
    g_autoptr(NumaSchedInfoList) list = qmp_query_numa_sched(&error_abort);
    const NumaSchedInfo *info;

    if (!list) {
        monitor_printf(mon, "no numa-sched object that has looked\n");
        return;
    }
    info = list->value;
    monitor_printf(mon, "%s: %s, estimator %s, %" PRIu64 " looks (the last "
                   "took %" PRIu64 " us), %" PRIu64 " decisions\n", info->id,
                   NumaSchedMode_str(info->mode), info->estimator,
                   info->periods, info->microseconds, info->decisions);
    if (info->moving) {
        print_moving(mon, info->moving);
    }
    print_notes(mon, info->notes);
    if (info->error) {
        monitor_printf(mon, "no plan: %s\n", info->error);
        return;
    }
    print_nodes(mon, info->plan->nodes);
    for (NumaSchedGroupList *g = info->groups; g; g = g->next) {
        print_group(mon, g->value, info->plan->nodes);
    }
    if (info->decision) {
        print_decision(mon, info->decision);
    }
}

static void numa_sched_hmp_init(void)
{
    monitor_register_hmp("numa-sched", true, hmp_info_numa_sched);
}

type_init(numa_sched_hmp_init)
