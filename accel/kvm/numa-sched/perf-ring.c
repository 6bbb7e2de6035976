/*
 * NUMA scheduler: samples in a ring buffer of perf_event_open(2)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/host-utils.h"
#include "perf-ring.h"

#define WORD    sizeof(uint64_t)

QEMU_BUILD_BUG_ON(sizeof(struct perf_event_header) != WORD);

/* Records have whole words, so that none goes around the end of the ring. */
static uint64_t word_at(const void *ring, uint64_t size, uint64_t at)
{
    const uint64_t *word = ring;

    return qatomic_read(&word[(at & (size - 1)) / WORD]);
}

static uint64_t next_if(bool there, const void *ring, uint64_t size,
                        uint64_t *at)
{
    uint64_t word = there ? word_at(ring, size, *at) : 0;

    *at += there ? WORD : 0;
    return word;
}

void ns_perf_ring(const void *ring, uint64_t size, uint64_t tail, uint64_t head,
                  uint64_t types,
                  void (*found)(void *opaque, const NsPerfSample *sample),
                  void *opaque, NsPerfCounts *counts)
{
    uint32_t body = ctpop64(types & NS_PERF_SAMPLE_TYPES) * WORD;

    if (head - tail > size || tail % WORD || head % WORD) {
        counts->bad++;
        return;
    }
    while (tail != head) {
        uint64_t first = word_at(ring, size, tail), at = tail + WORD;
        struct perf_event_header h;

        memcpy(&h, &first, sizeof(h));
        if (h.size < WORD || h.size % WORD || h.size > head - tail) {
            counts->bad++;
            return;
        }
        if (h.type == PERF_RECORD_SAMPLE && h.size == WORD + body) {
            NsPerfSample s = { .mode = h.misc & PERF_RECORD_MISC_CPUMODE_MASK };

            /* The kernel's order */
            s.addr = next_if(types & PERF_SAMPLE_ADDR, ring, size, &at);
            s.source = next_if(types & PERF_SAMPLE_DATA_SRC, ring, size, &at);
            s.phys = next_if(types & PERF_SAMPLE_PHYS_ADDR, ring, size, &at);
            counts->samples++;
            found(opaque, &s);
        } else if (h.type == PERF_RECORD_SAMPLE) {
            counts->bad++;
        } else if (h.type == PERF_RECORD_LOST && h.size >= 3 * WORD) {
            /* After an id */
            counts->lost += word_at(ring, size, at + WORD);
        }
        tail += h.size;
    }
}
