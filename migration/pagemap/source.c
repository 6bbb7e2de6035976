/*
 * Page map: the source's side of the section "page-map"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The states of a page are in queue.h.  All runs in the migration thread, or
 * under the BQL before and after it.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "compat.h"
#include "migration/misc.h"
#include "migration/page-map.h"
#include "qapi/error.h"
#include "../migration.h"
#include "../migration-stats.h"
#include "../options.h"
#include "../qemu-file.h"
#include "../ram.h"
#include "inbox.h"
#include "pace.h"
#include "pagemap.h"
#include "queue.h"
#include "records.h"
#include "saver.h"
#include "source.h"
#include "trace.h"

#define WAIT_MS         20      /* for verdicts, with nothing to send */
#define IDLE_BYTES      (1024 * 1024)   /* of RAM: the link is not busy */
#define VERDICT_NS      (2 * NANOSECONDS_PER_SECOND)     /* on devices */
#define OPENING_BYTES   (4 * 1024 * 1024)       /* to learn the link's rate */
/* The guest is stopped with this part of what may be sent during that */
#define SMALL_REST      8
#define LAST_STEPS      32      /* that the guest runs on for, to come there */

/* Records that were sent together, until their verdict */
typedef struct PmSrcBatch {
    int64_t sent;               /* ns */
    uint16_t n;
    PmQueued page[];
} PmSrcBatch;

typedef struct PmSource {
    bool active;                /* from setup to cleanup */
    bool ended;                 /* END was sent: nothing is mapped any more */
    bool draining;
    unsigned last_steps;        /* with less left than may be */
    bool small_rest;
    PmKey key;
    PmSrcDevices devices;
    PmQueue *queue;
    PmPace pace;
    uint64_t link_bytes;        /* that had been sent at the last look */

    int64_t began;              /* ns */
    uint32_t ram_version;       /* ram_list.version then */
    uint64_t throttle_bytes;    /* placed, and not yet asked for */

    GPtrArray *blocks;          /* RAMBlock * by number */
    GHashTable *numbers;        /* RAMBlock * to number + 1 */
    RAMBlock *last_rb;          /* of page_map_save_page(), and its number */
    uint16_t last_number;
    GByteArray *out;            /* messages of the part being written */
    unsigned long *named;       /* blocks that BLOCK was sent for */

    GHashTable *batches;        /* number to PmSrcBatch */
    uint32_t next_batch;
} PmSource;

static PmSource src;

static PmFound find(void *opaque, uint16_t block, uint32_t page,
                    uint16_t *device, uint64_t *offset)
{
    RAMBlock *rb = g_ptr_array_index(src.blocks, block);
    PageMapPlace place;

    if (!page_map_lookup(rb->offset + ((ram_addr_t)page << PM_PAGE_BITS), NULL,
                         &place)) {
        return PM_FOUND_NOTHING;
    }
    *device = place.device;
    *offset = place.offset;
    if (!pm_src_device_serves(&src.devices, place.device)) {
        return PM_FOUND_NOTHING;
    }
    if (!pm_src_device_is_ready(&src.devices, place.device)) {
        return src.draining ? PM_FOUND_NOTHING : PM_FOUND_LATER;
    }
    return PM_FOUND_PLACE;
}

static void dirty(void *opaque, uint16_t block, uint32_t page)
{
    ram_page_map_dirty(g_ptr_array_index(src.blocks, block), page);
}

static const PmQueueOps queue_ops = {
    .find = find,
    .dirty = dirty,
};

/* The number of a block, which gets one if it has none; -1 if it cannot */
static int block_number(RAMBlock *rb)
{
    gpointer found = g_hash_table_lookup(src.numbers, rb);
    int number;

    if (found) {
        return GPOINTER_TO_INT(found) - 1;
    }
    number = pm_queue_add_block(src.queue, rb->used_length >> PM_PAGE_BITS);
    if (number >= 0) {
        g_ptr_array_add(src.blocks, rb);
        g_hash_table_insert(src.numbers, rb, GINT_TO_POINTER(number + 1));
    }
    return number;
}

static int save_setup(QEMUFile *f, Error **errp)
{
    PmHello hello = { .version = PM_WIRE_VERSION, .page_size = PM_PAGE_SIZE };
    RAMBlock *rb;

    if (migrate_rdma()) {
        error_setg(errp, "Capability 'x-page-map' does not work with RDMA:"
                   " turn it off, or use another transport");
        return -EINVAL;
    }
    if (!pm_key_new(&src.key, errp)) {
        return -EIO;
    }
    hello.key = src.key;

    src.queue = pm_queue_new(&queue_ops, NULL);
    src.blocks = g_ptr_array_new();
    src.numbers = g_hash_table_new(NULL, NULL);
    src.batches = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    src.out = g_byte_array_new();
    src.next_batch = 1;
    src.last_rb = NULL;
    src.ended = src.draining = src.small_rest = false;
    src.last_steps = 0;
    src.began = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    src.ram_version = qatomic_read(&ram_list.version);
    src.throttle_bytes = 0;
    src.link_bytes = 0;
    memset(&src.pace, 0, sizeof(src.pace));
    pm_inbox_open();
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        block_number(rb);
    }
    src.named = bitmap_new(src.blocks->len);
    pm_src_devices_start(&src.devices, &src.key, pm_inbox_wake);
    src.active = true;

    pm_put_hello(src.out, &hello);
    pm_put_end(src.out);
    qemu_put_buffer(f, src.out->data, src.out->len);
    g_byte_array_set_size(src.out, 0);
    return 0;
}

static void save_cleanup(void)
{
    if (!src.active) {
        return;
    }
    src.throttle_bytes = 0;
    src.active = false;
    pm_inbox_close();
    pm_src_devices_stop(&src.devices);
    g_clear_pointer(&src.queue, pm_queue_free);
    g_clear_pointer(&src.blocks, g_ptr_array_unref);
    g_clear_pointer(&src.numbers, g_hash_table_unref);
    g_clear_pointer(&src.batches, g_hash_table_unref);
    g_clear_pointer(&src.out, g_byte_array_unref);
    g_clear_pointer(&src.named, g_free);
}

static bool save_page(RAMBlock *rb, unsigned long page, bool last_stage)
{
    const uint8_t *host = rb->host + ((ram_addr_t)page << PM_PAGE_BITS);
    PageMapPlace place;

    if (!src.active || src.ended) {
        return false;
    }
    if (rb != src.last_rb) {
        gpointer found = g_hash_table_lookup(src.numbers, rb);

        if (!found) {
            return false;
        }
        src.last_rb = rb;
        src.last_number = GPOINTER_TO_INT(found) - 1;
    }
    if (page >= pm_queue_pages(src.queue, src.last_number)) {
        /* The block has grown: RAM makes the migration fail. */
        return false;
    }
    if (pm_queue_has(src.queue, src.last_number, page)) {
        pm_queue_again(src.queue, src.last_number, page);
        return true;
    }
    /*
     * When the list of blocks changed, RAM starts from its beginning without
     * an end of round: M4 would not hold.
     */
    if (src.draining || last_stage ||
        qatomic_read(&ram_list.version) != src.ram_version ||
        !page_map_lookup(rb->offset + ((ram_addr_t)page << PM_PAGE_BITS), host,
                         &place) ||
        !pm_src_device_serves(&src.devices, place.device) ||
        buffer_is_zero(host, PM_PAGE_SIZE)) {
        return false;
    }
    return pm_queue_hold(src.queue, src.last_number, page);
}

uint64_t page_map_link_rate(void)
{
    return src.active ? pm_pace_link_keeps_up(&src.pace) : 0;
}

uint64_t page_map_take_placed(void)
{
    uint64_t bytes = src.throttle_bytes;

    src.throttle_bytes = 0;
    return bytes;
}

static bool nothing_held(void)
{
    return (!pm_queue_queued(src.queue) && !pm_queue_in_flight(src.queue) &&
            !src.devices.n_asked);
}

/*
 * QEMU stops the guest as soon as the rest can be sent in the allowed downtime.
 * Sending nearly all of it before takes no longer, and what was dirtied
 * meanwhile is found then, too: it is less than what was sent, or the migration
 * would not end at all.
 */
static void look_at_rest(const MigrationState *s)
{
    uint64_t left = ram_bytes_remaining();

    if (left >= s->threshold_size) {
        src.last_steps = 0;
    } else if (src.last_steps < LAST_STEPS) {
        src.last_steps++;
    }
    src.small_rest = left <= s->threshold_size / SMALL_REST ||
                     src.last_steps == LAST_STEPS;
}

static bool can_switchover(void)
{
    return nothing_held() &&
           (src.small_rest ||
            qatomic_read(&migrate_get_current()->start_postcopy));
}

static bool batch_verdict(const PmRp *rp, int64_t arrived, Error **errp)
{
    uint64_t placed_bytes = 0;
    PmSrcBatch *b = g_hash_table_lookup(src.batches,
                                        GUINT_TO_POINTER(rp->batch));

    if (!b || b->n != rp->n) {
        error_setg(errp, "page-map: the destination answers to %u pages of"
                   " batch %u, of which %u were sent", rp->n, rp->batch,
                   b ? b->n : 0);
        return false;
    }
    pm_stats.fetched_bytes += rp->bytes;
    pm_stats.fetch_requests += rp->requests;
    for (unsigned i = 0; i < b->n; i++) {
        const PmQueued *p = &b->page[i];
        RAMBlock *rb = g_ptr_array_index(src.blocks, p->block);
        bool placed = rp->placed[i >> 3] & (1 << (i & 7));

        if (placed) {
            pm_stats.mapped_pages++;
            placed_bytes += PM_PAGE_SIZE;
        } else {
            PageMapPlace place = {
                .device = p->device,
                .offset = p->offset,
            };

            pm_stats.nacked++;
            page_map_forget(rb->offset +
                            ((ram_addr_t)p->page << PM_PAGE_BITS), &place);
        }
        pm_src_device_count(&src.devices, p->device, placed);
        pm_queue_verdict(src.queue, p->block, p->page, placed);
    }
    src.throttle_bytes += placed_bytes;
    pm_pace_served(&src.pace, (int64_t)rp->busy_us * SCALE_US, arrived,
                   placed_bytes);
    trace_page_map_verdict(rp->batch, rp->n);
    g_hash_table_remove(src.batches, GUINT_TO_POINTER(rp->batch));
    return true;
}

static bool one_verdict(const PmVerdict *v, Error **errp)
{
    const PmRp *rp = &v->rp;

    if (rp->type == PM_RP_BATCH) {
        return batch_verdict(rp, v->arrived, errp);
    }
    for (unsigned i = 0; i < rp->n; i++) {
        if (!pm_src_device_verdict(&src.devices, rp->devices[i].number,
                                   rp->devices[i].verdict)) {
            error_setg(errp, "page-map: the destination answers to device %u"
                       " without having been asked", rp->devices[i].number);
            return false;
        }
    }
    return true;
}

/* What the return path has brought; waits for it at most @wait_ms */
static bool take_verdicts(int wait_ms, Error **errp)
{
    PmVerdicts got = QSIMPLEQ_HEAD_INITIALIZER(got);
    PmVerdict *v;
    bool ok = true;

    pm_inbox_take(&got, wait_ms);
    while ((v = QSIMPLEQ_FIRST(&got))) {
        QSIMPLEQ_REMOVE_HEAD(&got, next);
        ok = ok && one_verdict(v, errp);
        g_free(v);
    }
    return ok;
}

/* The messages of one batch: the pages are sorted by device and offset */
static void put_batch(const PmQueued *page, size_t n)
{
    g_autofree PmFetch *record = g_new(PmFetch, n);
    PmSrcBatch *b = g_malloc(sizeof(*b) + n * sizeof(*page));

    b->sent = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    b->n = n;
    memcpy(b->page, page, n * sizeof(*page));
    for (size_t i = 0; i < n; i++) {
        const PmQueued *p = &page[i];
        RAMBlock *rb = g_ptr_array_index(src.blocks, p->block);

        if (!test_and_set_bit(p->block, src.named)) {
            pm_put_block_named(src.out, p->block, rb->idstr);
        }
        record[i] = (PmFetch) {
            .offset = p->offset, .page = p->page, .block = p->block,
            .device = p->device,
        };
        /* Its dirty bit was cleared before it was queued (M2). */
        pm_tag(&src.key, rb->host + ((ram_addr_t)p->page << PM_PAGE_BITS),
               &record[i].tag);
    }
    pm_put_records(src.out, src.next_batch, record, n);
    g_hash_table_insert(src.batches, GUINT_TO_POINTER(src.next_batch), b);
    /* 0 is no number: 2^32 batches are 2^43 bytes at least. */
    src.next_batch = src.next_batch == UINT32_MAX ? 1 : src.next_batch + 1;
}

static void put_out(QEMUFile *f)
{
    if (src.out->len) {
        pm_stats.wire_bytes += src.out->len;
        qemu_put_buffer(f, src.out->data, src.out->len);
        g_byte_array_set_size(src.out, 0);
    }
}

static int64_t oldest_batch(void)
{
    int64_t oldest = INT64_MAX;
    GHashTableIter it;
    gpointer b;

    g_hash_table_iter_init(&it, src.batches);
    while (g_hash_table_iter_next(&it, NULL, &b)) {
        oldest = MIN(oldest, ((PmSrcBatch *)b)->sent);
    }
    return oldest;
}

static void look_at_rates(uint64_t ram_left)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    uint64_t sent = migration_transferred_bytes();

    if (pm_queue_in_flight(src.queue)) {
        pm_pace_waiting(&src.pace, oldest_batch(), now);
    }
    pm_pace_sent(&src.pace, now, sent - src.link_bytes, ram_left > IDLE_BYTES);
    src.link_bytes = sent;
}

/* Also asked for by monitors, between a setup that failed and the cleanup */
static uint64_t pending(void)
{
    return src.active ? (pm_queue_queued(src.queue) +
                         pm_queue_in_flight(src.queue)) << PM_PAGE_BITS : 0;
}

/* Whether the guest could be stopped if no page were held */
static void look_at_draining(uint64_t ram_left)
{
    MigrationState *s = migrate_get_current();

    src.draining = qatomic_read(&s->start_postcopy) ||
                   ram_left + pending() < s->threshold_size;
}

/* Pages that the link takes off the fetching way, when it has nothing to do */
static void balance(uint64_t ram_left)
{
    uint64_t bytes = 0;

    if (ram_left > IDLE_BYTES || !src.pace.fetch.known) {
        return;
    }
    if (!src.pace.link.known) {
        bytes = OPENING_BYTES;
    } else if (pm_pace_link_is_faster(&src.pace)) {
        bytes = MAX(OPENING_BYTES / 4, src.pace.link.value / 20);
    }
    if (bytes && pm_queue_queued(src.queue)) {
        size_t n = pm_queue_give_back(src.queue, bytes >> PM_PAGE_BITS);

        trace_page_map_balance(n, (uint64_t)src.pace.fetch.value,
                               (uint64_t)src.pace.link.value);
    }
}

static int save_iterate(QEMUFile *f)
{
    MigrationState *s = migrate_get_current();
    g_autoptr(Error) err = NULL;
    g_autofree PmQueued *page = NULL;
    uint64_t ram_left = ram_bytes_remaining();
    uint32_t window;
    bool sent;
    int wait_ms = 0;

    if (!take_verdicts(0, &err)) {
        goto fail;
    }
    look_at_rates(ram_left);
    look_at_draining(ram_left);
    if (qatomic_read(&s->start_postcopy)) {
        pm_queue_return_all(src.queue);
    } else {
        balance(ram_left);
    }
    /* A question that is asked now would have to be waited for. */
    sent = !src.draining && pm_src_devices_send(&src.devices, src.out);
    if (qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - src.began > VERDICT_NS) {
        pm_src_devices_expire(&src.devices);
    }
    window = pm_pace_window(&src.pace);
    /* With nothing but devices to wait for, no page need be looked at. */
    while ((src.devices.n_used || !src.devices.n_wait || src.draining) &&
           pm_queue_in_flight(src.queue) < window &&
           pm_queue_queued(src.queue) && !migration_rate_exceeded(f)) {
        size_t n;

        if (!page) {
            page = g_new(PmQueued, PM_MAX_BATCH);
        }
        n = pm_queue_take(src.queue, page,
                          MIN(PM_MAX_BATCH,
                              window - pm_queue_in_flight(src.queue)));
        if (!n) {
            break;
        }
        put_batch(page, n);
        put_out(f);
        sent = true;
    }
    put_out(f);
    pm_put_end(src.out);
    put_out(f);
    if (sent && qemu_fflush(f) < 0) {
        return -EIO;
    }

    /*
     * Nothing to do but to wait?  RAM comes after this section; while it
     * has something to send, that is where the time is spent.
     */
    if (!nothing_held() &&
        (src.draining || ram_bytes_remaining() <= IDLE_BYTES)) {
        wait_ms = WAIT_MS;
    }
    if (wait_ms && !take_verdicts(wait_ms, &err)) {
        goto fail;
    }
    /* Without a reader of verdicts nothing would ever end. */
    look_at_rest(s);
    return migrate_has_error(s) ? -EIO : nothing_held();

fail:
    migrate_set_error(s, err);
    return -EINVAL;
}

static int save_complete(QEMUFile *f)
{
    if (!nothing_held()) {
        error_report("page-map: the guest was stopped with pages in flight");
        return -EINVAL;
    }
    src.ended = true;
    pm_put_finish(src.out);
    pm_put_end(src.out);
    put_out(f);
    return 0;
}

const PmSaver pm_live_saver = {
    .setup = save_setup,
    .cleanup = save_cleanup,
    .iterate = save_iterate,
    .complete = save_complete,
    .pending = pending,
    .save_page = save_page,
    .can_switchover = can_switchover,
};
