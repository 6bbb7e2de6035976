/*
 * NUMA scheduler: which of our pages physical addresses are
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "perf-frames.h"
#include "plan.h"

#define PRESENT     (1ull << 63)
#define FRAME       ((1ull << 55) - 1)
#define BITS        (1u << 20)

struct NsFrames {
    uint32_t n, most;
    uint64_t *frame;
    uint8_t *maybe;             /* BITS: most pages are none of these */
};

NsFrames *ns_frames_new(uint32_t most)
{
    NsFrames *f = g_new0(NsFrames, 1);

    f->most = most;
    f->frame = g_new(uint64_t, most);
    f->maybe = g_new0(uint8_t, BITS / 8);
    return f;
}

void ns_frames_free(NsFrames *f)
{
    if (f) {
        g_free(f->frame);
        g_free(f->maybe);
        g_free(f);
    }
}

void ns_frames_add(NsFrames *f, uint64_t phys)
{
    uint64_t frame = phys / NS_PAGE;

    if (frame && f->n < f->most) {
        f->frame[f->n++] = frame;
        f->maybe[frame % BITS / 8] |= 1 << frame % 8;
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

void ns_frames_sort(NsFrames *f)
{
    qsort(f->frame, f->n, sizeof(*f->frame), compare);
}

/* The first one that is not below */
static uint32_t lowest(const NsFrames *f, uint64_t frame)
{
    uint32_t from = 0, to = f->n;

    while (from < to) {
        uint32_t mid = from + (to - from) / 2;

        if (f->frame[mid] < frame) {
            from = mid + 1;
        } else {
            to = mid;
        }
    }
    return from;
}

uint32_t ns_frames_count(const NsFrames *f, uint64_t entry)
{
    uint64_t frame = entry & FRAME;

    if (!(entry & PRESENT) || !frame ||
        !(f->maybe[frame % BITS / 8] & (1 << frame % 8))) {
        return 0;
    }
    return lowest(f, frame + 1) - lowest(f, frame);
}

void ns_frames_clear(NsFrames *f)
{
    f->n = 0;
    memset(f->maybe, 0, BITS / 8);
}
