/*
 * NUMA scheduler: the table in which several QEMUs promise what they will do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * docs/devel/numa-sched.rst has the rules, "Several QEMUs".  One thread at a
 * time for each NsTable, without the BQL; nothing here waits.  The locks are of
 * the open file: a child that is forked has them, too, until it executes
 * another program, ends, or the parent closes the table.
 */

#ifndef NUMA_SCHED_TABLE_H
#define NUMA_SCHED_TABLE_H

#include "table-format.h"

#define NS_TABLE_NAME   "qemu-numa-sched.table"

/* Where a test may step in, in the order in which they come */
typedef enum NsTablePoint {
    NS_POINT_OPEN,              /* before the file is opened or created */
    NS_POINT_LOCK,              /* before the table's lock is tried */
    NS_POINT_ALLOCATE,          /* of a new file; locked from here on */
    NS_POINT_HEADER,            /* of a new file, before it is written */
    NS_POINT_READ,              /* before the slots are read */
    NS_POINT_DECIDE,            /* begin is over */
    NS_POINT_SLOT,              /* before a slot's lock is tried */
    NS_POINT_WRITE,             /* before the own slot is written */
    NS_POINT_WRITTEN,           /* still locked */
    NS_POINT_UNLOCKED,
    NS_POINT__MAX,
} NsTablePoint;

typedef struct NsTableOps {
    /* Returns 0, or an errno value with which what is next has to fail */
    int (*at)(void *opaque, NsTablePoint point);
    /* ns; never goes back, also between processes.  NULL: CLOCK_BOOTTIME */
    int64_t (*clock)(void *opaque);
    void *opaque;
} NsTableOps;

/* What the others are about to do, in all */
typedef struct NsOthers {
    uint32_t n;                 /* nodes */
    NsPromiseNode node[NS_MAX_NODES];   /* sums, by ascending id */
    uint32_t promises;          /* that count, and are of something */
    uint32_t pid[NS_TABLE_SLOTS];       /* of their owners, for people */
    uint32_t expired;           /* of owners that live, but do not go on */
    uint32_t damaged;           /* slots with an owner that say nothing */
} NsOthers;

typedef struct NsTable NsTable;

/* The default for @dir of ns_table_open(); the caller frees it */
char *ns_table_default_dir(void);

/*
 * Open the table in a directory, or create it.  @ops: NULL but in tests; a copy
 * is kept.  NULL with @errp set, which names the file and what to do: go on
 * without a table, after saying so.
 */
NsTable *ns_table_open(const char *dir, const NsTableOps *ops, Error **errp);

/* Nothing is promised any more.  NULL is allowed. */
void ns_table_close(NsTable *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsTable, ns_table_close)

typedef enum NsBegin {
    NS_BEGIN_DECIDE,            /* then commit or cancel */
    NS_BEGIN_BUSY,              /* another one decides: not in this period */
    NS_BEGIN_FAILED,            /* @errp is set; it may be tried again */
} NsBegin;

/*
 * Lock the table, and sum up what the others promise.  @others is the table's,
 * and is good until commit or cancel.  A table that was begun is cancelled
 * first.  The file that was deleted or replaced is opened anew.
 */
NsBegin ns_table_begin(NsTable *t, const NsOthers **others, Error **errp);

/*
 * Promise @own in place of what was promised before, for @term ms, at most
 * NS_PROMISE_MAX_TERM and at least 1; what is outside is taken as the nearest
 * value.  Only after begin said NS_BEGIN_DECIDE.  Unlocks.  False with @errp
 * set: nothing is promised, also not what was before, so nothing may be done.
 */
bool ns_table_commit(NsTable *t, const NsPromise *own, uint32_t term,
                     Error **errp);

/* Unlock, and leave the own promise as it was.  Nothing if not begun */
void ns_table_cancel(NsTable *t);

/*
 * How long what was promised holds, ns; 0: it does not any more, or nothing is
 * promised, and what was not done yet may not be done.
 */
int64_t ns_table_left(const NsTable *t);

/* The sums for a node; zeros if nothing is promised there */
NsPromiseNode ns_others_at(const NsOthers *others, uint32_t id);

#endif
