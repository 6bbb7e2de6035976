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
#include "migration/misc.h"
#include "migration/options.h"
#include "qom/object_interfaces.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/tcg.h"
#include "act.h"
#include "affinity.h"
#include "command.h"
#include "compat.h"
#include "heat-perf.h"
#include "intensity.h"
#include "plan.h"
#include "ring.h"
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
    NumaSchedEstimator estimator;
    bool working_sets;
    uint32_t intensity;         /* 1/1000 */
    bool intensity_given;
    char *latency;
    bool measure;
    char *root;
    char *runtime_dir;

    NsSampler *sampler;         /* since it is complete */
    NsAct *act;
    NsWorkers *workers;
    bool degraded;              /* what it decides, it may not do */
    QEMUTimer *timer;
    Notifier machine_done;
    NotifierWithReturn migration[MIG_MODE__MAX];
};

static NumaSched *current;      /* BQL */

static NsGuest *guest_now(const NumaSched *ns)
{
    return ns_guest_look(ns_sampler_largest(ns->sampler), ns->workers);
}

static void look(void *opaque)
{
    NumaSched *ns = opaque;

    /* Memory that arrives is migration's. */
    if (ns_sampler_is_idle(ns->sampler) &&
        !runstate_check(RUN_STATE_INMIGRATE) &&
        !migration_in_incoming_postcopy()) {
        g_autoptr(NsGuest) guest = guest_now(ns);
        Error *err = NULL;

        if (!ns_act_follow(ns->act, guest, &err)) {
            ns->degraded = true;
            ns_sampler_degrade(ns->sampler, err);
        }
        ns_sampler_look(ns->sampler, g_steal_pointer(&guest));
    }
    timer_mod(ns->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ns->interval);
}

static void decided(void *opaque, NumaSchedDecision *decision)
{
    NumaSched *ns = opaque;
    g_autoptr(NsGuest) guest = NULL;
    Error *err = NULL;

    if (ns->mode != NUMA_SCHED_MODE_AUTO || ns->degraded) {
        return;
    }
    guest = guest_now(ns);
    for (NumaSchedMoveList *m = decision->moves; m; m = m->next) {
        if (!ns_act_bind(ns->act, guest, m->value->name, m->value->cpus,
                         &err)) {
            /* All of it, or nothing */
            for (NumaSchedMoveList *d = decision->moves; d != m; d = d->next) {
                ns_act_let_go(ns->act, guest, d->value->name);
            }
            ns->degraded = true;
            ns_sampler_degrade(ns->sampler, err);
            return;
        }
    }
    for (NumaSchedMoveList *m = decision->moves; m; m = m->next) {
        const NumaPlanOption *to = m->value->to;

        if (to->memory == NUMA_PLAN_MEMORY_FOLLOW) {
            ns_sampler_move(ns->sampler, m->value->name, to->node);
        }
    }
    decision->applied = true;
}

/* Its pages are read, and written down as dirty, at the same time. */
static int migration_changed(NotifierWithReturn *n, MigrationEvent *e,
                             Error **errp)
{
    bool begins = e->type == MIG_EVENT_PRECOPY_SETUP;

    if (begins && migrate_background_snapshot() &&
        ns_sampler_is_moving(current->sampler)) {
        error_setg(errp, "numa-sched '%s' watches memory that moves, as a "
                   "background snapshot does: wait, or use numa-sched-cancel",
                   object_get_canonical_path_component(OBJECT(current)));
        return -EBUSY;
    }
    if (begins && ns_ring_is_fresh()) {
        error_setg(errp, "numa-sched '%s' began to log writes just now for "
                   "estimator 'dirty-ring': migrate again in 2 seconds",
                   object_get_canonical_path_component(OBJECT(current)));
        return -EBUSY;
    }
    /* Postcopy begins with "done" of precopy, and goes on reading. */
    ns_sampler_pause(current->sampler, begins || migration_is_running());
    ns_ring_hold(begins || migration_is_running());
    return 0;
}

/* Called at once if the machine is there */
static void machine_done(Notifier *n, void *data)
{
    NumaSched *ns = container_of(n, NumaSched, machine_done);

    /* Of QEMU's accelerators only TCG's threads access memory themselves. */
    ns_perf_own_addresses(tcg_enabled());
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
        .estimator = ns->estimator, .working_sets = ns->working_sets,
        .intensity = ns->intensity_given ? (int)ns->intensity : -1,
        .latency = ns->latency, .measure = ns->measure, .root = ns->root,
        .runtime_dir = ns->runtime_dir, .decided = decided,
    };

    if (current) {
        error_setg(errp, "numa-sched '%s' can not be created: there may be one,"
                   " and there is '%s'; delete that first", config.id,
                   object_get_canonical_path_component(OBJECT(current)));
        return;
    }
    ns->sampler = ns_sampler_new(&config, ns, errp);
    if (!ns->sampler) {
        return;
    }
    current = ns;
    ns->act = ns_act_new();
    ns->workers = ns_workers_new();
    ns_sampler_pause(ns->sampler, migration_is_running());
    ns_ring_hold(migration_is_running());
    for (int mode = 0; mode < MIG_MODE__MAX; mode++) {
        migration_add_notifier_mode(&ns->migration[mode], migration_changed,
                                    mode);
    }
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
    ns->intensity = NS_INTENSITY;
    ns->root = g_strdup("/");
}

static void numa_sched_finalize(Object *obj)
{
    NumaSched *ns = NUMA_SCHED(obj);

    if (ns->sampler) {
        qemu_remove_machine_init_done_notifier(&ns->machine_done);
        for (int mode = 0; mode < MIG_MODE__MAX; mode++) {
            migration_remove_notifier(&ns->migration[mode]);
        }
        timer_free(ns->timer);
        ns_sampler_free(ns->sampler);
        ns_act_free(ns->act);
        ns_workers_free(ns->workers);
        current = NULL;
    }
    g_free(ns->latency);
    g_free(ns->root);
    g_free(ns->runtime_dir);
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

static int get_estimator(Object *obj, Error **errp)
{
    return NUMA_SCHED(obj)->estimator;
}

static void set_estimator(Object *obj, int value, Error **errp)
{
    if (may_set(obj, "estimator", errp)) {
        NUMA_SCHED(obj)->estimator = value;
    }
}

static bool get_working_set(Object *obj, Error **errp)
{
    return NUMA_SCHED(obj)->working_sets;
}

static void set_working_set(Object *obj, bool value, Error **errp)
{
    if (may_set(obj, "working-set", errp)) {
        NUMA_SCHED(obj)->working_sets = value;
    }
}

typedef struct NumberProperty {
    const char *name;
    size_t at;
    bool is_size;               /* 64 bits; otherwise 32 */
    uint64_t min, max;
    const char *about;
    size_t given;               /* offset of a bool that says so; 0: none */
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
    { "memory-intensity", offsetof(NumaSched, intensity), false, 0,
      NS_MAX_INTENSITY,
      "Part of its CPU time that a group would wait for memory if all of it "
      "were local, in 1/1000 (default: measured where perf permits, or 500)",
      offsetof(NumaSched, intensity_given) },
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
        return;
    }
    if (p->is_size) {
        *(uint64_t *)at = value;
    } else {
        *(uint32_t *)at = value;
    }
    if (p->given) {
        *(bool *)((char *)NUMA_SCHED(obj) + p->given) = true;
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

static bool get_measure(Object *obj, Error **errp)
{
    return NUMA_SCHED(obj)->measure;
}

static void set_measure(Object *obj, bool value, Error **errp)
{
    if (may_set(obj, "measure-latency", errp)) {
        NUMA_SCHED(obj)->measure = value;
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

static char *get_runtime_dir(Object *obj, Error **errp)
{
    return g_strdup(NUMA_SCHED(obj)->runtime_dir);
}

static void set_runtime_dir(Object *obj, const char *value, Error **errp)
{
    if (may_set(obj, "runtime-dir", errp)) {
        g_free(NUMA_SCHED(obj)->runtime_dir);
        NUMA_SCHED(obj)->runtime_dir = g_strdup(value);
    }
}

static void numa_sched_class_init(ObjectClass *oc, NS_CONST void *data)
{
    USER_CREATABLE_CLASS(oc)->complete = numa_sched_complete;
    object_class_property_add_enum(oc, "mode", "NumaSchedMode",
                                   &NumaSchedMode_lookup, get_mode, set_mode);
    object_class_property_set_description(oc, "mode",
        "observe: only show what would be better; advise: emit events, too; "
        "auto: do it (default: observe)");
    object_class_property_add_enum(oc, "estimator", "NumaSchedEstimator",
                                   &NumaSchedEstimator_lookup, get_estimator,
                                   set_estimator);
    object_class_property_set_description(oc, "estimator",
        "How the use of memory is known: auto, none, pagemap-scan, dirty-ring, "
        "soft-dirty, damon, perf (default: auto)");
    object_class_property_add_bool(oc, "working-set", get_working_set,
                                   set_working_set);
    object_class_property_set_description(oc, "working-set",
        "on: measure which part of memory that is far is used, by the "
        "estimator; off: all of it counts (default: off)");
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
    object_class_property_add_bool(oc, "measure-latency", get_measure,
                                   set_measure);
    object_class_property_set_description(oc, "measure-latency",
        "Measure latencies once, in the background, where there is neither a "
        "file nor the firmware's table (default: off)");
    object_class_property_add_str(oc, "topology-root", get_root, set_root);
    object_class_property_set_description(oc, "topology-root",
        "Directory with another host's sysfs tree, for tests (default: /)");
    object_class_property_add_str(oc, "runtime-dir", get_runtime_dir,
                                  set_runtime_dir);
    object_class_property_set_description(oc, "runtime-dir",
        "Directory of the table in which QEMUs in mode auto agree (default: "
        "$XDG_RUNTIME_DIR, or QEMU's own)");
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
    ns_ring_use_kvm();
    type_register_static(&numa_sched_info);
}

type_init(numa_sched_register)

/*
 * Commands
 */

static NumaSched *find(const char *id, Error **errp)
{
    if (!current ||
        strcmp(object_get_canonical_path_component(OBJECT(current)), id)) {
        error_setg(errp, "There is no numa-sched '%s'; object-add creates one",
                   id);
        return NULL;
    }
    return current;
}

static char *cpus_of(const NumaSched *ns, uint32_t node, Error **errp)
{
    NsTopology *t = ns_topology_read(ns->root, errp);
    char *cpus = NULL;

    for (uint32_t i = 0; t && i < t->n; i++) {
        if (t->node[i].id == node && t->node[i].cpus) {
            cpus = ns_cpu_list(&t->node[i]);
        }
    }
    if (t && !cpus) {
        error_setg(errp, "numa-sched: node %u has no CPUs any more", node);
    }
    ns_topology_free(t);
    return cpus;
}

NumaSchedMoveResult *qmp_numa_sched_move(const char *id, bool has_vcpu,
                                         int64_t vcpu, bool has_node,
                                         uint16_t node, uint32_t target,
                                         bool has_dry_run, bool dry_run,
                                         Error **errp)
{
    NumaSched *ns = find(id, errp);
    g_autoptr(NumaSchedInfo) info = NULL;
    g_autoptr(NumaSchedMoveResult) result = NULL;
    g_autoptr(NsGuest) guest = NULL;
    g_autofree char *cpus = NULL;
    const char *group;
    bool follow;

    if (!ns) {
        return NULL;
    }
    if (has_vcpu == has_node) {
        error_setg(errp, "numa-sched-move: give 'vcpu', or 'node'");
        return NULL;
    }
    info = ns_sampler_info(ns->sampler);
    if (!info) {
        error_setg(errp, "numa-sched '%s' has not looked yet: try again", id);
        return NULL;
    }
    result = ns_move_result(info, has_vcpu ? &vcpu : NULL, node, target,
                            ns->bandwidth, &group, errp);
    if (!result || dry_run) {
        return g_steal_pointer(&result);
    }
    follow = result->to->memory == NUMA_PLAN_MEMORY_FOLLOW;
    if (follow && info->moving &&
        info->moving->state <= NUMA_MIGRATE_STATE_UNDOING) {
        error_setg(errp, "numa-sched '%s': memory of group '%s' moves already: "
                   "wait, or use numa-sched-cancel", id, info->moving->group);
        return NULL;
    }
    cpus = cpus_of(ns, target, errp);
    guest = guest_now(ns);
    if (!cpus || !ns_act_bind(ns->act, guest, group, cpus, errp)) {
        return NULL;
    }
    if (follow) {
        ns_sampler_move(ns->sampler, group, target);
    }
    return g_steal_pointer(&result);
}

void qmp_numa_sched_cancel(const char *id, Error **errp)
{
    NumaSched *ns = find(id, errp);

    if (ns) {
        ns_sampler_cancel(ns->sampler);
    }
}

NumaSchedInfoList *qmp_query_numa_sched(Error **errp)
{
    NumaSchedInfo *info = current ? ns_sampler_info(current->sampler) : NULL;
    NumaSchedInfoList *list = NULL;

    if (info) {
        QAPI_LIST_PREPEND(list, info);
    }
    return list;
}
