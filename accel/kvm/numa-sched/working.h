/*
 * NUMA scheduler: which part of the memory is used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A few chunks stand for all of the memory of a group: watching costs the guest
 * a fault for each page that it writes, and the large pages that it writes to.
 * These are the same chunks each time.  An estimator looks at them some times
 * in a row, in windows so short that a page which is used all the time is seen
 * in most, and one that is used now and then in few.  What is found is the mean
 * of that by node: the part of the node's memory that is in the working set.
 *
 * One thread at a time for each NsWorking.
 */

#ifndef NUMA_SCHED_WORKING_H
#define NUMA_SCHED_WORKING_H

#include "heat.h"
#include "topology.h"

#define NS_WORKING_CHUNK    (2ull << 20)    /* bytes, and their alignment */
#define NS_WORKING_CHUNKS   64
#define NS_WORKING_LOOKS    8
/* Windows, ns: the first, and the bounds of those that follow from it */
#define NS_WORKING_WINDOW   (25ll * 1000 * 1000)
#define NS_WORKING_SHORTEST (5ll * 1000 * 1000)
#define NS_WORKING_LONGEST  (200ll * 1000 * 1000)
/* Of memory that was not written, by estimators that see no reads; 1/1000 */
#define NS_WORKING_UNSEEN   250
/* A node of which fewer pages were watched is taken to be as the others are */
#define NS_WORKING_FEW      64

/*
 * At most NS_WORKING_CHUNKS chunks of @range to @chunk, in the order of
 * addresses, evenly apart; returns how many.  The same for the same ranges.
 */
uint32_t ns_working_chunks(const NsHeatRange *range, uint32_t n,
                           NsHeatRange *chunk);

/* What was seen on a node */
typedef struct NsWorkingSeen {
    uint64_t pages;
    uint64_t score;         /* sum over pages, 1000: used in each window */
} NsWorkingSeen;

/*
 * The part of each node's memory that is used, 1/1000, to @share.  @reads: the
 * estimator sees reads, too.  False: nothing was seen, nothing was written.
 */
bool ns_working_shares(const NsWorkingSeen *seen, uint32_t n, bool reads,
                       uint32_t *share);

/* The window to be used next, after one in which @score of 1000 was seen */
int64_t ns_working_window(int64_t window, uint32_t score);

typedef struct NsWorking NsWorking;

/*
 * Begin to watch; @now, @window: ns.  @name, @ops: see heat.h; "auto" is the
 * first that costs no more for a large guest than for a small one.  NULL with
 * @errp set: no estimator can be used, or there is nothing to watch.
 */
NsWorking *ns_working_new(const NsHeatRange *range, uint32_t n,
                          const char *name, const NsHeatOps *const *ops,
                          int64_t now, int64_t window, Error **errp);

/* May be called at any time; it is watched no more. */
void ns_working_free(NsWorking *w);

/*
 * Look, if it is time.  Returns when to call again, INT64_MAX: it was the last
 * one.
 */
int64_t ns_working_step(NsWorking *w, int64_t now);

/* The estimator in use */
const char *ns_working_estimator(const NsWorking *w);

/* Why the estimator gave up, NULL: it did not; @w's */
const char *ns_working_failed(const NsWorking *w);

/*
 * Where what was watched is, and so what is used of each node's memory, to
 * @share.  False: nothing was seen.  The window for the next time goes to
 * @window in both cases, unless the estimator failed.
 */
bool ns_working_result(NsWorking *w, const NsTopology *t, uint32_t *share,
                       int64_t *window);

#endif
