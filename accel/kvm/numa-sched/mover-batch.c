/*
 * NUMA scheduler: move a batch, and give it back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What move_pages(2) says of each page is not the whole truth: once a page did
 * not move, it leaves the status of others as it was, moved or not, and a page
 * that is part of a large one which has just been taken is "busy".  So where
 * pages are is asked for before and after.
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "mover-int.h"

#define TRIES           3       /* of what was busy, after the first one */
#define FEW             128     /* addresses of such a call */

int ns_mover_call(NsMover *m, uint32_t n, int id, int64_t *ns)
{
    g_autofree int *said = NULL;
    int64_t began;
    bool sure = true;
    int unknown = 0;
    long ret;

    for (uint32_t i = 0; i < n; i++) {
        m->node[i] = id;
        m->was[i] = m->status[i];
        m->status[i] = -EBUSY;
    }
    began = ns_mover_now(m);
    ret = m->sys->move_pages(m->sys_opaque, n, m->page, m->node, m->status);
    *ns = MAX(ns_mover_now(m) - began, 0);
    for (uint32_t i = 0; i < n; i++) {
        sure &= m->status[i] == id;
    }
    if (ret || !sure) {
        said = g_memdup2(m->status, n * sizeof(*said));
        unknown = ns_mover_ask(m, n) ? ns_mover_ask(m, n) : 0;
        if (unknown) {
            memcpy(m->status, said, n * sizeof(*said));
        }
        for (uint32_t i = 0; i < n && !unknown; i++) {
            /* It is where it was: why? */
            if (m->status[i] >= 0 && m->status[i] != id) {
                m->status[i] = said[i] < 0 ? said[i] : -EBUSY;
            }
        }
    }
    /* Nothing can be undone that is not known. */
    return ret < 0 ? ret : unknown;
}

/* What became of a unit */
typedef struct Fate {
    uint64_t moved, busy, stays, full;
} Fate;

/* Only what gains is asked for: @n of m->page to the fewer that are left */
static uint32_t keep_those_that_gain(NsMover *m, uint32_t n, uint32_t *owner)
{
    const uint32_t *row = m->ratio + (size_t)m->cpu * m->n_nodes;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n; i++) {
        int src = m->status[i] < 0 ? -1 : ns_mover_index(m, m->status[i]);

        if (src >= 0 && row[src] > row[m->target]) {
            m->page[kept] = m->page[i];
            m->size[kept] = m->size[i];
            m->status[kept] = m->status[i];
            owner[kept++] = owner[i];
        }
    }
    return kept;
}

/* The addresses of the units from place @first of the order on */
static uint32_t addresses(NsMover *m, uint32_t first, uint32_t units,
                          uint32_t *owner)
{
    const NsMoveUnit *unit = (NsMoveUnit *)m->unit->data;
    uint32_t n = 0;

    for (uint32_t i = 0; i < units; i++) {
        const NsMoveUnit *u = &unit[m->order->unit[first + i]];
        /* It may have been split since. */
        uint32_t step = u->bytes == NS_MOVE_HUGE &&
                        ns_mover_is_large(m, u->addr) ? NS_MOVE_HUGE : NS_PAGE;

        for (uint32_t at = 0; at < u->bytes; at += step) {
            owner[n] = i;
            ns_mover_put(m, n++, u->addr + at, step);
        }
    }
    return n;
}

/* Note what moved, in the journal too, and what became of each unit */
static void note(NsMover *m, uint32_t n, const uint32_t *owner, Fate *fate,
                 Fate *sum, uint32_t *huge)
{
    int target = m->id[m->target];

    for (uint32_t i = 0; i < n; i++) {
        Fate *f = &fate[owner[i]];
        uint32_t bytes = m->size[i];

        if (m->status[i] == target) {
            ns_journal_add(&m->journal, (uintptr_t)m->page[i], bytes,
                           ns_mover_index(m, m->was[i]));
            f->moved += bytes;
            sum->moved += bytes;
            *huge += bytes == NS_MOVE_HUGE;
        } else if (m->status[i] == -ENOMEM) {
            f->full += bytes;
            sum->full += bytes;
        } else if (m->status[i] == -EBUSY || m->status[i] == -EAGAIN) {
            f->busy += bytes;
            sum->busy += bytes;
        } else if (m->status[i] != -ENOENT && m->status[i] != -EFAULT) {
            f->stays += bytes;
        }
    }
}

static void settle(NsMover *m, uint32_t first, uint32_t units, const Fate *fate,
                   Fate *sum)
{
    NsMoveUnit *unit = (NsMoveUnit *)m->unit->data;

    for (uint32_t i = 0; i < units; i++) {
        NsMoveUnit *u = &unit[m->order->unit[first + i]];
        uint64_t left = u->bytes - u->done;

        /* What was told to stay is asked for again, and told so again. */
        sum->stays += !u->busy ? fate[i].stays :
                      left - MIN(left, fate[i].moved + fate[i].busy);
        u->done = u->bytes - MIN(left, fate[i].busy + fate[i].full);
        /* Nothing of it is left to be asked for: it moved, or never will. */
        if (!fate[i].busy && !fate[i].full) {
            u->shared = !fate[i].moved;
            u->src = m->target;
        } else if (fate[i].busy) {
            /* However often scores change before all others had their turn */
            u->busy = m->tries + 1;
        }
    }
}

static int move_units(NsMover *m, uint32_t first, uint32_t units, Fate *sum)
{
    g_autofree uint32_t *owner = g_new(uint32_t, NS_MOVER_PAGES);
    g_autofree Fate *fate = g_new0(Fate, units);
    NsPaceReport report = { };
    uint32_t n = addresses(m, first, units, owner), huge = 0;
    int64_t ns = 0;
    int ret = ns_mover_ask(m, n);

    n = ret ? 0 : keep_those_that_gain(m, n, owner);
    if (n) {
        ret = ns_mover_call(m, n, m->id[m->target], &ns);
        note(m, n, owner, fate, sum, &huge);
    }
    if (!ret) {
        settle(m, first, units, fate, sum);
    }
    for (uint32_t i = 0; i < n; i++) {
        report.asked += m->size[i];
    }
    report.units = n;
    report.ns = ns;
    report.moved = sum->moved;
    report.busy = sum->busy + sum->full;
    report.pressure = sum->full || ret == -ENOMEM ||
                      m->sys->pressure(m->sys_opaque);
    ns_pace_report(&m->pace, ns_mover_now(m), &report);
    m->settled += sum->moved + sum->stays;
    m->pass_moved += sum->moved;
    QEMU_LOCK_GUARD(&m->lock);
    m->progress.moved += sum->moved;
    m->progress.failed += sum->stays;
    m->progress.lost = m->journal.lost;
    m->progress.huge_moved += huge;
    m->progress.calls += !!n;
    m->progress.units += n;
    m->progress.ns += ns;
    return ret;
}

/* Bytes that were busy in this try, and so still are where they were */
static uint64_t left_behind(const NsMover *m)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < m->unit->len; i++) {
        const NsMoveUnit *u = &g_array_index(m->unit, NsMoveUnit, i);

        bytes += u->busy > m->tries && u->src != m->target ?
                 u->bytes - u->done : 0;
    }
    return bytes;
}

static int64_t order_is_over(NsMover *m)
{
    uint64_t left = left_behind(m);

    /* When a whole pass moved nothing, the next one will not, either. */
    if (left && m->tries < TRIES && (m->pass_moved || !m->tries)) {
        m->tries++;
        m->pass_moved = 0;
        ns_mover_make_order(m);
        return ns_mover_now(m);
    }
    WITH_QEMU_LOCK_GUARD(&m->lock) {
        m->progress.failed += left;
    }
    ns_mover_end_window(m);
    if (m->at_range == m->n_ranges) {
        ns_mover_enter(m, NS_MOVER_DONE, 0);
        return INT64_MAX;
    }
    return ns_mover_now(m);
}

int64_t ns_mover_step_moving(NsMover *m)
{
    const NsMoveUnit *unit = (NsMoveUnit *)m->unit->data;
    uint32_t least = ns_move_next(m->order, unit, m->all), first, units;
    NsPaceOffer offer;
    uint64_t bytes;
    Fate sum = { };
    int ret;

    if (!least) {
        return order_is_over(m);
    }
    if (!ns_mover_room(m, m->page_size, &bytes)) {
        ns_mover_enter(m, NS_MOVER_FAILED, ENODEV);
        return INT64_MAX;
    }
    if (bytes < least) {
        ns_mover_enter(m, NS_MOVER_FULL, 0);
        return INT64_MAX;
    }
    offer = ns_pace_next(&m->pace, ns_mover_now(m), least);
    if (!offer.bytes) {
        return offer.until;
    }
    units = m->guess ? MAX(offer.units / NS_MOVE_SUBPAGES, 1) : offer.units;
    first = m->order->next;
    units = ns_move_take(m->order, unit, MIN(offer.bytes, bytes),
                         m->tries ? MIN(units, FEW) : units, m->all);
    ret = move_units(m, first, units, &sum);
    if (ret == -ENOMEM || (!ret && sum.full)) {
        ns_mover_enter(m, NS_MOVER_FULL, 0);
        return INT64_MAX;
    }
    if (ret) {
        ns_mover_enter(m, NS_MOVER_FAILED, -ret);
        return INT64_MAX;
    }
    return ns_mover_now(m);
}

/*
 * Undo
 */

/* The last @max addresses of the run; its rest goes back to the journal */
static uint32_t addresses_of_run(NsMover *m, const NsRun *run, uint32_t max)
{
    uint64_t end = run->addr + run->bytes, at = end;
    uint32_t n = 0;

    while (at > run->addr && n < max) {
        bool large = !(at % NS_MOVE_HUGE) && at - run->addr >= NS_MOVE_HUGE &&
                     ns_mover_is_large(m, at - NS_MOVE_HUGE);

        /* A large page goes with its last part, not by this one. */
        if (n && !(at % NS_MOVE_HUGE) && at - run->addr < NS_MOVE_HUGE) {
            break;
        }
        at -= large ? NS_MOVE_HUGE : NS_PAGE;
        ns_mover_put(m, n++, at, large ? NS_MOVE_HUGE : NS_PAGE);
    }
    if (!ns_journal_add(&m->journal, run->addr, at - run->addr, run->src)) {
        QEMU_LOCK_GUARD(&m->lock);
        m->progress.lost += at - run->addr;
    }
    return n;
}

static int give_back(NsMover *m, const NsRun *run, uint32_t max)
{
    uint32_t n = addresses_of_run(m, run, max), asked = 0;
    int src = m->id[run->src], target = m->id[m->target];
    NsPaceReport report = { };
    uint64_t back = 0, lost = 0;
    int64_t ns = 0;
    int ret = ns_mover_ask(m, n);

    for (uint32_t i = 0; !ret && i < n; i++) {
        if (m->status[i] == target) {
            m->page[asked] = m->page[i];
            m->status[asked] = m->status[i];
            report.asked += m->size[asked++] = m->size[i];
        } else if (m->status[i] == src) {
            back += m->size[i];     /* it was part of a large page */
        } else {
            lost += m->size[i];     /* others moved it, or it is gone */
        }
    }
    if (asked) {
        ret = ns_mover_call(m, asked, src, &ns);
    }
    for (uint32_t i = 0; i < asked; i++) {
        if (m->status[i] == src) {
            back += m->size[i];
        } else if (m->status[i] != -EBUSY || ret ||
                   !ns_journal_add(&m->again, (uintptr_t)m->page[i], m->size[i],
                                   run->src)) {
            lost += m->size[i];
        } else {
            report.busy += m->size[i];
        }
    }
    report.units = asked;
    report.ns = ns;
    report.pressure = ret == -ENOMEM || m->sys->pressure(m->sys_opaque);
    ns_pace_report(&m->pace, ns_mover_now(m), &report);
    QEMU_LOCK_GUARD(&m->lock);
    m->progress.undone += back;
    m->progress.lost += lost;
    m->progress.calls += !!asked;
    m->progress.units += asked;
    m->progress.ns += ns;
    return ret;
}

/* False: there is nothing more to give back */
static bool next_run(NsMover *m, uint64_t bytes, NsRun *run)
{
    NsJournal swap;

    if (ns_journal_take_back(&m->journal, bytes, run)) {
        return true;
    }
    if (m->undo_tries == TRIES ||
        (m->undo_tries && m->progress.undone == m->undone_before)) {
        return false;
    }
    m->undo_tries++;
    m->undone_before = m->progress.undone;
    swap = m->journal;
    m->journal = m->again;
    m->again = swap;
    return ns_journal_take_back(&m->journal, bytes, run);
}

int64_t ns_mover_step_undoing(NsMover *m)
{
    NsPaceOffer offer = ns_pace_next(&m->pace, ns_mover_now(m), NS_MOVE_HUGE);
    NsRun run;
    int ret;

    if (!offer.bytes) {
        return offer.until;
    }
    if (!next_run(m, QEMU_ALIGN_DOWN(offer.bytes, NS_MOVE_HUGE), &run)) {
        NsPaceReport nothing = { };

        ns_pace_report(&m->pace, ns_mover_now(m), &nothing);
        WITH_QEMU_LOCK_GUARD(&m->lock) {
            m->progress.lost += m->again.bytes;
        }
        ns_mover_enter(m, NS_MOVER_UNDONE, 0);
        return INT64_MAX;
    }
    ret = give_back(m, &run, offer.units);
    /* These are of the node that it came from: the others may still do. */
    if (ret && ret != -ENOMEM && ret != -ENODEV && ret != -EACCES) {
        ns_mover_enter(m, NS_MOVER_FAILED, -ret);
        return INT64_MAX;
    }
    return ns_mover_now(m);
}
