/*
 * Page map: the destination of a migration places pages and answers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "destination.h"
#include "pagemap.h"

static bool place(PmFetcher *f, PmFetch *p, const uint8_t *content)
{
    return content && pm_fetcher_place(f, p, content);
}

/*
 * Not in a coroutine: what sends holds a mutex while it waits for the channel.
 * An error shows in the channel, to those who read the stream.
 */
static void send_rp(PmFetcher *f, const PmRp *rp)
{
    uint8_t buf[PM_RP_MAX];

    if (!pm_fetcher_stops(f)) {
        migrate_send_rp_page_map(buf, pm_put_rp(buf, rp));
    }
}

static void answer_batch(PmFetcher *f, PmBatch *batch, const PmRp *rp)
{
    send_rp(f, rp);
    g_free(batch);
}

static void answer_device(PmFetcher *f, const PmDevice *d,
                          PmDeviceVerdict verdict)
{
    PmRp rp = { .type = PM_RP_DEVICES, .n = 1 };

    rp.devices[0].number = d->number;
    rp.devices[0].verdict = verdict;
    send_rp(f, &rp);
}

const PmFetchOps pm_answer_ops = {
    .page = place,
    .batch = answer_batch,
    .device = answer_device,
};
