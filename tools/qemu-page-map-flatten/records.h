/*
 * qemu-page-map-flatten: the messages of the section
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TOOLS_QEMU_PAGE_MAP_FLATTEN_RECORDS_H
#define TOOLS_QEMU_PAGE_MAP_FLATTEN_RECORDS_H

#include "layout.h"

/* Parts of a section, as the stream has them */
typedef enum FlatPart {
    FLAT_START = 1,
    FLAT_PART = 2,
    FLAT_END = 3,
} FlatPart;

typedef struct FlatRecords {
    const FlatOps *ops;
    void *opaque;
    GArray *blocks;             /* FlatBlock; the caller's */
    bool hello, snapshot, finished;
    PmKey key;
    unsigned n_devices;
    struct {
        uint16_t number;
        uint64_t length;
    } device[PM_MAX_DEVICES];
    int32_t *block_of;          /* by BLOCK's number; -1: none */
    uint32_t batch;             /* 0: none is begun */
    unsigned n;                 /* of its pages */
    PmFetch page[PM_MAX_BATCH];
} FlatRecords;

FlatRecords *flat_records_new(const FlatOps *ops, void *opaque,
                              GArray *blocks);
void flat_records_free(FlatRecords *r);

/* flat_records_message: one that is not END, in a part of the kind @part */
bool flat_records_message(FlatRecords *r, FlatPart part, PmMsgType type,
                          const uint8_t *body, size_t len, Error **errp);

/* flat_records_end: the part has ended; is it whole? */
bool flat_records_end(FlatRecords *r, FlatPart part, Error **errp);

/* flat_check_name: a name that can be shown */
bool flat_check_name(const char *what, const char *name, Error **errp);

#endif
