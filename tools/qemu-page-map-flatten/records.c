/*
 * qemu-page-map-flatten: the messages of the section
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "records.h"

FlatRecords *flat_records_new(const FlatOps *ops, void *opaque, GArray *blocks)
{
    FlatRecords *r = g_new0(FlatRecords, 1);

    r->ops = ops;
    r->opaque = opaque;
    r->blocks = blocks;
    r->block_of = g_new(int32_t, UINT16_MAX + 1);
    memset(r->block_of, -1, (UINT16_MAX + 1) * sizeof(*r->block_of));
    return r;
}

void flat_records_free(FlatRecords *r)
{
    g_free(r->block_of);
    g_free(r);
}

/* They go to terminals. */
bool flat_check_name(const char *what, const char *name, Error **errp)
{
    for (const char *p = name; *p; p++) {
        if (g_ascii_iscntrl(*p)) {
            error_setg(errp, "a %s whose name has control characters: the "
                       "file is damaged", what);
            return false;
        }
    }
    return true;
}

static bool get_hello(FlatRecords *r, const uint8_t *body, size_t len,
                      Error **errp)
{
    PmHello m;

    if (r->hello) {
        error_setg(errp, "page map: it begins twice: the file is damaged");
        return false;
    }
    if (!pm_get_hello(body, len, &m, errp)) {
        return false;
    }
    r->hello = true;
    r->key = m.key;
    return true;
}

static int device_index(const FlatRecords *r, uint16_t number)
{
    for (unsigned i = 0; i < r->n_devices; i++) {
        if (r->device[i].number == number) {
            return i;
        }
    }
    return -1;
}

static bool get_device(FlatRecords *r, const uint8_t *body, size_t len,
                       Error **errp)
{
    g_autofree PmDevice *d = g_new0(PmDevice, 1);

    if (!pm_get_device(body, len, d, errp) ||
        !flat_check_name("disk", d->id, errp)) {
        return false;
    }
    if (r->n_devices == PM_MAX_DEVICES) {
        error_setg(errp, "page map: more than %d disks: the file is damaged",
                   PM_MAX_DEVICES);
        return false;
    }
    if (device_index(r, d->number) >= 0) {
        error_setg(errp, "page map: number %u of disk '%s' is another one's: "
                   "the file is damaged", d->number, d->id);
        return false;
    }
    for (unsigned i = 0; i < d->n_probes; i++) {
        if (d->length < PM_PAGE_SIZE ||
            d->probes[i].offset > d->length - PM_PAGE_SIZE) {
            error_setg(errp, "page map: a probe at offset 0x%" PRIx64 " of "
                       "disk '%s', which has 0x%" PRIx64 " bytes: the file "
                       "is damaged", d->probes[i].offset, d->id, d->length);
            return false;
        }
    }
    r->device[r->n_devices].number = d->number;
    r->device[r->n_devices].length = d->length;
    r->n_devices++;
    return r->ops->device(r->opaque, &r->key, d, errp);
}

static bool get_block(FlatRecords *r, const uint8_t *body, size_t len,
                      Error **errp)
{
    PmBlockName m;

    if (!pm_get_block(body, len, &m, errp) ||
        !flat_check_name("RAM block", m.name, errp)) {
        return false;
    }
    if (r->block_of[m.number] >= 0) {
        error_setg(errp, "page map: RAM block number %u is named twice: the "
                   "file is damaged", m.number);
        return false;
    }
    for (guint i = 0; i < r->blocks->len; i++) {
        if (!strcmp(g_array_index(r->blocks, FlatBlock, i).name, m.name)) {
            r->block_of[m.number] = i;
            return true;
        }
    }
    error_setg(errp, "page map: RAM block '%s' is not in the file: it is "
               "damaged", m.name);
    return false;
}

static bool get_run(FlatRecords *r, const uint8_t *body, size_t len,
                    Error **errp)
{
    g_autofree PmRun *m = g_new(PmRun, 1);
    uint64_t bytes;
    int dev;

    if (!pm_get_run(body, len, m, errp)) {
        return false;
    }
    bytes = (uint64_t)m->n * PM_PAGE_SIZE;
    dev = device_index(r, m->device);
    if (dev < 0 || m->offset > r->device[dev].length ||
        bytes > r->device[dev].length - m->offset) {
        error_setg(errp, "page map: %u pages at offset 0x%" PRIx64 " of disk "
                   "number %u: %s: the file is damaged", m->n, m->offset,
                   m->device, dev < 0 ? "there is none" : "beyond its end");
        return false;
    }
    if (r->batch && r->batch != m->batch) {
        error_setg(errp, "page map: batch %" PRIu32 " ends without a COMMIT: "
                   "the file is damaged", r->batch);
        return false;
    }
    if (r->n + m->n > PM_MAX_BATCH) {
        error_setg(errp, "page map: batch %" PRIu32 " has more than %d pages: "
                   "the file is damaged", m->batch, PM_MAX_BATCH);
        return false;
    }
    r->batch = m->batch;
    for (unsigned i = 0; i < m->n; i++) {
        const PmRunPage *p = &m->pages[i];
        int32_t b = r->block_of[p->block];

        if (b < 0 || p->page >= g_array_index(r->blocks, FlatBlock, b).length /
                                PM_PAGE_SIZE) {
            error_setg(errp, "page map: page %" PRIu32 " of RAM block number "
                       "%u: there is none: the file is damaged", p->page,
                       p->block);
            return false;
        }
        r->page[r->n] = (PmFetch) {
            .offset = m->offset + (uint64_t)i * PM_PAGE_SIZE,
            .page = p->page,
            .block = b,
            .device = m->device,
            .index = r->n,
            .tag = p->tag,
        };
        r->n++;
    }
    return true;
}

static bool get_commit(FlatRecords *r, const uint8_t *body, size_t len,
                       Error **errp)
{
    unsigned n = r->n;
    PmCommit m;

    if (!pm_get_commit(body, len, &m, errp)) {
        return false;
    }
    if (r->batch != m.batch || n != m.n) {
        error_setg(errp, "page map: COMMIT of batch %" PRIu32 " with %u pages "
                   "where batch %" PRIu32 " has %u: the file is damaged",
                   m.batch, m.n, r->batch, n);
        return false;
    }
    r->batch = 0;
    r->n = 0;
    return r->ops->batch(r->opaque, &r->key, r->page, n, errp);
}

static bool is_place_of(const FlatRecords *r, FlatPart part, PmMsgType type)
{
    switch (type) {
    case PM_MSG_HELLO:
        return part == FLAT_START;
    case PM_MSG_SNAPSHOT:
        return part == FLAT_START && r->hello && !r->snapshot;
    case PM_MSG_DEVICE:
    case PM_MSG_BLOCK:
    case PM_MSG_RUN:
    case PM_MSG_COMMIT:
        return part == FLAT_PART;
    case PM_MSG_FINISH:
        return part == FLAT_END && !r->finished;
    case PM_MSG_END:
        break;
    }
    return false;
}

bool flat_records_message(FlatRecords *r, FlatPart part, PmMsgType type,
                          const uint8_t *body, size_t len, Error **errp)
{
    if (!is_place_of(r, part, type)) {
        error_setg(errp, "page map: message %d is not allowed here: the file "
                   "is damaged", type);
        return false;
    }
    switch (type) {
    case PM_MSG_HELLO:
        return get_hello(r, body, len, errp);
    case PM_MSG_SNAPSHOT:
        r->snapshot = true;
        return true;
    case PM_MSG_DEVICE:
        return get_device(r, body, len, errp);
    case PM_MSG_BLOCK:
        return get_block(r, body, len, errp);
    case PM_MSG_RUN:
        return get_run(r, body, len, errp);
    case PM_MSG_COMMIT:
        return get_commit(r, body, len, errp);
    case PM_MSG_FINISH:
        r->finished = true;
        return true;
    default:
        return false;           /* not reached: it has no place */
    }
}

bool flat_records_end(FlatRecords *r, FlatPart part, Error **errp)
{
    if (part == FLAT_START && !r->hello) {
        error_setg(errp, "page map: the beginning is missing: the file is "
                   "damaged");
        return false;
    }
    if (part == FLAT_START && !r->snapshot) {
        error_setg(errp, "page map: this is a live migration, not a "
                   "snapshot; write the file with 'migrate file:'");
        return false;
    }
    if (r->batch) {
        error_setg(errp, "page map: batch %" PRIu32 " ends without a COMMIT: "
                   "the file is damaged", r->batch);
        return false;
    }
    if (part == FLAT_END && !r->finished) {
        error_setg(errp, "page map: the end is missing: the file is damaged");
        return false;
    }
    return true;
}
