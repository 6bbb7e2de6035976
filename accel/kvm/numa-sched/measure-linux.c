/*
 * NUMA scheduler: how far memory is, by Linux
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Only the calling thread is bound, and only memory that is mapped here has a
 * policy.  Any thread.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include <sched.h>
#include <sys/syscall.h>
#include "affinity.h"
#include "measure.h"
#include "memcg.h"
#include "mover.h"

#define PREFERRED       1           /* the ABI: MPOL_PREFERRED */
#define STATIC_NODES    (1 << 15)
#define MASK_BITS       4096        /* the kernel has at most 1024 nodes */
#define LINE            64          /* one step of the chain in each */
#define WARM            (NS_MEASURE_ACCESSES / 10)
#define BATCH           4096        /* pages asked for in one call */
#define INDICES         8           /* of caches of a CPU */

/* Any thread but the main one may have been bound by the scheduler. */
static int linux_allowed(void *opaque, bool *cpu)
{
    return ns_affinity_read(getpid(), cpu) ? 0 : -EPERM;
}

static int linux_bind(void *opaque, const bool *cpu)
{
    return ns_affinity_write(qemu_get_thread_id(), cpu);
}

static int linux_cpu(void *opaque)
{
    int cpu = sched_getcpu();

    return cpu < 0 ? -errno : cpu;
}

static uint64_t linux_cache(void *opaque, uint32_t cpu)
{
    uint64_t most = 0;

    for (int i = 0; i < INDICES; i++) {
        g_autofree char *path = g_strdup_printf(
            "/sys/devices/system/cpu/cpu%u/cache/index%d/size", cpu, i);
        g_autofree char *text = NULL;
        const char *end;
        uint64_t n;

        if (g_file_get_contents(path, &text, NULL, NULL) &&
            !qemu_strtou64(text, &end, 10, &n) && n < NS_MAX_BYTES / KiB) {
            most = MAX(most, n * (*end == 'K' ? KiB : *end == 'M' ? MiB : 1));
        }
    }
    return most;
}

static bool linux_node(void *opaque, int node, uint64_t *free, uint64_t *size,
                       uint64_t *watermark)
{
    return ns_mover_linux.node(NULL, node, free, size, watermark);
}

static uint64_t linux_room(void *opaque)
{
    return ns_memcg_room("");
}

/*
 * The policy prefers the node, and whether it got the pages is asked for later:
 * where a node gets full meanwhile, pages that are bound to it would end in the
 * death of a process.  There is no access before there is a policy, since with
 * mlockall(MCL_FUTURE) pages come when they can be written.
 */
static int linux_map(void *opaque, uint32_t node, uint64_t bytes, void **buf)
{
    unsigned long mask[MASK_BITS / BITS_PER_LONG] = { };
    void *at;
    int ret = 0;

    if (node >= MASK_BITS - 1) {
        return -EINVAL;
    }
    at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return -errno;
    }
    set_bit(node, mask);
    if (syscall(__NR_mbind, at, bytes, PREFERRED | STATIC_NODES, mask,
                MASK_BITS, 0) ||
        mprotect(at, bytes, PROT_READ | PROT_WRITE)) {
        ret = -errno;
        munmap(at, bytes);
        return ret;
    }
    /*
     * Large pages are not asked for: making some would move memory of others.
     * Nobody needs this in a dump, or in a child.
     */
    madvise(at, bytes, MADV_DONTDUMP);
    madvise(at, bytes, MADV_DONTFORK);
    *buf = at;
    return 0;
}

static void linux_unmap(void *opaque, void *buf, uint64_t bytes)
{
    munmap(buf, bytes);
}

/*
 * A linear congruence with these factors meets each number below a power of
 * two once before it comes back, and no prefetcher foresees it; it can be
 * written from front to back, which a shuffle can not.
 */
static void linux_fill(void *opaque, void *buf, uint64_t bytes, uint64_t from,
                       uint64_t to)
{
    uint64_t lines = bytes / LINE;

    for (uint64_t i = from / LINE; i < to / LINE; i++) {
        uint64_t next = (i * 6364136223846793005ull + 1442695040888963407ull) &
                        (lines - 1);

        *(void **)((char *)buf + i * LINE) = (char *)buf + next * LINE;
    }
}

static int64_t linux_elsewhere(void *opaque, uint32_t node, void *buf,
                               uint64_t bytes)
{
    uint64_t size = qemu_real_host_page_size(), pages = bytes / size;
    g_autofree void **page = g_new(void *, BATCH);
    g_autofree int *status = g_new(int, BATCH);
    int64_t n = 0;

    for (uint64_t at = 0, batch; at < pages; at += batch) {
        batch = MIN(pages - at, BATCH);
        for (uint64_t i = 0; i < batch; i++) {
            page[i] = (char *)buf + (at + i) * size;
        }
        if (syscall(__NR_move_pages, 0, batch, page, NULL, status, 0) < 0) {
            return -errno;
        }
        for (uint64_t i = 0; i < batch; i++) {
            n += status[i] != node;
        }
    }
    return n;
}

static uint64_t linux_used(void *opaque)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Each address is read from memory before the next one is known. */
static void *follow(void *at, uint32_t accesses)
{
    for (uint32_t i = 0; i < accesses; i++) {
        at = qatomic_read((void **)at);
    }
    return at;
}

/* The first accesses are not counted: the thread may be new on this CPU. */
static uint64_t linux_chase(void *opaque, void **at, uint32_t accesses)
{
    uint64_t began;

    *at = follow(*at, WARM);
    began = linux_used(opaque);
    *at = follow(*at, accesses);
    return linux_used(opaque) - began;
}

const NsMeasureSys ns_measure_linux = {
    .allowed = linux_allowed,
    .bind = linux_bind,
    .cpu = linux_cpu,
    .cache = linux_cache,
    .node = linux_node,
    .room = linux_room,
    .map = linux_map,
    .unmap = linux_unmap,
    .fill = linux_fill,
    .elsewhere = linux_elsewhere,
    .chase = linux_chase,
    .used = linux_used,
};
