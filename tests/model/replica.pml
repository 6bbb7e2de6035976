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
    to_.generation = from_.generation; to_.applied = from_.applied;
    to_.taker = from_.taker
}

/* fdatasync of the journal */
inline sync_journal() {
    super_copy(X.d, X.v); X.log_d = X.log; X.mark_d = X.mark
}

inline sync_image() { X.img_d[0] = X.img[0]; X.img_d[1] = X.img[1] }

inline detach() {
    drain(to_r[K]);
    rcon[K] = 0; ATTACHED(0); X.open = 0; X.copying = 0; X.greet = 0;
    X.gen = 0
}

inline tell(k, type, a, b, c) {
    WHEN(pcon[k] && len(to_p[k]) < 2, to_p[k]!type,a,b,c)
}

inline acknowledge(e) {
    CHECK(2, !X.d.promoted);
    tell(K, ACK, e, 0, 0)
}

inline daemon_dies() {
    detach();
#ifdef HANDOVER
    drain(to_r[0]); rcon[0] = 0; drain(to_r[1]); rcon[1] = 0;
    X.peer = 0; X.inst = 0;
#endif
    X.up = dead; X.last = 0; X.cur = 0; X.page = 0; X.cs = idle;
    X.ws = idle; X.ps = idle
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
    :: X.v.image_is_copy -> X.cs = (X.has_copy -> copy_decided : copy_renamed)
    :: else -> no_copy()
    fi
}

/* HELLO from the connection that is served by this process */
inline hello() {
    if
#if !defined(M_NO_GENERATION) && !defined(M_NO_GENERATION_AT_ALL)
    :: X.v.promoted || a < X.v.generation ->
        STEP(r_hello_fenced);
        tell(K, FENCED, X.v.generation, 0, 0); detach()
    :: else ->
#else
    :: true ->
#endif
        STEP(r_hello);
        /* It acknowledges what it names. */
#ifndef M_NO_GENERATION_AT_ALL
        CHECK(2, !X.d.promoted && a >= X.d.generation);
#endif
        ATTACHED(1); X.gen = a; X.greet = X.v.generation
    fi
}

/* A message from the primary; the lock is free. */
inline dispatch() {
    to_r[K]?m,a,b,c;
    if
#ifndef HANDOVER
    :: m == HELLO -> hello()
#endif
    :: m != HELLO && X.v.promoted ->
        STEP(r_message_fenced);
        tell(K, FENCED, X.v.generation, 0, 0); detach()
    :: m == COPY && !X.v.promoted ->
        STEP(r_copy);
        X.copying = 1; no_copy(); X.has_copy = 1; X.copy[0] = a
    :: m == DATA && !X.v.promoted ->
        STEP(r_copy_data);
        X.copy[1] = a
    :: m == BEGIN && !X.v.promoted ->
        CHECK(6, !X.open);
        X.open = a;
        if
        :: X.copying ->
            STEP(r_begin_copy);
            CHECK(6, !X.v.have_image || a > X.last);
            X.copy[0] = (b -> b : X.copy[0]);
            X.copy[1] = (c -> c : X.copy[1])
        :: else ->
            STEP(r_begin);
            CHECK(6, X.v.have_image && X.gen == X.v.generation &&
                     a == X.last + 1);
            X.page0[a] = b; X.page1[a] = c
        fi
    :: m == COMMIT && !X.v.promoted ->
        CHECK(6, X.open == a);
        if
        :: X.copying ->
            STEP(r_commit_copy);
            X.copy_d = 1; X.cs = copy_synced
#ifdef M_DECIDE_UNSYNCED
            X.copy_d = 0;
#endif
        :: else ->
            STEP(r_commit);
            X.log = a; X.cs = journal_committed
#ifdef M_ACK_EARLY
            tell(K, ACK, a, 0, 0);
#endif
        fi
    fi;
    m = 0; a = 0; b = 0; c = 0
}

/* commit_copy(): the superblock that decides is on stable storage */
inline decide_copy() {
    sync_journal();
    CHECK(3, WHOLE(X.copy));
    CHECK(4, HOLDS(MAX(X.copy[0], X.copy[1]), X.ver));
    CHECK(4, HOLDS(MAX(X.copy[0], X.copy[1]), promised[r]));
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

inline welcome() {
#ifdef HANDOVER
    CHECK(12, !X.inst || !winner || winner == X.inst);
    WHEN(X.inst, winner = X.inst);
    X.inst = 0;
#endif
    tell(K, WELCOME, X.v.have_image, X.greet, X.last); X.greet = 0
}

proctype replica(byte r)
{
    mtype m; byte a; byte b; byte c; byte i;

end:
    do
    /* start */
    :: d_step { X.up == dead -> STEP(r_open); open_journal(); X.up = opening }
    :: d_step { X.up == opening && X.unmarked ->
            STEP(r_open_given_away); X.up = serves }
    :: d_step { X.up == opening && !X.unmarked && X.cs == idle &&
                X.ws == idle && !X.page && X.cur == X.last &&
                (X.v.promoted || X.v.applied == X.last) ->
            STEP(r_ready);
            sync_image();
            CHECK(3, !X.v.have_image || WHOLE(X.img));
            X.ver = MAX(X.img[0], X.img[1]);
            CHECK(1, HOLDS(X.ver, promised[r]));
            X.up = serves
        }

    /* connection */
#ifdef HANDOVER
    :: d_step { CAN_HELLO(0) -> hello_or_take(0) }
    :: d_step { CAN_HELLO(1) -> hello_or_take(1) }
    :: d_step { X.cs == take_super -> STEP(r_taken); taken() }
    :: d_step { rcon[0] && !pcon[0] && !SERVED(0) ->
            drain(to_r[0]); rcon[0] = 0 }   /* r_detach, before HELLO */
    :: d_step { rcon[1] && !pcon[1] && !SERVED(1) ->
            drain(to_r[1]); rcon[1] = 0 }
#endif
    :: d_step { X.up == serves && CONNECTED && nempty(to_r[K]) &&
                X.cs == idle && X.ws != checkpoint_super &&
                X.ps != promote_super && !X.greet -> dispatch() }
    :: d_step { X.greet -> STEP(r_welcome); welcome() }
    :: d_step { X.up == serves && CONNECTED && !X.greet && X.cs == idle &&
                X.v.promoted && X.ps != promote_super -> /* kicked */
            STEP(r_kicked);
            tell(K, FENCED, X.v.generation, 0, 0); detach() }
    :: d_step { CONNECTED && !pcon[K] && X.cs == idle ->
            STEP(r_detach); detach() }

    /* COMMIT of an epoch */
    :: d_step { X.cs == journal_committed ->
            STEP(r_commit_synced);
            sync_journal();
            X.last = X.open; X.mark = X.last; X.open = 0;
            b = MAX(X.page0[X.last], X.page1[X.last]);
            CHECK(4, !b || HOLDS(b, X.ver));
            X.ver = MAX(X.ver, b); b = 0;
            X.cs = journal_marked
        }
    :: d_step { X.cs == journal_marked ->
            STEP(r_ack);
#ifndef M_ACK_EARLY
            acknowledge(X.last);
#endif
            X.cs = idle
        }
    /* COMMIT of a copy */
    :: d_step { X.cs == copy_synced && !X.page && X.ws == idle ->
            STEP(r_copy_super);
            X.v.have_image = 1; X.v.image_is_copy = 1;
            X.v.taker = (X.gen == X.v.generation -> X.v.taker : 0);
            X.v.generation = X.gen; X.v.applied = X.open; X.cs = copy_super }
    :: d_step { X.cs == copy_super ->
            STEP(r_copy_decided); decide_copy(); X.cs = copy_unacked }
    :: d_step { X.cs == copy_unacked ->
            STEP(r_copy_ack); acknowledge(X.last); X.cs = copy_decided }
    :: d_step { X.cs == copy_decided ->
            STEP(r_copy_renamed);
            X.img[0] = X.copy[0]; X.img[1] = X.copy[1]; sync_image();
            no_copy(); X.cs = copy_renamed }
    :: d_step { X.cs == copy_renamed ->
            STEP(r_copy_named); X.v.image_is_copy = 0; X.cs = named_super }
    :: d_step { X.cs == named_super ->
            STEP(r_copy_done); sync_journal(); clear_log(); X.cs = idle }

    /* worker, and step 2 of promotion: a page at a time */
    :: d_step { X.up && !X.unmarked && X.cur < X.last && X.ws == idle &&
                WORKS &&
                (X.cs < copy_synced || X.cs == copy_synced && X.page) &&
                (X.ps == idle || X.ps == promote_decided) ->
            STEP(r_apply);
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
    :: d_step { X.up && X.ws == idle && X.ps == idle && WORKS &&
                X.cs < copy_synced && !X.page && X.cur == X.last &&
                X.last > X.v.applied && !X.v.promoted &&
                (!X.open || X.copying) ->
            STEP(r_checkpoint);
#ifndef M_RESTART_UNSYNCED
            sync_image();
#endif
            X.ws = apply_synced
        }
    :: d_step { X.ws == apply_synced && (X.cs == idle || X.cs == copy_synced) ->
            if
            :: X.open && !X.copying || X.cur != X.last ->
                STEP(r_checkpoint_put_off); X.ws = idle
            :: else ->
                STEP(r_checkpoint_super);
                X.v.applied = X.last; X.ws = checkpoint_super
            fi
        }
    :: d_step { X.ws == checkpoint_super ->
            STEP(r_checkpoint_done);
            sync_journal(); clear_log(); X.ws = idle }

    /* promotion */
    :: d_step { X.up == serves && promotes && X.v.have_image &&
                !X.v.promoted && X.ps == idle && X.ws == idle && !X.page &&
#ifdef M_ACK_UNLOCKED
                (X.cs == idle || X.cs == journal_marked) ->
#else
                X.cs == idle ->
#endif
            STEP(r_promote);
            promotes--; X.open = 0; X.copying = 0;
            no_copy(); X.v.promoted = 1; X.v.generation++; X.v.taker = 0;
            X.ps = promote_super
        }
    :: d_step { X.ps == promote_super ->
            STEP(r_promote_decided); sync_journal(); X.ps = promote_decided;
            CHECK(1, HOLDS(X.ver, promised[r])) }
    :: d_step { X.up == serves && X.v.promoted && !X.unmarked &&
                X.ps == idle && COMPLETES -> /* the command is repeated */
            STEP(r_promote_again); X.ps = promote_decided }
    :: d_step { X.ps == promote_decided && COMPLETES && X.cur == X.last && !X.page ->
            STEP(r_promote_image); sync_image(); X.ps = promote_synced }
    :: d_step { X.ps == promote_synced ->
            STEP(r_promote_super);
            X.v.applied = X.last; X.ps = applied_super }
    :: d_step { X.ps == applied_super ->
            STEP(r_promote_applied);
            sync_journal(); clear_log(); X.ps = promote_applied }
    :: d_step { X.ps == promote_applied ->
            STEP(r_promote_state);
            CHECK(3, WHOLE(X.img_d));
            CHECK(1, HOLDS(MAX(X.img_d[0], X.img_d[1]), promised[r]));
#if HOSTS > 1
            WHEN(r == 0, write_state());
#endif
            X.ps = promote_state
        }
    :: d_step { X.ps == promote_state ->
            STEP(r_promote_unmarked); X.unmarked = 1; X.ps = idle }

    /* faults */
#ifdef BREAK
    :: d_step { FAULT && CONNECTED && X.cs == idle ->
            STEP(r_break); faults--; detach() }
#endif
#ifdef RKILL
    :: d_step { FAULT && X.up ->
            STEP(r_kill); faults--; daemon_dies() }
#endif
#ifdef RPOWER
    :: atomic { FAULT && !X.unmarked ->
            STEP(r_power); faults--; daemon_dies(); power_loss() }
#endif
    od
}
