/*
 * NUMA scheduler: the bytes of the table that several QEMUs share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure; any thread.  docs/devel/numa-sched.rst has the layout, "Several QEMUs".
 * Nothing in the bytes is trusted: they may be any.
 */

#ifndef NUMA_SCHED_TABLE_FORMAT_H
#define NUMA_SCHED_TABLE_FORMAT_H

#include "plan.h"
#include "topology.h"

#define NS_TABLE_SLOTS      256
#define NS_TABLE_RECORD     1024        /* bytes: of the header, of a slot */
#define NS_TABLE_BYTES      ((NS_TABLE_SLOTS + 1) * NS_TABLE_RECORD)
#define NS_PROMISE_NODES    31
#define NS_PROMISE_MAX_TERM 600000      /* ms */

/* What is about to happen on a node */
typedef struct NsPromiseNode {
    uint32_t id;                /* the host's number of it */
    uint32_t cpu_comes;         /* 1/1000 CPU, at most NS_MAX_CPU */
    uint32_t cpu_leaves;
    uint64_t comes;             /* bytes, at most NS_MAX_BYTES */
    uint64_t leaves;
} NsPromiseNode;

/* What one QEMU is about to do; {} is nothing */
typedef struct NsPromise {
    uint32_t n;
    NsPromiseNode node[NS_PROMISE_NODES];   /* by ascending id */
} NsPromise;

/*
 * Add to a promise; figures that get too large stay at their limit.  When it
 * has no place, a node that something only leaves is left out.  False: @what,
 * some of which comes, does not fit, or its id is not below NS_MAX_NODES; the
 * promise is as it was.
 */
bool ns_promise_add(NsPromise *promise, const NsPromiseNode *what);

/* A slot that somebody has used */
typedef struct NsSlot {
    uint64_t sequence;          /* another one with each promise */
    uint32_t pid;               /* of the owner, for people only */
    uint32_t term;              /* ms; 0 only when nothing is promised */
    NsPromise promise;
} NsSlot;

typedef enum NsRecord {
    NS_RECORD_UNUSED,           /* zeros */
    NS_RECORD_GOOD,
    NS_RECORD_DAMAGED,
    NS_RECORD_VERSION,          /* a header of another version or size */
} NsRecord;

/* NS_TABLE_RECORD bytes at @record */
void ns_table_encode_header(uint8_t *record);
NsRecord ns_table_decode_header(const uint8_t *record);

/*
 * @slot is within the ranges above.  Each slot has one encoding: what decodes
 * as good is what is encoded again.
 */
void ns_table_encode_slot(uint8_t *record, const NsSlot *slot);

/* All of @slot is set; it is empty unless the record is good. */
NsRecord ns_table_decode_slot(const uint8_t *record, NsSlot *slot);

#endif
