/*
 * NUMA scheduler: the memory that moves, and who wants something of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-numa-sched.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "sampler-int.h"

#define MAX_NOTES   8

/* Takes @note; each is said once. */
void ns_sampler_note(NsSampler *s, char *note)
{
    QEMU_LOCK_GUARD(&s->lock);
    for (guint i = 0; i < s->notes->len; i++) {
        if (!strcmp(g_ptr_array_index(s->notes, i), note)) {
            g_free(note);
            return;
        }
    }
    if (s->notes->len == MAX_NOTES) {
        g_ptr_array_remove_index(s->notes, 0);
    }
    g_ptr_array_add(s->notes, note);
    warn_report("%s", note);
}

/* Takes @p.  A state that it had on the way is told, a mere figure is not. */
static void tell_progress(NsSampler *s, NumaMigrateProgress *p)
{
    NumaMigrateProgress *last;

    QEMU_LOCK_GUARD(&s->lock);
    if (s->info) {
        qapi_free_NumaMigrateProgress(s->info->moving);
        s->info->moving = QAPI_CLONE(NumaMigrateProgress, p);
    }
    last = g_queue_peek_tail(&s->progress);
    if (last && last->state == p->state && !strcmp(last->group, p->group)) {
        qapi_free_NumaMigrateProgress(g_queue_pop_tail(&s->progress));
    }
    g_queue_push_tail(&s->progress, p);
    qemu_bh_schedule(s->bh);
}

void ns_request_free(NsRequest *r)
{
    if (r) {
        g_free(r->group);
        g_free(r);
    }
}

static NsMoving *begin(NsSampler *s, const NsLook *k, const NsRequest *r,
                       Error **errp)
{
    uint32_t g = 0, target = 0;

    while (g < k->guest->n && strcmp(k->guest->name[g], r->group)) {
        g++;
    }
    while (target < k->t->n && k->t->node[target].id != r->target) {
        target++;
    }
    if (g == k->guest->n || target == k->t->n) {
        error_setg(errp, "numa-sched '%s': there is no group '%s', or no node "
                   "%u, any more", s->id, r->group, r->target);
        return NULL;
    }
    return ns_moving_new(k, g, target, s->bandwidth, s->estimator, errp);
}

/* The next one that was asked for, if nothing moves */
static void take_request(NsSampler *s, const NsLook *k)
{
    g_autoptr(NsRequest) r = NULL;
    NsMoving *m;
    Error *err = NULL;

    if (s->moving && !ns_moving_is_over(s->moving)) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->paused) {
            return;
        }
        r = g_queue_pop_head(&s->requests);
        s->cancel = s->cancel && !r;
    }
    if (!r) {
        return;
    }
    ns_sampler_stop_working(s);
    m = begin(s, k, r, &err);
    if (m) {
        ns_moving_free(s->moving);
        s->moving = m;
        s->due = 0;
        tell_progress(s, ns_moving_progress(m));
    } else {
        NumaMigrateProgress *p = g_new0(NumaMigrateProgress, 1);

        p->group = g_strdup(r->group);
        p->target = r->target;
        p->state = NUMA_MIGRATE_STATE_FAILED;
        p->estimator = g_strdup("none");
        p->reason = g_strdup(error_get_pretty(err));
        tell_progress(s, p);
        ns_sampler_note(s, g_strdup(error_get_pretty(err)));
        error_free(err);
    }
}

/* A move may be over before the next look. */
static void take_notes(NsSampler *s)
{
    char *note;

    while ((note = ns_moving_take_note(s->moving))) {
        ns_sampler_note(s, note);
    }
}

void ns_sampler_look_at_moving(NsSampler *s, const NsLook *k)
{
    if (s->moving && !ns_moving_is_over(s->moving)) {
        ns_moving_look(s->moving, k);
        take_notes(s);
        s->due = 0;
        tell_progress(s, ns_moving_progress(s->moving));
    }
    take_request(s, k);
}

void ns_sampler_step_moving(NsSampler *s)
{
    NumaMigrateProgress *p;
    bool cancel, paused;

    if (!s->moving || ns_moving_is_over(s->moving)) {
        s->due = INT64_MAX;
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        cancel = s->cancel;
        paused = s->paused;
        s->cancel = false;
    }
    if (cancel) {
        ns_moving_cancel(s->moving);
    }
    ns_moving_pause(s->moving, paused);
    s->due = ns_moving_step(s->moving);
    take_notes(s);
    p = ns_moving_progress(s->moving);
    if (cancel || paused || ns_moving_is_over(s->moving)) {
        tell_progress(s, p);
    } else {
        qapi_free_NumaMigrateProgress(p);
    }
}

void ns_sampler_move(NsSampler *s, const char *group, uint32_t target)
{
    NsRequest *r = g_new(NsRequest, 1);
    GList *next;

    *r = (NsRequest) { .group = g_strdup(group), .target = target };
    QEMU_LOCK_GUARD(&s->lock);
    /* What was asked for before, and has not begun, is no longer wanted. */
    for (GList *l = s->requests.head; l; l = next) {
        NsRequest *old = l->data;

        next = l->next;
        if (!strcmp(old->group, group)) {
            ns_request_free(old);
            g_queue_delete_link(&s->requests, l);
        }
    }
    g_queue_push_tail(&s->requests, r);
}

void ns_sampler_cancel(NsSampler *s)
{
    NsRequest *r;

    QEMU_LOCK_GUARD(&s->lock);
    while ((r = g_queue_pop_head(&s->requests))) {
        ns_request_free(r);
    }
    s->cancel = s->kick = true;
    qemu_cond_signal(&s->cond);
}

bool ns_sampler_is_moving(NsSampler *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return !g_queue_is_empty(&s->requests) ||
           (s->info && s->info->moving &&
            s->info->moving->state <= NUMA_MIGRATE_STATE_UNDOING);
}

void ns_sampler_pause(NsSampler *s, bool paused)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->paused = paused;
    s->kick = true;
    qemu_cond_signal(&s->cond);
    while (paused && s->watches) {
        qemu_cond_wait(&s->unwatched, &s->lock);
    }
}
