/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pmem-ha: handover from one primary to another, docs/devel/pmem-ha-handover.rst;
 * included by pmem-ha.pml with -DHANDOVER.
 *
 * Both primaries have the same replica, and each its own connection.  Either
 * may load what the source wrote, also later or again, as from a file.  Stores
 * of the destination are numbered from 9 on, beside those that the source makes
 * when it goes on.
 *
 * H1 no commit between section and TAKE   H2 one of those that hold it takes
 * H3 who takes holds all that is there    H4 what may differ is dirty
 * H5 a flush returns where it was taken
 * The assertions are CHECK(10 + n, ...).
 */

#ifndef LOADS
#define LOADS 2
#endif

#define primary_    0               /* Device.role */
#define handed_over 1
#define incoming    2

mtype = { WENT_ON };                /* REFUSE, reason "went on" */

typedef Section {
    bit saved; byte generation; byte captured; byte acked;
    byte mem; byte clean
}

Section sect;
byte loads = LOADS;
byte winner;                        /* ghost: instance that took */
bit others_went_on;                 /* ghost: started from a state file */

/*
 * What the daemon does by itself is left out: it applies its log when it starts,
 * and a promotion ends with the decision.
 */
#ifdef NO_WORKER
#define WORKS (X.up == opening)
#define COMPLETES false
#else
#define WORKS true
#define COMPLETES true
#endif

#define K X.peer
#define L p
#define HOME(p) p
#define REPLICA(p) 0
#define SERVED(k) (X.attached && X.peer == (k))
#define CONNECTED (X.attached && rcon[X.peer])
#define ATTACHED(n) X.attached = n
#define EXISTS(p) (p == 0 || P[1].v.found)
#define GUEST_RUNS (S.role == primary_)
#define MAY_DIAL (S.role == primary_)
#define HAS_ROLE (S.role == primary_ && !S.take)
#if defined(M_COMMIT_AFTER_SECTION) || defined(M_ACK_AFTER_SECTION)
#define M_LINK_STAYS
#endif
#define COMMITS CHECK(11, HAS_ROLE)

/* A store of the source after its section is not in what was handed over. */
#define HOLDS(v, n) ((n) <= (v) && \
                     ((v) < 9 || (n) >= 9 || !sect.saved || (n) <= base))

/* A page that is not as in content v is dirty. */
#define DIFFER_IS_DIRTY(v) \
    ((PAGE(v, 0) == PAGE(S.mem, 0) || PAGE(S.clean, 0) != PAGE(S.mem, 0)) && \
     (PAGE(v, 1) == PAGE(S.mem, 1) || PAGE(S.clean, 1) != PAGE(S.mem, 1)))
#define EQUAL_TO(v) (HOLDS(S.mem, v) && DIFFER_IS_DIRTY(v))

/* The replica */

#define CAN_HELLO(k) (X.up == serves && rcon[k] && !SERVED(k) && \
                      nempty(to_r[k]) && X.cs == idle && \
                      X.ws != checkpoint_super && X.ps != promote_super && \
                      !X.greet)

inline hang_up(k) {
    drain(to_r[k]); rcon[k] = 0
}

/* b: instance of a TAKE, or 0; c: what the record says */
inline answer_take(k) {
    if
    :: X.v.generation == a + 1 ->
        STEP(r_take_again);
        X.attached = 1; X.peer = k; X.inst = b;
        X.gen = X.v.generation; X.greet = X.v.generation
#ifndef M_NO_RANGE
    :: X.v.generation == a && X.v.have_image &&
       c % 16 <= X.last && X.last <= c / 16 ->
#else
    :: X.v.generation == a && X.v.have_image ->
#endif
        STEP(r_take);
        X.attached = 1; X.peer = k; X.inst = b;
        X.v.generation = a + 1; X.v.taker = b; X.gen = a + 1;
#ifndef M_TAKE_UNSYNCED
        X.cs = take_super
#else
        X.greet = X.v.generation
#endif
    :: else ->
        STEP(r_take_refused);
        tell(k, WENT_ON, 0, 0, 0); hang_up(k)
    fi
}

#ifndef M_NO_RETRY
#define TOOK(a, b) ((b) && X.v.generation == (a) + 1 && X.v.taker == (b))
#else
#define TOOK(a, b) false
#endif

inline hello_or_take(k) {
    to_r[k]?m,a,b,c;
    if
    :: X.v.promoted || a < X.v.generation && !TOOK(a, b) ->
        STEP(r_take_fenced);
        CHECK(5, !b || X.v.promoted ||
                 X.v.generation > a + 1 || X.v.taker != b);
        tell(k, FENCED, X.v.generation, 0, 0); hang_up(k)
    :: else ->
        if
        :: b ->
            WHEN(X.attached, STEP(r_replaced); detach());
            answer_take(k)
        :: !b && X.attached -> STEP(r_busy); hang_up(k)
        :: !b && !X.attached -> X.peer = k; hello()
        fi
    fi;
    m = 0; a = 0; b = 0; c = 0
}

inline taken() {
    sync_journal();
    X.greet = X.v.generation; X.cs = idle
}

/* In sync after a first copy of nothing */
inline already_in_sync() {
    R[0].v.have_image = 1; R[0].v.applied = 1; super_copy(R[0].d, R[0].v);
    R[0].log = 1; R[0].log_d = 1; R[0].mark = 1; R[0].mark_d = 1;
    R[0].up = serves; R[0].last = 1; R[0].cur = 1;
    R[0].attached = 1; R[0].gen = 1; pcon[0] = 1; rcon[0] = 1;
    P[0].v.found = 1; P[0].v.generation = 1; P[0].v.captured = 1;
    P[0].v.boot = 1; record_copy(P[0].d, P[0].v);
    P[0].running = 1; P[0].begun = 1; P[0].state = in_sync;
    P[0].con = 1; P[0].ss = linked; P[0].ready = 1;
    P[0].captured = 1; P[0].acked = 1; P[0].lineage = 1; P[0].synced = 1
}

/* The primary */

#define CAN_SAVE(p) (P[p].begun && P[p].role == primary_ && !P[p].take && P[p].synced && \
                     !P[p].copy_running && !sect.saved && \
                     (P[p].state == in_sync || P[p].state == connecting))
#define CAN_LOAD(p) (sect.saved && loads && !P[p].running)

inline save_section() {
    sect.saved = 1; sect.generation = S.v.generation;
    sect.captured = S.captured; sect.acked = S.acked;
    sect.mem = S.mem;
#ifndef M_CLEAN_AT_TAKE
    sect.clean = (S.epoch -> S.from : S.clean);
#else
    sect.clean = S.clean;
#endif
    base = S.mem;
#ifndef M_SECTION_UNRECORDED
    write_record(0);
#endif
#ifndef M_LINK_STAYS
    close_link();
    S.state = connecting;
#endif
    S.role = handed_over;
    S.runs++; S.inst = 4 * p + S.runs
}

inline load_section() {
    loads--;
    S.running = 1; S.begun = 1; S.loaded = 1; S.role = incoming;
    S.runs++; S.inst = 4 * p + S.runs;
    S.mem = sect.mem; S.clean = sect.clean;
    S.captured = sect.captured; S.acked = sect.acked;
    S.lineage = 0; S.equal = 0; S.synced = 0; S.state = connecting;
    /* The file proves nothing from now on. */
    S.v.generation = sect.generation;
    write_record(0); record_copy(S.d, S.v)
}

inline go_on() {
#ifdef M_RESUME_PLAIN
    S.take = S.role == incoming;
#else
    S.take = 1;
#endif
    S.role = primary_
}

/* WELCOME for TAKE; what follows is as for any WELCOME. */
inline p_takes(g, e) {
    S.take = 0;
    if
    :: S.loaded ->
        STEP(p_taken_over);
        S.synced = e >= S.acked; S.acked = MAX(S.acked, e);
        S.captured = S.acked; S.loaded = 0
    :: !S.loaded ->
        STEP(p_taken_back)
    fi;
    S.v.generation = g; S.lineage = 1;
    begin();
    CHECK(13, R[T].up < serves || HOLDS(S.mem, R[T].ver))
}
