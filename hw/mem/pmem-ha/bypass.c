/*
 * pmem-ha: devices whose writes to guest memory go past QEMU
 *
 * VFIO, vDPA, vhost and vhost-user devices, and 3D renderers, write to guest
 * memory from the kernel, another process or hardware.  No dirty bit tells of
 * it, so the mirror would lose it; they and a device with a replica exclude
 * each other.  So do a balloon and virtio-mem, which take pages away.  A
 * vhost-user-blk is an exception, if its backend can log: see vhost-log.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "hw/qdev-core.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "internal.h"

/* Devices with a replica; BQL */
static unsigned users;
/* One of them is to adopt an image. */
static bool adopting;

#define PAST_QEMU "writes to guest memory past QEMU"
#define TAKES_AWAY "takes pages away from the guest"

/* By name, as these families share no type that all of them descend from. */
static const struct {
    const char *prefix;
    const char *what;
    const char *remedy;
} families[] = {
    /* Whether it can log is known only when its backend has said so. */
    { "vhost-user-blk", NULL, NULL },
    { "vfio-", PAST_QEMU, "use a device that QEMU emulates" },
    { "cryptodev-vhost-", PAST_QEMU, "use cryptodev-backend-builtin" },
    { "vhost-", PAST_QEMU, "use a device that QEMU emulates" },
    { "x-pci-proxy-dev", PAST_QEMU, "use a device that QEMU emulates" },
    /* A renderer of the host writes what the guest reads back. */
    { "virtio-gpu-gl", PAST_QEMU, "use virtio-gpu-pci" },
    { "virtio-gpu-rutabaga", PAST_QEMU, "use virtio-gpu-pci" },
    { "virtio-vga-gl", PAST_QEMU, "use virtio-vga" },
    { "virtio-vga-rutabaga", PAST_QEMU, "use virtio-vga" },
    { "virtio-balloon", TAKES_AWAY,
      "leave it out (libvirt: <memballoon model='none'/>)" },
    { "virtio-mem", TAKES_AWAY, "use pc-dimm" },
};

static char *check_name(const char *kind, const char *name)
{
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(families); i++) {
        if (g_str_has_prefix(name, families[i].prefix)) {
            if (!families[i].what && adopting) {
                /* Its backend maps the file, and not what is private here. */
                return g_strdup_printf("the backend of %s '%s' could write to "
                                       "the replica's image before it is "
                                       "adopted: use handover=copy, or a "
                                       "device that QEMU emulates", kind, name);
            }
            if (!families[i].what) {
                break;
            }
            return g_strdup_printf("%s '%s' %s, which can not be mirrored: %s",
                                   kind, name, families[i].what,
                                   families[i].remedy);
        }
    }
    return NULL;
}

/* What is wrong with type @oc; NULL if nothing is. */
static char *check_type(const char *kind, ObjectClass *oc)
{
    char *why = NULL;

    for (; oc && !why; oc = object_class_get_parent(oc)) {
        why = check_name(kind, object_class_get_name(oc));
    }
    return why;
}

static bool netdev_bypasses(const char *id)
{
    NetClientState *nc = id ? qemu_find_netdev(id) : NULL;

    if (!nc) {
        return false;
    }
    return nc->info->type == NET_CLIENT_DRIVER_VHOST_USER ||
           nc->info->type == NET_CLIENT_DRIVER_VHOST_VDPA ||
           get_vhost_net(nc);
}

/* What is wrong with a device; NULL if nothing is. */
static char *why_not(ObjectClass *oc, const char *netdev,
                     const char *cryptodev)
{
    char *why = check_type("device type", oc);
    Object *obj = cryptodev ? object_resolve_path(cryptodev, NULL) : NULL;

    if (!why && netdev_bypasses(netdev)) {
        why = g_strdup_printf("vhost netdev '%s' " PAST_QEMU ", which can not "
                              "be mirrored: set vhost=off for a tap, or use "
                              "another type of netdev", netdev);
    }
    if (!why && obj) {
        why = check_type("cryptodev backend", object_get_class(obj));
    }
    return why;
}

static bool hide_device(DeviceListener *listener, const QDict *opts,
                        bool from_json, Error **errp)
{
    const char *driver = opts ? qdict_get_try_str(opts, "driver") : NULL;
    g_autofree char *why = NULL;

    if (!driver) {
        return false;
    }
    /* It may be an alias, which has the prefix of the types behind it. */
    why = check_name("device type", driver) ?:
          why_not(module_object_class_by_name(driver),
                  qdict_get_try_str(opts, "netdev"),
                  qdict_get_try_str(opts, "cryptodev"));
    if (why) {
        error_setg(errp, "a pmem-ha device has a replica, and %s", why);
    }
    /* Never hidden: created, or an error. */
    return false;
}

static DeviceListener listener = {
    .hide_device = hide_device,
};

static char *get_str(Object *obj, const char *prop)
{
    return object_property_find(obj, prop) ?
           object_property_get_str(obj, prop, NULL) : NULL;
}

static int check_child(Object *obj, void *opaque)
{
    char **why = opaque;
    g_autofree char *netdev = NULL;
    g_autofree char *cryptodev = NULL;

    if (!object_dynamic_cast(obj, TYPE_DEVICE)) {
        return 0;
    }
    netdev = get_str(obj, "netdev");
    cryptodev = get_str(obj, "cryptodev");
    *why = why_not(object_get_class(obj), netdev, cryptodev) ?:
           pmem_ha_vhost_why_not(obj);
    return *why != NULL;
}

bool pmem_ha_bypass_forbid(PmemHaDevice *s, Error **errp)
{
    g_autofree char *why = NULL;

    adopting |= s->adopting;
    object_child_foreach_recursive(object_get_root(), check_child, &why);
    if (why) {
        error_setg(errp, "pmem-ha device '%s' has a replica, and %s", s->name,
                   why);
        return false;
    }
    if (!users) {
        if (!pmem_ha_vhost_keep_log(s, errp)) {
            return false;
        }
        device_listener_register(&listener);
    }
    users++;
    return true;
}

void pmem_ha_bypass_allow(void)
{
    if (!--users) {
        device_listener_unregister(&listener);
        pmem_ha_vhost_drop_log();
    }
}
