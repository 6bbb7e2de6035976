/*
 * pmem-ha: whole reads and writes of the small files beside an image
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "hw/mem/pmem-ha-media.h"

/* So that a file's errors come from one place: what a reader should do. */
static const char *remedy(int err)
{
    switch (err) {
    case ENOSPC:
    case EDQUOT:
        return "; free space on its file system";
    case EROFS:
        return "; its file system must be writable";
    default:
        return "";
    }
}

static const PmemHaMediaHooks *hooks;

void pmem_ha_media_set_hooks(const PmemHaMediaHooks *h)
{
    hooks = h;
}

static ssize_t write_some(int fd, const void *buf, size_t len, uint64_t offset)
{
    ssize_t n;

    if (hooks && hooks->write) {
        return hooks->write(fd, buf, len, offset);
    }
    n = RETRY_ON_EINTR(pwrite(fd, buf, len, offset));
    return n < 0 ? -errno : n;
}

int pmem_ha_media_write(int fd, const char *path, const void *buf, size_t len,
                        uint64_t offset, Error **errp)
{
    const uint8_t *p = buf;

    while (len) {
        ssize_t n = write_some(fd, p, len, offset);

        if (n == 0) {
            n = -EIO;
        }
        if (n < 0) {
            error_setg_errno(errp, -n, "cannot write %zu bytes at offset %"
                             PRIu64 " of '%s'%s", len, offset, path,
                             remedy(-n));
            return n;
        }
        p += n;
        len -= n;
        offset += n;
    }
    return 0;
}

int pmem_ha_media_write2(int fd, const char *path, const void *buf, size_t len,
                         const void *buf2, size_t len2, uint64_t offset,
                         Error **errp)
{
    size_t done = 0;
    int ret;

    if (!len2) {
        return pmem_ha_media_write(fd, path, buf, len, offset, errp);
    }
    if (!(hooks && hooks->write)) {
        struct iovec iov[2] = {
            { (void *)buf, len }, { (void *)buf2, len2 },
        };
        ssize_t n = RETRY_ON_EINTR(pwritev(fd, iov, 2, offset));

        /* A short or failed write is repeated in its parts, and explained. */
        done = n < 0 ? 0 : n;
    }
    if (done < len) {
        ret = pmem_ha_media_write(fd, path, (const uint8_t *)buf + done,
                                  len - done, offset + done, errp);
        if (ret < 0) {
            return ret;
        }
        done = len;
    }
    done -= len;
    return pmem_ha_media_write(fd, path, (const uint8_t *)buf2 + done,
                               len2 - done, offset + len + done, errp);
}

int pmem_ha_media_read(int fd, const char *path, void *buf, size_t len,
                       uint64_t offset, Error **errp)
{
    uint8_t *p = buf;

    while (len) {
        ssize_t n = RETRY_ON_EINTR(pread(fd, p, len, offset));

        if (n < 0) {
            n = -errno;
            error_setg_errno(errp, -n, "cannot read %zu bytes at offset %"
                             PRIu64 " of '%s'", len, offset, path);
            return n;
        }
        if (n == 0) {
            memset(p, 0, len);
            break;
        }
        p += n;
        len -= n;
        offset += n;
    }
    return 0;
}

int pmem_ha_media_sync(int fd, const char *path, Error **errp)
{
    int ret;

    if (hooks && hooks->sync) {
        ret = hooks->sync(fd);
    } else {
        ret = qemu_fdatasync(fd) < 0 ? -errno : 0;
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot bring '%s' to stable storage%s",
                         path, remedy(-ret));
    }
    return ret;
}

int pmem_ha_media_sync_dir(const char *path, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = qemu_open(dir, O_RDONLY | O_DIRECTORY, errp);
    int ret = 0;

    if (fd < 0) {
        return -errno;
    }
    if ((hooks && hooks->sync ? hooks->sync(fd) : fsync(fd)) < 0) {
        ret = -errno;
        error_setg_errno(errp, -ret, "cannot bring directory '%s' to stable "
                         "storage", dir);
    }
    close(fd);
    return ret;
}

bool pmem_ha_crash_armed;

static const char *crash_variable;
static char *crash_name;        /* NULL: any point counts */
static unsigned crash_left;     /* passages until the end */

void pmem_ha_crash_init(const char *variable)
{
    const char *spec = getenv(variable);
    const char *colon;

    if (!spec || !*spec) {
        return;
    }
    crash_variable = variable;
    crash_left = 1;
    colon = strchr(spec, ':');
    if (qemu_isdigit(*spec)) {
        qemu_strtoui(spec, NULL, 10, &crash_left);
    } else if (colon) {
        crash_name = g_strndup(spec, colon - spec);
        qemu_strtoui(colon + 1, NULL, 10, &crash_left);
    } else {
        crash_name = g_strdup(spec);
    }
    pmem_ha_crash_armed = crash_left > 0;
}

void pmem_ha_crash_passage(const char *name)
{
    if (crash_name && strcmp(crash_name, name)) {
        return;
    }
    if (qatomic_fetch_dec(&crash_left) == 1) {
        fprintf(stderr, "%s: ending at '%s'\n", crash_variable, name);
        _exit(99);
    }
}
