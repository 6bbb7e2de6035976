/*
 * pmem-ha: an NVDIMM whose flushes are mirrored to a replica
 *
 * A QOM child of nvdimm: slot, address, labels, _DSM and hot-plug are its
 * parent's.  This file is the device's outside: properties, realize, reset.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-pmem-ha.h"
#include "qapi/visitor.h"
#include "qom/object_interfaces.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/mem/pc-dimm.h"
#include "hw/qdev-properties.h"
#include "hw/resettable.h"
#include "qemu/sockets.h"
#include "system/hostmem.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/tcg.h"
#include "system/qtest.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

#define DEFAULT_MAX_LAG      (16 * MiB)
#define DEFAULT_STAGING_SIZE (64 * MiB)

typedef struct PmemHaClass {
    NVDIMMClass parent_class;

    void (*parent_write_label_data)(NVDIMMDevice *nvdimm, const void *buf,
                                    uint64_t size, uint64_t offset);
} PmemHaClass;

DECLARE_CLASS_CHECKERS(PmemHaClass, PMEM_HA, TYPE_PMEM_HA)

/*
 * A label write is durable when the _DSM returns, and no flush follows it:
 * it is a flush of its own.
 */
static void pmem_ha_write_label_data(NVDIMMDevice *nvdimm, const void *buf,
                                     uint64_t size, uint64_t offset)
{
    PmemHaDevice *s = PMEM_HA(nvdimm);

    PMEM_HA_GET_CLASS(s)->parent_write_label_data(nvdimm, buf, size, offset);
    trace_pmem_ha_label(s->name, offset, size);
    pmem_ha_flush(s, current_cpu);
}

static void pmem_ha_reset_hold(Object *obj, ResetType type)
{
    PmemHaDevice *s = PMEM_HA(obj)->leader;

    pmem_ha_drop_waiters(s);
    if (type == RESET_TYPE_SNAPSHOT_LOAD) {
        /* What is loaded next goes past the dirty bits. */
        QEMU_LOCK_GUARD(&s->lock);
        s->restored = true;
    }
}

static void pmem_ha_exit(Notifier *n, void *data)
{
    /* By atexit(): the main thread has let the lock go, others have not. */
    bool locked = bql_locked();

    if (!locked) {
        bql_lock();
    }
    pmem_ha_finish(container_of(n, PmemHaDevice, exit_notifier));
    if (!locked) {
        bql_unlock();
    }
}

static bool check_options(PmemHaDevice *s, Error **errp)
{
    Object *machine = qdev_get_machine();
    Object *backend = OBJECT(PC_DIMM(s)->hostmem);
    g_autofree char *persistence = NULL;

    if (s->on_link_loss == PMEM_HA_LINK_LOSS_SOLO) {
        error_setg(errp, "pmem-ha device '%s': on-link-loss=solo is not "
                   "available yet, use stall or stop", s->name);
        return false;
    }
    if (s->flush_track_insn) {
        error_setg(errp, "pmem-ha device '%s': flush-track=insn is not "
                   "available yet, use hint", s->name);
        return false;
    }
    if (s->staging_size < PMEM_HA_PAGE_SIZE) {
        error_setg(errp, "pmem-ha device '%s': staging-size=%" PRIu64
                   " is less than a page (%d)", s->name, s->staging_size,
                   PMEM_HA_PAGE_SIZE);
        return false;
    }
    if (object_property_find(machine, "nvdimm-persistence")) {
        persistence = object_property_get_str(machine, "nvdimm-persistence",
                                              NULL);
    }
    if (s->replica && !g_strcmp0(persistence, "cpu")) {
        error_setg(errp, "pmem-ha device '%s': machine property "
                   "nvdimm-persistence=cpu tells the guest not to flush, use "
                   "mem-ctrl", s->name);
        return false;
    }
    if (s->replica && !tcg_enabled() && !qtest_enabled()) {
        error_setg(errp, "pmem-ha device '%s': property 'replica' needs "
                   "-accel tcg; the dirty log of other accelerators is not "
                   "verified yet", s->name);
        return false;
    }
    if (s->state_path && (!object_property_find(backend, "mem-path") ||
                          !object_property_get_bool(backend, "share", NULL))) {
        error_setg(errp, "pmem-ha device '%s': property 'state-file' speaks "
                   "for a file that outlives QEMU, use a memory-backend-file "
                   "with share=on as memdev", s->name);
        return false;
    }
    if (s->state_path && object_property_get_bool(backend, "discard-data",
                                                  NULL)) {
        error_setg(errp, "pmem-ha device '%s': memdev property "
                   "discard-data=on empties the file that 'state-file' speaks "
                   "for, remove one of them", s->name);
        return false;
    }
    if (s->replica && (NVDIMM(s)->readonly || NVDIMM(s)->unarmed)) {
        error_setg(errp, "pmem-ha device '%s': with a read-only memdev or "
                   "unarmed=on nothing is written that could be mirrored, "
                   "remove 'replica'", s->name);
        return false;
    }
    if (s->replica && replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "pmem-ha device '%s': property 'replica' can not be "
                   "used with record/replay, since the time of an "
                   "acknowledgement is not recorded; remove -icount option "
                   "'rr'", s->name);
        return false;
    }
    return true;
}

/* The replicator uses them without the BQL, so they must stay. */
static bool hold_creds(PmemHaDevice *s, Error **errp)
{
    const char *id = s->replica->tls_creds_id;
    Object *obj;

    if (!id) {
        return true;
    }
    obj = object_resolve_path_component(object_get_objects_root(), id);
    if (!object_dynamic_cast(obj, TYPE_QCRYPTO_TLS_CREDS)) {
        error_setg(errp, "pmem-replica property 'tls-creds': no tls-creds "
                   "object with id '%s'", id);
        return false;
    }
    if (!qcrypto_tls_creds_check_endpoint(QCRYPTO_TLS_CREDS(obj),
                                          QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT,
                                          errp)) {
        return false;
    }
    s->creds = QCRYPTO_TLS_CREDS(object_ref(obj));
    return true;
}

/* Undo what start_mirror() did so far. */
static void stop_mirror(PmemHaDevice *s)
{
    if (s->tracking) {
        pmem_ha_replicator_stop(s);
        pmem_ha_drop_waiters(s);
        pmem_ha_track(s, false);
        ram_block_discard_disable(false);
        pmem_ha_bypass_allow();
        s->replica->users--;
        s->tracking = false;
    }
    pmem_ha_adopt_cleanup(s);
    pmem_ha_handover_cleanup(s);
}

bool pmem_ha_waits_for_replica(PmemHaDevice *s)
{
    return s->replica && s->replica->connect_timeout_ms &&
           (!phase_check(PHASE_MACHINE_READY) || s->starting_group);
}

static bool start_mirror(PmemHaDevice *s, Error **errp)
{
    bool wait = pmem_ha_waits_for_replica(s);

    if (!pmem_ha_handover_init(s, errp) ||
        (s->adopting && !pmem_ha_adopt_init(s, errp))) {
        return false;
    }
    s->staging = mmap(NULL, s->staging_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->staging == MAP_FAILED) {
        s->staging = NULL;
        error_setg_errno(errp, errno, "pmem-ha device '%s': can not map "
                         "staging-size=%" PRIu64, s->name, s->staging_size);
        return false;
    }
    if (!hold_creds(s, errp)) {
        return false;
    }
    if (!pmem_ha_bypass_forbid(s, errp)) {
        return false;
    }
    /* A page that is taken away would change without a dirty bit. */
    if (ram_block_discard_disable(true) < 0) {
        pmem_ha_bypass_allow();
        error_setg(errp, "pmem-ha device '%s': another device discards guest "
                   "memory, which can not be mirrored; remove one of them",
                   s->name);
        return false;
    }
    s->link_state = s->shown = PMEM_HA_STATE_CONNECTING;
    s->replica->users++;
    s->tracking = true;
    pmem_ha_track(s, true);
    /* The proof or the full copy stands for all that was before. */
    pmem_ha_clear_all(s);
    if (!wait && !pmem_ha_begin(s, errp)) {
        return false;
    }
    pmem_ha_replicator_start(s);
    return !wait || (pmem_ha_replicator_wait(s, errp) &&
                     pmem_ha_begin(s, errp));
}

static bool pmem_ha_connect_to(PmemHaDevice *s, Error **errp)
{
    s->export = g_strdup(s->replica->export ?: s->consistency_group ?:
                         s->name);
    s->peer = socket_uri(s->replica->addr);
    s->role = runstate_check(RUN_STATE_INMIGRATE) ? PMEM_HA_ROLE_INCOMING :
              PMEM_HA_ROLE_PRIMARY;
    s->adopting = s->role == PMEM_HA_ROLE_INCOMING &&
                  s->handover == PMEM_HA_HANDOVER_ADOPT;
    if (strlen(s->export) > PMEM_HA_WIRE_MAX_NAME) {
        error_setg(errp, "pmem-ha device '%s': the name of the export has "
                   "more than %d bytes, set pmem-replica property 'export'",
                   s->name, PMEM_HA_WIRE_MAX_NAME);
        return false;
    }
    return true;
}

bool pmem_ha_start(PmemHaDevice *s, Error **errp)
{
    if ((s->replica && !pmem_ha_connect_to(s, errp)) ||
        !pmem_ha_lock_image(s, errp) || !pmem_ha_prove(s, errp)) {
        return false;
    }
    pmem_ha_stall_init(s);
    if (!(s->replica ? start_mirror(s, errp) : pmem_ha_begin(s, errp))) {
        stop_mirror(s);
        pmem_ha_stall_cleanup(s);
        return false;
    }
    s->exit_notifier.notify = pmem_ha_exit;
    qemu_add_exit_notifier(&s->exit_notifier);
    s->started = true;
    return true;
}

static void pmem_ha_realize(NVDIMMDevice *nvdimm, Error **errp)
{
    PmemHaDevice *s = PMEM_HA(nvdimm);
    DeviceState *dev = DEVICE(s);
    MemoryRegion *mr;

    if (!nvdimm->nvdimm_mr) {
        return;     /* the parent failed, and said so */
    }
    s->name = dev->id ? g_strdup(dev->id) :
              object_get_canonical_path(OBJECT(s));
    s->slot = PC_DIMM(s)->slot;
    mr = host_memory_backend_get_memory(PC_DIMM(s)->hostmem);
    s->size = memory_region_size(mr);
    s->part[0] = (PmemHaPart) {
        .dev = s,
        .mr = mr,
        .ram = memory_region_get_ram_ptr(mr),
        .size = s->size,
    };
    s->n_parts = 1;
    s->link_state = s->shown = PMEM_HA_STATE_STANDALONE;
    qemu_guest_getrandom_nofail(&s->instance, sizeof(s->instance));
    if (!check_options(s, errp) || !pmem_ha_hint_add(s, errp)) {
        return;
    }
    if (!(s->consistency_group ? pmem_ha_group_add(s, errp) :
          pmem_ha_start(s, errp))) {
        pmem_ha_hint_remove(s);
        return;
    }
    qemu_register_resettable(OBJECT(s));
    pmem_ha_register(s);
    /* KVM's way to get rid of a poisoned page is to empty it. */
    qemu_ram_set_keep(mr->ram_block, true);
    s->realized_ha = true;
}

/*
 * NVDIMMs can not be unplugged on these machines, so this is the way out of
 * a realize that failed later, in the machine's plug handler.
 */
static void pmem_ha_unrealize(NVDIMMDevice *nvdimm)
{
    PmemHaDevice *s = PMEM_HA(nvdimm);

    if (!s->realized_ha) {
        return;
    }
    s->realized_ha = false;
    qemu_ram_set_keep(s->part[0].mr->ram_block, false);
    pmem_ha_unregister(s);
    qemu_unregister_resettable(OBJECT(s));
    if (s->started) {
        qemu_remove_exit_notifier(&s->exit_notifier);
        stop_mirror(s);
        pmem_ha_stall_cleanup(s);
    }
    pmem_ha_hint_remove(s);
}

/* The promise must not change behind the back of those who rely on it. */
static bool may_set(Object *obj, Error **errp)
{
    if (DEVICE(obj)->realized) {
        error_setg(errp, "pmem-ha device '%s': its properties can not be "
                   "changed any more", PMEM_HA(obj)->name);
        return false;
    }
    return true;
}

static int pmem_ha_get_mode(Object *obj, Error **errp)
{
    return PMEM_HA(obj)->mode;
}

static void pmem_ha_set_mode(Object *obj, int value, Error **errp)
{
    if (!may_set(obj, errp)) {
        return;
    }
    PMEM_HA(obj)->mode = value;
}

static int pmem_ha_get_ack(Object *obj, Error **errp)
{
    return PMEM_HA(obj)->ack;
}

static void pmem_ha_set_ack(Object *obj, int value, Error **errp)
{
    if (!may_set(obj, errp)) {
        return;
    }
    PMEM_HA(obj)->ack = value;
}

static int pmem_ha_get_link_loss(Object *obj, Error **errp)
{
    return PMEM_HA(obj)->on_link_loss;
}

static void pmem_ha_set_link_loss(Object *obj, int value, Error **errp)
{
    if (!may_set(obj, errp)) {
        return;
    }
    PMEM_HA(obj)->on_link_loss = value;
}

static int pmem_ha_get_handover(Object *obj, Error **errp)
{
    return PMEM_HA(obj)->handover;
}

/* Where a guest goes is known when it goes. */
static void pmem_ha_set_handover(Object *obj, int value, Error **errp)
{
    PMEM_HA(obj)->leader->handover = value;
    PMEM_HA(obj)->handover = value;
}

static char *pmem_ha_get_track(Object *obj, Error **errp)
{
    return g_strdup(PMEM_HA(obj)->flush_track_insn ? "insn" : "hint");
}

static void pmem_ha_set_track(Object *obj, const char *value, Error **errp)
{
    if (!may_set(obj, errp)) {
        return;
    }
    if (strcmp(value, "hint") && strcmp(value, "insn")) {
        error_setg(errp, "Property '%s.flush-track' is '%s', it must be hint "
                   "or insn", object_get_typename(obj), value);
        return;
    }
    PMEM_HA(obj)->flush_track_insn = !strcmp(value, "insn");
}

static const Property pmem_ha_properties[] = {
    DEFINE_PROP_LINK("replica", PmemHaDevice, replica, TYPE_PMEM_REPLICA,
                     PmemReplica *),
    DEFINE_PROP_STRING("state-file", PmemHaDevice, state_path),
    DEFINE_PROP_SIZE("max-lag", PmemHaDevice, max_lag, DEFAULT_MAX_LAG),
    DEFINE_PROP_SIZE("staging-size", PmemHaDevice, staging_size,
                     DEFAULT_STAGING_SIZE),
    DEFINE_PROP_STRING("consistency-group", PmemHaDevice, consistency_group),
};

static void pmem_ha_init(Object *obj)
{
    PmemHaDevice *s = PMEM_HA(obj);

    s->leader = s;
    s->image_fd = -1;
    s->mode = PMEM_HA_MODE_SYNC;
    s->ack = QAPI_PMEM_HA_ACK_JOURNALED;
    s->on_link_loss = PMEM_HA_LINK_LOSS_STALL;
    s->waiters = g_array_new(false, false, sizeof(PmemHaWaiter));
    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->work);
    qemu_cond_init(&s->settled);
}

static void pmem_ha_finalize(Object *obj)
{
    PmemHaDevice *s = PMEM_HA(obj);

    pmem_ha_link_close(s);
    object_unref(OBJECT(s->creds));
    if (s->image_fd >= 0) {
        close(s->image_fd);
    }
    if (s->staging) {
        munmap(s->staging, s->staging_size);
    }
    pmem_ha_state_close(s->state_file);
    pmem_ha_epoch_free(s->epoch);
    g_free(s->section.dirty);
    error_free(s->last_error);
    g_array_unref(s->waiters);
    g_free(s->name);
    g_free(s->export);
    g_free(s->peer);
    qemu_cond_destroy(&s->settled);
    qemu_cond_destroy(&s->work);
    qemu_mutex_destroy(&s->lock);
}

static void describe(ObjectClass *oc, const char *prop, const char *text)
{
    object_class_property_set_description(oc, prop, text);
}

static void pmem_ha_class_init(ObjectClass *oc, PmemHaClassData *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);
    NVDIMMClass *nvc = NVDIMM_CLASS(oc);
    ResettableClass *rc = RESETTABLE_CLASS(oc);

    rc->phases.hold = pmem_ha_reset_hold;
    dc->vmsd = &vmstate_pmem_ha;
    dc->desc = "NVDIMM whose flushes are mirrored to a replica";
    nvc->realize = pmem_ha_realize;
    nvc->unrealize = pmem_ha_unrealize;
    nvc->build_nfit = pmem_ha_build_nfit;
    PMEM_HA_CLASS(oc)->parent_write_label_data = nvc->write_label_data;
    nvc->write_label_data = pmem_ha_write_label_data;

    device_class_set_props(dc, pmem_ha_properties);
    object_class_property_add_enum(oc, "mode", "PmemHaMode",
                                   &PmemHaMode_lookup,
                                   pmem_ha_get_mode, pmem_ha_set_mode);
    object_class_property_add_enum(oc, "ack", "PmemHaAck", &PmemHaAck_lookup,
                                   pmem_ha_get_ack, pmem_ha_set_ack);
    object_class_property_add_enum(oc, "on-link-loss", "PmemHaLinkLoss",
                                   &PmemHaLinkLoss_lookup,
                                   pmem_ha_get_link_loss,
                                   pmem_ha_set_link_loss);
    object_class_property_add_enum(oc, "handover", "PmemHaHandover",
                                   &PmemHaHandover_lookup,
                                   pmem_ha_get_handover,
                                   pmem_ha_set_handover);
    object_class_property_add_str(oc, "flush-track", pmem_ha_get_track,
                                  pmem_ha_set_track);

    describe(oc, "replica", "id of the pmem-replica object to mirror to "
             "(default: none, standalone)");
    describe(oc, "state-file", "file that proves at the next start what the "
             "memory backend holds; required with replica");
    describe(oc, "mode", "when a flush returns: sync (acknowledged) or async "
             "(at once) (default: sync)");
    describe(oc, "ack", "where acknowledged data is at the replica: "
             "received, journaled or applied (default: journaled)");
    describe(oc, "on-link-loss", "guest without its replica: stall (paused "
             "until it is back) or stop (until cont) (default: stall)");
    describe(oc, "handover", "content at a migration: copy (in the stream) or "
             "adopt (the destination's memdev is the replica's image) "
             "(default: copy)");
    describe(oc, "max-lag", "bytes that may wait for acknowledgement in "
             "asynchronous mode");
    describe(oc, "staging-size", "bytes of an epoch that are copied, so that "
             "the vCPUs go on while it is sent");
    describe(oc, "flush-track", "what counts as a flush: hint (writes to the "
             "flush hint) (default: hint)");
    describe(oc, "consistency-group", "name of the devices that are captured "
             "in one epoch (default: none)");
}

static const TypeInfo pmem_ha_info = {
    .name              = TYPE_PMEM_HA,
    .parent            = TYPE_NVDIMM,
    .class_size        = sizeof(PmemHaClass),
    .class_init        = pmem_ha_class_init,
    .instance_size     = sizeof(PmemHaDevice),
    .instance_init     = pmem_ha_init,
    .instance_finalize = pmem_ha_finalize,
};

static void pmem_ha_register_types(void)
{
    pmem_ha_crash_init("PMEM_HA_CRASH_PRIMARY");
    type_register_static(&pmem_ha_info);
}

type_init(pmem_ha_register_types)
