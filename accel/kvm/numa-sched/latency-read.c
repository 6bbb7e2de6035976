/*
 * NUMA scheduler: the latencies of a host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hmat.h"
#include "latency-read.h"

NsLatency *ns_latency_read(NsTopology *t, const char *root, const char *name,
                           const char *buf, size_t len, Error **errp)
{
    g_autofree uint32_t *operator = NULL;
    g_autofree uint32_t *hmat = NULL;
    NsGiven given[2];
    uint32_t n = 0;

    if (buf) {
        operator = ns_latency_parse(t, name, buf, len, errp);
        if (!operator) {
            return NULL;
        }
        given[n++] = (NsGiven) { .source = NS_OPERATOR, .ns = operator };
    }
    hmat = ns_hmat_read(t, root);
    if (hmat) {
        given[n++] = (NsGiven) { .source = NS_HMAT, .ns = hmat };
    }
    return ns_latency(t, given, n);
}
