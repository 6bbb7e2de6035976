/*
 * pmem-ha: the state file of a primary
 *
 * The format is drawn in docs/specs/pmem-ha-media.rst.  There are two slots of
 * 4096 bytes.  One holds the last record that is on stable storage and is not
 * written; all others go to the other slot, so that a torn write damages only
 * a record that nobody was promised.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "hw/mem/pmem-ha-media.h"
#include "hw/mem/pmem-ha-state.h"
#include "hw/mem/pmem-ha-wire.h"

#define SLOT_SIZE     4096
#define SECTOR_SIZE   512
#define STATE_VERSION 1

#define OFS_VERSION     8
#define OFS_NUMBER     16
#define OFS_UUID       24
#define OFS_SIZE       40
#define OFS_GENERATION 48
#define OFS_CAPTURED   56
#define OFS_ACKED      64
#define OFS_FLAGS      72
#define OFS_DIGEST     80
#define OFS_BOOT_ID   112
#define OFS_HISTORY   128
#define OFS_BACKING   256
#define OFS_CRC       (SLOT_SIZE - 4)

#define FLAG_CLEAN    1u

static const char magic[8] = "PMHASTAT";

struct PmemHaStateFile {
    int fd;
    char *path;
    uint64_t number;            /* of the newest record; 0: none */
    unsigned newest;            /* its slot */
    unsigned stable;            /* slot that must not be written */
    bool dir_synced;
};

static void encode_slot(const PmemHaStateRecord *rec, uint64_t number,
                        uint8_t *buf)
{
    int i;

    memset(buf, 0, SLOT_SIZE);
    memcpy(buf, magic, sizeof(magic));
    stl_le_p(buf + OFS_VERSION, STATE_VERSION);
    stq_le_p(buf + OFS_NUMBER, number);
    memcpy(buf + OFS_UUID, rec->uuid.data, 16);
    stq_le_p(buf + OFS_SIZE, rec->size);
    stq_le_p(buf + OFS_GENERATION, rec->generation);
    stq_le_p(buf + OFS_CAPTURED, rec->captured);
    stq_le_p(buf + OFS_ACKED, rec->acked);
    stl_le_p(buf + OFS_FLAGS, rec->clean ? FLAG_CLEAN : 0);
    memcpy(buf + OFS_DIGEST, rec->digest, PMEM_HA_STATE_DIGEST);
    memcpy(buf + OFS_BOOT_ID, rec->boot_id.data, 16);
    for (i = 0; i < PMEM_HA_STATE_HISTORY; i++) {
        uint8_t *p = buf + OFS_HISTORY + i * 16;

        stq_le_p(p, rec->history[i].generation);
        stq_le_p(p + 8, rec->history[i].last_epoch);
    }
    stq_le_p(buf + OFS_BACKING, rec->backing_dev);
    stq_le_p(buf + OFS_BACKING + 8, rec->backing_ino);
    stq_le_p(buf + OFS_BACKING + 16, rec->backing_ctime_s);
    stq_le_p(buf + OFS_BACKING + 24, rec->backing_ctime_ns);
    stl_le_p(buf + OFS_CRC, crc32c(0xffffffff, buf, OFS_CRC));
}

/* Returns: the number of the record, or 0 when the slot holds none. */
static uint64_t decode_slot(const uint8_t *buf, PmemHaStateRecord *rec,
                            uint32_t *version)
{
    uint64_t number = ldq_le_p(buf + OFS_NUMBER);
    int i;

    if (memcmp(buf, magic, sizeof(magic)) ||
        ldl_le_p(buf + OFS_CRC) != crc32c(0xffffffff, buf, OFS_CRC)) {
        return 0;
    }
    *version = MAX(*version, ldl_le_p(buf + OFS_VERSION));
    if (ldl_le_p(buf + OFS_VERSION) != STATE_VERSION) {
        return 0;
    }
    *rec = (PmemHaStateRecord) {
        .size = ldq_le_p(buf + OFS_SIZE),
        .generation = ldq_le_p(buf + OFS_GENERATION),
        .captured = ldq_le_p(buf + OFS_CAPTURED),
        .acked = ldq_le_p(buf + OFS_ACKED),
        .clean = ldl_le_p(buf + OFS_FLAGS) & FLAG_CLEAN,
        .backing_dev = ldq_le_p(buf + OFS_BACKING),
        .backing_ino = ldq_le_p(buf + OFS_BACKING + 8),
        .backing_ctime_s = ldq_le_p(buf + OFS_BACKING + 16),
        .backing_ctime_ns = ldq_le_p(buf + OFS_BACKING + 24),
    };
    memcpy(rec->uuid.data, buf + OFS_UUID, 16);
    memcpy(rec->digest, buf + OFS_DIGEST, PMEM_HA_STATE_DIGEST);
    memcpy(rec->boot_id.data, buf + OFS_BOOT_ID, 16);
    for (i = 0; i < PMEM_HA_STATE_HISTORY; i++) {
        const uint8_t *p = buf + OFS_HISTORY + i * 16;

        rec->history[i].generation = ldq_le_p(p);
        rec->history[i].last_epoch = ldq_le_p(p + 8);
    }
    if (rec->generation == 0 || rec->acked > rec->captured) {
        return 0;
    }
    return number;
}

/*
 * Power was lost while the first record was on its way: nobody was promised
 * anything, and the next start, or the next attempt to promote, must not stop
 * at it.  Sectors arrive whole, so one of the two that are not zero is missing;
 * a record that was whole once and rots has both, and counts as damage.
 */
static bool first_record_is_torn(const uint8_t *buf)
{
    const uint8_t *slot = buf + SLOT_SIZE;
    bool no_head = buffer_is_zero(slot, SECTOR_SIZE);

    return buffer_is_zero(buf, SLOT_SIZE) &&
           (no_head || !memcmp(slot, magic, sizeof(magic))) &&
           (no_head || !ldl_le_p(slot + OFS_CRC)) &&
           buffer_is_zero(slot + SECTOR_SIZE, OFS_CRC - SECTOR_SIZE);
}

static bool load(PmemHaStateFile *f, PmemHaStateRecord *rec, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(2 * SLOT_SIZE);
    uint32_t version = 0;
    unsigned slot;

    if (pmem_ha_media_read(f->fd, f->path, buf, 2 * SLOT_SIZE, 0, errp) < 0) {
        return false;
    }
    for (slot = 0; slot < 2; slot++) {
        PmemHaStateRecord r;
        uint64_t number = decode_slot(buf + slot * SLOT_SIZE, &r, &version);

        if (number > f->number) {
            f->number = number;
            f->newest = slot;
            *rec = r;
        }
    }
    if (version > STATE_VERSION) {
        error_setg(errp, "state file '%s' has version %" PRIu32 "; this "
                   "program knows version %d: use the newer release",
                   f->path, version, STATE_VERSION);
        return false;
    }
    /* What a lost first write leaves, zeroes or less, is an empty file. */
    if (!f->number && !first_record_is_torn(buf)) {
        error_setg(errp, "'%s' is not a state file of pmem-ha, or both of its "
                   "records are damaged; name another state-file, or restore "
                   "this one", f->path);
        return false;
    }
    /* Its sectors and those of the next attempt would make a third record. */
    if (!f->number && !buffer_is_zero(buf, 2 * SLOT_SIZE) &&
        ftruncate(f->fd, 0) < 0) {
        error_setg_errno(errp, errno, "cannot empty state file '%s', whose "
                         "first record was cut short", f->path);
        return false;
    }
    /* What was read may not be stable yet; it is what the caller builds on. */
    f->stable = f->newest;
    return pmem_ha_media_sync(f->fd, f->path, errp) == 0;
}

PmemHaStateFile *pmem_ha_state_open(const char *path, PmemHaStateRecord *rec,
                                    bool *found, Error **errp)
{
    PmemHaStateFile *f = g_new0(PmemHaStateFile, 1);
    struct stat st;
    int ret;

    f->path = g_strdup(path);
    f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        error_setg_errno(errp, errno, "cannot open state file '%s'", path);
        goto fail;
    }
    if (fstat(f->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_setg(errp, "state file '%s' is not a regular file", path);
        goto fail;
    }
    ret = qemu_lock_fd(f->fd, 0, 0, true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot lock state file '%s'; is it in "
                         "use by another process?", path);
        goto fail;
    }
    if (!load(f, rec, errp)) {
        goto fail;
    }
    *found = f->number > 0;
    return f;

fail:
    pmem_ha_state_close(f);
    return NULL;
}

bool pmem_ha_state_write(PmemHaStateFile *f, const PmemHaStateRecord *rec,
                         bool durable, Error **errp)
{
    uint8_t buf[SLOT_SIZE];
    unsigned slot = !f->stable;

    encode_slot(rec, f->number + 1, buf);
    pmem_ha_crash_point("state-write");
    if (pmem_ha_media_write(f->fd, f->path, buf, SLOT_SIZE, slot * SLOT_SIZE,
                            errp) < 0) {
        return false;
    }
    pmem_ha_crash_point("state-written");
    f->number++;
    f->newest = slot;
    return !durable || pmem_ha_state_sync(f, errp);
}

void pmem_ha_state_touch(PmemHaStateFile *f)
{
    /* A failure makes the file look older than it is, which is safe. */
    futimens(f->fd, NULL);
}

time_t pmem_ha_state_time(PmemHaStateFile *f)
{
    struct stat st;

    return fstat(f->fd, &st) < 0 ? 0 : st.st_mtime;
}

bool pmem_ha_state_sync(PmemHaStateFile *f, Error **errp)
{
    if (pmem_ha_media_sync(f->fd, f->path, errp) < 0) {
        return false;
    }
    if (!f->dir_synced && pmem_ha_media_sync_dir(f->path, errp) < 0) {
        return false;
    }
    pmem_ha_crash_point("state-synced");
    f->dir_synced = true;
    f->stable = f->newest;
    return true;
}

void pmem_ha_state_close(PmemHaStateFile *f)
{
    if (!f) {
        return;
    }
    if (f->fd >= 0) {
        close(f->fd);
    }
    g_free(f->path);
    g_free(f);
}

bool pmem_ha_state_boot_id(QemuUUID *id, Error **errp)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;

    if (!g_file_get_contents(path, &text, NULL, &err)) {
        error_setg(errp, "cannot read this host's boot id: %s", err->message);
        return false;
    }
    if (qemu_uuid_parse(g_strstrip(text), id) < 0) {
        error_setg(errp, "'%s' holds no UUID", path);
        return false;
    }
    return true;
}

bool pmem_ha_state_holds(const PmemHaStateRecord *rec, uint64_t generation,
                         uint64_t epoch)
{
    int i;

    if (generation == rec->generation) {
        return epoch <= rec->captured;
    }
    for (i = 0; i < PMEM_HA_STATE_HISTORY; i++) {
        if (rec->history[i].generation == generation && generation) {
            return epoch <= rec->history[i].last_epoch;
        }
    }
    return false;
}

void pmem_ha_state_next_generation(PmemHaStateRecord *rec)
{
    memmove(&rec->history[1], &rec->history[0],
            sizeof(rec->history[0]) * (PMEM_HA_STATE_HISTORY - 1));
    rec->history[0] = (PmemHaLineage) {
        .generation = rec->generation,
        .last_epoch = rec->acked,
    };
    rec->generation++;
}
