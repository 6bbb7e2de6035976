/*
 * Page map: the source's disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A coroutine per disk flushes it, so that the destination finds what the guest
 * wrote, and reads the probes that tell whether the destination has the same
 * disk.  Guest and migration go on meanwhile.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/guest-random.h"
#include "qemu/memalign.h"
#include "block/aio.h"
#include "compat.h"
#include "migration/page-map.h"
#include "qapi/error.h"
#include "system/block-observer.h"
#include "../ram.h"
#include "source.h"
#include "trace.h"

#define DRAWS           65536   /* pages of guest memory that are looked at */
#define PROBES          16      /* places of each disk */
#define SAMPLE          4096    /* pages after which a disk's refusals count */

typedef struct PmProbing {
    PmSrcDevice *dev;
    PmKey key;
    void (*wake)(void);
} PmProbing;

static void device_unref(PmSrcDevice *dev)
{
    if (qatomic_fetch_dec(&dev->refs) == 1) {
        g_free(dev);
    }
}

/* The main loop's; the migration may have ended long ago. */
static void probed_bh(void *opaque)
{
    PmSrcDevice *dev = opaque;

    blk_unref(dev->blk);
    device_unref(dev);
}

static void coroutine_fn probe_co(void *opaque)
{
    g_autofree PmProbing *p = opaque;
    PmSrcDevice *dev = p->dev;
    void *buf = qemu_try_memalign(4096, PM_PAGE_SIZE);
    unsigned good = 0;

    /* A failure leaves stale data at the destination, which it will refuse. */
    blk_co_flush(dev->blk);
    for (unsigned i = 0; buf && i < dev->d.n_probes; i++) {
        PmProbe *probe = &dev->d.probes[i];

        if (blk_co_pread(dev->blk, probe->offset, PM_PAGE_SIZE, buf, 0) < 0 ||
            buffer_is_zero(buf, PM_PAGE_SIZE)) {
            continue;
        }
        pm_tag(&p->key, buf, &probe->tag);
        dev->d.probes[good++] = *probe;
    }
    qemu_vfree(buf);
    dev->d.n_probes = good;
    qatomic_store_release(&dev->probing, 0);
    p->wake();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), probed_bh, dev);
}

/* Places that the map names, of drawn pages of all memory */
static void draw_probes(PmSrcDevices *s)
{
    g_autoptr(GPtrArray) blocks = g_ptr_array_new();
    g_autofree uint64_t *ends = NULL;
    uint64_t pages = 0;
    RAMBlock *rb;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH_MIGRATABLE(rb) {
        g_ptr_array_add(blocks, rb);
    }
    ends = g_new(uint64_t, blocks->len);
    for (guint i = 0; i < blocks->len; i++) {
        rb = g_ptr_array_index(blocks, i);
        pages += rb->used_length >> PM_PAGE_BITS;
        ends[i] = pages;
    }
    for (int i = 0; pages && i < DRAWS; i++) {
        PageMapPlace place;
        PmSrcDevice *dev;
        uint64_t page;
        guint b = 0;

        qemu_guest_getrandom_nofail(&page, sizeof(page));
        page %= pages;
        while (page >= ends[b]) {
            b++;
        }
        rb = g_ptr_array_index(blocks, b);
        page -= b ? ends[b - 1] : 0;
        if (!page_map_lookup(rb->offset + (page << PM_PAGE_BITS), NULL,
                             &place) ||
            place.device >= PM_SRC_NUMBERS ||
            s->state[place.device] == PM_SRC_UNKNOWN) {
            continue;
        }
        dev = s->dev[s->index[place.device]];
        if (dev->d.n_probes < PROBES &&
            place.offset + PM_PAGE_SIZE <= dev->d.length) {
            dev->d.probes[dev->d.n_probes++].offset = place.offset;
        }
    }
}

BlockBackend *pm_src_next_disk(BlockBackend *blk, PmDevice *d)
{
    while ((blk = blk_all_next(blk))) {
        uint16_t number = blk_observer_id(blk);
        g_autofree char *id = NULL;
        int64_t length;

        if (!number || number >= PM_SRC_NUMBERS || !blk_get_attached_dev(blk) ||
            !blk_is_available(blk)) {
            continue;
        }
        length = blk_getlength(blk);
        id = blk_get_attached_dev_id(blk);
        if (length < PM_PAGE_SIZE || !*id || strlen(id) > PM_MAX_ID) {
            continue;
        }
        *d = (PmDevice) { .number = number, .length = length };
        pstrcpy(d->id, sizeof(d->id), id);
        return blk;
    }
    return NULL;
}

void pm_src_devices_start(PmSrcDevices *s, const PmKey *key,
                          void (*wake)(void))
{
    BlockBackend *blk = NULL;
    PmDevice d;

    memset(s, 0, sizeof(*s));
    while (s->n < PM_MAX_DEVICES && (blk = pm_src_next_disk(blk, &d))) {
        PmSrcDevice *dev = g_new0(PmSrcDevice, 1);

        dev->refs = 2;
        blk_ref(blk);
        dev->blk = blk;
        dev->d = d;
        s->state[d.number] = PM_SRC_WAIT;
        s->index[d.number] = s->n;
        s->dev[s->n++] = dev;
    }
    s->n_wait = s->n;
    draw_probes(s);
    for (unsigned i = 0; i < s->n; i++) {
        PmProbing *p = g_new(PmProbing, 1);

        *p = (PmProbing) { .dev = s->dev[i], .key = *key, .wake = wake };
        s->dev[i]->probing = 1;
        aio_co_enter(blk_get_aio_context(s->dev[i]->blk),
                     qemu_coroutine_create(probe_co, p));
    }
}

void pm_src_devices_stop(PmSrcDevices *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        device_unref(s->dev[i]);
    }
    s->n = s->n_wait = s->n_used = s->n_asked = 0;
}

bool pm_src_devices_send(PmSrcDevices *s, GByteArray *out)
{
    bool any = false;

    for (unsigned i = 0; i < s->n; i++) {
        PmSrcDevice *dev = s->dev[i];

        if (!dev->sent && !qatomic_load_acquire(&dev->probing)) {
            pm_put_device(out, &dev->d);
            dev->sent = any = true;
            s->n_asked++;
        }
    }
    return any;
}

void pm_src_devices_expire(PmSrcDevices *s)
{
    for (unsigned i = 0; s->n_wait && i < s->n; i++) {
        uint8_t *state = &s->state[s->dev[i]->d.number];

        if (*state == PM_SRC_WAIT) {
            trace_page_map_device_late(s->dev[i]->d.id);
            *state = PM_SRC_OFF;
            s->n_wait--;
        }
    }
}

bool pm_src_device_verdict(PmSrcDevices *s, uint16_t number,
                           PmDeviceVerdict verdict)
{
    PmSrcDevice *dev;

    if (number >= PM_SRC_NUMBERS || s->state[number] == PM_SRC_UNKNOWN) {
        return false;
    }
    dev = s->dev[s->index[number]];
    if (!dev->sent || dev->answered) {
        return false;
    }
    trace_page_map_device(dev->d.id, number, dev->d.n_probes, verdict);
    dev->answered = true;
    s->n_asked--;
    s->n_wait -= s->state[number] == PM_SRC_WAIT;
    s->n_used += verdict == PM_DEV_SAME;
    s->state[number] = verdict == PM_DEV_SAME ? PM_SRC_USED : PM_SRC_OFF;
    return true;
}

void pm_src_device_count(PmSrcDevices *s, uint16_t number, bool placed)
{
    PmSrcDevice *dev = s->dev[s->index[number]];

    if (placed) {
        dev->placed++;
    } else {
        dev->refused++;
    }
    if (dev->placed + dev->refused < SAMPLE) {
        return;
    }
    /* A fetch in vain costs the link little, and the disk all of it. */
    if (dev->refused > 9 * (dev->placed + 1)) {
        trace_page_map_device_off(dev->d.id, dev->refused);
        s->state[number] = PM_SRC_OFF;
    }
    dev->placed /= 2;
    dev->refused /= 2;
}
