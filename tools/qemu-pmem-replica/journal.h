/*
 * qemu-pmem-replica: the journal of an export
 *
 * Format, invariants (J1..J8) and damage policy: docs/specs/pmem-ha-media.rst.
 *
 * No threads and no locks: the caller serialises all calls on one journal,
 * except journal_read_epoch(), which touches only its cursor and the part of
 * the log that is committed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_JOURNAL_H
#define PMEM_REPLICA_JOURNAL_H

#include "qemu/units.h"
#include "hw/mem/pmem-ha-state.h"
#include "hw/mem/pmem-ha-wire.h"

#define JOURNAL_LOG_BASE    16384
#define JOURNAL_MAX_PATH    1024

typedef struct JournalSuper {
    uint64_t number;
    QemuUUID uuid;
    uint64_t size;              /* of the region, bytes */
    uint64_t label_size;
    uint32_t slot;
    unsigned n_more;            /* further devices of a consistency group */
    PmemHaMember more[PMEM_HA_WIRE_MAX_MORE];
    bool have_image;
    bool bound;                 /* uuid, label_size, slot and more are valid */
    bool promoted;
    bool image_is_copy;         /* the image is still named .copy */
    uint64_t generation;        /* from 1 */
    uint64_t taker;             /* instance that began it by TAKE, or 0 */
    uint64_t log_generation;    /* of the log; TAKE and promotion keep it */
    uint64_t applied;           /* last epoch in the image */
    uint64_t salt;
    PmemHaLineage history[PMEM_HA_STATE_HISTORY];
    char state_path[JOURNAL_MAX_PATH + 1];
} JournalSuper;

/* A place in the log and what must follow there. */
typedef struct JournalCursor {
    uint64_t pos;
    uint32_t chain;
    uint64_t epoch;             /* last whole epoch before @pos */
} JournalCursor;

typedef struct Journal {
    int fd;
    char *path;
    JournalSuper super;         /* as it is in the file */
    unsigned super_slot;        /* of the newest superblock */

    JournalCursor end;          /* end of the last committed epoch */
    uint64_t acked;             /* newest mark of this generation */
    uint64_t mark_number;

    /*
     * An abandoned epoch may stand whole behind the end of the log.  It must
     * not come back: its number may be used for other content meanwhile.
     */
    bool ghost;
    /* A superblock that failed to reach the disk may be there after all. */
    bool super_doubt;

    /* the epoch being written */
    bool open;
    bool complete;              /* its COMMIT record was written */
    JournalCursor tail;
    uint64_t epoch;
    uint64_t records;
    uint64_t bytes;
    uint32_t digest;

    /* found by the last journal_scan() */
    char *damage;               /* NULL: none */
    uint64_t damaged_epoch;
    char *discard;              /* why a tail was discarded, or NULL */
    uint64_t discarded_epoch;
    uint64_t discarded_bytes;
} Journal;

/*
 * Open or create @path for a region of @size bytes, lock it and find the end
 * of its log.  Damage is no error here: see Journal.damage.
 *
 * Returns: NULL with @errp set when the file can not be used: locked, not a
 * journal, of another version or size, no valid superblock, I/O error.
 */
Journal *journal_open(const char *path, uint64_t size, Error **errp);
void journal_close(Journal *j);

/*
 * Find the end of the log, what was torn and what is damaged; no epoch is being
 * written.  Part of journal_open(), and to be called when a committed epoch
 * turns out to be unreadable.
 *
 * Returns: false with @errp set when the medium can not be read.
 */
bool journal_scan(Journal *j, Error **errp);

/* Where the log begins. */
JournalCursor journal_base(Journal *j);

/* Bytes in the log, the epoch being written included. */
uint64_t journal_log_bytes(Journal *j);

/* Replace the superblock durably.  @twice: in both slots. */
bool journal_write_super(Journal *j, const JournalSuper *super, bool twice,
                         Error **errp);

/* The generation of @super ends with @epoch. */
void journal_push_history(JournalSuper *super, uint64_t epoch);

/* A salt that nobody can guess. */
uint64_t journal_new_salt(void);

/*
 * All epochs are in the image and the image is on stable storage: restart the
 * log.  The file is cut to at most @keep bytes.
 */
bool journal_checkpoint(Journal *j, uint64_t keep, Error **errp);

/* Forget the log: it belongs to an image that is no more (full copy). */
void journal_restart_log(Journal *j);

/*
 * Append.  After a failure the epoch must be aborted.
 *
 * journal_commit() checks @count, @bytes and @digest against what was
 * appended; it returns -EPROTO when they differ, with @errp set.
 */
int journal_begin(Journal *j, uint64_t epoch, Error **errp);
int journal_data(Journal *j, const PmemHaMsg *m, const void *payload,
                 Error **errp);
int journal_commit(Journal *j, uint64_t count, uint64_t bytes,
                   uint32_t digest, Error **errp);
/* Bring a committed epoch to stable storage; only now it counts. */
int journal_sync(Journal *j, Error **errp);
/* Drop the epoch being written, give its space back. */
void journal_abort(Journal *j);
/* Make sure that no abandoned epoch can come back after a crash. */
bool journal_settle(Journal *j, Error **errp);

/* Note that the last epoch is acknowledged. */
int journal_mark(Journal *j, Error **errp);

/*
 * One range of a committed epoch; @data is NULL when it reads as zeroes.
 * Returns: false with @errp set to stop.
 */
typedef bool JournalApply(void *opaque, uint64_t offset, uint64_t length,
                          const uint8_t *data, Error **errp);

/*
 * Read the epoch at @c and advance @c behind it.  @buf holds
 * PMEM_HA_WIRE_MAX_PAYLOAD bytes.  With @apply NULL it is only checked.
 * @detail (may be NULL) gets the number of bytes that belong to the epoch,
 * also when it is not whole; 0 when no epoch begins there.
 *
 * Returns: false with @errp set when no whole epoch is there.
 */
bool journal_read_epoch(Journal *j, JournalCursor *c, uint8_t *buf,
                        JournalApply *apply, void *opaque, uint64_t *detail,
                        Error **errp);

#endif
