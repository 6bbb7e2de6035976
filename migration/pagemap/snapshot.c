/*
 * Page map: a snapshot of a stopped guest goes without what its disks have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For savevm and for a migration to a file.  The fetching thread reads what the
 * map names and compares; the invariants S1 to S4 are in
 * docs/devel/migration/page-map.rst.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "block/block_int.h"
#include "migration/page-map.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "../migration.h"
#include "../options.h"
#include "../qemu-file.h"
#include "../ram.h"
#include "fetch.h"
#include "pagemap.h"
#include "records.h"
#include "saver.h"
#include "source.h"
#include "trace.h"

#define WINDOW      (1024 * 1024)   /* pages that are sorted at a time */
#define PROBES      16              /* places of each disk */
#define SAMPLE      4096            /* pages of a disk, before it is judged */

/* A batch that was compared; bits as in PmRp */
typedef struct PmCompared {
    QSIMPLEQ_ENTRY(PmCompared) next;
    PmBatch *batch;
    uint8_t equal[PM_MAX_BATCH / 8];
} PmCompared;

typedef struct PmSnapDisk {
    PmDevice d;
    bool named;                 /* DEVICE was written */
    uint64_t equal, other;      /* pages */
} PmSnapDisk;

typedef struct PmSnapBlock {
    RAMBlock *rb;
    uint32_t pages;
    bool named;                 /* BLOCK was written */
    unsigned long *omitted;     /* a bit per page: it has a record */
    unsigned long *asked;       /* RAM has left it out */
} PmSnapBlock;

/* From setup to cleanup; by the thread that saves, unless said otherwise */
static struct {
    QEMUFile *f;
    PmFetcher *fetcher;
    VMChangeStateEntry *watch;
    bool ran;                   /* BQL: the guest did, meanwhile */
    bool compared;
    GArray *blocks;             /* PmSnapBlock */
    PmSnapDisk *disks;
    unsigned n_disks;
    uint32_t batches;           /* that were written */
    GByteArray *out;

    QemuMutex lock;             /* protects what follows */
    QSIMPLEQ_HEAD(, PmCompared) done;
    uint64_t bytes, requests;
} snap;

static void __attribute__((__constructor__)) snapshot_init(void)
{
    qemu_mutex_init(&snap.lock);
    QSIMPLEQ_INIT(&snap.done);
}

static PmSnapBlock *block_of(uint16_t number)
{
    return &g_array_index(snap.blocks, PmSnapBlock, number);
}

static PmSnapDisk *disk_of(uint16_t number)
{
    for (unsigned i = 0; i < snap.n_disks; i++) {
        if (snap.disks[i].d.number == number) {
            return &snap.disks[i];
        }
    }
    return NULL;
}

/* Any thread */
static bool is_cancelled(void)
{
    return qatomic_read(&migrate_get_current()->state) ==
           MIGRATION_STATUS_CANCELLING;
}

/* Fetching thread */
static bool compare(PmFetcher *f, PmFetch *p, const uint8_t *content)
{
    const uint8_t *host = pm_fetcher_block_of(f, p->block)->host +
                          ((ram_addr_t)p->page << PM_PAGE_BITS);

    if (is_cancelled()) {
        /* Who waits for what is under way can not know of it in time. */
        pm_fetcher_hurry(f);
    }
    if (!content) {
        p->device = 0;          /* nothing is known of it */
        return false;
    }
    if (memcmp(host, content, PM_PAGE_SIZE)) {
        return false;
    }
    pm_tag(pm_fetcher_key(f), content, &p->tag);
    /* One that could not be computed equals nothing. */
    return pm_tag_equal(&p->tag, &p->tag);
}

/* Fetching thread */
static void batch_compared(PmFetcher *f, PmBatch *batch, const PmRp *rp)
{
    PmCompared *c = g_new(PmCompared, 1);

    c->batch = batch;
    memcpy(c->equal, rp->placed, sizeof(c->equal));
    QEMU_LOCK_GUARD(&snap.lock);
    snap.bytes += rp->bytes;
    snap.requests += rp->requests;
    QSIMPLEQ_INSERT_TAIL(&snap.done, c, next);
}

static const PmFetchOps compare_ops = {
    .page = compare,
    .batch = batch_compared,
};

/*
 * What was compared becomes records
 */

static void put_out(void)
{
    pm_stats.wire_bytes += snap.out->len;
    qemu_put_buffer(snap.f, snap.out->data, snap.out->len);
    g_byte_array_set_size(snap.out, 0);
}

/* DEVICE, with probes from its pages in @page */
static void name_disk(PmSnapDisk *disk, const PmFetch *page, size_t n)
{
    size_t first = 0, of_disk;

    while (page[first].device != disk->d.number) {
        first++;
    }
    for (of_disk = 1; first + of_disk < n; of_disk++) {
        if (page[first + of_disk].device != disk->d.number) {
            break;
        }
    }
    disk->d.n_probes = MIN(of_disk, PROBES);
    for (unsigned i = 0; i < disk->d.n_probes; i++) {
        const PmFetch *p = &page[first + i * of_disk / disk->d.n_probes];

        disk->d.probes[i] = (PmProbe) { .offset = p->offset, .tag = p->tag };
    }
    pm_put_device(snap.out, &disk->d);
    disk->named = true;
}

/* The pages of @c that are equal to the disk: they are omitted from now on. */
static void put_compared(const PmCompared *c)
{
    PmFetch *page = c->batch->page;
    size_t n = 0;

    for (unsigned i = 0; i < c->batch->n; i++) {
        PmSnapDisk *disk = disk_of(page[i].device);

        if (!disk) {
            continue;           /* it could not be read */
        }
        if (!(c->equal[page[i].index >> 3] & (1 << (page[i].index & 7)))) {
            PmSnapBlock *b = block_of(page[i].block);
            PageMapPlace place = {
                .device = page[i].device,
                .offset = page[i].offset,
            };

            page_map_forget(b->rb->offset +
                            ((ram_addr_t)page[i].page << PM_PAGE_BITS), &place);
            disk->other++;
            continue;
        }
        disk->equal++;
        page[n++] = page[i];
    }
    pm_stats.nacked += c->batch->n - n;
    if (!n) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        PmSnapBlock *b = block_of(page[i].block);
        PmSnapDisk *disk = disk_of(page[i].device);

        if (!disk->named) {
            name_disk(disk, page, n);
        }
        if (!b->named) {
            pm_put_block_named(snap.out, page[i].block, b->rb->idstr);
            b->named = true;
        }
        set_bit(page[i].page, b->omitted);
    }
    pm_put_records(snap.out, ++snap.batches, page, n);
    pm_stats.mapped_pages += n;
    put_out();
}

static void put_done(void)
{
    QSIMPLEQ_HEAD(, PmCompared) done = QSIMPLEQ_HEAD_INITIALIZER(done);
    PmCompared *c;

    WITH_QEMU_LOCK_GUARD(&snap.lock) {
        QSIMPLEQ_CONCAT(&done, &snap.done);
        pm_stats.fetched_bytes = snap.bytes;
        pm_stats.fetch_requests = snap.requests;
    }
    while ((c = QSIMPLEQ_FIRST(&done))) {
        QSIMPLEQ_REMOVE_HEAD(&done, next);
        put_compared(c);
        g_free(c->batch);
        g_free(c);
    }
}

/*
 * What is to be compared
 */

/* Sorted, so that the reads are long and ascending */
static void compare_window(PmFetch *page, size_t n)
{
    size_t i = 0;

    qsort(page, n, sizeof(*page), pm_fetch_by_place);
    while (i < n && !is_cancelled() && !qemu_file_get_error(snap.f)) {
        PmBatch *batch = g_malloc(sizeof(*batch) +
                                  PM_MAX_BATCH * sizeof(*page));

        batch->number = 1;
        batch->n = 0;
        for (; i < n && batch->n < PM_MAX_BATCH; i++) {
            const PmSnapDisk *disk = disk_of(page[i].device);

            /* A disk whose pages have nearly all changed is not worth it. */
            if (disk->equal + disk->other >= SAMPLE &&
                disk->other > 9 * disk->equal) {
                continue;
            }
            batch->page[batch->n] = page[i];
            batch->page[batch->n].index = batch->n;
            batch->n++;
        }
        if (!batch->n) {
            g_free(batch);
            break;
        }
        pm_fetcher_wait(snap.fetcher, PM_MAX_IN_FLIGHT - batch->n);
        pm_fetcher_submit(snap.fetcher, batch);
        put_done();
    }
    pm_fetcher_wait(snap.fetcher, 0);
    put_done();
}

static bool candidate(const PmSnapBlock *b, uint32_t page, PageMapPlace *place)
{
    const uint8_t *host = b->rb->host + ((ram_addr_t)page << PM_PAGE_BITS);
    const PmSnapDisk *disk;

    /* Memory that was given back (virtio-mem) must not even be read. */
    if (!test_bit(page, b->rb->bmap)) {
        return false;
    }
    if (!page_map_lookup(b->rb->offset + ((ram_addr_t)page << PM_PAGE_BITS),
                         host, place)) {
        return false;
    }
    disk = disk_of(place->device);
    return disk && place->offset <= disk->d.length - PM_PAGE_SIZE &&
           !buffer_is_zero(host, PM_PAGE_SIZE);
}

static int iterate(QEMUFile *f)
{
    g_autofree PmFetch *page = NULL;
    size_t n = 0;

    if (!snap.compared && snap.n_disks) {
        page = g_new(PmFetch, WINDOW);
        for (guint i = 0; i < snap.blocks->len; i++) {
            const PmSnapBlock *b = block_of(i);

            for (uint32_t p = 0; p < b->pages; p++) {
                PageMapPlace place;

                if (!candidate(b, p, &place)) {
                    continue;
                }
                page[n++] = (PmFetch) {
                    .offset = place.offset, .device = place.device,
                    .block = i, .page = p,
                };
                if (n == WINDOW) {
                    compare_window(page, n);
                    n = 0;
                }
            }
        }
        compare_window(page, n);
    }
    snap.compared = true;
    pm_put_end(snap.out);
    put_out();
    return 1;
}

/*
 * The section
 */

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    snap.ran |= running;
}

/* snapshot=on: what was written is gone with the process */
static bool is_temporary(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    for (; bs; bs = bdrv_filter_or_cow_bs(bs)) {
        if (bs->open_flags & BDRV_O_TEMPORARY) {
            return true;
        }
    }
    return false;
}

static bool counts(BlockBackend *blk)
{
    return blk_is_writable(blk) && !blk_dev_has_removable_media(blk) &&
           !is_temporary(blk_bs(blk)) && pm_snapshot_takes_part(blk_bs(blk));
}

static void open_disks(void)
{
    BlockBackend *blk = NULL;
    PmDevice d;

    snap.disks = g_new0(PmSnapDisk, PM_MAX_DEVICES);
    while (snap.n_disks < PM_MAX_DEVICES && (blk = pm_src_next_disk(blk, &d))) {
        PmDisk disk;

        if (!counts(blk) || !pm_disk_open(&disk, blk)) {
            continue;
        }
        /* No probes: nothing is asked, and it is the same. */
        pm_fetcher_device(snap.fetcher, &d, &disk);
        snap.disks[snap.n_disks++].d = d;
    }
    pm_fetcher_wait(snap.fetcher, 0);
}

static void add_blocks(void)
{
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        uint64_t pages = rb->used_length >> PM_PAGE_BITS;
        PmSnapBlock b = { .rb = rb, .pages = pages };

        if (pages > UINT32_MAX || snap.blocks->len > UINT16_MAX) {
            continue;
        }
        b.omitted = bitmap_new(pages);
        b.asked = bitmap_new(pages);
        pm_fetcher_block(snap.fetcher, snap.blocks->len, rb);
        g_array_append_val(snap.blocks, b);
    }
}

static int setup(QEMUFile *f, Error **errp)
{
    PmHello hello = { .version = PM_WIRE_VERSION, .page_size = PM_PAGE_SIZE };

    /* One that sleeps is not stopped: its devices go on, and it may wake. */
    if (runstate_is_live(runstate_get())) {
        error_setg(errp, "Capability 'x-page-map' needs a stopped guest for a"
                   " migration to a file, as its disks change while it runs:"
                   " 'stop' it first, or turn the capability off");
        return -EINVAL;
    }
    if (!pm_key_new(&hello.key, errp)) {
        return -EIO;
    }
    snap.fetcher = pm_fetcher_new(&hello.key, &compare_ops, errp);
    if (!snap.fetcher) {
        return -ENOMEM;
    }
    snap.f = f;
    snap.compared = snap.ran = false;
    snap.n_disks = snap.batches = snap.bytes = snap.requests = 0;
    snap.out = g_byte_array_new();
    snap.blocks = g_array_new(false, false, sizeof(PmSnapBlock));
    snap.watch = qemu_add_vm_change_state_handler(vm_state_changed, NULL);
    add_blocks();
    open_disks();

    pm_put_hello(snap.out, &hello);
    pm_put_snapshot(snap.out);
    pm_put_end(snap.out);
    put_out();
    return 0;
}

static void cleanup(void)
{
    PmCompared *c;

    if (!snap.fetcher) {
        return;
    }
    qemu_del_vm_change_state_handler(snap.watch);
    g_clear_pointer(&snap.fetcher, pm_fetcher_free);
    while ((c = QSIMPLEQ_FIRST(&snap.done))) {
        QSIMPLEQ_REMOVE_HEAD(&snap.done, next);
        g_free(c->batch);
        g_free(c);
    }
    for (guint i = 0; i < snap.blocks->len; i++) {
        g_free(block_of(i)->omitted);
        g_free(block_of(i)->asked);
    }
    g_clear_pointer(&snap.blocks, g_array_unref);
    g_clear_pointer(&snap.out, g_byte_array_unref);
    g_clear_pointer(&snap.disks, g_free);
    snap.f = NULL;
}

static int complete(QEMUFile *f)
{
    g_autoptr(Error) err = NULL;

    if (snap.ran) {
        error_setg(&err, "page-map: the guest ran while it was saved, and its"
                   " disks with it: keep it stopped, or turn the capability"
                   " 'x-page-map' off");
        migrate_set_error(migrate_get_current(), err);
        return -EINVAL;
    }
    pm_put_finish(snap.out);
    pm_put_end(snap.out);
    put_out();
    return 0;
}

static PmSnapBlock *find_block(RAMBlock *rb)
{
    static guint last;

    if (last >= snap.blocks->len || block_of(last)->rb != rb) {
        for (last = 0; last < snap.blocks->len; last++) {
            if (block_of(last)->rb == rb) {
                return block_of(last);
            }
        }
        return NULL;
    }
    return block_of(last);
}

static bool save_page(RAMBlock *rb, unsigned long page, bool last_stage)
{
    PmSnapBlock *b = find_block(rb);
    Error *err = NULL;

    if (!b || page >= b->pages || !test_bit(page, b->omitted)) {
        return false;
    }
    if (!test_and_set_bit(page, b->asked)) {
        return true;
    }
    /* It was written since (S4). */
    if (migrate_mapped_ram()) {
        error_setg(&err, "page-map: page %lu of RAM block '%s' was written"
                   " while the stopped guest was saved: try again, or turn the"
                   " capability 'x-page-map' off", page, rb->idstr);
        qemu_file_set_error_obj(snap.f, -EINVAL, err);
    }
    return false;
}

static bool can_switchover(void)
{
    return snap.compared;
}

static uint64_t pending(void)
{
    return 0;
}

const PmSaver pm_snapshot_saver = {
    .setup = setup,
    .cleanup = cleanup,
    .iterate = iterate,
    .complete = complete,
    .pending = pending,
    .save_page = save_page,
    .can_switchover = can_switchover,
};
