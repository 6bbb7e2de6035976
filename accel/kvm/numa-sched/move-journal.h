/*
 * NUMA scheduler: what moved from where, to move it back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure, as plan.h.  One thread at a time for each journal.
 */

#ifndef NUMA_SCHED_MOVE_JOURNAL_H
#define NUMA_SCHED_MOVE_JOURNAL_H

#include "plan.h"

#define NS_JOURNAL_RUNS     65536           /* 1.5 MiB */

typedef struct NsRun {
    uint64_t addr, bytes;       /* multiples of NS_PAGE */
    uint16_t src;               /* index of the node that it came from */
} NsRun;

typedef struct NsJournal {
    uint32_t n, max;            /* runs */
    NsRun *run;                 /* the oldest first, while in order */
    bool in_order;              /* false: by source and address now */
    bool full;                  /* nothing new but what continues a run */
    uint64_t bytes;             /* that can be moved back */
    uint64_t lost;              /* bytes that moved and were not written down */
} NsJournal;

/* At most @max runs, at least 1, whose memory is taken now */
void ns_journal_init(NsJournal *j, uint32_t max);
void ns_journal_clear(NsJournal *j);

/*
 * It moved; nothing of it may be in the journal already.  When there are too
 * many runs, those that touch become one, at the price of the order; when that
 * does not help, what is new is lost: false.
 */
bool ns_journal_add(NsJournal *j, uint64_t addr, uint64_t bytes, uint16_t src);

/*
 * Take out what is to be moved back next, at most @bytes, from the end of the
 * run that came last; false: nothing is left.  What could not be moved back may
 * be added again; so undoing may stop at any time, and go on, or moving may.
 * @bytes of at least NS_PAGE; with large pages, ends are multiples of these if
 * @bytes and what was added are.
 */
bool ns_journal_take_back(NsJournal *j, uint64_t bytes, NsRun *run);

#endif
