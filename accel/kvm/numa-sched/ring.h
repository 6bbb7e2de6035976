/*
 * NUMA scheduler: pages that KVM's dirty rings say were written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * KVM notes each first write to a page, by vCPU, while dirty logging is on;
 * QEMU reaps these notes once a second, when a ring is full, and when somebody
 * synchronises the log; while dirtylimit is in service, when a ring is full
 * only.  With each reap all pages are clean again.  Who wants to know opens a
 * reader; what comes is kept in a table of its own, which is bounded.
 *
 * Logging is on for all of the guest's memory as long as there are readers.
 */

#ifndef NUMA_SCHED_RING_H
#define NUMA_SCHED_RING_H

#include "heat.h"

#define NS_RING_MOST    (1u << 18)      /* pages that a reader has at a time */

/* Where pages come from: KVM, or a test */
typedef struct NsRingSource {
    /* Are there rings?  Any thread */
    bool (*exists)(void);
    /*
     * Have the main loop call ns_ring_apply() soon.  Any thread, with the lock
     * of all readers held: it may not wait, nor call back
     */
    void (*schedule)(void);
    /* Logging, on and off; by ns_ring_apply() only, in turns */
    bool (*start)(Error **errp);
    void (*stop)(void);
} NsRingSource;

/* Before any reader; @source stays the caller's, NULL: there is none. */
void ns_ring_set_source(const NsRingSource *source);

/* KVM's rings, from now on */
void ns_ring_use_kvm(void);

/* Are there rings?  Any thread */
bool ns_ring_exists(void);

/*
 * Make logging what the readers want now, which is right however often it is
 * called, and however late.  BQL
 */
void ns_ring_apply(void);

/*
 * While @held, logging is not ours to begin, and is ended: what migration
 * begins tells devices, which learn it from nobody else, and the rings are read
 * for it anyway.  BQL, before the migration looks
 */
void ns_ring_hold(bool held);

/*
 * Did logging begin less than NS_RING_FRESH ago?  A migration must not begin
 * then: see docs/system/numa-sched.rst, "Dirty rings".  BQL
 */
#define NS_RING_FRESH   (2ll * 1000000000)      /* ns */
bool ns_ring_is_fresh(void);

typedef struct NsRing NsRing;

/*
 * Read pages of @range, up to NS_HEAT_MAX_RANGES, or all if @n is 0; with
 * @by_vcpu each page once for each vCPU that wrote it.  NULL with @errp set:
 * it is not possible here, and how it would be.  Any thread
 */
NsRing *ns_ring_open(const NsHeatRange *range, uint32_t n, bool by_vcpu,
                     Error **errp);

/* The thread that reads; nothing is added any more when it returns. */
void ns_ring_close(NsRing *ring);

/*
 * What was written since the last time, each page (and vCPU) once, in an order
 * that says nothing; good until the next call.  Their number to @n, and how
 * many did not fit, or more of them, to @lost.  NULL with @errp set: logging
 * could not begin.
 */
const uint64_t *ns_ring_take(NsRing *ring, uint32_t *n, uint64_t *lost,
                             Error **errp);

/* Of what ns_ring_take() returns */
static inline uint64_t ns_ring_addr(uint64_t page)
{
    return page >> 16 << 12;
}

static inline uint32_t ns_ring_vcpu(uint64_t page)
{
    return page & 0xffff;
}

/* Atomic: there are readers */
extern bool ns_ring_is_read;

/*
 * A vCPU wrote to a page, by the address that QEMU has it at; NULL: it has it
 * no more.  Any thread; it does not wait longer than it takes to swap tables,
 * or for another call.
 */
void ns_ring_page(uint32_t vcpu, const void *page);

#endif
