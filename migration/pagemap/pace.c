/*
 * Page map: which of the two ways is faster, and how many records to send
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "pace.h"
#include "wire.h"

#define SECOND          1000000000ll
#define MEASURE         (SECOND / 20)   /* shorter times are added up */
#define KEEP            0.75            /* of what was known, in each MEASURE */
#define PATIENCE        (SECOND / 2)
#define FADE            0.95            /* of a peak, in each MEASURE */

/* Of a time of @spent ns: what is left of 1 that shrinks to @by in MEASURE */
static double shrink(double by, int64_t spent)
{
    double left = 1;

    for (; spent >= MEASURE && left > 0.000001; spent -= MEASURE) {
        left *= by;
    }
    return left;
}

void pm_rate_step(PmRate *r, int64_t now, uint64_t bytes, bool busy,
                  bool peak)
{
    int64_t spent;

    if (!r->since) {
        r->since = busy ? now : 0;
        return;
    }
    r->bytes += bytes;
    spent = now - r->since;
    if (spent >= MEASURE) {
        double rate = (double)r->bytes * SECOND / spent;

        if (!r->known) {
            r->value = rate;
        } else if (peak) {
            r->value = MAX(rate, shrink(FADE, spent) * r->value);
        } else {
            double keep = shrink(KEEP, spent);

            r->value = keep * r->value + (1 - keep) * rate;
        }
        r->known = true;
        r->bytes = 0;
        r->since = busy ? now : 0;
    } else if (!busy) {
        /* Too short to say something */
        r->bytes = 0;
        r->since = 0;
    }
}

void pm_pace_sent(PmPace *p, int64_t now, uint64_t bytes, bool busy)
{
    if (!busy) {
        p->sending = 0;
    } else if (!p->sending) {
        p->sending = now;
    }
    pm_rate_step(&p->link, now, bytes, busy, true);
    pm_rate_step(&p->steady, now, bytes,
                 busy && now - p->sending >= MEASURE, false);
}

double pm_pace_link_keeps_up(const PmPace *p)
{
    return p->steady.known ? p->steady.value :
           p->link.known ? p->link.value : 0;
}

void pm_pace_served(PmPace *p, int64_t busy, int64_t arrived, uint64_t bytes)
{
    if (!p->fetch.since) {
        /* The clock of this rate goes while the destination has work. */
        pm_rate_step(&p->fetch, 1, 0, true, false);
    }
    p->busy += busy;
    p->last = MAX(arrived, p->last);
    pm_rate_step(&p->fetch, 1 + p->busy, bytes, true, false);
}

void pm_pace_waiting(PmPace *p, int64_t sent, int64_t now)
{
    int64_t spent = now - MAX(sent, p->last);
    double most;

    if (spent < PATIENCE) {
        return;
    }
    /* Not even one batch in that time */
    most = (double)PM_MAX_BATCH * PM_PAGE_SIZE * SECOND / spent;
    if (!p->fetch.known || p->fetch.value > most) {
        p->fetch.value = most;
        p->fetch.known = true;
    }
}

uint32_t pm_pace_window(const PmPace *p)
{
    double pages = p->fetch.value / 4 / PM_PAGE_SIZE;

    if (!p->fetch.known) {
        return PM_WINDOW_START;
    }
    return pages < PM_WINDOW_MIN ? PM_WINDOW_MIN :
           pages > PM_WINDOW_MAX ? PM_WINDOW_MAX : pages;
}

bool pm_pace_link_is_faster(const PmPace *p)
{
    return p->fetch.known && p->link.known && p->fetch.value < p->link.value;
}
