/*
 * qemu-numa-plan: what is to be placed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "planner.h"

/* Bounds what a file can make this program allocate: about 100 MB */
#define MAX_CELLS   (1u << 20)

static bool find(const NsTopology *t, uint64_t id, const char *what,
                 const char *name, int *index, Error **errp)
{
    *index = ns_topology_find(t, id);
    if (*index < 0) {
        error_setg(errp, "%s '%s': the host has no node %" PRIu64 "; its ids"
                   " are in what is printed without --workload", what, name,
                   id);
        return false;
    }
    return true;
}

static bool in_range(const char *name, const char *member, uint64_t value,
                     uint64_t max, Error **errp)
{
    if (value > max) {
        error_setg(errp, "Group '%s': %s is %" PRIu64 ", and can be %" PRIu64
                   " at most", name, member, value, max);
        return false;
    }
    return true;
}

static bool convert_working_set(const NsTopology *t, const NumaPlanGroup *g,
                                uint64_t *bytes, Error **errp)
{
    uint64_t sum = 0;

    for (NumaPlanBytesList *b = g->working_set; b; b = b->next) {
        int j;

        if (!find(t, b->value->node, "Working set of group", g->name, &j,
                  errp) ||
            !in_range(g->name, "the working set", b->value->bytes,
                      NS_MAX_WORKING_SET, errp)) {
            return false;
        }
        if (b->value->bytes && !t->node[j].size) {
            error_setg(errp, "Group '%s': its working set is on node %" PRIu64
                       ", which has no memory", g->name, b->value->node);
            return false;
        }
        if (bytes[j]) {
            error_setg(errp, "Group '%s': node %" PRIu64 " is twice in its"
                       " working set", g->name, b->value->node);
            return false;
        }
        bytes[j] = b->value->bytes;
        sum += bytes[j];
        if (!in_range(g->name, "the working set", sum, NS_MAX_WORKING_SET,
                      errp)) {
            return false;
        }
    }
    return true;
}

static bool convert_group(const NsTopology *t, const NumaPlanGroup *g,
                          NsGroup *out, uint64_t *bytes, bool *allowed,
                          Error **errp)
{
    uint64_t cpu = g->has_cpu ? g->cpu : 1000;
    uint64_t intensity = g->has_intensity ? g->intensity : 500;

    if (!in_range(g->name, "cpu", cpu, NS_MAX_CPU, errp) ||
        !in_range(g->name, "intensity", intensity, NS_MAX_INTENSITY, errp)) {
        return false;
    }
    *out = (NsGroup) {
        .cpu = cpu,
        .intensity = intensity,
        .home = -1,
        .pinned = g->has_pinned && g->pinned,
        .bytes = bytes,
    };
    if (g->has_home &&
        !find(t, g->home, "Home of group", g->name, &out->home, errp)) {
        return false;
    }
    if (g->has_nodes) {
        uint64List *id;

        out->allowed = allowed;
        for (id = g->nodes; id; id = id->next) {
            int i;

            if (!find(t, id->value, "Nodes of group", g->name, &i, errp)) {
                return false;
            }
            allowed[i] = true;
        }
    }
    return convert_working_set(t, g, bytes, errp);
}

static bool convert_groups(const NsTopology *t, const NumaPlanWorkload *w,
                           Workload *out, Error **errp)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    NumaPlanGroupList *g;
    uint32_t k = 0;

    for (g = w->groups; g; g = g->next) {
        out->n++;
    }
    if (out->n > NS_MAX_GROUPS || (uint64_t)out->n * t->n > MAX_CELLS) {
        error_setg(errp, "%u groups on %u nodes; there can be %u groups, and %u"
                   " pairs of a group and a node", out->n, t->n, NS_MAX_GROUPS,
                   MAX_CELLS);
        return false;
    }
    out->group = g_new0(NsGroup, MAX(out->n, 1));
    out->name = g_new(char *, MAX(out->n, 1));
    out->bytes = g_new0(uint64_t, MAX((size_t)out->n * t->n, 1));
    out->allowed = g_new0(bool, MAX((size_t)out->n * t->n, 1));
    for (g = w->groups; g; g = g->next, k++) {
        if (!g_hash_table_add(names, g->value->name)) {
            error_setg(errp, "Group '%s': another one has that name",
                       g->value->name);
            return false;
        }
        out->name[k] = g->value->name;
        if (!convert_group(t, g->value, &out->group[k],
                           out->bytes + (size_t)k * t->n,
                           out->allowed + (size_t)k * t->n, errp)) {
            return false;
        }
    }
    return true;
}

static bool convert_nodes(const NsTopology *t, const NumaPlanWorkload *w,
                          Workload *out, Error **errp)
{
    g_autofree bool *seen = g_new0(bool, t->n);

    out->place = g_new(NsPlace, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        out->place[i] = (NsPlace) {
            .cpus = t->node[i].cpus, .cores = t->node[i].cores,
            .memory = t->node[i].size, .free = t->node[i].free,
        };
    }
    for (NumaPlanNodeUseList *u = w->nodes; u; u = u->next) {
        int i = ns_topology_find(t, u->value->node);

        if (i < 0 || seen[i]) {
            error_setg(errp, "nodes: %s node %" PRIu64,
                       i < 0 ? "the host has no" : "there is twice",
                       u->value->node);
            return false;
        }
        seen[i] = true;
        if (u->value->has_cpu && u->value->cpu > NS_MAX_CPU) {
            error_setg(errp, "nodes: cpu of node %" PRIu64 " is %" PRIu64 ","
                       " and can be %u at most", u->value->node,
                       u->value->cpu, NS_MAX_CPU);
            return false;
        }
        if (u->value->has_free && u->value->free > t->node[i].size) {
            error_setg(errp, "nodes: %" PRIu64 " bytes are free of node %"
                       PRIu64 ", which has %" PRIu64, u->value->free,
                       u->value->node, t->node[i].size);
            return false;
        }
        out->place[i].used = u->value->has_cpu ? u->value->cpu : 0;
        if (u->value->has_free) {
            out->place[i].free = u->value->free;
        }
    }
    return true;
}

bool workload_convert(const NsTopology *t, const NsLatency *l,
                      const NumaPlanWorkload *w, Workload *out, Error **errp)
{
    uint64_t bandwidth = w->has_bandwidth ? w->bandwidth : NS_BANDWIDTH;
    uint64_t horizon = w->has_horizon ? w->horizon : NS_HORIZON;

    if (bandwidth < NS_MIN_BANDWIDTH || bandwidth > NS_MAX_BANDWIDTH) {
        error_setg(errp, "bandwidth is %" PRIu64 " bytes/s, and can be %"
                   PRIu64 " to %" PRIu64, bandwidth,
                   (uint64_t)NS_MIN_BANDWIDTH, (uint64_t)NS_MAX_BANDWIDTH);
        return false;
    }
    if (!horizon || horizon > NS_MAX_HORIZON) {
        error_setg(errp, "horizon is %" PRIu64 " s, and can be 1 to %u",
                   horizon, NS_MAX_HORIZON);
        return false;
    }
    out->host = (NsHost) {
        .n = t->n, .ratio = l->ratio, .bandwidth = bandwidth,
        .horizon = horizon,
    };
    if (!convert_nodes(t, w, out, errp)) {
        return false;
    }
    out->host.node = out->place;
    return convert_groups(t, w, out, errp);
}

void workload_clear(Workload *w)
{
    g_free(w->place);
    g_free(w->group);
    g_free(w->name);
    g_free(w->bytes);
    g_free(w->allowed);
    memset(w, 0, sizeof(*w));
}
