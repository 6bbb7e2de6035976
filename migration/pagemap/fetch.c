/*
 * Page map: read pages from disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A thread with an event loop of its own: the loop of the main thread is busy
 * with the stream.  Coroutines read through BlockBackends that nobody else
 * uses, so neither the guest's throttling nor its error policy sees them; the
 * nodes are inactive, which forbids writing only.
 *
 * Members without a comment belong to this thread.
 */

#include "qemu/osdep.h"
#include "qemu/coroutine.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "block/aio-wait.h"
#include "block/aio.h"
#include "block/block.h"
#include "block/block_int.h"
#include "migration/page-map.h"
#include "qapi/error.h"
#include "system/block-observer.h"
#include "system/iothread.h"
#include "../ram.h"
#include "fetch.h"
#include "trace.h"

#define WORKERS     8

/* A batch while it is fetched */
typedef struct PmJob {
    QSIMPLEQ_ENTRY(PmJob) next;
    PmFetcher *f;
    PmBatch *batch;
    PmRead *read;
    size_t n_reads, next_read;
    unsigned left;              /* reads that are not finished */
    PmRp rp;
} PmJob;

typedef struct PmFetchDevice {
    PmDisk disk;
    PmDevice *d;
    PmFetcher *f;
    int verdict;                /* atomic; -1: none yet */
} PmFetchDevice;

struct PmFetcher {
    IOThread *thread;
    AioContext *ctx;
    const PmFetchOps *ops;
    PmKey key;
    RAMBlock **blocks;          /* main thread writes a member before its use */
    PmFetchDevice *devices[PM_MAX_DEVICES];     /* main thread */
    unsigned n_devices;                         /* atomic */

    QemuMutex lock;             /* protects incoming */
    QemuCond cond;              /* something ended */
    Coroutine *waiter;          /* atomic: to be woken then */
    QSIMPLEQ_HEAD(, PmBatch) incoming;
    unsigned busy;              /* atomic: pages without an answer */
    int working;                /* atomic: coroutines and callbacks under way */
    bool quit;                  /* atomic */

    QSIMPLEQ_HEAD(, PmJob) jobs;        /* with reads to be begun */
    unsigned workers;
    unsigned unanswered;        /* jobs */
    int64_t busy_since;         /* ns; while there are unanswered jobs */
};

/*
 * M8, S2: what is read through copy-on-read is written, unless the node is
 * inactive.  Those of a snapshot are active, and those that are exported for a
 * mirror.
 */
static bool copies_on_read(BlockDriverState *bs)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    for (; bs; bs = bdrv_filter_or_cow_bs(bs)) {
        if (qatomic_read(&bs->copy_on_read) ||
            (bs->drv && !strcmp(bs->drv->format_name, "copy-on-read"))) {
            return true;
        }
    }
    return false;
}

bool pm_disk_open(PmDisk *disk, BlockBackend *theirs)
{
    BlockDriverState *bs = theirs ? blk_bs(theirs) : NULL;
    int64_t length;

    *disk = (PmDisk) { };
    disk->forbidden = bs && copies_on_read(bs);
    if (bs && !disk->forbidden) {
        /*
         * No permission is needed to read, and none must be asked for: an
         * export, which has the node already, shares what it likes.
         */
        disk->blk = blk_new_with_bs(bs, 0, BLK_PERM_ALL, NULL);
    }
    if (!disk->blk) {
        return false;
    }
    length = blk_getlength(disk->blk);
    blk_set_allow_aio_context_change(disk->blk, true);
    /* savevm and loadvm keep all nodes drained, and wait for these reads. */
    blk_set_disable_request_queuing(disk->blk, blk_in_drain(disk->blk));
    disk->length = MAX(length, 0);
    disk->observer = blk_observer_id_get(theirs);
    return true;
}

/* The thread is joined before @f is freed. */
static void done_working(PmFetcher *f)
{
    Coroutine *co;

    qatomic_dec(&f->working);
    aio_wait_kick();
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        qemu_cond_broadcast(&f->cond);
    }
    co = qatomic_xchg(&f->waiter, NULL);
    if (co) {
        aio_co_wake(co);
    }
}

static void end_batch_bh(void *opaque)
{
    PmJob *job = opaque;
    PmFetcher *f = job->f;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    int64_t busy = MAX(now - f->busy_since, 0) / SCALE_US;

    /*
     * The source cannot measure it: records wait behind RAM's content in
     * buffers, on a slow link for longer than it takes to fetch them.
     */
    job->rp.busy_us = MIN(busy, UINT32_MAX);
    f->busy_since = now;
    f->unanswered--;
    /* Before the answer: it lets the source send as many. */
    qatomic_sub(&f->busy, job->batch->n);
    f->ops->batch(f, job->batch, &job->rp);
    g_free(job->read);
    g_free(job);
    done_working(f);
}

bool pm_fetcher_place(PmFetcher *f, const PmFetch *p, const uint8_t *content)
{
    RAMBlock *rb = f->blocks[p->block];
    ram_addr_t offset = (ram_addr_t)p->page << PM_PAGE_BITS;
    const PmDisk *disk;
    PageMapPlace found = { .offset = p->offset };
    PmTag tag;

    pm_tag(&f->key, content, &tag);
    if (!pm_tag_equal(&tag, &p->tag)) {
        return false;
    }
    memcpy(rb->host + offset, content, PM_PAGE_SIZE);
    ramblock_recv_bitmap_set(rb, rb->host + offset);

    /* The next migration profits at once. */
    disk = pm_fetcher_disk(f, p->device);
    found.device = disk ? disk->observer : 0;
    if (found.device) {
        page_map_learn(rb->offset + offset, content, &found);
    }
    return true;
}

static void coroutine_fn worker_co(void *opaque)
{
    PmFetcher *f = opaque;
    uint8_t *buf = qemu_try_memalign(4096, PM_READ_MAX);
    PmJob *job;

    while ((job = QSIMPLEQ_FIRST(&f->jobs))) {
        const PmRead *r = &job->read[job->next_read++];
        const PmDisk *disk;
        int ret = -ENOMEM;

        if (job->next_read == job->n_reads) {
            QSIMPLEQ_REMOVE_HEAD(&f->jobs, next);
        }
        disk = pm_fetcher_disk(f, job->batch->page[r->first].device);
        if (disk && buf && !qatomic_read(&f->quit)) {
            job->rp.requests++;
            job->rp.bytes += r->bytes;
            ret = blk_co_pread(disk->blk, r->offset, r->bytes, buf, 0);
            trace_page_map_fetch(r->offset, r->bytes, r->n, ret);
        }
        for (unsigned i = r->first; i < r->first + r->n; i++) {
            PmFetch *p = &job->batch->page[i];

            if (f->ops->page(f, p, ret < 0 ? NULL :
                             buf + (p->offset - r->offset))) {
                job->rp.placed[p->index >> 3] |= 1 << (p->index & 7);
            }
        }
        if (!--job->left) {
            /* Ends after this coroutine has, or after it waits. */
            qatomic_inc(&f->working);
            aio_bh_schedule_oneshot(f->ctx, end_batch_bh, job);
        }
    }
    qemu_vfree(buf);
    f->workers--;
    done_working(f);
}

static void start_batches_bh(void *opaque)
{
    PmFetcher *f = opaque;
    PmBatch *batch;

    for (;;) {
        PmJob *job;

        WITH_QEMU_LOCK_GUARD(&f->lock) {
            batch = QSIMPLEQ_FIRST(&f->incoming);
            if (batch) {
                QSIMPLEQ_REMOVE_HEAD(&f->incoming, next);
            }
        }
        if (!batch) {
            break;
        }
        job = g_new0(PmJob, 1);
        job->f = f;
        job->batch = batch;
        job->rp.type = PM_RP_BATCH;
        job->rp.batch = batch->number;
        job->rp.n = batch->n;
        if (!f->unanswered++) {
            f->busy_since = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        }
        job->read = g_new(PmRead, batch->n);
        job->n_reads = pm_plan(batch->page, batch->n, job->read);
        job->left = job->n_reads;
        QSIMPLEQ_INSERT_TAIL(&f->jobs, job, next);
        while (f->workers < WORKERS && !QSIMPLEQ_EMPTY(&f->jobs)) {
            f->workers++;
            qatomic_inc(&f->working);
            qemu_coroutine_enter(qemu_coroutine_create(worker_co, f));
        }
    }
    done_working(f);
}

static void end_device_bh(void *opaque)
{
    PmFetchDevice *dev = opaque;
    PmFetcher *f = dev->f;

    trace_page_map_device(dev->d->id, dev->d->number, dev->d->n_probes,
                          dev->verdict);
    if (f->ops->device) {
        f->ops->device(f, dev->d, dev->verdict);
    }
    done_working(f);
}

static void coroutine_fn probe_co(void *opaque)
{
    PmFetchDevice *dev = opaque;
    PmFetcher *f = dev->f;
    void *buf = qemu_try_memalign(4096, PM_PAGE_SIZE);
    unsigned same = 0, failed = 0;
    PmDeviceVerdict verdict;

    for (unsigned i = 0; buf && i < dev->d->n_probes; i++) {
        const PmProbe *probe = &dev->d->probes[i];
        PmTag tag;

        if (qatomic_read(&f->quit) ||
            probe->offset > dev->disk.length - PM_PAGE_SIZE ||
            blk_co_pread(dev->disk.blk, probe->offset, PM_PAGE_SIZE, buf,
                         0) < 0) {
            failed++;
            continue;
        }
        pm_tag(&f->key, buf, &tag);
        same += pm_tag_equal(&tag, &probe->tag);
    }
    if (!buf || failed * 2 > dev->d->n_probes) {
        verdict = PM_DEV_UNREADABLE;
    } else if (dev->d->n_probes && same * 2 <= dev->d->n_probes) {
        verdict = PM_DEV_CONTENT;
    } else {
        verdict = PM_DEV_SAME;
    }
    qemu_vfree(buf);
    qatomic_store_release(&dev->verdict, verdict);
    aio_bh_schedule_oneshot(f->ctx, end_device_bh, dev);
}

static void start_device_bh(void *opaque)
{
    PmFetchDevice *dev = opaque;

    if (dev->verdict >= 0) {
        end_device_bh(dev);
    } else {
        qemu_coroutine_enter(qemu_coroutine_create(probe_co, dev));
    }
}

PmFetcher *pm_fetcher_new(const PmKey *key, const PmFetchOps *ops,
                          Error **errp)
{
    IOThread *thread = iothread_create("page-map", errp);
    PmFetcher *f;

    if (!thread) {
        return NULL;
    }
    f = g_new0(PmFetcher, 1);
    f->thread = thread;
    f->ctx = iothread_get_aio_context(thread);
    f->ops = ops;
    f->key = *key;
    f->blocks = g_new0(RAMBlock *, UINT16_MAX + 1);
    qemu_mutex_init(&f->lock);
    qemu_cond_init(&f->cond);
    QSIMPLEQ_INIT(&f->incoming);
    QSIMPLEQ_INIT(&f->jobs);
    qatomic_inc(&block_inactive_readers);
    return f;
}

void pm_fetcher_use(PmFetcher *f, const PmFetchOps *ops)
{
    assert(!pm_fetcher_working(f));
    f->ops = ops;
}

const PmKey *pm_fetcher_key(const PmFetcher *f)
{
    return &f->key;
}

void pm_fetcher_block(PmFetcher *f, uint16_t number, RAMBlock *rb)
{
    memory_region_ref(rb->mr);
    f->blocks[number] = rb;
}

RAMBlock *pm_fetcher_block_of(PmFetcher *f, uint16_t number)
{
    return f->blocks[number];
}

void pm_fetcher_device(PmFetcher *f, const PmDevice *d, const PmDisk *disk)
{
    PmFetchDevice *new = g_new0(PmFetchDevice, 1);

    assert(f->n_devices < PM_MAX_DEVICES);
    new->f = f;
    new->d = g_memdup2(d, sizeof(*d));
    new->disk = *disk;
    new->verdict = disk->forbidden ? PM_DEV_FORBIDDEN :
                   !disk->blk ? PM_DEV_ABSENT :
                   disk->length != d->length ? PM_DEV_LENGTH : -1;
    f->devices[f->n_devices] = new;
    /* The fetching thread reads the array up to here. */
    qatomic_store_release(&f->n_devices, f->n_devices + 1);
    qatomic_inc(&f->working);
    aio_bh_schedule_oneshot(f->ctx, start_device_bh, new);
}

static PmFetchDevice *find_device(PmFetcher *f, uint16_t number)
{
    unsigned n = qatomic_load_acquire(&f->n_devices);

    for (unsigned i = 0; i < n; i++) {
        if (f->devices[i]->d->number == number) {
            return f->devices[i];
        }
    }
    return NULL;
}

const PmDevice *pm_fetcher_device_of(PmFetcher *f, uint16_t number)
{
    PmFetchDevice *dev = find_device(f, number);

    return dev ? dev->d : NULL;
}

const PmDisk *pm_fetcher_disk(PmFetcher *f, uint16_t number)
{
    PmFetchDevice *dev = find_device(f, number);

    return dev && qatomic_load_acquire(&dev->verdict) == PM_DEV_SAME ?
           &dev->disk : NULL;
}

int pm_fetcher_verdict(PmFetcher *f)
{
    return qatomic_load_acquire(&f->devices[f->n_devices - 1]->verdict);
}

bool pm_fetcher_submit(PmFetcher *f, PmBatch *batch)
{
    if (qatomic_read(&f->busy) + batch->n > PM_MAX_IN_FLIGHT) {
        return false;
    }
    qatomic_add(&f->busy, batch->n);
    WITH_QEMU_LOCK_GUARD(&f->lock) {
        QSIMPLEQ_INSERT_TAIL(&f->incoming, batch, next);
    }
    qatomic_inc(&f->working);
    aio_bh_schedule_oneshot(f->ctx, start_batches_bh, f);
    return true;
}

unsigned pm_fetcher_busy(PmFetcher *f)
{
    return qatomic_read(&f->busy);
}

bool pm_fetcher_working(PmFetcher *f)
{
    return qatomic_read(&f->working);
}

void pm_fetcher_hurry(PmFetcher *f)
{
    qatomic_set(&f->quit, true);
}

bool pm_fetcher_stops(PmFetcher *f)
{
    return qatomic_read(&f->quit);
}

static bool is_ready(PmFetcher *f, unsigned busy)
{
    return busy ? pm_fetcher_busy(f) <= busy : !pm_fetcher_working(f);
}

void coroutine_mixed_fn pm_fetcher_wait(PmFetcher *f, unsigned busy)
{
    if (qemu_in_coroutine()) {
        while (!is_ready(f, busy)) {
            qatomic_set(&f->waiter, qemu_coroutine_self());
            smp_mb();           /* pairs with the atomics of done_working() */
            /* Who has taken the waiter wakes it: then it has to sleep. */
            if (is_ready(f, busy) && qatomic_xchg(&f->waiter, NULL)) {
                break;
            }
            qemu_coroutine_yield();
        }
    } else if (bql_locked()) {
        AIO_WAIT_WHILE_UNLOCKED(NULL, !is_ready(f, busy));
    } else {
        QEMU_LOCK_GUARD(&f->lock);
        while (!is_ready(f, busy)) {
            qemu_cond_wait(&f->cond, &f->lock);
        }
    }
}

void pm_fetcher_free(PmFetcher *f)
{
    qatomic_set(&f->quit, true);
    AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&f->working));
    iothread_destroy(f->thread);
    qatomic_dec(&block_inactive_readers);
    for (unsigned i = 0; i < f->n_devices; i++) {
        blk_unref(f->devices[i]->disk.blk);
        g_free(f->devices[i]->d);
        g_free(f->devices[i]);
    }
    for (unsigned i = 0; i <= UINT16_MAX; i++) {
        if (f->blocks[i]) {
            memory_region_unref(f->blocks[i]->mr);
        }
    }
    qemu_cond_destroy(&f->cond);
    qemu_mutex_destroy(&f->lock);
    g_free(f->blocks);
    g_free(f);
}
