/*
 * pmem-ha: quantiles of durations in constant memory
 *
 * Pure code.  Buckets are 1/16 of a power of two wide, so a quantile is at
 * most 1/16 above the true value.  No locks: the caller serialises.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_HISTOGRAM_H
#define HW_MEM_PMEM_HA_HISTOGRAM_H

/* 16 buckets for 0..15, then 16 for each power of two up to 2^40. */
#define PMEM_HA_HISTOGRAM_BUCKETS (16 * 37 + 1)

typedef struct PmemHaHistogram {
    uint64_t count;
    uint64_t max;
    uint64_t bucket[PMEM_HA_HISTOGRAM_BUCKETS];
} PmemHaHistogram;

void pmem_ha_histogram_add(PmemHaHistogram *h, uint64_t value);

/*
 * The smallest bucket bound that @permille of the values do not exceed,
 * never above the largest value; 0 without values.
 */
uint64_t pmem_ha_histogram_quantile(const PmemHaHistogram *h,
                                    unsigned permille);

#endif
