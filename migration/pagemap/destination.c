/*
 * Page map: the reader of the section "page-map"
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Takes the stream apart and checks every field; fetch.c does the reading.
 */

#include "qemu/osdep.h"
#include "qemu/coroutine.h"
#include "block/aio.h"
#include "block/block.h"
#include "qemu/main-loop.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "system/block-backend.h"
#include "system/replay.h"
#include "../migration.h"
#include "../options.h"
#include "../qemu-file.h"
#include "../ram.h"
#include "destination.h"
#include "pagemap.h"

/* One incoming migration at a time; main thread */
static struct {
    PmFetcher *fetcher;         /* from HELLO to FINISH */
    bool finished;              /* until the end of the incoming migration */
    bool snapshot;              /* as long: SNAPSHOT has come */
    unsigned devices;
    uint64_t pages[UINT16_MAX + 1];     /* of each block; 0: not named */
    PmBatch *batch;          /* that is being received */
} dst;

/* Some of what the block layer does must not be done in a coroutine. */
typedef struct PmMain {
    void (*func)(void *opaque);
    void *opaque;
    Coroutine *co;
} PmMain;

static void main_bh(void *opaque)
{
    PmMain *m = opaque;

    m->func(m->opaque);
    aio_co_wake(m->co);
}

static void not_in_coroutine(void (*func)(void *), void *opaque)
{
    PmMain m = { .func = func, .opaque = opaque };

    if (!qemu_in_coroutine()) {
        func(opaque);
        return;
    }
    m.co = qemu_coroutine_self();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), main_bh, &m);
    qemu_coroutine_yield();
}

static void release(void *opaque)
{
    g_clear_pointer(&dst.fetcher, pm_fetcher_free);
    g_clear_pointer(&dst.batch, g_free);
    memset(dst.pages, 0, sizeof(dst.pages));
    dst.devices = 0;
}

int pm_dst_load_cleanup(void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();

    if (dst.fetcher) {
        if (mis->to_src_file && pm_fetcher_working(dst.fetcher)) {
            /* A source that does not read its answers must not hold us. */
            qemu_file_shutdown(mis->to_src_file);
        }
        not_in_coroutine(release, NULL);
    }
    dst.finished = dst.snapshot = false;
    return 0;
}

bool pm_dst_restores(void)
{
    return dst.snapshot;
}

static bool load_hello(const uint8_t *buf, size_t len, Error **errp)
{
    PmHello m;

    if (dst.fetcher) {
        error_setg(errp, "page-map: the stream begins twice");
        return false;
    }
    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "page-map: disks can not be read beside record and"
                   " replay: start without '-icount rr='");
        return false;
    }
    if (!pm_get_hello(buf, len, &m, errp)) {
        return false;
    }
    dst.fetcher = pm_fetcher_new(&m.key, &pm_answer_ops, errp);
    return dst.fetcher;
}

static bool load_snapshot_mark(Error **errp)
{
    if (dst.snapshot || dst.devices) {
        error_setg(errp, "page-map: SNAPSHOT is not the second message");
        return false;
    }
    dst.snapshot = true;
    pm_restore_begin();
    pm_fetcher_use(dst.fetcher, &pm_restore_ops);
    return true;
}

/* The node of the guest's device, through a BlockBackend of our own */
static void open_device(void *opaque)
{
    const PmDevice *d = opaque;
    PmDisk disk;

    pm_disk_open(&disk, blk_by_qdev_id(d->id, NULL));
    pm_fetcher_device(dst.fetcher, d, &disk);
}

static bool load_device(const uint8_t *buf, size_t len, Error **errp)
{
    g_autofree PmDevice *d = g_new(PmDevice, 1);

    if (!pm_get_device(buf, len, d, errp)) {
        return false;
    }
    if (dst.devices == PM_MAX_DEVICES) {
        error_setg(errp, "page-map: more than %d devices", PM_MAX_DEVICES);
        return false;
    }
    dst.devices++;
    if (dst.snapshot) {
        /* No read is under way when the block graph changes. */
        pm_fetcher_wait(dst.fetcher, 0);
    }
    not_in_coroutine(open_device, d);
    if (dst.snapshot) {
        pm_fetcher_wait(dst.fetcher, 0);
        return pm_restore_device(d, pm_fetcher_verdict(dst.fetcher), errp);
    }
    return true;
}

static bool load_block(const uint8_t *buf, size_t len, Error **errp)
{
    PmBlockName m;
    RAMBlock *rb;

    if (!pm_get_block(buf, len, &m, errp)) {
        return false;
    }
    rb = qemu_ram_block_by_name(m.name);
    if (!rb || !qemu_ram_is_migratable(rb) || migrate_ram_is_ignored(rb)) {
        error_setg(errp, "page-map: RAM block '%s' is not migrated here",
                   m.name);
        return false;
    }
    if (dst.pages[m.number]) {
        error_setg(errp, "page-map: RAM block number %u is named twice",
                   m.number);
        return false;
    }
    pm_fetcher_block(dst.fetcher, m.number, rb);
    dst.pages[m.number] = rb->used_length >> PM_PAGE_BITS;
    return true;
}

static bool load_run(const uint8_t *buf, size_t len, Error **errp)
{
    g_autofree PmRun *m = g_new(PmRun, 1);
    const PmDisk *disk;

    if (!pm_get_run(buf, len, m, errp)) {
        return false;
    }
    disk = pm_fetcher_disk(dst.fetcher, m->device);
    if (!disk || m->offset > disk->length ||
        (uint64_t)m->n * PM_PAGE_SIZE > disk->length - m->offset) {
        error_setg(errp, "page-map: %u pages at offset %" PRIu64 " of device"
                   " %u: %s", m->n, m->offset, m->device,
                   disk ? "beyond its end" : "not a device that was accepted");
        return false;
    }
    if (!dst.batch) {
        dst.batch = g_malloc(sizeof(PmBatch) +
                             PM_MAX_BATCH * sizeof(PmFetch));
        dst.batch->number = m->batch;
        dst.batch->n = 0;
    }
    if (dst.batch->number != m->batch ||
        dst.batch->n + m->n > PM_MAX_BATCH) {
        error_setg(errp, "page-map: batch %u is not complete, or longer than"
                   " %d pages", dst.batch->number, PM_MAX_BATCH);
        return false;
    }
    for (unsigned i = 0; i < m->n; i++) {
        const PmRunPage *p = &m->pages[i];

        if (p->page >= dst.pages[p->block]) {
            error_setg(errp, "page-map: page %u of RAM block number %u, which"
                       " has %" PRIu64, p->page, p->block,
                       dst.pages[p->block]);
            return false;
        }
        dst.batch->page[dst.batch->n] = (PmFetch) {
            .offset = m->offset + (uint64_t)i * PM_PAGE_SIZE,
            .device = m->device,
            .block = p->block,
            .page = p->page,
            .index = dst.batch->n,
            .tag = p->tag,
        };
        dst.batch->n++;
    }
    return true;
}

static bool load_commit(const uint8_t *buf, size_t len, Error **errp)
{
    PmCommit m;

    if (!pm_get_commit(buf, len, &m, errp)) {
        return false;
    }
    if (!dst.batch || dst.batch->number != m.batch || dst.batch->n != m.n) {
        error_setg(errp, "page-map: batch %u has %u pages, of which %u came",
                   m.batch, m.n, dst.batch ? dst.batch->n : 0);
        return false;
    }
    /* A stream of short batches must not hold memory for long ones. */
    dst.batch = g_realloc(dst.batch, sizeof(PmBatch) +
                                     m.n * sizeof(PmFetch));
    if (dst.snapshot) {
        /* Who reads a file has to make room itself. */
        pm_fetcher_wait(dst.fetcher, PM_MAX_IN_FLIGHT - m.n);
        if (!pm_restore_check(dst.fetcher, errp)) {
            return false;
        }
    }
    if (!pm_fetcher_submit(dst.fetcher, dst.batch)) {
        error_setg(errp, "page-map: more than %d pages wait for an answer",
                   PM_MAX_IN_FLIGHT);
        return false;
    }
    dst.batch = NULL;
    return true;
}

/* The end of a part: what follows in the stream may write to the pages (S4). */
static bool load_end(Error **errp)
{
    if (!dst.snapshot || !dst.fetcher) {
        return true;
    }
    pm_fetcher_wait(dst.fetcher, 0);
    return pm_restore_check(dst.fetcher, errp);
}

/* From here on the disks' nodes may be activated (M7). */
static bool load_finish(Error **errp)
{
    unsigned busy = pm_fetcher_busy(dst.fetcher);

    if (busy || dst.batch) {
        error_setg(errp, "page-map: the source ends with %u pages that have"
                   " no answer", busy + (dst.batch ? dst.batch->n : 0));
        return false;
    }
    not_in_coroutine(release, NULL);
    dst.finished = true;
    return true;
}

static bool load_message(PmMsgType type, const uint8_t *buf, size_t len,
                         Error **errp)
{
    if (type != PM_MSG_HELLO && !dst.fetcher) {
        error_setg(errp, "page-map: message %d before the beginning", type);
        return false;
    }
    if (dst.finished) {
        error_setg(errp, "page-map: message %d after the end", type);
        return false;
    }
    switch (type) {
    case PM_MSG_HELLO:
        return load_hello(buf, len, errp);
    case PM_MSG_DEVICE:
        return load_device(buf, len, errp);
    case PM_MSG_BLOCK:
        return load_block(buf, len, errp);
    case PM_MSG_RUN:
        return load_run(buf, len, errp);
    case PM_MSG_COMMIT:
        return load_commit(buf, len, errp);
    case PM_MSG_FINISH:
        return load_finish(errp);
    case PM_MSG_SNAPSHOT:
        return load_snapshot_mark(errp);
    case PM_MSG_END:
        break;
    }
    g_assert_not_reached();
}

static int load(QEMUFile *f, Error **errp)
{
    uint8_t header[PM_HEADER_SIZE];
    g_autofree uint8_t *body = g_malloc(PM_MAX_BODY);
    PmMsgType type;
    uint32_t len;

    if (!migrate_get_current()->capabilities[
            MIGRATION_CAPABILITY_X_PAGE_MAP]) {
        error_setg(errp, "page-map: the source, or the snapshot, uses the"
                   " capability 'x-page-map', which is off here: set it");
        return -EINVAL;
    }
    /* Postcopy's thread has no business here: the page map has ended. */
    if (!bql_locked()) {
        error_setg(errp, "page-map: a part of the section in postcopy");
        return -EINVAL;
    }
    for (;;) {
        if (qemu_get_buffer(f, header, sizeof(header)) != sizeof(header)) {
            error_setg(errp, "page-map: the stream ends in a message");
            return -EIO;
        }
        if (!pm_get_header(header, &type, &len, errp)) {
            return -EINVAL;
        }
        if (type == PM_MSG_END) {
            return load_end(errp) ? 0 : -EINVAL;
        }
        if (qemu_get_buffer(f, body, len) != len) {
            error_setg(errp, "page-map: the stream ends in a message");
            return -EIO;
        }
        if (!load_message(type, body, len, errp)) {
            return -EINVAL;
        }
    }
}

int pm_dst_load_state(QEMUFile *f, void *opaque, int version_id)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    Error *err = NULL;
    int ret = load(f, &err);

    if (ret < 0) {
        /* loadvm is no migration, and would be refused for ever after. */
        if (mis->state == MIGRATION_STATUS_ACTIVE) {
            migrate_set_error(migrate_get_current(), err);
        }
        error_report_err(err);
    }
    return ret;
}
