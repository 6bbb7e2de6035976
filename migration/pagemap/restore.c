/*
 * Page map: a snapshot is restored
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nobody can be asked for a page that is not on the disk: the first one ends
 * the restore (S3 in docs/devel/migration/page-map.rst).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "destination.h"

/* The first record that was not placed; one restore at a time */
static struct {
    QemuMutex lock;             /* protects what follows */
    bool failed, unreadable;
    PmFetch page;
} restore;

static void __attribute__((__constructor__)) restore_init(void)
{
    qemu_mutex_init(&restore.lock);
}

static bool place(PmFetcher *f, PmFetch *p, const uint8_t *content)
{
    if (content && pm_fetcher_place(f, p, content)) {
        return true;
    }
    QEMU_LOCK_GUARD(&restore.lock);
    if (!restore.failed) {
        restore.failed = true;
        restore.unreadable = !content;
        restore.page = *p;
    }
    return false;
}

static void batch_done(PmFetcher *f, PmBatch *batch, const PmRp *rp)
{
    g_free(batch);
}

const PmFetchOps pm_restore_ops = {
    .page = place,
    .batch = batch_done,
};

void pm_restore_begin(void)
{
    QEMU_LOCK_GUARD(&restore.lock);
    restore.failed = false;
}

bool pm_restore_check(PmFetcher *f, Error **errp)
{
    g_autofree char *name = NULL;

    QEMU_LOCK_GUARD(&restore.lock);
    if (!restore.failed) {
        return true;
    }
    name = pm_device_name(pm_fetcher_device_of(f, restore.page.device)->id);
    error_setg(errp, "page-map: disk '%s' %s at offset %" PRIu64 ", where the"
               " snapshot has page %u of RAM block '%s': restore it with its"
               " disks as they were when it was taken",
               name,
               restore.unreadable ? "can not be read" : "has other content",
               restore.page.offset, restore.page.page,
               pm_fetcher_block_of(f, restore.page.block)->idstr);
    return false;
}

bool pm_restore_device(const PmDevice *d, int verdict, Error **errp)
{
    static const char *const why[PM_DEV__MAX] = {
        [PM_DEV_ABSENT] = "there is no such device, or it has no disk",
        [PM_DEV_LENGTH] = "the disk has another length",
        [PM_DEV_CONTENT] = "the disk has other content",
        [PM_DEV_UNREADABLE] = "the disk can not be read",
        [PM_DEV_FORBIDDEN] = "the disk is not read, as copy-on-read would"
                             " write to it",
    };

    g_autofree char *name = pm_device_name(d->id);

    if (verdict == PM_DEV_SAME) {
        return true;
    }
    error_setg(errp, "page-map: device '%s': %s, and the snapshot left out"
               " what it had: restore it with its disks as they were when it"
               " was taken", name, why[verdict]);
    return false;
}
