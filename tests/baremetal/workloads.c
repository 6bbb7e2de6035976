/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: the workloads.  oracle.py knows the same rules.
 */
#include "guest.h"

static void think(void)
{
    for (uint64_t i = 0; i < cfg.think; i++) {
        pause();
    }
}

static bool more(uint64_t n)
{
    return !cfg.records || n < cfg.records;
}

static void flush_own(unsigned cpu, uint64_t turn)
{
    if (cfg.spread) {
        flush_all(turn);
    } else {
        flush(cpu % cfg.devs, turn);
    }
}

/*
 * Stores 0, 1, 2 ... go round the words of the CPU's area in a fixed order.
 * A record is pages * words of them: neighbours go to different pages, and
 * successive records to different groups of pages.
 */
static void record_store(unsigned cpu, uint64_t s)
{
    /* area is what the CPU owns in all, on one device or on several */
    uint64_t per_record = cfg.pages * cfg.words;
    uint64_t groups = cfg.area / cfg.pages;
    uint64_t t = s % (cfg.area * (PAGE / 8));
    uint64_t r = t % per_record;
    uint64_t page = t / per_record % groups * cfg.pages + r % cfg.pages;
    uint64_t word = t / (per_record * groups) * cfg.words + r / cfg.pages;

    store(word_at(cpu, page, word), value_of(cpu, s), s / 2 % 2);
}

/* "A cpu n": record n and all before it were flushed */
static void do_records(unsigned cpu)
{
    uint64_t per_record = cfg.pages * cfg.words;
    uint64_t s = cfg.first[cpu];
    uint64_t n = s / per_record;

    while (more(n)) {
        do {
            record_store(cpu, s++);
        } while (s % per_record);
        n++;
        if (n % cfg.every == 0 || !more(n)) {
            flush_own(cpu, n);
            report("A %u %u", (uint64_t)cpu, n);
        }
        think();
    }
}

/*
 * All CPUs but the last write n = 1, 2 ... to a chain of pages, always in
 * the same order and without a flush; the last one flushes.  The chain jumps
 * between both ends, so that a copier of either direction is caught.
 */
static void do_litmus(unsigned cpu)
{
    uint64_t chain = 2 * cfg.pairs;

    if (chain > cfg.area * (cfg.spread ? cfg.devs : 1)) {
        report("ERROR pairs exceed the area");
        return;
    }
    if (cpu + 1 == cfg.cpus && cpu) {
        for (uint64_t n = 1; n <= cfg.records || !cfg.records; n++) {
            flush_all(n);
            if (n % cfg.every == 0) {
                report("F %u %u", (uint64_t)cpu, n);
            }
            think();
        }
        return;
    }
    for (uint64_t n = 1; ; n++) {
        for (uint64_t i = 0; i < chain; i++) {
            uint64_t page = i % 2 ? chain - 1 - i / 2 : i / 2;

            store_ordinary(word_at(cpu, page, 0), n);
        }
    }
}

/* Record n: the device writes a piece of the pattern to page n of the area. */
static void do_dma(unsigned cpu)
{
    uint32_t size = 0;
    int item = fwcfg_find("opt/org.pmem-ha/pattern", &size);

    if (item < 0 || cfg.length > PAGE || size <= PAGE) {
        report("ERROR no pattern");
        return;
    }
    for (uint64_t n = cfg.first[cpu] + 1; more(n - 1); n++) {
        uint32_t skip = (n * 264 + cpu * 8) % (size - PAGE) & ~7u;

        if (!fwcfg_read(item, skip,
                        (void *)word_at(cpu, (n - 1) % cfg.area, 0),
                        cfg.length)) {
            report("ERROR dma");
            return;
        }
        if (n % cfg.every == 0) {
            flush_own(cpu, n);
            report("A %u %u", (uint64_t)cpu, n);
        }
        think();
    }
}

/*
 * Record n: length bytes of label data.  No flush: the _DSM must not return
 * before the label is as safe as flushed data.
 */
static void do_label(unsigned cpu)
{
    uint64_t data[64];

    if (cpu) {
        return;
    }
    if (cfg.length > sizeof(data) || cfg.length % 8) {
        report("ERROR length");
        return;
    }
    for (uint64_t n = cfg.first[0] + 1; more(n - 1); n++) {
        for (uint64_t i = 0; i < cfg.length / 8; i++) {
            data[i] = value_of(0, n * 64 + i);
        }
        if (!label_write(cfg.slot, (n - 1) % cfg.area * cfg.length, data,
                         cfg.length)) {
            report("ERROR label");
            return;
        }
        report("A 0 %u", n);
        think();
    }
}

/* Flushes without stores: "F cpu n" after each every-th of them */
static void do_flood(unsigned cpu)
{
    for (uint64_t n = 1; more(n - 1); n++) {
        flush((cpu + n) % cfg.devs, n);
        if (n % cfg.every == 0) {
            report("F %u %u", (uint64_t)cpu, n);
        }
        think();
    }
}

/* One store and one flush per turn, devices in turn; "T cpu n" after each */
static void do_stalltest(unsigned cpu)
{
    for (uint64_t n = 1; more(n - 1); n++) {
        unsigned dev = (cpu + n) % cfg.devs;

        store_ordinary((volatile uint64_t *)(cfg.base[dev] + cfg.offset) +
                       cpu * 512, n);
        flush(dev, n);
        report("T %u %u", (uint64_t)cpu, n);
        think();
    }
}

/* "SUM x": a digest of memory as the guest sees it */
static void do_sum(unsigned cpu)
{
    volatile uint64_t *at = (volatile uint64_t *)(cfg.base[0] + cfg.offset);
    uint64_t sum = 0;

    if (cpu) {
        return;
    }
    for (uint64_t i = 0; i < cfg.length / 8; i++) {
        sum = (sum ^ at[i]) * 0x100000001b3 + i;
    }
    report("SUM %x", sum);
}

void run_workload(unsigned cpu)
{
    static const struct {
        const char *name;
        void (*run)(unsigned cpu);
    } workloads[] = {
        { "records", do_records },
        { "litmus", do_litmus },
        { "dma", do_dma },
        { "label", do_label },
        { "flood", do_flood },
        { "once", do_flood },
        { "stalltest", do_stalltest },
        { "sum", do_sum },
        { "disk", do_disk },
    };

    for (unsigned i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        if (!strcmp(workloads[i].name, cfg.workload)) {
            workloads[i].run(cpu);
            if (cpu == 0 || strcmp(cfg.workload, "label")) {
                report("DONE %u", (uint64_t)cpu);
            }
            return;
        }
    }
    if (strcmp(cfg.workload, "idle")) {
        report("ERROR unknown workload %s", cfg.workload);
    }
}
