/*
 * NUMA scheduler: how fast memory moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure, as plan.h: the caller keeps the state, and says what time it is and
 * what it saw.  One thread at a time for each NsPace.  Times are ns of a clock;
 * one that goes back counts as standing still.
 *
 * A call that moves pages costs 0.2 to 0.6 ms however few they are, so slowing
 * down must not mean more calls: the batch and the bandwidth shrink together,
 * and the time between two calls stays what it is at full bandwidth.
 */

#ifndef NUMA_SCHED_MOVE_PACE_H
#define NUMA_SCHED_MOVE_PACE_H

#include "plan.h"

#define NS_PACE_MIN_BATCH   (64u << 10)     /* bytes */
#define NS_PACE_MAX_BATCH   (4u << 20)
#define NS_PACE_MAX_BURST   (1u << 30)
#define NS_PACE_MAX_INVALIDATIONS   (1u << 30)
#define NS_PACE_CALL        620000          /* ns, whatever a call moves */
#define NS_PACE_SLOW        4               /* times the floor */

typedef enum NsPaceState {
    NS_PACE_RUNNING,
    NS_PACE_PAUSED,             /* a live migration is under way */
    NS_PACE_STOPPED,            /* for good */
} NsPaceState;

typedef struct NsBucket {
    uint64_t size, tokens;
    uint64_t rest;              /* of a token, in 1/1000000000 */
} NsBucket;

typedef struct NsPace {
    uint64_t bandwidth;         /* bytes/s, at most */
    uint32_t invalidations;     /* a second, at most; 0: no bound */
    NsPaceState state;
    uint32_t batch;             /* bytes that one batch has now */
    uint64_t floor;             /* 1/256 ns for a page; 0: not known */
    int64_t at;                 /* of the buckets */
    NsBucket bytes, units;
    uint64_t open_bytes;        /* of the batch that was offered, 0: none */
    uint32_t open_units;
} NsPace;

/*
 * @bandwidth: NS_MIN_BANDWIDTH to NS_MAX_BANDWIDTH, bytes/s; @burst: bytes,
 * NS_PACE_MAX_BATCH to NS_PACE_MAX_BURST; @invalidations: units that move in a
 * second, whatever their size, 0 (no bound) to NS_PACE_MAX_INVALIDATIONS.
 * Values outside are taken as the nearest one.
 */
void ns_pace_init(NsPace *pace, int64_t now, uint64_t bandwidth,
                  uint32_t burst, uint32_t invalidations);

typedef struct NsPaceOffer {
    uint32_t bytes;             /* to ask for, at most; 0: wait */
    uint32_t units;             /* to ask for, at most */
    int64_t until;              /* look again then; INT64_MAX: when resumed */
} NsPaceOffer;

/*
 * What may move now.  @least: bytes of the next unit, at most
 * NS_PACE_MAX_BATCH; the offer has room for it.  An offer has to be reported
 * on before the next one; one that was not counts as used up.
 */
NsPaceOffer ns_pace_next(NsPace *pace, int64_t now, uint32_t least);

/* What became of the batch; asked is at most what was offered */
typedef struct NsPaceReport {
    uint32_t asked, moved, busy;    /* bytes */
    uint32_t units;                 /* asked for */
    uint64_t ns;                    /* taken by the call */
    bool pressure;                  /* the host's CPUs or memory are short */
} NsPaceReport;

/*
 * The batch is over; one that asked for nothing, too.  A batch that was slow,
 * mostly busy, or under pressure halves the next one; another one adds
 * NS_PACE_MIN_BATCH to it.
 */
void ns_pace_report(NsPace *pace, int64_t now, const NsPaceReport *report);

/* Pause or go on; nothing happens once stopped.  A batch may still be open. */
void ns_pace_pause(NsPace *pace, bool paused);

void ns_pace_stop(NsPace *pace);

#endif
