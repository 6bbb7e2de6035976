/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pmem-ha: the replica, qemu-pmem-replica; included by pmem-ha.pml */


inline record_copy(to_, from_) {
    to_.found = from_.found; to_.generation = from_.generation;
    to_.captured = from_.captured; to_.acked = from_.acked;
    to_.clean = from_.clean; to_.digest = from_.digest;
    to_.boot = from_.boot
}

inline super_copy(to_, from_) {
    to_.have_image = from_.have_image; to_.promoted = from_.promoted;
    to_.image_is_copy = from_.image_is_copy;
    to_.generation = from_.generation; to_.applied = from_.applied
}

/* fdatasync of the journal */
inline sync_journal() {
    super_copy(X.d, X.v); X.log_d = X.log; X.mark_d = X.mark
}

inline sync_image() { X.img_d[0] = X.img[0]; X.img_d[1] = X.img[1] }

inline detach() {
    drain(to_r[r]);
    rcon[r] = 0; X.open = 0; X.copying = 0; X.greet = 0; X.gen = 0
}

inline tell(type, a, b, c) {
    WHEN(pcon[r] && len(to_p[r]) < 2, to_p[r]!type,a,b,c)
}

inline acknowledge(e) {
    CHECK(2, !X.d.promoted);
    tell(ACK, e, 0, 0)
}

inline daemon_dies() {
    detach();
    X.up = 0; X.last = 0; X.cur = 0; X.page = 0; X.cs = 0; X.ws = 0; X.ps = 0
}

/* Of what was not synced, anything may have been written back. */
inline power_loss() {
    if
    :: super_copy(X.v, X.d)
    :: super_copy(X.d, X.v)
    fi;
    if
    :: X.log = X.log_d
    :: X.log_d = X.log              /* at most one, see sync_at_open */
    fi;
    if
    :: X.mark = X.mark_d
    :: X.mark_d = X.mark
    fi;
    if
    :: X.img[0] = X.img_d[0]
    :: X.img_d[0] = X.img[0]
    fi;
    if
    :: X.img[1] = X.img_d[1]
    :: X.img_d[1] = X.img[1]
    fi;
    WHEN(!X.copy_d, X.copy[0] = 0; X.copy[1] = 0)
}

inline no_copy() {
    X.has_copy = 0; X.copy[0] = 0; X.copy[1] = 0; X.copy_d = 0
}

inline open_journal() {
#ifndef M_NO_SYNC_AT_OPEN
    sync_journal();
#endif
    X.last = MAX(X.log, X.v.applied); X.cur = X.v.applied;
    CHECK(6, X.mark <= X.last);     /* else: damaged */
    sync_image();
    if
    :: X.v.image_is_copy -> X.cs = (X.has_copy -> 6 : 7)
    :: else -> no_copy()
    fi
}

/* A message from the primary; the lock is free. */
inline dispatch() {
    to_r[r]?m,a,b,c;
    if
#if !defined(M_NO_GENERATION) && !defined(M_NO_GENERATION_AT_ALL)
    :: m == HELLO && (X.v.promoted || a < X.v.generation) ||
       m != HELLO && X.v.promoted ->
        tell(FENCED, X.v.generation, 0, 0); detach()
    :: m == HELLO && !X.v.promoted && a >= X.v.generation ->
#else
    :: m != HELLO && X.v.promoted ->
        tell(FENCED, X.v.generation, 0, 0); detach()
    :: m == HELLO ->
#endif
        /* It acknowledges what it names. */
#ifndef M_NO_GENERATION_AT_ALL
        CHECK(2, !X.d.promoted && a >= X.d.generation);
#endif
        X.gen = a; X.greet = X.v.generation
    :: m == COPY && !X.v.promoted ->
        X.copying = 1; no_copy(); X.has_copy = 1; X.copy[0] = a
    :: m == DATA && !X.v.promoted ->
        X.copy[1] = a
    :: m == BEGIN && !X.v.promoted ->
        CHECK(6, !X.open);
        X.open = a;
        if
        :: X.copying ->
            CHECK(6, !X.v.have_image || a > X.last);
            X.copy[0] = (b -> b : X.copy[0]);
            X.copy[1] = (c -> c : X.copy[1])
        :: else ->
            CHECK(6, X.v.have_image && X.gen == X.v.generation &&
                     a == X.last + 1);
            X.page0[a] = b; X.page1[a] = c
        fi
    :: m == COMMIT && !X.v.promoted ->
        CHECK(6, X.open == a);
        if
        :: X.copying -> X.copy_d = 1; X.cs = 3
#ifdef M_DECIDE_UNSYNCED
            X.copy_d = 0;
#endif
        :: else -> X.log = a; X.cs = 1
#ifdef M_ACK_EARLY
            tell(ACK, a, 0, 0);
#endif
        fi
    fi;
    m = 0; a = 0; b = 0; c = 0
}

/* commit_copy(): the superblock that decides is on stable storage */
inline copy_decided() {
    sync_journal();
    CHECK(3, WHOLE(X.copy));
    CHECK(4, MAX(X.copy[0], X.copy[1]) >= X.ver);
    CHECK(4, MAX(X.copy[0], X.copy[1]) >= promised[r]);
    X.last = X.open; X.cur = X.last; X.log = X.last; X.log_d = X.last;
    X.mark = X.last; X.ver = MAX(X.copy[0], X.copy[1]);
    X.open = 0; X.copying = 0
}

inline clear_log() {
    i = 0;
    do
    :: i < EPOCHS && i <= X.v.applied -> X.page0[i] = 0; X.page1[i] = 0; i++
    :: else -> break
    od;
    i = 0
}

/* Step 3 of promotion: what the second host starts from */
inline write_state() {
    base = MAX(X.img_d[0], X.img_d[1]);
    P[1].mem = base; P[1].old_mem = base; P[1].old_captured = X.last;
    P[1].v.found = 1; P[1].v.generation = X.v.generation;
    P[1].v.captured = X.last; P[1].v.acked = X.last;
    P[1].v.clean = 1; P[1].v.digest = base; P[1].v.boot = 1;
    record_copy(P[1].d, P[1].v)
}

proctype replica(byte r)
{
    mtype m; byte a; byte b; byte c; byte i;

end:
    do
    /* start */
    :: d_step { X.up == 0 -> open_journal(); X.up = 1 }
    :: d_step { X.up == 1 && X.unmarked -> X.up = 2 }
    :: d_step { X.up == 1 && !X.unmarked && X.cs == 0 && X.ws == 0 &&
                !X.page && X.cur == X.last &&
                (X.v.promoted || X.v.applied == X.last) ->
            sync_image();
            CHECK(3, !X.v.have_image || WHOLE(X.img));
            X.ver = MAX(X.img[0], X.img[1]);
            CHECK(1, X.ver >= promised[r]);
            X.up = 2
        }

    /* connection */
    :: d_step { X.up == 2 && rcon[r] && nempty(to_r[r]) && X.cs == 0 &&
                X.ws != 2 && X.ps != 1 && !X.greet -> dispatch() }
    :: d_step { X.greet ->
            tell(WELCOME, X.v.have_image, X.greet, X.last); X.greet = 0 }
    :: d_step { X.up == 2 && rcon[r] && !X.greet && X.cs == 0 &&
                X.v.promoted && X.ps != 1 -> /* kicked */
            tell(FENCED, X.v.generation, 0, 0); detach() }
    :: d_step { rcon[r] && !pcon[r] && X.cs == 0 -> detach() }

    /* COMMIT of an epoch */
    :: d_step { X.cs == 1 ->
            sync_journal();
            X.last = X.open; X.mark = X.last; X.open = 0;
            X.ver = MAX(X.ver, MAX(X.page0[X.last], X.page1[X.last]));
            X.cs = 2
        }
    :: d_step { X.cs == 2 ->
#ifndef M_ACK_EARLY
            acknowledge(X.last);
#endif
            X.cs = 0
        }
    /* COMMIT of a copy */
    :: d_step { X.cs == 3 && !X.page && X.ws == 0 ->
            X.v.have_image = 1; X.v.image_is_copy = 1;
            X.v.generation = X.gen; X.v.applied = X.open; X.cs = 4 }
    :: d_step { X.cs == 4 -> copy_decided(); X.cs = 5 }
    :: d_step { X.cs == 5 -> acknowledge(X.last); X.cs = 6 }
    :: d_step { X.cs == 6 ->
            X.img[0] = X.copy[0]; X.img[1] = X.copy[1]; sync_image();
            no_copy(); X.cs = 7 }       /* renamed */
    :: d_step { X.cs == 7 -> X.v.image_is_copy = 0; X.cs = 8 }
    :: d_step { X.cs == 8 -> sync_journal(); clear_log(); X.cs = 0 }

    /* worker, and step 2 of promotion: a page at a time */
    :: d_step { X.up && !X.unmarked && X.cur < X.last && X.ws == 0 &&
                (X.cs < 3 || X.cs == 3 && X.page) && (X.ps == 0 || X.ps == 3) ->
            if
            :: !X.page && X.page0[X.cur + 1] ->
                X.img[0] = X.page0[X.cur + 1]
            :: X.page && X.page1[X.cur + 1] ->
                X.img[1] = X.page1[X.cur + 1]
            :: else
            fi;
            X.cur = X.cur + X.page; X.page = !X.page
        }
    /* checkpoint */
    :: d_step { X.up && X.ws == 0 && X.ps == 0 && X.cs < 3 && !X.page &&
                X.cur == X.last && X.last > X.v.applied && !X.v.promoted &&
                (!X.open || X.copying) ->
#ifndef M_RESTART_UNSYNCED
            sync_image();
#endif
            X.ws = 1
        }
    :: d_step { X.ws == 1 && (X.cs == 0 || X.cs == 3) ->
            if
            :: X.open && !X.copying || X.cur != X.last -> X.ws = 0
            :: else -> X.v.applied = X.last; X.ws = 2
            fi
        }
    :: d_step { X.ws == 2 -> sync_journal(); clear_log(); X.ws = 0 }

    /* promotion */
    :: d_step { X.up == 2 && promotes && X.v.have_image && !X.v.promoted &&
                X.ps == 0 && X.ws == 0 && !X.page &&
#ifdef M_ACK_UNLOCKED
                (X.cs == 0 || X.cs == 2) ->
#else
                X.cs == 0 ->
#endif
            promotes--; X.open = 0; X.copying = 0;
            no_copy(); X.v.promoted = 1; X.v.generation++; X.ps = 1
        }
    :: d_step { X.ps == 1 -> sync_journal(); X.ps = 3 } /* decided */
    :: d_step { X.up == 2 && X.v.promoted && !X.unmarked && X.ps == 0 ->
            X.ps = 3 }              /* the command is repeated */
    :: d_step { X.ps == 3 && X.cur == X.last && !X.page ->
            sync_image(); X.ps = 4 }
    :: d_step { X.ps == 4 -> X.v.applied = X.last; X.ps = 5 }
    :: d_step { X.ps == 5 -> sync_journal(); clear_log(); X.ps = 6 }
    :: d_step { X.ps == 6 ->
            CHECK(3, WHOLE(X.img_d));
            CHECK(1, X.img_d[0] >= promised[r] ||
                   X.img_d[1] >= promised[r]);
#if HOSTS > 1
            WHEN(r == 0, write_state());
#endif
            X.ps = 7
        }
    :: d_step { X.ps == 7 -> X.unmarked = 1; X.ps = 0 }

    /* faults */
#ifdef BREAK
    :: d_step { FAULT && rcon[r] && X.cs == 0 -> faults--; detach() }
#endif
#ifdef RKILL
    :: d_step { FAULT && X.up && !X.unmarked -> faults--; daemon_dies() }
#endif
#ifdef RPOWER
    :: atomic { FAULT && !X.unmarked ->
            faults--; daemon_dies(); power_loss() }
#endif
    od
}
