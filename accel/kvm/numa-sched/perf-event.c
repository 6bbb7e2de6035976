/*
 * NUMA scheduler: perf_event_open(2)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include <sys/syscall.h>
#include "perf-event.h"

static int linux_open(void *opaque, const struct perf_event_attr *attr, int tid)
{
    int fd = syscall(SYS_perf_event_open, attr, tid, -1, -1,
                     PERF_FLAG_FD_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static ssize_t linux_read(void *opaque, int fd, void *buf, size_t len)
{
    ssize_t n = RETRY_ON_EINTR(read(fd, buf, len));

    return n < 0 ? -errno : n;
}

static void linux_close(void *opaque, int fd)
{
    close(fd);
}

const NsPerfSys ns_perf_linux = {
    .open = linux_open,
    .read = linux_read,
    .close = linux_close,
};

uint32_t ns_perf_descriptors(uint32_t most)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) ? 0 :
           MIN(most, limit.rlim_cur / 4);
}

bool ns_perf_is_refused(int error)
{
    /* perf_event_paranoid, the lack of a capability, and seccomp */
    return error == EACCES || error == EPERM || error == ENOSYS;
}
