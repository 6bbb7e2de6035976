/*
 * Page map: what a transfer means for it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "map.h"

/* A page of which a first part was transferred; bytes 0: none */
typedef struct Started {
    uint64_t addr;
    const void *host;
    uint64_t offset;            /* of the page's first byte, in the device */
    unsigned bytes;
} Started;

typedef struct Observe {
    Started started;
    bool valid;
    PmLearn *learn;
    void *opaque;
} Observe;

static void give_up(Observe *o)
{
    if (o->started.bytes) {
        o->learn(o->opaque, o->started.addr, NULL, false, 0);
        o->started.bytes = 0;
    }
}

/* A part of one page: [@at, @at + @len) of that at @addr */
static void one_page(Observe *o, uint64_t addr, const void *host, unsigned at,
                     unsigned len, uint64_t offset)
{
    Started *s = &o->started;

    if (s->bytes && s->addr == addr && s->bytes == at &&
        s->offset + at == offset) {
        s->bytes += len;
    } else {
        give_up(o);
        if (at || offset % 512 || !o->valid) {
            o->learn(o->opaque, addr, NULL, false, 0);
            return;
        }
        *s = (Started) {
            .addr = addr, .host = host, .offset = offset, .bytes = len,
        };
    }
    if (s->bytes == PM_MAP_PAGE_SIZE) {
        o->learn(o->opaque, addr, s->host, true, s->offset);
        s->bytes = 0;
    }
}

void pm_observe(const struct iovec *iov, unsigned n, uint64_t offset,
                bool valid, PmResolve *resolve, PmLearn *learn, void *opaque)
{
    Observe o = { .valid = valid, .learn = learn, .opaque = opaque };
    unsigned i;

    for (i = 0; i < n; i++) {
        const uint8_t *host = iov[i].iov_base;
        uint64_t rest = iov[i].iov_len;

        while (rest) {
            uint64_t addr, bytes;

            /* What is not RAM is a buffer of QEMU's, as a whole. */
            if (!resolve(opaque, host, &addr, &bytes) || !bytes) {
                offset += rest;
                break;
            }
            bytes = MIN(bytes, rest);
            rest -= bytes;
            while (bytes) {
                unsigned at = addr & (PM_MAP_PAGE_SIZE - 1);
                unsigned len = MIN(bytes, PM_MAP_PAGE_SIZE - at);

                one_page(&o, addr - at, host - at, at, len, offset);
                addr += len;
                host += len;
                offset += len;
                bytes -= len;
            }
        }
    }
    give_up(&o);
}

static uint64_t mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

/*
 * A line of the cache at each of four places, none of them a multiple of 512:
 * the heads of blocks and structures are what different pages share.
 */
uint64_t pm_sample(const void *page)
{
    static const uint16_t at[] = { 192, 224, 1344, 1376,
                                   2496, 2528, 3648, 3680 };
    uint64_t a = 1, b = 2, c = 3, d = 4;    /* independent: they overlap */
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(at); i++) {
        const uint8_t *p = (const uint8_t *)page + at[i];

        a = mix(a ^ ldq_he_p(p));
        b = mix(b ^ ldq_he_p(p + 8));
        c = mix(c ^ ldq_he_p(p + 16));
        d = mix(d ^ ldq_he_p(p + 24));
    }
    return mix(mix(mix(a ^ rol64(b, 17)) ^ c) ^ d) ?: 1;
}
