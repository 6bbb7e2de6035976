/*
 * pmem-ha: who has the role of primary, before and after a migration
 *
 * Roles, invariants H1 to H6 and cases: docs/devel/pmem-ha-handover.rst.  The
 * section of the stream is in handover-vmstate.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "hw/core/cpu.h"
#include "migration/blocker.h"
#include "migration/misc.h"
#include "system/runstate.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

/* Capabilities under which the section would not say what it must. */
static const struct {
    MigrationCapability cap;
    const char *why;
} refused_caps[] = {
    { MIGRATION_CAPABILITY_X_COLO,
      "two guests would write to one replica" },
    { MIGRATION_CAPABILITY_POSTCOPY_RAM,
      "the guest would run before its memory is whole" },
    { MIGRATION_CAPABILITY_X_IGNORE_SHARED,
      "the memory of the device would stay behind" },
    { MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
      "the guest would go on while it is saved" },
};

bool pmem_ha_check_capabilities(PmemHaDevice *s, Error **errp)
{
    MigrationCapabilityStatusList *list, *i;
    bool ok = true;
    unsigned n;

    list = qmp_query_migrate_capabilities(errp);
    for (i = list; i && ok; i = i->next) {
        for (n = 0; n < ARRAY_SIZE(refused_caps); n++) {
            if (i->value->state &&
                i->value->capability == refused_caps[n].cap) {
                error_setg(errp, "pmem-ha device '%s' has a replica, and with "
                           "migration capability %s %s; switch it off",
                           s->name,
                           MigrationCapability_str(refused_caps[n].cap),
                           refused_caps[n].why);
                ok = false;
                break;
            }
        }
    }
    qapi_free_MigrationCapabilityStatusList(list);
    return ok;
}

/* Before anything is sent: what can not work fails now. */
static int migration_event(NotifierWithReturn *n, MigrationEvent *e,
                           Error **errp)
{
    PmemHaDevice *s = container_of(n, PmemHaDevice, migration_notifier);

    pmem_ha_adopt_settle(s);
    if (!pmem_ha_mirrors(s)) {
        return 0;
    }
    if (e->type != MIG_EVENT_PRECOPY_SETUP) {
        if (s->gives_image) {
            s->gives_image = false;
            pmem_ha_content_travels(s, true);
        }
        return 0;
    }
    if (!pmem_ha_check_capabilities(s, errp)) {
        return -EINVAL;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (!pmem_ha_may_hand_over_locked(s, errp)) {
            return -EBUSY;
        }
    }
    if (s->handover == PMEM_HA_HANDOVER_ADOPT) {
        s->gives_image = true;
        pmem_ha_content_travels(s, false);
        if (!runstate_is_running()) {
            /* No stop will come for it. */
            pmem_ha_drain_to_give(s);
        }
    }
    return 0;
}

bool pmem_ha_handover_init(PmemHaDevice *s, Error **errp)
{
    error_setg(&s->cpr_blocker, "pmem-ha device '%s' has a replica, and its "
               "lock of the backing file does not pass to another QEMU; use "
               "migration mode normal", s->name);
    if (migrate_add_cpr_blocker(&s->cpr_blocker, errp) < 0) {
        return false;
    }
    migration_add_notifier(&s->migration_notifier, migration_event);
    return true;
}

void pmem_ha_handover_cleanup(PmemHaDevice *s)
{
    if (s->cpr_blocker) {
        migration_remove_notifier(&s->migration_notifier);
        migrate_del_blocker(&s->cpr_blocker);
    }
}

bool pmem_ha_may_hand_over_locked(PmemHaDevice *s, Error **errp)
{
    if (s->link_state == PMEM_HA_STATE_FENCED) {
        error_setg(errp, "pmem-ha device '%s': the replica was promoted or "
                   "taken over, use the guest that has it now", s->name);
        return false;
    }
    if (s->role == PMEM_HA_ROLE_INCOMING && !s->loaded) {
        error_setg(errp, "pmem-ha device '%s': the incoming migration is not "
                   "complete", s->name);
        return false;
    }
    if (s->adopting) {
        /* It is in the replica's image, which this stream would not have. */
        error_setg(errp, "pmem-ha device '%s' has not adopted the replica's "
                   "image yet, let the guest run first", s->name);
        return false;
    }
    if (s->role == PMEM_HA_ROLE_PRIMARY && s->take) {
        /* Whether the replica gave it already is not known. */
        error_setg(errp, "pmem-ha device '%s': the replica has not confirmed "
                   "the last handover yet, wait for the state in-sync",
                   s->name);
        return false;
    }
    /* What the replica holds would have to be copied in whole over there. */
    if (!s->synced) {
        error_setg(errp, "pmem-ha device '%s': the replica is not in sync yet "
                   "(state %s), wait for the state in-sync", s->name,
                   PmemHaState_str(pmem_ha_state_locked(s)));
        return false;
    }
    return true;
}

/* H1: what is in the stream is all that the replica will get from us. */
void pmem_ha_give_locked(PmemHaDevice *s)
{
    s->role = PMEM_HA_ROLE_HANDED_OVER;
    s->link_ready = false;
    pmem_ha_link_shutdown_locked(s);
    qemu_cond_broadcast(&s->work);
    /*
     * Of this device's captures one may be in its exclusive section.  Waiting
     * for it with the BQL is safe with TCG only, whose bits are taken without;
     * the log of vhost is fetched before.
     */
    while (s->capturing) {
        qemu_cond_timedwait(&s->settled, &s->lock, 10);
    }
    trace_pmem_ha_role(s->name, PmemHaRole_str(s->role), s->rec.generation);
}

void pmem_ha_take_locked(PmemHaDevice *s)
{
    if (s->role == PMEM_HA_ROLE_PRIMARY) {
        return;
    }
    /* A stream without our section hands over nothing: first contact. */
    s->take = s->role == PMEM_HA_ROLE_HANDED_OVER || s->loaded;
    s->role = PMEM_HA_ROLE_PRIMARY;
    trace_pmem_ha_role(s->name, PmemHaRole_str(s->role), s->rec.generation);
    qemu_cond_broadcast(&s->work);
}

bool pmem_ha_taken_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                          Error **errp)
{
    unsigned i;

    if (!w->have_image || w->generation != s->rec.generation + 1 ||
        w->epoch > s->rec.captured) {
        error_setg(errp, "protocol error: replica '%s' at %s answered TAKE of "
                   "generation %" PRIu64 " up to epoch %" PRIu64 " with %s of "
                   "generation %" PRIu64 ", epoch %" PRIu64, s->export, s->peer,
                   s->rec.generation, s->rec.captured,
                   w->have_image ? "an image" : "no image", w->generation,
                   w->epoch);
        return false;
    }
    s->take = false;
    if (s->loaded) {
        /* The pages of an epoch that was under way are dirty here (H4). */
        s->synced = w->epoch >= s->rec.acked;
        s->rec.captured = s->rec.acked = MAX(s->rec.acked, w->epoch);
        for (i = 0; i < s->waiters->len; i++) {
            g_array_index(s->waiters, PmemHaWaiter, i).target =
                s->rec.captured + 1;
        }
        s->want_epoch = true;
        s->loaded = false;
    }
    pmem_ha_state_next_generation(&s->rec);
    s->rec.history[0].last_epoch = MAX(s->rec.history[0].last_epoch, w->epoch);
    s->proof_lineage = true;
    s->rec.boot_id = s->boot_id;
    s->rec.clean = false;
    pmem_ha_note_backing(s);
    trace_pmem_ha_taken(s->name, s->rec.generation, w->epoch);
    /* H6.  Once for each handover, so the lock may be held meanwhile. */
    return pmem_ha_state_write(s->state_file, &s->rec, true, errp);
}
