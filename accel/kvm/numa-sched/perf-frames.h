/*
 * NUMA scheduler: which of our pages physical addresses are
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The other way round than the kernel tells it: addresses are collected first,
 * and then all pages that they may be are gone through, so that what is kept
 * is as large as what was seen, and never out of date.
 */

#ifndef NUMA_SCHED_PERF_FRAMES_H
#define NUMA_SCHED_PERF_FRAMES_H

typedef struct NsFrames NsFrames;

/* @most: addresses that are kept; others are dropped */
NsFrames *ns_frames_new(uint32_t most);
void ns_frames_free(NsFrames *f);

/* 0 is no address. */
void ns_frames_add(NsFrames *f, uint64_t phys);

/* After all were added, and before the first one is looked up */
void ns_frames_sort(NsFrames *f);

/*
 * How many of the addresses are in the page of that entry of
 * /proc/self/pagemap, which may be anything
 */
uint32_t ns_frames_count(const NsFrames *f, uint64_t entry);

/* Forget all addresses. */
void ns_frames_clear(NsFrames *f);

#endif
