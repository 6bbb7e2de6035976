/*
 * qemu-page-map-flatten: pages from the disks to the file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "flatten.h"
#include "output.h"

/* Records that a check tells about one by one */
#define MAX_REPORTS     10

typedef struct Flatten {
    const char *in_path;
    int in;
    bool check;
    FlatDisks *disks;
    FlatOutput *out;
    FlatStatus status;          /* what it was, if a callback has failed */
    unsigned n_disks;
    uint64_t pages, bad;        /* records */
    uint8_t *buf;               /* PM_READ_MAX bytes */
    PmRead read[PM_MAX_BATCH];
} Flatten;

/* For errors; the parser's own are about the format. */
static bool failed(Flatten *f, FlatStatus status, bool ok)
{
    if (!ok && f->status == FLAT_DONE) {
        f->status = status;
    }
    return ok;
}

static bool on_read(void *opaque, uint64_t offset, void *buf, size_t n,
                    Error **errp)
{
    Flatten *f = opaque;
    uint8_t *p = buf;

    while (n) {
        ssize_t got = RETRY_ON_EINTR(pread(f->in, p, n, offset));

        if (got <= 0) {
            /* 0: it has become shorter */
            error_setg_errno(errp, got ? errno : EIO, "reading %zu bytes "
                             "failed", n);
            return failed(f, FLAT_IO, false);
        }
        p += got;
        offset += got;
        n -= got;
    }
    return true;
}

static bool on_keep(void *opaque, uint64_t from, uint64_t to, Error **errp)
{
    Flatten *f = opaque;

    return failed(f, FLAT_IO, flat_output_keep(f->out, from, to, errp));
}

static bool on_block(void *opaque, const FlatBlock *b, Error **errp)
{
    Flatten *f = opaque;

    return failed(f, FLAT_IO, flat_output_block(f->out, b, errp));
}

static bool on_device(void *opaque, const PmKey *key, const PmDevice *d,
                      Error **errp)
{
    Flatten *f = opaque;

    f->n_disks++;
    return failed(f, FLAT_DISK, flat_disks_device(f->disks, key, d, errp));
}

/* @content: NULL if it is not known */
static bool put_page(Flatten *f, const PmFetch *p, const uint8_t *content,
                     Error **errp)
{
    bool has;

    if (!flat_output_has(f->out, p->block, p->page, &has, errp)) {
        return failed(f, FLAT_IO, false);
    }
    if (has) {
        error_setg(errp, "page %" PRIu32 " of RAM block '%s' is on a disk, and "
                   "has come before: the file is damaged", p->page,
                   flat_output_block_name(f->out, p->block));
        return failed(f, FLAT_FORMAT, false);
    }
    return failed(f, FLAT_IO, flat_output_page(f->out, p->block, p->page,
                                               content, errp));
}

/*
 * @err: why it can not be read; 0: it is another page
 *
 * A check goes on.
 */
static bool bad_page(Flatten *f, const PmFetch *p, int err, Error **errp)
{
    Error *local_err = NULL;

    if (err) {
        error_setg_errno(&local_err, err, "%s can not be read at offset 0x%"
                         PRIx64 ", where page %" PRIu32 " of RAM block '%s' "
                         "is; repair it, or name a copy of it",
                         flat_disks_name(f->disks, p->device), p->offset,
                         p->page, flat_output_block_name(f->out, p->block));
    } else {
        error_setg(&local_err, "%s has changed at offset 0x%" PRIx64 ", where "
                   "page %" PRIu32 " of RAM block '%s' was when the guest was "
                   "saved; name the disk as it was then",
                   flat_disks_name(f->disks, p->device), p->offset, p->page,
                   flat_output_block_name(f->out, p->block));
    }
    if (!f->check) {
        error_propagate(errp, local_err);
        return failed(f, FLAT_DISK, false);
    }
    if (f->bad++ < MAX_REPORTS) {
        error_reportf_err(local_err, "%s: ", f->in_path);
    } else {
        error_free(local_err);
    }
    return put_page(f, p, NULL, errp);
}

static bool place(Flatten *f, const PmKey *key, const PmFetch *p,
                  const uint8_t *content, Error **errp)
{
    PmTag tag;

    pm_tag(key, content, &tag);
    if (!pm_tag_equal(&tag, &p->tag)) {
        return bad_page(f, p, 0, errp);
    }
    return put_page(f, p, content, errp);
}

/* One by one, when they can not be read together */
static bool place_each(Flatten *f, const PmKey *key, const PmFetch *page,
                       unsigned n, Error **errp)
{
    for (unsigned i = 0; i < n; i++) {
        int ret = flat_disks_read(f->disks, page[i].device, page[i].offset,
                                  PM_PAGE_SIZE, f->buf);

        if (ret < 0 ? !bad_page(f, &page[i], -ret, errp)
                    : !place(f, key, &page[i], f->buf, errp)) {
            return false;
        }
    }
    return true;
}

static bool on_batch(void *opaque, const PmKey *key, PmFetch *page, unsigned n,
                     Error **errp)
{
    Flatten *f = opaque;
    size_t n_reads = pm_plan(page, n, f->read);

    f->pages += n;
    for (size_t i = 0; i < n_reads; i++) {
        const PmRead *r = &f->read[i];
        const PmFetch *first = &page[r->first];

        if (flat_disks_read(f->disks, first->device, r->offset, r->bytes,
                            f->buf) < 0) {
            if (!place_each(f, key, first, r->n, errp)) {
                return false;
            }
            continue;
        }
        for (uint32_t j = 0; j < r->n; j++) {
            const PmFetch *p = &first[j];

            if (!place(f, key, p, f->buf + (p->offset - r->offset), errp)) {
                return false;
            }
        }
    }
    return true;
}

static void summary(const Flatten *f, const char *out)
{
    if (f->check) {
        printf("%s: %" PRIu64 " pages of %u disks are as they were, %" PRIu64
               " are in the file\n", f->in_path, f->pages - f->bad, f->n_disks,
               flat_output_copied(f->out));
    } else {
        printf("%s: %" PRIu64 " pages from %u disks, %" PRIu64 " from %s\n",
               out, f->pages, f->n_disks, flat_output_copied(f->out),
               f->in_path);
    }
}

static void warn_unused(const Flatten *f)
{
    unsigned iter = 0;
    const char *id;

    while ((id = flat_disks_unused(f->disks, &iter))) {
        warn_report("%s has no page of disk '%s'", f->in_path, id);
    }
}

static FlatStatus run(Flatten *f, const char *out, bool force, bool quiet,
                      Error **errp)
{
    static const FlatOps ops = {
        .read = on_read,
        .keep = on_keep,
        .block = on_block,
        .device = on_device,
        .batch = on_batch,
    };
    off_t size = lseek(f->in, 0, SEEK_END);
    g_autoptr(FlatOutput) o = NULL;

    if (size < 0) {
        error_setg_errno(errp, errno, "its size is not known; name a file");
        return FLAT_IO;
    }
    o = f->out = flat_output_new(f->in, out, force, errp);
    if (!o) {
        return FLAT_IO;
    }
    if (!flat_parse(&ops, f, size, errp)) {
        return f->status ?: FLAT_FORMAT;
    }
    if (f->bad) {
        error_setg(errp, "%" PRIu64 " of %" PRIu64 " pages on disks are not "
                   "there", f->bad, f->pages);
        return FLAT_DISK;
    }
    if (out && !flat_output_commit(o, errp)) {
        return FLAT_IO;
    }
    if (!quiet) {
        warn_unused(f);
        summary(f, out);
    }
    return FLAT_DONE;
}

FlatStatus flat_flatten(const char *in, const char *out, FlatDisks *disks,
                        bool force, bool quiet)
{
    g_autofree Flatten *f = g_new0(Flatten, 1);
    Error *err = NULL;
    FlatStatus status = FLAT_IO;

    f->in_path = in;
    f->check = !out;
    f->disks = disks;
    f->in = qemu_open(in, O_RDONLY, &err);
    if (f->in >= 0) {
        f->buf = qemu_memalign(4096, PM_READ_MAX);
        status = run(f, out, force, quiet, &err);
        qemu_vfree(f->buf);
        close(f->in);
        if (err) {
            error_prepend(&err, "%s: ", in);
        }
    }
    if (err) {
        error_report_err(err);
    }
    return status;
}
