/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: the workload disk
 *
 * Memory is a cache of the disks.  The guest knows for each page of it what
 * it must hold, and so finds each page that anything else has changed.
 * pmemha/pagemap.py makes the disks' content by the same rules.
 */
#include "guest.h"

#define CACHE       0x1000000u          /* the pages, up to 2 GiB */
#define STATE       0x400000u           /* of each of them, 4 MiB */
#define ON_DISK     0x800000u           /* of each page of the disks, 8 MiB */
#define MAX_FILL    2048u               /* MiB */
#define MAX_SPAN    8192u
#define MAX_CHUNK   64u
#define ANON        0x80000000u         /* no page of a disk has this */
#define UNKNOWN     0xffffffffu         /* as a generation: it may be torn */

#define SERIAL_DATA 0x3f8
#define SERIAL_LSR  0x3fd

/* What a page has as content, together with the salt */
typedef struct {
    uint32_t number;            /* page of the disks, or ANON + page here */
    uint32_t generation;
} State;

static State *const state = (State *)STATE;
static uint32_t *const on_disk = (uint32_t *)ON_DISK;
static uint64_t base[PAGE / 8];
static uint64_t n_pages, n_disk;        /* of memory, of all disks */
static uint64_t step;                   /* between pages that are neighbours */
static uint64_t passes;
static uint64_t rng;
static uint32_t stores;
static bool failed;

static uint64_t draw(uint64_t below)
{
    rng += 0x9e3779b97f4a7c15;
    return mix(rng) % below;
}

static uint64_t *page_at(uint64_t p)
{
    return (uint64_t *)(uintptr_t)(CACHE + p * PAGE);
}

static uint64_t key_of(State s)
{
    return mix(((uint64_t)s.number << 32 | s.generation) ^ mix(cfg.salt + 1));
}

static void make(uint64_t p, State s)
{
    uint64_t *w = page_at(p), key = key_of(s);

    w[0] = (uint64_t)s.number << 32 | s.generation;
    for (unsigned i = 1; i < PAGE / 8; i++) {
        w[i] = base[i] ^ key;
    }
    state[p] = s;
}

static bool verify(uint64_t p)
{
    State s = state[p];
    volatile uint64_t *w = page_at(p);
    uint64_t key = key_of(s);

    if (s.generation == UNKNOWN) {
        return true;
    }
    for (unsigned i = 0; i < PAGE / 8; i++) {
        uint64_t want = i ? base[i] ^ key
                          : (uint64_t)s.number << 32 | s.generation;

        if (w[i] != want) {
            report("BAD page %u word %u number %x generation %u found %x",
                   p, (uint64_t)i, (uint64_t)s.number,
                   (uint64_t)s.generation, w[0]);
            return false;
        }
    }
    return true;
}

static void verify_all(void)
{
    static uint64_t n;
    uint64_t bad = 0, unknown = 0;

    for (uint64_t p = 0; p < n_pages; p++) {
        bad += !verify(p);
        unknown += state[p].generation == UNKNOWN;
    }
    report("CHECK %u pages=%u bad=%u unknown=%u", ++n, n_pages, bad, unknown);
}

/*
 * Where page @d of the disks is cached: neighbours on disk are none in memory,
 * as with the frames that a kernel gives its readahead.
 */
static uint64_t place_of(uint64_t d)
{
    return (d * step + passes * cfg.shift) % n_pages;
}

/* Chunks of the disks' pages go to the disks in turn. */
static unsigned disk_of(uint64_t d)
{
    return d / cfg.chunk % cfg.disks;
}

static uint64_t page_on_disk(uint64_t d)
{
    return d / (cfg.chunk * cfg.disks) * cfg.chunk + d % cfg.chunk;
}

static void places(uint64_t d, uint64_t *at)
{
    for (unsigned i = 0; i < cfg.chunk; i++) {
        at[i] = (uintptr_t)page_at(place_of(d + i));
    }
}

static void failure(const char *what, uint64_t d)
{
    report("ERROR disk %u: %s of page %u", (uint64_t)disk_of(d), what, d);
    failed = true;
}

static void wait_disks(const char *what, uint64_t d)
{
    for (unsigned k = 0; k < cfg.disks; k++) {
        if (!disk_wait(k)) {
            failure(what, d);
        }
    }
}

/* Read @chunks chunks from page @d of the disks on. */
static void read_chunks(uint64_t d, uint64_t chunks)
{
    uint64_t at[MAX_CHUNK];
    uint64_t end = d + chunks * cfg.chunk;

    for (uint64_t c = d; c < end; c += cfg.chunk) {
        places(c, at);
        if (!disk_queue(disk_of(c), false, page_on_disk(c), at, cfg.chunk)) {
            failure("no room for a read", c);
        }
    }
    for (unsigned k = 0; k < cfg.disks; k++) {
        disk_kick(k);
    }
    wait_disks("read", d);
    for (uint64_t i = d; i < end; i++) {
        uint64_t p = place_of(i);

        state[p] = (State) { i, on_disk[i] };
        if (cfg.check) {
            verify(p);
        }
    }
}

static void store_page(uint64_t p)
{
    if (cfg.check) {
        verify(p);
    }
    make(p, (State) { ANON | p, ++stores });
}

/* Write new content to the chunk at page @d of the disks. */
static void write_chunk(uint64_t d, bool torn, bool flush)
{
    uint64_t at[MAX_CHUNK];

    places(d, at);
    for (uint64_t i = d; i < d + cfg.chunk; i++) {
        on_disk[i] = ++stores;
        make(place_of(i), (State) { i, on_disk[i] });
    }
    if (!disk_queue(disk_of(d), true, page_on_disk(d), at, cfg.chunk)) {
        failure("no room for a write", d);
    }
    disk_kick(disk_of(d));
    if (torn) {
        /* A guest need not keep pages still that a device reads. */
        for (uint64_t i = d; i < d + cfg.chunk; i++) {
            store_page(place_of(i));
            on_disk[i] = UNKNOWN;
        }
    }
    wait_disks("write", d);
    if (flush && !disk_flush(disk_of(d))) {
        failure("flush", d);
    }
}

static void replace_pages(uint64_t percent)
{
    uint64_t n = 0;

    for (uint64_t p = 0; p < n_pages; p++) {
        if (mix(p ^ mix(cfg.seed + 7)) % 100 < percent) {
            store_page(p);
            n++;
        }
    }
    report("ANON pages=%u", n);
}

static uint64_t random_chunk(void)
{
    return draw(n_disk / cfg.chunk) * cfg.chunk;
}

/* The next step of a phase; false if there is no such phase */
static bool step_of(const char *phase)
{
    static uint64_t next;
    uint64_t chunks = n_disk / cfg.chunk;

    if (!strcmp(phase, "reread")) {
        if (next >= chunks) {
            next = 0;
            passes++;
        }
        chunks -= next;
        if (chunks > cfg.depth) {
            chunks = cfg.depth;
        }
        read_chunks(next * cfg.chunk, chunks);
        next += chunks;
    } else if (!strcmp(phase, "store")) {
        store_page(draw(n_pages));
    } else if (!strcmp(phase, "write")) {
        write_chunk(random_chunk(), cfg.torn, cfg.flush);
    } else if (!strcmp(phase, "mix")) {
        switch (draw(4)) {
        case 0:
            read_chunks(random_chunk(), 1);
            break;
        case 1:
            write_chunk(random_chunk(), cfg.torn && !draw(8), !draw(4));
            break;
        default:
            for (unsigned i = 0; i < cfg.chunk / 2; i++) {
                store_page(draw(n_pages));
            }
        }
    } else {
        return false;
    }
    return true;
}

/* A character of the serial port, if there is one: README.rst */
static void command(void)
{
    static const char *const phases[] = {
        "idle", "reread", "store", "write", "mix"
    };
    uint8_t status = inb(SERIAL_LSR);
    char c;

    if (status == 0xff || !(status & 1)) {
        return;
    }
    c = inb(SERIAL_DATA);
    switch (c) {
    case 'v':
        verify_all();
        return;
    case 'f':
        for (unsigned k = 0; k < cfg.disks; k++) {
            failed |= !disk_flush(k);
        }
        report("FLUSHED");
        return;
    case 'a':
        replace_pages(cfg.anon);
        return;
    }
    for (unsigned i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        if (phases[i][0] == c) {
            memcpy(cfg.phase, phases[i], 7);
            report("PHASE %s", cfg.phase);
        }
    }
}

static bool prepare(void)
{
    uint64_t unit = cfg.chunk * cfg.disks;

    if (!cfg.fill || cfg.fill > MAX_FILL || !cfg.chunk ||
        cfg.chunk > MAX_CHUNK || !cfg.depth || !cfg.disks ||
        cfg.span > MAX_SPAN || (cfg.span && cfg.span < cfg.fill)) {
        report("ERROR parameters of disk out of range");
        return false;
    }
    if (disk_init() < cfg.disks) {
        report("ERROR fewer than %u disks", cfg.disks);
        return false;
    }
    n_pages = (cfg.fill << 20) / PAGE / unit * unit;
    n_disk = cfg.span ? (cfg.span << 20) / PAGE / unit * unit : n_pages;
    for (unsigned k = 0; k < cfg.disks; k++) {
        if (disk_pages(k) < n_disk / cfg.disks) {
            report("ERROR disk %u is too small", (uint64_t)k);
            return false;
        }
    }
    /* Any step will do that has no divisor with the number of pages. */
    for (step = 7919; ; step += 2) {
        uint64_t a = step, b = n_pages;

        while (b) {
            uint64_t r = a % b;

            a = b;
            b = r;
        }
        if (a == 1) {
            break;
        }
    }
    rng = cfg.seed;
    for (unsigned i = 0; i < PAGE / 8; i++) {
        base[i] = mix(i + 1);
    }
    memset(on_disk, 0, n_disk * sizeof(on_disk[0]));
    return true;
}

/* "D phase n": step n is done, after each every-th of them */
void do_disk(unsigned cpu)
{
    uint64_t n = 0;

    if (cpu || !prepare()) {
        return;
    }
    for (uint64_t d = 0; d < n_pages && !failed; d += cfg.chunk) {
        read_chunks(d, 1);
    }
    report("FILLED pages=%u", n_pages);
    if (cfg.anon) {
        replace_pages(cfg.anon);
    }
    nmi_timer(2000000);
    while (!failed) {
        command();
        if (!step_of(cfg.phase)) {
            asm volatile("hlt" : : : "memory");
            continue;
        }
        if (++n % cfg.every == 0) {
            report("D %s %u", cfg.phase, n);
        }
        if (n == cfg.records) {
            memcpy(cfg.phase, "idle", 5);
        }
        for (uint64_t i = 0; i < cfg.think; i++) {
            pause();
        }
    }
}
