/*
 * NUMA scheduler: how far memory is, from samples
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure.  A wrong matrix is worse than a coarse one: what is doubtful is
 * refused, and the firmware's distances stand.
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "measure.h"

#define PS              1000        /* of a nanosecond */
#define MAX_SPREAD      250         /* thousandths */
#define MIN_DIFFERENCE  50          /* thousandths; less is no difference */
#define NEARER          100         /* thousandths by which remote may be so */

static bool counts(const NsTopology *t, uint32_t i, uint32_t j)
{
    return t->node[i].cpus && t->node[j].size;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* The believable ones, in order */
static uint32_t usable(const uint32_t *ps, uint32_t *sorted)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < NS_MEASURE_TIMES; k++) {
        if (ps[k] >= PS && ps[k] <= NS_MAX_LATENCY * PS) {
            sorted[n++] = ps[k];
        }
    }
    qsort(sorted, n, sizeof(*sorted), ascending);
    return n;
}

/*
 * The median, in ps.  Whatever else the machine does makes some samples larger;
 * the spread is that of the middle ones, so that one of these is no harm.
 */
static uint32_t figure(const NsTopology *t, uint32_t i, uint32_t j,
                       const uint32_t *ps, uint32_t *spread, char **why)
{
    uint32_t v[NS_MEASURE_TIMES], n = usable(ps, v), own;

    if (n <= NS_MEASURE_TIMES / 2) {
        *why = g_strdup_printf("from node %u to node %u only %u of %u samples "
                               "are any", t->node[i].id, t->node[j].id, n,
                               NS_MEASURE_TIMES);
        return 0;
    }
    own = (uint64_t)(v[n - 1 - n / 4] - v[n / 4]) * 1000 / v[n / 2];
    if (own > MAX_SPREAD) {
        *why = g_strdup_printf("from node %u to node %u samples differ by %u %%"
                               ", which is noise", t->node[i].id,
                               t->node[j].id, own / 10);
        return 0;
    }
    *spread = MAX(*spread, own);
    return v[n / 2];
}

/*
 * Memory is nearest to the CPUs of its own node.  Two memories may be of any
 * kind, so that these are not compared.
 */
static bool plausible(const NsTopology *t, const uint32_t *ps, char **why)
{
    for (uint32_t j = 0; j < t->n; j++) {
        uint64_t own = ps[(size_t)j * t->n + j];

        for (uint32_t i = 0; i < t->n; i++) {
            uint64_t v = ps[(size_t)i * t->n + j];

            if (v && v * 1000 < own * (1000 - NEARER)) {
                *why = g_strdup_printf("memory of node %u would be nearer to "
                                       "node %u (%" PRIu64 " ns) than to its "
                                       "own CPUs (%" PRIu64 " ns)",
                                       t->node[j].id, t->node[i].id, v / PS,
                                       own / PS);
                return false;
            }
        }
    }
    return true;
}

/*
 * All alike is what a buffer gives that is in caches after all, or a virtual
 * machine whose nodes are one.
 */
static bool differs(const NsTopology *t, const uint32_t *ps, uint32_t spread,
                    char **why)
{
    uint32_t least = UINT32_MAX, most = 0, bound = MAX(spread, MIN_DIFFERENCE);

    for (size_t at = 0; at < (size_t)t->n * t->n; at++) {
        if (ps[at]) {
            least = MIN(least, ps[at]);
            most = MAX(most, ps[at]);
        }
    }
    if ((uint64_t)(most - least) * 1000 > (uint64_t)least * bound) {
        return true;
    }
    *why = g_strdup_printf("all memory is as far (%u to %u ns, and samples "
                           "differ by %u %%)", least / PS, most / PS,
                           spread / 10);
    return false;
}

uint32_t *ns_measure_clean(const NsTopology *t, const uint32_t *ps, char **why)
{
    size_t n = (size_t)t->n * t->n;
    g_autofree uint32_t *v = g_new0(uint32_t, n);
    uint32_t spread = 0;

    *why = NULL;
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            size_t at = (size_t)i * t->n + j;

            if (!counts(t, i, j)) {
                continue;
            }
            v[at] = figure(t, i, j, ps + at * NS_MEASURE_TIMES, &spread, why);
            if (!v[at]) {
                return NULL;
            }
        }
    }
    if (!plausible(t, v, why) || !differs(t, v, spread, why)) {
        return NULL;
    }
    for (size_t at = 0; at < n; at++) {
        v[at] = (v[at] + PS / 2) / PS;
    }
    return g_steal_pointer(&v);
}

uint32_t ns_measure_pairs(const NsTopology *t)
{
    uint32_t from = 0, to = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        from += t->node[i].cpus > 0;
        to += t->node[i].size > 0;
    }
    return from * to;
}

/*
 * A chain is longer than what comes before it is met again, so that a cache
 * forgets it; what was written last is still there at first.
 */
uint64_t ns_measure_bytes(uint64_t cache)
{
    if (cache > NS_MEASURE_MAX / 2) {
        return 0;
    }
    return MAX(MIN(pow2ceil(cache * 4), NS_MEASURE_MAX), NS_MEASURE_MIN);
}

void ns_measured_free(NsMeasured *m)
{
    if (m) {
        g_free(m->id);
        g_free(m->ns);
        g_free(m);
    }
}

uint32_t *ns_measured_now(const NsMeasured *m, const NsTopology *t)
{
    g_autofree int *now = NULL;
    uint32_t *ns;

    if (!m) {
        return NULL;
    }
    now = g_new(int, m->n);
    for (uint32_t i = 0; i < m->n; i++) {
        now[i] = ns_topology_find(t, m->id[i]);
    }
    ns = g_new0(uint32_t, (size_t)t->n * t->n);
    for (uint32_t i = 0; i < m->n; i++) {
        for (uint32_t j = 0; j < m->n; j++) {
            if (now[i] >= 0 && now[j] >= 0) {
                ns[(size_t)now[i] * t->n + now[j]] =
                    m->ns[(size_t)i * m->n + j];
            }
        }
    }
    return ns;
}
