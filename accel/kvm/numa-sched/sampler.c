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
#include "look.h"
#include "report.h"
#include "sampler.h"

#define MAX_LATENCY_FILE    (1024 * 1024)
#define STEADY      2       /* looks in which a step has to be the best */
#define FORGET      10      /* looks without it, after which it is a new one */
#define SHARE_OF_CPU 100    /* a look of 1 ms is followed by 99 without */

struct NsSampler {
    /* Set before the thread starts */
    char *id, *root, *latency;  /* latency: the file's content */
    size_t latency_len;
    char *latency_name;
    NumaSchedMode mode;
    uint32_t hysteresis, horizon;
    uint64_t bandwidth;
    uint32_t largest;           /* atomic */

    QemuThread thread;
    QEMUBH *bh;                 /* emits events */

    /* Under the lock */
    QemuMutex lock;
    QemuCond cond;
    bool stop;
    NsGuest *guest;             /* to look at */
    NumaSchedInfo *info;
    NumaSchedDecision *advice;  /* to be emitted */
    int64_t not_before;         /* ns: the next look */

    /* The thread's own */
    NsHistory history;
    uint64_t periods, decisions;
    char *best;                 /* the step of the look before, or NULL */
    uint32_t steady;            /* looks in which it was that */
    char *decided;              /* the last decision, or NULL */
    uint32_t without;           /* looks since in which it was not the best */
};

/*
 * Is the step that has this name (NULL: none) worth talking of?  One that comes
 * and goes with the noise is not, and one that comes back is no other one.
 */
static bool is_decision(NsSampler *s, const char *name)
{
    bool is_same = name && !g_strcmp0(name, s->best);

    s->steady = is_same ? MIN(s->steady + 1, STEADY) : !!name;
    if (!is_same) {
        g_free(s->best);
        s->best = g_strdup(name);
    }
    if (!name || g_strcmp0(name, s->decided)) {
        s->without++;
    } else {
        s->without = 0;
    }
    if (s->decided && s->without >= FORGET) {
        g_clear_pointer(&s->decided, g_free);
    }
    if (!name || s->steady < STEADY) {
        return false;
    }
    if (g_strcmp0(name, s->decided)) {
        g_free(s->decided);
        s->decided = g_strdup(name);
        s->without = 0;
        s->decisions++;
    }
    return true;
}

static void plan(NsSampler *s, NsLook *k, NumaSchedInfo *info)
{
    NsHost host = {
        .n = k->t->n, .node = k->place, .ratio = k->l->ratio,
        .bandwidth = s->bandwidth, .horizon = s->horizon,
    };
    NumaSchedGroupList **groups = &info->groups;
    NsStep step;
    g_autoptr(NsPlan) p = ns_step(&host, k->group, k->guest->n, k->phase,
                                  s->hysteresis * 10, &step);
    g_autofree char *name = ns_report_name(k, &step);

    for (uint32_t g = 0; g < k->guest->n; g++) {
        QAPI_LIST_APPEND(groups, ns_report_group(k, g));
    }
    info->plan = ns_answer(k->t, k->l, &host, k->group, k->guest->name, p,
                           true);
    if (is_decision(s, name)) {
        info->decision = ns_report_decision(k, &host, &step);
    }
}

static bool look_at_host(const NsSampler *s, NsLook *k, Error **errp)
{
    k->t = ns_topology_read(s->root, errp);
    if (k->t) {
        k->l = ns_latency_read(k->t, s->root, s->latency_name, s->latency,
                               s->latency_len, errp);
    }
    return k->l;
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

static NumaSchedInfo *look(NsSampler *s, const NsGuest *guest)
{
    NumaSchedInfo *info = g_new0(NumaSchedInfo, 1);
    g_auto(NsLook) k = { .history = &s->history, .guest = guest };
    uint64_t began = thread_us();
    Error *err = NULL;

    info->id = g_strdup(s->id);
    info->mode = s->mode;
    info->estimator = g_strdup("none");
    if (look_at_host(s, &k, &err)) {
        qatomic_set(&s->largest, largest_node(k.t));
        ns_look(&k, s->root);
        plan(s, &k, info);
    } else {
        info->error = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    info->periods = ++s->periods;
    info->decisions = s->decisions;
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

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        advice = g_steal_pointer(&s->advice);
    }
    if (advice) {
        qapi_event_send_numa_sched_decision(s->id, advice);
    }
}

static void *sampler_thread(void *opaque)
{
    NsSampler *s = opaque;
    uint64_t decisions = 0;

    qemu_mutex_lock(&s->lock);
    while (!s->stop) {
        g_autoptr(NsGuest) guest = NULL;
        NumaSchedInfo *info;

        if (!s->guest) {
            qemu_cond_wait(&s->cond, &s->lock);
            continue;
        }
        guest = s->guest;
        qemu_mutex_unlock(&s->lock);
        info = look(s, guest);
        qemu_mutex_lock(&s->lock);
        s->guest = NULL;
        s->not_before = get_clock() +
                        (int64_t)info->microseconds * SCALE_US * SHARE_OF_CPU;
        qapi_free_NumaSchedInfo(s->info);
        s->info = info;
        if (s->mode == NUMA_SCHED_MODE_ADVISE && info->decision &&
            s->decisions != decisions) {
            qapi_free_NumaSchedDecision(s->advice);
            s->advice = QAPI_CLONE(NumaSchedDecision, info->decision);
            qemu_bh_schedule(s->bh);
        }
        decisions = s->decisions;
    }
    qemu_mutex_unlock(&s->lock);
    return NULL;
}

static bool read_latency(NsSampler *s, const char *name, Error **errp)
{
    /* A FIFO would wait for its other end, and all of QEMU with it. */
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    ssize_t n = -1;

    s->latency_name = g_strdup(name);
    s->latency = g_malloc(MAX_LATENCY_FILE + 1);
    if (fd < 0 || fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "numa-sched '%s' property 'latency': "
                         "'%s' can not be read", s->id, name);
    } else if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "numa-sched '%s' property 'latency': '%s' is not a "
                   "file", s->id, name);
    } else {
        size_t got = 0;

        do {
            n = RETRY_ON_EINTR(read(fd, s->latency + got,
                                    MAX_LATENCY_FILE + 1 - got));
            got += MAX(n, 0);
        } while (n > 0);
        s->latency_len = got;
        if (n < 0) {
            error_setg_errno(errp, errno, "numa-sched '%s' property 'latency':"
                             " '%s' can not be read", s->id, name);
        } else if (got > MAX_LATENCY_FILE) {
            error_setg(errp, "numa-sched '%s' property 'latency': '%s' has more"
                       " than %u bytes", s->id, name, MAX_LATENCY_FILE);
            n = -1;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return n == 0;
}

static void sampler_clear(NsSampler *s)
{
    g_free(s->id);
    g_free(s->root);
    g_free(s->latency);
    g_free(s->latency_name);
    ns_guest_free(s->guest);
    qapi_free_NumaSchedInfo(s->info);
    qapi_free_NumaSchedDecision(s->advice);
    ns_history_clear(&s->history);
    g_free(s->best);
    g_free(s->decided);
    g_free(s);
}

NsSampler *ns_sampler_new(const NsConfig *c, Error **errp)
{
    NsSampler *s = g_new0(NsSampler, 1);
    g_auto(NsLook) k = { };

    s->id = g_strdup(c->id);
    s->root = g_strdup(c->root);
    s->mode = c->mode;
    s->hysteresis = c->hysteresis;
    s->horizon = c->horizon;
    s->bandwidth = c->bandwidth;
    if ((c->latency && !read_latency(s, c->latency, errp)) ||
        !look_at_host(s, &k, errp)) {
        sampler_clear(s);
        return NULL;
    }
    s->largest = largest_node(k.t);
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

NumaSchedInfo *ns_sampler_info(NsSampler *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    return s->info ? QAPI_CLONE(NumaSchedInfo, s->info) : NULL;
}
