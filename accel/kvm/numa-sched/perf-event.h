/*
 * NUMA scheduler: perf_event_open(2)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_PERF_EVENT_H
#define NUMA_SCHED_PERF_EVENT_H

#include <linux/perf_event.h>

/* The kernel; tests have their own.  Errors are negative errno. */
typedef struct NsPerfSys {
    /* An event of one thread, on whatever CPU it runs; a descriptor */
    int (*open)(void *opaque, const struct perf_event_attr *attr, int tid);
    ssize_t (*read)(void *opaque, int fd, void *buf, size_t len);
    void (*close)(void *opaque, int fd);
} NsPerfSys;

extern const NsPerfSys ns_perf_linux;

/*
 * Descriptors that may be used here: at most @most, and a quarter of what the
 * process may have, which it needs for other things.
 */
uint32_t ns_perf_descriptors(uint32_t most);

/* Was it refused by a policy, which somebody can change? */
bool ns_perf_is_refused(int error);

#endif
