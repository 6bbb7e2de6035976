/*
 * NUMA scheduler: misses of the last cache, by perf_event_open(2)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One counter for each thread.  It counts and samples nothing, so a thread pays
 * for it when it gets on and off a CPU only.  The time in which it is enabled
 * is the thread's time on CPUs, and comes with the same read.
 */

#include "qemu/osdep.h"
#include "intensity.h"

typedef struct Counter {
    int fd;
    NsCounter last;
    uint64_t seen;
} Counter;

struct NsMisses {
    const NsPerfSys *sys;
    void *opaque;
    uint32_t type;
    uint64_t config;
    GHashTable *counter;        /* by id of the thread */
    uint64_t looks;
    bool off;                   /* it is not possible */
};

NsMisses *ns_misses_new(const NsPerfSys *sys, void *opaque, uint32_t type,
                        uint64_t config)
{
    NsMisses *m = g_new0(NsMisses, 1);

    m->sys = sys;
    m->opaque = opaque;
    m->type = type;
    m->config = config;
    m->counter = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return m;
}

NsMisses *ns_misses_new_linux(void)
{
    return ns_misses_new(&ns_perf_linux, NULL, PERF_TYPE_HARDWARE,
                         PERF_COUNT_HW_CACHE_MISSES);
}

static gboolean is_gone(gpointer key, gpointer value, gpointer opaque)
{
    NsMisses *m = opaque;
    Counter *c = value;

    if (c->seen == m->looks) {
        return false;
    }
    m->sys->close(m->opaque, c->fd);
    return true;
}

static void close_others(NsMisses *m)
{
    g_hash_table_foreach_remove(m->counter, is_gone, m);
}

void ns_misses_free(NsMisses *m)
{
    if (m) {
        m->looks++;
        close_others(m);
        g_hash_table_unref(m->counter);
        g_free(m);
    }
}

static int open_event(NsMisses *m, int tid)
{
    struct perf_event_attr attr = {
        .type = m->type, .size = sizeof(attr), .config = m->config,
        .read_format = PERF_FORMAT_TOTAL_TIME_ENABLED |
                       PERF_FORMAT_TOTAL_TIME_RUNNING,
        .exclude_kernel = 1, .exclude_hv = 1,
    };
    int fd = m->sys->open(m->opaque, &attr, tid);

    /* Not all hardware can tell a hypervisor. */
    if (fd == -EINVAL || fd == -EOPNOTSUPP) {
        attr.exclude_hv = 0;
        fd = m->sys->open(m->opaque, &attr, tid);
    }
    return fd;
}

static bool read_event(NsMisses *m, int fd, NsCounter *now)
{
    uint64_t value[3];

    if (m->sys->read(m->opaque, fd, value, sizeof(value)) != sizeof(value)) {
        return false;
    }
    *now = (NsCounter) { value[0], value[1], value[2] };
    return true;
}

/* There will never be one; a note, if somebody can do something about it */
static char *give_up(NsMisses *m, int error)
{
    m->off = true;
    m->looks++;
    close_others(m);
    return !ns_perf_is_refused(error) ? NULL :
           g_strdup_printf("numa-sched: how much the guest waits for memory "
                           "can not be measured: perf_event_open: %s; give "
                           "QEMU CAP_PERFMON, set kernel.perf_event_paranoid "
                           "to 2 or less, or give property "
                           "'memory-intensity'; %d/1000 is assumed",
                           strerror(error), NS_INTENSITY);
}

/* A thread that is new, or may be another one of the same id */
static void begin(NsMisses *m, int tid, char **note)
{
    Counter *c;
    NsCounter first;
    int fd = open_event(m, tid);

    if (fd < 0) {
        /* Others may pass: it is gone, or there are too many descriptors. */
        if (ns_perf_is_refused(-fd) || fd == -ENOENT || fd == -EOPNOTSUPP ||
            fd == -ENODEV || fd == -EINVAL) {
            *note = give_up(m, -fd);
        }
        return;
    }
    if (!read_event(m, fd, &first)) {
        m->sys->close(m->opaque, fd);
        return;
    }
    c = g_new(Counter, 1);
    *c = (Counter) { .fd = fd, .last = first, .seen = m->looks };
    g_hash_table_insert(m->counter, GINT_TO_POINTER(tid), c);
}

/* False: there is nothing more to come from this descriptor. */
static bool take(NsMisses *m, Counter *c, const NsMissing *thread,
                 NsWaited *group)
{
    NsCounter now;
    uint64_t events, ns;
    bool ran;

    if (!read_event(m, c->fd, &now)) {
        return false;
    }
    if (ns_counter_since(&c->last, &now, &events, &ns)) {
        ns_waited_add(group, events, thread->local, ns);
    }
    ran = now.enabled != c->last.enabled;
    c->last = now;
    return ran;
}

char *ns_misses_look(NsMisses *m, const NsMissing *thread, uint32_t n,
                     NsWaited *group, uint32_t groups)
{
    uint32_t most = MIN(n, ns_perf_descriptors(NS_INTENSITY_THREADS));
    char *note = NULL;

    if (m->off) {
        return NULL;
    }
    m->looks++;
    for (uint32_t i = 0; i < most; i++) {
        Counter *c = g_hash_table_lookup(m->counter,
                                         GINT_TO_POINTER(thread[i].tid));

        if (c) {
            c->seen = m->looks;
        }
    }
    close_others(m);
    for (uint32_t i = 0; i < most && !m->off; i++) {
        gpointer key = GINT_TO_POINTER(thread[i].tid);
        Counter *c = g_hash_table_lookup(m->counter, key);

        if (c && thread[i].group < groups &&
            !take(m, c, &thread[i], &group[thread[i].group])) {
            m->sys->close(m->opaque, c->fd);
            g_hash_table_remove(m->counter, key);
            c = NULL;
        }
        if (!c) {
            begin(m, thread[i].tid, &note);
        }
    }
    return note;
}

uint32_t ns_misses_threads(const NsMisses *m)
{
    return g_hash_table_size(m->counter);
}
