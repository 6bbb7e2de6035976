/*
 * NUMA scheduler: what the files of the mover share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The stepping thread only.
 */

#ifndef NUMA_SCHED_MOVER_INT_H
#define NUMA_SCHED_MOVER_INT_H

#include "qemu/thread.h"
#include "move-journal.h"
#include "move-pace.h"
#include "mover.h"

#define NS_MOVER_PIECE      (64u << 20) /* bytes looked at in one call */
#define NS_MOVER_PAGES      (NS_MOVER_PIECE / NS_PAGE)
#define NS_MOVER_WINDOW     (1u << 20)  /* units ordered at a time, about */

struct NsMover {
    /* Set once */
    NsMoverRange *range;
    char **name;
    uint32_t n_ranges, n_nodes, cpu, target, epsilon;
    int *id;
    uint32_t *ratio;
    bool all;
    void (*scores)(void *opaque, uint64_t addr, uint32_t pages,
                   uint32_t *score);
    void *scores_opaque;
    const NsMoverSys *sys;
    void *sys_opaque;

    NsMoverState state;
    void **before;              /* by range; NULL: not bound */

    /* The window: a part of the memory, which is ordered as one */
    bool scanning;              /* it is not complete */
    bool guess;                 /* what is large was not to be known */
    uint32_t at_range;          /* where the scan goes on */
    uint64_t at_byte;
    uint64_t page_size;         /* of the window; 0: it is empty */
    GArray *unit;               /* NsMoveUnit, by address */
    GArray *origin;             /* uint16_t: src of each, as it was found */
    bool skewed;                /* see move-order.h, of the first order */
    NsMoveOrder *order;
    uint32_t tries;
    uint64_t pass_moved;        /* bytes, since this try began */
    uint64_t settled;           /* bytes that moved or failed in this window */
    uint64_t before_total, before_worth;    /* of earlier windows */

    NsPace pace;
    NsJournal journal, again;   /* again: could not go back, for now */
    uint32_t undo_tries;
    uint64_t undone_before;     /* when this pass began */

    /* Of one call, NS_MOVER_PAGES each */
    void **page;
    int *status, *node, *was;
    uint32_t *size;             /* bytes that go with that address */
    unsigned long *bits;

    /* Under the lock */
    QemuMutex lock;
    bool want_pause, want_abort, want_refresh;
    NsMoverProgress progress;
};

static inline int64_t ns_mover_now(const NsMover *m)
{
    return m->sys->now(m->sys_opaque);
}

static inline void ns_mover_put(NsMover *m, uint32_t i, uint64_t addr,
                                uint32_t bytes)
{
    m->page[i] = (void *)(uintptr_t)addr;
    m->size[i] = bytes;
}

/* Index of a node, -1: none of ours */
int ns_mover_index(const NsMover *m, int id);

/* mover-scan.c: the next slice of the window; 0 or a negative errno */
int ns_mover_scan(NsMover *m);
/* Of the window as it is now */
void ns_mover_make_order(NsMover *m);
void ns_mover_end_window(NsMover *m);

/* Are these 2 MiB a large page now? */
bool ns_mover_is_large(NsMover *m, uint64_t addr);

/* Where the first @n of m->page are: m->status.  0 or a negative errno */
int ns_mover_ask(NsMover *m, uint32_t n);

/*
 * mover-batch.c: move the first @n of m->page to node @id.  m->status is where
 * each is then, or a negative errno; m->was what ns_mover_ask() said before.
 * 0 or a negative errno, in which case some may have moved all the same.
 */
int ns_mover_call(NsMover *m, uint32_t n, int id, int64_t *ns);

/* The next of the order, or of the journal.  When to call again. */
int64_t ns_mover_step_moving(NsMover *m);
int64_t ns_mover_step_undoing(NsMover *m);

/* mover.c: enter a state; all but RUNNING, PAUSED and DONE restore policies */
void ns_mover_enter(NsMover *m, NsMoverState state, int error);

/* Bytes that the target may still take of the window's pages; false: gone */
bool ns_mover_room(const NsMover *m, uint64_t page, uint64_t *bytes);

#endif
