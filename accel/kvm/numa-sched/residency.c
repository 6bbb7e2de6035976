/*
 * NUMA scheduler: on which nodes memory is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/syscall.h>
#include "residency.h"

#define BATCH   1024
#define GOLDEN  0x9e3779b97f4a7c15ull   /* 2^64 / golden ratio */

int ns_residency(const NsRange *r, uint32_t samples, uint64_t phase,
                 uint64_t *bytes, uint64_t *absent)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t pages = r->bytes / page;
    uint64_t n = MIN(MIN(samples, NS_MAX_SAMPLES), pages);
    g_autofree uint64_t *found = g_new0(uint64_t, NS_MAX_NODES);
    g_autofree void **at = g_new(void *, BATCH);
    g_autofree int *status = g_new(int, BATCH);
    uint64_t none = r->bytes - pages * page;

    for (uint64_t i = 0; i < n;) {
        uint32_t len = MIN(n - i, BATCH);

        for (uint32_t k = 0; k < len; k++) {
            /* Stratum i + k, and in it a place that differs each time */
            uint64_t from = pages * (i + k) / n;
            uint64_t width = pages * (i + k + 1) / n - from;

            from += (phase + i + k) * GOLDEN % width;
            at[k] = (char *)r->host + from * page;
            status[k] = -ENOENT;
        }
        if (syscall(SYS_move_pages, 0, (unsigned long)len, at, NULL, status,
                    0) < 0) {
            return -errno;
        }
        for (uint32_t k = 0; k < len; k++) {
            uint64_t from = pages * (i + k) / n;
            uint64_t share = (pages * (i + k + 1) / n - from) * page;

            if (status[k] >= 0 && status[k] < NS_MAX_NODES) {
                found[status[k]] += share;
            } else {
                none += share;
            }
        }
        i += len;
    }
    for (uint32_t i = 0; n && i < NS_MAX_NODES; i++) {
        bytes[i] += found[i];
    }
    *absent += n ? none : r->bytes;
    return 0;
}

int ns_nodes_of(const uint64_t *addr, uint32_t n, int *node)
{
    g_autofree void **at = g_new(void *, n);

    for (uint32_t i = 0; i < n; i++) {
        at[i] = (void *)(uintptr_t)addr[i];
        node[i] = -ENOENT;
    }
    return syscall(SYS_move_pages, 0, (unsigned long)n, at, NULL, node,
                   0) < 0 ? -errno : 0;
}

int ns_page_nodes(uint64_t addr, uint32_t pages, int *node)
{
    g_autofree uint64_t *at = g_new(uint64_t, pages);

    for (uint32_t i = 0; i < pages; i++) {
        at[i] = addr + i * (uint64_t)qemu_real_host_page_size();
    }
    return ns_nodes_of(at, pages, node);
}

void ns_bytes_by_index(const NsTopology *t, const uint64_t *found,
                       uint64_t *bytes, uint64_t *absent)
{
    for (uint32_t id = 0; id < NS_MAX_NODES; id++) {
        if (t->index[id] >= 0) {
            bytes[t->index[id]] += found[id];
        } else {
            *absent += found[id];
        }
    }
}
