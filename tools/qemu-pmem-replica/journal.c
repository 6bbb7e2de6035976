/*
 * qemu-pmem-replica: superblock and marks of the journal, and appending
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/random.h>
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "hw/mem/pmem-ha-media.h"
#include "journal.h"
#include "journal-format.h"

#define SECTOR_SIZE 512

uint64_t journal_new_salt(void)
{
    uint64_t salt = 0;

    /* Zero is what an empty file holds. */
    while (!salt) {
        if (getrandom(&salt, sizeof(salt), 0) != sizeof(salt)) {
            salt = ((uint64_t)g_random_int() << 32) | g_random_int();
        }
    }
    return salt;
}

void journal_push_history(JournalSuper *super, uint64_t epoch)
{
    memmove(&super->history[1], &super->history[0],
            sizeof(super->history[0]) * (PMEM_HA_STATE_HISTORY - 1));
    super->history[0] = (PmemHaLineage) { super->generation, epoch };
}

static void encode_super(const JournalSuper *s, uint8_t *buf)
{
    size_t path_len = strlen(s->state_path);
    int i;

    memset(buf, 0, JOURNAL_SUPER_SIZE);
    memcpy(buf, JOURNAL_MAGIC, 8);
    stl_le_p(buf + 8, JOURNAL_VERSION);
    stl_le_p(buf + 12, (s->have_image ? SUPER_HAVE_IMAGE : 0) |
                       (s->bound ? SUPER_BOUND : 0) |
                       (s->promoted ? SUPER_PROMOTED : 0) |
                       (s->image_is_copy ? SUPER_IMAGE_IS_COPY : 0));
    stq_le_p(buf + 16, s->number);
    memcpy(buf + 24, s->uuid.data, 16);
    stq_le_p(buf + 40, s->size);
    stq_le_p(buf + 48, s->label_size);
    stl_le_p(buf + 56, s->slot);
    stq_le_p(buf + 64, s->generation);
    stq_le_p(buf + 72, s->applied);
    stq_le_p(buf + 80, s->salt);
    for (i = 0; i < PMEM_HA_STATE_HISTORY; i++) {
        stq_le_p(buf + 88 + i * 16, s->history[i].generation);
        stq_le_p(buf + 96 + i * 16, s->history[i].last_epoch);
    }
    stw_le_p(buf + 216, path_len);
    memcpy(buf + 218, s->state_path, path_len);
    stq_le_p(buf + 1248, s->log_generation);
    stq_le_p(buf + 1256, s->taker);
    stl_le_p(buf + SUPER_MORE, s->n_more);
    for (i = 0; i < s->n_more; i++) {
        pmem_ha_member_encode(&s->more[i], buf + SUPER_MORE + 8 +
                              i * PMEM_HA_MEMBER_SIZE);
    }
    stl_le_p(buf + JOURNAL_SUPER_SIZE - 4,
             crc32c(0xffffffff, buf, JOURNAL_SUPER_SIZE - 4));
}

/* Returns: the version when the checksum holds, else 0. */
static uint32_t decode_super(const uint8_t *buf, JournalSuper *s)
{
    uint32_t version = ldl_le_p(buf + 8);
    uint32_t flags = ldl_le_p(buf + 12);
    unsigned path_len = lduw_le_p(buf + 216);
    uint64_t left;
    int i;

    if (memcmp(buf, JOURNAL_MAGIC, 8) ||
        ldl_le_p(buf + JOURNAL_SUPER_SIZE - 4) !=
        crc32c(0xffffffff, buf, JOURNAL_SUPER_SIZE - 4)) {
        return 0;
    }
    if (version > JOURNAL_VERSION) {
        /* What the other fields mean there is not known here. */
        return version;
    }
    *s = (JournalSuper) {
        .number = ldq_le_p(buf + 16),
        .size = ldq_le_p(buf + 40),
        .label_size = ldq_le_p(buf + 48),
        .slot = ldl_le_p(buf + 56),
        .have_image = flags & SUPER_HAVE_IMAGE,
        .bound = flags & SUPER_BOUND,
        .promoted = flags & SUPER_PROMOTED,
        .image_is_copy = flags & SUPER_IMAGE_IS_COPY,
        .generation = ldq_le_p(buf + 64),
        .applied = ldq_le_p(buf + 72),
        .salt = ldq_le_p(buf + 80),
        .log_generation = ldq_le_p(buf + 1248),
        .taker = ldq_le_p(buf + 1256),
    };
    memcpy(s->uuid.data, buf + 24, 16);
    for (i = 0; i < PMEM_HA_STATE_HISTORY; i++) {
        s->history[i].generation = ldq_le_p(buf + 88 + i * 16);
        s->history[i].last_epoch = ldq_le_p(buf + 96 + i * 16);
    }
    memcpy(s->state_path, buf + 218, MIN(path_len, JOURNAL_MAX_PATH));
    left = s->size;
    s->n_more = ldl_le_p(buf + SUPER_MORE);
    if (s->n_more > PMEM_HA_WIRE_MAX_MORE) {
        return 0;
    }
    for (i = 0; i < s->n_more; i++) {
        pmem_ha_member_decode(buf + SUPER_MORE + 8 + i * PMEM_HA_MEMBER_SIZE,
                              &s->more[i]);
        if (s->more[i].size >= left) {
            return 0;
        }
        left -= s->more[i].size;
    }
    return version;
}

/*
 * Power was lost while the journal was created: it has never been one, and
 * there is nothing in it.  Sectors arrive whole, and the first superblock, in
 * slot 1, has three that are not zero: one of them is missing.  One that was
 * whole once and rots has all of them, and counts as damage.
 */
static bool creation_is_torn(Journal *j, const uint8_t *buf)
{
    const uint8_t *super = buf + JOURNAL_SUPER_SIZE;
    bool no_head = buffer_is_zero(super, SECTOR_SIZE);
    struct stat st;

    return fstat(j->fd, &st) == 0 && st.st_size <= 2 * JOURNAL_SUPER_SIZE &&
           buffer_is_zero(buf, JOURNAL_SUPER_SIZE) &&
           (no_head || !memcmp(super, JOURNAL_MAGIC, 8)) &&
           (no_head || !ldq_le_p(super + 1248) ||
            !ldl_le_p(super + JOURNAL_SUPER_SIZE - 4)) &&
           buffer_is_zero(super + SECTOR_SIZE, 1248 - SECTOR_SIZE) &&
           buffer_is_zero(super + 1256, JOURNAL_SUPER_SIZE - 4 - 1256);
}

static bool load_super(Journal *j, bool *found, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(JOURNAL_LOG_BASE);
    unsigned slot;

    *found = false;
    if (pmem_ha_media_read(j->fd, j->path, buf, JOURNAL_LOG_BASE, 0,
                           errp) < 0) {
        return false;
    }
    for (slot = 0; slot < 2; slot++) {
        JournalSuper s;
        uint32_t version = decode_super(buf + slot * JOURNAL_SUPER_SIZE, &s);

        if (version > JOURNAL_VERSION) {
            error_setg(errp, "journal '%s' has version %" PRIu32 "; this "
                       "program knows version %d: use the newer release",
                       j->path, version, JOURNAL_VERSION);
            return false;
        }
        if (version && s.number && s.generation &&
            s.generation <= INT64_MAX && s.applied <= INT64_MAX &&
            s.number > j->super.number) {
            j->super = s;
            j->super_slot = slot;
            *found = true;
        }
    }
    if (*found || buffer_is_zero(buf, JOURNAL_LOG_BASE)) {
        return true;
    }
    if (creation_is_torn(j, buf)) {
        /* Its sectors and those of the next attempt would make a third one. */
        if (ftruncate(j->fd, 0) < 0) {
            error_setg_errno(errp, errno, "cannot empty journal '%s', whose "
                             "creation was cut short", j->path);
            return false;
        }
        return pmem_ha_media_sync(j->fd, j->path, errp) == 0;
    }
    error_setg(errp, "'%s' is not a journal of qemu-pmem-replica, or both of "
               "its superblocks are damaged; name another file as 'journal', "
               "or move this one away to start with a full copy", j->path);
    return false;
}

/* The newest mark of this generation says what was acknowledged. */
static bool load_marks(Journal *j, Error **errp)
{
    unsigned i;

    for (i = 0; i < 2; i++) {
        uint8_t buf[JOURNAL_MARK_SIZE];
        uint64_t number;

        if (pmem_ha_media_read(j->fd, j->path, buf, sizeof(buf),
                               JOURNAL_MARK_BASE + i * JOURNAL_MARK_STRIDE,
                               errp) < 0) {
            return false;
        }
        number = ldq_le_p(buf + 32);
        if (memcmp(buf, JOURNAL_MARK_MAGIC, 8) ||
            ldl_le_p(buf + 40) != crc32c(0xffffffff, buf, 40)) {
            continue;
        }
        j->mark_number = MAX(j->mark_number, number);
        if (ldq_le_p(buf + 16) == j->super.log_generation) {
            j->acked = MAX(j->acked, ldq_le_p(buf + 24));
        }
    }
    return true;
}

bool journal_write_super(Journal *j, const JournalSuper *super, bool twice,
                         Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(JOURNAL_SUPER_SIZE);
    JournalSuper s = *super;
    int i;

    for (i = 0; i < (twice ? 2 : 1); i++) {
        unsigned slot = !j->super_slot;

        s.number = j->super.number + 1;
        encode_super(&s, buf);
        pmem_ha_crash_point("super-write");
        if (pmem_ha_media_write(j->fd, j->path, buf, JOURNAL_SUPER_SIZE,
                                slot * JOURNAL_SUPER_SIZE, errp) < 0 ||
            pmem_ha_media_sync(j->fd, j->path, errp) < 0) {
            /*
             * It may or may not be there after a crash.  The slot is written
             * again by the next attempt, with the same number.
             */
            j->super_doubt = true;
            return false;
        }
        j->super = s;
        j->super_slot = slot;
        j->super_doubt = false;
        pmem_ha_crash_point("super-synced");
    }
    return true;
}

JournalCursor journal_base(Journal *j)
{
    return (JournalCursor) {
        .pos = JOURNAL_LOG_BASE,
        .epoch = j->super.applied,
    };
}

void journal_restart_log(Journal *j)
{
    j->end = journal_base(j);
    j->open = false;
    j->ghost = false;
}

bool journal_checkpoint(Journal *j, uint64_t keep, Error **errp)
{
    JournalSuper s = j->super;
    struct stat st;

    assert(!j->open);
    s.applied = j->end.epoch;
    s.salt = journal_new_salt();
    if (!journal_write_super(j, &s, false, errp)) {
        return false;
    }
    journal_restart_log(j);
    /* Blocks that stay are cheaper to write again than new ones. */
    if (fstat(j->fd, &st) == 0 && st.st_size > JOURNAL_LOG_BASE + keep &&
        ftruncate(j->fd, JOURNAL_LOG_BASE + keep) < 0) {
        /* What lies there is of no account any more; it costs space only. */
        warn_report("cannot shorten journal '%s': %s", j->path,
                    strerror(errno));
    }
    return true;
}

uint64_t journal_log_bytes(Journal *j)
{
    return (j->open ? j->tail.pos : j->end.pos) - JOURNAL_LOG_BASE;
}

static bool create(Journal *j, uint64_t size, Error **errp)
{
    JournalSuper s = {
        .size = size,
        .generation = 1,
        .log_generation = 1,
        .salt = journal_new_salt(),
    };

    return journal_write_super(j, &s, false, errp);
}

Journal *journal_open(const char *path, uint64_t size, Error **errp)
{
    Journal *j = g_new0(Journal, 1);
    struct stat st;
    bool found;
    int ret;

    j->path = g_strdup(path);
    j->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (j->fd < 0) {
        error_setg_errno(errp, errno, "cannot open journal '%s'", path);
        goto fail;
    }
    if (fstat(j->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_setg(errp, "journal '%s' is not a regular file", path);
        goto fail;
    }
    ret = qemu_lock_fd(j->fd, 0, 0, true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot lock journal '%s'; is it in use "
                         "by another qemu-pmem-replica?", path);
        goto fail;
    }
    /*
     * What was read may be in the page cache only, left there by a daemon that
     * was killed.  All that follows builds on it: the image is written, and a
     * superblock replaced (J3, J5).
     */
    if (pmem_ha_media_sync(j->fd, j->path, errp) < 0 ||
        !load_super(j, &found, errp) ||
        (!found && !create(j, size, errp)) ||
        pmem_ha_media_sync_dir(j->path, errp) < 0) {
        goto fail;
    }
    if (j->super.size != size) {
        error_setg(errp, "journal '%s' belongs to a region of %" PRIu64
                   " bytes, but size=%" PRIu64 " is asked for; correct "
                   "'size', or name another journal", path, j->super.size,
                   size);
        goto fail;
    }
    if (!load_marks(j, errp) || !journal_scan(j, errp)) {
        goto fail;
    }
    return j;

fail:
    journal_close(j);
    return NULL;
}

void journal_close(Journal *j)
{
    if (!j) {
        return;
    }
    if (j->fd >= 0) {
        close(j->fd);
    }
    g_free(j->path);
    g_free(j->damage);
    g_free(j->discard);
    g_free(j);
}

static int append(Journal *j, JournalRecord *r, const void *payload,
                  Error **errp)
{
    uint8_t buf[JOURNAL_RECORD_SIZE];
    size_t len = 0;
    int ret;

    if (payload) {
        len = r->arg1;
    }
    r->salt = j->super.salt;
    r->generation = j->super.log_generation;
    r->epoch = j->epoch;
    r->chain = j->tail.chain;
    j->tail.chain = journal_encode_record(r, buf);
    ret = pmem_ha_media_write2(j->fd, j->path, buf, sizeof(buf), payload, len,
                               j->tail.pos, errp);
    j->tail.pos += sizeof(buf) + len;
    return ret;
}

int journal_begin(Journal *j, uint64_t epoch, Error **errp)
{
    JournalRecord r = { .type = RECORD_BEGIN };
    JournalSuper s = j->super;

    /* Under the superblock that may be there, the log would be another one. */
    if (j->super_doubt && !journal_write_super(j, &s, false, errp)) {
        return -EIO;
    }
    assert(!j->open && epoch == j->end.epoch + 1);
    j->open = true;
    j->complete = false;
    j->tail = j->end;
    j->epoch = epoch;
    j->records = 0;
    j->bytes = 0;
    j->digest = 0;
    pmem_ha_crash_point("journal-begin");
    return append(j, &r, NULL, errp);
}

int journal_data(Journal *j, const PmemHaMsg *m, const void *payload,
                 Error **errp)
{
    bool zero = m->flags & PMEM_HA_FLAG_ZERO;
    JournalRecord r = {
        .type = RECORD_DATA,
        .flags = zero ? RECORD_ZERO : 0,
        .arg0 = m->arg0,
        .arg1 = m->arg1,
        .sum = m->payload_crc,
    };

    assert(j->open && !j->complete);
    pmem_ha_crash_point("journal-data");
    j->records++;
    j->bytes += m->arg1;
    j->digest = pmem_ha_wire_digest(j->digest, m);
    return append(j, &r, zero ? NULL : payload, errp);
}

int journal_commit(Journal *j, uint64_t count, uint64_t bytes,
                   uint32_t digest, Error **errp)
{
    JournalRecord r = {
        .type = RECORD_COMMIT,
        .arg0 = count,
        .arg1 = bytes,
        .sum = digest,
    };
    int ret;

    assert(j->open && !j->complete);
    if (count != j->records || bytes != j->bytes || digest != j->digest) {
        error_setg(errp, "protocol error: COMMIT of epoch %" PRIu64 " names %"
                   PRIu64 " messages, %" PRIu64 " bytes, digest %08" PRIx32
                   ", but %" PRIu64 ", %" PRIu64 ", %08" PRIx32 " arrived",
                   j->epoch, count, bytes, digest, j->records, j->bytes,
                   j->digest);
        return -EPROTO;
    }
    pmem_ha_crash_point("journal-commit");
    j->complete = true;
    ret = append(j, &r, NULL, errp);
    pmem_ha_crash_point("journal-committed");
    return ret;
}

int journal_sync(Journal *j, Error **errp)
{
    int ret;

    assert(j->open && j->complete);
    ret = pmem_ha_media_sync(j->fd, j->path, errp);
    if (ret == 0) {
        j->tail.epoch = j->epoch;
        j->end = j->tail;
        j->open = false;
        pmem_ha_crash_point("journal-synced");
    }
    return ret;
}

void journal_abort(Journal *j)
{
    if (!j->open) {
        return;
    }
    j->open = false;
    if (ftruncate(j->fd, j->end.pos) < 0 || j->complete) {
        j->ghost = true;
    }
}

bool journal_settle(Journal *j, Error **errp)
{
    if (!j->ghost) {
        return true;
    }
    if (ftruncate(j->fd, j->end.pos) < 0) {
        error_setg_errno(errp, errno, "cannot shorten journal '%s'", j->path);
        return false;
    }
    if (pmem_ha_media_sync(j->fd, j->path, errp) < 0) {
        return false;
    }
    j->ghost = false;
    return true;
}

int journal_mark(Journal *j, Error **errp)
{
    uint8_t buf[JOURNAL_MARK_SIZE] = JOURNAL_MARK_MAGIC;
    uint64_t number = j->mark_number + 1;
    int ret;

    stq_le_p(buf + 8, j->super.salt);
    stq_le_p(buf + 16, j->super.log_generation);
    stq_le_p(buf + 24, j->end.epoch);
    stq_le_p(buf + 32, number);
    stl_le_p(buf + 40, crc32c(0xffffffff, buf, 40));
    ret = pmem_ha_media_write(j->fd, j->path, buf, sizeof(buf),
                              JOURNAL_MARK_BASE +
                              number % 2 * JOURNAL_MARK_STRIDE, errp);
    if (ret == 0) {
        j->mark_number = number;
        j->acked = j->end.epoch;
        pmem_ha_crash_point("journal-marked");
    }
    return ret;
}
