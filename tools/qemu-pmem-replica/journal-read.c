/*
 * qemu-pmem-replica: reading the log of a journal
 *
 * Everything that is read may be torn, rotten or forged.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "hw/mem/pmem-ha-media.h"
#include "journal.h"
#include "journal-format.h"

uint32_t journal_encode_record(const JournalRecord *r, uint8_t *buf)
{
    uint32_t crc;

    stl_le_p(buf, JOURNAL_RECORD_MAGIC);
    stw_le_p(buf + 4, r->type);
    stw_le_p(buf + 6, r->flags);
    stq_le_p(buf + 8, r->salt);
    stq_le_p(buf + 16, r->generation);
    stq_le_p(buf + 24, r->epoch);
    stq_le_p(buf + 32, r->arg0);
    stq_le_p(buf + 40, r->arg1);
    stl_le_p(buf + 48, r->sum);
    stl_le_p(buf + 52, r->chain);
    stl_le_p(buf + 56, 0);
    crc = crc32c(0xffffffff, buf, 60);
    stl_le_p(buf + 60, crc);
    return crc;
}

/* Is this a record of the present round of the log, wherever it stands? */
static bool decode_record(Journal *j, const uint8_t *buf, JournalRecord *r)
{
    if (ldl_le_p(buf) != JOURNAL_RECORD_MAGIC ||
        ldq_le_p(buf + 8) != j->super.salt ||
        ldl_le_p(buf + 60) != crc32c(0xffffffff, buf, 60)) {
        return false;
    }
    *r = (JournalRecord) {
        .type = lduw_le_p(buf + 4),
        .flags = lduw_le_p(buf + 6),
        .salt = ldq_le_p(buf + 8),
        .generation = ldq_le_p(buf + 16),
        .epoch = ldq_le_p(buf + 24),
        .arg0 = ldq_le_p(buf + 32),
        .arg1 = ldq_le_p(buf + 40),
        .sum = ldl_le_p(buf + 48),
        .chain = ldl_le_p(buf + 52),
    };
    return r->generation == j->super.log_generation;
}

static bool check_range(Journal *j, const JournalRecord *r)
{
    bool zero = r->flags & RECORD_ZERO;

    return r->arg1 && QEMU_IS_ALIGNED(r->arg0 | r->arg1, PMEM_HA_PAGE_SIZE) &&
           r->arg1 <= j->super.size && r->arg0 <= j->super.size - r->arg1 &&
           (zero || r->arg1 <= PMEM_HA_WIRE_MAX_PAYLOAD);
}

/*
 * Read and check the record at @c, advance @c; its payload goes to @buf.
 * *@unread is set when the medium did not give what is there.
 */
static bool read_record(Journal *j, JournalCursor *c, JournalRecord *r,
                        uint64_t epoch, uint8_t *buf, bool *unread,
                        Error **errp)
{
    uint8_t head[JOURNAL_RECORD_SIZE];

    if (pmem_ha_media_read(j->fd, j->path, head, sizeof(head), c->pos,
                           errp) < 0) {
        *unread = true;
        return false;
    }
    if (!decode_record(j, head, r) || r->chain != c->chain ||
        r->epoch != epoch) {
        error_setg(errp, "no valid record at offset %" PRIu64, c->pos);
        return false;
    }
    c->pos += sizeof(head);
    c->chain = ldl_le_p(head + 60);
    if (r->type != RECORD_DATA) {
        return true;
    }
    if (!check_range(j, r)) {
        error_setg(errp, "record at offset %" PRIu64 " has a bad range",
                   c->pos - sizeof(head));
        return false;
    }
    if (!(r->flags & RECORD_ZERO)) {
        if (pmem_ha_media_read(j->fd, j->path, buf, r->arg1, c->pos,
                               errp) < 0) {
            *unread = true;
            return false;
        }
        if (pmem_ha_wire_crc(buf, r->arg1) != r->sum) {
            error_setg(errp, "bad checksum of %" PRIu64 " bytes of data at "
                       "offset %" PRIu64, r->arg1, c->pos);
            return false;
        }
        c->pos += r->arg1;
    }
    return true;
}

static bool read_body(Journal *j, JournalCursor *c, uint8_t *buf,
                      JournalApply *apply, void *opaque, bool *unread,
                      Error **errp)
{
    uint64_t epoch = c->epoch + 1;
    uint64_t records = 0;
    uint64_t bytes = 0;
    uint32_t digest = 0;
    JournalRecord r;

    for (;;) {
        bool zero;

        if (!read_record(j, c, &r, epoch, buf, unread, errp)) {
            return false;
        }
        if (r.type != RECORD_DATA) {
            break;
        }
        zero = r.flags & RECORD_ZERO;
        records++;
        bytes += r.arg1;
        if (bytes > j->super.size) {
            error_setg(errp, "epoch %" PRIu64 " has more bytes than the region",
                       epoch);
            return false;
        }
        digest = pmem_ha_wire_digest(digest, &(PmemHaMsg) {
            .flags = zero ? PMEM_HA_FLAG_ZERO : 0,
            .arg0 = r.arg0,
            .arg1 = r.arg1,
            .payload_crc = r.sum,
        });
        if (apply && !apply(opaque, r.arg0, r.arg1, zero ? NULL : buf, errp)) {
            return false;
        }
    }
    if (r.type != RECORD_COMMIT || r.arg0 != records || r.arg1 != bytes ||
        r.sum != digest) {
        error_setg(errp, "commit record before offset %" PRIu64 " does not "
                   "match its epoch", c->pos);
        return false;
    }
    c->epoch = epoch;
    return true;
}

static bool read_epoch(Journal *j, JournalCursor *c, uint8_t *buf,
                       JournalApply *apply, void *opaque, uint64_t *detail,
                       bool *unread, Error **errp)
{
    JournalCursor at = *c;
    JournalRecord r;
    bool whole;

    if (detail) {
        *detail = 0;
    }
    if (!read_record(j, &at, &r, c->epoch + 1, buf, unread, errp)) {
        return false;
    }
    if (r.type != RECORD_BEGIN) {
        error_setg(errp, "record at offset %" PRIu64 " begins no epoch",
                   c->pos);
        return false;
    }
    whole = read_body(j, &at, buf, apply, opaque, unread, errp);
    if (detail) {
        *detail = at.pos - c->pos;
    }
    if (whole) {
        *c = at;
    }
    return whole;
}

bool journal_read_epoch(Journal *j, JournalCursor *c, uint8_t *buf,
                        JournalApply *apply, void *opaque, uint64_t *detail,
                        Error **errp)
{
    bool unread = false;

    return read_epoch(j, c, buf, apply, opaque, detail, &unread, errp);
}

/*
 * Does an epoch after @epoch begin anywhere from @pos on?  Records stand at
 * multiples of 64 bytes.  A forged one would have to know the salt.
 */
static bool find_later_begin(Journal *j, uint64_t pos, uint64_t epoch,
                             uint64_t *which, uint8_t *buf, Error **errp)
{
    struct stat st;

    *which = 0;
    if (fstat(j->fd, &st) < 0) {
        error_setg_errno(errp, errno, "cannot stat journal '%s'", j->path);
        return false;
    }
    while (pos < st.st_size) {
        size_t n = MIN(st.st_size - pos, PMEM_HA_WIRE_MAX_PAYLOAD);
        size_t i;

        if (pmem_ha_media_read(j->fd, j->path, buf, n, pos, errp) < 0) {
            return false;
        }
        for (i = 0; i + JOURNAL_RECORD_SIZE <= n; i += JOURNAL_RECORD_SIZE) {
            JournalRecord r;

            if (decode_record(j, buf + i, &r) && r.type == RECORD_BEGIN &&
                r.epoch > epoch) {
                *which = r.epoch;
                return true;
            }
        }
        pos += n;
    }
    return true;
}

bool journal_scan(Journal *j, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    JournalCursor c = journal_base(j);
    Error *why = NULL;
    uint64_t tail = 0;
    uint64_t later;
    uint64_t next;
    bool unread = false;

    while (read_epoch(j, &c, buf, NULL, NULL, &tail, &unread, &why)) {
        /* Each epoch is at least two records long: this ends. */
    }
    if (unread) {
        /* It may be readable the next time: discard nothing. */
        error_propagate(errp, why);
        return false;
    }
    j->end = c;
    next = c.epoch + 1;
    g_clear_pointer(&j->damage, g_free);
    g_clear_pointer(&j->discard, g_free);

    if (!find_later_begin(j, c.pos, next, &later, buf, errp)) {
        error_free(why);
        return false;
    }
    if (j->acked >= next || later) {
        g_autofree char *proof = later ?
            g_strdup_printf("epoch %" PRIu64 " begins behind it", later) :
            g_strdup_printf("epoch %" PRIu64 " was acknowledged", j->acked);

        j->damaged_epoch = next;
        j->damage = g_strdup_printf("epoch %" PRIu64 " of generation %" PRIu64
                                    " is damaged in journal '%s': %s, although"
                                    " %s; the last whole epoch is %" PRIu64,
                                    next, j->super.log_generation, j->path,
                                    error_get_pretty(why), proof, c.epoch);
    } else if (tail) {
        j->discarded_epoch = next;
        j->discarded_bytes = tail;
        j->discard = g_strdup(error_get_pretty(why));
    }
    error_free(why);
    return true;
}
