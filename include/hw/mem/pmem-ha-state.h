/*
 * pmem-ha: the state file of a primary
 *
 * One small file beside the backing file.  It answers one question at the
 * next start: what can this primary prove about its backing file?
 *
 * Two 4096-byte slots are written in turn, each with a sequence number and a
 * CRC, so that a torn write leaves the other slot.  The format is drawn in
 * docs/specs/pmem-ha-media.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_STATE_H
#define HW_MEM_PMEM_HA_STATE_H

#include "qemu/uuid.h"

#define PMEM_HA_STATE_HISTORY 8
#define PMEM_HA_STATE_DIGEST  32    /* SHA-256 */

/* A generation that ended, and the last epoch that belongs to it. */
typedef struct PmemHaLineage {
    uint64_t generation;
    uint64_t last_epoch;
} PmemHaLineage;

typedef struct PmemHaStateRecord {
    QemuUUID uuid;
    uint64_t size;                  /* of the backend, bytes */
    uint64_t generation;            /* from 1 */
    uint64_t captured;              /* last epoch captured from memory */
    uint64_t acked;                 /* last epoch acknowledged */
    bool clean;                     /* ended in order: digest is valid */
    uint8_t digest[PMEM_HA_STATE_DIGEST];   /* of the whole backing file */
    QemuUUID boot_id;               /* of the host that wrote this record */
    uint64_t backing_dev;           /* st_dev and st_ino of the backing */
    uint64_t backing_ino;           /* file; 0: not known */
    uint64_t backing_ctime_s;       /* st_ctim of the backing file when this */
    uint64_t backing_ctime_ns;      /* record was written; 0: not known */
    /* Newest first; unused entries have generation 0. */
    PmemHaLineage history[PMEM_HA_STATE_HISTORY];
} PmemHaStateRecord;

typedef struct PmemHaStateFile PmemHaStateFile;

/*
 * Open @path, create it when absent (then *@found is false and nothing is
 * written yet), take an exclusive lock on it and read the newest valid slot
 * into @rec.
 *
 * Fails when the file is locked by another process, is not a state file, is
 * of an unknown version, or holds no valid slot although it is not empty.
 */
PmemHaStateFile *pmem_ha_state_open(const char *path, PmemHaStateRecord *rec,
                                    bool *found, Error **errp);

/*
 * Write @rec to the older slot.  With @durable the call returns after
 * fdatasync (and, the first time, after an fsync of the directory); without,
 * the record survives the death of the process but not of the host.
 *
 * Threading: the caller serialises calls on one file.
 */
bool pmem_ha_state_write(PmemHaStateFile *f, const PmemHaStateRecord *rec,
                         bool durable, Error **errp);

/* fdatasync what earlier non-durable writes left behind. */
bool pmem_ha_state_sync(PmemHaStateFile *f, Error **errp);

/*
 * The file's time says when its primary was last alive: a backing file that
 * changed later was changed by somebody else.  pmem_ha_state_touch() brings
 * it to now, pmem_ha_state_time() reads it (seconds since the epoch; 0 when
 * it can not be read).  Any thread.
 */
void pmem_ha_state_touch(PmemHaStateFile *f);
time_t pmem_ha_state_time(PmemHaStateFile *f);

/* Release the lock.  @f may be NULL. */
void pmem_ha_state_close(PmemHaStateFile *f);

/* This host's boot id (/proc/sys/kernel/random/boot_id). */
bool pmem_ha_state_boot_id(QemuUUID *id, Error **errp);

/*
 * True when a holder of @rec also holds epoch @epoch of @generation: the same
 * generation and not behind, or an ended one that reached @epoch.
 */
bool pmem_ha_state_holds(const PmemHaStateRecord *rec, uint64_t generation,
                         uint64_t epoch);

/* Move @rec to generation + 1 and remember where the old one ended. */
void pmem_ha_state_next_generation(PmemHaStateRecord *rec);

#endif
