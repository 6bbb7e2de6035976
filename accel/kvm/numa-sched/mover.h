/*
 * NUMA scheduler: move memory to a node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What moves when is of move-order.h, how fast of move-pace.h.  This asks the
 * kernel.  The caller's thread calls ns_mover_step() when it said so; nothing
 * here blocks for longer than one batch.  All functions: that thread, but
 * ns_mover_pause(), ns_mover_abort() and ns_mover_progress(): any thread.
 */

#ifndef NUMA_SCHED_MOVER_H
#define NUMA_SCHED_MOVER_H

#include "move-order.h"

#define NS_MOVER_MAX_RANGES 4096

/* A mapping of the guest's memory; multiples of the page size */
typedef struct NsMoverRange {
    uint64_t addr, bytes;
    uint64_t page;              /* 4096, or that of hugetlbfs: 2 MiB */
    const char *name;           /* of the memory backend, for messages */
} NsMoverRange;

/* The kernel; tests have their own.  Errors are negative errno. */
typedef struct NsMoverSys {
    /* move_pages(2) of this process; @nodes NULL: ask */
    long (*move_pages)(void *opaque, unsigned long n, void **pages,
                       const int *nodes, int *status);
    /*
     * New pages of the range go to @node from now on.  *@before: what is needed
     * to undo that, for g_free(); untouched when it fails.
     */
    int (*bind)(void *opaque, uint64_t addr, uint64_t bytes, int node,
                void **before);
    /* The policy as it was */
    int (*unbind)(void *opaque, uint64_t addr, uint64_t bytes,
                  const void *before);
    /*
     * Which pages of 4096 bytes from @addr are mapped by large pages: set bits.
     * 0: exactly these; otherwise @bitmap means nothing, and any may be.
     */
    int (*huge)(void *opaque, uint64_t addr, uint64_t bytes,
                unsigned long *bitmap);
    /* Bytes of the node: free, size, high watermark; false: not online */
    bool (*node)(void *opaque, int node, uint64_t *free, uint64_t *size,
                 uint64_t *watermark);
    /* Bytes of free hugetlbfs pages of that size */
    uint64_t (*hugetlb)(void *opaque, int node, uint64_t page);
    bool (*pressure)(void *opaque);     /* CPUs or memory are short */
    int64_t (*now)(void *opaque);       /* ns */
} NsMoverSys;

extern const NsMoverSys ns_mover_linux;

typedef struct NsMoverConfig {
    const NsMoverRange *range;
    uint32_t n_ranges;          /* 1 to NS_MOVER_MAX_RANGES */
    uint32_t n;                 /* nodes */
    const int *id;              /* of each; no two are equal */
    const uint32_t *ratio;      /* see NsMoveHost */
    uint32_t cpu, target;       /* indices */
    uint64_t bandwidth;         /* see move-pace.h */
    uint32_t invalidations;
    uint32_t epsilon;           /* see move-order.h */
    bool all;                   /* also what is not worth it */
    /* Uses of pages, or NULL; @opaque of it.  In the stepping thread */
    void (*scores)(void *opaque, uint64_t addr, uint32_t pages,
                   uint32_t *score);
    void *scores_opaque;
} NsMoverConfig;

typedef enum NsMoverState {
    NS_MOVER_RUNNING,
    NS_MOVER_PAUSED,
    NS_MOVER_UNDOING,           /* aborted: gives back what moved */
    NS_MOVER_DONE,              /* all that is worth it has moved */
    NS_MOVER_FULL,              /* the target has no room */
    NS_MOVER_UNDONE,
    NS_MOVER_FAILED,            /* see error */
} NsMoverState;

typedef struct NsMoverProgress {
    NsMoverState state;
    uint64_t total;             /* bytes that gain */
    uint64_t worth;             /* of these, worth it */
    uint64_t moved, failed, lost, undone;   /* bytes */
    /*
     * failed: of the total, what stays though it was asked for: busy again and
     * again, or used by other processes, too.  lost: of what moved, what can
     * not go back.
     */
    uint64_t huge_moved;        /* large pages moved whole */
    uint64_t calls, units;      /* move_pages, invalidations */
    uint64_t ns;                /* taken by the calls */
    bool scored;                /* false: in the order of addresses */
    int error;                  /* errno of what ended it; 0: nothing did */
} NsMoverProgress;

typedef struct NsMover NsMover;

/*
 * NULL with @errp set, and nothing changed: what can not move, by name (pages
 * of hugetlbfs other than 2 MiB, or when the target has none free; a target
 * that is not online; no permission).  Pages that are pinned or locked are only
 * found when they are asked for: these count as failed.  Never calls scores().
 * @sys_opaque: for @sys; NULL for ns_mover_linux.
 */
NsMover *ns_mover_new(const NsMoverConfig *config, const NsMoverSys *sys,
                      void *sys_opaque, Error **errp);

/*
 * What was not undone stays where it is.  Policies are as they were, unless it
 * was done.
 */
void ns_mover_free(NsMover *mover);

/*
 * Does what there is to do now, at most one batch.  Returns the time (ns of
 * sys->now()) of the next call, INT64_MAX when it is over or paused.
 */
int64_t ns_mover_step(NsMover *mover);

/* Heat, or where memory is, has changed: the next step makes the order again */
void ns_mover_refresh(NsMover *mover);

void ns_mover_pause(NsMover *mover, bool paused);

/*
 * Give back what moved, and the policy, in the next steps; also when it is DONE
 * or FULL.  Waits while paused.
 */
void ns_mover_abort(NsMover *mover);

void ns_mover_progress(const NsMover *mover, NsMoverProgress *progress);

/*
 * What ns_mover_new() with this configuration would move, without moving
 * anything.  Looks at all memory at once.  False with @errp set: it could not.
 */
bool ns_mover_dry_run(const NsMoverConfig *config, const NsMoverSys *sys,
                      void *sys_opaque, NsMoverProgress *progress,
                      Error **errp);

#endif
