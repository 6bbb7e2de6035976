/*
 * NUMA scheduler: what memory moves first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure, as plan.h; the formulas are in docs/devel/numa-sched.rst, "Moving
 * memory".  No function keeps state but in what it is given: one thread at a
 * time for each NsMoveOrder.
 */

#ifndef NUMA_SCHED_MOVE_ORDER_H
#define NUMA_SCHED_MOVE_ORDER_H

#include "plan.h"

#define NS_MOVE_MAX_UNITS   (1u << 28)      /* 1 TiB in small pages */
#define NS_MOVE_HUGE        (2u << 20)      /* bytes of a large page */
#define NS_MOVE_SUBPAGES    (NS_MOVE_HUGE / NS_PAGE)
#define NS_MOVE_EPSILON     250             /* 1/1000 */
#define NS_MOVE_MAX_EPSILON 500
#define NS_MOVE_SPLIT_MIN   128             /* accesses; fewer say nothing */

/* What moves as one: a page of 4096 bytes, or a large one, which stays whole */
typedef struct NsMoveUnit {
    uint64_t addr;              /* multiple of bytes; no two overlap */
    uint32_t bytes;             /* NS_PAGE or NS_MOVE_HUGE */
    uint32_t score;             /* accesses seen, smoothed; not scaled */
    uint16_t src;               /* index of the node that it is on */
    uint8_t busy;               /* times that it was asked for in vain */
    uint32_t done;              /* bytes of it that moved, or never will */
    bool write_hot;             /* often written: moving it may have to retry */
    bool shared;                /* used from several nodes: it stays */
} NsMoveUnit;

typedef struct NsMoveHost {
    uint32_t n;                 /* 1 to NS_MAX_NODES */
    const uint32_t *ratio;      /* n * n: r(i,j), 1 to NS_MAX_RATIO */
    uint32_t cpu;               /* index of the node that the group runs on */
    uint32_t target;            /* index of the node that memory goes to */
    uint32_t tries;             /* units that were busy more often wait */
} NsMoveHost;

typedef struct NsMoveOrder {
    uint32_t n;                 /* units that gain, or would if used */
    uint32_t *unit;             /* their indices, the first to move first */
    uint32_t hot;               /* of these, seen used: they come first */
    uint32_t stop;              /* those before this place are worth it */
    uint64_t bytes;             /* of all n */
    uint64_t stop_bytes;        /* of those worth it */
    uint64_t busy_bytes;        /* of those that wait, which are not among n */
    /* False: no unit was seen used, and the order is that of addresses */
    bool scored;
    /* False: heat differs by no more than chance, so that all are worth it */
    bool skewed;
    uint32_t next;              /* place of the next one to take */
} NsMoveOrder;

/*
 * The order of @unit, @n of them, at most NS_MOVE_MAX_UNITS.  A unit that is
 * shared, or no farther from the CPUs than the target, is left out, and so is
 * one that waits.
 * @epsilon (1/1000, at most NS_MOVE_MAX_EPSILON; 0: all are worth it): a unit
 * that brings less per byte than that part of the average over all that gain is
 * not worth moving.  Where heat is even, all are.
 */
NsMoveOrder *ns_move_order(const NsMoveHost *host, const NsMoveUnit *unit,
                           uint32_t n, uint32_t epsilon);

void ns_move_order_free(NsMoveOrder *order);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsMoveOrder, ns_move_order_free)

/*
 * Take the next units: at most @units and @bytes, but one at least while
 * one is left, however large it is.  Returns how many; their indices are the
 * last ones before place order->next.  @all: those that are not worth it, too.
 *
 * When scores change, note the new node in the units that have moved, and call
 * ns_move_order() again: what is on the target gains nothing, so that nothing
 * moves twice.
 */
uint32_t ns_move_take(NsMoveOrder *order, const NsMoveUnit *unit,
                      uint64_t bytes, uint32_t units, bool all);

/* Bytes of the next unit that ns_move_take() would take; 0: none */
uint32_t ns_move_next(const NsMoveOrder *order, const NsMoveUnit *unit,
                      bool all);

/*
 * Is it worth splitting a large page, whose pages have these scores, to move
 * the hot ones alone?  Only when there is no time to move it whole
 * (@hurry), and one page in ten has more than 4/5 of the accesses.
 */
bool ns_move_split(const uint32_t score[NS_MOVE_SUBPAGES], bool hurry);

/*
 * Bytes that may come to a node with @free of @size bytes free, so that it
 * keeps 1/20 of its size above @watermark bytes, the kernel's high watermark.
 * Any values.
 */
uint64_t ns_move_room(uint64_t free, uint64_t size, uint64_t watermark);

#endif
