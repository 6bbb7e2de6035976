/*
 * qemu-pmem-replica: the image file of an export
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_FALLOCATE_ZERO_RANGE
#include <linux/falloc.h>
#endif
#include "qapi/error.h"
#include "crypto/hash.h"
#include "qemu/units.h"
#include "hw/mem/pmem-ha-media.h"
#include "image.h"

#define CHUNK (1 * MiB)

/* What a file that is opened may hold */
enum { ANY_CONTENT, WHOLE_IMAGE, FROM_SCRATCH };

static int open_locked(const char *path, int content, uint64_t size,
                       Error **errp)
{
    int fd = open(path, O_RDWR | O_CLOEXEC |
                  (content == WHOLE_IMAGE ? 0 : O_CREAT), 0600);
    struct stat st;
    int ret;

    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot open image '%s' for reading and "
                         "writing", path);
        return -1;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_setg(errp, "image '%s' is not a regular file", path);
        goto fail;
    }
    ret = qemu_lock_fd(fd, 0, 0, true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot lock image '%s'; is it in use by "
                         "QEMU or by another qemu-pmem-replica?", path);
        goto fail;
    }
    /* Not by O_TRUNC: before the lock it could be another's. */
    if (content == FROM_SCRATCH && st.st_size) {
        if (ftruncate(fd, 0) < 0) {
            error_setg_errno(errp, errno, "cannot empty '%s'", path);
            goto fail;
        }
        st.st_size = 0;
    }
    if (st.st_size != size && (st.st_size || content == WHOLE_IMAGE)) {
        error_setg(errp, "image '%s' has %" PRId64 " bytes, but size=%" PRIu64
                   " is asked for; correct 'size', or name another mem-path",
                   path, (int64_t)st.st_size, size);
        goto fail;
    }
    if (!st.st_size && ftruncate(fd, size) < 0) {
        error_setg_errno(errp, errno, "cannot make image '%s' %" PRIu64
                         " bytes long", path, size);
        goto fail;
    }
    return fd;

fail:
    close(fd);
    return -1;
}

bool image_is_marked(const char *path)
{
    g_autofree char *real = realpath(path, NULL);
    g_autofree char *marker = g_strdup_printf("%s.replica", real ?: path);

    return access(marker, F_OK) == 0;
}

static bool set_marker(ReplicaImage *img, const char *owner, Error **errp)
{
    int fd = open(img->marker_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                  0644);
    bool ok;

    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot create marker '%s'",
                         img->marker_path);
        return false;
    }
    ok = pmem_ha_media_write(fd, img->marker_path, owner, strlen(owner), 0,
                             errp) == 0 &&
         pmem_ha_media_sync(fd, img->marker_path, errp) == 0;
    close(fd);
    return ok && pmem_ha_media_sync_dir(img->marker_path, errp) == 0;
}

ReplicaImage *image_open(const char *path, uint64_t size, const char *owner,
                         bool have_image, bool image_is_copy, Error **errp)
{
    ReplicaImage *img = g_new0(ReplicaImage, 1);
    g_autofree char *real = realpath(path, NULL);

    /* A rename would replace a symbolic link, not the file behind it. */
    img->path = g_strdup(real ?: path);
    img->copy_path = g_strdup_printf("%s.copy", img->path);
    img->marker_path = g_strdup_printf("%s.replica", img->path);
    img->size = size;
    img->fd = -1;
    img->copy_fd = -1;

    if (image_is_copy && access(img->copy_path, F_OK) == 0 &&
        rename(img->copy_path, img->path) < 0) {
        error_setg_errno(errp, errno, "cannot rename '%s' to '%s'",
                         img->copy_path, img->path);
        goto fail;
    }
    if (have_image && access(img->path, F_OK) < 0) {
        error_setg(errp, "image '%s' is missing, but the journal says that it "
                   "holds the replica; restore it, or move the journal away "
                   "to start with a full copy", img->path);
        goto fail;
    }
    img->fd = open_locked(img->path, have_image ? WHOLE_IMAGE : ANY_CONTENT,
                          size, errp);
    /* The lock keeps a pmem-ha device away until the marker does. */
    if (img->fd < 0 || !set_marker(img, owner, errp) ||
        pmem_ha_media_sync(img->fd, img->path, errp) < 0 ||
        pmem_ha_media_sync_dir(img->path, errp) < 0) {
        goto fail;
    }
    if (unlink(img->copy_path) < 0 && errno != ENOENT) {
        error_setg_errno(errp, errno, "cannot remove the unfinished copy '%s'",
                         img->copy_path);
        goto fail;
    }
    return img;

fail:
    image_close(img);
    return NULL;
}

void image_close(ReplicaImage *img)
{
    if (!img) {
        return;
    }
    image_copy_abandon(img);
    if (img->copy_fd >= 0) {
        close(img->copy_fd);
    }
    if (img->fd >= 0) {
        close(img->fd);
    }
    g_free(img->path);
    g_free(img->copy_path);
    g_free(img->marker_path);
    g_free(img);
}

static int write_zeroes(int fd, const char *path, uint64_t offset,
                        uint64_t length, Error **errp)
{
    static const uint8_t zeroes[64 * KiB];

#ifdef CONFIG_FALLOCATE_ZERO_RANGE
    /* Keeps the blocks, so that a later write can not run out of space. */
    if (RETRY_ON_EINTR(fallocate(fd, FALLOC_FL_ZERO_RANGE, offset,
                                 length)) == 0) {
        return 0;
    }
#endif
    while (length) {
        size_t n = MIN(length, sizeof(zeroes));
        int ret = pmem_ha_media_write(fd, path, zeroes, n, offset, errp);

        if (ret < 0) {
            return ret;
        }
        offset += n;
        length -= n;
    }
    return 0;
}

static int write_range(int fd, const char *path, uint64_t offset,
                       uint64_t length, const uint8_t *data, Error **errp)
{
    return data ? pmem_ha_media_write(fd, path, data, length, offset, errp)
                : write_zeroes(fd, path, offset, length, errp);
}

bool image_apply(void *image, uint64_t offset, uint64_t length,
                 const uint8_t *data, Error **errp)
{
    ReplicaImage *img = image;

    pmem_ha_crash_point("apply-record");
    return write_range(img->fd, img->path, offset, length, data, errp) == 0;
}

int image_sync(ReplicaImage *img, Error **errp)
{
    int ret = pmem_ha_media_sync(img->fd, img->path, errp);

    if (ret == 0) {
        pmem_ha_crash_point("apply-synced");
    }
    return ret;
}

int image_copy_start(ReplicaImage *img, Error **errp)
{
    int ret;

    image_copy_abandon(img);
    img->copy_fd = open_locked(img->copy_path, FROM_SCRATCH, img->size, errp);
    if (img->copy_fd < 0) {
        return -EIO;
    }
    pmem_ha_crash_point("copy-start");
#ifdef CONFIG_FALLOCATE
    ret = RETRY_ON_EINTR(fallocate(img->copy_fd, 0, 0, img->size));
    if (ret < 0 && errno != EOPNOTSUPP) {
        ret = -errno;
        error_setg_errno(errp, -ret, "cannot allocate %" PRIu64 " bytes for "
                         "the full copy '%s'", img->size, img->copy_path);
        image_copy_abandon(img);
        return ret;
    }
#endif
    return 0;
}

int image_copy_write(ReplicaImage *img, uint64_t offset, uint64_t length,
                     const uint8_t *data, Error **errp)
{
    pmem_ha_crash_point("copy-data");
    return write_range(img->copy_fd, img->copy_path, offset, length, data,
                       errp);
}

int image_copy_sync(ReplicaImage *img, Error **errp)
{
    int ret = pmem_ha_media_sync(img->copy_fd, img->copy_path, errp);

    if (ret == 0) {
        ret = pmem_ha_media_sync_dir(img->copy_path, errp);
    }
    if (ret == 0) {
        pmem_ha_crash_point("copy-synced");
    }
    return ret;
}

void image_copy_abandon(ReplicaImage *img)
{
    if (img->copy_fd >= 0 && !img->copy_decided) {
        /* A failure leaves a file that the next start removes. */
        unlink(img->copy_path);
        close(img->copy_fd);
        img->copy_fd = -1;
    }
}

bool image_copy_switch(ReplicaImage *img, Error **errp)
{
    if (img->copy_fd >= 0) {
        if (rename(img->copy_path, img->path) < 0) {
            error_setg_errno(errp, errno, "cannot rename '%s' to '%s'",
                             img->copy_path, img->path);
            return false;
        }
        close(img->fd);
        img->fd = img->copy_fd;
        img->copy_fd = -1;
        img->copy_decided = false;
        pmem_ha_crash_point("copy-renamed");
    }
    return pmem_ha_media_sync_dir(img->path, errp) == 0;
}

bool image_digest(ReplicaImage *img, uint8_t digest[PMEM_HA_STATE_DIGEST],
                  Error **errp)
{
    g_autoptr(QCryptoHash) hash = NULL;
    g_autofree uint8_t *buf = g_malloc(CHUNK);
    g_autofree uint8_t *result = NULL;
    size_t len = 0;
    uint64_t done;

    hash = qcrypto_hash_new(QCRYPTO_HASH_ALGO_SHA256, errp);
    if (!hash) {
        return false;
    }
    for (done = 0; done < img->size; done += CHUNK) {
        struct iovec iov = { buf, MIN(img->size - done, CHUNK) };

        if (pmem_ha_media_read(img->fd, img->path, buf, iov.iov_len, done,
                               errp) < 0 ||
            qcrypto_hash_updatev(hash, &iov, 1, errp) < 0) {
            return false;
        }
    }
    if (qcrypto_hash_finalize_bytes(hash, &result, &len, errp) < 0) {
        return false;
    }
    if (len != PMEM_HA_STATE_DIGEST) {
        error_setg(errp, "SHA-256 of '%s' has %zu bytes", img->path, len);
        return false;
    }
    memcpy(digest, result, len);
    return true;
}

bool image_unmark(ReplicaImage *img, Error **errp)
{
    if (unlink(img->marker_path) < 0 && errno != ENOENT) {
        error_setg_errno(errp, errno, "cannot remove marker '%s'",
                         img->marker_path);
        return false;
    }
    if (pmem_ha_media_sync_dir(img->marker_path, errp) < 0) {
        return false;
    }
    pmem_ha_crash_point("promote-unmarked");
    return true;
}
