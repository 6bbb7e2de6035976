/*
 * NUMA scheduler: memory that moves, on the kernel that runs here
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For hosts with one node, too: what moves there is nothing.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitops.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "accel/kvm/numa-sched/mover.h"

#define BYTES       (8u << 20)
#define ABSENT      1021            /* no host has it */
#define DEFAULT     0               /* MPOL_DEFAULT */
#define BIND        2
#define OF_ADDRESS  2               /* MPOL_F_ADDR */

static const uint32_t ratio[] = { 1000000, 2000000, 2000000, 1000000 };
static const int ids[] = { ABSENT, 0 };

typedef struct Memory {
    char *at;
    NsMoverRange r;
    NsMoverConfig c;
} Memory;

/* Half of it is there */
static void memory_new(Memory *mem, uint32_t target)
{
    mem->at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(mem->at != MAP_FAILED);
    madvise(mem->at, BYTES, MADV_NOHUGEPAGE);
    memset(mem->at, 1, BYTES / 2);
    mem->r = (NsMoverRange) { .addr = (uintptr_t)mem->at, .bytes = BYTES,
                              .page = NS_PAGE, .name = "real" };
    mem->c = (NsMoverConfig) {
        .range = &mem->r, .n_ranges = 1, .n = 2, .id = ids, .ratio = ratio,
        .cpu = target, .target = target, .bandwidth = NS_BANDWIDTH,
    };
}

static uint32_t present(const Memory *mem)
{
    unsigned char vec[BYTES / NS_PAGE];
    uint32_t n = 0;

    g_assert_cmpint(mincore(mem->at, BYTES, vec), ==, 0);
    for (uint32_t i = 0; i < BYTES / NS_PAGE; i++) {
        n += vec[i] & 1;
    }
    return n;
}

static int policy(const char *at)
{
    int mode = -1;
    unsigned long mask[64];

    g_assert_cmpint(syscall(__NR_get_mempolicy, &mode, mask, 4096, at,
                            OF_ADDRESS), ==, 0);
    return mode;
}

static bool usable(void)
{
    uint64_t a, b, c;
    int mode;

    if (qemu_real_host_page_size() != NS_PAGE ||
        !ns_mover_linux.node(NULL, 0, &a, &b, &c) ||
        syscall(__NR_get_mempolicy, &mode, NULL, 0, NULL, 0)) {
        g_test_skip("no node 0 of 4 KiB pages, or no policies of memory");
        return false;
    }
    return true;
}

static void test_query(void)
{
    void *page[BYTES / NS_PAGE];
    int status[BYTES / NS_PAGE];
    uint32_t there = 0;
    Memory mem;

    if (!usable()) {
        return;
    }
    memory_new(&mem, 1);
    for (uint32_t i = 0; i < BYTES / NS_PAGE; i++) {
        page[i] = mem.at + i * NS_PAGE;
    }
    g_assert_cmpint(ns_mover_linux.move_pages(NULL, BYTES / NS_PAGE, page, NULL,
                                              status), ==, 0);
    for (uint32_t i = 0; i < BYTES / NS_PAGE; i++) {
        there += status[i] >= 0;
    }
    g_assert_cmpuint(there, ==, BYTES / 2 / NS_PAGE);
    g_assert_cmpuint(present(&mem), ==, BYTES / 2 / NS_PAGE);
    munmap(mem.at, BYTES);
}

static void test_node(void)
{
    uint64_t free = 0, size = 0, watermark = 0;

    if (!usable()) {
        return;
    }
    g_assert_true(ns_mover_linux.node(NULL, 0, &free, &size, &watermark));
    g_assert_cmpuint(size, >, free);
    g_assert_cmpuint(watermark, >, 0);
    g_assert_cmpuint(watermark, <, size);
    g_assert_false(ns_mover_linux.node(NULL, ABSENT, &free, &size,
                                       &watermark));
    g_assert_cmpuint(ns_mover_linux.hugetlb(NULL, ABSENT, NS_MOVE_HUGE), ==, 0);
    ns_mover_linux.pressure(NULL);
}

/*
 * All is there already: nothing moves, nothing is touched, and policies go back
 * with an abort
 */
static void test_nothing_to_do(void)
{
    unsigned long only = 1;
    NsMoverProgress p;
    int64_t next = 0;
    NsMover *m;
    Memory mem;

    if (!usable()) {
        return;
    }
    memory_new(&mem, 1);
    g_assert_cmpint(syscall(__NR_mbind, mem.at + BYTES / 4, BYTES / 4, BIND,
                            &only, 64, 0), ==, 0);
    m = ns_mover_new(&mem.c, &ns_mover_linux, NULL, &error_abort);
    g_assert_cmpint(policy(mem.at) & 0xff, ==, 1);
    g_assert_cmpint(policy(mem.at + BYTES / 4) & 0xff, ==, 1);
    for (int i = 0; next != INT64_MAX; i++) {
        g_assert_cmpint(i, <, 100);
        next = ns_mover_step(m);
    }
    ns_mover_progress(m, &p);
    g_assert_cmpint(p.state, ==, NS_MOVER_DONE);
    g_assert_cmpuint(p.total + p.moved + p.calls, ==, 0);
    g_assert_cmpuint(present(&mem), ==, BYTES / 2 / NS_PAGE);
    ns_mover_abort(m);
    ns_mover_step(m);
    ns_mover_progress(m, &p);
    g_assert_cmpint(p.state, ==, NS_MOVER_UNDONE);
    g_assert_cmpint(policy(mem.at), ==, DEFAULT);
    g_assert_cmpint(policy(mem.at + BYTES / 4), ==, BIND);
    g_assert_cmpint(policy(mem.at + BYTES / 2), ==, DEFAULT);
    ns_mover_free(m);
    munmap(mem.at, BYTES);
}

static void test_absent(void)
{
    g_autofree char *name = g_strdup_printf("node %d", ABSENT);
    Error *err = NULL;
    Memory mem;

    if (!usable()) {
        return;
    }
    memory_new(&mem, 0);
    g_assert_null(ns_mover_new(&mem.c, &ns_mover_linux, NULL, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), name));
    g_assert_nonnull(strstr(error_get_pretty(err), "'real'"));
    error_free(err);
    g_assert_cmpint(policy(mem.at), ==, DEFAULT);
    munmap(mem.at, BYTES);
}

/* What is large is found, where there is such a page and the kernel tells */
static void test_large(void)
{
    unsigned long bits[NS_MOVE_SUBPAGES / BITS_PER_LONG] = { };
    char *at = mmap(NULL, 2 * NS_MOVE_HUGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *page = (char *)QEMU_ALIGN_UP((uintptr_t)at, NS_MOVE_HUGE);
    int ret;

    g_assert_true(at != MAP_FAILED);
    madvise(page, NS_MOVE_HUGE, MADV_HUGEPAGE);
    memset(page, 1, NS_MOVE_HUGE);
    ret = ns_mover_linux.huge(NULL, (uintptr_t)page, NS_MOVE_HUGE, bits);
    if (ret) {
        g_test_skip("the kernel does not tell what is large (before 6.7)");
    } else if (!bits[0]) {
        g_test_skip("no large page is to be had");
    } else {
        for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
            g_assert_cmphex(bits[i], ==, ~0ul);
        }
        memset(bits, 0, sizeof(bits));
        madvise(page, NS_PAGE, MADV_DONTNEED);
        g_assert_cmpint(ns_mover_linux.huge(NULL, (uintptr_t)page, NS_MOVE_HUGE,
                                            bits), ==, 0);
        g_assert_cmphex(bits[0], ==, 0);
    }
    munmap(at, 2 * NS_MOVE_HUGE);
}

static bool deny(int number, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

/* In a child: 0 when it is refused, with that reason, and nothing changed */
static int refused(int number, int error, const char *call)
{
    Error *err = NULL;
    Memory mem;
    NsMover *m;

    memory_new(&mem, 1);
    if (!deny(number, error)) {
        return 77;
    }
    m = ns_mover_new(&mem.c, &ns_mover_linux, NULL, &err);
    if (m || !strstr(error_get_pretty(err), call) ||
        !strstr(error_get_pretty(err), strerror(error)) ||
        !strstr(error_get_pretty(err), "'real'")) {
        return 1;
    }
    return policy(mem.at) == DEFAULT &&
           present(&mem) == BYTES / 2 / NS_PAGE ? 0 : 2;
}

static void test_denied(gconstpointer opaque)
{
    int error = GPOINTER_TO_INT(opaque);
    static const struct {
        int number;
        const char *name;
    } call[] = {
        { __NR_move_pages, "move_pages" }, { __NR_mbind, "mbind" },
    };

    if (!usable()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(call); i++) {
        pid_t pid = fork();
        int status;

        if (!pid) {
            _exit(refused(call[i].number, error, call[i].name));
        }
        g_assert_cmpint(pid, >, 0);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77) {
            g_test_skip("no seccomp filter can be had");
            return;
        }
        g_assert_cmpint(WEXITSTATUS(status), ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/mover-linux/query", test_query);
    g_test_add_func("/numa-sched/mover-linux/node", test_node);
    g_test_add_func("/numa-sched/mover-linux/nothing-to-do",
                    test_nothing_to_do);
    g_test_add_func("/numa-sched/mover-linux/absent", test_absent);
    g_test_add_func("/numa-sched/mover-linux/large", test_large);
    g_test_add_data_func("/numa-sched/mover-linux/eperm",
                         GINT_TO_POINTER(EPERM), test_denied);
    g_test_add_data_func("/numa-sched/mover-linux/enosys",
                         GINT_TO_POINTER(ENOSYS), test_denied);
    return g_test_run();
}
