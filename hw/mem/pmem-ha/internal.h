/*
 * pmem-ha: what the files of the device share
 *
 * Design, invariants and the order of locks: docs/devel/pmem-ha.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_INTERNAL_H
#define HW_MEM_PMEM_HA_INTERNAL_H

#include "hw/mem/nvdimm.h"
#include "hw/mem/pmem-ha.h"
#include "hw/mem/pmem-ha-media.h"
#include "hw/mem/pmem-ha-state.h"
#include "hw/mem/pmem-ha-wire.h"
#include "crypto/tlscreds.h"
#include "io/channel.h"
#include "migration/vmstate.h"
#include "qapi/qapi-types-pmem-ha.h"
#include "qapi/qapi-types-pmem-replica.h"
#include "qemu/lockable.h"
#include "qemu/notify.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "histogram.h"

/* A flush that waits longer than this pauses the guest. */
#define PMEM_HA_STALL_MS        1000
/* How long the end of QEMU, or a handover, waits for a last epoch. */
#define PMEM_HA_FINISH_MS       2000
/* How long a guest that is about to run waits, at least, for the image. */
#define PMEM_HA_ADOPT_MS        5000
/* An idle link is tried this often. */
#define PMEM_HA_PING_MS         1000
/* While the guest runs, the state file's time is brought up this often. */
#define PMEM_HA_BEAT_MS         250
/* A backing file that changed this long after it was changed by another. */
#define PMEM_HA_BEAT_SLACK_S    2
/* Pause between two attempts to connect; the latter to an empty replica. */
#define PMEM_HA_RECONNECT_MS    200
#define PMEM_HA_PATIENT_MS      2000

/*
 * What one memory backend contributes.  The parts of a consistency group stand
 * one behind the other in the image; without a group there is one.
 */
typedef struct PmemHaPart {
    struct PmemHaDevice *dev;
    MemoryRegion *mr;           /* the backend's own region, labels included */
    uint8_t *ram;
    uint64_t offset;            /* of its first byte in the image */
    uint64_t size;
} PmemHaPart;

#define PMEM_HA_MAX_PARTS       (1 + PMEM_HA_WIRE_MAX_MORE)

/* Bytes of the image: [offset, offset + length), all of one part. */
typedef struct PmemHaRange {
    uint64_t offset;
    uint64_t length;
} PmemHaRange;

/* The epoch under way; there is at most one (I1). */
typedef struct PmemHaEpoch {
    uint64_t number;
    GArray *ranges;             /* of PmemHaRange, ascending, disjoint */
    uint64_t bytes;             /* sum of their lengths */
    int64_t captured_ns;        /* get_clock() */
    /*
     * Where the content is: packed in the staging buffer, in the order of
     * the ranges; or (direct) still in guest memory, with the vCPUs held.
     */
    bool direct;
} PmemHaEpoch;

typedef struct PmemHaWaiter {
    CPUState *cpu;              /* referenced; blocked until released */
    uint64_t target;            /* epoch that satisfies it */
    int64_t since_ns;           /* get_clock() */
    bool releasing;             /* work that lets it go is queued */
} PmemHaWaiter;

/* One connection; used by the replicator thread only, but for shutdown. */
typedef struct PmemHaLink {
    QIOChannel *ioc;            /* NULL: not connected */
    int fd;                     /* of the socket below it; not owned */
    uint64_t tx_seq;
    uint64_t rx_seq;
    int refusal;                /* PmemHaRefusal, or 0 */
    bool unproved;              /* this side refused, see pmem_ha_prove() */
    bool patient;               /* nothing will be else in a moment */
    uint64_t fenced_by;         /* generation of a FENCED, or 0 */
} PmemHaLink;

/*
 * What the section of a stream says, see handover-vmstate.c; used by the thread
 * that saves or loads, with the BQL.
 */
typedef struct PmemHaSectionMember {
    uint8_t uuid[16];
    uint64_t size;
    uint64_t label_size;
    uint32_t slot;
} PmemHaSectionMember;

typedef struct PmemHaSection {
    uint8_t uuid[16];
    uint64_t size;
    uint32_t slot;
    uint64_t generation;
    uint64_t captured;
    uint64_t acked;
    bool paused;                /* the guest is, until a flush is satisfied */
    bool adopt;                 /* the content is the replica's image */
    PmemHaLineage history[PMEM_HA_STATE_HISTORY];
    uint64_t *dirty;            /* to be saved: a bit for each page */
    uint32_t n_more;            /* further devices of a consistency group */
    PmemHaSectionMember more[PMEM_HA_WIRE_MAX_MORE];
} PmemHaSection;

struct PmemReplica {
    Object parent_obj;

    /* properties; constant once a device uses the object */
    SocketAddress *addr;
    char *export;
    char *tls_creds_id;
    char *tls_hostname;
    PmemReplicaTransport transport;
    uint32_t connect_timeout_ms;
    uint32_t link_timeout_ms;
    unsigned users;             /* devices; BQL */
};

struct PmemHaDevice {
    NVDIMMDevice parent_obj;

    /* properties; constant after realize */
    PmemReplica *replica;       /* NULL: standalone */
    char *state_path;
    PmemHaMode mode;
    PmemHaAck ack;
    PmemHaLinkLoss on_link_loss;
    PmemHaHandover handover;    /* may be changed at any time; BQL */
    uint64_t max_lag;           /* bytes, asynchronous mode */
    uint64_t staging_size;      /* bytes */
    bool flush_track_insn;
    char *consistency_group;

    /* constant after realize */
    char *name;                 /* for people and events */
    /*
     * Who flushes, captures and talks for this device: itself, or the first
     * one of its group, see group.c.
     */
    PmemHaDevice *leader;
    char *export;
    char *peer;                 /* address of the replica as text */
    PmemHaPart part[PMEM_HA_MAX_PARTS];     /* ascending offsets */
    unsigned n_parts;
    uint64_t size;              /* of all parts */
    int slot;
    int image_fd;               /* holds the lock of the backing file; or -1 */
    bool backing_is_pmem;
    uint8_t *staging;           /* mmap of staging_size bytes */
    uint64_t instance;
    Error *cpr_blocker;
    NotifierWithReturn migration_notifier;
    Notifier adopt_notifier;
    Notifier exit_notifier;
    QTAILQ_ENTRY(PmemHaDevice) next;    /* BQL */
    bool realized_ha;
    bool started;               /* a leader: see pmem_ha_start() */
    bool starting_group;        /* after all other devices, see group.c */
    bool tracking;

    /* BQL */
    QEMUTimer *stall_timer;     /* QEMU_CLOCK_REALTIME */
    QEMUTimer *beat_timer;      /* QEMU_CLOCK_REALTIME; NULL without replica */
    QEMUBH *settle_bh;          /* main loop looks at stop_vm and resume_vm */
    bool paused_by_us;
    bool came_paused;           /* so it was where it came from */
    bool gives_image;           /* this migration is handover=adopt */
    bool adopting;              /* the backing is an image that is not ours */
    uint64_t lag_dirty;         /* see dirty_for_lag() */
    int64_t lag_next_ns;        /* get_clock() */
    unsigned vhost_lost;        /* vhost_log_lost as last seen; atomic */
    PmemHaSection section;
    VMChangeStateEntry *vmstate;

    QemuMutex lock;             /* a leaf; guards all that follows */
    QemuCond work;              /* for the replicator */
    QemuCond settled;           /* for those who wait for the replicator */

    PmemHaRole role;            /* see docs/devel/pmem-ha-handover.rst */
    bool loaded;                /* rec is from a stream, and not ours yet */
    bool take;                  /* the next HELLO asks for the role */
    bool adopted;               /* without a replica from now on; atomic */
    PmemHaState link_state;     /* all but stalled and lagging */
    PmemHaState shown;          /* last state announced */
    bool stalled;
    bool link_ready;            /* epochs may be captured */
    uint64_t session;           /* number of links that were lost */
    bool stop_vm;               /* lost the right to write */
    bool quit;
    Error *last_error;
    PmemHaStateFile *state_file;
    PmemHaStateRecord rec;      /* what is, or is about to be, in the file */
    bool proof_equal;           /* the backing is as of rec.captured */
    bool proof_lineage;         /* rec speaks for the backing */
    const char *no_proof;       /* why it does not */
    QemuUUID boot_id;           /* of this host, now */
    bool synced;                /* the replica is at rec.acked, see I3 */
    bool greeted;               /* a handshake was acceptable */
    bool had_replica;           /* one was in sync, in this run */
    bool may_resync;            /* by pmem-ha-resync, an empty one may be */

    QCryptoTLSCreds *creds;     /* referenced; or NULL.  Constant */

    GArray *waiters;            /* of PmemHaWaiter */
    bool capture_queued;
    bool capturing;
    bool want_epoch;            /* a flush that nobody waits for */
    bool restored;              /* memory was loaded from a snapshot */
    bool copy_running;          /* the next epoch completes a copy */
    bool clearing;              /* pmem_ha_clear_work() is queued */
    PmemHaEpoch *epoch;         /* under way, or NULL */
    bool epoch_ready;           /* and not yet taken by the replicator */
    bool direct_hold;           /* vCPUs are held until it is sent; atomic */
    int64_t hold_until_ns;      /* but not longer, get_clock(); 0: no end */
    bool direct_cancel;         /* it must not COMMIT: the vCPUs went on */
    bool cancelled_by_us;       /* because they had to stop, not for the link */
    PmemHaLink link;

    /* statistics */
    uint64_t flushes;
    int64_t last_flush_ns;
    uint64_t wire_bytes;
    uint64_t reconnects;
    uint64_t resync_remaining;
    PmemHaHistogram flush_us;
    PmemHaHistogram capture_us;
};

/*
 * flush.c: flushes that wait
 */

/*
 * A flush by @cpu (NULL: nobody waits).  Called with the BQL, by the thread
 * of @cpu when there is one.  Returns at once; the vCPU is blocked until its
 * epoch is acknowledged.
 */
void pmem_ha_flush(PmemHaDevice *s, CPUState *cpu);

/*
 * Queue a capture if one is due and can be made.  Any thread, lock held; one
 * without the BQL calls pmem_ha_wake_vcpus() when it has let the lock go.
 */
void pmem_ha_kick_capture_locked(PmemHaDevice *s);

/*
 * Let the flushes go whose epoch is acknowledged.  Any thread, lock held; one
 * without the BQL calls pmem_ha_wake_vcpus() when it has let the lock go.
 */
void pmem_ha_release_locked(PmemHaDevice *s);

/* Make sure that queued work is seen.  Any thread, lock not held. */
void pmem_ha_wake_vcpus(void);

/*
 * A flush of @cpu waits that did so in the stream which is being loaded; for
 * which epoch is said by pmem_ha_aim_waiters_locked().  BQL.
 */
void pmem_ha_resubmit(PmemHaDevice *s, CPUState *cpu);
void pmem_ha_aim_waiters_locked(PmemHaDevice *s);

/* A vCPU that was unplugged waits for nothing.  BQL. */
void pmem_ha_forget_unplugged(PmemHaDevice *s);

/* Forget all flushes (system reset).  BQL. */
void pmem_ha_drop_waiters(PmemHaDevice *s);

/*
 * stall.c: what the main loop does to the guest
 */
void pmem_ha_stall_init(PmemHaDevice *s);
void pmem_ha_stall_cleanup(PmemHaDevice *s);
/* A flush began to wait.  BQL. */
void pmem_ha_stall_arm(PmemHaDevice *s);
/* No flush waits any more, or the guest must stop.  Any thread, lock held. */
void pmem_ha_stall_settle(PmemHaDevice *s);

/* The state that users see.  Lock held. */
PmemHaState pmem_ha_state_locked(PmemHaDevice *s);
/*
 * Announce the state if it is not the one announced last; @reason may be
 * NULL.  Any thread, lock held (the event's own locks nest inside).
 */
void pmem_ha_announce_locked(PmemHaDevice *s, const char *reason);

/*
 * capture.c: dirty bits and the exclusive section
 */

/* Exclusive work: take an epoch.  data.host_ptr is the referenced device. */
void pmem_ha_capture_work(CPUState *cpu, run_on_cpu_data data);
/* Exclusive work: forget which pages are dirty, a full copy starts. */
void pmem_ha_clear_work(CPUState *cpu, run_on_cpu_data data);
/*
 * With all vCPUs paused: take an epoch from the main thread.  BQL.  Returns
 * whether that could be done now.
 */
bool pmem_ha_capture_paused(PmemHaDevice *s);
/* Start and end tracking.  BQL. */
void pmem_ha_track(PmemHaDevice *s, bool on);
/* The content at @offset of the image; its part ends after *@left bytes. */
uint8_t *pmem_ha_content(PmemHaDevice *s, uint64_t offset, uint64_t *left);
/* Mark ranges dirty again.  Any thread. */
void pmem_ha_mark_dirty(PmemHaDevice *s, uint64_t offset, uint64_t length);
/*
 * What is dirty now, while the vCPUs run; counted no further than to more than
 * @enough.  Any thread.
 */
uint64_t pmem_ha_dirty_bytes(PmemHaDevice *s, uint64_t enough);
/* Set the bits of the pages that are dirty: 64 of them in a word. */
void pmem_ha_dirty_words(PmemHaDevice *s, uint64_t *words);
/* Mark the pages of a word dirty whose first one is at @offset. */
void pmem_ha_mark_word(PmemHaDevice *s, uint64_t offset, uint64_t word);
/* Before the guest has run: nothing is dirty.  BQL. */
void pmem_ha_clear_all(PmemHaDevice *s);

void pmem_ha_epoch_free(PmemHaEpoch *e);
/* Mark its pages dirty again, and free it.  Any thread. */
void pmem_ha_put_back(PmemHaDevice *s, PmemHaEpoch *e);

/*
 * link.c: one connection, blocking; replicator thread
 */
bool pmem_ha_link_open(PmemHaDevice *s, Error **errp);
void pmem_ha_link_close(PmemHaDevice *s);
/* Make a blocked call on the link fail.  Any thread, lock held. */
void pmem_ha_link_shutdown_locked(PmemHaDevice *s);
bool pmem_ha_link_send(PmemHaDevice *s, PmemHaMsg *msgs,
                       void *const *payloads, size_t n, Error **errp);
/*
 * Receive one message; @payload holds PMEM_HA_WIRE_MAX_TEXT bytes.  FENCED,
 * REFUSE and FAIL are errors; the link then says which (link.fenced_by,
 * link.refusal).
 */
bool pmem_ha_link_recv(PmemHaDevice *s, PmemHaMsg *m, void *payload,
                       Error **errp);

/*
 * replicator.c: the thread that talks to the replica
 */
void pmem_ha_replicator_start(PmemHaDevice *s);
/* Make it end; it keeps its reference to the device until then.  BQL. */
void pmem_ha_replicator_stop(PmemHaDevice *s);
/* Wait for the first handshake's outcome.  BQL; see connect-timeout-ms. */
bool pmem_ha_replicator_wait(PmemHaDevice *s, Error **errp);

/* send.c: content of epochs and copies.  Replicator thread. */
bool pmem_ha_send_epoch(PmemHaDevice *s, PmemHaEpoch *e, bool completes_copy,
                        Error **errp);
bool pmem_ha_send_copy(PmemHaDevice *s, Error **errp);

/*
 * lifecycle.c: what is proved at the start and kept at the end
 */
bool pmem_ha_prove(PmemHaDevice *s, Error **errp);
/* Whether realize ends with the replica's verdict only.  BQL. */
bool pmem_ha_waits_for_replica(PmemHaDevice *s);
/*
 * What a replica's WELCOME means.  Lock held.
 */
typedef enum PmemHaVerdict {
    PMEM_HA_VERDICT_EQUAL,      /* go on */
    PMEM_HA_VERDICT_COPY,       /* a full copy is needed, and is safe */
    PMEM_HA_VERDICT_REFUSE,     /* it could lose what the replica holds */
    PMEM_HA_VERDICT_WAIT,       /* for another replica, or the operator */
} PmemHaVerdict;
PmemHaVerdict pmem_ha_judge_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                                   Error **errp);
/* The replica was found or made equal to the backing.  Lock held. */
void pmem_ha_now_proved_locked(PmemHaDevice *s);
/* Lock the backing file; refuse an image that a replica holds. */
bool pmem_ha_lock_image(PmemHaDevice *s, Error **errp);
/* Which file the backing is, and when it changed last, for the next record. */
void pmem_ha_note_backing(PmemHaDevice *s);
/* The guest may run: what the state file proves is no longer so. */
bool pmem_ha_begin(PmemHaDevice *s, Error **errp);
/*
 * Wait for a last epoch, until get_clock() is @until at most.  Returns: bytes
 * that the replica does not have then.  BQL (let go meanwhile), vCPUs paused.
 */
uint64_t pmem_ha_drain(PmemHaDevice *s, int64_t until);
/* The same for a migration that lets the replica's image be adopted. */
void pmem_ha_drain_to_give(PmemHaDevice *s);
/* Bytes, in whole pages, that no acknowledged epoch holds.  Lock held. */
uint64_t pmem_ha_unsent_locked(PmemHaDevice *s);
/* QEMU ends: last epoch, digest, clean mark.  BQL, vCPUs paused. */
void pmem_ha_finish(PmemHaDevice *s);

/* Whether the memory backend of any part has property @name on. */
bool pmem_ha_any_backend_has(PmemHaDevice *s, const char *name);

/* pmem-ha.c: prove, and mirror.  BQL.  Undone when it fails. */
bool pmem_ha_start(PmemHaDevice *s, Error **errp);

/*
 * group.c: devices with one property 'consistency-group' have one leader, which
 * starts when all devices of the command line are there.  BQL.
 */
bool pmem_ha_group_add(PmemHaDevice *s, Error **errp);

/*
 * bypass.c: devices that write to guest memory past QEMU.  BQL.  Fails if there
 * is one; otherwise none can be added until pmem_ha_bypass_allow().
 */
bool pmem_ha_bypass_forbid(PmemHaDevice *s, Error **errp);
void pmem_ha_bypass_allow(void);

/*
 * handover.c: the role of primary passes to another QEMU, and back
 */
bool pmem_ha_handover_init(PmemHaDevice *s, Error **errp);
void pmem_ha_handover_cleanup(PmemHaDevice *s);
/* Whether no capability of migration is on that can not work.  BQL. */
bool pmem_ha_check_capabilities(PmemHaDevice *s, Error **errp);
/* Whether the role can be handed over now.  Lock held. */
bool pmem_ha_may_hand_over_locked(PmemHaDevice *s, Error **errp);
/* Commit nothing from now on; waits for a capture under way.  Lock held. */
void pmem_ha_give_locked(PmemHaDevice *s);
/* The guest is about to run here: ask the replica for the role.  Lock held. */
void pmem_ha_take_locked(PmemHaDevice *s);
/* The replica gave it, with @w.  Replicator thread, lock held. */
bool pmem_ha_taken_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                          Error **errp);
/* handover-vmstate.c */
extern const VMStateDescription vmstate_pmem_ha;

/*
 * adopt.c: the destination of a migration takes the replica's image
 */

/* Whether the stream carries the content.  BQL, outside of a migration. */
void pmem_ha_content_travels(PmemHaDevice *s, bool on);
/* Nothing that this QEMU does changes the image until it is adopted.  BQL. */
bool pmem_ha_adopt_init(PmemHaDevice *s, Error **errp);
void pmem_ha_adopt_cleanup(PmemHaDevice *s);
/* Ask for the image in a HELLO with TAKE.  Replicator thread. */
void pmem_ha_adopt_hello(PmemHaDevice *s, PmemHaHello *h);
/* The replica gave it, with @w.  Replicator thread, lock held. */
bool pmem_ha_adopted_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                            Error **errp);
/* It may have been given late: from then on the content travels.  BQL. */
void pmem_ha_adopt_settle(PmemHaDevice *s);
/* Whether flushes wait for a replica. */
static inline bool pmem_ha_mirrors(PmemHaDevice *s)
{
    return s->replica && !qatomic_read(&s->adopted);
}

/*
 * vhost-log.c: what vhost backends write.  BQL, but for the fetch
 */

/* Have them log it; fails if one can not.  What can not will not start. */
bool pmem_ha_vhost_keep_log(PmemHaDevice *s, Error **errp);
void pmem_ha_vhost_drop_log(void);
/*
 * Make dirty bits of what was logged until now; of all, when a backend went
 * away since the last call: what it wrote amid a request is in no log.  Any
 * thread, lock not held; takes the BQL.
 */
void pmem_ha_vhost_fetch(PmemHaDevice *s);
/* What is wrong with the backend of @obj; NULL if nothing is, or it has none */
char *pmem_ha_vhost_why_not(Object *obj);

/* hint.c: the flush hint's MMIO page.  BQL. */
bool pmem_ha_hint_add(PmemHaDevice *s, Error **errp);
void pmem_ha_hint_remove(PmemHaDevice *s);
void pmem_ha_build_nfit(NVDIMMDevice *nvdimm, uint32_t handle,
                        GArray *structures);

/* qmp.c: devices that are realized, in no order.  BQL. */
void pmem_ha_register(PmemHaDevice *s);
void pmem_ha_unregister(PmemHaDevice *s);
/* The one after @s (NULL: the first one), by slots; or NULL */
PmemHaDevice *pmem_ha_next(PmemHaDevice *s);
/* Whether @cpu must not run: a flush of it waits, or a device is fenced. */
bool pmem_ha_cpu_waits(CPUState *cpu);
/* Whether a flush of it to this device waits.  BQL. */
bool pmem_ha_cpu_waits_for(PmemHaDevice *s, CPUState *cpu);
/* Whether the vCPUs are held for an epoch of any device. */
bool pmem_ha_any_direct_hold(void);
/* The guest was told to stop: no device lets it go on by itself. */
void pmem_ha_stay_paused(void);

#endif
