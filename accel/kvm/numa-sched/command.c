/*
 * NUMA scheduler: what numa-sched-move is about to do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-numa-sched.h"
#include "command.h"

static bool has_vcpu(const NumaSchedGroup *g, int64_t vcpu)
{
    for (const NumaSchedThreadList *t = g->threads; t; t = t->next) {
        intList *v = t->value->vcpus;

        while (v && v->value != vcpu) {
            v = v->next;
        }
        if (v) {
            return true;
        }
    }
    return false;
}

/* A guest without nodes is one group, whose node is 0. */
static bool is_node(const NumaSchedInfo *info, const NumaSchedGroup *g,
                    uint16_t node)
{
    return g->has_guest_node ? g->guest_node == node :
           !node && !info->groups->next;
}

static const NumaSchedGroup *find_group(const NumaSchedInfo *info,
                                        const int64_t *vcpu, uint16_t node,
                                        Error **errp)
{
    for (const NumaSchedGroupList *l = info->groups; l; l = l->next) {
        if (vcpu ? has_vcpu(l->value, *vcpu) : is_node(info, l->value, node)) {
            return l->value;
        }
    }
    if (vcpu) {
        error_setg(errp, "numa-sched '%s': there is no vCPU %" PRId64 " that "
                   "it has seen; query-numa-sched has their indices", info->id,
                   *vcpu);
    } else {
        error_setg(errp, "numa-sched '%s': no group of vCPUs is the guest's "
                   "node %u; query-numa-sched has the groups", info->id, node);
    }
    return NULL;
}

static uint64_t cost(const NumaPlanOption *o)
{
    return o->run + o->copy + o->cold;
}

NumaSchedMoveResult *ns_move_result(const NumaSchedInfo *info,
                                    const int64_t *vcpu, uint16_t node,
                                    uint32_t target, uint64_t bandwidth,
                                    const char **group, Error **errp)
{
    const NumaPlanOption *from = NULL, *stay = NULL, *follow = NULL, *to;
    const NumaSchedGroup *g;
    const NumaPlanPlaceList *p;
    NumaSchedMoveResult *out;

    if (!info->plan) {
        error_setg(errp, "numa-sched '%s' has no plan: %s", info->id,
                   info->error ?: "it has not looked yet");
        return NULL;
    }
    g = find_group(info, vcpu, node, errp);
    if (!g) {
        return NULL;
    }
    for (p = info->plan->places; p && strcmp(p->value->name, g->name); ) {
        p = p->next;
    }
    for (const NumaPlanOptionList *o = p ? p->value->options : NULL; o;
         o = o->next) {
        bool stays = o->value->memory == NUMA_PLAN_MEMORY_STAY;

        if (stays && g->has_home && o->value->node == g->home) {
            from = o->value;
        }
        if (o->value->node == target) {
            stay = stays ? o->value : stay;
            follow = stays ? follow : o->value;
        }
    }
    to = vcpu || !follow ? stay : follow;
    if (!to) {
        error_setg(errp, "numa-sched '%s': group '%s' may not go to node %u: "
                   "there is none, it has no CPUs, or QEMU may not use all of "
                   "them; see 'options' in query-numa-sched", info->id, g->name,
                   target);
        return NULL;
    }
    *group = g->name;
    out = g_new0(NumaSchedMoveResult, 1);
    out->from = from ? QAPI_CLONE(NumaPlanOption, from) : NULL;
    out->to = QAPI_CLONE(NumaPlanOption, to);
    out->gain = from ? (int64_t)(cost(from) - cost(to)) : 0;
    out->bytes = to->bytes;
    out->seconds = to->bytes / bandwidth + !!(to->bytes % bandwidth);
    return out;
}
