/*
 * A kernel with a second NUMA node, for a QEMU on a host that has one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Preloaded.  Node 1 is as large as node 0; a page is there when move_pages(2)
 * was told to move it there.  What fails is in environment variables:
 *
 * TWONODES_MOVE="N ERRNO"   calls that move fail, but for the first N
 * TWONODES_BUSY=N           each page is busy the first N times
 * TWONODES_OFFLINE=N        node 1 goes after it was asked for N times
 * TWONODES_BIND=N           the Nth call that binds a thread fails
 * TWONODES_SLOW=MS          to ask where pages are takes so long
 * TWONODES_CPU=N            memory is twice as far from CPU N for threads that
 *                           bind themselves, as the one that measures latencies
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS   (1u << 16)      /* pages that are remembered */
#define NODE    "/sys/devices/system/node/node"

typedef struct Page {
    uintptr_t addr;
    int node, busy;
} Page;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Page page[SLOTS];
static int moves, asked, binds;
static __thread bool binds_itself;      /* as the one that measures does */

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);

    return text ? atol(text) : otherwise;
}

static Page *find(void *addr)
{
    uintptr_t a = (uintptr_t)addr;
    uint32_t i = (a >> 12) * 2654435761u % SLOTS;

    for (uint32_t k = 0; k < SLOTS; k++, i = (i + 1) % SLOTS) {
        if (page[i].addr == a) {
            return &page[i];
        }
        if (!page[i].addr) {
            page[i] = (Page) { .addr = a };
            return &page[i];
        }
    }
    abort();
}

static long raw(long n, const long *a)
{
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    long ret;

    __asm__ volatile ("syscall" : "=a" (ret)
                      : "a" (n), "D" (a[0]), "S" (a[1]), "d" (a[2]), "r" (r10),
                        "r" (r8), "r" (r9)
                      : "rcx", "r11", "memory");
    return ret;
}

static void slow_down(void)
{
    long ms = number("TWONODES_SLOW", 0);
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

    if (ms) {
        nanosleep(&ts, NULL);
    }
}

static long move_pages(const long *a)
{
    void **at = (void **)a[2];
    const int *to = (const int *)a[3];
    int *status = (int *)a[4];
    long query[6] = { a[0], a[1], a[2], 0, a[4], 0 };
    long ret = raw(SYS_move_pages, query), good = 0;
    const char *fault = getenv("TWONODES_MOVE");
    int error = 0;

    if (ret < 0) {
        return ret;
    }
    if (!to) {
        slow_down();
    }
    pthread_mutex_lock(&lock);
    if (to && fault && sscanf(fault, "%ld %d", &good, &error) == 2 &&
        moves++ >= good) {
        pthread_mutex_unlock(&lock);
        return -error;
    }
    for (long i = 0; i < a[1]; i++) {
        Page *p;

        if (status[i] < 0) {
            continue;
        }
        p = find(at[i]);
        if (to && p->node != to[i] && p->busy < number("TWONODES_BUSY", 0)) {
            p->busy++;
            status[i] = -EBUSY;
            continue;
        }
        p->node = to ? to[i] : p->node;
        status[i] = p->node;
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

/* A policy may name node 1: then there is nothing to be done. */
static bool names_node_1(const long *a)
{
    const unsigned long *mask = (const unsigned long *)a[3];

    return mask && a[4] > 1 && (mask[0] & 2);
}

long syscall(long n, ...)
{
    long a[6], ret;
    va_list ap;

    va_start(ap, n);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(ap, long);
    }
    va_end(ap);
    ret = n == SYS_move_pages ? move_pages(a) :
          n == SYS_mbind && names_node_1(a) ? 0 : raw(n, a);
    if (ret < 0 && ret > -4096) {
        errno = -ret;
        return -1;
    }
    return ret;
}

/* Of large pages one address moves all; here there are none. */
static void __attribute__((constructor)) no_large_pages(void)
{
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

/*
 * What is said of node 1 is what is said of node 0.  How much others wait on
 * this host is not said.
 */
static const char *of_node_0(const char *path, char *other, size_t size)
{
    static const char name[] = NODE "1/";

    if (!strncmp(path, "/proc/pressure/", strlen("/proc/pressure/"))) {
        return NODE "none";
    }
    if (strncmp(path, name, strlen(name)) || strlen(path) >= size) {
        return path;
    }
    if (asked++ >= number("TWONODES_OFFLINE", INT32_MAX)) {
        return NODE "none";
    }
    strcpy(other, path);
    other[strlen(NODE)] = '0';
    return other;
}

static int open_as(const char *name, const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    char other[256];

    return next(of_node_0(path, other, sizeof(other)), flags, mode);
}

#define OPEN(name)                                              \
    int name(const char *path, int flags, ...)                  \
    {                                                           \
        mode_t mode = 0;                                        \
        va_list ap;                                             \
                                                                \
        if (flags & (O_CREAT | O_TMPFILE)) {                    \
            va_start(ap, flags);                                \
            mode = va_arg(ap, mode_t);                          \
            va_end(ap);                                         \
        }                                                       \
        return open_as(#name, path, flags, mode);               \
    }

OPEN(open)
OPEN(open64)

int sched_setaffinity(pid_t tid, size_t size, const cpu_set_t *set)
{
    long a[6] = { tid, size, (long)set };
    long ret;

    binds_itself |= tid == gettid();
    ret = __atomic_add_fetch(&binds, 1, __ATOMIC_SEQ_CST) ==
               number("TWONODES_BIND", 0) ? -EPERM :
               raw(SYS_sched_setaffinity, a);

    errno = ret < 0 ? -ret : errno;
    return ret < 0 ? -1 : 0;
}

/* Each time that it is asked for, a millisecond has passed; far away, two. */
static bool made_up(struct timespec *ts)
{
    static __thread uint64_t ns;
    long a[6] = { CLOCK_THREAD_CPUTIME_ID, (long)ts };
    long far = number("TWONODES_CPU", -1);

    if (far < 0 || !binds_itself) {
        return false;
    }
    if (!ns && !raw(SYS_clock_gettime, a)) {
        ns = ts->tv_sec * 1000000000ull + ts->tv_nsec;
    }
    ns += sched_getcpu() == far ? 2000000 : 1000000;
    *ts = (struct timespec) { ns / 1000000000, ns % 1000000000 };
    return true;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    long a[6] = { id, (long)ts };
    static int (*next)(clockid_t, struct timespec *);

    if (id == CLOCK_THREAD_CPUTIME_ID) {
        return made_up(ts) ? 0 : raw(SYS_clock_gettime, a);
    }
    if (!next) {
        next = dlsym(RTLD_NEXT, "clock_gettime");
    }
    return next(id, ts);
}
