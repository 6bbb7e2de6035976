/*
 * qemu-page-map-flatten: the disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "qemu/option.h"
#include "system/block-backend.h"
#include "disks.h"

typedef struct FlatDisk {
    char *id;
    char *name;                 /* for messages */
    BlockBackend *blk;
    bool used;
    uint16_t number;            /* if it is used */
} FlatDisk;

struct FlatDisks {
    GArray *disk;               /* FlatDisk */
    uint8_t *page;
};

static QemuOptsList disk_opts = {
    .name = "disk",
    .head = QTAILQ_HEAD_INITIALIZER(disk_opts.head),
    .desc = {
        { }
    },
};

FlatDisks *flat_disks_new(void)
{
    FlatDisks *d = g_new0(FlatDisks, 1);

    d->disk = g_array_new(false, false, sizeof(FlatDisk));
    d->page = qemu_memalign(4096, PM_PAGE_SIZE);
    return d;
}

void flat_disks_free(FlatDisks *d)
{
    if (!d) {
        return;
    }
    for (guint i = 0; i < d->disk->len; i++) {
        FlatDisk *k = &g_array_index(d->disk, FlatDisk, i);

        blk_unref(k->blk);
        g_free(k->id);
        g_free(k->name);
    }
    g_array_unref(d->disk);
    qemu_vfree(d->page);
    g_free(d);
}

/* "driver=...", "file.filename=...", but not "a/b=c" or "json:" */
static bool is_options(const char *spec)
{
    size_t n = strspn(spec, "abcdefghijklmnopqrstuvwxyz0123456789.-_");

    return n && spec[n] == '=';
}

static BlockBackend *open_spec(const char *spec, Error **errp)
{
    QDict *options = NULL;

    if (is_options(spec)) {
        QemuOpts *opts = qemu_opts_parse(&disk_opts, spec, false, errp);

        if (!opts) {
            return NULL;
        }
        options = qemu_opts_to_qdict(opts, NULL);
        qemu_opts_del(opts);
        spec = NULL;
    }
    /* Read-only, so it may be in use by others who only read. */
    return blk_new_open(spec, NULL, options, 0, errp);
}

static FlatDisk *by_id(const FlatDisks *d, const char *id)
{
    for (guint i = 0; i < d->disk->len; i++) {
        FlatDisk *k = &g_array_index(d->disk, FlatDisk, i);

        if (!strcmp(k->id, id)) {
            return k;
        }
    }
    return NULL;
}

static FlatDisk *by_number(const FlatDisks *d, uint16_t number)
{
    for (guint i = 0; i < d->disk->len; i++) {
        FlatDisk *k = &g_array_index(d->disk, FlatDisk, i);

        if (k->used && k->number == number) {
            return k;
        }
    }
    g_assert_not_reached();     /* the parser has seen to it */
}

bool flat_disks_add(FlatDisks *d, const char *arg, Error **errp)
{
    ERRP_GUARD();
    const char *spec = strchr(arg, '=');
    g_autofree char *id = spec ? g_strndup(arg, spec - arg) : NULL;
    FlatDisk k = { };

    if (!id || !*id || !*++spec) {
        error_setg(errp, "--disk %s: ID=SPEC is needed, such as "
                   "vda=disk.qcow2", arg);
        return false;
    }
    if (by_id(d, id)) {
        error_setg(errp, "--disk %s=...: given twice; remove one of them", id);
        return false;
    }
    k.blk = open_spec(spec, errp);
    if (!k.blk) {
        error_prepend(errp, "disk '%s' (%s) can not be opened: ", id, spec);
        return false;
    }
    k.name = g_strdup_printf("disk '%s' (%s)", id, spec);
    k.id = g_steal_pointer(&id);
    g_array_append_val(d->disk, k);
    return true;
}

static bool check_probes(FlatDisks *d, const FlatDisk *k, const PmKey *key,
                         const PmDevice *dev, Error **errp)
{
    unsigned good = 0;

    for (unsigned i = 0; i < dev->n_probes; i++) {
        const PmProbe *p = &dev->probes[i];
        PmTag tag;
        int ret = blk_pread(k->blk, p->offset, PM_PAGE_SIZE, d->page, 0);

        if (ret < 0) {
            error_setg_errno(errp, -ret, "%s can not be read at offset 0x%"
                             PRIx64 "; repair it, or name a copy of it",
                             k->name, p->offset);
            return false;
        }
        pm_tag(key, d->page, &tag);
        good += pm_tag_equal(&tag, &p->tag);
    }
    if (dev->n_probes && good * 2 <= dev->n_probes) {
        error_setg(errp, "%s is another disk, or has changed since the guest "
                   "was saved: %u of %u places are as they were; name the disk "
                   "as it was then", k->name, good, dev->n_probes);
        return false;
    }
    return true;
}

bool flat_disks_device(FlatDisks *d, const PmKey *key, const PmDevice *dev,
                       Error **errp)
{
    g_autofree char *name = pm_device_name(dev->id);
    FlatDisk *k = by_id(d, dev->id) ?: by_id(d, name);
    int64_t length;

    if (!k) {
        error_setg(errp, "pages are on disk '%s' of 0x%" PRIx64 " bytes; name "
                   "it with --disk %s=...", name, dev->length, name);
        return false;
    }
    if (k->used) {
        error_setg(errp, "%s comes twice: the file is damaged", k->name);
        return false;
    }
    length = blk_getlength(k->blk);
    if (length < 0) {
        error_setg_errno(errp, -length, "%s has no length", k->name);
        return false;
    }
    if (length != dev->length) {
        error_setg(errp, "%s has 0x%" PRIx64 " bytes, not 0x%" PRIx64 " as "
                   "when the guest was saved; name the disk as it was then, and its "
                   "format (driver=...)", k->name, length, dev->length);
        return false;
    }
    k->used = true;
    k->number = dev->number;
    return check_probes(d, k, key, dev, errp);
}

int flat_disks_read(FlatDisks *d, uint16_t number, uint64_t offset,
                    uint32_t bytes, void *buf)
{
    int ret = blk_pread(by_number(d, number)->blk, offset, bytes, buf, 0);

    return MIN(ret, 0);
}

const char *flat_disks_name(const FlatDisks *d, uint16_t number)
{
    return by_number(d, number)->name;
}

const char *flat_disks_unused(const FlatDisks *d, unsigned *iter)
{
    while (*iter < d->disk->len) {
        const FlatDisk *k = &g_array_index(d->disk, FlatDisk, (*iter)++);

        if (!k->used) {
            return k->id;
        }
    }
    return NULL;
}
