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
        drain(to_p[L]); pcon[L] = 0;
        WHEN(!rcon[L], drain(to_r[L]))
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
#ifdef HANDOVER
    ; S.role = primary_; S.take = 0; S.loaded = 0; S.inst = 0
#endif
}

inline kill_process() {
#ifdef HANDOVER
    S.harmed = (S.loaded -> 1 : S.harmed);
#endif
    process_ends();
    S.state = (S.state == failed -> failed : connecting)
}

/* pmem_ha_prove(), pmem_ha_begin() */
inline start(wait) {
    S.lineage = 0; S.equal = 0;
    record_copy(S.d, S.v);
    if
    :: !S.v.found ->
        STEP(p_prove_new); S.v.generation = 1; S.lineage = 1
    :: S.v.found && S.v.clean ->
        STEP(p_prove_clean);
#ifndef M_TRUST_BACKING
        S.lineage = S.v.digest == S.mem;
#else
        S.lineage = 1;
#endif
        S.equal = S.lineage && S.v.captured == S.v.acked
    :: S.v.found && !S.v.clean ->
        STEP(p_prove_unclean);
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
        STEP(p_start_failed);
        S.state = failed; S.captured = 0; S.acked = 0; S.clean = 0
    :: else ->
        S.running = 1;
#ifdef HANDOVER
        others_went_on = (sect.saved -> 1 : 0);
#endif
        if
        :: wait -> STEP(p_start)
        :: !wait -> STEP(p_start_unconnected); begin()
        fi
    fi
}

/* Flushes return. */
inline release(n) {
    CHECK(1, HOLDS(n, promised[T]));
    promised[T] = MAX(promised[T], n);
    CHECK(1, !R[T].unmarked || HOLDS(MAX(R[T].img[0], R[T].img[1]), n));
#ifndef HANDOVER
    CHECK(2, T == p)
#else
    CHECK(15, HAS_ROLE)
#endif
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
        STEP(p_lost_ack);
        S.acked = S.epoch; S.synced = 1; now_proved(); release(S.content)
    :: S.epoch && !(have && SAME_GENERATION(g) && e == S.epoch) ->
        STEP(p_put_back);
#ifndef M_FORGET_PUT_BACK
        S.clean = S.from;
#endif
        S.captured = S.acked
    :: !S.epoch
    fi;
    S.epoch = 0; S.content = 0; S.from = 0;
    if
    :: !have -> STEP(p_verdict_copy_empty); verdict = VERDICT_COPY
    :: have && S.synced && SAME_GENERATION(g) && e == S.acked ->
        STEP(p_verdict_equal_synced); verdict = VERDICT_EQUAL
    :: else ->
        if
        :: S.equal && SAME_GENERATION(g) && e == S.captured ->
            STEP(p_verdict_equal_proved);
            S.synced = 1; verdict = VERDICT_EQUAL
        :: else ->
            if
            :: (S.lineage || S.synced) && SAME_GENERATION(g) &&
#ifndef M_TRUST_OLDER_STATE
               e <= S.captured ->
#else
               true ->
#endif
                STEP(p_verdict_copy_held); verdict = VERDICT_COPY
            :: else -> STEP(p_verdict_refuse); verdict = VERDICT_REFUSE
            fi
        fi
    fi
}

inline greeted() {
    if
    :: verdict == VERDICT_REFUSE ->
        CHECK(5, S.harmed);
        close_link();
        S.state = failed;
        WHEN(!S.begun, process_ends())
    :: else ->
        WHEN(!S.begun, STEP(p_begin); begin());
        if
        :: verdict == VERDICT_COPY ->
            S.state = resync; S.synced = 0; S.equal = 0;
            S.copy_running = 1; S.clean = S.mem; S.ss = copy_begins
        :: else ->
            S.state = in_sync; S.ready = 1; S.ss = linked;
            CHECK(4, R[T].up < serves || EQUAL_TO(R[T].ver));
#ifdef HANDOVER
            CHECK(14, R[T].up < serves || DIFFER_IS_DIRTY(R[T].ver))
#endif
        fi
    fi;
    verdict = 0
}

inline dial() {
    S.con = 1; pcon[L] = 1; rcon[L] = 1; S.ss = greeting;
#ifdef HANDOVER
    to_r[L]!HELLO,S.v.generation,(S.take -> S.inst : 0),
            S.captured * 16 + S.acked
#else
    to_r[L]!HELLO,S.v.generation,0,0
#endif
}

inline hear() {
    to_p[L]?m,a,b,c;
    if
#ifdef HANDOVER
    :: m == WENT_ON -> STEP(p_went_on);
        CHECK(5, others_went_on);
        close_link(); S.state = failed
#endif
    :: m == WELCOME ->
#ifdef HANDOVER
        WHEN(S.take, p_takes(b, c));
#endif
        judge(a, b, c); greeted()
    :: m == ACK ->
        CHECK(6, S.ss >= epoch_recorded && a == S.epoch);
        S.acked = S.epoch; release(S.content);
        S.epoch = 0; S.content = 0; S.from = 0; S.ss = linked;
        if
        :: S.copy_running ->
            STEP(p_ack_copy);
            S.copy_running = 0; S.synced = 1; now_proved(); S.state = in_sync
        :: !S.copy_running ->
            STEP(p_ack)
        fi
    :: m == FENCED ->
        STEP(p_fenced);
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
    :: d_step { !S.running && EXISTS(p) &&
                S.state != failed && S.state != fenced -> start(1) }
    :: d_step { !S.running && EXISTS(p) &&
                S.state != failed && S.state != fenced -> start(0) }

    /* the guest */
    :: d_step { S.begun && S.state != fenced && GUEST_RUNS &&
                (p == 1 && S.mem < 8 ||
                 (p == 1 -> S.mem - 8 - base : S.mem) < STORES) ->
            STEP(p_store); store() }

    /* the replicator */
    :: d_step { S.running && !S.con && S.state == connecting && MAY_DIAL &&
                !pcon[HOME(p)] && !rcon[HOME(p)] &&
                R[REPLICA(p)].up == serves ->
            STEP(p_dial); T = REPLICA(p); dial() }
#if HOSTS > 1
    /* The operator gave the old primary the address of the new replica. */
    :: d_step { p == 0 && S.running && !S.con && S.state == connecting &&
                R[1].d.have_image && !pcon[1] && !rcon[1] &&
                R[1].up == serves ->
            STEP(p_dial_other); T = 1; dial() }
#endif
    :: d_step { S.con && nempty(to_p[L]) -> hear() }
    :: d_step { S.con && !rcon[L] -> STEP(p_link_lost); link_lost() }
    :: d_step { S.ss == copy_begins && nfull(to_r[L]) ->
            STEP(p_copy);
            to_r[L]!COPY,PAGE(S.mem, 0),0,0; S.ss = copy_half }
    :: d_step { S.ss == copy_half && nfull(to_r[L]) ->
            STEP(p_copy_sent);
            to_r[L]!DATA,PAGE(S.mem, 1),0,0; S.ready = 1; S.ss = linked }
    :: d_step { S.ready && S.ss == linked && !S.epoch && nfull(to_r[L]) &&
                (S.mem != S.clean || S.copy_running) ->
            STEP(p_capture);
            S.captured++; assert(S.captured < EPOCHS);
            S.epoch = S.captured; S.content = S.mem; S.from = S.clean;
            S.clean = S.mem;
            to_r[L]!BEGIN,S.epoch,DELTA(S.from, S.content, 0),
                  DELTA(S.from, S.content, 1);
            S.ss = epoch_sent
        }
#ifndef M_STATE_LATE
    :: d_step { S.ss == epoch_sent ->
            STEP(p_record); write_record(0); S.ss = epoch_recorded }
    :: d_step { S.ss == epoch_recorded && nfull(to_r[L]) ->
            STEP(p_commit); COMMITS;
            to_r[L]!COMMIT,S.epoch,0,0; S.ss = commit_sent }
#else
    :: d_step { S.ss == epoch_sent && nfull(to_r[L]) ->
            to_r[L]!COMMIT,S.epoch,0,0; S.ss = epoch_recorded }
    :: d_step { S.ss == epoch_recorded -> write_record(0); S.ss = commit_sent }
#endif
#ifdef HANDOVER
    :: d_step { CAN_SAVE(p) -> STEP(p_save); save_section() }
    :: d_step { CAN_LOAD(p) -> STEP(p_load); load_section() }
    :: d_step { S.role == handed_over -> STEP(p_take_back); go_on() }
    :: d_step { S.role == incoming -> STEP(p_take_over); go_on() }
#endif

    /* faults */
#ifdef BREAK
    :: d_step { FAULT && S.con -> STEP(p_break); faults--; link_lost() }
#endif
#ifdef PKILL
    :: d_step { FAULT && S.running -> STEP(p_kill); faults--; kill_process() }
#endif
#ifdef PPOWER
    :: atomic { FAULT && EXISTS(p) && S.v.found ->
            STEP(p_power); faults--; kill_process();
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
            STEP(p_end);
            faults--; S.lineage = 1; write_record(1); record_copy(S.d, S.v);
            S.old_mem = S.mem; S.old_captured = S.captured;
            process_ends(); S.state = connecting
        }
#endif
#ifdef RESTORE
    :: atomic { !S.running && !restored && S.v.found && EXISTS(p) ->
            restored = 1; S.harmed = 1; S.touched = 1;
            if
            :: STEP(p_restore_first); S.mem = (p == 0 -> 0 : base)
            :: STEP(p_restore_backing); S.mem = S.old_mem
            :: STEP(p_restore_both);
                S.mem = S.old_mem; S.v.clean = 1; S.v.digest = S.mem;
                S.v.captured = S.old_captured; S.v.acked = S.old_captured;
                S.v.boot = 1; record_copy(S.d, S.v)
            fi
        }
#endif
    od
}
