/*
 * NUMA scheduler: move memory to a node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The states, and what holds in each, are in docs/devel/numa-sched.rst, "The
 * mover".
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "mover-int.h"
#include "topology.h"

#define BURST           (16u << 20)     /* bytes */

int ns_mover_index(const NsMover *m, int id)
{
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        if (m->id[i] == id) {
            return i;
        }
    }
    return -1;
}

static bool is_over(NsMoverState s)
{
    return s == NS_MOVER_DONE || s == NS_MOVER_FULL || s == NS_MOVER_UNDONE ||
           s == NS_MOVER_FAILED;
}

/* What can not be restored is no longer mapped, so no policy matters there. */
static void unbind(NsMover *m)
{
    for (uint32_t i = 0; i < m->n_ranges; i++) {
        if (m->before[i]) {
            m->sys->unbind(m->sys_opaque, m->range[i].addr, m->range[i].bytes,
                           m->before[i]);
            g_clear_pointer(&m->before[i], g_free);
        }
    }
}

void ns_mover_enter(NsMover *m, NsMoverState state, int error)
{
    if (state != NS_MOVER_RUNNING && state != NS_MOVER_PAUSED &&
        state != NS_MOVER_DONE) {
        unbind(m);
    }
    m->state = state;
    QEMU_LOCK_GUARD(&m->lock);
    m->progress.state = state;
    m->progress.error = error;
}

bool ns_mover_room(const NsMover *m, uint64_t page, uint64_t *bytes)
{
    uint64_t free, size, watermark;
    int id = m->id[m->target];

    if (!m->sys->node(m->sys_opaque, id, &free, &size, &watermark)) {
        return false;
    }
    if (page > NS_PAGE) {
        /* These are set aside for guests: there is nobody to keep some for. */
        *bytes = m->sys->hugetlb ? m->sys->hugetlb(m->sys_opaque, id, page) : 0;
    } else {
        *bytes = ns_move_room(free, size, watermark);
    }
    return true;
}

static int64_t step_scanning(NsMover *m)
{
    int ret = ns_mover_scan(m);

    if (ret) {
        ns_mover_enter(m, NS_MOVER_FAILED, -ret);
        return INT64_MAX;
    }
    if (!m->scanning) {
        ns_mover_make_order(m);
    }
    return ns_mover_now(m);
}

int64_t ns_mover_step(NsMover *m)
{
    bool pause, give_up, refresh;

    WITH_QEMU_LOCK_GUARD(&m->lock) {
        pause = m->want_pause;
        give_up = m->want_abort;
        refresh = m->want_refresh;
        m->want_refresh = false;
    }
    if (give_up && (!is_over(m->state) || m->state == NS_MOVER_DONE ||
                    m->state == NS_MOVER_FULL)) {
        if (m->state != NS_MOVER_UNDOING) {
            ns_mover_enter(m, NS_MOVER_UNDOING, 0);
        }
    } else if (m->state == NS_MOVER_PAUSED && !pause) {
        ns_mover_enter(m, NS_MOVER_RUNNING, 0);
    } else if (m->state == NS_MOVER_RUNNING && pause) {
        ns_mover_enter(m, NS_MOVER_PAUSED, 0);
    }
    ns_pace_pause(&m->pace, pause);
    if (pause || is_over(m->state)) {
        return INT64_MAX;
    }
    if (m->state == NS_MOVER_UNDOING) {
        return ns_mover_step_undoing(m);
    }
    if (m->scanning) {
        return step_scanning(m);
    }
    if (refresh) {
        ns_mover_make_order(m);
    }
    return ns_mover_step_moving(m);
}

/*
 * Life
 */

static bool check_range(const NsMoverRange *r, Error **errp)
{
    const char *name = r->name ?: "?";

    if (r->page != NS_PAGE && r->page != NS_MOVE_HUGE) {
        error_setg(errp, "numa-sched: memory '%s' has pages of %" PRIu64 " KiB,"
                   " which can not be moved while in use: use pages of 4 KiB or"
                   " 2 MiB", name, r->page >> 10);
        return false;
    }
    if (!r->bytes || r->addr % r->page || r->bytes % r->page ||
        r->addr > UINT64_MAX - r->bytes) {
        error_setg(errp, "numa-sched: memory '%s' of %" PRIu64 " bytes at 0x%"
                   PRIx64 " does not consist of whole pages of %" PRIu64
                   " bytes", name, r->bytes, r->addr, r->page);
        return false;
    }
    return true;
}

static bool check_config(const NsMoverConfig *c, Error **errp)
{
    if (!c->n_ranges || c->n_ranges > NS_MOVER_MAX_RANGES) {
        error_setg(errp, "numa-sched: memory to move has %" PRIu32 " ranges, "
                   "not 1 to %d", c->n_ranges, NS_MOVER_MAX_RANGES);
        return false;
    }
    if (!c->n || c->n > NS_MAX_NODES || c->cpu >= c->n || c->target >= c->n ||
        c->epsilon > NS_MOVE_MAX_EPSILON) {
        error_setg(errp, "numa-sched: no memory can move to node %" PRIu32
                   " for node %" PRIu32 " of %" PRIu32 " with epsilon %" PRIu32,
                   c->target, c->cpu, c->n, c->epsilon);
        return false;
    }
    for (uint32_t i = 0; i < c->n_ranges; i++) {
        if (!check_range(&c->range[i], errp)) {
            return false;
        }
    }
    return true;
}

static NsMover *mover_new(const NsMoverConfig *c, const NsMoverSys *sys,
                          void *sys_opaque)
{
    NsMover *m = g_new0(NsMover, 1);

    m->range = g_memdup2(c->range, c->n_ranges * sizeof(*m->range));
    m->name = g_new0(char *, c->n_ranges);
    m->n_ranges = c->n_ranges;
    for (uint32_t i = 0; i < c->n_ranges; i++) {
        m->range[i].name = m->name[i] = g_strdup(c->range[i].name ?: "?");
    }
    m->before = g_new0(void *, c->n_ranges);
    m->n_nodes = c->n;
    m->id = g_memdup2(c->id, c->n * sizeof(*m->id));
    m->ratio = g_memdup2(c->ratio, (size_t)c->n * c->n * sizeof(*m->ratio));
    m->cpu = c->cpu;
    m->target = c->target;
    m->epsilon = c->epsilon;
    m->all = c->all;
    m->scores = c->scores;
    m->scores_opaque = c->scores_opaque;
    m->sys = sys;
    m->sys_opaque = sys_opaque;
    m->scanning = true;
    m->unit = g_array_new(false, false, sizeof(NsMoveUnit));
    m->origin = g_array_new(false, false, sizeof(uint16_t));
    m->page = g_new0(void *, NS_MOVER_PAGES);
    m->status = g_new0(int, NS_MOVER_PAGES);
    m->node = g_new0(int, NS_MOVER_PAGES);
    m->was = g_new0(int, NS_MOVER_PAGES);
    m->size = g_new0(uint32_t, NS_MOVER_PAGES);
    m->bits = bitmap_new(NS_MOVER_PAGES);
    ns_journal_init(&m->journal, NS_JOURNAL_RUNS);
    ns_journal_init(&m->again, NS_JOURNAL_RUNS);
    /* A quarter of a second's, so that little moves before there is a rate */
    ns_pace_init(&m->pace, ns_mover_now(m), c->bandwidth,
                 MIN(BURST, c->bandwidth / 4), c->invalidations);
    qemu_mutex_init(&m->lock);
    return m;
}

/* Before anything is changed */
static bool check(NsMover *m, Error **errp)
{
    int target = m->id[m->target], ret;
    uint64_t bytes;

    for (uint32_t i = 0; i < m->n_ranges; i++) {
        const NsMoverRange *r = &m->range[i];

        if (!ns_mover_room(m, r->page, &bytes)) {
            error_setg(errp, "numa-sched: memory '%s' can not go to node %d, "
                       "which is not online or has no memory: use another node",
                       r->name, target);
            return false;
        }
        if (r->page > NS_PAGE && bytes < r->page) {
            error_setg(errp, "numa-sched: memory '%s' has pages of hugetlbfs, "
                       "and node %d has none of %" PRIu64 " KiB free: add some "
                       "to nr_hugepages of that node", r->name, target,
                       r->page >> 10);
            return false;
        }
        ns_mover_put(m, 0, r->addr, r->page);
        ret = ns_mover_ask(m, 1);
        if (ret) {
            error_setg_errno(errp, -ret, "numa-sched: the kernel does not tell "
                             "where memory '%s' is (move_pages): permit that "
                             "system call", r->name);
            return false;
        }
    }
    return true;
}

static bool bind_all(NsMover *m, Error **errp)
{
    for (uint32_t i = 0; i < m->n_ranges; i++) {
        int ret = m->sys->bind(m->sys_opaque, m->range[i].addr,
                               m->range[i].bytes, m->id[m->target],
                               &m->before[i]);

        if (ret) {
            unbind(m);
            error_setg_errno(errp, -ret, "numa-sched: the policy of memory '%s'"
                             " can not be changed to node %d (mbind): permit "
                             "that system call, and the node in its cpuset",
                             m->range[i].name, m->id[m->target]);
            return false;
        }
    }
    return true;
}

NsMover *ns_mover_new(const NsMoverConfig *config, const NsMoverSys *sys,
                      void *sys_opaque, Error **errp)
{
    NsMover *m;

    if (!check_config(config, errp)) {
        return NULL;
    }
    m = mover_new(config, sys, sys_opaque);
    if (!check(m, errp) || !bind_all(m, errp)) {
        ns_mover_free(m);
        return NULL;
    }
    return m;
}

void ns_mover_free(NsMover *m)
{
    if (!m) {
        return;
    }
    /* Only what has all moved keeps the target's. */
    if (m->state != NS_MOVER_DONE) {
        unbind(m);
    }
    for (uint32_t i = 0; i < m->n_ranges; i++) {
        g_free(m->before[i]);
        g_free(m->name[i]);
    }
    ns_journal_clear(&m->journal);
    ns_journal_clear(&m->again);
    ns_move_order_free(m->order);
    g_array_unref(m->unit);
    g_array_unref(m->origin);
    qemu_mutex_destroy(&m->lock);
    g_free(m->range);
    g_free(m->name);
    g_free(m->before);
    g_free(m->id);
    g_free(m->ratio);
    g_free(m->page);
    g_free(m->status);
    g_free(m->node);
    g_free(m->was);
    g_free(m->size);
    g_free(m->bits);
    g_free(m);
}

void ns_mover_refresh(NsMover *m)
{
    QEMU_LOCK_GUARD(&m->lock);
    m->want_refresh = true;
}

void ns_mover_pause(NsMover *m, bool paused)
{
    QEMU_LOCK_GUARD(&m->lock);
    m->want_pause = paused;
}

void ns_mover_abort(NsMover *m)
{
    QEMU_LOCK_GUARD(&m->lock);
    m->want_abort = true;
}

void ns_mover_progress(const NsMover *mover, NsMoverProgress *progress)
{
    NsMover *m = (NsMover *)mover;      /* the lock only */

    QEMU_LOCK_GUARD(&m->lock);
    *progress = m->progress;
}

bool ns_mover_dry_run(const NsMoverConfig *config, const NsMoverSys *sys,
                      void *sys_opaque, NsMoverProgress *progress,
                      Error **errp)
{
    NsMover *m;
    bool ok;

    *progress = (NsMoverProgress) { };
    if (!check_config(config, errp)) {
        return false;
    }
    m = mover_new(config, sys, sys_opaque);
    ok = check(m, errp);
    while (ok && m->at_range < m->n_ranges) {
        int ret = ns_mover_scan(m);

        if (ret) {
            error_setg_errno(errp, -ret, "numa-sched: the kernel does not tell "
                             "where memory '%s' is (move_pages)",
                             m->range[m->at_range].name);
            ok = false;
        } else if (!m->scanning) {
            ns_mover_make_order(m);
            ns_mover_end_window(m);
        }
    }
    *progress = m->progress;
    if (ok) {
        progress->state = NS_MOVER_DONE;
    }
    ns_mover_free(m);
    return ok;
}
