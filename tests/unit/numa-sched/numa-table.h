/*
 * NUMA scheduler: tables for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_NUMA_TABLE_H
#define TEST_NUMA_TABLE_H

#include "accel/kvm/numa-sched/table.h"
#include "numa-case.h"

/* A directory that goes away with all files in it */
typedef struct TestDir {
    char *name;
    char *table;                /* the table's name */
} TestDir;

TestDir *test_dir_new(void);
void test_dir_free(TestDir *dir);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TestDir, test_dir_free)

/* A table of that directory, which has to open */
NsTable *table_open(const TestDir *dir);

/* Begin and commit; false: commit failed */
bool table_put(NsTable *t, const NsPromise *p, uint32_t term);

/* What others promise for a node; begins and cancels */
NsPromiseNode table_sum(NsTable *t, uint32_t id);

/* CPU and bytes that come to one node */
NsPromise promise(uint32_t id, uint32_t cpu, uint64_t bytes);

/* A clock that stands at *@opaque, an int64_t */
int64_t test_clock(void *opaque);

/* What is done at the @count-th time that a point is reached */
typedef struct Trap {
    NsTablePoint point;
    int count;                  /* 0: never */
    int error;                  /* to fail with; 0: be killed */
    bool torn;                  /* write half a record before that */
    const char *table;
    int *used;                  /* given back when killed; NULL: nothing */
    int own;
} Trap;

/* The function for NsTableOps; @opaque is a Trap */
int spring(void *opaque, NsTablePoint point);

/* Damage the first two slots */
void tear(const char *table);

#endif
