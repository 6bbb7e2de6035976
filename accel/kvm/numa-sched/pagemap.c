/*
 * NUMA scheduler: PAGEMAP_SCAN of proc_pid_pagemap (since Linux 6.7)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "pagemap.h"

int ns_pagemap_open(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int ns_pagemap_scan(int fd, uint64_t addr, uint64_t bytes, uint64_t category,
                    uint64_t flags,
                    void (*found)(void *opaque, uint64_t addr, uint64_t bytes),
                    void *opaque)
{
    g_autofree struct page_region *region = g_new0(struct page_region, 512);
    struct pm_scan_arg arg = {
        .size = sizeof(arg), .flags = flags, .start = addr,
        .end = addr + bytes, .vec = (uintptr_t)region, .vec_len = 512,
        .category_mask = category, .return_mask = category,
    };

    while (arg.start < arg.end) {
        int n = ioctl(fd, PAGEMAP_SCAN, &arg);

        if (n < 0) {
            return -errno;
        }
        for (int i = 0; i < MIN(n, 512); i++) {
            uint64_t from = MAX(region[i].start, addr);
            uint64_t to = MIN(region[i].end, addr + bytes);

            if (from < to) {
                found(opaque, from, to - from);
            }
        }
        if (arg.walk_end <= arg.start) {
            return -EIO;
        }
        arg.start = arg.walk_end;
    }
    return 0;
}
