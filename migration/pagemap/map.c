/*
 * Page map: the table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A chunk is mapped when its first entry is stored, and stays until the map
 * ends: so readers need neither lock nor RCU for it.  What is cleared as a
 * whole is given back to the host.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "map.h"

#define CHUNK_PAGES     (1ull << PM_MAP_CHUNK_BITS)
#define CHUNK_BYTES     (CHUNK_PAGES * sizeof(uint64_t))

#define VALID           (1ull << 63)
#define WRITTEN         (1ull << 62)
#define DEVICE_SHIFT    48

QEMU_BUILD_BUG_ON(PM_MAP_MAX_DEVICE >> (62 - DEVICE_SHIFT));
QEMU_BUILD_BUG_ON((PM_MAP_MAX_OFFSET / 512) >> DEVICE_SHIFT);

typedef struct Table {
    uint64_t *chunks[PM_MAP_CHUNKS];
} Table;

struct PmMap {
    Table *entries;
    Table *samples;             /* NULL: none are kept */
};

static uint64_t pack(const PmEntry *e)
{
    return VALID | (e->written ? WRITTEN : 0) |
           ((uint64_t)e->device << DEVICE_SHIFT) | e->offset / 512;
}

static PmEntry unpack(uint64_t word)
{
    return (PmEntry) {
        .offset = (word & ((1ull << DEVICE_SHIFT) - 1)) * 512,
        .device = (word >> DEVICE_SHIFT) & PM_MAP_MAX_DEVICE,
        .written = word & WRITTEN,
    };
}

static bool entry_fits(const PmEntry *e)
{
    return e->device && e->device <= PM_MAP_MAX_DEVICE &&
           e->offset % 512 == 0 && e->offset <= PM_MAP_MAX_OFFSET;
}

/*
 * Untouched pages cost nothing; a table that is all zero is one without
 * entries.
 */
static void *map_zeroes(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        return NULL;
    }
#ifdef MADV_NOHUGEPAGE
    /* One entry must not make 2 MiB resident. */
    madvise(p, bytes, MADV_NOHUGEPAGE);
#endif
    return p;
}

static void zero_chunk(uint64_t *chunk)
{
    uint64_t i;

#ifdef CONFIG_LINUX
    if (!madvise(chunk, CHUNK_BYTES, MADV_DONTNEED)) {
        return;
    }
#endif
    for (i = 0; i < CHUNK_PAGES; i++) {
        qatomic_set_u64(&chunk[i], 0);
    }
}

static uint64_t *find(const Table *t, uint64_t page)
{
    uint64_t *chunk;

    if (page >> PM_MAP_CHUNK_BITS >= PM_MAP_CHUNKS) {
        return NULL;
    }
    chunk = qatomic_load_acquire(&t->chunks[page >> PM_MAP_CHUNK_BITS]);
    return chunk ? &chunk[page & (CHUNK_PAGES - 1)] : NULL;
}

static uint64_t *find_or_map(Table *t, uint64_t page)
{
    uint64_t *word = find(t, page);
    uint64_t *chunk, **slot;

    if (word || page >> PM_MAP_CHUNK_BITS >= PM_MAP_CHUNKS) {
        return word;
    }
    chunk = map_zeroes(CHUNK_BYTES);
    if (!chunk) {
        return NULL;
    }
    slot = &t->chunks[page >> PM_MAP_CHUNK_BITS];
    if (qatomic_cmpxchg(slot, (uint64_t *)NULL, chunk)) {
        munmap(chunk, CHUNK_BYTES);     /* another thread was first */
    }
    return find(t, page);
}

PmMap *pm_map_new(bool sample)
{
    PmMap *map = g_new0(PmMap, 1);

    map->entries = g_new0(Table, 1);
    map->samples = sample ? g_new0(Table, 1) : NULL;
    return map;
}

static void table_free(Table *t)
{
    unsigned i;

    for (i = 0; t && i < PM_MAP_CHUNKS; i++) {
        if (t->chunks[i]) {
            munmap(t->chunks[i], CHUNK_BYTES);
        }
    }
    g_free(t);
}

void pm_map_free(PmMap *map)
{
    if (map) {
        table_free(map->entries);
        table_free(map->samples);
        g_free(map);
    }
}

bool pm_map_samples(const PmMap *map)
{
    return map->samples;
}

bool pm_map_set(PmMap *map, uint64_t addr, const PmEntry *entry,
                uint64_t sample)
{
    uint64_t page = addr >> PM_MAP_PAGE_BITS;
    uint64_t *word, *s;

    if (!entry_fits(entry)) {
        pm_map_clear(map, addr, 1);
        return false;
    }
    word = find_or_map(map->entries, page);
    if (!word) {
        return false;
    }
    if (map->samples) {
        /*
         * A reader between the two stores takes the new sample for the old
         * entry's; it then drops an entry, which is a hint.
         */
        s = sample ? find_or_map(map->samples, page) :
                     find(map->samples, page);
        if (s) {
            qatomic_set_u64(s, sample);
        }
    }
    qatomic_set_u64(word, pack(entry));
    return true;
}

bool pm_map_get(const PmMap *map, uint64_t addr, PmEntry *entry,
                uint64_t *sample)
{
    uint64_t page = addr >> PM_MAP_PAGE_BITS;
    uint64_t *word = find(map->entries, page);
    uint64_t value = word ? qatomic_read_u64(word) : 0;

    if (!value) {
        return false;
    }
    *entry = unpack(value);
    if (sample) {
        word = map->samples ? find(map->samples, page) : NULL;
        *sample = word ? qatomic_read_u64(word) : 0;
    }
    return true;
}

bool pm_map_clear_if(PmMap *map, uint64_t addr, const PmEntry *entry)
{
    uint64_t *word = find(map->entries, addr >> PM_MAP_PAGE_BITS);
    uint64_t want;

    if (!word || !entry_fits(entry)) {
        return false;
    }
    want = pack(entry);
    /* Which way it went says nothing about what is there now. */
    return qatomic_cmpxchg(word, want, 0) == want ||
           qatomic_cmpxchg(word, want ^ WRITTEN, 0) == (want ^ WRITTEN);
}

/*
 * The chunk of *@page, and how many of the pages [*@page, @end) are in it from
 * there.  Advances to the next chunk that exists; NULL: there is none
 */
static uint64_t *next_chunk(const Table *t, uint64_t *page, uint64_t end,
                            uint64_t *n)
{
    end = MIN(end, PM_MAP_LIMIT >> PM_MAP_PAGE_BITS);
    while (*page < end) {
        uint64_t rest = CHUNK_PAGES - (*page & (CHUNK_PAGES - 1));
        uint64_t *word = find(t, *page);

        if (word) {
            *n = MIN(rest, end - *page);
            return word;
        }
        *page += rest;
    }
    return NULL;
}

static uint64_t end_page(uint64_t addr, uint64_t bytes)
{
    uint64_t end = addr + bytes < addr ? UINT64_MAX : addr + bytes;

    return end / PM_MAP_PAGE_SIZE + !!(end % PM_MAP_PAGE_SIZE);
}

void pm_map_clear(PmMap *map, uint64_t addr, uint64_t bytes)
{
    uint64_t page = addr >> PM_MAP_PAGE_BITS;
    uint64_t end = end_page(addr, bytes);
    uint64_t n, i;
    uint64_t *words;

    if (!bytes) {
        return;
    }
    while ((words = next_chunk(map->entries, &page, end, &n))) {
        if (n == CHUNK_PAGES) {
            zero_chunk(words);
        } else {
            for (i = 0; i < n; i++) {
                /* Reading what was never stored takes no memory. */
                if (qatomic_read_u64(&words[i])) {
                    qatomic_set_u64(&words[i], 0);
                }
            }
        }
        page += n;
    }
}

void pm_map_clear_all(PmMap *map)
{
    Table *tables[] = { map->entries, map->samples };
    unsigned i, k;

    for (k = 0; k < ARRAY_SIZE(tables) && tables[k]; k++) {
        for (i = 0; i < PM_MAP_CHUNKS; i++) {
            uint64_t *chunk = qatomic_load_acquire(&tables[k]->chunks[i]);

            if (chunk) {
                zero_chunk(chunk);
            }
        }
    }
}

void pm_map_foreach(const PmMap *map, uint64_t addr, uint64_t bytes,
                    PmMapFunc *fn, void *opaque)
{
    uint64_t page = end_page(addr, 0);
    uint64_t end = end_page(addr, bytes);
    uint64_t n, i;
    uint64_t *words;

    while ((words = next_chunk(map->entries, &page, end, &n))) {
        for (i = 0; i < n; i++) {
            uint64_t value = qatomic_read_u64(&words[i]);

            if (value) {
                PmEntry entry = unpack(value);

                fn(opaque, (page + i) << PM_MAP_PAGE_BITS, &entry);
            }
        }
        page += n;
    }
}

static void count_one(void *opaque, uint64_t addr, const PmEntry *entry)
{
    ++*(uint64_t *)opaque;
}

uint64_t pm_map_count(const PmMap *map, uint64_t addr, uint64_t bytes)
{
    uint64_t n = 0;

    pm_map_foreach(map, addr, bytes, count_one, &n);
    return n;
}

static uint64_t table_memory(const Table *t)
{
    uint64_t bytes = sizeof(*t);
    unsigned i;

    for (i = 0; i < PM_MAP_CHUNKS; i++) {
        bytes += qatomic_read(&t->chunks[i]) ? CHUNK_BYTES : 0;
    }
    return bytes;
}

uint64_t pm_map_memory(const PmMap *map)
{
    return table_memory(map->entries) +
           (map->samples ? table_memory(map->samples) : 0);
}
