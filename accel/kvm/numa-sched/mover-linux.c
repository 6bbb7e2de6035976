/*
 * NUMA scheduler: move memory, by Linux
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * System calls are made as they are: libnuma would be one more thing that has
 * to be there, and its wrappers do no more.  Any thread.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/timer.h"
#include <sys/syscall.h>
#include "mover.h"
#include "mover-policy.h"
#include "pagemap.h"
#include "topology.h"

#define MOVE_OWN        2       /* MPOL_MF_MOVE: what only we use */
#define PSI_MEMORY      10.0    /* percent of 10 s in which some task waited */
#define PSI_CPU         50.0
#define BYTES_MAX       (1ull << 60)

static long linux_move_pages(void *opaque, unsigned long n, void **pages,
                             const int *nodes, int *status)
{
    long ret = syscall(__NR_move_pages, 0, n, pages, nodes, status,
                       nodes ? MOVE_OWN : 0);

    return ret < 0 ? -errno : ret;
}

typedef struct Huge {
    uint64_t addr;
    unsigned long *bitmap;
} Huge;

static void mark(void *opaque, uint64_t addr, uint64_t bytes)
{
    Huge *h = opaque;

    bitmap_set(h->bitmap, (addr - h->addr) / NS_PAGE, bytes / NS_PAGE);
}

/* Linux before 6.7 says of a mapping how much of it is large: often nothing */
static bool none_large(uint64_t addr, uint64_t bytes)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool in = false, none = f;

    while (f && none && fgets(line, sizeof(line), f)) {
        unsigned long a, b, kb;

        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            in = a < addr + bytes && b > addr;
        } else if (in && (sscanf(line, "AnonHugePages: %lu", &kb) == 1 ||
                          sscanf(line, "ShmemPmdMapped: %lu", &kb) == 1 ||
                          sscanf(line, "FilePmdMapped: %lu", &kb) == 1)) {
            none = !kb;
        }
    }
    if (f) {
        fclose(f);
    }
    return none;
}

/* Without that ioctl what is large can only be guessed, which is not ours. */
static int linux_huge(void *opaque, uint64_t addr, uint64_t bytes,
                      unsigned long *bitmap)
{
    Huge h = { .addr = addr, .bitmap = bitmap };
    int fd = ns_pagemap_open(), ret;

    if (fd < 0) {
        return fd;
    }
    ret = ns_pagemap_scan(fd, addr, bytes, PAGE_IS_HUGE | PAGE_IS_PRESENT, 0,
                          mark, &h);
    close(fd);
    return ret == -ENOTTY && none_large(addr, bytes) ? 0 : ret;
}

/* NULL: there is none */
static char *slurp(const char *path)
{
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

/* The number after @word; false: it is not there */
static bool number_after(const char *text, const char *word, uint64_t *value)
{
    const char *at = text ? strstr(text, word) : NULL, *end;

    if (!at) {
        return false;
    }
    at += strlen(word);
    at += strspn(at, " \t");
    return *at != '-' && !qemu_strtou64(at, &end, 10, value);
}

/* Sum over the zones of a node; 0 where it is not known */
static uint64_t watermark_of(int node)
{
    g_autofree char *text = slurp("/proc/zoneinfo");
    g_autofree char *head = g_strdup_printf("Node %d, zone", node);
    uint64_t sum = 0, pages;

    for (const char *at = text ? strstr(text, head) : NULL; at;
         at = strstr(at + 1, head)) {
        const char *end = strstr(at + 1, "\nNode ");
        g_autofree char *zone = end ? g_strndup(at, end - at) : g_strdup(at);

        if (number_after(zone, "\n        high ", &pages)) {
            sum += MIN(pages, BYTES_MAX / NS_PAGE);
        }
    }
    return MIN(sum, BYTES_MAX / NS_PAGE) * qemu_real_host_page_size();
}

static bool linux_node(void *opaque, int node, uint64_t *free, uint64_t *size,
                       uint64_t *watermark)
{
    g_autofree char *path =
        g_strdup_printf("/sys/devices/system/node/node%d/meminfo", node);
    g_autofree char *text = slurp(path);

    if (!number_after(text, "MemTotal:", size) || !*size ||
        !number_after(text, "MemFree:", free)) {
        return false;
    }
    *size = MIN(*size, BYTES_MAX / 1024) * 1024;
    *free = MIN(*free, BYTES_MAX / 1024) * 1024;
    *watermark = watermark_of(node);
    return true;
}

static uint64_t linux_hugetlb(void *opaque, int node, uint64_t page)
{
    g_autofree char *path = g_strdup_printf(
        "/sys/devices/system/node/node%d/hugepages/hugepages-%" PRIu64
        "kB/free_hugepages", node, page / 1024);
    g_autofree char *text = slurp(path);
    uint64_t n;

    return number_after(text, "", &n) ? MIN(n, BYTES_MAX / page) * page : 0;
}

static bool some_wait(const char *path, double percent)
{
    g_autofree char *text = slurp(path);
    const char *at = text ? strstr(text, "some avg10=") : NULL;

    return at && g_ascii_strtod(at + strlen("some avg10="), NULL) >= percent;
}

static bool linux_pressure(void *opaque)
{
    return some_wait("/proc/pressure/memory", PSI_MEMORY) ||
           some_wait("/proc/pressure/cpu", PSI_CPU);
}

static int64_t linux_now(void *opaque)
{
    return get_clock();
}

const NsMoverSys ns_mover_linux = {
    .move_pages = linux_move_pages,
    .bind = ns_mover_bind,
    .unbind = ns_mover_unbind,
    .huge = linux_huge,
    .node = linux_node,
    .hugetlb = linux_hugetlb,
    .pressure = linux_pressure,
    .now = linux_now,
};
