/*
 * NUMA scheduler: threads of vhost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Since Linux 6.4 workers of vhost are threads of QEMU, with names that the
 * kernel gives them when they are created: "vhost-" and QEMU's pid.  A large
 * guest has hundreds of threads, and reading a name costs 5 us, all of it under
 * the BQL; so a name is read once.
 */

#ifndef NUMA_SCHED_WORKERS_H
#define NUMA_SCHED_WORKERS_H

/* At most so many names are read in one look; the rest in those to come */
#define NS_WORKERS_READ     256

typedef struct NsWorkers NsWorkers;

NsWorkers *ns_workers_new(void);
void ns_workers_free(NsWorkers *w);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsWorkers, ns_workers_free)

/*
 * Append the ids (int) of workers that there are now to @tids.  @task: "/proc/
 * self/task" but in tests.  One thread at a time
 */
void ns_workers_look(NsWorkers *w, const char *task, GArray *tids);

#endif
