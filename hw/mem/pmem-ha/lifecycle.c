/*
 * pmem-ha: what is proved at the start, and what is kept at the end
 *
 * The table of cases is in docs/devel/pmem-ha.rst, "Proof at the start".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/vfs.h>
#include <linux/magic.h>
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "hw/mem/pc-dimm.h"
#include "system/hostmem.h"
#include "system/runstate.h"
#include "internal.h"
#include "trace.h"

#define DIGEST_CHUNK (16 * MiB)

static const char *backing_path(PmemHaDevice *s, char **alloc)
{
    Object *backend = OBJECT(PC_DIMM(s)->hostmem);

    if (!object_property_find(backend, "mem-path")) {
        return NULL;
    }
    *alloc = object_property_get_str(backend, "mem-path", NULL);
    return *alloc;
}

bool pmem_ha_any_backend_has(PmemHaDevice *s, const char *name)
{
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        if (object_property_get_bool(OBJECT(PC_DIMM(s->part[i].dev)->hostmem),
                                     name, NULL)) {
            return true;
        }
    }
    return false;
}

bool pmem_ha_lock_image(PmemHaDevice *s, Error **errp)
{
    g_autofree char *alloc = NULL;
    g_autofree char *marker = NULL;
    g_autofree char *real = NULL;
    const char *path = backing_path(s, &alloc);
    int ret;

    if (!path) {
        return true;
    }
    real = realpath(path, NULL);
    marker = g_strdup_printf("%s.replica", real ?: path);
    if (s->adopting) {
        if (access(marker, F_OK) < 0) {
            error_setg(errp, "pmem-ha device '%s': mem-path '%s' is not the "
                       "image of a replica, which handover=adopt wants; name "
                       "the image that qemu-pmem-replica has here", s->name,
                       path);
            return false;
        }
    } else if (access(marker, F_OK) == 0) {
        error_setg(errp, "pmem-ha device '%s': mem-path '%s' is the image of a "
                   "replica (%s exists)", s->name, path, marker);
        error_append_hint(errp, "Promote it first: qemu-pmemctl promote.\n");
        return false;
    }
    s->image_fd = qemu_open(path, O_RDWR, errp);
    if (s->image_fd < 0) {
        error_prepend(errp, "pmem-ha device '%s': ", s->name);
        return false;
    }
    if (s->adopting) {
        return true;
    }
    ret = qemu_lock_fd(s->image_fd, 0, 0, true);
    if (ret < 0) {
        error_setg(errp, "pmem-ha device '%s': mem-path '%s' is in use by "
                   "another QEMU or by a replica (%s)", s->name, path,
                   strerror(-ret));
        error_append_hint(errp, "Stop the other user, or promote the "
                          "replica that holds it.\n");
        close(s->image_fd);
        s->image_fd = -1;
        return false;
    }
    return true;
}

static bool digest_of_memory(PmemHaDevice *s, uint8_t *digest, Error **errp)
{
    g_autoptr(QCryptoHash) hash = NULL;
    g_autofree uint8_t *result = NULL;
    size_t len = 0;
    uint64_t done, n;

    hash = qcrypto_hash_new(QCRYPTO_HASH_ALGO_SHA256, errp);
    if (!hash) {
        return false;
    }
    for (done = 0; done < s->size; done += n) {
        struct iovec iov = { pmem_ha_content(s, done, &n) };

        n = MIN(n, DIGEST_CHUNK);
        iov.iov_len = n;
        if (qcrypto_hash_updatev(hash, &iov, 1, errp) < 0) {
            return false;
        }
    }
    if (qcrypto_hash_finalize_bytes(hash, &result, &len, errp) < 0) {
        return false;
    }
    memcpy(digest, result, MIN(len, PMEM_HA_STATE_DIGEST));
    return true;
}

/* Devices and huge pages are restored by stores, which no inode notes. */
static bool times_tell(int fd, const struct stat *st)
{
    struct statfs fs;

    return S_ISREG(st->st_mode) && fstatfs(fd, &fs) == 0 &&
           fs.f_type != HUGETLBFS_MAGIC;
}

void pmem_ha_note_backing(PmemHaDevice *s)
{
    struct stat st;

    if (s->image_fd >= 0 && fstat(s->image_fd, &st) == 0) {
        s->rec.backing_dev = st.st_dev;
        s->rec.backing_ino = st.st_ino;
        s->rec.backing_ctime_s = st.st_ctim.tv_sec;
        s->rec.backing_ctime_ns = st.st_ctim.tv_nsec;
    }
}

/*
 * After an orderly end the digest tells whether the backing file is the right
 * one.  After a kill its content is not known; but nothing changes the file
 * once the process is gone, and the time of its last change (which no copying
 * program can set) is then not later than the last sign of life.
 */
static void check_unclean(PmemHaDevice *s)
{
    struct stat st;

    if (qemu_uuid_is_null(&s->rec.boot_id)) {
        s->no_proof = "nothing, since an earlier start could prove nothing,";
        return;
    }
    /*
     * No exception for pmem=on: stores that the guest did flush may still be
     * in the caches of the host's CPU when the power fails.
     */
    if (!qemu_uuid_is_equal(&s->boot_id, &s->rec.boot_id)) {
        s->no_proof = "nothing, since the host was restarted after it,";
        return;
    }
    if (fstat(s->image_fd, &st) < 0 ||
        (s->rec.backing_ino && (s->rec.backing_ino != st.st_ino ||
                                s->rec.backing_dev != st.st_dev))) {
        s->no_proof = "nothing, since the backing file is another file,";
        return;
    }
    if (!times_tell(s->image_fd, &st)) {
        s->no_proof = "nothing, since no change of such a backing leaves a "
                      "trace after a kill,";
        return;
    }
    /* As after the file system was taken back to a snapshot. */
    if (st.st_ctim.tv_sec < s->rec.backing_ctime_s ||
        (st.st_ctim.tv_sec == s->rec.backing_ctime_s &&
         st.st_ctim.tv_nsec < s->rec.backing_ctime_ns)) {
        s->no_proof = "nothing, since the backing file is as it was before "
                      "it,";
        return;
    }
    /* With prealloc=on, the backend itself has just changed the file. */
    if (!pmem_ha_any_backend_has(s, "prealloc") &&
        st.st_ctime > pmem_ha_state_time(s->state_file) +
                      PMEM_HA_BEAT_SLACK_S) {
        s->no_proof = "nothing, since the backing file was changed or "
                      "replaced after it,";
        return;
    }
    s->proof_lineage = true;
}

static bool check_record(PmemHaDevice *s, Error **errp)
{
    NVDIMMDevice *nvdimm = NVDIMM(s);
    uint8_t digest[PMEM_HA_STATE_DIGEST];

    if (s->rec.size != s->size) {
        error_setg(errp, "pmem-ha device '%s': memdev has %" PRIu64 " bytes, "
                   "state-file '%s' belongs to %" PRIu64 " bytes", s->name,
                   s->size, s->state_path, s->rec.size);
        return false;
    }
    if (!qemu_uuid_is_null(&nvdimm->uuid) &&
        !qemu_uuid_is_equal(&nvdimm->uuid, &s->rec.uuid)) {
        g_autofree char *have = qemu_uuid_unparse_strdup(&nvdimm->uuid);
        g_autofree char *file = qemu_uuid_unparse_strdup(&s->rec.uuid);

        error_setg(errp, "pmem-ha device '%s': uuid is %s, state-file '%s' "
                   "belongs to %s", s->name, have, s->state_path, file);
        return false;
    }
    if (!s->rec.clean) {
        check_unclean(s);
        return true;
    }
    s->proof_lineage = true;
    if (!digest_of_memory(s, digest, errp)) {
        return false;
    }
    if (memcmp(digest, s->rec.digest, sizeof(digest))) {
        if (pmem_ha_waits_for_replica(s)) {
            /* Its verdict will name what it holds, too. */
            s->proof_lineage = false;
            s->no_proof = "nothing, since the backing file does not hold what "
                          "it recorded,";
            return true;
        }
        error_setg(errp, "pmem-ha device '%s': the memory backend does not "
                   "hold what state-file '%s' recorded at epoch %" PRIu64
                   " of generation %" PRIu64 "; nothing was changed", s->name,
                   s->state_path, s->rec.captured, s->rec.generation);
        error_append_hint(errp, "Is it an older copy?  Put the right file "
                          "back, or promote the replica.\n");
        return false;
    }
    s->proof_equal = s->rec.captured == s->rec.acked;
    return true;
}

bool pmem_ha_prove(PmemHaDevice *s, Error **errp)
{
    NVDIMMDevice *nvdimm = NVDIMM(s);
    bool found;

    s->backing_is_pmem = pmem_ha_any_backend_has(s, "pmem");
    if (!s->state_path) {
        if (s->replica) {
            error_setg(errp, "pmem-ha device '%s': property 'state-file' is "
                       "required with property 'replica'", s->name);
            return false;
        }
        s->rec.generation = 1;
        s->rec.uuid = nvdimm->uuid;
        return true;
    }
    s->state_file = pmem_ha_state_open(s->state_path, &s->rec, &found, errp);
    if (!s->state_file || !pmem_ha_state_boot_id(&s->boot_id, errp)) {
        error_prepend(errp, "pmem-ha device '%s': ", s->name);
        return false;
    }
    if (s->role == PMEM_HA_ROLE_INCOMING) {
        /* Whatever it proves, the stream is about to overwrite that. */
        memset(&s->rec, 0, sizeof(s->rec));
        s->rec.generation = 1;
        s->rec.size = s->size;
        s->rec.uuid = nvdimm->uuid;
        s->no_proof = "nothing, since no migration brought its content,";
    } else if (found) {
        if (!check_record(s, errp)) {
            return false;
        }
    } else {
        memset(&s->rec, 0, sizeof(s->rec));
        s->rec.generation = 1;
        s->rec.size = s->size;
        s->rec.uuid = nvdimm->uuid;
        if (qemu_uuid_is_null(&s->rec.uuid)) {
            qemu_uuid_generate(&s->rec.uuid);
        }
        /* A new lineage: it claims no epoch that a replica could hold. */
        s->proof_lineage = true;
    }
    /* From here on "acked" means: what this process may fall back to. */
    s->rec.acked = s->rec.captured;
    return true;
}

void pmem_ha_now_proved_locked(PmemHaDevice *s)
{
    Error *err = NULL;

    if (s->proof_lineage) {
        return;
    }
    /* Whatever the backing was before, the replica is now equal to it. */
    s->proof_lineage = true;
    s->rec.boot_id = s->boot_id;
    if (!pmem_ha_state_write(s->state_file, &s->rec, false, &err)) {
        warn_report_err(err);
    }
}

PmemHaVerdict pmem_ha_judge_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                                   Error **errp)
{
    PmemHaEpoch *e = s->epoch;

    if (e) {
        s->epoch = NULL;
        s->epoch_ready = false;
        if (w->have_image && w->generation == s->rec.generation &&
            w->epoch == e->number) {
            /* Only its acknowledgement was lost. */
            s->rec.acked = e->number;
            pmem_ha_crash_point("lost-ack-recorded");
            s->synced = true;
            pmem_ha_now_proved_locked(s);
            pmem_ha_epoch_free(e);
        } else {
            pmem_ha_put_back(s, e);
            s->rec.captured = s->rec.acked;
            s->want_epoch = true;
            pmem_ha_crash_point("epoch-put-back");
        }
    }

    if (!w->have_image) {
        if (s->had_replica && !s->may_resync) {
            /* The one that was promoted may have stood at this address. */
            error_setg(errp, "replica '%s' at %s holds no image, and another "
                       "one acknowledged epoch %" PRIu64 ": if that one was "
                       "not promoted, allow a full copy to this one by "
                       "pmem-ha-resync", s->export, s->peer, s->rec.acked);
            return PMEM_HA_VERDICT_WAIT;
        }
        return PMEM_HA_VERDICT_COPY;
    }
    if (s->synced && w->generation == s->rec.generation &&
        w->epoch == s->rec.acked) {
        return PMEM_HA_VERDICT_EQUAL;
    }
    if (s->proof_equal && w->generation == s->rec.generation &&
        w->epoch == s->rec.captured) {
        s->synced = true;
        return PMEM_HA_VERDICT_EQUAL;
    }
    if ((s->proof_lineage || s->synced) &&
        pmem_ha_state_holds(&s->rec, w->generation, w->epoch)) {
        return PMEM_HA_VERDICT_COPY;
    }
    error_setg(errp, "replica '%s' at %s holds epoch %" PRIu64 " of "
               "generation %" PRIu64 ", and state-file '%s' proves %s%s%" PRIu64
               " of generation %" PRIu64 ": this primary can not show that it "
               "has what the replica acknowledged; nothing was overwritten. "
               "Promote the replica, or put the newest backing file and "
               "state file back (if nothing but owner or mode of the backing "
               "file changed, 'touch' the state file)", s->export, s->peer,
               w->epoch, w->generation, s->state_path,
               s->proof_lineage || !s->no_proof ? "" : s->no_proof,
               s->proof_lineage || !s->no_proof ? "epoch " : " about epoch ",
               s->rec.captured, s->rec.generation);
    return PMEM_HA_VERDICT_REFUSE;
}

bool pmem_ha_begin(PmemHaDevice *s, Error **errp)
{
    if (!s->state_file) {
        return true;
    }
    if (!s->replica) {
        /* What the guest does now, no replica will have seen: not equal. */
        s->rec.acked = 0;
    }
    pmem_ha_note_backing(s);
    s->rec.clean = false;
    if (s->proof_lineage) {
        s->rec.boot_id = s->boot_id;
    } else {
        /* What is not proved now must not look proved at the next start. */
        memset(&s->rec.boot_id, 0, sizeof(s->rec.boot_id));
    }
    return pmem_ha_state_write(s->state_file, &s->rec, true, errp);
}

/* The replicator needs the BQL now and then, see pmem_ha_wake_vcpus(). */
static void wait_without_bql(PmemHaDevice *s, int64_t ms)
{
    bql_unlock();
    qemu_cond_timedwait(&s->settled, &s->lock, ms);
    qemu_mutex_unlock(&s->lock);
    bql_lock();
    qemu_mutex_lock(&s->lock);
}

uint64_t pmem_ha_unsent_locked(PmemHaDevice *s)
{
    unsigned i;

    if (!s->synced || s->restored) {
        /* Dirty bits tell nothing about what the replica has (I3). */
        return s->size;
    }
    /*
     * The epoch under way belongs to the replicator: its pages are marked, so
     * that one which changed again counts once, but it is not put back.
     */
    for (i = 0; s->epoch && i < s->epoch->ranges->len; i++) {
        PmemHaRange *r = &g_array_index(s->epoch->ranges, PmemHaRange, i);

        pmem_ha_mark_dirty(s, r->offset, r->length);
    }
    return pmem_ha_dirty_bytes(s, UINT64_MAX);
}

uint64_t pmem_ha_drain(PmemHaDevice *s, int64_t until)
{
    uint64_t unsent;
    bool taken = false;

    qemu_mutex_lock(&s->lock);
    s->hold_until_ns = until;
    for (;;) {
        int64_t left = (until - get_clock()) / SCALE_MS;
        /* Pausing the guest cancelled an epoch: the link is back soon. */
        bool soon = s->link_state == PMEM_HA_STATE_CONNECTING &&
                    s->cancelled_by_us;

        if ((!s->epoch && taken) || left <= 0 ||
            (s->link_state != PMEM_HA_STATE_IN_SYNC && !soon)) {
            break;
        }
        if (!s->epoch && !taken && !soon) {
            qemu_mutex_unlock(&s->lock);
            taken = pmem_ha_capture_paused(s);
            qemu_mutex_lock(&s->lock);
            if (taken) {
                continue;
            }
        }
        /* A capture by a vCPU's thread ends without a signal. */
        wait_without_bql(s, MIN(left, 10));
    }
    /* What is being copied is neither dirty nor in an epoch; not for long. */
    while (s->capturing) {
        wait_without_bql(s, 10);
    }
    s->hold_until_ns = 0;
    unsent = pmem_ha_unsent_locked(s);
    qemu_mutex_unlock(&s->lock);
    return unsent;
}

void pmem_ha_drain_to_give(PmemHaDevice *s)
{
    pmem_ha_drain(s, get_clock() + PMEM_HA_FINISH_MS * (int64_t)SCALE_MS);
}

static uint64_t drain_at_end(PmemHaDevice *s)
{
    /* For all devices together: they end one after the other. */
    static int64_t budget = PMEM_HA_FINISH_MS * (int64_t)SCALE_MS;
    int64_t start = get_clock();
    uint64_t unsent = pmem_ha_drain(s, start + budget);

    /* Not what digests take: those of large devices take seconds. */
    budget = MAX(budget - (get_clock() - start), 0);
    return unsent;
}

/* The next start must prove nothing with what is in the backing. */
static void disown(PmemHaDevice *s)
{
    Error *err = NULL;

    QEMU_LOCK_GUARD(&s->lock);
    memset(&s->rec.boot_id, 0, sizeof(s->rec.boot_id));
    s->rec.clean = false;
    if (!pmem_ha_state_write(s->state_file, &s->rec, true, &err)) {
        warn_report_err(err);
    }
}

void pmem_ha_finish(PmemHaDevice *s)
{
    /* As when a watchdog calls exit(): the vCPUs run on. */
    bool running = runstate_is_running();
    Error *err = NULL;
    uint64_t unsent = 0;

    if (!running && s->state_file &&
        pmem_ha_any_backend_has(s, "discard-data")) {
        /* Switched on since realize: the content is gone already. */
        pmem_ha_replicator_stop(s);
        warn_report("pmem-ha device '%s': memdev property discard-data=on has "
                    "emptied the backing file, promote the replica", s->name);
        disown(s);
        return;
    }
    if (s->role != PMEM_HA_ROLE_PRIMARY ||
        (s->adopting && !qatomic_read(&s->adopted))) {
        /*
         * The stream has it all, or the image is not ours; the state file
         * says so already.
         */
        pmem_ha_replicator_stop(s);
        return;
    }
    pmem_ha_crash_point("finish-begun");
    if (pmem_ha_mirrors(s)) {
        if (running) {
            /*
             * No last epoch: whoever called exit() may be a timer, where
             * pausing the guest waits for that timer.
             */
            WITH_QEMU_LOCK_GUARD(&s->lock) {
                unsent = pmem_ha_unsent_locked(s);
            }
        } else {
            unsent = drain_at_end(s);
        }
        pmem_ha_crash_point("finish-drained");
        pmem_ha_replicator_stop(s);
        if (unsent) {
            warn_report("pmem-ha device '%s': the guest ended with data that "
                        "replica '%s' at %s does not have (last acknowledged "
                        "epoch %" PRIu64 ", %" PRIu64 " bytes)",
                        s->name, s->export, s->peer, s->rec.acked, unsent);
        }
    }
    if (!s->state_file || running) {
        /* A digest would not be that of one instant. */
        return;
    }
    QEMU_LOCK_GUARD(&s->lock);
    /* What was never proved must not look proved at the next start. */
    s->rec.clean = !unsent && (s->proof_lineage || s->synced) &&
                   s->link_state != PMEM_HA_STATE_FENCED &&
                   digest_of_memory(s, s->rec.digest, &err);
    pmem_ha_crash_point("finish-digest");
    if (err || !pmem_ha_state_write(s->state_file, &s->rec, true, &err)) {
        warn_reportf_err(err, "pmem-ha device '%s': the next start needs a "
                         "full copy: ", s->name);
    }
    pmem_ha_crash_point("finish-marked");
}
