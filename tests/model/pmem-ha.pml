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
#define EPOCHS 8        /* more than can be needed */

mtype = { HELLO, WELCOME, FENCED, COPY, DATA, BEGIN, COMMIT, ACK };
mtype = { connecting, resync, in_sync, fenced, failed };
mtype = { LOST_ACK, PUT_BACK, EQUAL, FULL_COPY, REFUSE };

typedef Super {
    bit have_image; bit image_is_copy; bit promoted;
    byte generation; byte applied
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
    byte up;                        /* 0: dead, 1: opening, 2: serves */
    byte last; byte cur; bit page;   /* of the log; applied so far */
    byte open;                      /* epoch being received */
    bit copying;
    byte gen;                       /* of the peer */
    byte greet;                     /* WELCOME to be sent, its generation */
    byte cs; byte ws; byte ps;      /* steps: connection, worker, promotion */
    byte ver                        /* ghost: content as of last */
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
    byte epoch; byte content; byte from  /* under way */
}

Export R[HOSTS];
Device P[HOSTS];
chan to_r[HOSTS] = [2] of { mtype, byte, byte, byte };
chan to_p[HOSTS] = [2] of { mtype, byte, byte, byte };
bit pcon[HOSTS];                    /* a primary's side is open */
bit rcon[HOSTS];
byte promised[HOSTS];               /* ghost: content of released flushes */
byte base;                          /* ghost: content promoted on export 0 */
byte faults = FAULTS;
byte promotes = PROMOTES;
bit restored;
mtype verdict;

#define X R[r]
#define S P[p]
#define T P[p].to

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
#ifndef REACH
#define NOTE(v) verdict = v
#else
#define NOTE(v) verdict = v; assert(verdict != REACH)
#endif

inline drain(c) {
    do
    :: len(c) > 0 -> c?_,_,_,_
    :: else -> break
    od
}

#include "replica.pml"
#include "primary.pml"

#define SETTLED(p) (P[p].state == fenced || P[p].state == failed || \
                    P[p].state == in_sync && !P[p].epoch && \
                    P[p].mem == P[p].clean && P[p].mem == promised[p])

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
}
#endif

init {
    d_step {
        R[0].v.generation = 1; R[0].d.generation = 1;
        P[0].state = connecting;
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
    }
}

#ifdef LIVE
ltl acknowledged {
    [] (P[0].mem != promised[0] -> <> (P[0].mem == promised[0]))
}
#endif
