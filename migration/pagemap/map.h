/*
 * Page map: the table, and what a transfer means for it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no I/O, no QEMU state.  Addresses are those of ram_addr_t.
 */

#ifndef MIGRATION_PAGEMAP_MAP_H
#define MIGRATION_PAGEMAP_MAP_H

#define PM_MAP_PAGE_BITS    12
#define PM_MAP_PAGE_SIZE    (1u << PM_MAP_PAGE_BITS)
#define PM_MAP_CHUNK_BITS   18      /* pages of a chunk: 1 GiB of RAM */
#define PM_MAP_CHUNKS       16384   /* 16 TiB */
#define PM_MAP_LIMIT \
    ((uint64_t)PM_MAP_CHUNKS << (PM_MAP_CHUNK_BITS + PM_MAP_PAGE_BITS))
#define PM_MAP_MAX_DEVICE   0x3fff
#define PM_MAP_MAX_OFFSET   (((1ull << 48) - 1) * 512)

/* What is known of a page; device 0: nothing */
typedef struct PmEntry {
    uint64_t offset;        /* a multiple of 512, at most PM_MAP_MAX_OFFSET */
    uint16_t device;        /* at most PM_MAP_MAX_DEVICE */
    bool written;
} PmEntry;

/*
 * All functions on a map may be called by any thread at any time; none waits.
 * Two that change the same page leave the entry of one of them.  Addresses are
 * rounded down to a page; beyond PM_MAP_LIMIT there are no entries.
 */
typedef struct PmMap PmMap;

/* @sample: keep pm_sample() of each page beside its entry */
PmMap *pm_map_new(bool sample);
void pm_map_free(PmMap *map);
bool pm_map_samples(const PmMap *map);

/*
 * pm_map_set: false if there is no entry now, as no memory could be mapped for
 * it, or @entry is not within the bounds above
 *
 * @sample: 0 if unknown
 */
bool pm_map_set(PmMap *map, uint64_t addr, const PmEntry *entry,
                uint64_t sample);

/* @sample: may be NULL; 0 if unknown */
bool pm_map_get(const PmMap *map, uint64_t addr, PmEntry *entry,
                uint64_t *sample);

/* Of the pages that [@addr, @addr + @bytes) touches */
void pm_map_clear(PmMap *map, uint64_t addr, uint64_t bytes);
void pm_map_clear_all(PmMap *map);

/* Only if the entry still is the place of @entry; true if it was */
bool pm_map_clear_if(PmMap *map, uint64_t addr, const PmEntry *entry);

/* Calls @fn for each entry of pages that begin in [@addr, @addr + @bytes) */
typedef void PmMapFunc(void *opaque, uint64_t addr, const PmEntry *entry);
void pm_map_foreach(const PmMap *map, uint64_t addr, uint64_t bytes,
                    PmMapFunc *fn, void *opaque);

/* Number of these entries */
uint64_t pm_map_count(const PmMap *map, uint64_t addr, uint64_t bytes);

/* Bytes that the tables take at most */
uint64_t pm_map_memory(const PmMap *map);

/* pm_sample: a cheap digest of 4 x 64 bytes of the page at @page; never 0 */
uint64_t pm_sample(const void *page);

/*
 * What a transfer means
 */

/*
 * PmResolve: is @host guest RAM?  Then its address, and for how many bytes
 * addresses and host pointers ascend together from there, at least 1
 */
typedef bool PmResolve(void *opaque, const void *host, uint64_t *addr,
                       uint64_t *bytes);

/*
 * PmLearn: the page at @addr equals the 4096 bytes at @offset of the device;
 * or, if !@whole, it is not known any more what it equals
 *
 * @host: the page, if @whole
 */
typedef void PmLearn(void *opaque, uint64_t addr, const void *host, bool whole,
                     uint64_t offset);

/*
 * pm_observe: @n buffers were transferred from or to a device, from @offset on
 *
 * @valid: false: the transfer failed, or no entry can be made; no page is whole
 *
 * A page is whole if its bytes are consecutive on the device, in however many
 * buffers, and @offset of it is a multiple of 512.  Calls are in the order of
 * the buffers.
 */
void pm_observe(const struct iovec *iov, unsigned n, uint64_t offset,
                bool valid, PmResolve *resolve, PmLearn *learn, void *opaque);

#endif
