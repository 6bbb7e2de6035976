/*
 * NUMA scheduler: how much pages are used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Estimators differ in what they see and what that costs; each adds what it saw
 * to the same table, which ages.  One thread at a time for each NsHeat.
 */

#ifndef NUMA_SCHED_HEAT_H
#define NUMA_SCHED_HEAT_H

#define NS_HEAT_MAX_RANGES  4096
#define NS_HEAT_USE         256         /* what one use adds */

/* Memory of this process; multiples of 4096 */
typedef struct NsHeatRange {
    uint64_t addr, bytes;
} NsHeatRange;

typedef struct NsHeat NsHeat;

typedef struct NsHeatOps {
    const char *name;           /* of the property "estimator" */
    /*
     * Whatever the estimator keeps, armed; NULL with @errp set: it can not be
     * used here, and why
     */
    void *(*open)(const NsHeatRange *range, uint32_t n, Error **errp);
    /*
     * What was used since the last look, by ns_heat_add(), and arm again.
     * False with @errp set: it can not go on, the next estimator's turn.
     */
    bool (*look)(void *opaque, NsHeat *heat, Error **errp);
    void (*close)(void *opaque);
    bool sees_reads;            /* as well as writes */
    /*
     * However often a page was used since the last look, it counts once: the
     * longer that is, the less it says, and a look may be thrown away.
     */
    bool counts_once;
    /* It takes from others what they may want: "auto" passes it by. */
    bool by_name_only;
    /*
     * May be NULL.  What the last look did not see, for people, the caller's to
     * free; NULL: it saw all that there was.
     */
    char *(*remark)(void *opaque);
} NsHeatOps;

/* Writes, by PAGEMAP_SCAN (since Linux 6.7) and userfaultfd */
extern const NsHeatOps ns_heat_pagemap_scan;
/* Writes, by KVM's dirty rings; of the guest only */
extern const NsHeatOps ns_heat_dirty_ring;
/* Writes, by /proc/self/clear_refs and the soft-dirty bits of its pagemap */
extern const NsHeatOps ns_heat_soft_dirty;
/* Reads and writes, by DAMON: of regions, and for one user of the host */
extern const NsHeatOps ns_heat_damon;
/* Reads and writes, by samples that the hardware takes */
extern const NsHeatOps ns_heat_perf;

/*
 * @name: "auto": the first that works, "none" if no other; otherwise that one,
 * or NULL with @errp set.  @notes: if not NULL, appended a line for
 * each that did not work, and why; the caller's to free.
 * @ops: NULL but in tests: what "auto" tries in turn, ends with NULL.
 */
NsHeat *ns_heat_new(const NsHeatRange *range, uint32_t n, const char *name,
                    const NsHeatOps *const *ops, GPtrArray *notes,
                    Error **errp);
void ns_heat_free(NsHeat *heat);

/* The estimator in use */
const char *ns_heat_name(const NsHeat *heat);
bool ns_heat_sees_reads(const NsHeat *heat);
bool ns_heat_counts_once(const NsHeat *heat);

/*
 * Age what is known, then look.  An estimator that fails is replaced by the
 * next one that works, at last by "none"; @notes: as above, and what it did not
 * see.
 */
void ns_heat_look(NsHeat *heat, GPtrArray *notes);

/*
 * Look, and forget what was seen: only what comes from now on is in the next
 * look.  Estimators that count once; @notes: as above.
 */
void ns_heat_arm(NsHeat *heat, GPtrArray *notes);

/* The part of the memory that the last look found used, 1/1000 */
uint32_t ns_heat_used(const NsHeat *heat);

/* An estimator's: @n more uses of what is at @addr.  Anything is allowed. */
void ns_heat_add(NsHeat *heat, uint64_t addr, uint64_t bytes, uint32_t n);

/* The same, @part / NS_HEAT_USE of a use */
void ns_heat_add_part(NsHeat *heat, uint64_t addr, uint64_t bytes,
                      uint32_t part);

/* Uses of @pages pages from @addr, smoothed; 0 for what is in no range */
void ns_heat_scores(const NsHeat *heat, uint64_t addr, uint32_t pages,
                    uint32_t *score);

/* The score of a page that was found used once in each of @looks looks */
uint32_t ns_heat_full(uint32_t looks);

/* Time that looks took, ns (that of DAMON mostly waits), and their number */
void ns_heat_cost(const NsHeat *heat, uint64_t *ns, uint64_t *looks);

#endif
