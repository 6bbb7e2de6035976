/*
 * NUMA scheduler: following a plan step by step, without haste
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure, as plan.h: the caller keeps the state, and says what time it is.  The
 * rules are in docs/devel/numa-sched.rst, "When a plan is followed".
 */

#ifndef NUMA_SCHED_STEP_H
#define NUMA_SCHED_STEP_H

#include "plan.h"

#define NS_RESIDENCE_MIN    10000       /* ms */
#define NS_RESIDENCE_MAX    640000
#define NS_HYSTERESIS       100         /* 1/1000; at most 1000 */
#define NS_MIN_GAIN         10000000    /* nano-CPU: 1/100 CPU */

/*
 * How long a group stays where it is.  Times are ms of a clock that does not go
 * back.
 */
typedef struct NsRest {
    int64_t since;              /* of the last move, or of the last halving */
    int64_t until;              /* it rests before that */
    uint32_t residence;         /* ms */
    int left;                   /* the node that it left last; -1: none */
} NsRest;

/* Of a group that has never moved */
void ns_rest_init(NsRest *rest);

/* It went from node @from (-1: none) to node @to. */
void ns_rest_moved(NsRest *rest, int64_t now, int from, int to);

/* Does it rest?  Long times without a move make the next residence shorter. */
bool ns_rests(NsRest *rest, int64_t now);

/* What a group is doing while the figures are taken */
typedef struct NsPhase {
    bool resting;               /* it stays on the node that it has */
    bool following;             /* its memory is on its way to its home */
} NsPhase;

typedef struct NsStep {
    uint32_t n;                 /* groups that move, 0 to 2 */
    uint32_t group[2];
    NsOption to[2];             /* option of the plan for each */
    uint64_t cost;              /* what they cost now, nano-CPU */
    /* Of the total, nano-CPU; may be negative for a group without a node */
    int64_t gain;
} NsStep;

/*
 * Calculate the plan, with groups that rest where they are, and choose the step
 * towards it: the first of
 *
 * - a group that is on no node, or on one that it may not be on,
 * - the group that gains most,
 * - the two groups that gain most by leaving together, of which one goes to
 *   where the other was,
 *
 * whose move is valid now.  The gain has to be more than @hysteresis (1/1000)
 * of what they cost now, and than NS_MIN_GAIN, but for a group that has to go.
 * @phase: by group.
 * @step->n is 0 when nothing is worth a step.  Returns the plan.
 */
NsPlan *ns_step(const NsHost *host, const NsGroup *group, uint32_t n,
                const NsPhase *phase, uint32_t hysteresis, NsStep *step);

#endif
