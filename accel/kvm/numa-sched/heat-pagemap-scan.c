/*
 * NUMA scheduler: the use of pages, by PAGEMAP_SCAN
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Memory is write-protected by userfaultfd in its asynchronous mode, in which
 * the kernel itself ends the protection at the first write; PAGEMAP_SCAN says
 * where that was and protects it again (since Linux 6.7).  Nobody waits.  Other
 * users of userfaultfd on the same memory (postcopy, background snapshots) and
 * this exclude each other: who comes second is told so.
 */

#include "qemu/osdep.h"
#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "heat.h"
#include "pagemap.h"

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC           (1 << 15)
#endif

typedef struct Scan {
    NsHeatRange *range;
    uint32_t n;
    int uffd, pagemap;
    NsHeat *heat;               /* of the look under way */
} Scan;

static void scan_close(void *opaque)
{
    Scan *s = opaque;

    /* That also ends the protection, of all of it. */
    if (s->uffd >= 0) {
        close(s->uffd);
    }
    if (s->pagemap >= 0) {
        close(s->pagemap);
    }
    g_free(s->range);
    g_free(s);
}

static void found(void *opaque, uint64_t addr, uint64_t bytes)
{
    Scan *s = opaque;

    if (s->heat) {
        ns_heat_add(s->heat, addr, bytes, 1);
    }
}

static int scan_all(Scan *s)
{
    int ret = 0;

    for (uint32_t i = 0; !ret && i < s->n; i++) {
        ret = ns_pagemap_scan(s->pagemap, s->range[i].addr, s->range[i].bytes,
                              PAGE_IS_WRITTEN,
                              PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                              found, s);
    }
    return ret;
}

static int arm(Scan *s)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
    };

    if (ioctl(s->uffd, UFFDIO_API, &api) < 0) {
        return -errno;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        struct uffdio_register reg = {
            .range = { .start = s->range[i].addr, .len = s->range[i].bytes },
            .mode = UFFDIO_REGISTER_MODE_WP,
        };

        if (ioctl(s->uffd, UFFDIO_REGISTER, &reg) < 0) {
            return -errno;
        }
    }
    return scan_all(s);
}

static void *scan_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    Scan *s = g_new0(Scan, 1);
    int ret = 0;

    s->range = g_memdup2(range, n * sizeof(*range));
    s->n = n;
    s->pagemap = ns_pagemap_open();
    s->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (s->uffd < 0) {
        ret = -errno;
        error_setg_errno(errp, -ret, "userfaultfd is not allowed (sysctl "
                         "vm.unprivileged_userfaultfd)");
    } else if (s->pagemap < 0) {
        ret = s->pagemap;
        error_setg_errno(errp, -ret, "/proc/self/pagemap can not be opened");
    } else {
        ret = arm(s);
        if (ret) {
            error_setg_errno(errp, -ret, "PAGEMAP_SCAN with userfaultfd "
                             "(since Linux 6.7) does not work on this memory");
        }
    }
    if (ret) {
        scan_close(s);
        return NULL;
    }
    return s;
}

static bool scan_look(void *opaque, NsHeat *heat, Error **errp)
{
    Scan *s = opaque;
    int ret;

    s->heat = heat;
    ret = scan_all(s);
    s->heat = NULL;
    if (ret) {
        error_setg_errno(errp, -ret, "PAGEMAP_SCAN fails; has another user of "
                         "userfaultfd come?");
    }
    return !ret;
}

const NsHeatOps ns_heat_pagemap_scan = {
    .name = "pagemap-scan",
    .counts_once = true,
    .open = scan_open,
    .look = scan_look,
    .close = scan_close,
};
