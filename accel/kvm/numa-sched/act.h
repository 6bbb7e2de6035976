/*
 * NUMA scheduler: bind the guest's threads to nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * BQL: threads of vCPUs come and go under it.
 */

#ifndef NUMA_SCHED_ACT_H
#define NUMA_SCHED_ACT_H

#include "guest.h"

/* What was bound, and how it was before */
typedef struct NsAct NsAct;

NsAct *ns_act_new(void);

/* Each thread that is still there gets the affinity that it had. */
void ns_act_free(NsAct *act);

/*
 * Bind the threads of group @name to these CPUs, as in a cpuset: all of them,
 * or none, false with @errp set.  Threads that the group gets later are bound
 * by ns_act_follow().
 */
bool ns_act_bind(NsAct *act, const NsGuest *guest, const char *name,
                 const char *cpus, Error **errp);

/* The threads of group @name get the affinity that they had. */
void ns_act_let_go(NsAct *act, const NsGuest *guest, const char *name);

/*
 * Bind threads that groups got since they were bound; false with @errp set when
 * that is refused.  Forgets those that are gone.
 */
bool ns_act_follow(NsAct *act, const NsGuest *guest, Error **errp);

#endif
