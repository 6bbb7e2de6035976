/*
 * Page map: which of the two ways is faster, and how many records to send
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure.  One thread at a time.
 */

#ifndef MIGRATION_PAGEMAP_PACE_H
#define MIGRATION_PAGEMAP_PACE_H

#define PM_WINDOW_MIN   1024        /* pages */
#define PM_WINDOW_START 4096        /* before the rate is known */
#define PM_WINDOW_MAX   32768

/* Bytes per second, of the time in which there was something to do */
typedef struct PmRate {
    double value;
    bool known;
    int64_t since;          /* ns; 0: nothing is under way */
    uint64_t bytes;
} PmRate;

typedef struct PmPace {
    PmRate fetch;           /* what the destination placed */
    /* RAM's content and all else that QEMU sent: peaks, to compare ways by */
    PmRate link;
    PmRate steady;          /* the same, what it kept up */
    int64_t sending;        /* since when there has been RAM to send, ns */
    int64_t busy;           /* ns in which the destination had records */
    int64_t last;           /* when the last verdict arrived, ns */
} PmPace;

/*
 * @bytes were sent since the last call; @busy: there is more RAM to send than
 * what the next call finds done
 */
void pm_pace_sent(PmPace *p, int64_t now, uint64_t bytes, bool busy);

/*
 * What the link takes while the guest is stopped, bytes/s; 0: not known.  Not
 * the peak: a link that was idle fills the socket's buffer first, and the guest
 * would be stopped with more left than the link takes in time.
 */
double pm_pace_link_keeps_up(const PmPace *p);

/*
 * pm_rate_step: @bytes more were done by the time @now
 *
 * @now: nanoseconds, monotonic, not 0
 * @busy: from now on there is something to do; else the clock stops
 * @peak: what counts is the best of the last times, because those in which the
 *        way was not full cannot be told apart
 *
 * What was known before counts the less the longer the time that is added is.
 */
void pm_rate_step(PmRate *r, int64_t now, uint64_t bytes, bool busy,
                  bool peak);

/*
 * pm_pace_served: a verdict on a batch has come, @bytes of which were placed
 *
 * @busy: nanoseconds that the destination says it had records and no answer to
 *        them, since its verdict before this one
 * @arrived: nanoseconds, monotonic, not 0
 *
 * How long records and verdicts were under way does not count: a window that
 * follows from it would keep them under way for as long.
 */
void pm_pace_served(PmPace *p, int64_t busy, int64_t arrived, uint64_t bytes);

/*
 * pm_pace_waiting: no verdict has come
 *
 * @sent: when the oldest batch without a verdict was sent
 */
void pm_pace_waiting(PmPace *p, int64_t sent, int64_t now);

/* pm_pace_window: pages in flight that make a quarter of a second */
uint32_t pm_pace_window(const PmPace *p);

/* pm_pace_link_is_faster: false as long as one of the rates is not known */
bool pm_pace_link_is_faster(const PmPace *p);

#endif
