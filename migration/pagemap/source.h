/*
 * Page map: the source of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_PAGEMAP_SOURCE_H
#define MIGRATION_PAGEMAP_SOURCE_H

#include "block/block.h"
#include "system/block-backend.h"
#include "wire.h"

/* A disk that pages may be mapped to */
typedef struct PmSrcDevice {
    BlockBackend *blk;      /* a reference of each coroutine */
    PmDevice d;             /* what is sent; filled by the probing coroutine */
    int refs;               /* atomic: the migration and the coroutines */
    int probing;            /* atomic: 1 while the coroutine runs */
    bool sent, answered;
    bool trying;            /* atomic: memory is compared with the disk */
    bool useless;           /* atomic: memory is other than it says */
    bool stopped;           /* atomic: the migration is over */
    bool drawn;             /* there are enough places to compare */
    /* Of its last pages */
    unsigned placed, refused;
} PmSrcDevice;

/* Index of what a device's number stands for */
typedef enum PmSrcState {
    PM_SRC_UNKNOWN = 0,     /* no device that takes part */
    PM_SRC_WAIT,            /* no verdict yet */
    PM_SRC_USED,
    PM_SRC_OFF,             /* another disk, or too often refused */
} PmSrcState;

#define PM_SRC_NUMBERS  (1 << 14)

typedef struct PmSrcDevices {
    PmSrcDevice *dev[PM_MAX_DEVICES];
    unsigned n;
    unsigned n_wait;                    /* in state PM_SRC_WAIT */
    unsigned n_used;                    /* said to be the same */
    unsigned n_asked;                   /* sent, and no verdict yet */
    bool late;                          /* nothing is waited for any more */
    uint8_t state[PM_SRC_NUMBERS];      /* PmSrcState by number */
    uint8_t index[PM_SRC_NUMBERS];      /* in dev[] */
} PmSrcDevices;

/*
 * pm_src_next_disk: a disk of the guest's that the map may name
 *
 * @blk: the one before; NULL to begin
 * @d: its number, length and id
 *
 * BQL.  NULL if there is no other.
 */
BlockBackend *pm_src_next_disk(BlockBackend *blk, PmDevice *d);

/*
 * pm_src_devices_start: find the guest's disks, begin to flush each and to read
 * probes
 *
 * BQL.  @wake is called when a device is done, by any thread.
 */
void pm_src_devices_start(PmSrcDevices *s, const PmKey *key,
                          void (*wake)(void));

/* pm_src_devices_stop: does not wait for coroutines.  BQL */
void pm_src_devices_stop(PmSrcDevices *s);

/*
 * pm_src_devices_send: append DEVICE for those that are done
 *
 * Migration thread.  Returns whether there was one.
 */
bool pm_src_devices_send(PmSrcDevices *s, GByteArray *out);

/*
 * pm_src_devices_expire: pages of devices without a verdict wait no longer
 *
 * Migration thread.  A verdict may still come, and counts for pages that are
 * dirtied later.
 */
void pm_src_devices_expire(PmSrcDevices *s);

/*
 * pm_src_device_verdict: of the destination
 *
 * Migration thread.  False if no verdict is due on @number.
 */
bool pm_src_device_verdict(PmSrcDevices *s, uint16_t number,
                           PmDeviceVerdict verdict);

/*
 * pm_src_device_serves: whether pages of the device are worth holding
 *
 * Migration thread.  False for a device that is off, or most of whose pages
 * were found to be other than the disk.
 */
bool pm_src_device_serves(PmSrcDevices *s, uint16_t number);

/*
 * pm_src_device_is_ready: of one that serves: whether its pages may be sent now
 *
 * Migration thread.
 */
bool pm_src_device_is_ready(PmSrcDevices *s, uint16_t number);

/*
 * pm_src_device_count: a page of the device was placed, or refused
 *
 * A device most of whose pages are refused is switched off.
 */
void pm_src_device_count(PmSrcDevices *s, uint16_t number, bool placed);

#endif
