/*
 * A load with memory on the wrong node: the load
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "numaload.h"

/*
 * Instructions whose accesses are counted.  They run in a copy of their own for
 * each CPU: with -icount, QEMU 10.0 takes the vCPU that code was translated
 * for, for the one that runs it (gen_cpu_index() of accel/tcg/plugin-gen.c).
 * They use nothing by its address but what they are given.
 */
#define COUNTED __attribute__((section("counted"), noinline, noclone))


#define BATCH   1024

#define WRITE   1                       /* bit of an address: store to it */

typedef struct Walk {
    const uint64_t *threshold;
    const uint32_t *alias, *perm;
    uint32_t pages, writes;             /* writes: of 128 */
    uint64_t random;
    uint64_t addr[BATCH];
} Walk;

/* Walker's method: a rank, or its alias.  Not counted, so that it is fast. */
static void draw(Walk *w)
{
    uint64_t x = w->random;

    for (unsigned int i = 0; i < BATCH; i++) {
        uint32_t rank;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        rank = ((x >> 32) * w->pages) >> 32;
        if ((uint32_t)(x * 0x9e3779b97f4a7c15ULL >> 32) >= w->threshold[rank]) {
            rank = w->alias[rank];
        }
        w->addr[i] = DATA + (uint64_t)w->perm[rank] * PAGE + (x & 63) * 64 +
                     (((x >> 8) & 127) < w->writes ? WRITE : 0);
    }
    w->random = x;
}

static void COUNTED touch(const uint64_t *addr)
{
    for (const uint64_t *end = addr + BATCH; addr < end; addr++) {
        if (*addr & WRITE) {
            *(volatile uint64_t *)(*addr - WRITE) = 1;  /* is counted */
        } else {
            (void)*(volatile uint64_t *)*addr;  /* is counted */
        }
    }
}

static void COUNTED mark(uint64_t value)
{
    *(volatile uint64_t *)MARK = value; /* is seen from outside */
}

static void COUNTED count_pages(uint64_t value)
{
    *(volatile uint64_t *)PAGES = value;        /* is seen from outside */
}

/* The copy of a function for a CPU */
static uint64_t copy_of(void *function, uint32_t cpu)
{
    return CODE + (uint64_t)cpu * PAGE +
           ((const char *)function - __start_counted);
}

static void copy_code(uint32_t cpu)
{
    void *at = (void *)(CODE + (uint64_t)cpu * PAGE);

    if (__stop_counted - __start_counted > PAGE ||
        mmap(at, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
             -1, 0) != at) {
        die("mmap of the code");
    }
    memcpy(at, __start_counted, __stop_counted - __start_counted);
}

static void mark_from(uint32_t cpu, uint64_t value)
{
    ((void (*)(uint64_t))copy_of(mark, cpu))(value);
}

static void pages_from(uint32_t cpu, uint64_t value)
{
    ((void (*)(uint64_t))copy_of(count_pages, cpu))(value);
}

static uint64_t next(uint64_t *x)
{
    *x += 0x9e3779b97f4a7c15ULL;
    uint64_t z = *x;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

void load_permute(Load *l, uint32_t *perm, uint64_t seed)
{
    /* Of clusters first, whose places become those of their pages. */
    uint32_t size = l->clustered ? l->clustered : 1, n = l->pages / size;

    for (uint32_t i = 0; i < n; i++) {
        perm[i] = i;
    }
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = next(&seed) % i;
        uint32_t t = perm[i - 1];

        perm[i - 1] = perm[j];
        perm[j] = t;
    }
    for (uint32_t i = l->pages; i-- > 0; ) {
        perm[i] = i < n * size ? perm[i / size] * size + i % size : i;
    }
}

void load_init(Load *l)
{
    uint32_t n = l->pages, small = 0, large = 0;
    double *p = calloc(n, sizeof(*p)), sum = 0;
    uint32_t *todo = calloc(n, sizeof(*todo));

    l->weight = calloc(n, sizeof(*l->weight));
    l->perm[0] = calloc(n, sizeof(uint32_t));
    l->perm[1] = calloc(n, sizeof(uint32_t));
    l->threshold = calloc(n, sizeof(*l->threshold));
    l->alias = calloc(n, sizeof(*l->alias));
    if (!p || !todo || !l->weight || !l->perm[0] || !l->perm[1] ||
        !l->threshold || !l->alias) {
        die("calloc");
    }
    for (uint32_t i = 0; i < n; i++) {
        p[i] = pow(i + 1, -(double)l->skew / 100);
        sum += p[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        l->weight[i] = p[i] / sum * UINT32_MAX;
        p[i] *= n / sum;
        /* those below the average from the front, others from the back */
        todo[p[i] < 1 ? small++ : n - ++large] = i;
    }
    while (small && large) {
        uint32_t s = todo[--small], b = todo[n - large];

        l->threshold[s] = p[s] * 0x1p32;
        l->alias[s] = b;
        p[b] -= 1 - p[s];
        if (p[b] < 1) {
            large--;
            todo[small++] = b;
        }
    }
    while (small) {
        l->threshold[todo[--small]] = 1ULL << 32;
    }
    while (large) {
        l->threshold[todo[n - large--]] = 1ULL << 32;
    }
    load_permute(l, l->perm[0], 1);
    copy_code(l->cpu_from);
    copy_code(l->cpu_to);
    free(p);
    free(todo);
}

void *load_thread(void *opaque)
{
    Load *l = opaque;
    Walk w = {
        .threshold = l->threshold, .alias = l->alias, .pages = l->pages,
        .writes = l->writes * 128 / 100, .random = 88172645463325252ULL,
    };
    uint64_t run = (uint64_t)l->run << 32, i = 0;
    uint32_t cpu = l->cpu_from;
    bool watched = false;

    l->tid = gettid();
    mark_from(cpu, run | MARK_BEGIN);
    pages_from(cpu, run | MARK_BEGIN);
    while (!l->quit) {
        int64_t start = l->start;       /* set when the CPU is */

        cpu = start ? l->cpu_to : l->cpu_from;
        if (start && !watched) {
            watched = true;
            pages_from(cpu, run | WATCHED);
        }
        w.perm = l->perm[l->now & 1];
        draw(&w);
        ((void (*)(const uint64_t *))copy_of(touch, cpu))(w.addr);
        l->accesses += BATCH;
        /* What passed unseen is marked at once: no interval goes missing. */
        while (start && i <= l->window / l->interval &&
               now_ns() >= start + (int64_t)(i * l->interval * 1000000)) {
            mark_from(cpu, run | i++);
        }
    }
    mark_from(cpu, run | MARK_END);
    return NULL;
}
