/*
 * pmem-ha: devices that are captured in one epoch
 *
 * The memory backends of a consistency group are slices of one file, one behind
 * the other, and the group is mirrored as one region: its first device (the
 * leader) flushes, captures and talks to the replica for all of them.  So one
 * epoch is one instant of all, and no protocol or journal knows about groups.
 * Invariants: docs/devel/pmem-ha-group.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "hw/mem/pc-dimm.h"
#include "hw/qdev-core.h"
#include "system/hostmem.h"
#include "system/system.h"
#include "internal.h"
#include "trace.h"

static uint64_t slice_offset(PmemHaDevice *s)
{
    return object_property_get_uint(OBJECT(PC_DIMM(s)->hostmem), "offset",
                                    NULL);
}

static char *slice_path(PmemHaDevice *s)
{
    return object_property_get_str(OBJECT(PC_DIMM(s)->hostmem), "mem-path",
                                   NULL);
}

/* Called when all devices of the command line are realized. */
static void start_groups(Notifier *n, void *data);

static Notifier machine_done = { .notify = start_groups };

bool pmem_ha_group_add(PmemHaDevice *s, Error **errp)
{
    Object *backend = OBJECT(PC_DIMM(s)->hostmem);
    static bool notified;

    if (!*s->consistency_group) {
        error_setg(errp, "pmem-ha device '%s': consistency-group has no name",
                   s->name);
        return false;
    }
    if (phase_check(PHASE_MACHINE_READY)) {
        error_setg(errp, "pmem-ha device '%s': consistency-group=%s was "
                   "complete when the guest started, give all of its devices "
                   "by -device", s->name, s->consistency_group);
        return false;
    }
    if (!object_property_find(backend, "mem-path") ||
        !object_property_find(backend, "offset")) {
        error_setg(errp, "pmem-ha device '%s': the devices of "
                   "consistency-group=%s are slices of one file, use a "
                   "memory-backend-file as memdev", s->name,
                   s->consistency_group);
        return false;
    }
    if (!notified) {
        qemu_add_machine_init_done_notifier(&machine_done);
        notified = true;
    }
    return true;
}

static bool same_file(PmemHaDevice *a, PmemHaDevice *b)
{
    g_autofree char *pa = slice_path(a);
    g_autofree char *pb = slice_path(b);
    struct stat sa, sb;

    return stat(pa, &sa) == 0 && stat(pb, &sb) == 0 &&
           sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* The first property that is not alike, or NULL */
static const char *differs(PmemHaDevice *a, PmemHaDevice *b)
{
    return a->replica != b->replica ? "replica" :
           g_strcmp0(a->state_path, b->state_path) ? "state-file" :
           a->mode != b->mode ? "mode" :
           a->ack != b->ack ? "ack" :
           a->on_link_loss != b->on_link_loss ? "on-link-loss" :
           a->handover != b->handover ? "handover" :
           a->max_lag != b->max_lag ? "max-lag" :
           a->staging_size != b->staging_size ? "staging-size" : NULL;
}

static bool append(PmemHaDevice *first, PmemHaDevice *s, Error **errp)
{
    const char *prop = differs(first, s);
    uint64_t offset = slice_offset(s);

    if (prop) {
        error_setg(errp, "pmem-ha device '%s': property '%s' is not as that of "
                   "'%s', which is in the same consistency-group=%s; give "
                   "both the same", s->name, prop, first->name,
                   s->consistency_group);
        return false;
    }
    if (!same_file(first, s)) {
        error_setg(errp, "pmem-ha device '%s': mem-path is not that of '%s', "
                   "and the devices of consistency-group=%s are slices of one "
                   "file; give them the same mem-path and different offsets",
                   s->name, first->name, s->consistency_group);
        return false;
    }
    if (offset != first->size) {
        error_setg(errp, "pmem-ha device '%s': its memdev has offset=%" PRIu64
                   ", and what is before it in consistency-group=%s ends at %"
                   PRIu64 "; let the slices follow one another", s->name,
                   offset, s->consistency_group, first->size);
        return false;
    }
    if (first->n_parts == PMEM_HA_MAX_PARTS) {
        error_setg(errp, "pmem-ha device '%s': consistency-group=%s has more "
                   "than %d devices", s->name, s->consistency_group,
                   PMEM_HA_MAX_PARTS);
        return false;
    }
    first->part[first->n_parts] = s->part[0];
    first->part[first->n_parts].offset = offset;
    first->n_parts++;
    first->size += s->size;
    s->leader = first;
    return true;
}

static gint by_offset(gconstpointer a, gconstpointer b)
{
    uint64_t oa = slice_offset(*(PmemHaDevice **)a);
    uint64_t ob = slice_offset(*(PmemHaDevice **)b);

    return oa < ob ? -1 : oa > ob;
}

static bool start_group(const char *name, Error **errp)
{
    g_autoptr(GPtrArray) members = g_ptr_array_new();
    PmemHaDevice *s, *first;
    unsigned i;
    bool ok;

    for (s = pmem_ha_next(NULL); s; s = pmem_ha_next(s)) {
        if (!g_strcmp0(s->consistency_group, name)) {
            g_ptr_array_add(members, s);
        }
    }
    g_ptr_array_sort(members, by_offset);
    first = g_ptr_array_index(members, 0);
    if (slice_offset(first)) {
        error_setg(errp, "pmem-ha device '%s': its memdev has offset=%" PRIu64
                   ", and is the first one of consistency-group=%s; let the "
                   "slices begin at 0", first->name, slice_offset(first), name);
        return false;
    }
    for (i = 1; i < members->len; i++) {
        if (!append(first, g_ptr_array_index(members, i), errp)) {
            return false;
        }
    }
    trace_pmem_ha_group(name, first->name, first->n_parts, first->size);
    first->starting_group = true;
    ok = pmem_ha_start(first, errp);
    first->starting_group = false;
    return ok;
}

static void start_groups(Notifier *n, void *data)
{
    PmemHaDevice *s;

    for (s = pmem_ha_next(NULL); s; s = pmem_ha_next(s)) {
        /* A member that was given to a leader is started with it. */
        if (s->consistency_group && s->leader == s && !s->started) {
            Error *err = NULL;

            if (!start_group(s->consistency_group, &err)) {
                /*
                 * As for any error of the command line; with error_fatal, QEMU
                 * would end before prefix and hint are there.
                 */
                error_report_err(err);
                exit(1);
            }
        }
    }
}
