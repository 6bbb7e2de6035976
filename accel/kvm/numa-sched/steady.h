/*
 * NUMA scheduler: which steps are worth talking of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure.  One thread at a time for each NsSteady.
 */

#ifndef NUMA_SCHED_STEADY_H
#define NUMA_SCHED_STEADY_H

#define NS_STEADY   2       /* looks in which a step has to be the best */
#define NS_FORGET   10      /* looks without it, after which it is a new one */

typedef struct NsSteady {
    char *best;                 /* the step of the look before, or NULL */
    uint32_t steady;            /* looks in which it was that */
    char *decided;              /* the last decision, or NULL */
    uint32_t without;           /* looks since in which it was not the best */
    uint64_t decisions;         /* different ones, so far */
} NsSteady;

void ns_steady_clear(NsSteady *s);

/*
 * With each look: is the step that has this name (NULL: none) a decision?  One
 * that comes and goes with the noise is not, and one that comes back is no
 * other one.
 */
bool ns_steady_look(NsSteady *s, const char *name);

/* The last decision was not followed: it is a new one when it comes again. */
void ns_steady_forget(NsSteady *s);

#endif
