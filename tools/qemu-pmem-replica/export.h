/*
 * qemu-pmem-replica: an export, one region that is mirrored here
 *
 * Locks: apply_lock before lock.  Both are held for whole system calls, but
 * never while waiting for a peer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_EXPORT_H
#define PMEM_REPLICA_EXPORT_H

#include "qemu/queue.h"
#include "qemu/thread.h"
#include "hw/mem/pmem-ha-wire.h"
#include "tools/qemu-pmem-replica/qapi/qapi-types.h"
#include "image.h"
#include "journal.h"

/* Beside the values of PmemHaRefusal: what an operation can end with. */
#define EXPORT_OK       0
#define EXPORT_FENCED   (-1)    /* promoted: answer with FENCED */
#define EXPORT_REPLACED (-2)    /* the primary has connected anew */

typedef struct ReplicaConn ReplicaConn;

typedef struct ReplicaExport {
    /* constant */
    char *name;
    char *mem_path;
    char *journal_path;
    uint64_t size;
    uint64_t journal_size;
    QTAILQ_ENTRY(ReplicaExport) next;   /* main thread, before any other */

    /* guards the image, the copy and reading the log */
    QemuMutex apply_lock;
    ReplicaImage *img;          /* NULL: it was promoted and is not ours */
    JournalCursor applied;
    uint8_t *apply_buf;
    uint64_t copy_next;         /* a full copy has arrived up to here */
    uint64_t copy_records;
    uint64_t copy_bytes;
    uint32_t copy_digest;

    QemuMutex lock;             /* guards all that follows */
    QemuCond attach_cond;       /* conn or promoting changed */
    int promoting;              /* atomic; see export_give_way() */
    QemuCond work_cond;         /* for the worker */
    Journal *j;                 /* superblock writes need apply_lock too */
    ReplicaConn *conn;
    PmemHaHello hello;          /* of conn */
    uint64_t peer_generation;
    bool copying;
    bool copy_epoch_open;
    uint64_t copy_epoch;
    uint64_t applied_epoch;     /* as in applied */
    uint64_t copied_bytes;      /* as in copy_next */
    char *last_error;
    char *apply_error;
    PmemReplicaState shown;
    bool quit;
    QemuThread worker;
} ReplicaExport;

/* Open the files, replay the journal, start the worker.  Main thread. */
bool export_add(PmemReplicaExportOptions *opts, Error **errp);
/* After all connections are gone.  Main thread. */
void export_cleanup(void);
/* Connections may look for exports from any thread: the list is constant. */
ReplicaExport *export_find(const char *name);
bool export_exists(void);
ReplicaExport *export_only(void);
PmemReplicaInfoList *export_query(void);

/*
 * The following are called by the thread of connection @c.  They return
 * EXPORT_OK, EXPORT_FENCED, EXPORT_REPLACED or a PmemHaRefusal with @errp set.
 */
int export_attach(ReplicaExport *e, ReplicaConn *c, uint64_t generation,
                  const PmemHaHello *hello, PmemHaWelcome *welcome,
                  Error **errp);
void export_detach(ReplicaExport *e, ReplicaConn *c, const char *reason);
int export_copy(ReplicaExport *e, ReplicaConn *c, Error **errp);
int export_begin(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                 Error **errp);
int export_data(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                const void *payload, Error **errp);
int export_commit(ReplicaExport *e, ReplicaConn *c, const PmemHaMsg *m,
                  uint32_t digest, Error **errp);
/* The generation to name in FENCED. */
uint64_t export_generation(ReplicaExport *e);

bool export_is_promoted(ReplicaExport *e);
/*
 * A primary that sends without pause would keep the locks from promotion:
 * between two messages, let it go first.
 */
void export_give_way(ReplicaExport *e);

/* Whether one is under way.  Main thread. */
bool export_promotions(void);
/* promote.c; any thread, one at a time */
PmemReplicaPromotion *export_promote(ReplicaExport *e, const char *state_file,
                                     bool force, Error **errp);

/*
 * The same, for a primary on this host that has mapped the image, and asks for
 * it by HELLO with ADOPT.  No connection is attached.  Returns as
 * export_attach().
 */
int export_adopt(ReplicaExport *e, uint64_t generation,
                 const PmemHaHello *hello, PmemHaWelcome *welcome,
                 Error **errp);
/* May a primary of @generation say @hello?  Lock held. */
int export_check_peer(ReplicaExport *e, uint64_t generation,
                      const PmemHaHello *hello, Error **errp);

/* apply.c */
void *export_worker(void *opaque);
/* Bring the image to the end of the log; apply_lock held. */
bool export_apply_all(ReplicaExport *e, Error **errp);
/* Bring what was applied to stable storage; apply_lock held. */
bool export_sync_image(ReplicaExport *e, Error **errp);
/* Both locks held. */
bool export_checkpoint(ReplicaExport *e, Error **errp);
/* apply_lock held: give a decided copy its name. */
bool export_finish_switch(ReplicaExport *e, Error **errp);

/* Announce the state if it is not the one announced last.  Lock held. */
void export_announce(ReplicaExport *e, const char *reason);
/* What an I/O error means to the peer. */
int export_refusal_of(int ret);

/*
 * Provided by connection.c.
 */
/* The connection must end; @replaced or else fenced.  Any thread. */
void conn_kick(ReplicaConn *c);
/* Send ACK without waiting; the export's lock is held (J7). */
bool conn_ack(ReplicaConn *c, uint64_t epoch, Error **errp);
/*
 * Milliseconds since the peer was last heard; 0 while what it said is being
 * done.  Any thread.
 */
int64_t conn_silence_ms(ReplicaConn *c);
const char *conn_peer(ReplicaConn *c);

#endif
