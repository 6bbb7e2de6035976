/*
 * NUMA scheduler: PAGEMAP_SCAN of proc_pid_pagemap (since Linux 6.7)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Debian 12 has older headers.  Facts: Linux, admin-guide/mm/pagemap.rst.
 */

#ifndef NUMA_SCHED_PAGEMAP_H
#define NUMA_SCHED_PAGEMAP_H

#include <linux/fs.h>
#include <sys/ioctl.h>

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN            _IOWR('f', 16, struct pm_scan_arg)
#define PM_SCAN_WP_MATCHING     (1 << 0)
#define PM_SCAN_CHECK_WPASYNC   (1 << 1)
#define PAGE_IS_WRITTEN         (1 << 1)
#define PAGE_IS_PRESENT         (1 << 3)
#define PAGE_IS_HUGE            (1 << 6)

struct page_region {
    uint64_t start, end, categories;
};

struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#endif

/*
 * Call @found for each run of pages of @category between @addr and @addr +
 * @bytes; @flags: PM_SCAN_*.  0, or a negative errno: -ENOTTY on older kernels.
 */
int ns_pagemap_scan(int fd, uint64_t addr, uint64_t bytes, uint64_t category,
                    uint64_t flags,
                    void (*found)(void *opaque, uint64_t addr, uint64_t bytes),
                    void *opaque);

/* The file of this process; a negative errno if it can not be opened */
int ns_pagemap_open(void);

#endif
