/*
 * pmem-ha: devices whose writes to guest memory go past QEMU
 *
 * VFIO, vDPA, vhost and vhost-user devices write to guest memory from the
 * kernel, another process or hardware.  No dirty bit tells of it, so the
 * mirror would lose it; they and a device with a replica exclude each other.
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

/* By name, as these families share no type that all of them descend from. */
static bool type_bypasses(ObjectClass *oc)
{
    static const char *const prefixes[] = {
        "vfio-", "vhost-", "cryptodev-vhost-", "x-pci-proxy-dev",
    };
    unsigned i;

    for (; oc; oc = object_class_get_parent(oc)) {
        for (i = 0; i < ARRAY_SIZE(prefixes); i++) {
            if (g_str_has_prefix(object_class_get_name(oc), prefixes[i])) {
                return true;
            }
        }
    }
    return false;
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

static bool object_bypasses(const char *id)
{
    Object *obj = id ? object_resolve_path(id, NULL) : NULL;

    return obj && type_bypasses(object_get_class(obj));
}

/*
 * What is wrong with a device of class @oc; NULL if nothing is.  @remedy may
 * be set.
 */
static char *why_bypasses(ObjectClass *oc, const char *netdev,
                          const char *cryptodev, const char **remedy)
{
    if (oc && type_bypasses(oc)) {
        *remedy = "Use a device that QEMU emulates.\n";
        return g_strdup_printf("device type '%s'", object_class_get_name(oc));
    }
    if (netdev_bypasses(netdev)) {
        *remedy = "Use 'vhost=off' for a tap netdev, or another type.\n";
        return g_strdup_printf("vhost netdev '%s'", netdev);
    }
    if (object_bypasses(cryptodev)) {
        *remedy = "Use 'cryptodev-backend-builtin'.\n";
        return g_strdup_printf("vhost cryptodev '%s'", cryptodev);
    }
    return NULL;
}

static bool hide_device(DeviceListener *listener, const QDict *opts,
                        bool from_json, Error **errp)
{
    const char *driver = opts ? qdict_get_try_str(opts, "driver") : NULL;
    const char *remedy = NULL;
    g_autofree char *what = NULL;

    if (!driver) {
        return false;
    }
    what = why_bypasses(module_object_class_by_name(driver),
                        qdict_get_try_str(opts, "netdev"),
                        qdict_get_try_str(opts, "cryptodev"), &remedy);
    if (what) {
        error_setg(errp, "%s writes to guest memory past QEMU, which a "
                   "pmem-ha device with a replica can not mirror", what);
        error_append_hint(errp, "%s", remedy);
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
    Error **errp = opaque;
    const char *remedy = NULL;
    g_autofree char *what = NULL;
    g_autofree char *netdev = NULL;
    g_autofree char *cryptodev = NULL;

    if (!object_dynamic_cast(obj, TYPE_DEVICE)) {
        return 0;
    }
    netdev = get_str(obj, "netdev");
    cryptodev = get_str(obj, "cryptodev");
    what = why_bypasses(object_get_class(obj), netdev, cryptodev, &remedy);
    if (!what) {
        return 0;
    }
    error_setg(errp, "%s writes to guest memory past QEMU, which can not be "
               "mirrored", what);
    error_append_hint(errp, "%s", remedy);
    return 1;
}

bool pmem_ha_bypass_forbid(PmemHaDevice *s, Error **errp)
{
    ERRP_GUARD();

    if (object_child_foreach_recursive(object_get_root(), check_child, errp)) {
        error_prepend(errp, "pmem-ha device '%s' with a replica: ", s->name);
        return false;
    }
    if (!users++) {
        device_listener_register(&listener);
    }
    return true;
}

void pmem_ha_bypass_allow(void)
{
    if (!--users) {
        device_listener_unregister(&listener);
    }
}
