/*
 * A kernel with nodes and pages, for tests of what moves memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef NUMA_MOVER_FAKE_H
#define NUMA_MOVER_FAKE_H

#include "accel/kvm/numa-sched/mover.h"

#define FAKE_BASE   (1ull << 32)
#define FAKE_NODES  3

typedef struct FakePage {
    int node, first;            /* id; first: where it was; -1: not present */
    bool large;                 /* part of a large page */
    bool pinned;
    int status;                 /* what moving it says, 0: it moves */
    uint32_t moves;
} FakePage;

typedef struct Fake {
    uint32_t n;                 /* pages */
    FakePage *page;
    uint64_t free[FAKE_NODES], size, watermark;
    int policy, first_policy;   /* -1: none */
    bool offline[FAKE_NODES];
    bool no_huge;               /* what is large is not to be known */
    bool pressure;
    uint64_t hugetlb;
    int64_t now;
    uint32_t calls;             /* of anything */
    uint32_t fault_at;          /* call, from 1; 0: none */
    int fault;                  /* errno, or -1: the target goes offline */
    bool fault_stays;
    int target;                 /* id */
    /* What moved in each call: order, time and bytes */
    GArray *log;
    uint64_t asked_in_all;
} Fake;

typedef struct FakeLog {
    uint64_t addr, bytes;
    int64_t time;
    int node;
} FakeLog;

extern const NsMoverSys fake_sys;

/* Pages on node 0, present; node ids 0, 10 and 20 have @capacity bytes each */
Fake *fake_new(uint32_t pages, uint64_t capacity);
void fake_free(Fake *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fake, fake_free)

/* Move all to node 1 (id 10); scores from @score or none */
void fake_config(Fake *f, NsMoverConfig *c, NsMoverRange *r,
                 const uint32_t *score);

/* Step until it is over, at most @steps; returns the number of steps */
uint32_t fake_run(Fake *f, NsMover *m, uint32_t steps);

/* What always holds: places, capacity, that nothing moved twice */
void fake_check(const Fake *f, uint32_t moves);

#endif
