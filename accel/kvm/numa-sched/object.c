/*
 * NUMA scheduler: the object
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A timer of the main loop takes down the guest's threads and memory, which is
 * quick; the rest is the sampler's.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-numa-sched.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/visitor.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qom/object_interfaces.h"
#include "system/system.h"
#include "compat.h"
#include "plan.h"
#include "sampler.h"
#include "step.h"

#define TYPE_NUMA_SCHED "numa-sched"
OBJECT_DECLARE_SIMPLE_TYPE(NumaSched, NUMA_SCHED)

struct NumaSched {
    Object parent_obj;

    NumaSchedMode mode;
    uint32_t interval;          /* ms */
    uint32_t hysteresis;        /* percent */
    uint32_t horizon;           /* s */
    uint64_t bandwidth;
    char *latency;
    char *root;

    NsSampler *sampler;         /* since it is complete */
    QEMUTimer *timer;
    Notifier machine_done;
};

static NumaSched *current;      /* BQL */

static void look(void *opaque)
{
    NumaSched *ns = opaque;

    if (ns_sampler_is_idle(ns->sampler)) {
        ns_sampler_look(ns->sampler,
                        ns_guest_look(ns_sampler_largest(ns->sampler)));
    }
    timer_mod(ns->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ns->interval);
}

/* Called at once if the machine is there */
static void machine_done(Notifier *n, void *data)
{
    NumaSched *ns = container_of(n, NumaSched, machine_done);

    ns->timer = timer_new_ms(QEMU_CLOCK_REALTIME, look, ns);
    look(ns);
}

static void numa_sched_complete(UserCreatable *uc, Error **errp)
{
    NumaSched *ns = NUMA_SCHED(uc);
    NsConfig config = {
        .id = object_get_canonical_path_component(OBJECT(uc)),
        .mode = ns->mode, .hysteresis = ns->hysteresis,
        .horizon = ns->horizon, .bandwidth = ns->bandwidth,
        .latency = ns->latency, .root = ns->root,
    };

    if (current) {
        error_setg(errp, "numa-sched '%s' can not be created: there may be one,"
                   " and there is '%s'; delete that first", config.id,
                   object_get_canonical_path_component(OBJECT(current)));
        return;
    }
    ns->sampler = ns_sampler_new(&config, errp);
    if (!ns->sampler) {
        return;
    }
    current = ns;
    ns->machine_done.notify = machine_done;
    qemu_add_machine_init_done_notifier(&ns->machine_done);
}

static void numa_sched_init(Object *obj)
{
    NumaSched *ns = NUMA_SCHED(obj);

    ns->mode = NUMA_SCHED_MODE_OBSERVE;
    ns->interval = 2000;
    ns->hysteresis = NS_HYSTERESIS / 10;
    ns->horizon = NS_HORIZON;
    ns->bandwidth = NS_BANDWIDTH;
    ns->root = g_strdup("/");
}

static void numa_sched_finalize(Object *obj)
{
    NumaSched *ns = NUMA_SCHED(obj);

    if (ns->sampler) {
        current = NULL;
        qemu_remove_machine_init_done_notifier(&ns->machine_done);
        timer_free(ns->timer);
        ns_sampler_free(ns->sampler);
    }
    g_free(ns->latency);
    g_free(ns->root);
}

/*
 * Properties
 */

static bool may_set(Object *obj, const char *name, Error **errp)
{
    if (NUMA_SCHED(obj)->sampler) {
        error_setg(errp, "numa-sched '%s' property '%s' can not be set now:"
                   " give it when the object is created",
                   object_get_canonical_path_component(obj), name);
        return false;
    }
    return true;
}

static int get_mode(Object *obj, Error **errp)
{
    return NUMA_SCHED(obj)->mode;
}

static void set_mode(Object *obj, int value, Error **errp)
{
    if (may_set(obj, "mode", errp)) {
        NUMA_SCHED(obj)->mode = value;
    }
}

typedef struct NumberProperty {
    const char *name;
    size_t at;
    bool is_size;               /* 64 bits; otherwise 32 */
    uint64_t min, max;
    const char *about;
} NumberProperty;

static const NumberProperty number[] = {
    { "interval-ms", offsetof(NumaSched, interval), false, 100, 60000,
      "Time between two looks at the host and the guest (default: 2000)" },
    { "hysteresis", offsetof(NumaSched, hysteresis), false, 0, 100,
      "What a change has to gain, in percent of what it is about costs "
      "(default: 10)" },
    { "horizon", offsetof(NumaSched, horizon), false, 1, NS_MAX_HORIZON,
      "Seconds in which a change has to pay (default: 60)" },
    { "max-migrate-bandwidth", offsetof(NumaSched, bandwidth), true,
      NS_MIN_BANDWIDTH, NS_MAX_BANDWIDTH,
      "Bytes per second at which memory can be moved between nodes "
      "(default: 256 MiB)" },
};

static void get_number(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    const NumberProperty *p = opaque;
    char *at = (char *)NUMA_SCHED(obj) + p->at;

    if (p->is_size) {
        visit_type_size(v, name, (uint64_t *)at, errp);
    } else {
        visit_type_uint32(v, name, (uint32_t *)at, errp);
    }
}

static void set_number(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    const NumberProperty *p = opaque;
    char *at = (char *)NUMA_SCHED(obj) + p->at;
    uint64_t value;

    if (!may_set(obj, name, errp) ||
        !(p->is_size ? visit_type_size(v, name, &value, errp) :
                       visit_type_uint64(v, name, &value, errp))) {
        return;
    }
    if (value < p->min || value > p->max) {
        /* It has no id yet. */
        error_setg(errp, "numa-sched property '%s' can not be %" PRIu64
                   ": give %" PRIu64 " to %" PRIu64, name, value, p->min,
                   p->max);
    } else if (p->is_size) {
        *(uint64_t *)at = value;
    } else {
        *(uint32_t *)at = value;
    }
}

static char *get_latency(Object *obj, Error **errp)
{
    return g_strdup(NUMA_SCHED(obj)->latency);
}

static void set_latency(Object *obj, const char *value, Error **errp)
{
    if (may_set(obj, "latency", errp)) {
        g_free(NUMA_SCHED(obj)->latency);
        NUMA_SCHED(obj)->latency = g_strdup(value);
    }
}

static char *get_root(Object *obj, Error **errp)
{
    return g_strdup(NUMA_SCHED(obj)->root);
}

static void set_root(Object *obj, const char *value, Error **errp)
{
    if (may_set(obj, "topology-root", errp)) {
        g_free(NUMA_SCHED(obj)->root);
        NUMA_SCHED(obj)->root = g_strdup(value);
    }
}

static void numa_sched_class_init(ObjectClass *oc, NS_CONST void *data)
{
    USER_CREATABLE_CLASS(oc)->complete = numa_sched_complete;
    object_class_property_add_enum(oc, "mode", "NumaSchedMode",
                                   &NumaSchedMode_lookup, get_mode, set_mode);
    object_class_property_set_description(oc, "mode",
        "observe: only show what would be better; advise: emit events, too "
        "(default: observe)");
    for (unsigned i = 0; i < ARRAY_SIZE(number); i++) {
        object_class_property_add(oc, number[i].name,
                                  number[i].is_size ? "size" : "uint32",
                                  get_number, set_number, NULL,
                                  (void *)&number[i]);
        object_class_property_set_description(oc, number[i].name,
                                              number[i].about);
    }
    object_class_property_add_str(oc, "latency", get_latency, set_latency);
    object_class_property_set_description(oc, "latency",
        "File with lines of FROM TO NANOSECONDS (default: what the kernel "
        "says)");
    object_class_property_add_str(oc, "topology-root", get_root, set_root);
    object_class_property_set_description(oc, "topology-root",
        "Directory with another host's sysfs tree, for tests (default: /)");
}

static const TypeInfo numa_sched_info = {
    .name = TYPE_NUMA_SCHED,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(NumaSched),
    .instance_init = numa_sched_init,
    .instance_finalize = numa_sched_finalize,
    .class_init = numa_sched_class_init,
    .interfaces = (NS_CONST InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void numa_sched_register(void)
{
    type_register_static(&numa_sched_info);
}

type_init(numa_sched_register)

NumaSchedInfoList *qmp_query_numa_sched(Error **errp)
{
    NumaSchedInfo *info = current ? ns_sampler_info(current->sampler) : NULL;
    NumaSchedInfoList *list = NULL;

    if (info) {
        QAPI_LIST_PREPEND(list, info);
    }
    return list;
}
