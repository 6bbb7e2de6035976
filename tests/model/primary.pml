/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pmem-ha: the primary, the device in QEMU; included by pmem-ha.pml */


inline write_record(is_clean) {
    S.v.found = 1; S.v.captured = S.captured; S.v.acked = S.acked;
    S.v.clean = is_clean; S.v.digest = (is_clean -> S.mem : 0);
    S.v.boot = (S.lineage -> 1 : 0)
}

inline begin() {
    write_record(0); record_copy(S.d, S.v); S.touched = 0; S.begun = 1
}

inline close_link() {
    if
    :: S.con ->
        drain(to_p[T]); pcon[T] = 0;
        WHEN(!rcon[T], drain(to_r[T]))
    :: else
    fi;
    S.con = 0; S.ss = 0; S.ready = 0; S.copy_running = 0
}

inline link_lost() {
    close_link();
#ifndef M_GIVE_UP
    S.state = (S.state == fenced || S.state == failed -> S.state : connecting)
#else
    S.state = (S.state == fenced || S.state == failed -> S.state : resync)
#endif
}

inline process_ends() {
    close_link();
    S.running = 0; S.begun = 0; S.captured = 0; S.acked = 0; S.lineage = 0;
    S.equal = 0; S.synced = 0; S.clean = 0; S.epoch = 0; S.content = 0;
    S.from = 0
}

inline kill_process() {
    process_ends();
    S.state = (S.state == failed -> failed : connecting)
}

/* pmem_ha_prove(), pmem_ha_begin() */
inline start(wait) {
    S.lineage = 0; S.equal = 0;
    record_copy(S.d, S.v);
    if
    :: !S.v.found -> S.v.generation = 1; S.lineage = 1
    :: S.v.found && S.v.clean ->
#ifndef M_TRUST_BACKING
        S.lineage = S.v.digest == S.mem;
#else
        S.lineage = 1;
#endif
        S.equal = S.lineage && S.v.captured == S.v.acked
    :: S.v.found && !S.v.clean ->
        S.lineage =
#ifndef M_TRUST_BACKING
            !S.touched &&
#endif
#ifndef M_TRUST_RESTART
            S.v.boot == 1
#else
            S.v.boot
#endif
    fi;
    S.captured = S.v.captured; S.acked = S.captured; S.clean = S.mem;
    if
    :: !wait && S.v.found && S.v.clean && !S.lineage ->
        S.state = failed; S.captured = 0; S.acked = 0; S.clean = 0
    :: else ->
        S.running = 1;
        WHEN(!wait, begin())
    fi
}

/* Flushes return. */
inline release(n) {
    promised[T] = MAX(promised[T], n);
    CHECK(1, !R[T].unmarked || n <= MAX(R[T].img[0], R[T].img[1]));
    CHECK(2, T == p)
}

inline now_proved() {
    WHEN(!S.lineage, S.lineage = 1; S.v.boot = 1)
}

#ifndef M_NO_GENERATION_AT_ALL
#define SAME_GENERATION(g) ((g) == S.v.generation)
#else
#define SAME_GENERATION(g) true
#endif

/* pmem_ha_judge_locked() */
inline judge(have, g, e) {
    if
    :: S.epoch && have && SAME_GENERATION(g) && e == S.epoch ->
        NOTE(LOST_ACK);
        S.acked = S.epoch; S.synced = 1; now_proved(); release(S.content)
    :: S.epoch && !(have && SAME_GENERATION(g) && e == S.epoch) ->
        NOTE(PUT_BACK);
#ifndef M_FORGET_PUT_BACK
        S.clean = S.from;
#endif
        S.captured = S.acked
    :: !S.epoch
    fi;
    S.epoch = 0; S.content = 0; S.from = 0;
    if
    :: !have -> NOTE(FULL_COPY)
    :: have && S.synced && SAME_GENERATION(g) && e == S.acked ->
        NOTE(EQUAL)
    :: else ->
        if
        :: S.equal && SAME_GENERATION(g) && e == S.captured ->
            S.synced = 1; NOTE(EQUAL)
        :: else ->
            if
            :: (S.lineage || S.synced) && SAME_GENERATION(g) &&
#ifndef M_TRUST_OLDER_STATE
               e <= S.captured ->
#else
               true ->
#endif
                NOTE(FULL_COPY)
            :: else -> NOTE(REFUSE)
            fi
        fi
    fi
}

inline greeted() {
    if
    :: verdict == REFUSE ->
        CHECK(5, S.harmed);
        close_link();
        S.state = failed;
        WHEN(!S.begun, process_ends())
    :: else ->
        WHEN(!S.begun, begin());
        if
        :: verdict == FULL_COPY ->
            S.state = resync; S.synced = 0; S.equal = 0;
            S.copy_running = 1; S.clean = S.mem; S.ss = 2
        :: else ->
            S.state = in_sync; S.ready = 1; S.ss = 4;
            CHECK(4, R[T].up < 2 || S.clean == R[T].ver)
        fi
    fi;
    verdict = 0
}

inline dial() {
    S.con = 1; pcon[T] = 1; rcon[T] = 1; S.ss = 1;
    to_r[T]!HELLO,S.v.generation,0,0
}

inline hear() {
    to_p[T]?m,a,b,c;
    if
    :: m == WELCOME -> judge(a, b, c); greeted()
    :: m == ACK ->
        CHECK(6, S.ss >= 6 && a == S.epoch);
        S.acked = S.epoch; release(S.content);
        S.epoch = 0; S.content = 0; S.from = 0; S.ss = 4;
        WHEN(S.copy_running,
             S.copy_running = 0; S.synced = 1; now_proved(); S.state = in_sync)
    :: m == FENCED ->
        close_link();
        WHEN(!S.begun, process_ends());
        S.state = fenced
    fi;
    m = 0; a = 0; b = 0; c = 0
}

inline store() {
    S.mem = (p == 1 && S.mem < 8 -> S.mem + 9 : S.mem + 1)
}

proctype primary(byte p)
{
    mtype m; byte a; byte b; byte c;

end:
    do
    :: d_step { !S.running && (p == 0 || R[0].unmarked) &&
                S.state != failed && S.state != fenced -> start(1) }
    :: d_step { !S.running && (p == 0 || R[0].unmarked) &&
                S.state != failed && S.state != fenced -> start(0) }

    /* the guest */
    :: d_step { S.begun && S.state != fenced &&
                (p == 1 && S.mem < 8 ||
                 (p == 1 -> S.mem - 8 - base : S.mem) < STORES) -> store() }

    /* the replicator */
    :: d_step { S.running && !S.con && S.state == connecting &&
                !pcon[p] && !rcon[p] && R[p].up == 2 ->
            T = p; dial() }
#if HOSTS > 1
    /* The operator gave the old primary the address of the new replica. */
    :: d_step { p == 0 && S.running && !S.con && S.state == connecting &&
                R[1].d.have_image && !pcon[1] && !rcon[1] &&
                R[1].up == 2 ->
            T = 1; dial() }
#endif
    :: d_step { S.con && nempty(to_p[T]) -> hear() }
    :: d_step { S.con && !rcon[T] -> link_lost() }
    :: d_step { S.ss == 2 && nfull(to_r[T]) ->
            to_r[T]!COPY,PAGE(S.mem, 0),0,0; S.ss = 3 }
    :: d_step { S.ss == 3 && nfull(to_r[T]) ->
            to_r[T]!DATA,PAGE(S.mem, 1),0,0; S.ready = 1; S.ss = 4 }
    /* capture() */
    :: d_step { S.ready && S.ss == 4 && !S.epoch && nfull(to_r[T]) &&
                (S.mem != S.clean || S.copy_running) ->
            S.captured++; assert(S.captured < EPOCHS);
            S.epoch = S.captured; S.content = S.mem; S.from = S.clean;
            S.clean = S.mem;
            to_r[T]!BEGIN,S.epoch,DELTA(S.from, S.content, 0),
                  DELTA(S.from, S.content, 1);
            S.ss = 5
        }
#ifndef M_STATE_LATE
    :: d_step { S.ss == 5 -> write_record(0); S.ss = 6 }
    :: d_step { S.ss == 6 && nfull(to_r[T]) ->
            to_r[T]!COMMIT,S.epoch,0,0; S.ss = 7 }
#else
    :: d_step { S.ss == 5 && nfull(to_r[T]) ->
            to_r[T]!COMMIT,S.epoch,0,0; S.ss = 6 }
    :: d_step { S.ss == 6 -> write_record(0); S.ss = 7 }
#endif

    /* faults */
#ifdef BREAK
    :: d_step { FAULT && S.con -> faults--; link_lost() }
#endif
#ifdef PKILL
    :: d_step { FAULT && S.running -> faults--; kill_process() }
#endif
#ifdef PPOWER
    :: atomic { FAULT && (p == 0 || R[0].unmarked) && S.v.found ->
            faults--; kill_process();
            if
            :: record_copy(S.v, S.d)
            :: record_copy(S.d, S.v)
            fi;
            S.v.boot = (S.v.boot -> 2 : 0); S.d.boot = S.v.boot;
            /* none of the guest's stores was synced */
            S.mem = (p == 0 -> 0 : base); S.harmed = 1
        }
#endif
#ifdef END
    /* pmem_ha_finish(), all sent */
    :: d_step { FAULT && S.state == in_sync && S.begun && !S.epoch &&
                S.mem == S.clean && (S.lineage || S.synced) ->
            faults--; S.lineage = 1; write_record(1); record_copy(S.d, S.v);
            S.old_mem = S.mem; S.old_captured = S.captured;
            process_ends(); S.state = connecting
        }
#endif
#ifdef RESTORE
    :: atomic { !S.running && !restored && S.v.found &&
                (p == 0 || R[0].unmarked) ->
            restored = 1; S.harmed = 1; S.touched = 1;
            if
            :: S.mem = (p == 0 -> 0 : base)
            :: S.mem = S.old_mem
            :: S.mem = S.old_mem; S.v.clean = 1; S.v.digest = S.mem;
                S.v.captured = S.old_captured; S.v.acked = S.old_captured;
                S.v.boot = 1; record_copy(S.d, S.v)
            fi
        }
#endif
    od
}
