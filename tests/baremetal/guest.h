/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: what its files share
 */
#ifndef BAREMETAL_GUEST_H
#define BAREMETAL_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "layout.h"

#define PAGE        4096u
#define MAX_DEVS    2

/* Parameters, from the fw_cfg file opt/org.pmem-ha/cmd ("name=value ...") */
typedef struct Config {
    char workload[16];
    uint64_t cpus;              /* processors started; default: all of them */
    uint64_t records;           /* per CPU, 0: without end */
    uint64_t pages;             /* pages that one record touches */
    uint64_t words;             /* stores per record to each of them */
    uint64_t area;              /* pages that a CPU owns */
    uint64_t stride;            /* distance of its pages, in pages */
    uint64_t spread;            /* 1: pages of an area alternate on devices */
    uint64_t base[MAX_DEVS];    /* guest physical address of a device */
    uint64_t hint[MAX_DEVS];    /* its flush hint address */
    uint64_t devs;              /* number of devices */
    uint64_t offset;            /* of the first area in the device */
    uint64_t seed;
    uint64_t first[MAX_CPUS];   /* index of a CPU's first store */
    uint64_t width;             /* of the hint write; 0: all; 10: in pieces */
    uint64_t every;             /* flush (flood: report) each n-th time */
    uint64_t pairs;             /* litmus: pairs of pages of one writer */
    uint64_t think;             /* pause between records, in spins */
    uint64_t slot;              /* label: slot of the NVDIMM */
    uint64_t length;            /* dma, label: bytes of one write; sum: all */
    uint64_t exit;              /* 1: leave QEMU at the end */
    uint64_t code;              /* what is written to isa-debug-exit then */
    /* Of the workload disk */
    char phase[16];
    uint64_t fill;              /* MiB of memory that are read from the disks */
    uint64_t span;              /* MiB of the disks that are used; 0: fill */
    uint64_t disks;
    uint64_t chunk;             /* pages of a request */
    uint64_t depth;             /* requests that are handed over together */
    uint64_t shift;             /* pages that places move on with each pass */
    uint64_t anon;              /* percent of the pages that stores replace */
    uint64_t flush;             /* 1: after each write */
    uint64_t torn;              /* 1: store to pages that are being written */
    uint64_t check;             /* 1: look at pages before and after use */
    uint64_t salt;              /* changes the content of all pages */
} Config;

extern Config cfg;
extern volatile uint32_t nmi_count;

/* lib.c */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int strcmp(const char *a, const char *b);
void report(const char *fmt, ...);
void power_off(uint64_t code);
void lock(volatile uint32_t *l);
void unlock(volatile uint32_t *l);
void barrier(void);

/* fwcfg.c */
int fwcfg_find(const char *name, uint32_t *size);
bool fwcfg_read(int select, uint32_t skip, void *to, uint32_t n);
void config_load(void);

/* smp.c */
void cpu_main(unsigned cpu);
void nmi_timer(uint32_t ns);

/* disk.c */
unsigned disk_init(void);
uint64_t disk_pages(unsigned disk);
bool disk_queue(unsigned disk, bool write, uint64_t page, uint64_t *at,
                unsigned n);
void disk_kick(unsigned disk);
bool disk_wait(unsigned disk);
bool disk_flush(unsigned disk);

/* disk-load.c */
void do_disk(unsigned cpu);

/* pmem.c */
void flush(unsigned dev, uint64_t turn);
void flush_all(uint64_t turn);
bool label_write(unsigned slot, uint32_t offset, const void *from, uint32_t n);
uint64_t mix(uint64_t x);
uint64_t value_of(unsigned cpu, uint64_t index);
volatile uint64_t *word_at(unsigned cpu, uint64_t page, uint64_t word);
void store(volatile uint64_t *at, uint64_t value, bool nontemporal);

/* workloads.c */
void run_workload(unsigned cpu);

static inline void outb(uint16_t port, uint8_t v)
{
    asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
    asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;

    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t v;

    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline void outl(uint16_t port, uint32_t v)
{
    asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;

    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline void pause(void)
{
    asm volatile("pause" : : : "memory");
}

/* One instruction: the compiler may not split, widen or merge the store. */
static inline void store_ordinary(volatile uint64_t *at, uint64_t v)
{
    asm volatile("movq %1, %0" : "=m"(*at) : "r"(v) : "memory");
}

/*
 * Non-temporal stores are not ordered with others: fenced on both sides, so
 * that the order of all stores is the program's on real hardware too.
 */
static inline void store_nontemporal(volatile uint64_t *at, uint64_t v)
{
    asm volatile("sfence; movnti %1, %0; sfence"
                 : "=m"(*at) : "r"(v) : "memory");
}

static inline void fence(void)
{
    asm volatile("mfence" : : : "memory");
}

#endif
