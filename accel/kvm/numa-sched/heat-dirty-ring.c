/*
 * NUMA scheduler: the use of pages, by KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What is known is as old as the last reap (see ring.h): a look that comes
 * before the next one finds nothing.  Writes by QEMU itself and by vhost are
 * not seen.
 */

#include "qemu/osdep.h"
#include "heat.h"
#include "plan.h"
#include "ring.h"

typedef struct Dirty {
    NsRing *ring;
    uint64_t lost;              /* with the last look */
} Dirty;

static void *dirty_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    NsRing *ring;
    Dirty *d;

    ring = ns_ring_open(range, n, false, errp);
    if (!ring) {
        return NULL;
    }
    d = g_new0(Dirty, 1);
    d->ring = ring;
    return d;
}

static bool dirty_look(void *opaque, NsHeat *heat, Error **errp)
{
    Dirty *d = opaque;
    uint32_t n;
    const uint64_t *page = ns_ring_take(d->ring, &n, &d->lost, errp);

    for (uint32_t i = 0; page && i < n; i++) {
        ns_heat_add(heat, ns_ring_addr(page[i]), NS_PAGE, 1);
    }
    return page;
}

static char *dirty_remark(void *opaque)
{
    Dirty *d = opaque;

    return d->lost ? g_strdup_printf("it keeps %u pages between two looks, and "
                                     "more were written: some count as not "
                                     "written; a shorter interval-ms helps",
                                     NS_RING_MOST) : NULL;
}

static void dirty_close(void *opaque)
{
    Dirty *d = opaque;

    ns_ring_close(d->ring);
    g_free(d);
}

const NsHeatOps ns_heat_dirty_ring = {
    .name = "dirty-ring",
    .by_name_only = true,
    .open = dirty_open,
    .look = dirty_look,
    .close = dirty_close,
    .remark = dirty_remark,
};
