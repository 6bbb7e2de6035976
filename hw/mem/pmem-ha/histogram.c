/*
 * pmem-ha: quantiles of durations in constant memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "histogram.h"

static unsigned bucket_of(uint64_t value)
{
    unsigned exp, b;

    if (value < 16) {
        return value;
    }
    exp = 63 - clz64(value);                    /* >= 4 */
    b = (exp - 3) * 16 + ((value >> (exp - 4)) & 15);
    return MIN(b, PMEM_HA_HISTOGRAM_BUCKETS - 1);
}

static uint64_t bound_of(unsigned bucket)
{
    unsigned exp;

    if (bucket < 16) {
        return bucket;
    }
    exp = bucket / 16 + 3;
    return ((16ULL + bucket % 16 + 1) << (exp - 4)) - 1;
}

void pmem_ha_histogram_add(PmemHaHistogram *h, uint64_t value)
{
    h->count++;
    h->max = MAX(h->max, value);
    h->bucket[bucket_of(value)]++;
}

uint64_t pmem_ha_histogram_quantile(const PmemHaHistogram *h,
                                    unsigned permille)
{
    uint64_t need = DIV_ROUND_UP(h->count * permille, 1000);
    uint64_t seen = 0;
    unsigned i;

    for (i = 0; i < PMEM_HA_HISTOGRAM_BUCKETS && h->count; i++) {
        seen += h->bucket[i];
        if (seen >= need) {
            return MIN(bound_of(i), h->max);
        }
    }
    return h->max;
}
