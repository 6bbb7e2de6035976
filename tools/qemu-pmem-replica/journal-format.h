/*
 * qemu-pmem-replica: what the two halves of the journal share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_JOURNAL_FORMAT_H
#define PMEM_REPLICA_JOURNAL_FORMAT_H

#include "journal.h"

#define JOURNAL_MAGIC       "PMHAJRNL"
#define JOURNAL_VERSION     1
#define JOURNAL_SUPER_SIZE  4096

#define SUPER_HAVE_IMAGE    1u
#define SUPER_BOUND         2u
#define SUPER_PROMOTED      4u
#define SUPER_IMAGE_IS_COPY 8u

/* Offset of the number of further devices; 8 bytes on, the devices. */
#define SUPER_MORE          1264

#define JOURNAL_MARK_MAGIC  "PMHAMARK"
#define JOURNAL_MARK_BASE   8192
#define JOURNAL_MARK_STRIDE 4096
#define JOURNAL_MARK_SIZE   512

#define JOURNAL_RECORD_MAGIC 0x524a4850u
#define JOURNAL_RECORD_SIZE  64

typedef enum JournalRecordType {
    RECORD_BEGIN = 1,
    RECORD_DATA,
    RECORD_COMMIT,
} JournalRecordType;

#define RECORD_ZERO 1u

typedef struct JournalRecord {
    uint16_t type;
    uint16_t flags;
    uint64_t salt;
    uint64_t generation;
    uint64_t epoch;
    uint64_t arg0;
    uint64_t arg1;
    uint32_t sum;
    uint32_t chain;             /* header checksum of the record before */
} JournalRecord;

/* Returns: the header's checksum. */
uint32_t journal_encode_record(const JournalRecord *r, uint8_t *buf);

#endif
