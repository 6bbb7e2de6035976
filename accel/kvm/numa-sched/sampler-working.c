/*
 * NUMA scheduler: whose working set is measured, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "sampler-int.h"

#define PERIOD  (30ll * NANOSECONDS_PER_SECOND)     /* of each group */

/* Whoever paused us waits for that. */
void ns_sampler_stop_working(NsSampler *s)
{
    ns_working_free(s->working);
    s->working = NULL;
    g_clear_pointer(&s->working_group, g_free);
    s->working_due = INT64_MAX;
    QEMU_LOCK_GUARD(&s->lock);
    s->watches = false;
    qemu_cond_broadcast(&s->unwatched);
}

/* Where nothing is far, it makes no difference what is used. */
static bool has_far_memory(const NsLook *k, uint32_t g)
{
    const NsMember *m = k->member[g];
    uint64_t far = 0, all = 0;

    if (k->group[g].home < 0 || !m->bytes) {
        return false;
    }
    for (uint32_t j = 0; j < k->t->n; j++) {
        all += m->bytes[j];
        far += (int)j != k->group[g].home ? m->bytes[j] : 0;
    }
    return far > all / 32;
}

/* The group that has waited longest, if its time has come; n: none */
static uint32_t next_group(const NsLook *k)
{
    uint32_t next = k->guest->n;

    for (uint32_t g = 0; g < k->guest->n; g++) {
        const NsMember *m = k->member[g];

        if ((!m->watched_at || k->now - m->watched_at >= PERIOD) &&
            has_far_memory(k, g) &&
            (next == k->guest->n ||
             m->watched_at < k->member[next]->watched_at)) {
            next = g;
        }
    }
    return next;
}

static GArray *ranges_of(const NsLook *k, uint32_t g)
{
    GArray *out = g_array_new(false, false, sizeof(NsHeatRange));

    for (guint i = 0; i < k->guest->range->len; i++) {
        const NsGuestRange *r = &g_array_index(k->guest->range, NsGuestRange,
                                               i);
        NsHeatRange h = { .addr = (uintptr_t)r->host, .bytes = r->bytes };

        /* Pages larger than that are watched as a whole, or not at all. */
        if (r->group == g && r->page <= NS_WORKING_CHUNK) {
            g_array_append_val(out, h);
        }
    }
    return out;
}

/* Not of which group: there may be more of them than there is room for notes */
static void not_measured(NsSampler *s, const char *why)
{
    ns_sampler_note(s, g_strdup_printf("numa-sched '%s': working sets are not "
                    "measured: %s; all memory counts", s->id, why));
}

void ns_sampler_look_at_working(NsSampler *s, const NsLook *k)
{
    g_autoptr(GArray) range = NULL;
    Error *err = NULL;
    NsMember *m;
    uint32_t g;

    if (!s->working_sets || s->working ||
        (s->moving && !ns_moving_is_over(s->moving))) {
        return;
    }
    g = next_group(k);
    if (g == k->guest->n) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->paused || s->stop) {
            return;
        }
        /* Of the others, userfaultfd's users need not know. */
        s->watches = s->estimator == NUMA_SCHED_ESTIMATOR_AUTO ||
                     s->estimator == NUMA_SCHED_ESTIMATOR_PAGEMAP_SCAN;
    }
    m = k->member[g];
    m->watched_at = k->now;
    range = ranges_of(k, g);
    s->working = ns_working_new((NsHeatRange *)range->data, range->len,
                                NumaSchedEstimator_str(s->estimator), NULL,
                                k->now, m->window ?: NS_WORKING_WINDOW, &err);
    if (s->working) {
        s->working_group = g_strdup(k->guest->name[g]);
        s->working_due = k->now;
        return;
    }
    ns_sampler_stop_working(s);
    not_measured(s, error_get_pretty(err));
    error_free(err);
}

/* What was found becomes the group's, half of the way. */
static void finish(NsSampler *s)
{
    NsMember *m = g_hash_table_lookup(s->history.member, s->working_group);
    g_autofree uint32_t *share = NULL;
    const char *why;

    why = ns_working_failed(s->working);
    if (why) {
        not_measured(s, why);
    }
    if (!m || !s->topology || s->topology->n != s->history.n) {
        return;
    }
    share = g_new(uint32_t, s->topology->n);
    if (!ns_working_result(s->working, s->topology, share, &m->window)) {
        return;
    }
    for (uint32_t j = 0; m->share && j < s->topology->n; j++) {
        share[j] = (share[j] + m->share[j] + 1) / 2;
    }
    g_free(m->share);
    m->share = g_steal_pointer(&share);
    m->share_at = get_clock();
}

bool ns_sampler_pause_working(NsSampler *s)
{
    bool paused;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        paused = s->paused || s->stop;
    }
    if (paused) {
        ns_sampler_stop_working(s);
    }
    return paused;
}

void ns_sampler_step_working(NsSampler *s)
{
    uint64_t began = ns_thread_us();

    if (!s->working || ns_sampler_pause_working(s)) {
        return;
    }
    s->working_due = ns_working_step(s->working, get_clock());
    if (s->working_due == INT64_MAX) {
        finish(s);
        ns_sampler_stop_working(s);
    }
    s->microseconds += ns_thread_us() - began;
}
