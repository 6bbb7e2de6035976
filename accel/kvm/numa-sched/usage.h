/*
 * NUMA scheduler: who uses which CPU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the kernel says of threads and CPUs (proc_pid_schedstat(5) in
 * Documentation/scheduler/sched-stats.rst, proc_pid_stat(5), proc_stat(5)), and
 * what follows from two such readings.  No state but the caller's; any thread.
 */

#ifndef NUMA_SCHED_USAGE_H
#define NUMA_SCHED_USAGE_H

#include "topology.h"

/* Since the thread began */
typedef struct NsTask {
    uint64_t run, wait;         /* ns on a CPU, ns ready to run */
    int cpu;                    /* that it ran on last; -1: not known */
} NsTask;

/*
 * The bytes of schedstat and of stat, which may hold anything.  A thread's name
 * is in the second one, and may have blanks and brackets.  False: not such a
 * file, or one that ends within the number.
 */
bool ns_parse_schedstat(const char *buf, size_t len, uint64_t *run,
                        uint64_t *wait);
bool ns_parse_task_cpu(const char *buf, size_t len, int *cpu);

/*
 * Busy time of CPUs, in ticks since the host began, by id: @busy has @n
 * entries, those of absent CPUs are left as they are.  Time of guests is in the
 * user's.  NS_BUSY_UNKNOWN stands for a CPU of which nothing is known.
 */
#define NS_BUSY_UNKNOWN     UINT64_MAX

void ns_parse_cpus(const char *buf, size_t len, uint64_t *busy, uint32_t n);

/* A thread of this process.  False: it is there no more. */
bool ns_task_read(int tid, NsTask *task);

/* /proc/stat below @root; false: it can not be read */
bool ns_cpus_read(const char *root, uint64_t *busy, uint32_t n);

/*
 * CPU time that a thread took or waited for between two readings which are
 * @elapsed ns apart, in 1/1000 CPU, 0 to 1000; 0 if a figure went back.
 */
uint32_t ns_task_cpu(const NsTask *before, const NsTask *now, int64_t elapsed);

/* The same of what it took: that is in the busy time of CPUs, waiting is not */
uint32_t ns_task_run(const NsTask *before, const NsTask *now, int64_t elapsed);

/* The next smoothed value: a quarter of the way, and a step at least */
uint32_t ns_smooth(uint32_t value, uint32_t sample);

/*
 * What others use on each node, 1/1000 CPU, at most NS_MAX_CPU: busy time of
 * its CPUs between two readings (ticks of which there are @hz in a second)
 * without @own, which is what our threads used there.
 */
void ns_used_by_others(const NsTopology *t, const uint64_t *before,
                       const uint64_t *now, uint32_t n, int64_t elapsed,
                       uint32_t hz, const uint64_t *own, uint64_t *used);

/* The index of each CPU's node, by id of the CPU; -1: no node has it */
void ns_nodes_of_cpus(const NsTopology *t, int *node, uint32_t n);

/* Where a group has been lately */
typedef struct NsStay {
    uint32_t n;                 /* nodes; 0: nothing yet */
    uint32_t *weight;           /* by node; smoothed */
    int home;                   /* index; -1: not known */
} NsStay;

/*
 * Take what a group used on each node into account, 1/1000 CPU, and a 1 for
 * each thread that is there; returns its home.  Threads that the kernel
 * balances are here and there: the home changes only when another node has more
 * than 5/4 of its weight, which is the mean of about 8 calls (so that a thread
 * that is on two nodes in turn, 8 to 7, has one home, and one that goes for
 * good has the other one after 7 calls).  With another number of nodes than
 * before it begins anew.
 */
int ns_stay(NsStay *stay, const uint32_t *used, uint32_t n);

void ns_stay_clear(NsStay *stay);

#endif
