/*
 * A load with memory on the wrong node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * numaload NAME=VALUE...: memory of the node that the load runs on; then the
 * load goes to another node, and a peer may move memory after it.  One line of
 * results, "DONE name=value...".
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "numaload.h"

#define MPOL_DEFAULT    0
#define MPOL_BIND       2

void die(const char *what)
{
    fprintf(stderr, "numaload: %s: %s\n", what, strerror(errno));
    exit(1);
}

int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void sleep_until(int64_t ns)
{
    struct timespec t = { ns / 1000000000, ns % 1000000000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {
        /* a signal */
    }
}

static void pin(pid_t tid, uint32_t cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(tid, sizeof(set), &set)) {
        die("sched_setaffinity");
    }
}

uint64_t cpu_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

/* A number of a line "NAME ... N" of a file of /proc; 0 without one */
static uint64_t field(const char *file, const char *after, const char *name)
{
    FILE *f = fopen(file, "r");
    char line[512];
    uint64_t value = 0;
    bool found = !after;

    while (f && fgets(line, sizeof(line), f)) {
        found = found || !strncmp(line, after, strlen(after));
        if (found && !strncmp(line, name, strlen(name))) {
            value = atoll(line + strlen(name));
            break;
        }
    }
    if (f) {
        fclose(f);
    }
    return value;
}

static uint64_t large_pages(void)
{
    return field("/proc/self/smaps", "200000000000-", "AnonHugePages:") /
           (HUGE / 1024);
}

static uint64_t vmstat(const char *name)
{
    return field("/proc/vmstat", NULL, name);
}

static uint32_t pages_on(Load *l, int node)
{
    int *status = calloc(l->pages, sizeof(*status));
    uint32_t n = 0;

    if (!status) {
        die("calloc");
    }
    move(l, 0, l->pages, -1, status);
    for (uint32_t i = 0; i < l->pages; i++) {
        n += status[i] == node;
    }
    free(status);
    return n;
}

static void make_memory(Load *l)
{
    size_t bytes = (size_t)l->mib << 20;
    unsigned long both = 1ul << l->from | 1ul << l->to;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

    if (mmap((void *)MARK, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) !=
        (void *)MARK ||
        mmap((void *)DATA, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) !=
        (void *)DATA) {
        die("mmap");
    }
    *(volatile uint64_t *)MARK = 0;     /* makes the page present */
    if (madvise((void *)DATA, bytes,
                l->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE)) {
        die("madvise");
    }
    if (l->bind && syscall(SYS_mbind, DATA, bytes, MPOL_BIND, &both,
                           8 * sizeof(both), 0)) {
        die("mbind");
    }
    pin(0, l->cpu_from);                /* local to it */
    memset((void *)DATA, 1, bytes);
    if (pages_on(l, l->from) != l->pages) {
        errno = ENOMEM;
        die("memory is not on the node it was made for");
    }
}

static void change(Load *l, int64_t until)
{
    sleep_until(until);
    load_permute(l, l->perm[(l->now + 1) & 1], l->now + 2);
    l->now++;
}

typedef struct Changer {
    Load *l;
    int64_t end;
} Changer;

static void *changer_thread(void *opaque)
{
    Changer *c = opaque;
    int64_t step = c->l->phase * 1000000LL;

    for (int64_t t = c->l->start + step; t < c->end; t += step) {
        change(c->l, t);
    }
    return NULL;
}

static void set(Load *l, char *arg)
{
    const struct { const char *name; uint32_t *value; } option[] = {
        { "run", &l->run }, { "mib", &l->mib }, { "skew", &l->skew },
        { "writes", &l->writes }, { "warm", &l->warm },
        { "window", &l->window }, { "interval", &l->interval },
        { "phase", &l->phase }, { "huge", &l->huge }, { "bind", &l->bind },
        { "clustered", &l->clustered }, { "bandwidth", &l->bandwidth },
        { "look", &l->look }, { "epsilon", &l->epsilon }, { "all", &l->all },
        { "from", &l->from }, { "to", &l->to },
        { "cpu-from", &l->cpu_from }, { "cpu-to", &l->cpu_to },
        { "cpu-mover", &l->cpu_mover }, { "tlb", &l->tlb },
    };
    char *value = strchr(arg, '=');

    if (value) {
        *value++ = 0;
        if (!strcmp(arg, "peer")) {
            l->peer = value;
            return;
        }
        for (size_t i = 0; i < sizeof(option) / sizeof(option[0]); i++) {
            if (!strcmp(arg, option[i].name)) {
                *option[i].value = atoll(value);
                return;
            }
        }
    }
    errno = EINVAL;
    die(arg);
}

/*
 * A process that runs on a CPU now and then, so that its TLB is emptied.  That
 * of TCG has room for all pages of the load, and what is in it does not set an
 * accessed bit again; a real one forgets most of them within microseconds.
 */
static pid_t intruder(uint32_t cpu, uint32_t us)
{
    pid_t pid = fork();

    if (pid < 0) {
        die("fork");
    }
    if (pid) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1);
    pin(0, cpu);
    for (;;) {
        sleep_until(now_ns() + us * 1000LL);
    }
}

static const Peer *find(const Peer *p, const char *name)
{
    while (p->name && strcmp(p->name, name)) {
        p++;
    }
    return p->name ? p : NULL;
}

int main(int argc, char **argv)
{
    Load l = {
        .peer = "none", .mib = 32, .skew = 99, .writes = 25, .warm = 500,
        .window = 4000, .interval = 50, .bandwidth = 8192, .look = 100,
        .from = 1, .to = 0, .cpu_from = 2, .cpu_to = 0, .cpu_mover = 0,
    };
    Changer changer = { &l, 0 };
    pthread_t thread, other;
    const Peer *peer;
    pid_t child[2] = { 0, 0 };
    uint64_t large, faults, moved, split, us;
    int64_t end;

    for (int i = 1; i < argc; i++) {
        set(&l, argv[i]);
    }
    peer = find(peers, l.peer);
    peer = peer ? peer : find(ours, l.peer);
    if (!peer || !l.interval || !l.mib || l.mib % 2 || l.mib > 4096) {
        errno = EINVAL;
        die("peer=, interval= or mib=");
    }
    l.pages = l.mib * (1u << 20) / PAGE;
    if (l.tlb) {
        child[0] = intruder(l.cpu_from, l.tlb);
        child[1] = intruder(l.cpu_to, l.tlb);
    }
    load_init(&l);
    make_memory(&l);
    pin(0, l.cpu_from);
    if (peer->open) {
        peer->open(&l);
    }
    if (pthread_create(&thread, NULL, load_thread, &l)) {
        die("pthread_create");
    }
    /* It inherits the CPU; the main thread goes, and later it goes too. */
    pin(0, l.cpu_mover);
    while (!l.tid) {
        sleep_until(now_ns() + 1000000);
    }
    end = now_ns() + l.warm * 1000000LL;
    if (peer->warm) {
        peer->warm(&l, end);
    }
    sleep_until(end);
    large = large_pages();
    faults = vmstat("numa_hint_faults ");
    moved = vmstat("pgmigrate_success ");
    split = vmstat("thp_split_page ");

    pin(l.tid, l.cpu_to);               /* returns when it is there */
    l.start = now_ns();
    end = changer.end = l.start + l.window * 1000000LL;
    if (l.phase && pthread_create(&other, NULL, changer_thread, &changer)) {
        die("pthread_create");
    }
    us = cpu_us();
    if (peer->run) {
        peer->run(&l, end);
    }
    us = cpu_us() - us;
    sleep_until(end + 2 * l.interval * 1000000LL);
    l.quit = true;
    pthread_join(thread, NULL);
    for (int i = 0; l.tlb && i < 2; i++) {
        kill(child[i], SIGKILL);
        waitpid(child[i], NULL, 0);
    }
    if (l.phase) {
        pthread_join(other, NULL);
    }
    printf("DONE run=%u peer=%s accesses=%llu calls=%llu moved=%u "
           "us=%llu warm=%u window=%u look=%u migrated=%llu faults=%llu "
           "large=%llu kept=%llu split=%llu",
           l.run, l.peer, (unsigned long long)l.accesses,
           (unsigned long long)l.calls, pages_on(&l, l.to),
           (unsigned long long)us, l.warm, l.window, l.look,
           (unsigned long long)(vmstat("pgmigrate_success ") - moved),
           (unsigned long long)(vmstat("numa_hint_faults ") - faults),
           (unsigned long long)large, (unsigned long long)large_pages(),
           (unsigned long long)(vmstat("thp_split_page ") - split));
    if (peer->report) {
        peer->report(&l);
    }
    printf("\n");
    if (peer->after) {
        peer->after(&l);
    }
    return 0;
}
