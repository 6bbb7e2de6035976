/*
 * NUMA scheduler: how far memory is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "latency.h"
#include "parse.h"
#include "plan.h"

#define LOCAL       10      /* tenths */

/* Whether a CPU of node i may wait for memory of node j */
static bool counts(const NsTopology *t, uint32_t i, uint32_t j)
{
    return t->node[i].cpus && t->node[j].size;
}

/* Each pair that counts is there */
static bool complete(const NsTopology *t, const uint32_t *value)
{
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            if (counts(t, i, j) && !value[(size_t)i * t->n + j]) {
                return false;
            }
        }
    }
    return true;
}

/*
 * The kernel gives the latency of the best initiators of a target only; for
 * other nodes it grows as the distance does.
 */
static bool from_access(const NsTopology *t, uint32_t *value)
{
    for (uint32_t j = 0; j < t->n; j++) {
        uint32_t best = 0;

        for (uint32_t i = 0; i < t->n; i++) {
            uint32_t slit = t->slit[(size_t)i * t->n + j];

            if (t->initiator[(size_t)i * t->n + j] && slit &&
                (!best || slit < best)) {
                best = slit;
            }
        }
        for (uint32_t i = 0; i < t->n; i++) {
            size_t at = (size_t)i * t->n + j;

            if (t->initiator[at]) {
                value[at] = t->node[j].access_ns;
            } else if (best) {
                value[at] = MIN((uint64_t)t->node[j].access_ns * t->slit[at] /
                                best, NS_MAX_LATENCY);
            }
        }
    }
    return complete(t, value);
}

static bool from_slit(const NsTopology *t, uint32_t *value)
{
    for (size_t i = 0; i < (size_t)t->n * t->n; i++) {
        value[i] = t->slit[i];
    }
    return complete(t, value);
}

/* The smallest latency of a node's own memory; of any, when no node has both */
static uint32_t smallest(const NsTopology *t, const uint32_t *value)
{
    uint32_t own = 0, any = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            uint32_t v = value[(size_t)i * t->n + j];

            if (!counts(t, i, j)) {
                continue;
            }
            if (i == j && (!own || v < own)) {
                own = v;
            }
            if (!any || v < any) {
                any = v;
            }
        }
    }
    return own ? own : any ? any : 1;
}

static NsSource choose(const NsTopology *t, const NsGiven *given,
                       uint32_t n_given, uint32_t *value)
{
    size_t size = (size_t)t->n * t->n * sizeof(*value);

    for (NsSource s = NS_OPERATOR; s <= NS_MEASURED; s++) {
        for (uint32_t k = 0; k < n_given; k++) {
            if (given[k].source == s && complete(t, given[k].ns)) {
                memcpy(value, given[k].ns, size);
                return s;
            }
        }
    }
    if (from_access(t, value)) {
        return NS_ACCESS;
    }
    if (from_slit(t, value)) {
        return NS_SLIT;
    }
    for (size_t i = 0; i < (size_t)t->n * t->n; i++) {
        value[i] = LOCAL;
    }
    return NS_FLAT;
}

NsLatency *ns_latency(const NsTopology *t, const NsGiven *given,
                      uint32_t n_given)
{
    NsLatency *l = g_new0(NsLatency, 1);
    uint32_t unit;

    l->n = t->n;
    l->value = g_new0(uint32_t, (size_t)t->n * t->n);
    l->ratio = g_new(uint32_t, (size_t)t->n * t->n);
    l->source = choose(t, given, n_given, l->value);
    unit = smallest(t, l->value);
    for (size_t i = 0; i < (size_t)t->n * t->n; i++) {
        uint64_t ratio = (uint64_t)l->value[i] * NS_MILLION / unit;

        /* What does not count has an entry, too, so that all can be printed. */
        l->ratio[i] = ratio ? MIN(ratio, NS_MAX_RATIO) : NS_MILLION;
    }
    return l;
}

void ns_latency_free(NsLatency *l)
{
    if (l) {
        g_free(l->value);
        g_free(l->ratio);
        g_free(l);
    }
}

/* What comes before a comment */
static size_t line_length(const char *line, size_t len)
{
    const char *hash = memchr(line, '#', len);

    return hash ? hash - line : len;
}

static bool parse_line(const NsTopology *t, const char *name, unsigned number,
                       const char *line, size_t len, uint32_t *ns,
                       Error **errp)
{
    uint32_t field[3];
    int n = ns_parse_row(line, len, UINT32_MAX, field, 3), i, j;

    if (n == 0) {
        return true;
    }
    if (n != 3) {
        error_setg(errp, "%s:%u: not a line 'FROM TO NANOSECONDS'", name,
                   number);
        return false;
    }
    i = ns_topology_find(t, field[0]);
    j = ns_topology_find(t, field[1]);
    if (i < 0 || j < 0) {
        error_setg(errp, "%s:%u: the host has no node %u", name, number,
                   i < 0 ? field[0] : field[1]);
        return false;
    }
    if (!field[2] || field[2] > NS_MAX_LATENCY) {
        error_setg(errp, "%s:%u: a latency of %u ns; it can be 1 to %u", name,
                   number, field[2], NS_MAX_LATENCY);
        return false;
    }
    if (ns[(size_t)i * t->n + j]) {
        error_setg(errp, "%s:%u: the latency from node %u to node %u is there"
                   " twice", name, number, field[0], field[1]);
        return false;
    }
    ns[(size_t)i * t->n + j] = field[2];
    return true;
}

uint32_t *ns_latency_parse(const NsTopology *t, const char *name,
                           const char *buf, size_t len, Error **errp)
{
    g_autofree uint32_t *ns = g_new0(uint32_t, (size_t)t->n * t->n);
    const char *end = buf + len;

    for (unsigned number = 1; buf < end; number++) {
        const char *stop = memchr(buf, '\n', end - buf);

        if (!stop) {
            stop = end;
        }
        if (!parse_line(t, name, number, buf, line_length(buf, stop - buf), ns,
                        errp)) {
            return NULL;
        }
        buf = stop < end ? stop + 1 : end;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            if (counts(t, i, j) && !ns[(size_t)i * t->n + j]) {
                error_setg(errp, "%s: the latency from node %u to node %u is"
                           " missing", name, t->node[i].id, t->node[j].id);
                return NULL;
            }
        }
    }
    return g_steal_pointer(&ns);
}
