/*
 * NUMA scheduler: the latencies of a host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hmat.h"
#include "latency-read.h"

NsLatency *ns_latency_read(NsTopology *t, const char *root, const char *name,
                           const char *buf, size_t len,
                           const uint32_t *measured, Error **errp)
{
    g_autofree uint32_t *operator = NULL;
    g_autofree uint32_t *hmat = NULL;
    NsGiven given[3];
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
    if (measured) {
        given[n++] = (NsGiven) { .source = NS_MEASURED, .ns = measured };
    }
    return ns_latency(t, given, n);
}

char *ns_latency_file(const char *id, const char *name, size_t *len,
                      Error **errp)
{
    /* A FIFO would wait for its other end, and all of QEMU with it. */
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    g_autofree char *data = g_malloc(NS_MAX_LATENCY_FILE + 1);
    struct stat st;
    ssize_t n = -1;
    size_t got = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "numa-sched '%s' property 'latency': "
                         "'%s' can not be read", id, name);
    } else if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "numa-sched '%s' property 'latency': '%s' is not a "
                   "file", id, name);
    } else {
        do {
            n = RETRY_ON_EINTR(read(fd, data + got,
                                    NS_MAX_LATENCY_FILE + 1 - got));
            got += MAX(n, 0);
        } while (n > 0);
        if (n < 0) {
            error_setg_errno(errp, errno, "numa-sched '%s' property 'latency':"
                             " '%s' can not be read", id, name);
        } else if (got > NS_MAX_LATENCY_FILE) {
            error_setg(errp, "numa-sched '%s' property 'latency': '%s' has more"
                       " than %u bytes", id, name, NS_MAX_LATENCY_FILE);
            n = -1;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    *len = got;
    return n ? NULL : g_steal_pointer(&data);
}
