/*
 * NUMA scheduler: the thread that looks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reading a host, and planning for it, may take milliseconds: a thread of its
 * own does it, which never takes the BQL.  Nothing but ns_sampler_look() makes
 * it work.
 */

#ifndef NUMA_SCHED_SAMPLER_H
#define NUMA_SCHED_SAMPLER_H

#include "qapi/qapi-types-numa-sched.h"
#include "guest.h"

typedef struct NsSampler NsSampler;

typedef struct NsConfig {
    const char *id;             /* of the object */
    NumaSchedMode mode;
    uint32_t hysteresis;        /* percent */
    uint32_t horizon;           /* s */
    uint64_t bandwidth;         /* bytes/s */
    NumaSchedEstimator estimator;
    bool working_sets;          /* are measured */
    int intensity;              /* 0 to 1000; -1: measure it if possible */
    const char *latency;        /* file, or NULL */
    bool measure;               /* latencies, where there is nothing better */
    const char *root;           /* of the host's trees */
    const char *runtime_dir;    /* of the table of all QEMUs; NULL: the usual */
    /*
     * A decision was made, in mode advise or auto.  Main loop; @opaque is that
     * of ns_sampler_new(); it may set decision->applied before the event.
     */
    void (*decided)(void *opaque, NumaSchedDecision *decision);
} NsConfig;

/*
 * Read the topology once, and the latency file, and start its threads.  NULL
 * with @errp set: what was said of the host can not be used.  BQL.
 */
NsSampler *ns_sampler_new(const NsConfig *config, void *opaque, Error **errp);

/*
 * Ends its threads; waits for the look that is under way, which with estimator
 * "damon" may take 0.3 s.  BQL
 */
void ns_sampler_free(NsSampler *s);

/* CPUs of the host's largest node, for ns_guest_look().  Any thread */
uint32_t ns_sampler_largest(const NsSampler *s);

/*
 * May it look now?  Not while it still does, nor so soon that it would take
 * more than a hundredth of a CPU.  Any thread
 */
bool ns_sampler_is_idle(NsSampler *s);

/* Look at @guest, which becomes the sampler's, if it is idle.  BQL */
void ns_sampler_look(NsSampler *s, NsGuest *guest);

/*
 * Move the memory of a group to node @target, by id, as soon as it has looked
 * again, and no other memory moves.  Any thread
 */
void ns_sampler_move(NsSampler *s, const char *group, uint32_t target);

/* Give back what the present move has moved, and forget those to come */
void ns_sampler_cancel(NsSampler *s);

/* Is there memory that moves, or waits to?  Any thread */
bool ns_sampler_is_moving(NsSampler *s);

/*
 * Nothing moves, and no working set is measured, while @paused.  Waits until no
 * userfaultfd watches for a working set (other estimators end a little later),
 * for a step at most.  What dirty rings say is read to the end of the window,
 * as migration has them on, too.  Any thread but the sampler's
 */
void ns_sampler_pause(NsSampler *s, bool paused);

/*
 * From now on it only advises, and says why in query-numa-sched.  @err: freed
 */
void ns_sampler_degrade(NsSampler *s, Error *err);

/*
 * A copy of what it found last; NULL: nothing yet.  Any thread
 */
NumaSchedInfo *ns_sampler_info(NsSampler *s);

#endif
