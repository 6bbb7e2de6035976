/*
 * NUMA scheduler: sysfs of hosts that are made up, below a temporary directory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_NUMA_TREE_H
#define TEST_NUMA_TREE_H

#include "accel/kvm/numa-sched/topology.h"

#define NODES   "sys/devices/system/node/"
#define CPUS    "sys/devices/system/cpu/"

extern char *root;              /* of the test that runs */

/* Below the root, whose directory is made; to be freed */
char *path_of(const char *name);
void put_bytes(const char *name, const void *data, size_t len);
void put(const char *name, const char *text);
/* "FILE TEXT" */
void G_GNUC_PRINTF(2, 3) put_node(unsigned id, const char *fmt, ...);
void put_memory(unsigned id, uint64_t mib, uint64_t free_mib);
void put_cpu(unsigned cpu, const char *file, const char *text);
void put_access(unsigned id, unsigned class, const char *latency, int from,
                int from2);
void remove_below(const char *name);

/* Two nodes with two CPUs each, one thread a core, 1 GiB and 2 GiB */
void put_plain(void);
void check_plain(const NsTopology *t);

/* What holds for whatever was read */
void check(const NsTopology *t);
NsTopology *get(void);
/* How many notes have that text */
unsigned notes(const NsTopology *t, const char *text);
void check_node(const NsTopology *t, uint32_t i, uint32_t id, uint32_t cpus,
                uint32_t cores, uint64_t mib);
void check_slit(const NsTopology *t, const char *expected);

/* Each test of a tree has one of its own: a pointer to a void (*)(void) */
void with_tree(gconstpointer test);

#endif
