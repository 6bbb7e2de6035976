/*
 * pmem-ha: the section of a migration stream or a snapshot
 *
 * What it carries and why is in docs/devel/pmem-ha-handover.rst.  Whatever the
 * stream says is checked against the device before it is used.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/mem/pc-dimm.h"
#include "migration/misc.h"
#include "migration/qemu-file-types.h"
#include "migration/vmstate.h"
#include "system/runstate.h"
#include "internal.h"
#include "trace.h"

#define PAGES_PER_WORD 64
#define BYTES_PER_WORD ((uint64_t)PAGES_PER_WORD * PMEM_HA_PAGE_SIZE)
/* Follows the last word. */
#define END_OF_WORDS   UINT64_MAX

static uint64_t words_of(PmemHaDevice *s)
{
    return DIV_ROUND_UP(s->size, BYTES_PER_WORD);
}

/* Pages that may differ from the replica: {index of a word, word} each. */
static int put_dirty(QEMUFile *f, void *pv, size_t size,
                     const VMStateField *field, JSONWriter *vmdesc)
{
    PmemHaDevice *s = container_of(pv, PmemHaDevice, section);
    uint64_t i;

    for (i = 0; s->section.dirty && i < words_of(s); i++) {
        if (s->section.dirty[i]) {
            qemu_put_be64(f, i);
            qemu_put_be64(f, s->section.dirty[i]);
        }
    }
    qemu_put_be64(f, END_OF_WORDS);
    g_clear_pointer(&s->section.dirty, g_free);
    return 0;
}

static int get_dirty(QEMUFile *f, void *pv, size_t size,
                     const VMStateField *field)
{
    PmemHaDevice *s = container_of(pv, PmemHaDevice, section);
    uint64_t least = 0;
    uint64_t i, word;

    for (;;) {
        i = qemu_get_be64(f);
        if (i == END_OF_WORDS || qemu_file_get_error(f)) {
            return qemu_file_get_error(f);
        }
        word = qemu_get_be64(f);
        if (!s->tracking || i < least || i >= words_of(s) ||
            (i == words_of(s) - 1 && s->size % BYTES_PER_WORD &&
             word >> (s->size % BYTES_PER_WORD / PMEM_HA_PAGE_SIZE))) {
            error_report("pmem-ha device '%s': the stream says that pages "
                         "changed which the device does not mirror (at 0x%"
                         PRIx64 "); give both ends the same memdev size and "
                         "a replica", s->name, i * BYTES_PER_WORD);
            return -EINVAL;
        }
        least = i + 1;
        pmem_ha_mark_word(s, i * BYTES_PER_WORD, word);
    }
}

static const VMStateInfo dirty_info = {
    .name = "pmem-ha pages",
    .get = get_dirty,
    .put = put_dirty,
};

/* Flushes that wait: a number, and the index of each vCPU. */
static int put_waiters(QEMUFile *f, void *pv, size_t size,
                       const VMStateField *field, JSONWriter *vmdesc)
{
    PmemHaDevice *s = container_of(pv, PmemHaDevice, section);
    unsigned i;

    QEMU_LOCK_GUARD(&s->lock);
    qemu_put_be32(f, s->waiters->len);
    for (i = 0; i < s->waiters->len; i++) {
        qemu_put_be32(f, g_array_index(s->waiters, PmemHaWaiter,
                                       i).cpu->cpu_index);
    }
    return 0;
}

static int get_waiters(QEMUFile *f, void *pv, size_t size,
                       const VMStateField *field)
{
    PmemHaDevice *s = container_of(pv, PmemHaDevice, section);
    uint32_t n = qemu_get_be32(f);
    uint32_t i;

    pmem_ha_drop_waiters(s);
    for (i = 0; i < n; i++) {
        uint32_t index = qemu_get_be32(f);
        CPUState *cpu = index > INT_MAX ? NULL : qemu_get_cpu(index);

        if (qemu_file_get_error(f)) {
            return qemu_file_get_error(f);
        }
        if (!s->tracking || !pmem_ha_mirrors(s)) {
            /* Without a replica a flush returns at once. */
            continue;
        }
        if (!cpu || pmem_ha_cpu_waits_for(s, cpu)) {
            error_report("pmem-ha device '%s': the stream says that a flush of "
                         "vCPU %" PRIu32 " waits, which %s; give both ends the "
                         "same vCPUs", s->name, index,
                         cpu ? "was named before" : "does not exist");
            return -EINVAL;
        }
        pmem_ha_resubmit(s, cpu);
    }
    return 0;
}

static const VMStateInfo waiters_info = {
    .name = "pmem-ha flushes",
    .get = get_waiters,
    .put = put_waiters,
};

/* One epoch under way may be at the replica or not: its pages count, too. */
static void note_dirty_locked(PmemHaDevice *s)
{
    uint64_t *words = g_new0(uint64_t, words_of(s));
    unsigned i;

    pmem_ha_dirty_words(s, words);
    if (s->restored) {
        for (i = 0; i < s->size / PMEM_HA_PAGE_SIZE; i++) {
            words[i / PAGES_PER_WORD] |= 1ULL << i % PAGES_PER_WORD;
        }
    }
    for (i = 0; s->epoch && i < s->epoch->ranges->len; i++) {
        PmemHaRange *r = &g_array_index(s->epoch->ranges, PmemHaRange, i);
        uint64_t page = r->offset / PMEM_HA_PAGE_SIZE;
        uint64_t end = page + r->length / PMEM_HA_PAGE_SIZE;

        for (; page < end; page++) {
            words[page / PAGES_PER_WORD] |= 1ULL << page % PAGES_PER_WORD;
        }
    }
    g_free(s->section.dirty);
    s->section.dirty = words;
}

/* The replica gets the instant of a snapshot, too, now or as soon as it can. */
static void take_snapshot(PmemHaDevice *s)
{
    bool captured = pmem_ha_capture_paused(s);

    QEMU_LOCK_GUARD(&s->lock);
    s->want_epoch |= !captured;
}

/* The destination will have the replica's image, and nothing else. */
static bool has_all_locked(PmemHaDevice *s, Error **errp)
{
    uint64_t unsent = pmem_ha_unsent_locked(s);

    if (unsent || s->rec.captured != s->rec.acked) {
        error_setg(errp, "pmem-ha device '%s': the replica did not get the "
                   "last %" PRIu64 " bytes within %d ms, and handover=adopt "
                   "gives the guest what it has; migrate when it is in sync, or "
                   "set handover=copy", s->name, unsent, PMEM_HA_FINISH_MS);
        return false;
    }
    return true;
}

static bool hand_over_locked(PmemHaDevice *s, Error **errp)
{
    if (!pmem_ha_may_hand_over_locked(s, errp)) {
        return false;
    }
    if (s->gives_image && !has_all_locked(s, errp)) {
        return false;
    }
    pmem_ha_give_locked(s);
    note_dirty_locked(s);
    /* I5: a start with the state file is never behind what H3 lets pass. */
    return pmem_ha_state_write(s->state_file, &s->rec, true, errp);
}

static void note_members(PmemHaDevice *s, PmemHaSection *t)
{
    unsigned i;

    memset(t->more, 0, sizeof(t->more));
    t->n_more = s->n_parts - 1;
    for (i = 0; i < t->n_more; i++) {
        PmemHaPart *p = &s->part[i + 1];
        PmemHaSectionMember *m = &t->more[i];

        memcpy(m->uuid, NVDIMM(p->dev)->uuid.data, sizeof(m->uuid));
        m->size = p->size;
        m->label_size = NVDIMM(p->dev)->label_size;
        m->slot = p->dev->slot;
    }
}

/* Called with the BQL, and with the vCPUs stopped. */
static int pmem_ha_pre_save(void *opaque)
{
    PmemHaDevice *s = opaque;
    /* savevm; the run state does not tell when the guest was paused. */
    bool snapshot = !migration_thread_is_self();
    Error *err = NULL;

    if (!pmem_ha_check_capabilities(s, &err)) {
        migration_file_set_error(-EINVAL, err);
        return -EINVAL;
    }
    if (s->adopting) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            pmem_ha_may_hand_over_locked(s, &err);
        }
        migration_file_set_error(-EBUSY, err);
        return -EBUSY;
    }
    if (snapshot) {
        take_snapshot(s);
    }
    /* A backend that went away counts, too. */
    pmem_ha_vhost_fetch(s);
    s->section.adopt = !snapshot && s->gives_image;

    QEMU_LOCK_GUARD(&s->lock);
    if (!snapshot && !hand_over_locked(s, &err)) {
        migration_file_set_error(-EBUSY, err);
        return -EBUSY;
    }
    memcpy(s->section.uuid, s->rec.uuid.data, sizeof(s->section.uuid));
    s->section.size = s->size;
    s->section.slot = s->slot;
    s->section.generation = s->rec.generation;
    s->section.captured = s->rec.captured;
    s->section.acked = s->rec.acked;
    s->section.paused = s->stalled && s->paused_by_us;
    memcpy(s->section.history, s->rec.history, sizeof(s->section.history));
    note_members(s, &s->section);
    trace_pmem_ha_saved(s->name, s->rec.generation, s->rec.captured,
                        s->rec.acked, s->waiters->len, snapshot);
    return 0;
}

/*
 * Where a device is in the image, and by which hint it is flushed: the replica
 * would refuse other ones only when the guest runs here.
 */
static bool check_members(PmemHaDevice *s, Error **errp)
{
    const PmemHaSection *t = &s->section;
    g_autofree PmemHaSection *ours = g_new0(PmemHaSection, 1);
    unsigned i;

    note_members(s, ours);
    if (t->n_more != ours->n_more) {
        error_setg(errp, "pmem-ha device '%s': the stream is of %" PRIu64
                   " devices in a consistency-group, here are %u; give both "
                   "ends the same groups", s->name, t->n_more + UINT64_C(1),
                   s->n_parts);
        return false;
    }
    for (i = 0; i < ours->n_more; i++) {
        const PmemHaSectionMember *a = &t->more[i], *b = &ours->more[i];

        if (a->size != b->size || a->label_size != b->label_size ||
            a->slot != b->slot || memcmp(a->uuid, b->uuid, sizeof(a->uuid))) {
            error_setg(errp, "pmem-ha device '%s': in the stream device %u of "
                       "the consistency-group is in slot %" PRIu32 " with %"
                       PRIu64 " bytes and label-size %" PRIu64 ", here in slot "
                       "%" PRIu32 " with %" PRIu64 " and %" PRIu64 ", or with "
                       "another uuid; give both ends the same devices",
                       s->name, i + 2, a->slot, a->size, a->label_size,
                       b->slot, b->size, b->label_size);
            return false;
        }
    }
    return true;
}

static bool check_section(PmemHaDevice *s, Error **errp)
{
    const PmemHaSection *t = &s->section;
    QemuUUID *ours = &NVDIMM(s)->uuid;
    QemuUUID uuid;

    memcpy(uuid.data, t->uuid, sizeof(uuid.data));
    if (s->leader != s) {
        error_setg(errp, "pmem-ha device '%s' is not the first one of "
                   "consistency-group=%s, and the stream is of a device that "
                   "is mirrored by itself; give both ends the same groups",
                   s->name, s->consistency_group);
    } else if (!s->replica) {
        if (!runstate_check(RUN_STATE_INMIGRATE)) {
            /* A snapshot of the time when there was one. */
            return true;
        }
        error_setg(errp, "pmem-ha device '%s': the stream comes from a device "
                   "with a replica, set property 'replica' here", s->name);
    } else if (t->size != s->size) {
        error_setg(errp, "pmem-ha device '%s': the stream is of a device with "
                   "%" PRIu64 " bytes, memdev has %" PRIu64 "; give it the "
                   "same size", s->name, t->size, s->size);
    } else if (t->slot != s->slot) {
        error_setg(errp, "pmem-ha device '%s': the stream is of a device in "
                   "slot %" PRIu32 ", this one is in slot %d; give the devices "
                   "the same slots, in the same order", s->name, t->slot,
                   s->slot);
    } else if (!qemu_uuid_is_null(ours) && !qemu_uuid_is_equal(ours, &uuid)) {
        g_autofree char *theirs = qemu_uuid_unparse_strdup(&uuid);
        g_autofree char *have = qemu_uuid_unparse_strdup(ours);

        error_setg(errp, "pmem-ha device '%s': the stream is of the device "
                   "with uuid %s, property 'uuid' is %s; set it to the former",
                   s->name, theirs, have);
    } else if (t->adopt != s->adopting) {
        error_setg(errp, "pmem-ha device '%s': the stream comes with "
                   "handover=%s, this side has %s; give both the same",
                   s->name, t->adopt ? "adopt" : "copy",
                   s->adopting ? "adopt" : "copy");
    } else if (t->adopt && t->captured != t->acked) {
        error_setg(errp, "pmem-ha device '%s': the stream says handover=adopt, "
                   "and that the replica lacks epoch %" PRIu64, s->name,
                   t->captured);
    } else if (!t->generation || t->generation >= PMEM_HA_MAX_NUMBER ||
               t->captured >= PMEM_HA_MAX_NUMBER || t->acked > t->captured ||
               t->captured - t->acked > 1) {
        error_setg(errp, "pmem-ha device '%s': the stream is damaged "
                   "(generation %" PRIu64 ", captured %" PRIu64 ", acked "
                   "%" PRIu64 ")", s->name, t->generation, t->captured,
                   t->acked);
    } else {
        return check_members(s, errp);
    }
    return false;
}

/* The role follows when the guest runs. */
static void adopt_locked(PmemHaDevice *s)
{
    const PmemHaSection *t = &s->section;

    memcpy(s->rec.uuid.data, t->uuid, sizeof(s->rec.uuid.data));
    s->rec.generation = t->generation;
    s->rec.captured = t->captured;
    s->rec.acked = t->acked;
    memcpy(s->rec.history, t->history, sizeof(s->rec.history));
    s->loaded = true;
    s->synced = true;
    if (t->paused) {
        s->stalled = true;
        s->came_paused = true;
        s->paused_by_us = s->on_link_loss == PMEM_HA_LINK_LOSS_STALL;
    }
}

static int pmem_ha_post_load(void *opaque, int version_id)
{
    PmemHaDevice *s = opaque;
    Error *err = NULL;

    if (!check_section(s, &err) || !pmem_ha_check_capabilities(s, &err)) {
        error_report_err(err);
        return -EINVAL;
    }
    if (!s->replica) {
        return 0;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        trace_pmem_ha_loaded(s->name, PmemHaRole_str(s->role),
                             s->section.generation, s->section.captured,
                             s->section.acked, s->waiters->len);
        if (s->role == PMEM_HA_ROLE_INCOMING) {
            adopt_locked(s);
        } else {
            /* A snapshot: this device goes on, with another content. */
            s->restored = true;
        }
        pmem_ha_aim_waiters_locked(s);
    }
    pmem_ha_stall_arm(s);
    return 0;
}

/* The first one of a group has it for all. */
static bool has_replica(void *opaque)
{
    PmemHaDevice *s = opaque;

    return (pmem_ha_mirrors(s) || s->adopting) && s->leader == s;
}

static bool gives_image(void *opaque)
{
    return PMEM_HA(opaque)->section.adopt;
}

static int pmem_ha_pre_load(void *opaque)
{
    PmemHaDevice *s = opaque;

    /* Without their subsections */
    s->section.adopt = false;
    s->section.n_more = 0;
    return 0;
}

static const VMStateDescription vmstate_adopt = {
    .name = "pmem-ha/adopt",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = gives_image,
    .fields = (const VMStateField[]) {
        VMSTATE_BOOL(section.adopt, PmemHaDevice),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_lineage = {
    .name = "pmem-ha/lineage",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(generation, PmemHaLineage),
        VMSTATE_UINT64(last_epoch, PmemHaLineage),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_member = {
    .name = "pmem-ha/member",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT8_ARRAY(uuid, PmemHaSectionMember, 16),
        VMSTATE_UINT64(size, PmemHaSectionMember),
        VMSTATE_UINT64(label_size, PmemHaSectionMember),
        VMSTATE_UINT32(slot, PmemHaSectionMember),
        VMSTATE_END_OF_LIST()
    },
};

static bool has_members(void *opaque)
{
    PmemHaDevice *s = opaque;

    return s->section.n_more;
}

/* Without a group a stream is as it was before there were any. */
static const VMStateDescription vmstate_group = {
    .name = "pmem-ha/group",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = has_members,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(section.n_more, PmemHaDevice),
        VMSTATE_STRUCT_ARRAY(section.more, PmemHaDevice, PMEM_HA_WIRE_MAX_MORE,
                             1, vmstate_member, PmemHaSectionMember),
        VMSTATE_END_OF_LIST()
    },
};

const VMStateDescription vmstate_pmem_ha = {
    .name = "pmem-ha",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = has_replica,
    .pre_load = pmem_ha_pre_load,
    .pre_save = pmem_ha_pre_save,
    .post_load = pmem_ha_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT8_ARRAY(section.uuid, PmemHaDevice, 16),
        VMSTATE_UINT64(section.size, PmemHaDevice),
        VMSTATE_UINT32(section.slot, PmemHaDevice),
        VMSTATE_UINT64(section.generation, PmemHaDevice),
        VMSTATE_UINT64(section.captured, PmemHaDevice),
        VMSTATE_UINT64(section.acked, PmemHaDevice),
        VMSTATE_BOOL(section.paused, PmemHaDevice),
        VMSTATE_STRUCT_ARRAY(section.history, PmemHaDevice,
                             PMEM_HA_STATE_HISTORY, 1, vmstate_lineage,
                             PmemHaLineage),
        {
            .name = "waiters", .info = &waiters_info, .flags = VMS_SINGLE,
            .size = 0, .offset = offsetof(PmemHaDevice, section),
        },
        {
            .name = "dirty", .info = &dirty_info, .flags = VMS_SINGLE,
            .size = 0, .offset = offsetof(PmemHaDevice, section),
        },
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_adopt,
        &vmstate_group,
        NULL
    },
};
