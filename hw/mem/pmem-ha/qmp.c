/*
 * pmem-ha: the realized devices, query-pmem-ha and "info pmem-ha"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-pmem-ha.h"
#include "hw/mem/pc-dimm.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "internal.h"

static QTAILQ_HEAD(, PmemHaDevice) devices =
    QTAILQ_HEAD_INITIALIZER(devices);

void pmem_ha_register(PmemHaDevice *s)
{
    PmemHaDevice *other;

    QTAILQ_FOREACH(other, &devices, next) {
        if (other->slot > s->slot) {
            QTAILQ_INSERT_BEFORE(other, s, next);
            return;
        }
    }
    QTAILQ_INSERT_TAIL(&devices, s, next);
}

void pmem_ha_unregister(PmemHaDevice *s)
{
    QTAILQ_REMOVE(&devices, s, next);
}

PmemHaDevice *pmem_ha_next(PmemHaDevice *s)
{
    return s ? QTAILQ_NEXT(s, next) : QTAILQ_FIRST(&devices);
}

bool pmem_ha_cpu_waits_for(PmemHaDevice *s, CPUState *cpu)
{
    unsigned i;

    QEMU_LOCK_GUARD(&s->lock);
    for (i = 0; i < s->waiters->len; i++) {
        if (g_array_index(s->waiters, PmemHaWaiter, i).cpu == cpu) {
            return true;
        }
    }
    return false;
}

bool pmem_ha_cpu_waits(CPUState *cpu)
{
    PmemHaDevice *s;

    QTAILQ_FOREACH(s, &devices, next) {
        if (qatomic_read(&s->link_state) == PMEM_HA_STATE_FENCED ||
            s->adopting ||
            pmem_ha_cpu_waits_for(s, cpu)) {
            return true;
        }
    }
    return false;
}

bool pmem_ha_any_direct_hold(void)
{
    PmemHaDevice *s;

    QTAILQ_FOREACH(s, &devices, next) {
        if (qatomic_read(&s->direct_hold)) {
            return true;
        }
    }
    return false;
}

void pmem_ha_stay_paused(void)
{
    PmemHaDevice *s;

    QTAILQ_FOREACH(s, &devices, next) {
        s->paused_by_us = false;
    }
}

void qmp_pmem_ha_resync(const char *id, Error **errp)
{
    PmemHaDevice *s;

    QTAILQ_FOREACH(s, &devices, next) {
        if (!strcmp(s->name, id)) {
            break;
        }
    }
    if (!s) {
        error_setg(errp, "no pmem-ha device has the id '%s', see "
                   "query-pmem-ha", id);
        return;
    }
    s = s->leader;
    if (!pmem_ha_mirrors(s)) {
        error_setg(errp, "pmem-ha device '%s' has no replica", id);
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    if (s->link_state == PMEM_HA_STATE_FENCED) {
        error_setg(errp, "pmem-ha device '%s': its replica was promoted or "
                   "taken over, use the guest that has it now", id);
        return;
    }
    s->may_resync = true;
    qemu_cond_signal(&s->work);
}

static PmemHaLatency *latency(const PmemHaHistogram *h)
{
    PmemHaLatency *l = g_new0(PmemHaLatency, 1);

    l->count = h->count;
    l->p50 = pmem_ha_histogram_quantile(h, 500);
    l->p99 = pmem_ha_histogram_quantile(h, 990);
    l->max = h->max;
    return l;
}

static PmemHaInfo *info(PmemHaDevice *dev)
{
    PmemHaInfo *i = g_new0(PmemHaInfo, 1);
    PmemHaDevice *s = dev->leader;
    int64_t now = get_clock();
    unsigned n;

    QEMU_LOCK_GUARD(&s->lock);
    i->id = g_strdup(dev->name);
    i->consistency_group = g_strdup(dev->consistency_group);
    for (n = 0; n < s->n_parts && dev->consistency_group; n++) {
        if (s->part[n].dev == dev) {
            i->has_offset = true;
            i->offset = s->part[n].offset;
        }
    }
    i->role = s->role;
    i->state = pmem_ha_state_locked(s);
    i->mode = s->mode;
    i->ack = s->ack;
    i->on_link_loss = s->on_link_loss;
    i->uuid = qemu_uuid_unparse_strdup(&s->rec.uuid);
    i->generation = s->rec.generation;
    i->epoch_captured = s->rec.captured;
    i->epoch_acked = s->rec.acked;
    if (s->epoch) {
        i->lag_bytes = s->epoch->bytes;
        i->lag_ms = MAX(0, now - s->epoch->captured_ns) / SCALE_MS;
    }
    i->resync_remaining = s->link_state == PMEM_HA_STATE_RESYNC ?
                          qatomic_read(&s->resync_remaining) : 0;
    i->flushes = s->flushes;
    i->flushes_waiting = s->waiters->len;
    i->has_last_flush_age_ms = s->flushes;
    if (s->flushes) {
        i->last_flush_age_ms = MAX(0, now - s->last_flush_ns) / SCALE_MS;
    }
    i->flush_latency_us = latency(&s->flush_us);
    i->capture_us = latency(&s->capture_us);
    i->wire_bytes = qatomic_read(&s->wire_bytes);
    i->reconnects = s->reconnects;
    i->peer = g_strdup(s->peer);
    if (s->last_error) {
        i->last_error = g_strdup(error_get_pretty(s->last_error));
    }
    return i;
}

PmemHaInfoList *qmp_query_pmem_ha(Error **errp)
{
    PmemHaInfoList *head = NULL, **tail = &head;
    PmemHaDevice *s;

    QTAILQ_FOREACH(s, &devices, next) {
        QAPI_LIST_APPEND(tail, info(s));
    }
    return head;
}

static void hmp_info_pmem_ha(Monitor *mon, const QDict *qdict)
{
    PmemHaInfoList *list = qmp_query_pmem_ha(NULL), *l;

    if (!list) {
        monitor_printf(mon, "No pmem-ha devices\n");
    }
    for (l = list; l; l = l->next) {
        PmemHaInfo *i = l->value;
        g_autofree char *lag = size_to_str(i->lag_bytes);
        g_autofree char *wire = size_to_str(i->wire_bytes);

        monitor_printf(mon, "%s: %s (%s, ack %s, on-link-loss %s)\n", i->id,
                       PmemHaState_str(i->state), PmemHaMode_str(i->mode),
                       PmemHaAck_str(i->ack),
                       PmemHaLinkLoss_str(i->on_link_loss));
        if (i->consistency_group) {
            monitor_printf(mon, "  consistency group %s, at offset 0x%" PRIx64
                           "; what follows is the group's\n",
                           i->consistency_group, i->offset);
        }
        monitor_printf(mon, "  uuid %s, generation %" PRIu64 "\n", i->uuid,
                       i->generation);
        if (i->peer) {
            monitor_printf(mon, "  replica: %s, lost %" PRIu64 " times, %s "
                           "sent\n", i->peer, i->reconnects, wire);
        }
        monitor_printf(mon, "  epochs: captured %" PRIu64 ", acknowledged %"
                       PRIu64 ", lag %s / %" PRIu64 " ms\n",
                       i->epoch_captured, i->epoch_acked, lag, i->lag_ms);
        monitor_printf(mon, "  flushes: %" PRIu64 ", %u waiting; latency "
                       "p50/p99/max %" PRIu64 "/%" PRIu64 "/%" PRIu64 " us\n",
                       i->flushes, i->flushes_waiting,
                       i->flush_latency_us->p50, i->flush_latency_us->p99,
                       i->flush_latency_us->max);
        monitor_printf(mon, "  capture: p50/p99/max %" PRIu64 "/%" PRIu64 "/%"
                       PRIu64 " us\n", i->capture_us->p50, i->capture_us->p99,
                       i->capture_us->max);
        if (i->resync_remaining) {
            g_autofree char *rest = size_to_str(i->resync_remaining);

            monitor_printf(mon, "  full copy: %s to go\n", rest);
        }
        if (i->last_error) {
            monitor_printf(mon, "  last error: %s\n", i->last_error);
        }
    }
    qapi_free_PmemHaInfoList(list);
}

static void pmem_ha_hmp_init(void)
{
    monitor_register_hmp("pmem-ha", true, hmp_info_pmem_ha);
}

type_init(pmem_ha_hmp_init)
