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
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "answer.h"
#include "latency-read.h"
#include "look.h"
#include "moving.h"
#include "promises.h"
#include "report.h"
#include "sampler.h"
#include "steady.h"

#define SHARE_OF_CPU 100    /* a look of 1 ms is followed by 99 without */
#define MAX_NOTES   8

/* Memory that is to move */
typedef struct NsRequest {
    char *group;
    uint32_t target;            /* id */
} NsRequest;

struct NsSampler {
    /* Set before the thread starts */
    char *id, *root, *latency;  /* latency: the file's content */
    size_t latency_len;
    char *latency_name, *runtime_dir;
    uint32_t hysteresis, horizon;
    uint64_t bandwidth;
    NumaSchedEstimator estimator;
    void (*act)(void *opaque, NumaSchedDecision *decision);
    void *opaque;               /* of act */
    uint32_t largest;           /* atomic */

    QemuThread thread;
    QEMUBH *bh;                 /* acts on decisions, and emits events */

    /* Under the lock */
    QemuMutex lock;
    QemuCond cond;
    bool stop;
    NsGuest *guest;             /* to look at */
    NumaSchedInfo *info;
    NumaSchedMode mode;
    NumaSchedDecision *advice;  /* to be emitted */
    GQueue progress;            /* NumaMigrateProgress, likewise */
    GQueue requests;            /* NsRequest */
    bool cancel, paused;
    GPtrArray *notes;           /* char *, the oldest first */
    int64_t not_before;         /* ns: the next look */

    /* The thread's own */
    NsHistory history;
    uint64_t periods;
    NsTopology *topology;       /* of the last look; NULL: not known */
    NsSteady steady;
    NsPromises promises;
    NsMoving *moving;           /* over or not; NULL: nothing ever moved */
    int64_t due;                /* ns: when that has something to do */
};

/* Takes @note; each is said once. */
static void add_note(NsSampler *s, char *note)
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

static void note_error(NsSampler *s, Error *err)
{
    if (err) {
        add_note(s, g_strdup(error_get_pretty(err)));
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
    k->t = ns_topology_refresh(g_steal_pointer(&s->topology), s->root, errp);
    if (k->t) {
        k->l = ns_latency_read(k->t, s->root, s->latency_name, s->latency,
                               s->latency_len, errp);
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

static uint64_t thread_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

/*
 * Memory that moves
 */

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

static void request_free(NsRequest *r)
{
    if (r) {
        g_free(r->group);
        g_free(r);
    }
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsRequest, request_free)

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
        r = g_queue_pop_head(&s->requests);
        s->cancel = s->cancel && !r;
    }
    if (!r) {
        return;
    }
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
        add_note(s, g_strdup(error_get_pretty(err)));
        error_free(err);
    }
}

/* With each look at the guest */
static void look_at_moving(NsSampler *s, const NsLook *k)
{
    char *note;

    if (s->moving && !ns_moving_is_over(s->moving)) {
        ns_moving_look(s->moving, k);
        while ((note = ns_moving_take_note(s->moving))) {
            add_note(s, note);
        }
        s->due = 0;
        tell_progress(s, ns_moving_progress(s->moving));
    }
    take_request(s, k);
}

/* When it is due, or somebody wants something of it */
static void step_moving(NsSampler *s)
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
    p = ns_moving_progress(s->moving);
    if (cancel || paused || ns_moving_is_over(s->moving)) {
        tell_progress(s, p);
    } else {
        qapi_free_NumaMigrateProgress(p);
    }
}

static strList *notes_of(NsSampler *s)
{
    strList *list = NULL, **tail = &list;

    for (guint i = 0; i < s->notes->len; i++) {
        QAPI_LIST_APPEND(tail, g_strdup(g_ptr_array_index(s->notes, i)));
    }
    return list;
}

static NumaSchedInfo *look(NsSampler *s, const NsGuest *guest)
{
    NumaSchedInfo *info = g_new0(NumaSchedInfo, 1);
    g_auto(NsLook) k = { .history = &s->history, .guest = guest };
    uint64_t began = thread_us();
    Error *err = NULL;

    info->id = g_strdup(s->id);
    info->estimator = g_strdup("none");
    if (look_at_host(s, &k, &err)) {
        qatomic_set(&s->largest, largest_node(k.t));
        ns_look(&k, s->root);
        look_at_moving(s, &k);
        plan(s, &k, info);
    } else {
        info->error = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    keep_host(s, &k);
    info->periods = ++s->periods;
    info->decisions = s->steady.decisions;
    info->microseconds = thread_us() - began;
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
    int64_t now = get_clock();

    if (s->due == INT64_MAX) {
        qemu_cond_wait(&s->cond, &s->lock);
    } else if (s->due > now) {
        qemu_cond_timedwait(&s->cond, &s->lock,
                            MIN(s->due - now, NANOSECONDS_PER_SECOND) /
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
            step_moving(s);
            qemu_mutex_lock(&s->lock);
        } else {
            NumaSchedInfo *info;

            qemu_mutex_unlock(&s->lock);
            info = look(s, guest);
            step_moving(s);
            qemu_mutex_lock(&s->lock);
            s->guest = NULL;
            publish(s, info, info->decisions != decisions);
            decisions = s->steady.decisions;
        }
    }
    qemu_mutex_unlock(&s->lock);
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
        request_free(r);
    }
    if (s->notes) {
        g_ptr_array_unref(s->notes);
    }
    ns_moving_free(s->moving);
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
    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->cond);
    s->bh = qemu_bh_new(emit, s);
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
    qemu_bh_delete(s->bh);
    qemu_cond_destroy(&s->cond);
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

void ns_sampler_move(NsSampler *s, const char *group, uint32_t target)
{
    NsRequest *r = g_new(NsRequest, 1);

    *r = (NsRequest) { .group = g_strdup(group), .target = target };
    QEMU_LOCK_GUARD(&s->lock);
    g_queue_push_tail(&s->requests, r);
}

void ns_sampler_cancel(NsSampler *s)
{
    NsRequest *r;

    QEMU_LOCK_GUARD(&s->lock);
    while ((r = g_queue_pop_head(&s->requests))) {
        request_free(r);
    }
    s->cancel = true;
    qemu_cond_signal(&s->cond);
}

void ns_sampler_pause(NsSampler *s, bool paused)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->paused = paused;
    qemu_cond_signal(&s->cond);
}

void ns_sampler_degrade(NsSampler *s, Error *err)
{
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->mode = NUMA_SCHED_MODE_ADVISE;
    }
    add_note(s, g_strdup_printf("%s; mode is 'advise' now",
                                error_get_pretty(err)));
    error_free(err);
}

NumaSchedInfo *ns_sampler_info(NsSampler *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->info ? QAPI_CLONE(NumaSchedInfo, s->info) : NULL;
}
