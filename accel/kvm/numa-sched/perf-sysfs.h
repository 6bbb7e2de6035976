/*
 * NUMA scheduler: events that the kernel names in /sys/bus/event_source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Linux, Documentation/ABI/testing/sysfs-bus-event_source-devices-format and
 * -events.
 */

#ifndef NUMA_SCHED_PERF_SYSFS_H
#define NUMA_SCHED_PERF_SYSFS_H

#define NS_PERF_DEVICES     "/sys/bus/event_source/devices"
#define NS_PERF_CONFIGS     3

typedef struct NsPerfEvent {
    uint32_t type;
    uint64_t config[NS_PERF_CONFIGS];
} NsPerfEvent;

/*
 * A line as "config1:0-7,32" or "config:21": which of them (an index), and its
 * bits, the lowest first.  False: anything else.
 */
bool ns_perf_format(const char *text, uint32_t *which, uint64_t *mask);

/* The lowest bits of @value where @mask has any; false: it has too few */
bool ns_perf_place(uint64_t value, uint64_t mask, uint64_t *config);

/* Is there such a source of events? */
bool ns_perf_has(const char *devices, const char *pmu, const char *event);

/*
 * @event of @pmu, or of @pmu alone if that is NULL, below the directory
 * @devices.  False with @errp set: it is not there, or says what we do not know
 */
bool ns_perf_find(const char *devices, const char *pmu, const char *event,
                  NsPerfEvent *found, Error **errp);

#endif
