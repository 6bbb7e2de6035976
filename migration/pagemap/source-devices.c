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
#define TRIAL           128     /* pages that are compared with the disk */
#define TRIAL_MIN       64      /* fewer say nothing */
#define TRIAL_DEPTH     8       /* of them are read at a time */
#define RANDOM          1024    /* numbers that are drawn at a time */

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

/* Of a disk: what memory had when the migration began, and where */
typedef struct PmTrial {
    PmSrcDevice *dev;
    void (*wake)(void);
    unsigned n, next;           /* of them: the next one to read */
    unsigned reading;           /* coroutines */
    unsigned same, differ;
    uint64_t offset[TRIAL];
    uint8_t page[TRIAL][PM_PAGE_SIZE];
} PmTrial;

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

/*
 * Memory may be other than its places say: a guest reads files and drops them,
 * and a program uses the memory.  Each page would be fetched in vain.
 */
static void coroutine_fn trial_co(void *opaque)
{
    PmTrial *t = opaque;
    PmSrcDevice *dev = t->dev;
    void *buf = qemu_try_memalign(4096, PM_PAGE_SIZE);

    while (buf && t->next < t->n && !qatomic_read(&dev->stopped)) {
        unsigned i = t->next++;

        if (blk_co_pread(dev->blk, t->offset[i], PM_PAGE_SIZE, buf, 0) < 0) {
            continue;
        }
        if (memcmp(buf, t->page[i], PM_PAGE_SIZE)) {
            t->differ++;
        } else {
            t->same++;
        }
    }
    qemu_vfree(buf);
    if (--t->reading == 0) {
        trace_page_map_trial(dev->d.id, t->same, t->differ);
        if (t->same + t->differ >= TRIAL_MIN && 9 * t->same < t->differ) {
            qatomic_set(&dev->useless, true);
        }
        qatomic_store_release(&dev->trying, false);
        t->wake();
        g_free(t);
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), probed_bh, dev);
}

/* A place for the trial; true: there are enough */
static bool add_trial(PmTrial **trial, PmSrcDevice *dev, const uint8_t *host,
                      uint64_t offset)
{
    PmTrial *t = *trial;

    if (!t) {
        t = *trial = g_new(PmTrial, 1);
        memset(t, 0, offsetof(PmTrial, offset));
        t->dev = dev;
    }
    if (t->n < TRIAL && !buffer_is_zero(host, PM_PAGE_SIZE)) {
        memcpy(t->page[t->n], host, PM_PAGE_SIZE);
        t->offset[t->n++] = offset;
    }
    return t->n == TRIAL;
}

/* Places that the map names, of drawn pages of all memory */
static void draw(PmSrcDevices *s, PmTrial **trial)
{
    g_autofree uint64_t *random = g_new(uint64_t, RANDOM);
    unsigned missing = s->n;
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
    for (int i = 0; pages && missing && i < DRAWS; i++) {
        PageMapPlace place;
        PmSrcDevice *dev;
        uint64_t page;
        unsigned index;
        guint b = 0;

        if (i % RANDOM == 0) {
            qemu_guest_getrandom_nofail(random, RANDOM * sizeof(*random));
        }
        page = random[i % RANDOM] % pages;
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
        index = s->index[place.device];
        dev = s->dev[index];
        if (dev->drawn || place.offset + PM_PAGE_SIZE > dev->d.length) {
            continue;
        }
        if (dev->d.n_probes < PROBES) {
            dev->d.probes[dev->d.n_probes++].offset = place.offset;
        }
        dev->drawn = add_trial(&trial[index], dev,
                               rb->host + (page << PM_PAGE_BITS), place.offset);
        missing -= dev->drawn;
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

static void enter(PmSrcDevice *dev, AioContext *ctx, CoroutineEntry *co,
                  void *opaque)
{
    qatomic_inc(&dev->refs);
    blk_ref(dev->blk);
    aio_co_enter(ctx, qemu_coroutine_create(co, opaque));
}

/* All of a disk's run in one context, and share @trial without a lock. */
static void start(PmSrcDevice *dev, const PmKey *key, PmTrial *trial,
                  void (*wake)(void))
{
    AioContext *ctx = blk_get_aio_context(dev->blk);
    PmProbing *p = g_new(PmProbing, 1);

    *p = (PmProbing) { .dev = dev, .key = *key, .wake = wake };
    dev->probing = 1;
    dev->trying = trial;
    if (trial) {
        trial->wake = wake;
        trial->reading = TRIAL_DEPTH;
    }
    for (int i = 0; trial && i < TRIAL_DEPTH; i++) {
        enter(dev, ctx, trial_co, trial);
    }
    enter(dev, ctx, probe_co, p);
}

void pm_src_devices_start(PmSrcDevices *s, const PmKey *key,
                          void (*wake)(void))
{
    PmTrial *trial[PM_MAX_DEVICES] = { };
    BlockBackend *blk = NULL;
    PmDevice d;

    memset(s, 0, sizeof(*s));
    while (s->n < PM_MAX_DEVICES && (blk = pm_src_next_disk(blk, &d))) {
        PmSrcDevice *dev = g_new0(PmSrcDevice, 1);

        dev->refs = 1;
        dev->blk = blk;
        dev->d = d;
        s->state[d.number] = PM_SRC_WAIT;
        s->index[d.number] = s->n;
        s->dev[s->n++] = dev;
    }
    s->n_wait = s->n;
    draw(s, trial);
    for (unsigned i = 0; i < s->n; i++) {
        start(s->dev[i], key, trial[i], wake);
    }
}

void pm_src_devices_stop(PmSrcDevices *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        qatomic_set(&s->dev[i]->stopped, true);
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
    s->late = true;
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

bool pm_src_device_serves(PmSrcDevices *s, uint16_t number)
{
    return number < PM_SRC_NUMBERS &&
           (s->state[number] == PM_SRC_USED ||
            s->state[number] == PM_SRC_WAIT) &&
           !qatomic_read(&s->dev[s->index[number]]->useless);
}

bool pm_src_device_is_ready(PmSrcDevices *s, uint16_t number)
{
    return s->state[number] == PM_SRC_USED &&
           (s->late ||
            !qatomic_load_acquire(&s->dev[s->index[number]]->trying));
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
