/*
 * A load with memory on the wrong node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The load (load.c) is a thread that reads and writes pages; a peer moves them
 * meanwhile, from the main thread.  What the load did is counted from outside,
 * by tests/plugins/numa-score.c; these addresses and those of the harness
 * (pmemha/numaguest.py) are the same.
 */

#ifndef NUMALOAD_H
#define NUMALOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODE    0x100000000000ULL       /* a page for each CPU */
#define DATA    0x200000000000ULL
#define MARK    (DATA - (2 << 20))
#define PAGES   (MARK + 8)
#define PAGE    4096u
#define HUGE    (2u << 20)

/* Marks: the run, and an interval's number or one of these */
#define MARK_BEGIN  0x80000000u         /* before the first access */
#define MARK_END    0x80000001u         /* after the last one */

/* Counts of all pages: the run, and MARK_BEGIN, or this */
#define WATCHED     0x80000002u         /* when it comes to the other node */

typedef struct Load {
    /* given */
    const char *peer;           /* who moves memory */
    uint32_t run;               /* number of the run, in the marks */
    uint32_t mib;               /* size of the memory */
    uint32_t skew;              /* 1/100: exponent of the Zipf distribution */
    uint32_t writes;            /* percent of the accesses */
    uint32_t warm;              /* ms that the load runs at home before */
    uint32_t window;            /* ms that are scored */
    uint32_t interval;          /* ms from mark to mark */
    uint32_t phase;             /* ms; then other pages are hot.  0: never */
    uint32_t huge;              /* with large pages */
    uint32_t bind;              /* an explicit policy, of both nodes */
    uint32_t clustered;         /* pages that follow in rank and in address */
    uint32_t bandwidth;         /* KiB/s */
    uint32_t look;              /* ms between looks of an estimator */
    uint32_t epsilon, all;      /* see mover.h */
    uint32_t tlb;               /* us that it keeps what it has.  0: for ever */
    uint32_t from, to;          /* nodes */
    uint32_t cpu_from, cpu_to;  /* of the load */
    uint32_t cpu_mover;

    /* found */
    uint32_t pages;
    uint32_t *weight;           /* of each rank; their sum is about 2^32 */
    uint32_t *perm[2];          /* rank to page; [now & 1] is in use */
    volatile uint32_t now;      /* phase */
    uint64_t *threshold;        /* tables of Walker's method */
    uint32_t *alias;
    volatile int tid;           /* of the load's thread */
    volatile int64_t start;     /* of the window */
    volatile bool quit;
    uint64_t accesses;          /* as the load counts them */
    uint64_t calls;             /* of the kernel, to move */
} Load;

int64_t now_ns(void);
uint64_t cpu_us(void);                  /* CPU time of this thread */
void sleep_until(int64_t ns);
/* Ends the program */
void die(const char *what) __attribute__((noreturn));

void load_init(Load *l);
/* Other pages are hot: a permutation by @seed, of every rank */
void load_permute(Load *l, uint32_t *perm, uint64_t seed);
void *load_thread(void *opaque);

/* Nodes of pages; @to >= 0: move them there first.  Ends when it can not. */
void move(Load *l, uint32_t first, uint32_t n, int to, int *status);

/* What moves memory: from its start until @end */
typedef struct Peer {
    const char *name;
    /* Before the load runs; may be NULL */
    void (*open)(Load *l);
    /* While it runs at home, until @end; NULL: nothing */
    void (*warm)(Load *l, int64_t end);
    /* Memory is far, until @end; NULL: nothing moves it */
    void (*run)(Load *l, int64_t end);
    /* Words for the line of results; may be NULL */
    void (*report)(Load *l);
    /* Lines behind that one; may be NULL */
    void (*after)(Load *l);
} Peer;

extern const Peer peers[], ours[];

/* Of the linker: the section of code whose accesses count */
extern const char __start_counted[], __stop_counted[];

#endif
