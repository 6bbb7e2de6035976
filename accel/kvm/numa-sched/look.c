/*
 * NUMA scheduler: one look at the guest and the host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "look.h"
#include "residency.h"

#define STALE           (10 * 60 * NANOSECONDS_PER_SECOND)
#define SAMPLES             2048        /* pages, of all groups */

static void look_at_thread(NsLook *k, const NsVcpu *v, bool *cpu)
{
    NsHistory *s = k->history;
    NsSeenTask *task = g_hash_table_lookup(s->task, GINT_TO_POINTER(v->tid));
    bool *whole = k->allowed + (size_t)v->group * k->t->n;
    NsThread th = { .tid = v->tid, .group = v->group, .node = -1 };
    NsTask now;
    uint32_t usage;

    if (task && task->seen == s->looks) {
        return;                 /* another vCPU of the same thread */
    }
    if (!ns_task_read(v->tid, &now)) {
        return;
    }
    if (now.cpu >= 0) {
        th.node = k->node_of_cpu[now.cpu];
    }
    th.before = th.node;
    if (!task) {
        task = g_new0(NsSeenTask, 1);
        g_hash_table_insert(s->task, GINT_TO_POINTER(v->tid), task);
    } else {
        th.before = task->node;
        th.run = ns_task_run(&task->now, &now, k->now - task->at);
        usage = ns_task_cpu(&task->now, &now, k->now - task->at);
        task->cpu = task->known ? ns_smooth(task->cpu, usage) : usage;
        task->known = true;
    }
    task->now = now;
    task->at = k->now;
    task->seen = s->looks;
    th.cpu = task->cpu;
    task->node = th.node;
    th.bound.node = -1;
    if (ns_affinity_read(v->tid, cpu)) {
        th.bound = ns_bound(k->t, cpu, NS_MAX_CPUS);
        /*
         * Bound to one node as a whole: as we advise it, so that it may leave,
         * for where QEMU may run.
         */
        if (th.bound.node >= 0 && !th.bound.narrow) {
            ns_affinity_read(getpid(), cpu);
        }
        ns_not_whole(k->t, cpu, NS_MAX_CPUS, whole);
    }
    g_array_append_val(k->thread, th);
}

static gboolean is_gone(gpointer key, gpointer value, gpointer s)
{
    return ((NsSeenTask *)value)->seen != ((NsHistory *)s)->looks;
}

static void look_at_threads(NsLook *k)
{
    g_autofree bool *cpu = g_new(bool, NS_MAX_CPUS);

    k->allowed = g_new(bool, (size_t)k->guest->n * k->t->n + 1);
    memset(k->allowed, true, (size_t)k->guest->n * k->t->n);
    k->node_of_cpu = g_new(int, NS_MAX_CPUS);
    ns_nodes_of_cpus(k->t, k->node_of_cpu, NS_MAX_CPUS);
    for (guint i = 0; i < k->guest->vcpu->len; i++) {
        look_at_thread(k, &g_array_index(k->guest->vcpu, NsVcpu, i), cpu);
    }
    g_hash_table_foreach_remove(k->history->task, is_gone, k->history);
}

/* The nodes, and what others use there */
static void look_at_nodes(NsLook *k, const char *root)
{
    NsHistory *s = k->history;
    uint32_t n = k->t->n;
    g_autofree uint64_t *own = g_new0(uint64_t, n);
    g_autofree uint64_t *used = g_new0(uint64_t, n);
    bool known = false;
    uint64_t *swap = s->busy;

    for (guint i = 0; i < k->thread->len; i++) {
        const NsThread *th = &g_array_index(k->thread, NsThread, i);

        /* It ran on both if it moved; nobody says how long on which. */
        if (th->node >= 0) {
            own[th->node] += (th->run + 1) / 2;
        }
        if (th->before >= 0) {
            own[th->before] += th->run / 2;
        }
    }
    for (uint32_t c = 0; c < NS_MAX_CPUS; c++) {
        s->busy_now[c] = NS_BUSY_UNKNOWN;
    }
    if (!ns_cpus_read(root, s->busy_now, NS_MAX_CPUS)) {
        s->busy_at = 0;
    } else {
        if (s->busy_at) {
            ns_used_by_others(k->t, s->busy, s->busy_now, NS_MAX_CPUS,
                              k->now - s->busy_at, sysconf(_SC_CLK_TCK), own,
                              used);
            known = true;
        }
        s->busy = s->busy_now;
        s->busy_now = swap;
        s->busy_at = k->now;
    }
    k->place = g_new(NsPlace, n);
    for (uint32_t i = 0; i < n; i++) {
        k->place[i] = (NsPlace) {
            .cpus = k->t->node[i].cpus, .cores = k->t->node[i].cores,
            .memory = k->t->node[i].size, .free = k->t->node[i].free,
            .used = s->used[i] = ns_smooth(s->used[i],
                                           known ? used[i] : s->used[i]),
        };
    }
}

static void look_at_memory(NsLook *k)
{
    const GArray *range = k->guest->range;
    uint32_t n = k->t->n;
    g_autofree uint64_t *found = g_new(uint64_t, NS_MAX_NODES);
    uint64_t all = 0;

    k->bytes = g_new0(uint64_t, (size_t)k->guest->n * n);
    k->absent = g_new0(uint64_t, k->guest->n);
    for (guint i = 0; i < range->len; i++) {
        all += g_array_index(range, NsGuestRange, i).bytes;
    }
    for (guint i = 0; i < range->len; i++) {
        const NsGuestRange *r = &g_array_index(range, NsGuestRange, i);
        NsRange part = { .host = r->host, .bytes = r->bytes };
        uint32_t samples = (double)SAMPLES * r->bytes / all + 16;

        memset(found, 0, NS_MAX_NODES * sizeof(*found));
        if (ns_residency(&part, samples, k->history->looks, found,
                         &k->absent[r->group])) {
            k->absent[r->group] += r->bytes;
        }
        ns_bytes_by_index(k->t, found, k->bytes + (size_t)r->group * n,
                          &k->absent[r->group]);
    }
}

/* What is drawn differs from look to look. */
static void smooth_bytes(NsMember *m, uint64_t *bytes, uint32_t n)
{
    if (!m->bytes) {
        m->bytes = g_memdup2(bytes, n * sizeof(*bytes));
    }
    for (uint32_t j = 0; j < n; j++) {
        int64_t way = (int64_t)(bytes[j] - m->bytes[j]) / 4;

        m->bytes[j] = way ? m->bytes[j] + way : bytes[j];
        bytes[j] = m->bytes[j];
    }
}

/* What is used of it, if that was measured lately */
static void look_at_use(NsLook *k, uint32_t g, uint64_t *bytes)
{
    NsMember *m = k->member[g];

    for (uint32_t j = 0; j < k->t->n; j++) {
        k->resident[g] += bytes[j];
    }
    if (m->share && k->now - m->share_at >= STALE) {
        g_clear_pointer(&m->share, g_free);
    }
    k->measured[g] = m->share;
    for (uint32_t j = 0; m->share && j < k->t->n; j++) {
        bytes[j] = bytes[j] * m->share[j] / 1000;
    }
}

/* Memory is nobody's: what it wrote is all that is known, and can not follow */
static void look_at_written(NsLook *k, uint32_t g, uint64_t *bytes)
{
    const uint64_t *written = ns_vcpu_sets_group(k->sets, k->t,
                                                 k->guest->name[g], k->now);

    if (written && !k->resident[g] && !k->absent[g]) {
        memcpy(bytes, written, k->t->n * sizeof(*bytes));
        k->measured[g] = k->group[g].pinned = true;
    }
}

static NsMember *member_get(NsHistory *s, const char *name)
{
    NsMember *m = g_hash_table_lookup(s->member, name);

    if (!m) {
        m = g_new0(NsMember, 1);
        m->stay.home = m->home = -1;
        ns_rest_init(&m->rest);
        g_hash_table_insert(s->member, g_strdup(name), m);
    }
    m->seen = s->looks;
    return m;
}

static void member_free(gpointer p)
{
    NsMember *m = p;

    ns_stay_clear(&m->stay);
    g_free(m->bytes);
    g_free(m->share);
    g_free(m);
}

static gboolean is_no_member(gpointer key, gpointer value, gpointer s)
{
    return ((NsMember *)value)->seen != ((NsHistory *)s)->looks;
}

/*
 * Where the group is: where it is bound to, or else where it ran lately.
 * False: it has no thread, yet or any more
 */
static bool find_home(NsLook *k, uint32_t g, uint32_t *used, int *home)
{
    NsMember *m = k->member[g];
    uint32_t nodes = k->t->n, threads = 0, bound = 0;
    int node = -1;

    memset(used, 0, nodes * sizeof(*used));
    for (guint i = 0; i < k->thread->len; i++) {
        const NsThread *th = &g_array_index(k->thread, NsThread, i);

        if (th->group != g) {
            continue;
        }
        threads++;
        m->cpu += th->cpu;
        if (th->node >= 0) {
            used[th->node] += th->cpu + 1;
        }
        if (th->bound.node >= 0 && (node < 0 || node == th->bound.node)) {
            node = th->bound.node;
            bound++;
        }
    }
    m->cpu = MIN(m->cpu, NS_MAX_CPU);
    ns_stay(&m->stay, used, nodes);
    *home = bound == threads ? node : m->stay.home;
    return threads;
}

/*
 * It may go where each of its threads may use all CPUs, and stay at home.
 * Without threads, or a home, nothing can be said of it.
 */
static void restrict_group(NsLook *k, uint32_t g, bool there)
{
    bool *allowed = k->allowed + (size_t)g * k->t->n;
    int home = k->group[g].home;
    uint32_t others = 0, targets = 0;

    for (uint32_t i = 0; i < k->t->n; i++) {
        others += (int)i != home && k->t->node[i].cpus;
        targets += (int)i != home && allowed[i];
    }
    if (!there || home < 0) {
        memset(allowed, false, k->t->n);
    } else {
        allowed[home] = true;
        k->fixed[g] = others && !targets;
    }
    k->group[g].allowed = allowed;
}

static void look_at_groups(NsLook *k)
{
    NsHistory *s = k->history;
    uint32_t n = k->guest->n, nodes = k->t->n;
    g_autofree uint32_t *cpu = g_new(uint32_t, nodes);

    k->member = g_new(NsMember *, n);
    k->group = g_new0(NsGroup, n);
    k->phase = g_new0(NsPhase, n);
    k->fixed = g_new0(bool, n);
    k->resident = g_new0(uint64_t, n);
    k->measured = g_new0(bool, n);
    for (uint32_t g = 0; g < n; g++) {
        NsMember *m = k->member[g] = member_get(s, k->guest->name[g]);
        bool there;
        int home, id;

        m->cpu = 0;
        there = find_home(k, g, cpu, &home);
        id = home >= 0 ? k->t->node[home].id : -1;
        if (m->home >= 0 && id >= 0 && id != m->home) {
            ns_rest_moved(&m->rest, k->now / SCALE_MS, m->home, id);
        }
        m->home = id;
        k->phase[g].resting = ns_rests(&m->rest, k->now / SCALE_MS);
        k->group[g] = (NsGroup) {
            .cpu = m->cpu, .home = home,
            .bytes = k->bytes + (size_t)g * nodes,
        };
        smooth_bytes(m, k->bytes + (size_t)g * nodes, nodes);
        look_at_use(k, g, k->bytes + (size_t)g * nodes);
        look_at_written(k, g, k->bytes + (size_t)g * nodes);
        restrict_group(k, g, there);
    }
    g_hash_table_foreach_remove(s->member, is_no_member, s);
}

/* Nodes are remembered by index. */
static void compare_nodes(NsLook *k)
{
    NsHistory *h = k->history;
    bool same = h->n == k->t->n;
    GHashTableIter it;
    gpointer value;

    for (uint32_t i = 0; same && i < h->n; i++) {
        same = h->id[i] == k->t->node[i].id;
    }
    if (same) {
        return;
    }
    h->n = k->t->n;
    h->id = g_renew(uint32_t, h->id, h->n);
    g_free(h->used);
    h->used = g_new0(uint32_t, h->n);
    for (uint32_t i = 0; i < h->n; i++) {
        h->id[i] = k->t->node[i].id;
    }
    g_hash_table_iter_init(&it, h->member);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        NsMember *m = value;

        ns_stay_clear(&m->stay);
        g_clear_pointer(&m->bytes, g_free);
        g_clear_pointer(&m->share, g_free);
    }
    g_hash_table_remove_all(h->task);
}

void ns_look(NsLook *k, const char *root)
{
    k->history->looks++;
    compare_nodes(k);
    k->now = get_clock();
    k->thread = g_array_new(false, false, sizeof(NsThread));
    look_at_threads(k);
    look_at_nodes(k, root);
    look_at_memory(k);
    look_at_groups(k);
    ns_look_at_intensity(k);
}

void ns_look_clear(NsLook *k)
{
    ns_topology_free(k->t);
    ns_latency_free(k->l);
    g_clear_pointer(&k->thread, g_array_unref);
    g_free(k->node_of_cpu);
    g_free(k->place);
    g_free(k->group);
    g_free(k->phase);
    g_free(k->member);
    g_free(k->bytes);
    g_free(k->absent);
    g_free(k->resident);
    g_free(k->measured);
    g_free(k->fixed);
    g_free(k->allowed);
    g_free(k->intensity);
    g_free(k->note);
}

void ns_history_init(NsHistory *h)
{
    *h = (NsHistory) {
        .member = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                        member_free),
        .task = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .busy = g_new0(uint64_t, NS_MAX_CPUS),
        .busy_now = g_new0(uint64_t, NS_MAX_CPUS),
        .intensity = -1,
    };
}

void ns_history_clear(NsHistory *h)
{
    g_clear_pointer(&h->member, g_hash_table_unref);
    g_clear_pointer(&h->task, g_hash_table_unref);
    g_free(h->id);
    g_free(h->used);
    g_free(h->busy);
    g_free(h->busy_now);
    ns_misses_free(h->misses);
}
