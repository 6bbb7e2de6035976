/*
 * NUMA scheduler: the policy of memory that moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * New pages prefer the target.  They are not bound to it: once it is full,
 * memory that is bound ends in the death of the process.  Any policy but the
 * default one keeps the kernel's own balancing from the range, which would move
 * pages, too.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include <sys/syscall.h>
#include "mover.h"
#include "mover-policy.h"
#include "topology.h"

#define PREFERRED       1           /* the ABI: MPOL_PREFERRED */
#define STATIC_NODES    (1 << 15)   /* not renumbered when a cpuset changes */
#define OF_ADDRESS      2           /* MPOL_F_ADDR */
#define MASK_BITS       4096        /* the kernel has at most 1024 nodes */
#define MAX_PARTS       1024        /* of a range */

typedef struct Part {
    uint64_t addr, bytes;
    int mode;
    unsigned long mask[MASK_BITS / BITS_PER_LONG];
} Part;

typedef struct Before {
    uint32_t n;
    Part part[];
} Before;

static int apply(const Part *p)
{
    bool none = bitmap_empty(p->mask, MASK_BITS);

    if (syscall(__NR_mbind, p->addr, p->bytes, p->mode, none ? NULL : p->mask,
                none ? 0 : MASK_BITS, 0)) {
        return -errno;
    }
    return 0;
}

/* Policies may differ between mappings only. */
static int add_part(GArray *parts, uint64_t addr, uint64_t bytes)
{
    Part p = { .addr = addr, .bytes = bytes }, *last;

    if (syscall(__NR_get_mempolicy, &p.mode, p.mask, MASK_BITS, addr,
                OF_ADDRESS)) {
        return -errno;
    }
    last = parts->len ? &g_array_index(parts, Part, parts->len - 1) : NULL;
    if (last && last->addr + last->bytes == addr && last->mode == p.mode &&
        !memcmp(last->mask, p.mask, sizeof(p.mask))) {
        last->bytes += bytes;
    } else if (parts->len == MAX_PARTS) {
        return -E2BIG;
    } else {
        g_array_append_val(parts, p);
    }
    return 0;
}

static int read_policies(uint64_t addr, uint64_t bytes, GArray *parts)
{
    FILE *f = fopen("/proc/self/maps", "re");
    uint64_t at = addr, end = addr + bytes;
    g_autofree char *line = NULL;
    size_t size = 0;
    int ret = 0;

    if (!f) {
        return -errno;
    }
    while (!ret && at < end && getline(&line, &size, f) > 0) {
        uint64_t from, to;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) != 2 ||
            to <= at) {
            continue;
        }
        if (from > at) {
            break;
        }
        to = MIN(to, end);
        ret = add_part(parts, at, to - at);
        at = to;
    }
    fclose(f);
    return ret ? ret : at < end ? -EFAULT : 0;
}

int ns_mover_bind(void *opaque, uint64_t addr, uint64_t bytes, int node,
                  void **before)
{
    g_autoptr(GArray) parts = g_array_new(false, false, sizeof(Part));
    Part target = {
        .addr = addr, .bytes = bytes, .mode = PREFERRED | STATIC_NODES,
    };
    g_autofree Before *b = NULL;
    int ret = read_policies(addr, bytes, parts);

    if (ret) {
        return ret;
    }
    if (node < 0 || node >= MASK_BITS - 1) {
        return -EINVAL;
    }
    b = g_malloc0(sizeof(*b) + parts->len * sizeof(Part));
    b->n = parts->len;
    memcpy(b->part, parts->data, parts->len * sizeof(Part));
    set_bit(node, target.mask);
    ret = apply(&target);
    if (ret) {
        /* The first mappings may have it already. */
        ns_mover_unbind(opaque, addr, bytes, b);
        return ret;
    }
    *before = g_steal_pointer(&b);
    return 0;
}

int ns_mover_unbind(void *opaque, uint64_t addr, uint64_t bytes,
                    const void *before)
{
    const Before *b = before;
    int ret = 0;

    for (uint32_t i = 0; i < b->n; i++) {
        int one = apply(&b->part[i]);

        ret = ret ? ret : one;
    }
    return ret;
}
