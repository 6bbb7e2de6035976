/*
 * pmem-ha: the content of epochs and of full copies, on its way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "internal.h"
#include "trace.h"

#define BATCH 32

/* Where content comes from, and what was sent of it so far. */
typedef struct Sender {
    PmemHaDevice *s;
    uint64_t epoch;
    uint8_t *bounce;            /* NULL: the source is stable */
    size_t bounce_used;
    PmemHaMsg msg[BATCH];
    void *payload[BATCH];
    unsigned n;
    uint32_t digest;
    uint64_t records;
    uint64_t bytes;
} Sender;

static bool sender_flush(Sender *t, Error **errp)
{
    unsigned n = t->n;

    t->n = 0;
    return pmem_ha_link_send(t->s, t->msg, t->payload, n, errp);
}

static bool sender_add(Sender *t, uint64_t offset, uint64_t length,
                       uint8_t *content, Error **errp)
{
    PmemHaMsg *m = &t->msg[t->n];

    *m = (PmemHaMsg) {
        .type = PMEM_HA_MSG_DATA,
        .flags = content ? 0 : PMEM_HA_FLAG_ZERO,
        .len = content ? length : 0,
        .epoch = t->epoch,
        .arg0 = offset,
        .arg1 = length,
    };
    m->payload_crc = pmem_ha_wire_crc(content, m->len);
    t->payload[t->n++] = content;
    t->digest = pmem_ha_wire_digest(t->digest, m);
    t->records++;
    t->bytes += length;
    return t->n < BATCH || sender_flush(t, errp);
}

/* At most PMEM_HA_WIRE_MAX_PAYLOAD bytes; pages of zeroes travel as such. */
static bool send_chunk(Sender *t, uint64_t offset, uint64_t length,
                       uint8_t *content, Error **errp)
{
    uint64_t done = 0;

    if (t->epoch && qatomic_read(&t->s->direct_cancel)) {
        error_setg(errp, "epoch cancelled: the guest was stopped before its "
                   "content was sent");
        return false;
    }
    if (t->bounce) {
        /* The guest may write meanwhile: what is summed must be sent. */
        if (t->bounce_used + length > PMEM_HA_WIRE_MAX_PAYLOAD) {
            if (!sender_flush(t, errp)) {
                return false;
            }
            /* Only here: until now, queued messages point into it. */
            t->bounce_used = 0;
        }
        memcpy(t->bounce + t->bounce_used, content, length);
        content = t->bounce + t->bounce_used;
        t->bounce_used += length;
    }
    while (done < length) {
        bool zero = buffer_is_zero(content + done, PMEM_HA_PAGE_SIZE);
        uint64_t run = PMEM_HA_PAGE_SIZE;

        while (done + run < length &&
               buffer_is_zero(content + done + run, PMEM_HA_PAGE_SIZE) ==
               zero) {
            run += PMEM_HA_PAGE_SIZE;
        }
        if (!sender_add(t, offset + done, run, zero ? NULL : content + done,
                        errp)) {
            return false;
        }
        done += run;
    }
    return true;
}

static bool send_range(Sender *t, const PmemHaRange *r, uint8_t *content,
                       Error **errp)
{
    uint64_t done = 0;

    while (done < r->length) {
        uint64_t n = MIN(r->length - done, PMEM_HA_WIRE_MAX_PAYLOAD);

        if (!send_chunk(t, r->offset + done, n, content + done, errp)) {
            return false;
        }
        done += n;
    }
    return true;
}

/* The vCPUs wait no longer; false when the epoch was cancelled meanwhile. */
static bool end_direct(PmemHaDevice *s, Error **errp)
{
    QEMU_LOCK_GUARD(&s->lock);

    qatomic_set(&s->direct_hold, false);
    qemu_cond_broadcast(&s->settled);
    if (s->direct_cancel) {
        error_setg(errp, "epoch cancelled: the guest was stopped before its "
                   "content was sent");
        return false;
    }
    return true;
}

bool pmem_ha_send_epoch(PmemHaDevice *s, PmemHaEpoch *e, bool completes_copy,
                        Error **errp)
{
    g_autofree uint8_t *bounce = NULL;
    g_autofree Sender *t = g_new0(Sender, 1);
    uint32_t flags = completes_copy ? PMEM_HA_FLAG_COMPLETES_COPY : 0;
    uint8_t *content = s->staging;
    uint8_t digest[4];
    uint64_t left;
    PmemHaMsg *m;
    unsigned i;

    if (e->direct) {
        bounce = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    }
    t->s = s;
    t->epoch = e->number;
    t->bounce = bounce;
    t->msg[t->n] = (PmemHaMsg) {
        .type = PMEM_HA_MSG_BEGIN, .epoch = e->number, .flags = flags,
    };
    t->payload[t->n++] = NULL;

    for (i = 0; i < e->ranges->len; i++) {
        PmemHaRange *r = &g_array_index(e->ranges, PmemHaRange, i);

        if (!send_range(t, r, e->direct ?
                        pmem_ha_content(s, r->offset, &left) : content,
                        errp)) {
            return false;
        }
        content += r->length;
    }
    if (e->direct && (!sender_flush(t, errp) || !end_direct(s, errp))) {
        return false;
    }

    /* I5: the state file is never behind the replica. */
    pmem_ha_note_backing(s);
    if (!pmem_ha_state_write(s->state_file, &s->rec, false, errp)) {
        return false;
    }
    stl_le_p(digest, t->digest);
    m = &t->msg[t->n];
    *m = (PmemHaMsg) {
        .type = PMEM_HA_MSG_COMMIT,
        .flags = flags,
        .len = sizeof(digest),
        .epoch = e->number,
        .arg0 = t->records,
        .arg1 = t->bytes,
        .payload_crc = pmem_ha_wire_crc(digest, sizeof(digest)),
    };
    t->payload[t->n++] = digest;
    if (!sender_flush(t, errp)) {
        return false;
    }
    /* Overlaps with the replica's own fdatasync. */
    return !s->backing_is_pmem || pmem_ha_state_sync(s->state_file, errp);
}

bool pmem_ha_send_copy(PmemHaDevice *s, Error **errp)
{
    g_autofree uint8_t *bounce = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    g_autofree Sender *t = g_new0(Sender, 1);
    PmemHaMsg begin = { .type = PMEM_HA_MSG_COPY, .arg0 = s->size };
    void *none = NULL;
    PmemHaRange r = { 0, 0 };

    t->s = s;
    t->bounce = bounce;
    if (!pmem_ha_link_send(s, &begin, &none, 1, errp)) {
        return false;
    }
    for (; r.offset < s->size; r.offset += r.length) {
        uint8_t *content = pmem_ha_content(s, r.offset, &r.length);

        r.length = MIN(r.length, PMEM_HA_WIRE_MAX_PAYLOAD);
        if (qatomic_read(&s->quit)) {
            error_setg(errp, "QEMU ends");
            return false;
        }
        if (!send_range(t, &r, content, errp)) {
            return false;
        }
        qatomic_set(&s->resync_remaining, s->size - r.offset - r.length);
    }
    if (!sender_flush(t, errp)) {
        return false;
    }
    pmem_ha_crash_point("resync-data-done");
    return true;
}
