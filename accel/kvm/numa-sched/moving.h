/*
 * NUMA scheduler: the memory that moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The sampler's thread only.
 */

#ifndef NUMA_SCHED_MOVING_H
#define NUMA_SCHED_MOVING_H

#include "qapi/qapi-types-numa-sched.h"
#include "look.h"

typedef struct NsMoving NsMoving;

/*
 * Begin to move the memory of group @g to node @target (index); its CPUs are
 * there.  NULL with @errp set: it can not move.
 */
NsMoving *ns_moving_new(const NsLook *k, uint32_t g, uint32_t target,
                        uint64_t bandwidth, NumaSchedEstimator estimator,
                        Error **errp);

/* What has moved stays where it is. */
void ns_moving_free(NsMoving *m);

/* Does what there is to do; when to call again, ns of get_clock() */
int64_t ns_moving_step(NsMoving *m);

/*
 * Another look: take down what was used since the last one.  @k: as it is now;
 * ends when the memory is no longer the guest's.
 */
void ns_moving_look(NsMoving *m, const NsLook *k);

bool ns_moving_is_over(const NsMoving *m);

/* Bytes that still come to node @target (id, set if any do); @m may be NULL */
uint64_t ns_moving_coming(const NsMoving *m, uint32_t *target);

/* Its group; valid as long as @m */
const char *ns_moving_group(const NsMoving *m);

/* Where the use of its memory is known from; "none": it is not */
const char *ns_moving_estimator(const NsMoving *m);

NumaMigrateProgress *ns_moving_progress(const NsMoving *m);

/* What an estimator could not do, for people; NULL: nothing new */
char *ns_moving_take_note(NsMoving *m);

/* A live migration begins, or is over */
void ns_moving_pause(NsMoving *m, bool paused);

/* Give back what has moved */
void ns_moving_cancel(NsMoving *m);

#endif
