/*
 * pmem-ha: take an epoch out of guest memory
 *
 * Everything here that reads dirty bits runs with no vCPU in guest code: a
 * store that is under way when a bit is cleared would be lost otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/bitmap.h"
#include "cpu.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

/* How often a held capture looks whether it must let go. */
#define DIRECT_POLL_MS 20
/* It does when nothing was sent for so long: monitors must be answered. */
#define DIRECT_STUCK_MS 3000LL

void pmem_ha_track(PmemHaDevice *s, bool on)
{
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        /* The backend's own region: the DIMM's is an alias of its start. */
        memory_region_set_log(s->part[i].mr, on, DIRTY_MEMORY_PMEM_HA);
    }
}

static PmemHaPart *part_at(PmemHaDevice *s, uint64_t offset)
{
    PmemHaPart *p = &s->part[s->n_parts - 1];

    assert(offset < s->size);
    while (p->offset > offset) {
        p--;
    }
    return p;
}

uint8_t *pmem_ha_content(PmemHaDevice *s, uint64_t offset, uint64_t *left)
{
    PmemHaPart *p = part_at(s, offset);

    *left = p->offset + p->size - offset;
    return p->ram + (offset - p->offset);
}

void pmem_ha_mark_dirty(PmemHaDevice *s, uint64_t offset, uint64_t length)
{
    while (length) {
        PmemHaPart *p = part_at(s, offset);
        uint64_t n = MIN(length, p->offset + p->size - offset);

        physical_memory_set_dirty_range(memory_region_get_ram_addr(p->mr) +
                                        (offset - p->offset), n,
                                        1 << DIRTY_MEMORY_PMEM_HA);
        offset += n;
        length -= n;
    }
}

static uint64_t dirty_bytes_of(PmemHaPart *p, uint64_t enough)
{
    ram_addr_t start = memory_region_get_ram_addr(p->mr);
    unsigned long page = start >> TARGET_PAGE_BITS;
    unsigned long end = (start + p->size) >> TARGET_PAGE_BITS;
    DirtyMemoryBlocks *blocks;
    uint64_t bytes = 0;

    RCU_READ_LOCK_GUARD();
    blocks = qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_PMEM_HA]);
    while (page < end && bytes <= enough) {
        unsigned long *block = blocks->blocks[page / DIRTY_MEMORY_BLOCK_SIZE];
        unsigned long bit = page % DIRTY_MEMORY_BLOCK_SIZE;
        unsigned long num = MIN(BITS_PER_LONG - bit % BITS_PER_LONG,
                                end - page);
        unsigned long mask = MAKE_64BIT_MASK(bit % BITS_PER_LONG, num);

        bytes += (uint64_t)ctpopl(qatomic_read(&block[BIT_WORD(bit)]) & mask)
                 << TARGET_PAGE_BITS;
        page += num;
    }
    return bytes;
}

uint64_t pmem_ha_dirty_bytes(PmemHaDevice *s, uint64_t enough)
{
    uint64_t bytes = 0;
    unsigned i;

    for (i = 0; i < s->n_parts && bytes <= enough; i++) {
        bytes += dirty_bytes_of(&s->part[i], enough - bytes);
    }
    return bytes;
}

static void dirty_words_of(PmemHaPart *p, uint64_t *words)
{
    unsigned long first = memory_region_get_ram_addr(p->mr) >>
                          TARGET_PAGE_BITS;
    unsigned long pages = p->size >> TARGET_PAGE_BITS;
    unsigned long at = p->offset >> TARGET_PAGE_BITS;
    DirtyMemoryBlocks *blocks;
    unsigned long i;

    RCU_READ_LOCK_GUARD();
    blocks = qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_PMEM_HA]);
    for (i = 0; i < pages; i++) {
        unsigned long page = first + i;

        if (test_bit(page % DIRTY_MEMORY_BLOCK_SIZE,
                     blocks->blocks[page / DIRTY_MEMORY_BLOCK_SIZE])) {
            words[(at + i) / 64] |= 1ULL << (at + i) % 64;
        }
    }
}

void pmem_ha_dirty_words(PmemHaDevice *s, uint64_t *words)
{
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        dirty_words_of(&s->part[i], words);
    }
}

void pmem_ha_mark_word(PmemHaDevice *s, uint64_t offset, uint64_t word)
{
    while (word) {
        pmem_ha_mark_dirty(s, offset + ((uint64_t)ctz64(word) <<
                                        TARGET_PAGE_BITS), TARGET_PAGE_SIZE);
        word &= word - 1;
    }
}

/* Ranges from number @own on are of the same part, and may grow. */
static void add_page(GArray *ranges, unsigned own, uint64_t offset)
{
    PmemHaRange r = { offset, TARGET_PAGE_SIZE };

    if (ranges->len > own) {
        PmemHaRange *last = &g_array_index(ranges, PmemHaRange,
                                           ranges->len - 1);

        if (last->offset + last->length == offset) {
            last->length += TARGET_PAGE_SIZE;
            return;
        }
    }
    g_array_append_val(ranges, r);
}

static void add_word(GArray *ranges, unsigned own, uint64_t offset,
                     unsigned long word)
{
    while (word) {
        add_page(ranges, own,
                 offset + ((uint64_t)ctzl(word) << TARGET_PAGE_BITS));
        word &= word - 1;
    }
}

/*
 * Dirty bits by TCG and by devices: own bitmap, a word at a time, then one
 * TLB reset for the span (per page it costs 5 ms for 1,024 pages).
 */
static void take_dirty_bitmap(PmemHaPart *p, GArray *ranges)
{
    ram_addr_t start = memory_region_get_ram_addr(p->mr);
    unsigned long page = start >> TARGET_PAGE_BITS;
    unsigned long end = (start + p->size) >> TARGET_PAGE_BITS;
    unsigned long first = page;
    unsigned own = ranges->len;
    DirtyMemoryBlocks *blocks;

    RCU_READ_LOCK_GUARD();
    blocks = qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_PMEM_HA]);
    while (page < end) {
        unsigned long *block = blocks->blocks[page / DIRTY_MEMORY_BLOCK_SIZE];
        unsigned long bit = page % DIRTY_MEMORY_BLOCK_SIZE;
        unsigned long num = MIN(BITS_PER_LONG - bit % BITS_PER_LONG,
                                end - page);
        unsigned long mask = MAKE_64BIT_MASK(bit % BITS_PER_LONG, num);
        unsigned long *word = &block[BIT_WORD(bit)];

        if (qatomic_read(word) & mask) {
            unsigned long old = qatomic_fetch_and(word, ~mask) & mask;

            add_word(ranges, own, p->offset +
                     ((uint64_t)((page & ~(unsigned long)(BITS_PER_LONG - 1)) -
                                 first) << TARGET_PAGE_BITS), old);
        }
        page += num;
    }
    if (ranges->len > own) {
        PmemHaRange *lo = &g_array_index(ranges, PmemHaRange, own);
        PmemHaRange *hi = &g_array_index(ranges, PmemHaRange, ranges->len - 1);

        physical_memory_dirty_bits_cleared(start + (lo->offset - p->offset),
                                           hi->offset + hi->length -
                                           lo->offset);
    }
}

/* Dirty bits that the accelerator keeps: they must be fetched first. */
static void take_dirty_log(PmemHaPart *p, GArray *ranges)
{
    unsigned own = ranges->len;
    g_autofree DirtyBitmapSnapshot *snap = NULL;
    bool locked = bql_locked();
    uint64_t offset;

    /*
     * The section is exclusive, so whoever holds the BQL now does not wait
     * for us: see the order of locks in docs/devel/pmem-ha.rst.
     */
    if (!locked) {
        bql_lock();
    }
    snap = memory_region_snapshot_and_clear_dirty(p->mr, 0, p->size,
                                                  DIRTY_MEMORY_PMEM_HA);
    if (!locked) {
        bql_unlock();
    }
    for (offset = 0; offset < p->size; offset += TARGET_PAGE_SIZE) {
        if (memory_region_snapshot_get_dirty(p->mr, snap, offset,
                                             TARGET_PAGE_SIZE)) {
            add_page(ranges, own, p->offset + offset);
        }
    }
}

/* All parts in one exclusive section: they are of one instant. */
static GArray *take_dirty(PmemHaDevice *s)
{
    GArray *ranges = g_array_new(false, false, sizeof(PmemHaRange));
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        if (tcg_enabled()) {
            take_dirty_bitmap(&s->part[i], ranges);
        } else {
            take_dirty_log(&s->part[i], ranges);
        }
    }
    return ranges;
}

void pmem_ha_clear_all(PmemHaDevice *s)
{
    pmem_ha_vhost_fetch(s);
    g_array_unref(take_dirty(s));
}

void pmem_ha_epoch_free(PmemHaEpoch *e)
{
    if (e) {
        g_array_unref(e->ranges);
        g_free(e);
    }
}

static PmemHaEpoch *take_epoch(PmemHaDevice *s)
{
    PmemHaEpoch *e = g_new0(PmemHaEpoch, 1);
    uint8_t *to = s->staging;
    uint64_t left;
    unsigned i;

    e->ranges = take_dirty(s);
    pmem_ha_crash_point("dirty-taken");
    e->captured_ns = get_clock();
    for (i = 0; i < e->ranges->len; i++) {
        e->bytes += g_array_index(e->ranges, PmemHaRange, i).length;
    }
    e->direct = e->bytes > s->staging_size;
    for (i = 0; i < e->ranges->len && !e->direct; i++) {
        PmemHaRange *r = &g_array_index(e->ranges, PmemHaRange, i);

        memcpy(to, pmem_ha_content(s, r->offset, &left), r->length);
        to += r->length;
    }
    return e;
}

void pmem_ha_put_back(PmemHaDevice *s, PmemHaEpoch *e)
{
    unsigned i;

    for (i = 0; i < e->ranges->len; i++) {
        PmemHaRange *r = &g_array_index(e->ranges, PmemHaRange, i);

        pmem_ha_mark_dirty(s, r->offset, r->length);
    }
    pmem_ha_epoch_free(e);
}

/*
 * Nothing was dirty, and all that was captured is acknowledged: the flushes
 * that this capture covers are satisfied as they are.
 */
static void satisfy_without_epoch_locked(PmemHaDevice *s)
{
    unsigned i;

    for (i = 0; i < s->waiters->len; i++) {
        PmemHaWaiter *w = &g_array_index(s->waiters, PmemHaWaiter, i);

        if (w->target > s->rec.captured) {
            w->target--;
        }
    }
    pmem_ha_release_locked(s);
}

/*
 * The content does not fit: the vCPUs stay where they are until it is sent.
 * Not for the price of a hang: whoever wants them to stop gets them, and so
 * does everybody when the link makes no progress; the epoch is cancelled.
 */
static void hold_locked(PmemHaDevice *s, CPUState *cpu)
{
    uint64_t sent = qatomic_read(&s->wire_bytes);
    int64_t since = get_clock();
    bool locked = s->direct_hold && bql_locked();

    if (locked) {
        /* The end of QEMU; the replicator may need it first (I8). */
        bql_unlock();
    }
    while (s->direct_hold) {
        bool yield;

        qemu_cond_timedwait(&s->settled, &s->lock, DIRECT_POLL_MS);
        if (qatomic_read(&s->wire_bytes) != sent) {
            sent = qatomic_read(&s->wire_bytes);
            since = get_clock();
        }
        yield = s->quit || (cpu && qatomic_read(&cpu->stop)) ||
                (s->hold_until_ns && get_clock() > s->hold_until_ns);
        if (s->direct_hold &&
            (yield || get_clock() - since > DIRECT_STUCK_MS * SCALE_MS)) {
            qatomic_set(&s->direct_hold, false);
            qatomic_set(&s->direct_cancel, true);
            s->cancelled_by_us = yield;
        }
    }
    if (locked) {
        qemu_mutex_unlock(&s->lock);
        bql_lock();
        qemu_mutex_lock(&s->lock);
    }
}

/*
 * Returns whether all that was dirty is now in an epoch, or was nothing.
 * Without an epoch, flushes may have been let go.
 */
static bool capture(PmemHaDevice *s, CPUState *cpu)
{
    int64_t start = get_clock();
    uint64_t session;
    PmemHaEpoch *e;
    bool wanted;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        /* A flush that comes after the fetch wants another epoch. */
        wanted = s->want_epoch;
        s->want_epoch = false;
    }

    /* Not while capturing: for the end of that, some wait with the BQL. */
    pmem_ha_vhost_fetch(s);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        session = s->session;
        if (!s->link_ready || s->epoch || s->capturing) {
            s->want_epoch |= wanted;
            return false;
        }
        s->capturing = true;
        if (s->restored) {
            /* What came from a snapshot went past the dirty bits. */
            pmem_ha_mark_dirty(s, 0, s->size);
            /* Before the guest runs, the loading may be still to come. */
            s->restored = !runstate_is_running();
        }
    }

    pmem_ha_crash_point("capture-begun");
    e = take_epoch(s);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->capturing = false;
        qemu_cond_broadcast(&s->settled);
        if (session != s->session) {
            /* What was true of the replica may be so no longer. */
            pmem_ha_put_back(s, e);
            s->want_epoch = true;
            pmem_ha_kick_capture_locked(s);
            return false;
        }
        if (!e->bytes && !s->copy_running) {
            pmem_ha_epoch_free(e);
            satisfy_without_epoch_locked(s);
            pmem_ha_kick_capture_locked(s);
            return true;
        }
        e->number = ++s->rec.captured;
        s->epoch = e;
        s->epoch_ready = true;
        qatomic_set(&s->direct_hold, e->direct);
        qatomic_set(&s->direct_cancel, false);
        s->cancelled_by_us = false;
        trace_pmem_ha_capture(s->name, e->number, e->ranges->len, e->bytes,
                              e->direct);
        pmem_ha_crash_point("captured");
        qemu_cond_signal(&s->work);
        hold_locked(s, cpu);
        pmem_ha_histogram_add(&s->capture_us,
                              (get_clock() - start) / SCALE_US);
    }
    return true;
}

void pmem_ha_capture_work(CPUState *cpu, run_on_cpu_data data)
{
    PmemHaDevice *s = data.host_ptr;

    trace_pmem_ha_capture_begin(s->name, cpu->cpu_index);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->capture_queued = false;
    }
    capture(s, cpu);
    /* Nobody who holds the BQL waits for us: see take_dirty_log(). */
    pmem_ha_wake_vcpus();
    object_unref(OBJECT(s));
}

bool pmem_ha_capture_paused(PmemHaDevice *s)
{
    return capture(s, NULL);
}

void pmem_ha_clear_work(CPUState *cpu, run_on_cpu_data data)
{
    PmemHaDevice *s = data.host_ptr;

    pmem_ha_clear_all(s);
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->clearing = false;
        qemu_cond_broadcast(&s->settled);
    }
    object_unref(OBJECT(s));
}
