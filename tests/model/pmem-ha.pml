/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pmem-ha: model of the replication protocol, see
 * docs/devel/pmem-ha-model.rst for what it covers and for the names.
 *
 * All steps are guarded and atomic, and all state is global: so a crash is one
 * more step that resets what a process had in memory.
 *
 * Content is the number of the guest's last store.  There are two pages; store
 * n goes to page n % 2.  Stores of the second host are numbered from 8 on.
 */

#ifndef FAULTS
#define FAULTS 2        /* of the kinds that are switched on, see "faults" */
#endif
#ifndef PROMOTES
#define PROMOTES 1
#endif
#ifndef STORES
#define STORES 2        /* of each guest */
#endif
#ifndef HOSTS
#define HOSTS 1         /* primaries, and a replica for each of them */
#endif
#ifdef HANDOVER         /* two primaries, one replica: see handover.pml */
#define PRIMARIES 2
#else
#define PRIMARIES HOSTS
#endif
#ifndef EPOCHS
#define EPOCHS 8        /* more than can be needed */
#endif

mtype = { HELLO, WELCOME, FENCED, COPY, DATA, BEGIN, COMMIT, ACK };
mtype = { connecting, resync, in_sync, fenced, failed };
mtype = { VERDICT_EQUAL, VERDICT_COPY, VERDICT_REFUSE };

/*
 * Steps.  Where the daemon has a crash point there, it has this name.
 * Order counts: below copy_synced, the image is that of the log.
 */
#define idle                0
#define dead                0       /* Export.up */
#define opening             1
#define serves              2
#define journal_committed   1       /* Export.cs */
#define journal_marked      2
#define copy_synced         3
#define copy_super          4       /* written, not synchronised */
#define copy_unacked        5
#define copy_decided        6
#define copy_renamed        7
#define named_super         8
#define take_super          9
#define apply_synced        1       /* Export.ws */
#define checkpoint_super    2
#define promote_super       1       /* Export.ps */
#define promote_decided     3
#define promote_synced      4
#define applied_super       5
#define promote_applied     6
#define promote_state       7
#define greeting            1       /* Device.ss */
#define copy_begins         2
#define copy_half           3
#define linked              4
#define epoch_sent          5
#define epoch_recorded      6
#define commit_sent         7

typedef Super {
    bit have_image; bit image_is_copy; bit promoted;
    byte generation; byte applied;
    byte taker                      /* instance, see handover.pml */
}

typedef Export {
    /* files: v in the page cache, _d on stable storage */
    Super v; Super d;
    byte log; byte log_d;           /* last epoch whose COMMIT is there */
    byte mark; byte mark_d;
    byte page0[EPOCHS]; byte page1[EPOCHS]; /* of epochs in the log; 0: not */
    byte img[2]; byte img_d[2];
    bit has_copy; byte copy[2]; bit copy_d;
    bit unmarked;                   /* the image was given away */
    /* the daemon */
    byte up;
    byte last; byte cur; bit page;   /* of the log; applied so far */
    byte open;                      /* epoch being received */
    bit copying;
    byte gen;                       /* of the peer */
    byte greet;                     /* WELCOME to be sent, its generation */
    byte cs; byte ws; byte ps;      /* steps: connection, worker, promotion */
    byte ver;                       /* ghost: content as of last */
#ifdef HANDOVER
    bit peer; bit attached;         /* the connection that is served */
    byte inst                       /* of a TAKE that is to be answered */
#endif
}

typedef Record {
    bit found; byte generation; byte captured; byte acked;
    bit clean; byte digest;
    byte boot                       /* 0: null, 1: this boot, 2: earlier */
}

typedef Device {
    /* files */
    Record v; Record d;
    byte mem;                       /* guest memory is the backing file */
    bit touched;                    /* its ctime is later than the record */
    byte old_mem; byte old_captured; /* the operator's copy */
    bit harmed;                     /* ghost: power loss or restore */
    /* the process */
    bit running; bit begun; mtype state;
    bit con; byte to; byte ss;      /* connected to that export; its step */
    byte captured; byte acked;
    bit lineage; bit equal; bit synced; bit ready; bit copy_running;
    byte clean;                     /* stores after this one are dirty */
    byte epoch; byte content; byte from; /* under way */
#ifdef HANDOVER
    byte role; bit take; bit loaded;
    byte inst; byte runs            /* this run; how many there were */
#endif
}

Export R[HOSTS];
Device P[PRIMARIES];
chan to_r[PRIMARIES] = [2] of { mtype, byte, byte, byte };
chan to_p[PRIMARIES] = [2] of { mtype, byte, byte, byte };
bit pcon[PRIMARIES];                /* a primary's side is open */
bit rcon[PRIMARIES];
byte promised[HOSTS];               /* ghost: content of released flushes */
byte base;                          /* ghost: content promoted on export 0 */
byte faults = FAULTS;
byte promotes = PROMOTES;
bit restored;
mtype verdict;

#define X R[r]
#define S P[p]
#define T P[p].to
#ifndef HANDOVER
#define K r                         /* connection that a replica serves */
#define L T                         /* connection of a primary */
#define HOME(p) p                   /* that to its own replica */
#define REPLICA(p) p
#define CONNECTED rcon[r]
#define ATTACHED(n)
#define EXISTS(p) (p == 0 || R[0].unmarked)
#define GUEST_RUNS true
#define MAY_DIAL true
#define WORKS true
#define COMPLETES true
#define COMMITS
#define HOLDS(v, n) ((n) <= (v))    /* content v has store n in it */
#define EQUAL_TO(v) (S.clean == (v)) /* but for what is dirty */
#endif

#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define PREV(n) ((n) == 0 -> 0 : ((n) > 8 && (n) - 9 == base -> base : (n) - 1))
#define PAGE(n, i) (((n) % 2 == (i)) -> (n) : PREV(n))
#define DELTA(a, b, i) (PAGE(a, i) == PAGE(b, i) -> 0 : PAGE(b, i))
#define WHOLE(f) (f[0] == PAGE(MAX(f[0], f[1]), 0) && \
                  f[1] == PAGE(MAX(f[0], f[1]), 1))

#define FAULT (faults > 0)
#define WHEN(c, ...) if :: c -> __VA_ARGS__ :: else fi

/*
 * P1 no released flush is lost          P2 one acknowledged primary
 * P3 an image is one whole epoch        P4 nothing newer is overwritten
 * P5 no needless refusal                P6 no protocol error, no damage
 * P7 nobody waits for ever (with ONLY: this one alone)
 */
#ifndef ONLY
#define CHECK(n, c) assert(c)
#else
#define CHECK(n, c) assert(n != ONLY || (c))
#endif
/*
 * The name of a transition, for tests/model/run (each is reached) and for
 * tests/functional/test_model_walk.py (the programs are led through each).
 */
#ifndef STEPS
#define STEP(name) skip
#else
#define STEP(name) c_code { \
    { static char once; if (!once) { once = 1; puts("reached " #name); } } \
}
#endif

inline drain(c) {
    do
    :: len(c) > 0 -> c?_,_,_,_
    :: else -> break
    od
}

#ifdef HANDOVER
#include "handover.pml"
#endif
#include "replica.pml"
#include "primary.pml"

#define SETTLED(p) (P[p].state == fenced || P[p].state == failed || \
                    P[p].state == in_sync && !P[p].epoch && \
                    P[p].mem == P[p].clean && \
                    P[p].mem == promised[REPLICA(p)])

#ifndef LIVE
/* Where nothing can happen any more, all are content (invalid end states). */
active proctype watch()
{
end:
    timeout ->
    CHECK(7, SETTLED(0));
#if HOSTS > 1
    CHECK(7, !R[0].unmarked || SETTLED(1))
#endif
#ifdef HANDOVER
    CHECK(7, !EXISTS(1) || SETTLED(1))
#endif
}
#endif

init {
    d_step {
        R[0].v.generation = 1; R[0].d.generation = 1;
        P[0].state = connecting;
#ifdef HANDOVER
        P[1].state = connecting;
        already_in_sync();
#endif
#if HOSTS > 1
        R[1].v.generation = 1; R[1].d.generation = 1;
        P[1].state = connecting;
#endif
    }
    atomic {
        run replica(0); run primary(0);
#if HOSTS > 1
        run replica(1); run primary(1)
#endif
#ifdef HANDOVER
        run primary(1)
#endif
    }
}

#ifdef LIVE
ltl acknowledged {
    [] (P[0].mem != promised[0] -> <> (P[0].mem == promised[0]))
}
#endif
