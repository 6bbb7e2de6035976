/*
 * NUMA scheduler: the use of pages, by sampled accesses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hardware takes a sample of the accesses to memory now and then, with the
 * address: PEBS of Intel (mem-loads) the virtual one, which under KVM is the
 * guest's and of no use here; IBS of AMD (ibs_op) the physical one, too.  It
 * disturbs nobody, but pays for each sample with an interrupt.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/cutils.h"
#include "heat-perf.h"
#include "pagemap.h"
#include "perf-event.h"
#include "perf-frames.h"
#include "perf-ring.h"
#include "plan.h"

#define AT_A_TIME   32768       /* entries of pagemap */
#define LOADS       (1ull << 1) /* union perf_mem_data_src: PERF_MEM_OP_LOAD */
#define STORES      (1ull << 2) /* PERF_MEM_OP_STORE */

typedef struct Sampled {
    int fd[2];
    uint32_t n;
    void *base;                 /* mmap()ed: a page, then the ring */
    size_t bytes;
    uint64_t seen;
} Sampled;

typedef struct Perf {
    NsPerfSampling how;
    NsHeatRange *range;
    uint32_t n;
    uint64_t types;
    GHashTable *thread;         /* Sampled by id */
    uint64_t looks;
    int error;                  /* of the last thread that could not be */
    /* Of physical addresses only */
    NsFrames *frames;
    int pagemap;
    uint64_t *entry;
    /* While a look is under way */
    NsHeat *heat;
    uint32_t left;              /* samples of this thread that are taken */
} Perf;

static bool own_addresses;

void ns_perf_own_addresses(bool own)
{
    own_addresses = own;
}

static void close_thread(Sampled *t)
{
    if (t->base) {
        munmap(t->base, t->bytes);
    }
    while (t->n) {
        close(t->fd[--t->n]);
    }
    g_free(t);
}

static void thread_free(gpointer t)
{
    close_thread(t);
}

static void perf_close(void *opaque)
{
    Perf *p = opaque;

    g_hash_table_unref(p->thread);
    if (p->pagemap >= 0) {
        close(p->pagemap);
    }
    ns_frames_free(p->frames);
    g_free(p->entry);
    g_free(p->range);
    g_free(p);
}

/*
 * Threads
 */

static uint32_t rate(void)
{
    g_autofree char *text = NULL;
    uint64_t most;

    if (!g_file_get_contents("/proc/sys/kernel/perf_event_max_sample_rate",
                             &text, NULL, NULL) ||
        qemu_strtou64(g_strchomp(text), NULL, 10, &most)) {
        return NS_PERF_RATE;
    }
    return MAX(MIN(most, NS_PERF_RATE), 1);
}

static int open_event(const Perf *p, const NsPerfEvent *e, int tid)
{
    struct perf_event_attr attr = {
        .type = e->type, .size = sizeof(attr), .config = e->config[0],
        .config1 = e->config[1], .config2 = e->config[2],
        .sample_type = p->types, .precise_ip = p->how.precise ? 2 : 0,
        .exclude_kernel = !p->how.all_levels, .exclude_hv = !p->how.all_levels,
    };
    int fd;

    if (p->how.period) {
        attr.sample_period = p->how.period;
    } else {
        attr.freq = 1;
        attr.sample_freq = rate();
    }
    fd = ns_perf_linux.open(NULL, &attr, tid);
    if ((fd == -EINVAL || fd == -EOPNOTSUPP) && attr.exclude_hv) {
        attr.exclude_hv = 0;
        fd = ns_perf_linux.open(NULL, &attr, tid);
    }
    return fd;
}

/* The largest ring that the limits allow */
static bool map_ring(Sampled *t)
{
    size_t page = qemu_real_host_page_size();

    for (uint32_t pages = NS_PERF_RING; pages; pages /= 2) {
        size_t bytes = (1 + pages) * page;
        void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                          t->fd[0], 0);

        if (base != MAP_FAILED) {
            t->base = base;
            t->bytes = bytes;
            return true;
        }
    }
    return false;
}

/* 0, or a positive errno */
static int open_thread(Perf *p, int tid)
{
    Sampled *t = g_new0(Sampled, 1);
    int error = 0;

    t->seen = p->looks;
    for (uint32_t i = 0; !error && i < p->how.n; i++) {
        int fd = open_event(p, &p->how.event[i], tid);

        if (fd < 0) {
            error = -fd;
            break;
        }
        t->fd[t->n++] = fd;
        if ((i == 0 && !map_ring(t)) ||
            (i && ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, t->fd[0]))) {
            /* Of what may be locked, not of what may be sampled */
            error = errno == EPERM ? ENOMEM : errno;
        }
    }
    if (error) {
        close_thread(t);
    } else {
        g_hash_table_insert(p->thread, GINT_TO_POINTER(tid), t);
    }
    return error;
}

static gboolean is_gone(gpointer key, gpointer value, gpointer p)
{
    return ((Sampled *)value)->seen != ((Perf *)p)->looks;
}

/* Has its thread ended?  There may be another one of that id by now. */
static bool has_ended(const Sampled *t)
{
    struct pollfd fd = { .fd = t->fd[0] };

    return RETRY_ON_EINTR(poll(&fd, 1, 0)) > 0 &&
           (fd.revents & (POLLHUP | POLLERR));
}

/* Those that there are now */
static void find_threads(Perf *p)
{
    uint32_t most = ns_perf_descriptors(NS_PERF_THREADS * p->how.n) / p->how.n;
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    const char *name;

    p->looks++;
    for (uint32_t n = 0;
         dir && n < most && (name = g_dir_read_name(dir)); n++) {
        Sampled *t;
        int tid, error;

        if (qemu_strtoi(name, NULL, 10, &tid) || tid <= 0) {
            continue;
        }
        t = g_hash_table_lookup(p->thread, GINT_TO_POINTER(tid));
        if (t && !has_ended(t)) {
            t->seen = p->looks;
            continue;
        }
        g_hash_table_remove(p->thread, GINT_TO_POINTER(tid));
        error = open_thread(p, tid);
        p->error = error && error != ESRCH ? error : p->error;
    }
    g_hash_table_foreach_remove(p->thread, is_gone, p);
}

static bool has_threads(const Perf *p, Error **errp)
{
    const char *remedy = "";

    if (g_hash_table_size(p->thread)) {
        return true;
    }
    if (ns_perf_is_refused(p->error)) {
        remedy = p->how.all_levels || p->how.physical ?
                 "; give QEMU CAP_PERFMON, or set kernel.perf_event_paranoid "
                 "to 1 or less" :
                 "; give QEMU CAP_PERFMON, or set kernel.perf_event_paranoid "
                 "to 2 or less";
    }
    error_setg(errp, "perf_event_open does not take %s: %s%s", p->how.name,
               strerror(p->error), remedy);
    return false;
}

/*
 * Samples
 */

static void found(void *opaque, const NsPerfSample *s)
{
    Perf *p = opaque;

    if (!p->left || (p->how.typed && !(s->source & (LOADS | STORES)))) {
        return;
    }
    p->left--;
    if (p->how.physical) {
        ns_frames_add(p->frames, s->phys);
    } else if (s->mode == PERF_RECORD_MISC_USER) {
        ns_heat_add(p->heat, s->addr & ~(NS_PAGE - 1ull), NS_PAGE, 1);
    }
}

static void drain(Perf *p, const Sampled *t)
{
    struct perf_event_mmap_page *page = t->base;
    size_t first = qemu_real_host_page_size();
    uint64_t head = qatomic_load_acquire(&page->data_head);
    NsPerfCounts counts = { };

    ns_perf_ring((char *)t->base + first, t->bytes - first,
                 qatomic_read(&page->data_tail), head, p->types, found, p,
                 &counts);
    qatomic_store_release(&page->data_tail, head);
}

/* Entries of up to AT_A_TIME pages; how many, or a negative errno */
static int read_entries(const Perf *p, uint64_t addr, uint64_t pages)
{
    size_t len = MIN(pages, AT_A_TIME) * sizeof(*p->entry);
    ssize_t got = RETRY_ON_EINTR(pread(p->pagemap, p->entry, len,
                                       addr / NS_PAGE * sizeof(*p->entry)));

    return got < 0 ? -errno : got < (ssize_t)sizeof(*p->entry) ? -EIO :
           got / (int)sizeof(*p->entry);
}

static bool find_frames(const Perf *p, NsHeat *heat, Error **errp)
{
    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t addr = p->range[i].addr, end = addr + p->range[i].bytes;
        int n;

        for (; addr < end; addr += (uint64_t)n * NS_PAGE) {
            n = read_entries(p, addr, DIV_ROUND_UP(end - addr, NS_PAGE));
            if (n < 0) {
                error_setg_errno(errp, -n, "/proc/self/pagemap can not be "
                                 "read");
                return false;
            }
            for (int k = 0; k < n; k++) {
                uint32_t uses = ns_frames_count(p->frames, p->entry[k]);

                if (uses) {
                    ns_heat_add(heat, addr + (uint64_t)k * NS_PAGE, NS_PAGE,
                                uses);
                }
            }
        }
    }
    return true;
}

static bool perf_look(void *opaque, NsHeat *heat, Error **errp)
{
    Perf *p = opaque;
    uint32_t each = NS_PERF_MOST / MAX(g_hash_table_size(p->thread), 1);
    GHashTableIter it;
    gpointer t;
    bool ok = true;

    p->heat = heat;
    g_hash_table_iter_init(&it, p->thread);
    while (g_hash_table_iter_next(&it, NULL, &t)) {
        p->left = each;
        drain(p, t);
    }
    if (p->how.physical) {
        ns_frames_sort(p->frames);
        ok = find_frames(p, heat, errp);
        ns_frames_clear(p->frames);
    }
    find_threads(p);
    return ok && has_threads(p, errp);
}

/*
 * Opening
 */

/* Does pagemap say where our pages are? */
static bool sees_frames(Perf *p, Error **errp)
{
    uint64_t pages = 0;
    int local = 1;

    for (uint32_t i = 0; i < p->n; i++) {
        pages += p->range[i].bytes / NS_PAGE;
    }
    if (qemu_real_host_page_size() != NS_PAGE) {
        error_setg(errp, "pages of this host are not of 4096 bytes");
        return false;
    }
    if (pages > NS_PERF_FRAMES) {
        error_setg(errp, "with physical addresses each look goes through all "
                   "pages, and %" PRIu64 " are more than %" PRIu64
                   "; give another 'estimator'", pages,
                   (uint64_t)NS_PERF_FRAMES);
        return false;
    }
    p->pagemap = ns_pagemap_open();
    p->entry = g_new(uint64_t, AT_A_TIME);
    p->frames = ns_frames_new(NS_PERF_MOST);
    if (p->pagemap < 0) {
        error_setg_errno(errp, -p->pagemap, "/proc/self/pagemap can not be "
                         "opened");
        return false;
    }
    qatomic_set(&local, 2);
    if (read_entries(p, (uintptr_t)&local, 1) == 1) {
        ns_frames_add(p->frames, p->entry[0] * NS_PAGE);
        if (ns_frames_count(p->frames, p->entry[0])) {
            ns_frames_clear(p->frames);
            return true;
        }
    }
    error_setg(errp, "/proc/self/pagemap does not tell where pages are; give "
               "QEMU CAP_SYS_ADMIN, or another 'estimator'");
    return false;
}

void *ns_perf_open_event(const NsPerfSampling *sampling,
                         const NsHeatRange *range, uint32_t n, Error **errp)
{
    Perf *p = g_new0(Perf, 1);

    p->how = *sampling;
    p->range = g_memdup2(range, n * sizeof(*range));
    p->n = n;
    p->pagemap = -1;
    p->error = ESRCH;
    p->types = PERF_SAMPLE_ADDR | (sampling->typed ? PERF_SAMPLE_DATA_SRC : 0) |
               (sampling->physical ? PERF_SAMPLE_PHYS_ADDR : 0);
    p->thread = g_hash_table_new_full(NULL, NULL, NULL, thread_free);
    if (!p->how.physical || sees_frames(p, errp)) {
        find_threads(p);
        if (has_threads(p, errp)) {
            return p;
        }
    }
    perf_close(p);
    return NULL;
}

bool ns_perf_choose(const char *devices, NsPerfSampling *s, Error **errp)
{
    bool ibs = ns_perf_has(devices, "ibs_op", NULL);
    bool loads = ns_perf_has(devices, "cpu", "mem-loads");

    *s = (NsPerfSampling) { .n = 1 };
    if (ibs) {
        s->name = "ibs_op";
        s->typed = s->all_levels = true;
        s->physical = !own_addresses;
        return ns_perf_find(devices, "ibs_op", NULL, &s->event[0], errp);
    }
    if (!loads) {
        error_setg(errp, "neither %s/ibs_op nor %s/cpu/events/mem-loads is "
                   "there: this host does not sample accesses to memory",
                   devices, devices);
        return false;
    }
    if (!own_addresses) {
        error_setg(errp, "%s/cpu/events/mem-loads samples the guest's own "
                   "addresses under KVM, which do not tell what memory that "
                   "is, and there is no %s/ibs_op", devices, devices);
        return false;
    }
    s->name = "cpu/mem-loads/";
    s->precise = true;
    if (ns_perf_has(devices, "cpu", "mem-stores")) {
        if (!ns_perf_find(devices, "cpu", "mem-stores", &s->event[1], errp)) {
            return false;
        }
        s->n = 2;
    }
    return ns_perf_find(devices, "cpu", "mem-loads", &s->event[0], errp);
}

static void *perf_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    NsPerfSampling s;

    return ns_perf_choose(NS_PERF_DEVICES, &s, errp) ?
           ns_perf_open_event(&s, range, n, errp) : NULL;
}

uint32_t ns_perf_threads(const void *opaque)
{
    return g_hash_table_size(((const Perf *)opaque)->thread);
}

const NsHeatOps ns_heat_perf = {
    .name = "perf",
    .open = perf_open,
    .look = perf_look,
    .close = perf_close,
    .sees_reads = true,
    .by_name_only = true,
};
