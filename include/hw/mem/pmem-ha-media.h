/*
 * pmem-ha: whole reads and writes of the small files beside an image, and the
 * numbered points at which a test can end the process
 *
 * Both sides use it.  No locks; any thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_MEDIA_H
#define HW_MEM_PMEM_HA_MEDIA_H

/*
 * Write all of @buf, or fail with the file @path and the reason named.
 *
 * Returns: 0, or -errno with @errp set.
 */
int pmem_ha_media_write(int fd, const char *path, const void *buf, size_t len,
                        uint64_t offset, Error **errp);

/* As above, from two buffers that follow each other; @len2 may be 0. */
int pmem_ha_media_write2(int fd, const char *path, const void *buf, size_t len,
                         const void *buf2, size_t len2, uint64_t offset,
                         Error **errp);

/* Read all of @buf; bytes beyond the end of the file read as zeroes. */
int pmem_ha_media_read(int fd, const char *path, void *buf, size_t len,
                       uint64_t offset, Error **errp);

int pmem_ha_media_sync(int fd, const char *path, Error **errp);

/* Make creation, renaming or removal of @path durable. */
int pmem_ha_media_sync_dir(const char *path, Error **errp);

/*
 * For tests: replace the system calls.  A function that returns a negative
 * errno makes the call fail.  NULL members use the system call.
 */
typedef struct PmemHaMediaHooks {
    ssize_t (*write)(int fd, const void *buf, size_t len, uint64_t offset);
    int (*sync)(int fd);
} PmemHaMediaHooks;
void pmem_ha_media_set_hooks(const PmemHaMediaHooks *hooks);

extern bool pmem_ha_crash_armed;
void pmem_ha_crash_passage(const char *name);

/*
 * A point in the protocol at which a test can end the process as SIGKILL
 * would.  A variable of the environment, PMEM_HA_CRASH_PRIMARY for QEMU and
 * PMEM_HA_CRASH_AT for the replica, is the name of a point (its first passage),
 * name:N (its Nth), or a number N (the Nth passage of any).
 * The points are listed in docs/specs/pmem-ha-media.rst.
 */
static inline void pmem_ha_crash_point(const char *name)
{
    if (unlikely(pmem_ha_crash_armed)) {
        pmem_ha_crash_passage(name);
    }
}

/* Read @variable; once, early, before other threads pass a point. */
void pmem_ha_crash_init(const char *variable);

#endif
