/*
 * NUMA scheduler: the memory that moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "heat.h"
#include "mover.h"
#include "moving.h"
#include "working.h"

#define INVALIDATIONS   100000      /* a second, at most */
/* Looks before what is known of use counts, of estimators that count once */
#define LOOKS           2
#define SHORT_LOOKS     NS_WORKING_LOOKS

struct NsMoving {
    char *group;
    uint32_t target;                /* id of the node */
    GArray *range;                  /* NsMoverRange */
    int *id;
    uint32_t *ratio;
    NsHeat *heat;                   /* NULL: it is over */
    const char *estimator;
    NsMover *mover;
    uint32_t waiting;               /* looks that are still to come */
    int64_t window;                 /* ns: of what counts once */
    int64_t until;                  /* ns: it ends; INT64_MAX: there is none */
    bool paused;
    bool gone;                      /* the memory is no longer the guest's */
    int64_t began;                  /* ns */
    int64_t ended;                  /* ns; 0: not yet */
    GPtrArray *notes;
};

static GArray *ranges_of(const NsLook *k, const char *group)
{
    GArray *out = g_array_new(false, false, sizeof(NsMoverRange));

    for (guint i = 0; i < k->guest->range->len; i++) {
        const NsGuestRange *r = &g_array_index(k->guest->range, NsGuestRange,
                                               i);
        NsMoverRange m = {
            .addr = (uintptr_t)r->host, .bytes = r->bytes, .page = r->page,
        };

        if (r->group < k->guest->n &&
            !strcmp(k->guest->name[r->group], group)) {
            g_array_append_val(out, m);
        }
    }
    return out;
}

/* Memory may be plugged in meanwhile; none of ours may go. */
static bool ranges_are_in(const GArray *ours, const GArray *now)
{
    for (guint i = 0; i < ours->len; i++) {
        const NsMoverRange *x = &g_array_index(ours, NsMoverRange, i);
        bool found = false;

        for (guint k = 0; !found && k < now->len; k++) {
            const NsMoverRange *y = &g_array_index(now, NsMoverRange, k);

            found = x->addr == y->addr && x->bytes == y->bytes;
        }
        if (!found) {
            return false;
        }
    }
    return true;
}

static void scores(void *opaque, uint64_t addr, uint32_t pages,
                   uint32_t *score)
{
    NsMoving *m = opaque;

    ns_heat_scores(m->heat, addr, pages, score);
}

static NsHeat *heat_of(const NsMoving *m, NumaSchedEstimator estimator,
                       Error **errp)
{
    g_autofree NsHeatRange *range = g_new(NsHeatRange, m->range->len);

    for (guint i = 0; i < m->range->len; i++) {
        const NsMoverRange *r = &g_array_index(m->range, NsMoverRange, i);

        range[i] = (NsHeatRange) { .addr = r->addr, .bytes = r->bytes };
    }
    return ns_heat_new(range, m->range->len, NumaSchedEstimator_str(estimator),
                       NULL, m->notes, errp);
}

NsMoving *ns_moving_new(const NsLook *k, uint32_t g, uint32_t target,
                        uint64_t bandwidth, NumaSchedEstimator estimator,
                        Error **errp)
{
    NsMoving *m = g_new0(NsMoving, 1);
    uint32_t n = k->t->n;
    NsMoverConfig config = {
        .n = n, .cpu = target, .target = target, .bandwidth = bandwidth,
        .invalidations = INVALIDATIONS, .epsilon = NS_MOVE_EPSILON,
        .scores = scores, .scores_opaque = m,
    };

    m->group = g_strdup(k->guest->name[g]);
    m->target = k->t->node[target].id;
    m->notes = g_ptr_array_new_with_free_func(g_free);
    m->range = ranges_of(k, m->group);
    m->ratio = g_memdup2(k->l->ratio, (size_t)n * n * sizeof(*m->ratio));
    m->id = g_new(int, n);
    for (uint32_t i = 0; i < n; i++) {
        m->id[i] = k->t->node[i].id;
    }
    m->began = get_clock();
    if (!m->range->len) {
        error_setg(errp, "numa-sched: no memory is known to be that of group "
                   "'%s'", m->group);
        goto fail;
    }
    for (guint i = 0; i < m->range->len; i++) {
        g_array_index(m->range, NsMoverRange, i).name = m->group;
    }
    config.range = &g_array_index(m->range, NsMoverRange, 0);
    config.n_ranges = m->range->len;
    config.id = m->id;
    config.ratio = m->ratio;
    m->mover = ns_mover_new(&config, &ns_mover_linux, NULL, errp);
    if (!m->mover) {
        goto fail;
    }
    m->heat = heat_of(m, estimator, errp);
    if (!m->heat) {
        goto fail;
    }
    m->estimator = ns_heat_name(m->heat);
    m->window = NS_WORKING_WINDOW;
    m->until = ns_heat_counts_once(m->heat) ? get_clock() + m->window :
               INT64_MAX;
    m->waiting = ns_heat_counts_once(m->heat) ? SHORT_LOOKS :
                 strcmp(m->estimator, "none") ? LOOKS : 0;
    return m;

fail:
    ns_moving_free(m);
    return NULL;
}

void ns_moving_free(NsMoving *m)
{
    if (m) {
        if (m->mover) {
            ns_mover_free(m->mover);
        }
        if (m->heat) {
            ns_heat_free(m->heat);
        }
        g_ptr_array_unref(m->notes);
        g_array_unref(m->range);
        g_free(m->ratio);
        g_free(m->id);
        g_free(m->group);
        g_free(m);
    }
}

bool ns_moving_is_over(const NsMoving *m)
{
    NsMoverProgress p;

    ns_mover_progress(m->mover, &p);
    return m->gone || p.state == NS_MOVER_DONE || p.state == NS_MOVER_FULL ||
           p.state == NS_MOVER_UNDONE || p.state == NS_MOVER_FAILED;
}

/* What looks at memory costs something: no longer than need be. */
static void end(NsMoving *m)
{
    if (m->heat) {
        g_clear_pointer(&m->heat, ns_heat_free);
        m->ended = get_clock();
    }
}

static void looked(NsMoving *m)
{
    uint32_t left = m->waiting ? m->waiting - 1 : 0;

    m->estimator = ns_heat_name(m->heat);
    /* Another one may have taken its place. */
    m->waiting = !strcmp(m->estimator, "none") ? 0 :
                 ns_heat_counts_once(m->heat) ? left : MIN(left, LOOKS);
    ns_mover_refresh(m->mover);
}

/*
 * What counts once is seen in windows in which some of it is used and some is
 * not, however long it is between two looks of the sampler: one window for each
 * of these, and before anything moves one after the other.
 */
static void begin_window(NsMoving *m)
{
    m->until = get_clock() + m->window;
}

static void end_window(NsMoving *m)
{
    int64_t began = get_clock();

    ns_heat_look(m->heat, m->notes);
    m->window = ns_working_window(m->window, ns_heat_used(m->heat));
    /* A look at much memory takes longer than the window would. */
    m->window = MAX(m->window, get_clock() - began);
    m->until = INT64_MAX;
    looked(m);
    if (m->waiting && ns_heat_counts_once(m->heat)) {
        begin_window(m);
    }
}

int64_t ns_moving_step(NsMoving *m)
{
    int64_t next = INT64_MAX;

    if (m->heat && !m->paused && get_clock() >= m->until) {
        end_window(m);
    }
    if (!m->waiting && !ns_moving_is_over(m)) {
        next = ns_mover_step(m->mover);
    }
    if (ns_moving_is_over(m)) {
        end(m);
        return INT64_MAX;
    }
    return MIN(next, m->until);
}

void ns_moving_look(NsMoving *m, const NsLook *k)
{
    g_autoptr(GArray) now = ranges_of(k, m->group);

    m->gone = m->gone || !ranges_are_in(m->range, now);
    if (ns_moving_is_over(m)) {
        end(m);
        return;
    }
    if (m->paused) {
        return;
    }
    if (!ns_heat_counts_once(m->heat)) {
        ns_heat_look(m->heat, m->notes);
        looked(m);
    } else if (m->until == INT64_MAX) {
        ns_heat_arm(m->heat, m->notes);
        begin_window(m);
    }
}

uint64_t ns_moving_coming(const NsMoving *m, uint32_t *target)
{
    NsMoverProgress p;

    if (!m || ns_moving_is_over(m)) {
        return 0;
    }
    ns_mover_progress(m->mover, &p);
    *target = m->target;
    return p.worth - MIN(p.worth, p.moved);
}

const char *ns_moving_group(const NsMoving *m)
{
    return m->group;
}

const char *ns_moving_estimator(const NsMoving *m)
{
    return m->estimator;
}

static NumaMigrateState state_of(const NsMoving *m, const NsMoverProgress *p)
{
    if (m->gone && (p->state == NS_MOVER_RUNNING ||
                    p->state == NS_MOVER_PAUSED ||
                    p->state == NS_MOVER_UNDOING)) {
        return NUMA_MIGRATE_STATE_FAILED;
    }
    switch (p->state) {
    case NS_MOVER_PAUSED:
        return NUMA_MIGRATE_STATE_PAUSED;
    case NS_MOVER_UNDOING:
        return NUMA_MIGRATE_STATE_UNDOING;
    case NS_MOVER_DONE:
        return NUMA_MIGRATE_STATE_COMPLETED;
    case NS_MOVER_FULL:
        return NUMA_MIGRATE_STATE_FULL;
    case NS_MOVER_UNDONE:
        return NUMA_MIGRATE_STATE_CANCELLED;
    case NS_MOVER_FAILED:
        return NUMA_MIGRATE_STATE_FAILED;
    default:
        return m->waiting ? NUMA_MIGRATE_STATE_WAITING :
               NUMA_MIGRATE_STATE_RUNNING;
    }
}

NumaMigrateProgress *ns_moving_progress(const NsMoving *m)
{
    NumaMigrateProgress *out = g_new0(NumaMigrateProgress, 1);
    int64_t spent = (m->ended ? m->ended : get_clock()) - m->began;
    NsMoverProgress p;

    ns_mover_progress(m->mover, &p);
    out->group = g_strdup(m->group);
    out->target = m->target;
    out->state = state_of(m, &p);
    out->total = p.total;
    out->worth = p.worth;
    out->moved = p.moved;
    out->failed = p.failed;
    out->undone = p.undone;
    out->large_pages = p.huge_moved;
    out->invalidations = p.units;
    out->invalidations_per_second = p.units * 1e9 / MAX(spent, SCALE_MS);
    out->estimator = g_strdup(p.scored || m->waiting ? m->estimator : "none");
    out->reason = m->gone ? g_strdup("the memory is no longer the guest's") :
                  p.state == NS_MOVER_FULL ?
                  g_strdup_printf("node %u has no room for more", m->target) :
                  p.error ?
                  g_strdup_printf("memory can not be moved to node %u: %s",
                                  m->target, strerror(p.error)) : NULL;
    return out;
}

char *ns_moving_take_note(NsMoving *m)
{
    return m->notes->len ? g_ptr_array_steal_index(m->notes, 0) : NULL;
}

void ns_moving_pause(NsMoving *m, bool paused)
{
    m->paused = paused;
    m->until = paused ? INT64_MAX : m->until;
    ns_mover_pause(m->mover, paused);
}

void ns_moving_cancel(NsMoving *m)
{
    /* There is nothing left to wait for. */
    m->waiting = 0;
    ns_mover_abort(m->mover);
}
