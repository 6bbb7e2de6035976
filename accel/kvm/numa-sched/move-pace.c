/*
 * NUMA scheduler: how fast memory moves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "move-pace.h"

#define SECOND      1000000000ull   /* ns */
#define MAX_NS      (1ull << 36)    /* longer calls count as that: a minute */
#define KNOWING     (256 * NS_PAGE) /* a smaller batch is mostly fixed cost */
#define FEW_UNITS   256             /* not worth a call of their own */

static void bucket_init(NsBucket *b, uint64_t size)
{
    *b = (NsBucket) { .size = size, .tokens = size };
}

/* ns until there are @want tokens; rate at least 1, size at most 2^30 */
static uint64_t bucket_wait(const NsBucket *b, uint64_t rate, uint64_t want)
{
    uint64_t missing;

    if (b->tokens >= want) {
        return 0;
    }
    missing = (want - b->tokens) * SECOND - b->rest;
    return missing / rate + !!(missing % rate);
}

static void bucket_fill(NsBucket *b, uint64_t rate, uint64_t ns)
{
    if (ns >= bucket_wait(b, rate, b->size)) {
        b->tokens = b->size;
        b->rest = 0;
    } else {
        /* Less than what fills it: no more than 2^60 */
        b->rest += ns * rate;
        b->tokens += b->rest / SECOND;
        b->rest %= SECOND;
    }
}

static void bucket_put_back(NsBucket *b, uint64_t tokens)
{
    b->tokens = MIN(b->tokens + tokens, b->size);
}

/* Calls are as often as at full bandwidth, so less bandwidth for less a call */
static uint64_t rate_now(const NsPace *p)
{
    return p->bandwidth / (NS_PACE_MAX_BATCH / NS_PACE_MIN_BATCH) *
           (p->batch / NS_PACE_MIN_BATCH);
}

/* To be called before the rate changes */
static void fill(NsPace *p, int64_t now)
{
    uint64_t ns;

    if (now <= p->at) {
        return;
    }
    ns = (uint64_t)now - (uint64_t)p->at;
    bucket_fill(&p->bytes, rate_now(p), ns);
    if (p->invalidations) {
        bucket_fill(&p->units, p->invalidations, ns);
    }
    p->at = now;
}

void ns_pace_init(NsPace *p, int64_t now, uint64_t bandwidth, uint32_t burst,
                  uint32_t invalidations)
{
    *p = (NsPace) {
        .bandwidth = MIN(MAX(bandwidth, NS_MIN_BANDWIDTH), NS_MAX_BANDWIDTH),
        .invalidations = MIN(invalidations, NS_PACE_MAX_INVALIDATIONS),
        .batch = NS_PACE_MAX_BATCH,
        .at = now,
    };
    bucket_init(&p->bytes, MIN(MAX(burst, NS_PACE_MAX_BATCH),
                               NS_PACE_MAX_BURST));
    bucket_init(&p->units, MIN(p->invalidations, NS_PACE_MAX_BATCH / NS_PAGE));
}

NsPaceOffer ns_pace_next(NsPace *p, int64_t now, uint32_t least)
{
    NsPaceOffer o = { .until = INT64_MAX };
    uint32_t want = MIN(MAX(p->batch, least), NS_PACE_MAX_BATCH);
    uint64_t wait;

    fill(p, now);
    p->open_bytes = p->open_units = 0;
    if (p->state != NS_PACE_RUNNING) {
        return o;
    }
    wait = bucket_wait(&p->bytes, rate_now(p), want);
    if (p->invalidations) {
        wait = MAX(wait, bucket_wait(&p->units, p->invalidations,
                                     MIN(FEW_UNITS, p->units.size)));
    }
    if (wait) {
        /* Of the time that counts, should the clock have gone back */
        o.until = p->at > INT64_MAX - (int64_t)wait ? INT64_MAX :
                  p->at + (int64_t)wait;
        return o;
    }
    o.bytes = want;
    o.units = want / NS_PAGE;
    o.until = now;
    if (p->invalidations) {
        o.units = MIN(o.units, p->units.tokens);
        p->units.tokens -= o.units;
    }
    p->bytes.tokens -= o.bytes;
    p->open_bytes = o.bytes;
    p->open_units = o.units;
    return o;
}

/* Was it slow for its size?  Learn what is usual on the way. */
static bool is_slow(NsPace *p, uint32_t asked, uint64_t ns)
{
    uint64_t pages = asked / NS_PAGE, page;
    bool slow;

    ns = MIN(ns, MAX_NS);
    slow = p->floor && ns > NS_PACE_CALL &&
           (ns - NS_PACE_CALL) * 256 > NS_PACE_SLOW * p->floor * pages;
    if (asked >= KNOWING) {
        page = MAX(ns * 256 / pages, 1);
        if (!p->floor) {
            p->floor = page;
        } else if (page < p->floor) {
            p->floor -= (p->floor - page + 3) / 4;
        }
    }
    if (slow) {
        /* If it stays so, it becomes what is usual, slowly. */
        page = (ns - NS_PACE_CALL) * 256 / pages;
        p->floor = MAX(p->floor, MIN(page, p->floor + p->floor / 64 + 1));
    }
    return slow;
}

void ns_pace_report(NsPace *p, int64_t now, const NsPaceReport *r)
{
    uint32_t asked = MIN(r->asked, p->open_bytes);
    uint32_t units = MIN(r->units, p->open_units);
    bool slow;

    fill(p, now);
    bucket_put_back(&p->bytes, p->open_bytes - asked);
    if (p->invalidations) {
        bucket_put_back(&p->units, p->open_units - units);
    }
    p->open_bytes = p->open_units = 0;
    slow = asked >= NS_PAGE && is_slow(p, asked, r->ns);
    if (slow || r->pressure || r->busy > asked / 2) {
        p->batch = MAX(p->batch / 2 / NS_PACE_MIN_BATCH * NS_PACE_MIN_BATCH,
                       NS_PACE_MIN_BATCH);
    } else if (asked) {
        p->batch = MIN(p->batch + NS_PACE_MIN_BATCH, NS_PACE_MAX_BATCH);
    }
}

void ns_pace_pause(NsPace *p, bool paused)
{
    if (p->state != NS_PACE_STOPPED) {
        p->state = paused ? NS_PACE_PAUSED : NS_PACE_RUNNING;
    }
}

void ns_pace_stop(NsPace *p)
{
    p->state = NS_PACE_STOPPED;
}
