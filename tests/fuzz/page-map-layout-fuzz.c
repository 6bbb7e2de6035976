/*
 * Fuzzer: the layout of files that qemu-page-map-flatten reads
 *
 * Input: a file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "tools/qemu-page-map-flatten/layout.h"

#include "fuzz.h"

typedef struct Input {
    const uint8_t *data;
    uint64_t size;
    uint64_t end;               /* of what was kept, or is a block */
    uint64_t pages[FLAT_MAX_BLOCKS];
    unsigned blocks, devices;
} Input;

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static bool on_read(void *opaque, uint64_t offset, void *buf, size_t n,
                    Error **errp)
{
    Input *in = opaque;

    must(offset <= in->size && n <= in->size - offset);
    memcpy(buf, in->data + offset, n);
    return true;
}

static bool on_keep(void *opaque, uint64_t from, uint64_t to, Error **errp)
{
    Input *in = opaque;

    must(from >= in->end && to > from && to <= in->size);
    in->end = to;
    return true;
}

static bool on_block(void *opaque, const FlatBlock *b, Error **errp)
{
    Input *in = opaque;

    must(in->blocks < FLAT_MAX_BLOCKS && strlen(b->name) < 256);
    must(b->length && b->length % PM_PAGE_SIZE == 0);
    must(b->bitmap_offset >= in->end && b->pages_offset >= b->bitmap_offset);
    must(flat_bitmap_size(b->length) <= b->pages_offset - b->bitmap_offset);
    must(b->pages_offset <= in->size &&
         b->length <= in->size - b->pages_offset);
    in->end = b->pages_offset + b->length;
    in->pages[in->blocks++] = b->length / PM_PAGE_SIZE;
    return true;
}

static bool on_device(void *opaque, const PmKey *key, const PmDevice *d,
                      Error **errp)
{
    Input *in = opaque;

    must(++in->devices <= PM_MAX_DEVICES);
    must(*d->id && d->n_probes <= PM_MAX_PROBES);
    for (unsigned i = 0; i < d->n_probes; i++) {
        must(d->probes[i].offset <= d->length - PM_PAGE_SIZE);
    }
    return true;
}

static bool on_batch(void *opaque, const PmKey *key, PmFetch *page, unsigned n,
                     Error **errp)
{
    Input *in = opaque;

    must(in->devices && n && n <= PM_MAX_BATCH);
    for (unsigned i = 0; i < n; i++) {
        must(page[i].block < in->blocks);
        must(page[i].page < in->pages[page[i].block]);
        must(page[i].offset <= INT64_MAX - PM_PAGE_SIZE);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const FlatOps ops = {
        .read = on_read,
        .keep = on_keep,
        .block = on_block,
        .device = on_device,
        .batch = on_batch,
    };
    static Input in;
    Error *err = NULL;

    memset(&in, 0, sizeof(in));
    in.data = data;
    in.size = size;
    if (flat_parse(&ops, &in, size, &err)) {
        must(!err && in.end == size);
    } else {
        must(err && *error_get_pretty(err));
        error_free(err);
    }
    return 0;
}
