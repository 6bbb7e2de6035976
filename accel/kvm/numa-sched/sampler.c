/*
 * NUMA scheduler: the thread that looks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-events-numa-sched.h"
#include "qapi/qapi-visit-numa-sched.h"
#include "qapi/util.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "answer.h"
#include "latency-read.h"
#include "report.h"
#include "sampler-int.h"

#define SHARE_OF_CPU 100    /* a look of 1 ms is followed by 99 without */

static void note_error(NsSampler *s, Error *err)
{
    if (err) {
        ns_sampler_note(s, g_strdup(error_get_pretty(err)));
        error_free(err);
    }
}

/* Is there a decision?  One that others may not know of is none. */
static bool decide(NsSampler *s, const NsLook *k, const NsStep *step,
                   const char *name)
{
    uint64_t before = s->steady.decisions, bytes;
    bool decided = ns_steady_look(&s->steady, name);
    bool is_new = decided && s->steady.decisions != before;
    uint32_t target = 0;
    Error *err = NULL;

    bytes = ns_moving_coming(s->moving, &target);
    if (!ns_promises_end(&s->promises, k, is_new ? step : NULL, target, bytes,
                         &err)) {
        note_error(s, err);
        if (is_new) {
            ns_steady_forget(&s->steady);
            return false;
        }
    }
    return decided;
}

static void plan(NsSampler *s, NsLook *k, NumaSchedInfo *info)
{
    NsHost host = {
        .n = k->t->n, .node = k->place, .ratio = k->l->ratio,
        .bandwidth = s->bandwidth, .horizon = s->horizon,
    };
    NumaSchedGroupList **groups = &info->groups;
    bool moves = s->moving && !ns_moving_is_over(s->moving), may_decide;
    g_autoptr(NsPlan) p = NULL;
    g_autofree char *name = NULL;
    NsStep step;
    Error *err = NULL;

    may_decide = ns_promises_begin(&s->promises, k, &err);
    note_error(s, err);
    for (uint32_t g = 0; g < k->guest->n; g++) {
        k->phase[g].following = moves && !strcmp(k->guest->name[g],
                                                 ns_moving_group(s->moving));
        QAPI_LIST_APPEND(groups, ns_report_group(k, g));
    }
    p = ns_step(&host, k->group, k->guest->n, k->phase, s->hysteresis * 10,
                &step);
    name = ns_report_name(k, &step);
    info->plan = ns_answer(k->t, k->l, &host, k->group, k->guest->name, p,
                           true);
    if (may_decide && decide(s, k, &step, name)) {
        info->decision = ns_report_decision(k, &host, &step);
    }
}

/* What was read of the host's nodes is for the next look, too: keep_host() */
static bool look_at_host(NsSampler *s, NsLook *k, Error **errp)
{
    g_autofree uint32_t *measured = NULL;

    k->t = ns_topology_refresh(g_steal_pointer(&s->topology), s->root, errp);
    if (k->t) {
        measured = ns_sampler_measured(s, k->t);
        k->l = ns_latency_read(k->t, s->root, s->latency_name, s->latency,
                               s->latency_len, measured, errp);
    }
    return k->l;
}

static void keep_host(NsSampler *s, NsLook *k)
{
    s->topology = g_steal_pointer(&k->t);
}

static uint32_t largest_node(const NsTopology *t)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        most = MAX(most, t->node[i].cpus);
    }
    return most;
}

uint64_t ns_thread_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

static strList *notes_of(NsSampler *s)
{
    strList *list = NULL, **tail = &list;

    for (guint i = 0; i < s->notes->len; i++) {
        QAPI_LIST_APPEND(tail, g_strdup(g_ptr_array_index(s->notes, i)));
    }
    return list;
}

/* What is armed now */
static const char *estimator_of(const NsSampler *s)
{
    return s->moving && !ns_moving_is_over(s->moving) ?
           ns_moving_estimator(s->moving) :
           s->working ? ns_working_estimator(s->working) : "none";
}

static NumaSchedInfo *look(NsSampler *s, const NsGuest *guest)
{
    NumaSchedInfo *info = g_new0(NumaSchedInfo, 1);
    g_auto(NsLook) k = {
        .history = &s->history, .guest = guest,
        .sets = ns_sampler_vcpu_sets(s),
    };
    uint64_t began = ns_thread_us();
    Error *err = NULL;

    info->id = g_strdup(s->id);
    if (look_at_host(s, &k, &err)) {
        qatomic_set(&s->largest, largest_node(k.t));
        ns_look(&k, s->root);
        if (k.note) {
            ns_sampler_note(s, g_steal_pointer(&k.note));
        }
        ns_sampler_look_at_moving(s, &k);
        if (s->estimator == NUMA_SCHED_ESTIMATOR_DIRTY_RING) {
            ns_sampler_look_at_vcpus(s, &k);
        } else {
            ns_sampler_look_at_working(s, &k);
        }
        /* Whoever pauses us need not wait for a plan, too. */
        ns_sampler_pause_working(s);
        plan(s, &k, info);
    } else {
        info->error = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    keep_host(s, &k);
    info->estimator = g_strdup(estimator_of(s));
    info->periods = ++s->periods;
    info->decisions = s->steady.decisions;
    info->microseconds = ns_thread_us() - began + s->microseconds;
    s->microseconds = 0;
    return info;
}

/*
 * The thread
 */

/* Main loop: the monitor is not for threads that may have to end soon. */
static void emit(void *opaque)
{
    NsSampler *s = opaque;
    g_autoptr(NumaSchedDecision) advice = NULL;
    NumaMigrateProgress *p;
    GQueue progress;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        advice = g_steal_pointer(&s->advice);
        progress = s->progress;
        g_queue_init(&s->progress);
    }
    if (advice) {
        s->act(s->opaque, advice);
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            s->applied = advice->applied;
            if (s->info && s->info->decision) {
                s->info->decision->applied = s->applied;
            }
        }
        qapi_event_send_numa_sched_decision(s->id, advice);
    }
    while ((p = g_queue_pop_head(&progress))) {
        qapi_event_send_numa_migrate_progress(s->id, p);
        qapi_free_NumaMigrateProgress(p);
    }
}

/* Under the lock */
static void publish(NsSampler *s, NumaSchedInfo *info, bool is_new)
{
    s->not_before = get_clock() +
                    (int64_t)info->microseconds * SCALE_US * SHARE_OF_CPU;
    if (info->decision && !is_new) {
        info->decision->applied = s->applied;
    }
    info->mode = s->mode;
    info->notes = notes_of(s);
    info->moving = s->moving ? ns_moving_progress(s->moving) :
                   s->info ? g_steal_pointer(&s->info->moving) : NULL;
    qapi_free_NumaSchedInfo(s->info);
    s->info = info;
    if (s->mode != NUMA_SCHED_MODE_OBSERVE && info->decision && is_new) {
        qapi_free_NumaSchedDecision(s->advice);
        s->advice = QAPI_CLONE(NumaSchedDecision, info->decision);
        qemu_bh_schedule(s->bh);
    }
}

/* Under the lock: until there is something to do */
static void wait_for_work(NsSampler *s)
{
    int64_t now = get_clock(), due = MIN(s->due, s->working_due);

    due = MIN(due, ns_sampler_vcpus_due(s));
    if (s->kick) {
        s->kick = false;
    } else if (due == INT64_MAX) {
        qemu_cond_wait(&s->cond, &s->lock);
    } else if (due > now) {
        qemu_cond_timedwait(&s->cond, &s->lock,
                            MIN(due - now, NANOSECONDS_PER_SECOND) /
                            SCALE_MS + 1);
    }
}

static void *sampler_thread(void *opaque)
{
    NsSampler *s = opaque;
    uint64_t decisions = 0;
    Error *err = NULL;

    /* Who does nothing has nothing to promise. */
    if (s->mode == NUMA_SCHED_MODE_AUTO &&
        !ns_promises_open(&s->promises, s->runtime_dir, &err)) {
        note_error(s, err);
    }
    qemu_mutex_lock(&s->lock);
    while (!s->stop) {
        g_autoptr(NsGuest) guest = s->guest;

        if (!guest) {
            wait_for_work(s);
            qemu_mutex_unlock(&s->lock);
            ns_sampler_step_moving(s);
            ns_sampler_step_working(s);
            ns_sampler_step_vcpus(s);
            qemu_mutex_lock(&s->lock);
        } else {
            NumaSchedInfo *info;

            qemu_mutex_unlock(&s->lock);
            info = look(s, guest);
            ns_sampler_step_moving(s);
            ns_sampler_step_working(s);
            ns_sampler_step_vcpus(s);
            qemu_mutex_lock(&s->lock);
            s->guest = NULL;
            publish(s, info, info->decisions != decisions);
            decisions = s->steady.decisions;
        }
    }
    qemu_mutex_unlock(&s->lock);
    ns_sampler_stop_working(s);
    ns_sampler_stop_vcpus(s);
    ns_promises_close(&s->promises);
    return NULL;
}

static void sampler_clear(NsSampler *s)
{
    NumaMigrateProgress *p;
    NsRequest *r;

    g_free(s->id);
    g_free(s->root);
    g_free(s->latency);
    g_free(s->latency_name);
    g_free(s->runtime_dir);
    ns_guest_free(s->guest);
    qapi_free_NumaSchedInfo(s->info);
    qapi_free_NumaSchedDecision(s->advice);
    while ((p = g_queue_pop_head(&s->progress))) {
        qapi_free_NumaMigrateProgress(p);
    }
    while ((r = g_queue_pop_head(&s->requests))) {
        ns_request_free(r);
    }
    if (s->notes) {
        g_ptr_array_unref(s->notes);
    }
    ns_moving_free(s->moving);
    ns_measured_free(s->measured);
    ns_topology_free(s->topology);
    ns_history_clear(&s->history);
    ns_steady_clear(&s->steady);
    g_free(s);
}

NsSampler *ns_sampler_new(const NsConfig *c, void *opaque, Error **errp)
{
    NsSampler *s = g_new0(NsSampler, 1);
    g_auto(NsLook) k = { };

    s->id = g_strdup(c->id);
    s->root = g_strdup(c->root);
    s->runtime_dir = g_strdup(c->runtime_dir);
    s->mode = c->mode;
    s->estimator = c->estimator;
    s->working_sets = c->working_sets;
    s->working_due = INT64_MAX;
    s->act = c->decided;
    s->opaque = opaque;
    s->due = INT64_MAX;
    s->hysteresis = c->hysteresis;
    s->horizon = c->horizon;
    s->bandwidth = c->bandwidth;
    s->latency_name = g_strdup(c->latency);
    if (c->latency) {
        s->latency = ns_latency_file(s->id, c->latency, &s->latency_len, errp);
    }
    if ((c->latency && !s->latency) || !look_at_host(s, &k, errp)) {
        sampler_clear(s);
        return NULL;
    }
    s->largest = largest_node(k.t);
    keep_host(s, &k);
    g_queue_init(&s->progress);
    g_queue_init(&s->requests);
    s->notes = g_ptr_array_new_with_free_func(g_free);
    ns_history_init(&s->history);
    s->history.intensity = c->intensity;
    s->history.misses = c->intensity < 0 ? ns_misses_new_linux() : NULL;
    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->cond);
    qemu_cond_init(&s->unwatched);
    s->bh = qemu_bh_new(emit, s);
    if (c->measure && k.l->source > NS_MEASURED) {
        ns_sampler_measure(s);
    }
    qemu_thread_create(&s->thread, "numa-sched", sampler_thread, s,
                       QEMU_THREAD_JOINABLE);
    return s;
}

void ns_sampler_free(NsSampler *s)
{
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->stop = true;
        qemu_cond_signal(&s->cond);
    }
    qemu_thread_join(&s->thread);
    ns_sampler_measure_end(s);
    qemu_bh_delete(s->bh);
    qemu_cond_destroy(&s->cond);
    qemu_cond_destroy(&s->unwatched);
    qemu_mutex_destroy(&s->lock);
    sampler_clear(s);
}

uint32_t ns_sampler_largest(const NsSampler *s)
{
    return qatomic_read(&s->largest);
}

bool ns_sampler_is_idle(NsSampler *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return !s->guest && get_clock() >= s->not_before;
}

void ns_sampler_look(NsSampler *s, NsGuest *guest)
{
    QEMU_LOCK_GUARD(&s->lock);
    if (s->guest) {
        ns_guest_free(guest);
    } else {
        s->guest = guest;
        qemu_cond_signal(&s->cond);
    }
}

void ns_sampler_degrade(NsSampler *s, Error *err)
{
    NumaSchedMode mode;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        if (s->mode == NUMA_SCHED_MODE_AUTO) {
            s->mode = NUMA_SCHED_MODE_ADVISE;
        }
        mode = s->mode;
    }
    ns_sampler_note(s, g_strdup_printf("%s; mode is '%s' now",
                                       error_get_pretty(err),
                                       NumaSchedMode_str(mode)));
    error_free(err);
}

NumaSchedInfo *ns_sampler_info(NsSampler *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->info ? QAPI_CLONE(NumaSchedInfo, s->info) : NULL;
}
