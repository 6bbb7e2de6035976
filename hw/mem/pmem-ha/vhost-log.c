/*
 * pmem-ha: what vhost backends write to guest memory
 *
 * A backend is another process.  It sets no dirty bit of QEMU, but it can set
 * the bits of a log, which live migration fetches.  While a device with a
 * replica exists, that log is on, and each capture fetches it, too.  What is
 * relied on: "Writes by vhost backends" in docs/devel/pmem-ha.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "hw/virtio/vhost.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

bool pmem_ha_vhost_keep_log(PmemHaDevice *s, Error **errp)
{
    struct vhost_dev *hdev;

    assert(bql_locked());
    vhost_log_kept = true;
    for (hdev = vhost_dev_first(); hdev; hdev = QLIST_NEXT(hdev, entry)) {
        MemoryListener *l = &hdev->memory_listener;

        if (hdev->started && !hdev->n_mem_sections) {
            /* Its log would have no size, and it could write nowhere. */
            error_setg(errp, "a vhost backend shares no guest memory; use a "
                       "memory backend with share=on for it");
        } else if (l->log_global_start(l, errp)) {
            continue;
        }
        error_prepend(errp, "pmem-ha device '%s' has a replica, and what a "
                      "vhost backend writes to guest memory can not be "
                      "mirrored: ", s->name);
        pmem_ha_vhost_drop_log();
        return false;
    }
    return true;
}

void pmem_ha_vhost_drop_log(void)
{
    struct vhost_dev *hdev;

    assert(bql_locked());
    vhost_log_kept = false;
    if (global_dirty_tracking) {
        /* Live migration ends what it still needs. */
        return;
    }
    for (hdev = vhost_dev_first(); hdev; hdev = QLIST_NEXT(hdev, entry)) {
        hdev->memory_listener.log_global_stop(&hdev->memory_listener);
    }
}

void pmem_ha_vhost_fetch(PmemHaDevice *s)
{
    struct vhost_dev *hdev;
    unsigned fetched = 0;
    bool lost;
    unsigned n;
    int i;

    /*
     * Without the BQL: a device that appears now has not written anything
     * that the flushes of this capture could be about.
     */
    if (!vhost_dev_first() &&
        qatomic_read(&vhost_log_lost) == qatomic_read(&s->vhost_lost)) {
        return;
    }

    BQL_LOCK_GUARD();
    for (hdev = vhost_dev_first(); hdev; hdev = QLIST_NEXT(hdev, entry)) {
        MemoryListener *l = &hdev->memory_listener;

        for (i = 0; i < hdev->n_mem_sections; i++) {
            for (n = 0; n < s->n_parts; n++) {
                if (hdev->mem_sections[i].mr == s->part[n].mr) {
                    l->log_sync(l, &hdev->mem_sections[i]);
                    fetched++;
                }
            }
        }
    }
    lost = vhost_log_lost != s->vhost_lost;
    if (lost) {
        qatomic_set(&s->vhost_lost, vhost_log_lost);
        pmem_ha_mark_dirty(s, 0, s->size);
    }
    trace_pmem_ha_vhost_fetch(s->name, fetched, lost);
}

char *pmem_ha_vhost_why_not(Object *obj)
{
    VirtioDeviceClass *vdc;
    struct vhost_dev *hdev;

    if (!object_dynamic_cast(obj, TYPE_VIRTIO_DEVICE)) {
        return NULL;
    }
    vdc = VIRTIO_DEVICE_GET_CLASS(obj);
    hdev = vdc->get_vhost ? vdc->get_vhost(VIRTIO_DEVICE(obj)) : NULL;
    if (!hdev || !hdev->migration_blocker) {
        /* Or it is not connected: then see vhost_dev_start(). */
        return NULL;
    }
    return g_strdup_printf("the backend of a '%s' can not log what it writes "
                           "to guest memory, which can not be mirrored then "
                           "(%s): use another backend, or a device that QEMU "
                           "emulates", object_get_typename(obj),
                           error_get_pretty(hdev->migration_blocker));
}
