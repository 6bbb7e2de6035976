/*
 * NUMA scheduler: how far memory is, the order of measuring
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One buffer at a time, on the node whose memory is asked for; the nodes with
 * CPUs take turns, so that what the machine does meanwhile meets all of them.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "measure.h"
#include "move-order.h"

typedef struct Run {
    const NsTopology *t;
    const NsMeasureConfig *c;
    const NsMeasureSys *sys;
    void *sys_opaque;
    bool *allowed;              /* NS_MAX_CPUS: by this process */
    bool *cpu;                  /* likewise: what is bound to now */
    uint32_t *ps;               /* see ns_measure_clean() */
    uint64_t bytes;             /* of the buffer */
    uint64_t used, began;       /* ns of CPU time */
    char **why;
} Run;

static bool failed(Run *r, int error, const char *what, uint32_t node)
{
    *r->why = g_strdup_printf("%s node %u: %s", what, node, strerror(-error));
    return false;
}

/* Between any two chunks.  False: it is over. */
static bool pause_a_while(Run *r)
{
    uint64_t now = r->sys->used(r->sys_opaque), chunk = now - r->used;

    r->used = now;
    if (now - r->began > r->c->budget) {
        *r->why = g_strdup_printf("it takes more than %" PRIu64 " ms of CPU "
                                  "time", r->c->budget / 1000000);
        return false;
    }
    return !r->c->rest ||
           r->c->rest(r->c->rest_opaque,
                      chunk * (100 - r->c->duty) / r->c->duty);
}

/* The node's CPUs that this process may use; false: there is none */
static bool set_cpus(Run *r, const NsNode *node)
{
    bool any = false;

    memset(r->cpu, 0, NS_MAX_CPUS * sizeof(*r->cpu));
    for (uint32_t k = 0; k < node->cpus; k++) {
        r->cpu[node->cpu[k]] = r->allowed[node->cpu[k]];
        any |= r->allowed[node->cpu[k]];
    }
    if (!any) {
        *r->why = g_strdup_printf("QEMU may use no CPU of node %u", node->id);
    }
    return any;
}

/* Is it still where it was bound to?  It is not when CPUs go offline. */
static bool is_there(Run *r, const NsNode *node)
{
    int cpu = r->sys->cpu(r->sys_opaque);

    if (cpu < 0) {
        return failed(r, cpu, "there is no CPU of", node->id);
    }
    if (cpu >= NS_MAX_CPUS || !r->cpu[cpu]) {
        *r->why = g_strdup_printf("CPUs of node %u went away", node->id);
        return false;
    }
    return true;
}

static bool sample(Run *r, uint32_t i, uint32_t j, uint32_t k, void **at)
{
    const NsNode *node = &r->t->node[i];
    uint64_t ns;
    int ret;

    if (!set_cpus(r, node)) {
        return false;
    }
    ret = r->sys->bind(r->sys_opaque, r->cpu);
    if (ret < 0) {
        return failed(r, ret, "it can not run on", node->id);
    }
    ns = r->sys->chase(r->sys_opaque, at, NS_MEASURE_ACCESSES);
    if (!is_there(r, node)) {
        return false;
    }
    r->ps[((size_t)i * r->t->n + j) * NS_MEASURE_TIMES + k] =
        MIN(ns, UINT32_MAX) * 1000 / NS_MEASURE_ACCESSES;
    return pause_a_while(r);
}

/* Now that the buffer is filled */
static bool take_turns(Run *r, uint32_t j, void *buf)
{
    uint32_t id = r->t->node[j].id;
    void *at = buf;
    int64_t n = r->sys->elsewhere(r->sys_opaque, id, buf, r->bytes);

    if (n < 0) {
        return failed(r, n, "it is not to be known what is on", id);
    }
    if (n) {
        *r->why = g_strdup_printf("%" PRId64 " pages that should be on node %u "
                                  "are not", n, id);
        return false;
    }
    for (uint32_t k = 0; k < NS_MEASURE_TIMES; k++) {
        for (uint32_t i = 0; i < r->t->n; i++) {
            if (r->t->node[i].cpus && !sample(r, i, j, k, &at)) {
                return false;
            }
        }
    }
    return true;
}

static bool has_room(Run *r, uint32_t id, uint64_t bytes)
{
    uint64_t free, size, watermark;

    if (!r->sys->node(r->sys_opaque, id, &free, &size, &watermark)) {
        *r->why = g_strdup_printf("node %u is not online", id);
        return false;
    }
    if (ns_move_room(free, size, watermark) < bytes) {
        *r->why = g_strdup_printf("node %u has no %" PRIu64 " MiB of memory to "
                                  "spare", id, bytes / MiB);
        return false;
    }
    if (r->sys->room(r->sys_opaque) / 2 < bytes) {
        *r->why = g_strdup_printf("twice %" PRIu64 " MiB are more than the "
                                  "memory cgroup of QEMU has left",
                                  bytes / MiB);
        return false;
    }
    return true;
}

static bool measure_node(Run *r, uint32_t j)
{
    uint32_t id = r->t->node[j].id;
    bool ok = true;
    void *buf;
    int ret;

    if (!has_room(r, id, r->bytes)) {
        return false;
    }
    ret = r->sys->map(r->sys_opaque, id, r->bytes, &buf);
    if (ret < 0) {
        return failed(r, ret, "there is no memory of", id);
    }
    for (uint64_t at = 0; ok && at < r->bytes; at += NS_MEASURE_CHUNK) {
        /* Others take some of it, too. */
        ok = !at || at % NS_MEASURE_MIN || has_room(r, id, r->bytes - at);
        if (ok) {
            r->sys->fill(r->sys_opaque, buf, r->bytes, at,
                         at + NS_MEASURE_CHUNK);
            ok = pause_a_while(r);
        }
    }
    ok = ok && take_turns(r, j, buf);
    r->sys->unmap(r->sys_opaque, buf, r->bytes);
    return ok;
}

static bool choose_bytes(Run *r)
{
    uint64_t cache = 0;

    for (uint32_t i = 0; i < r->t->n; i++) {
        if (r->t->node[i].cpus) {
            cache = MAX(cache, r->sys->cache(r->sys_opaque,
                                             r->t->node[i].cpu[0]));
        }
    }
    r->bytes = ns_measure_bytes(cache);
    if (!r->bytes) {
        *r->why = g_strdup_printf("caches of %" PRIu64 " MiB hold too much of "
                                  "what can be asked for", cache / MiB);
    }
    return r->bytes;
}

static bool measure_all(Run *r)
{
    int ret = r->sys->allowed(r->sys_opaque, r->allowed);

    if (ret < 0) {
        *r->why = g_strdup_printf("the CPUs of QEMU are not to be known: %s",
                                  strerror(-ret));
        return false;
    }
    /* Nothing is begun that can not be completed. */
    for (uint32_t i = 0; i < r->t->n; i++) {
        if (r->t->node[i].cpus && !set_cpus(r, &r->t->node[i])) {
            return false;
        }
    }
    if (!choose_bytes(r)) {
        return false;
    }
    for (uint32_t j = 0; j < r->t->n; j++) {
        if (r->t->node[j].size && !measure_node(r, j)) {
            return false;
        }
    }
    return true;
}

NsMeasured *ns_measure(const NsTopology *t, const NsMeasureConfig *c,
                       char **why)
{
    g_autofree bool *allowed = g_new0(bool, NS_MAX_CPUS);
    g_autofree bool *cpu = g_new0(bool, NS_MAX_CPUS);
    g_autofree uint32_t *ps = NULL, *ns = NULL;
    uint32_t pairs = ns_measure_pairs(t);
    Run r = {
        .t = t, .c = c, .sys = c->sys ? c->sys : &ns_measure_linux,
        .sys_opaque = c->sys_opaque, .allowed = allowed, .cpu = cpu,
        .why = why,
    };
    NsMeasured *m;

    *why = NULL;
    if (pairs < 2) {
        return NULL;
    }
    if (pairs > NS_MEASURE_PAIRS) {
        *why = g_strdup_printf("%u pairs of nodes are more than %u", pairs,
                               NS_MEASURE_PAIRS);
        return NULL;
    }
    r.ps = ps = g_new0(uint32_t, (size_t)t->n * t->n * NS_MEASURE_TIMES);
    r.used = r.began = r.sys->used(r.sys_opaque);
    if (measure_all(&r)) {
        ns = ns_measure_clean(t, ps, why);
    }
    if (!ns) {
        return NULL;
    }
    m = g_new(NsMeasured, 1);
    m->n = t->n;
    m->id = g_new(uint32_t, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        m->id[i] = t->node[i].id;
    }
    m->ns = g_steal_pointer(&ns);
    return m;
}
