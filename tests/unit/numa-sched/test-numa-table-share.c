/*
 * NUMA scheduler: the table of several QEMUs, and processes that are killed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "numa-table.h"
#include <sys/mman.h>
#include <sys/wait.h>

static void wait_for(pid_t pid, bool killed)
{
    int status;

    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, &status, 0)), ==, pid);
    if (killed) {
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    } else {
        g_assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
    }
}

/* Opens, promises once in all peace, and again into the trap */
static void victim(const TestDir *dir, Trap *trap, int count)
{
    NsTableOps ops = { .at = spring, .opaque = trap };
    NsPromise p = promise(1, 3000, 3 * GB);
    NsTable *t;

    if (trap->point == NS_POINT_OPEN || trap->point == NS_POINT_ALLOCATE ||
        trap->point == NS_POINT_HEADER) {
        trap->count = count;
    }
    t = ns_table_open(dir->name, &ops, &error_abort);
    if (trap->point == NS_POINT_SLOT) {
        trap->count = count;
    }
    g_assert_true(table_put(t, &p, 60000));
    trap->count = count;
    p = promise(1, 5000, 5 * GB);
    table_put(t, &p, 60000);
    g_assert_not_reached();
}

/*
 * T2, T3: killed at any point, its promise is gone at once, the others' are
 * there, and nobody is kept out.
 */
static void test_killed(void)
{
    for (int i = 0; i < 4 * NS_POINT__MAX; i++) {
        NsTablePoint point = i % NS_POINT__MAX;
        bool torn = i / NS_POINT__MAX % 2, early = i / NS_POINT__MAX / 2;
        bool creates = point <= NS_POINT_HEADER && point != NS_POINT_LOCK;
        g_autoptr(TestDir) dir = test_dir_new();
        Trap trap = { .point = point, .torn = torn && point > NS_POINT_READ,
                      .table = dir->table };
        g_autoptr(NsTable) a = creates ? NULL : table_open(dir);
        g_autoptr(NsTable) b = NULL;
        NsPromise p = promise(1, 1, GB);
        const NsOthers *o;
        pid_t pid;

        if (a && early) {
            g_assert_true(table_put(a, &p, 60000));
        }
        pid = fork();
        if (!pid) {
            victim(dir, &trap, 1);
        }
        wait_for(pid, true);
        b = table_open(dir);
        g_assert_cmpint(ns_table_begin(b, &o, &error_abort), ==,
                        NS_BEGIN_DECIDE);
        g_assert_cmpuint(ns_others_at(o, 1).cpu_comes, ==,
                         a && early && !trap.torn);
        ns_table_cancel(b);
        a = a ?: table_open(dir);
        g_assert_true(table_put(a, &p, 60000));
        g_assert_cmpuint(table_sum(b, 1).comes, ==, GB);
        p = promise(1, 1, 2 * GB);
        g_assert_true(table_put(b, &p, 60000));
        g_assert_cmpuint(table_sum(a, 1).comes, ==, 2 * GB);
    }
}

/* The promise of a process that lives, until it is killed from outside */
static void test_killed_by_another(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autoptr(NsTable) t = table_open(dir);

    for (int locked = 0; locked < 2; locked++) {
        int ready[2];
        const NsOthers *o;
        pid_t pid;
        char c;

        g_assert_cmpint(pipe(ready), ==, 0);
        pid = fork();
        if (!pid) {
            NsTable *mine = table_open(dir);
            NsPromise p = promise(1, 3000, 3 * GB);

            g_assert_true(table_put(mine, &p, 60000));
            if (locked) {
                g_assert_cmpint(ns_table_begin(mine, &o, &error_abort), ==,
                                NS_BEGIN_DECIDE);
            }
            g_assert_cmpint(write(ready[1], "", 1), ==, 1);
            for (;;) {
                pause();
            }
        }
        g_assert_cmpint(RETRY_ON_EINTR(read(ready[0], &c, 1)), ==, 1);
        if (locked) {
            g_assert_cmpint(ns_table_begin(t, &o, &error_abort), ==,
                            NS_BEGIN_BUSY);
        } else {
            g_assert_cmpint(ns_table_begin(t, &o, &error_abort), ==,
                            NS_BEGIN_DECIDE);
            g_assert_cmpuint(o->pid[0], ==, pid);
            g_assert_cmpuint(ns_others_at(o, 1).comes, ==, 3 * GB);
            ns_table_cancel(t);
        }
        kill(pid, SIGKILL);
        wait_for(pid, true);
        g_assert_cmpuint(table_sum(t, 1).comes, ==, 0);
        close(ready[0]);
        close(ready[1]);
    }
}

/* A child has the file open still; closing the table ends the promise. */
static void test_child(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autoptr(NsTable) t = table_open(dir);
    NsTable *mine = table_open(dir);
    NsPromise p = promise(1, 3000, 3 * GB);
    const NsOthers *o;
    int end[2];
    pid_t pid;
    char c;

    g_assert_true(table_put(mine, &p, 60000));
    g_assert_cmpint(ns_table_begin(mine, &o, &error_abort), ==,
                    NS_BEGIN_DECIDE);
    g_assert_cmpint(pipe(end), ==, 0);
    pid = fork();
    if (!pid) {
        close(end[1]);
        _exit(RETRY_ON_EINTR(read(end[0], &c, 1)) != 0);
    }
    close(end[0]);
    ns_table_close(mine);
    g_assert_cmpuint(table_sum(t, 1).comes, ==, 0);
    close(end[1]);
    wait_for(pid, false);
}

/*
 * The slot of a dead owner, whose promise is in it still, has a living owner
 * before it has that one's promise: nobody may look meanwhile.
 */
typedef struct Watch {
    NsTable *other;
    int looked;
} Watch;

static int watch(void *opaque, NsTablePoint point)
{
    Watch *w = opaque;
    const NsOthers *o;

    if (point == NS_POINT_DECIDE || point == NS_POINT_SLOT ||
        point == NS_POINT_WRITE || point == NS_POINT_WRITTEN) {
        w->looked++;
        g_assert_cmpint(ns_table_begin(w->other, &o, &error_abort), ==,
                        NS_BEGIN_BUSY);
    } else if (point == NS_POINT_UNLOCKED && w->looked) {
        g_assert_cmpuint(table_sum(w->other, 1).cpu_comes, <=, 1);
    }
    return 0;
}

static void test_inherited_slot(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    NsTable *dead = table_open(dir);
    Watch w = { .other = table_open(dir) };
    NsTableOps ops = { .at = watch, .opaque = &w };
    NsTable *t = ns_table_open(dir->name, &ops, &error_abort);
    NsPromise p = promise(1, 3000, 3 * GB);

    g_assert_true(table_put(dead, &p, 60000));
    ns_table_close(dead);
    p = promise(1, 1, 0);
    g_assert_true(table_put(t, &p, 60000));
    g_assert_cmpint(w.looked, ==, 4);
    g_assert_cmpuint(table_sum(w.other, 1).cpu_comes, ==, 1);
    ns_table_close(t);
    ns_table_close(w.other);
}

/*
 * T4: of a capacity that all share, no more is ever used than there is
 */

#define CAPACITY    10000
#define PROCESSES   6
#define ROUNDS      400

typedef struct Shared {
    int used;                   /* by all; never more than is promised */
    int commits, tight, over;
} Shared;

static void consumer(const TestDir *dir, Shared *shared, uint32_t seed,
                     bool dies)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    Trap trap = { .used = &shared->used, .torn = false };
    NsTableOps ops = { .at = spring, .opaque = &trap };
    NsTable *t = ns_table_open(dir->name, &ops, &error_abort);

    if (dies) {
        trap.point = NS_POINT_READ + draw(rand, NS_POINT__MAX - NS_POINT_READ);
        /* A slot is tried once by each that has the table to itself. */
        trap.count = trap.point == NS_POINT_SLOT ? 1 : 1 + draw(rand, 40);
    }
    /* Who is to die does so long before the second limit. */
    for (int i = 0; i < (dies ? 10000000 : ROUNDS); i++) {
        int want = draw(rand, 4) ? draw(rand, CAPACITY / 2) : 0;
        const NsOthers *o;
        NsPromise p;
        int others;

        if (ns_table_begin(t, &o, &error_abort) == NS_BEGIN_BUSY) {
            sched_yield();
            continue;
        }
        others = ns_others_at(o, 5).cpu_comes;
        if (others > CAPACITY) {
            qatomic_inc(&shared->over);
        }
        if (others + want > CAPACITY) {
            qatomic_inc(&shared->tight);
            ns_table_cancel(t);
            continue;
        }
        /* Nothing is used that is not promised, before and after. */
        qatomic_sub(&shared->used, trap.own);
        trap.own = 0;
        p = promise(5, want, 0);
        g_assert_true(ns_table_commit(t, &p, 60000, &error_abort));
        g_assert_cmpint(ns_table_left(t), >, 0);
        qatomic_inc(&shared->commits);
        trap.own = want;
        if (qatomic_fetch_add(&shared->used, want) + want > CAPACITY) {
            qatomic_inc(&shared->over);
        }
        sched_yield();
    }
    qatomic_sub(&shared->used, trap.own);
    ns_table_close(t);
    _exit(0);
}

static void test_capacity(void)
{
    Shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    g_autoptr(TestDir) dir = test_dir_new();
    const int lives = 5 * PROCESSES;
    pid_t pid[5 * PROCESSES];

    for (int i = 0; i < lives + PROCESSES; i++) {
        if (i >= PROCESSES) {
            wait_for(pid[i - PROCESSES], (i - PROCESSES) % 3);
        }
        if (i < lives) {
            pid[i] = fork();
            if (!pid[i]) {
                consumer(dir, shared, 7000 + i, i % 3);
            }
        }
    }
    g_test_message("%d commits, %d did not fit", shared->commits,
                   shared->tight);
    g_assert_cmpint(shared->over, ==, 0);
    g_assert_cmpint(shared->used, ==, 0);
    g_assert_cmpint(shared->commits, >, lives);
    g_assert_cmpint(shared->tight, >, 0);
    munmap(shared, sizeof(*shared));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/table/killed", test_killed);
    g_test_add_func("/numa-sched/table/killed-by-another",
                    test_killed_by_another);
    g_test_add_func("/numa-sched/table/child", test_child);
    g_test_add_func("/numa-sched/table/inherited-slot", test_inherited_slot);
    g_test_add_func("/numa-sched/table/capacity", test_capacity);
    return g_test_run();
}
