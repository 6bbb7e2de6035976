/*
 * NUMA scheduler: tables for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "numa-table.h"

TestDir *test_dir_new(void)
{
    TestDir *dir = g_new0(TestDir, 1);

    dir->name = g_dir_make_tmp("numa-table-XXXXXX", NULL);
    g_assert_nonnull(dir->name);
    dir->table = g_build_filename(dir->name, NS_TABLE_NAME, NULL);
    return dir;
}

void test_dir_free(TestDir *dir)
{
    g_autoptr(GDir) d = g_dir_open(dir->name, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir->name, name, NULL);

        g_assert_cmpint(remove(path), ==, 0);
    }
    g_assert_cmpint(rmdir(dir->name), ==, 0);
    g_free(dir->name);
    g_free(dir->table);
    g_free(dir);
}

NsTable *table_open(const TestDir *dir)
{
    return ns_table_open(dir->name, NULL, &error_abort);
}

bool table_put(NsTable *t, const NsPromise *p, uint32_t term)
{
    const NsOthers *o;

    g_assert_cmpint(ns_table_begin(t, &o, &error_abort), ==, NS_BEGIN_DECIDE);
    return ns_table_commit(t, p, term, NULL);
}

NsPromiseNode table_sum(NsTable *t, uint32_t id)
{
    NsPromiseNode sum;
    const NsOthers *o;

    g_assert_cmpint(ns_table_begin(t, &o, &error_abort), ==, NS_BEGIN_DECIDE);
    sum = ns_others_at(o, id);
    ns_table_cancel(t);
    return sum;
}

NsPromise promise(uint32_t id, uint32_t cpu, uint64_t bytes)
{
    return (NsPromise) {
        .n = 1, .node[0] = { .id = id, .cpu_comes = cpu, .comes = bytes },
    };
}

int64_t test_clock(void *opaque)
{
    return *(int64_t *)opaque;
}

void tear(const char *table)
{
    uint8_t half[NS_TABLE_RECORD / 2];
    int fd = open(table, O_RDWR);

    memset(half, 0xa5, sizeof(half));
    for (int slot = 0; slot < 2; slot++) {
        g_assert_cmpint(pwrite(fd, half, sizeof(half),
                               (1 + slot) * NS_TABLE_RECORD), ==, sizeof(half));
    }
    close(fd);
}

int spring(void *opaque, NsTablePoint point)
{
    Trap *trap = opaque;

    if (point == NS_POINT_DECIDE) {
        sched_yield();
    }
    if (point != trap->point || !trap->count || --trap->count) {
        return 0;
    }
    if (trap->error) {
        return trap->error;
    }
    if (trap->torn) {
        tear(trap->table);
    }
    if (trap->used) {
        qatomic_sub(trap->used, trap->own);
    }
    kill(getpid(), SIGKILL);
    return 0;
}
