/*
 * pmem-ha: the object that says where a replica is
 *
 * It holds settings only; connections belong to the devices that use it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qapi/visitor.h"
#include "qemu/module.h"
#include "qom/object_interfaces.h"
#include "compat.h"
#include "internal.h"

#define DEFAULT_CONNECT_TIMEOUT_MS 5000
#define DEFAULT_LINK_TIMEOUT_MS    10000
#define MIN_LINK_TIMEOUT_MS        100

static bool may_set(Object *obj, const char *name, Error **errp)
{
    if (PMEM_REPLICA(obj)->users) {
        error_setg(errp, "pmem-replica property '%s' can not be changed while "
                   "a pmem-ha device uses the object", name);
        return false;
    }
    return true;
}

static void replica_get_addr(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    visit_type_SocketAddress(v, name, &PMEM_REPLICA(obj)->addr, errp);
}

static void replica_set_addr(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    PmemReplica *r = PMEM_REPLICA(obj);
    SocketAddress *addr = NULL;

    if (!may_set(obj, name, errp) ||
        !visit_type_SocketAddress(v, name, &addr, errp)) {
        return;
    }
    qapi_free_SocketAddress(r->addr);
    r->addr = addr;
}

static char **string_field(Object *obj, const char *name)
{
    PmemReplica *r = PMEM_REPLICA(obj);

    return !strcmp(name, "export") ? &r->export :
           !strcmp(name, "tls-creds") ? &r->tls_creds_id : &r->tls_hostname;
}

static void replica_get_string(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    g_autofree char *copy = g_strdup(*string_field(obj, name) ?: "");

    visit_type_str(v, name, &copy, errp);
}

static void replica_set_string(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    char **field = string_field(obj, name);
    char *value = NULL;

    if (may_set(obj, name, errp) && visit_type_str(v, name, &value, errp)) {
        g_free(*field);
        *field = value;
    }
}

static void replica_get_ms(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    PmemReplica *r = PMEM_REPLICA(obj);
    uint32_t value = !strcmp(name, "link-timeout-ms") ? r->link_timeout_ms :
                     r->connect_timeout_ms;

    visit_type_uint32(v, name, &value, errp);
}

static void replica_set_ms(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    PmemReplica *r = PMEM_REPLICA(obj);
    uint32_t value;

    if (!may_set(obj, name, errp) ||
        !visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (strcmp(name, "link-timeout-ms")) {
        r->connect_timeout_ms = value;
    } else if (value < MIN_LINK_TIMEOUT_MS) {
        error_setg(errp, "pmem-replica property 'link-timeout-ms' is %u, it "
                   "must be at least %u", value, MIN_LINK_TIMEOUT_MS);
    } else {
        r->link_timeout_ms = value;
    }
}

static int replica_get_transport(Object *obj, Error **errp)
{
    return PMEM_REPLICA(obj)->transport;
}

static void replica_set_transport(Object *obj, int value, Error **errp)
{
    if (may_set(obj, "transport", errp)) {
        PMEM_REPLICA(obj)->transport = value;
    }
}

static void replica_complete(UserCreatable *uc, Error **errp)
{
    PmemReplica *r = PMEM_REPLICA(uc);

    if (!r->addr) {
        error_setg(errp, "pmem-replica property 'addr' is not set, give for "
                   "example addr.type=unix,addr.path=PATH");
    } else if (r->addr->type != SOCKET_ADDRESS_TYPE_INET &&
               r->addr->type != SOCKET_ADDRESS_TYPE_UNIX) {
        error_setg(errp, "pmem-replica property 'addr.type' is '%s', it must "
                   "be inet or unix", SocketAddressType_str(r->addr->type));
    } else if (r->transport != PMEM_REPLICA_TRANSPORT_SOCKET) {
        error_setg(errp, "pmem-replica property 'transport' is '%s', which is "
                   "not available yet, use socket",
                   PmemReplicaTransport_str(r->transport));
    }
}

static void replica_init(Object *obj)
{
    PmemReplica *r = PMEM_REPLICA(obj);

    r->connect_timeout_ms = DEFAULT_CONNECT_TIMEOUT_MS;
    r->link_timeout_ms = DEFAULT_LINK_TIMEOUT_MS;
}

static void replica_finalize(Object *obj)
{
    PmemReplica *r = PMEM_REPLICA(obj);

    qapi_free_SocketAddress(r->addr);
    g_free(r->export);
    g_free(r->tls_creds_id);
    g_free(r->tls_hostname);
}

static void add_string(ObjectClass *oc, const char *name, const char *text)
{
    object_class_property_add(oc, name, "str", replica_get_string,
                              replica_set_string, NULL, NULL);
    object_class_property_set_description(oc, name, text);
}

static void add_ms(ObjectClass *oc, const char *name, const char *text)
{
    object_class_property_add(oc, name, "uint32", replica_get_ms,
                              replica_set_ms, NULL, NULL);
    object_class_property_set_description(oc, name, text);
}

static void replica_class_init(ObjectClass *oc, PmemHaClassData *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = replica_complete;
    object_class_property_add(oc, "addr", "SocketAddress", replica_get_addr,
                              replica_set_addr, NULL, NULL);
    object_class_property_set_description(oc, "addr",
        "address of qemu-pmem-replica (addr.type=unix|inet)");
    add_string(oc, "export", "name of the export there (default: the id of "
               "the device)");
    add_string(oc, "tls-creds", "id of a tls-creds object, client endpoint "
               "(default: no encryption)");
    add_string(oc, "tls-hostname", "name in the replica's certificate "
               "(default: the host of addr)");
    add_ms(oc, "connect-timeout-ms", "how long the start waits for the "
           "replica, in milliseconds; 0: not at all (default: 5000)");
    add_ms(oc, "link-timeout-ms", "silence after which the replica counts as "
           "lost, in milliseconds (default: 10000)");
    object_class_property_add_enum(oc, "transport", "PmemReplicaTransport",
                                   &PmemReplicaTransport_lookup,
                                   replica_get_transport,
                                   replica_set_transport);
    object_class_property_set_description(oc, "transport",
        "how to reach it: socket (default: socket)");
}

static const TypeInfo replica_info = {
    .name              = TYPE_PMEM_REPLICA,
    .parent            = TYPE_OBJECT,
    .class_init        = replica_class_init,
    .instance_size     = sizeof(PmemReplica),
    .instance_init     = replica_init,
    .instance_finalize = replica_finalize,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void replica_register_types(void)
{
    type_register_static(&replica_info);
}

type_init(replica_register_types)
