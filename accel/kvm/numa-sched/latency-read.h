/*
 * NUMA scheduler: the latencies of a host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_SCHED_LATENCY_READ_H
#define NUMA_SCHED_LATENCY_READ_H

#include "latency.h"

/*
 * The best there is for the host below @root, which is where @t was read: the
 * operator's file (of that @name, @len bytes at @buf; NULL: none), the
 * firmware's table, what was @measured (n * n; may be NULL), or what @t has.
 * Adds notes to @t.  NULL with @errp set: the operator's file is wrong.
 */
NsLatency *ns_latency_read(NsTopology *t, const char *root, const char *name,
                           const char *buf, size_t len,
                           const uint32_t *measured, Error **errp);

#define NS_MAX_LATENCY_FILE (1024 * 1024)

/*
 * The operator's file, for ns_latency_read(); the caller frees it.  NULL with
 * @errp set, which names object @id: no file, or a larger one.
 */
char *ns_latency_file(const char *id, const char *name, size_t *len,
                      Error **errp);

#endif
