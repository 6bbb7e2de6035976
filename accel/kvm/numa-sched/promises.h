/*
 * NUMA scheduler: what is promised to other QEMUs, and what they promise
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The sampler's thread only.  See docs/devel/numa-sched.rst, "Several QEMUs".
 */

#ifndef NUMA_SCHED_PROMISES_H
#define NUMA_SCHED_PROMISES_H

#include "look.h"
#include "table.h"

typedef struct NsPromises {
    NsTable *table;             /* NULL: alone */
    NsPromise decided;          /* of the last step */
    int64_t until;              /* ns; until then others can not see it */
    bool some;                  /* something is promised */
} NsPromises;

/* False with @errp set: there is no table; it works alone then */
bool ns_promises_open(NsPromises *p, const char *dir, Error **errp);
void ns_promises_close(NsPromises *p);

/*
 * Add what others are about to do to what nodes have.  True: a step may be
 * decided, and ns_promises_end() follows.  False: not now; @errp may be set.
 */
bool ns_promises_begin(NsPromises *p, NsLook *k, Error **errp);

/*
 * @step: what was decided just now, or NULL; @coming: bytes that are on their
 * way to node @target (id).  False with @errp set: nothing may be done.
 */
bool ns_promises_end(NsPromises *p, const NsLook *k, const NsStep *step,
                     uint32_t target, uint64_t coming, Error **errp);

#endif
