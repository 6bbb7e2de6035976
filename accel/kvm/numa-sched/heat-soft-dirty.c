/*
 * NUMA scheduler: the use of pages, by soft-dirty bits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Writing 4 to /proc/self/clear_refs write-protects all memory of the process,
 * and the kernel notes the first write to each page (Linux,
 * admin-guide/mm/soft-dirty.rst).  It is of the process: somebody else who does
 * the same to QEMU, as CRIU, takes writes away from us, and we from them.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "heat.h"
#include "pagemap.h"
#include "plan.h"

#define PRESENT     (1ull << 63)
#define SOFT_DIRTY  (1ull << 55)
#define AT_A_TIME   32768       /* pages */

typedef struct Soft {
    NsHeatRange *range;
    uint32_t n;
    int pagemap, clear;
    uint64_t *entry;
} Soft;

static void soft_close(void *opaque)
{
    Soft *s = opaque;

    if (s->pagemap >= 0) {
        close(s->pagemap);
    }
    if (s->clear >= 0) {
        close(s->clear);
    }
    g_free(s->range);
    g_free(s->entry);
    g_free(s);
}

static int clear_all(const Soft *s)
{
    return RETRY_ON_EINTR(pwrite(s->clear, "4", 1, 0)) == 1 ? 0 : -errno;
}

/* Entries of up to AT_A_TIME pages; how many, or a negative errno */
static int read_entries(const Soft *s, uint64_t addr, uint64_t pages)
{
    size_t len = MIN(pages, AT_A_TIME) * sizeof(*s->entry);
    ssize_t got = RETRY_ON_EINTR(pread(s->pagemap, s->entry, len,
                                       addr / NS_PAGE * sizeof(*s->entry)));

    return got < 0 ? -errno : got ? got / (int)sizeof(*s->entry) : -EIO;
}

/* Kernels without CONFIG_MEM_SOFT_DIRTY take the 4, and do nothing. */
static bool kernel_has_it(const Soft *s)
{
    char *page = mmap(NULL, NS_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool clean = false, dirty = false;

    if (page == MAP_FAILED) {
        return false;
    }
    qatomic_set(page, 1);
    if (!clear_all(s)) {
        clean = read_entries(s, (uintptr_t)page, 1) == 1 &&
                (s->entry[0] & PRESENT) && !(s->entry[0] & SOFT_DIRTY);
        qatomic_set(page, 2);
        dirty = read_entries(s, (uintptr_t)page, 1) == 1 &&
                (s->entry[0] & SOFT_DIRTY);
    }
    munmap(page, NS_PAGE);
    return clean && dirty;
}

static void *soft_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    Soft *s = g_new0(Soft, 1);

    s->range = g_memdup2(range, n * sizeof(*range));
    s->n = n;
    s->entry = g_new(uint64_t, AT_A_TIME);
    s->pagemap = ns_pagemap_open();
    s->clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (s->pagemap < 0 || s->clear < 0) {
        error_setg(errp, "/proc/self/pagemap and clear_refs can not be opened");
    } else if (qemu_real_host_page_size() != NS_PAGE) {
        error_setg(errp, "pages of this host are not of 4096 bytes");
    } else if (!kernel_has_it(s)) {
        error_setg(errp, "the kernel has no soft-dirty bits "
                   "(CONFIG_MEM_SOFT_DIRTY)");
    } else {
        return s;
    }
    soft_close(s);
    return NULL;
}

static bool soft_look(void *opaque, NsHeat *heat, Error **errp)
{
    Soft *s = opaque;
    int ret = 0;

    for (uint32_t i = 0; ret >= 0 && i < s->n; i++) {
        uint64_t addr = s->range[i].addr;
        uint64_t end = addr + s->range[i].bytes;

        for (; addr < end; addr += (uint64_t)ret * NS_PAGE) {
            ret = read_entries(s, addr, (end - addr) / NS_PAGE);
            if (ret < 0) {
                break;
            }
            for (int k = 0; k < ret; k++) {
                if ((s->entry[k] & PRESENT) && (s->entry[k] & SOFT_DIRTY)) {
                    ns_heat_add(heat, addr + (uint64_t)k * NS_PAGE, NS_PAGE,
                                1);
                }
            }
        }
    }
    ret = ret < 0 ? ret : clear_all(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "soft-dirty bits can not be read");
    }
    return ret >= 0;
}

const NsHeatOps ns_heat_soft_dirty = {
    .name = "soft-dirty",
    .counts_once = true,
    .open = soft_open,
    .look = soft_look,
    .close = soft_close,
};
