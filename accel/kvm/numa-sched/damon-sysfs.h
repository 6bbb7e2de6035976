/*
 * NUMA scheduler: the files of DAMON
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Small files below a directory; names are relative to it.  The kernel answers
 * EBUSY while another process has its lock, which is soon over: both wait for
 * it, some 0.1 s at most.
 */

#ifndef NUMA_SCHED_DAMON_SYSFS_H
#define NUMA_SCHED_DAMON_SYSFS_H

#define NS_DAMON_VALUE  32              /* bytes, with the NUL */

/* 0, or a negative errno */
int ns_damon_put(int dir, const char *name, const char *value);

/* The file's line, without its end; -EFBIG for a longer one */
int ns_damon_get(int dir, const char *name, char value[NS_DAMON_VALUE]);

/* It can be read, and holds that */
bool ns_damon_is(int dir, const char *name, const char *value);

/* One decimal number and nothing else */
bool ns_damon_number(int dir, const char *name, uint64_t *value);

#endif
