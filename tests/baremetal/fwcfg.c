/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: fw_cfg, for parameters and as a device that does DMA
 */
#include "guest.h"

#define FWCFG_DMA       0x514
#define FWCFG_NB_CPUS   0x05
#define FWCFG_DIR       0x19
#define DIR_MAX         128

#define DMA_ERROR       1u
#define DMA_READ        2u
#define DMA_SKIP        4u
#define DMA_SELECT      8u

typedef struct {
    uint32_t control;
    uint32_t length;
    uint64_t address;
} DmaAccess;

typedef struct {
    uint32_t size;
    uint16_t select;
    uint16_t reserved;
    char name[56];
} DirEntry;

Config cfg;
static volatile uint32_t fwcfg_lock;
static uint32_t dir_count;
static DirEntry dir[DIR_MAX];

/* All integers of the interface are big endian. */
static bool dma(uint32_t control, void *to, uint32_t n)
{
    volatile DmaAccess a __attribute__((aligned(16)));
    uint64_t at = (uintptr_t)&a;

    a.control = __builtin_bswap32(control);
    a.length = __builtin_bswap32(n);
    a.address = __builtin_bswap64((uintptr_t)to);
    fence();
    outl(FWCFG_DMA, __builtin_bswap32(at >> 32));
    outl(FWCFG_DMA + 4, __builtin_bswap32((uint32_t)at));
    while (__builtin_bswap32(a.control) & ~DMA_ERROR) {
        pause();
    }
    return !(a.control);
}

/*
 * Let the device write @n bytes of item @select, from byte @skip on, to @to.
 * Complete on return: the device works while the store to its port runs.
 */
bool fwcfg_read(int select, uint32_t skip, void *to, uint32_t n)
{
    bool ok;

    lock(&fwcfg_lock);
    ok = dma((uint32_t)select << 16 | DMA_SELECT | DMA_SKIP, NULL, skip) &&
         dma(DMA_READ, to, n);
    unlock(&fwcfg_lock);
    return ok;
}

int fwcfg_find(const char *name, uint32_t *size)
{
    for (uint32_t i = 0; i < dir_count; i++) {
        if (!strcmp(dir[i].name, name)) {
            *size = __builtin_bswap32(dir[i].size);
            return __builtin_bswap16(dir[i].select);
        }
    }
    return -1;
}

static uint64_t parse_number(const char **p)
{
    const char *s = *p;
    uint64_t v = 0;
    unsigned base = 10;

    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        unsigned d;

        if (*s >= '0' && *s <= '9') {
            d = *s - '0';
        } else if (*s >= 'a' && *s <= 'f') {
            d = *s - 'a' + 10;
        } else {
            break;
        }
        if (d >= base) {
            break;
        }
        v = v * base + d;
    }
    *p = s;
    return v;
}

static const struct {
    const char *name;
    size_t offset;
    unsigned max;               /* of a list: more than one value */
} params[] = {
#define PARAM(n, f)         { n, offsetof(Config, f), 1 }
#define PARAM_LIST(n, f, m) { n, offsetof(Config, f), m }
    PARAM("cpus", cpus),
    PARAM("records", records),
    PARAM("pages", pages),
    PARAM("words", words),
    PARAM("area", area),
    PARAM("stride", stride),
    PARAM("spread", spread),
    PARAM_LIST("base", base, MAX_DEVS),
    PARAM_LIST("hint", hint, MAX_DEVS),
    PARAM("devs", devs),
    PARAM("offset", offset),
    PARAM("seed", seed),
    PARAM_LIST("first", first, MAX_CPUS),
    PARAM("width", width),
    PARAM("every", every),
    PARAM("pairs", pairs),
    PARAM("think", think),
    PARAM("slot", slot),
    PARAM("length", length),
    PARAM("exit", exit),
    PARAM("code", code),
    PARAM("fill", fill),
    PARAM("span", span),
    PARAM("disks", disks),
    PARAM("chunk", chunk),
    PARAM("depth", depth),
    PARAM("shift", shift),
    PARAM("anon", anon),
    PARAM("flush", flush),
    PARAM("torn", torn),
    PARAM("check", check),
    PARAM("salt", salt),
};

/* "name=value name=v0,v1 workload=word"; true when all of it was understood */
static bool config_parse(const char *s)
{
    while (*s) {
        char name[16];
        unsigned n = 0;
        bool known = false;

        while (*s == ' ' || *s == '\n') {
            s++;
        }
        if (!*s) {
            break;
        }
        while (*s && *s != '=' && n < sizeof(name) - 1) {
            name[n++] = *s++;
        }
        name[n] = 0;
        if (*s++ != '=') {
            return false;
        }
        if (!strcmp(name, "workload") || !strcmp(name, "phase")) {
            char *to = *name == 'w' ? cfg.workload : cfg.phase;

            for (n = 0; *s && *s != ' ' && n < sizeof(cfg.workload) - 1; n++) {
                to[n] = *s++;
            }
            to[n] = 0;
            continue;
        }
        for (unsigned i = 0; i < sizeof(params) / sizeof(params[0]); i++) {
            uint64_t *to = (uint64_t *)((char *)&cfg + params[i].offset);

            if (strcmp(params[i].name, name)) {
                continue;
            }
            known = true;
            to[0] = parse_number(&s);
            for (unsigned j = 1; *s == ',' && j < params[i].max; j++) {
                s++;
                to[j] = parse_number(&s);
            }
        }
        if (!known || (*s && *s != ' ' && *s != '\n')) {
            return false;
        }
    }
    return true;
}

void config_load(void)
{
    static char text[1024];
    uint32_t be_count, size;
    uint16_t le_cpus;
    int item;

    fwcfg_read(FWCFG_DIR, 0, &be_count, sizeof(be_count));
    dir_count = __builtin_bswap32(be_count);
    if (dir_count > DIR_MAX) {
        dir_count = DIR_MAX;
    }
    fwcfg_read(FWCFG_DIR, sizeof(be_count), dir, dir_count * sizeof(dir[0]));
    fwcfg_read(FWCFG_NB_CPUS, 0, &le_cpus, sizeof(le_cpus));

    memcpy(cfg.workload, "idle", 5);
    cfg.cpus = le_cpus;
    cfg.pages = 4;
    cfg.words = 8;
    cfg.area = 16;
    cfg.stride = 1;
    cfg.base[0] = 0x100000000;
    cfg.hint[0] = 0xfed50000;
    cfg.hint[1] = 0xfed50040;
    cfg.devs = 1;
    cfg.width = 8;
    cfg.every = 1;
    cfg.pairs = 1;
    cfg.length = PAGE;
    memcpy(cfg.phase, "idle", 5);
    cfg.fill = 64;
    cfg.disks = 1;
    cfg.chunk = 32;
    cfg.depth = 1;
    cfg.shift = 1;

    item = fwcfg_find("opt/org.pmem-ha/cmd", &size);
    if (item >= 0 && size < sizeof(text)) {
        fwcfg_read(item, 0, text, size);
        if (!config_parse(text)) {
            report("ERROR parameters not understood: %s", text);
            memcpy(cfg.workload, "idle", 5);
        }
    }
    if (cfg.cpus > le_cpus || cfg.cpus > MAX_CPUS || !cfg.cpus ||
        !cfg.pages || cfg.area % cfg.pages || !cfg.words ||
        512 % cfg.words || !cfg.every || cfg.devs > MAX_DEVS || !cfg.devs ||
        !cfg.pairs || !cfg.stride || !cfg.length) {
        report("ERROR parameters out of range");
        memcpy(cfg.workload, "idle", 5);
        cfg.cpus = 1;
    }
}
