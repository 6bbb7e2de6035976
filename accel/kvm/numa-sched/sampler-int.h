/*
 * NUMA scheduler: what the files of the sampler share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_SAMPLER_INT_H
#define NUMA_SCHED_SAMPLER_INT_H

#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "look.h"
#include "measure.h"
#include "moving.h"
#include "promises.h"
#include "sampler.h"
#include "steady.h"
#include "working.h"
#include "working-vcpu.h"

/* Memory that is to move */
typedef struct NsRequest {
    char *group;
    uint32_t target;            /* id */
} NsRequest;

typedef struct NsVcpuWatch NsVcpuWatch;

struct NsSampler {
    /* Set before the thread starts */
    char *id, *root, *latency;  /* latency: the file's content */
    size_t latency_len;
    char *latency_name, *runtime_dir;
    uint32_t hysteresis, horizon;
    uint64_t bandwidth;
    NumaSchedEstimator estimator;
    bool working_sets;          /* are measured */
    void (*act)(void *opaque, NumaSchedDecision *decision);
    void *opaque;               /* of act */
    uint32_t largest;           /* atomic */
    bool measures;              /* there is, or was, a thread that does */

    QemuThread thread, measure;
    QEMUBH *bh;                 /* acts on decisions, and emits events */

    /* Under the lock */
    QemuMutex lock;
    QemuCond cond, measure_cond;
    bool stop;
    NsGuest *guest;             /* to look at */
    NumaSchedInfo *info;
    NumaSchedMode mode;
    NumaSchedDecision *advice;  /* to be emitted */
    GQueue progress;            /* NumaMigrateProgress, likewise */
    GQueue requests;            /* NsRequest */
    bool cancel, paused;
    bool watches;               /* an estimator is armed for a working set */
    QemuCond unwatched;         /* it is no more */
    bool kick;                  /* one of these was set: do not wait */
    bool applied;               /* the last decision was carried out */
    GPtrArray *notes;           /* char *, the oldest first */
    int64_t not_before;         /* ns: the next look */
    NsMeasured *measured;       /* NULL: it was not, or not yet */

    /* The thread's own */
    NsHistory history;
    uint64_t periods;
    NsTopology *topology;       /* of the last look; NULL: not known */
    NsSteady steady;
    NsPromises promises;
    NsMoving *moving;           /* over or not; NULL: nothing ever moved */
    int64_t due;                /* ns: when that has something to do */
    NsWorking *working;         /* being measured; NULL: none is */
    char *working_group;
    int64_t working_due;        /* ns, likewise */
    NsVcpuWatch *vcpus;         /* NULL: what they write was never measured */
    uint64_t microseconds;      /* CPU time that it took since the last look */
};

void ns_request_free(NsRequest *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsRequest, ns_request_free)

/* Takes @note; each is said once.  Any thread */
void ns_sampler_note(NsSampler *s, char *note);

/* Begin to measure latencies, which is done once.  Before any other thread */
void ns_sampler_measure(NsSampler *s);

/* After the sampler's thread; what is under way is given up. */
void ns_sampler_measure_end(NsSampler *s);

/* See ns_measured_now() */
uint32_t *ns_sampler_measured(NsSampler *s, const NsTopology *t);

/* With each look at the guest.  The sampler's thread */
void ns_sampler_look_at_moving(NsSampler *s, const NsLook *k);

/*
 * When something is due, or somebody wants something of what moves.  The
 * sampler's thread
 */
void ns_sampler_step_moving(NsSampler *s);

/*
 * With each look at the guest: is it time to measure a working set?  The
 * sampler's thread, as the next three.
 */
void ns_sampler_look_at_working(NsSampler *s, const NsLook *k);

/* Is it to be paused?  Then it is over, and that is returned. */
bool ns_sampler_pause_working(NsSampler *s);

/* When it is due, or to be paused */
void ns_sampler_step_working(NsSampler *s);

/* What is not finished is lost.  Nothing may be watched twice. */
void ns_sampler_stop_working(NsSampler *s);

/*
 * What vCPUs write, where the estimator is dirty-ring, in place of the three
 * above: with each look, and when it is due.  The sampler's thread, as all of
 * these
 */
void ns_sampler_look_at_vcpus(NsSampler *s, const NsLook *k);
void ns_sampler_step_vcpus(NsSampler *s);

/* ns; INT64_MAX: nothing is due */
int64_t ns_sampler_vcpus_due(const NsSampler *s);

/* NULL: nothing is known */
const NsVcpuSets *ns_sampler_vcpu_sets(const NsSampler *s);

/* All is forgotten. */
void ns_sampler_stop_vcpus(NsSampler *s);

/* CPU time of the calling thread */
uint64_t ns_thread_us(void);

#endif
