/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: stores, flush hints and label writes
 */
#include "guest.h"

#define DSM_PORT            0x0a18
#define DSM_SET_LABEL_DATA  6

typedef struct {
    uint32_t handle;
    uint32_t revision;
    uint32_t function;
    uint32_t offset;
    uint32_t length;
    uint8_t data[PAGE - 20];
} DsmIn;

static volatile uint32_t dsm_lock;
static DsmIn dsm __attribute__((aligned(4096)));

/*
 * Flush device @dev.  The store is synchronous: the next instruction runs
 * after the acknowledgement.  The hint reads as zero (unassigned memory,
 * where a stock QEMU has no hint, does too).
 */
void flush(unsigned dev, uint64_t turn)
{
    static const uint8_t widths[] = { 8, 1, 2, 4 };
    uintptr_t at = cfg.hint[dev];
    uint64_t back;

    asm volatile("sfence" : : : "memory");
    switch (cfg.width ? cfg.width : widths[turn % 4]) {
    case 1:
        asm volatile("movb $1, (%0)" : : "r"(at) : "memory");
        break;
    case 2:
        asm volatile("movw $1, (%0)" : : "r"(at) : "memory");
        break;
    case 4:
        asm volatile("movl $1, (%0)" : : "r"(at) : "memory");
        break;
    case 10:
        /* One instruction, and more than one write */
        asm volatile("sgdt (%0)" : : "r"(at) : "memory");
        break;
    default:
        asm volatile("movq $1, (%0)" : : "r"(at) : "memory");
    }
    asm volatile("movq (%1), %0" : "=r"(back) : "r"(at) : "memory");
    if (back) {
        report("ERROR hint %u reads %x", (uint64_t)dev, back);
    }
}

void flush_all(uint64_t turn)
{
    for (unsigned dev = 0; dev < cfg.devs; dev++) {
        flush(dev, turn);
    }
}

/* The _DSM of an NVDIMM without ACPI: a page of input and its address */
bool label_write(unsigned slot, uint32_t offset, const void *from, uint32_t n)
{
    uint32_t status;

    lock(&dsm_lock);
    dsm.handle = slot + 1;
    dsm.revision = 1;
    dsm.function = DSM_SET_LABEL_DATA;
    dsm.offset = offset;
    dsm.length = n;
    memcpy(dsm.data, from, n);
    fence();
    outl(DSM_PORT, (uint32_t)(uintptr_t)&dsm);
    /* The output takes the place of the input: length, status. */
    status = ((volatile uint32_t *)&dsm)[1];
    unlock(&dsm_lock);
    return !status;
}

/* Each step can be undone: different numbers stay different. */
uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9;
    x ^= x >> 27;
    x *= 0x94d049bb133111eb;
    x ^= x >> 31;
    return x;
}

/*
 * What store @index of @cpu writes: an observer tells from a word which
 * store wrote it, whatever the order of arrival.
 */
uint64_t value_of(unsigned cpu, uint64_t index)
{
    return mix(((uint64_t)(cpu + 1) << 48 | index) ^ cfg.seed);
}

/* Word @word of page @page of the area of @cpu */
volatile uint64_t *word_at(unsigned cpu, uint64_t page, uint64_t word)
{
    unsigned dev;
    uint64_t in_dev;

    if (cfg.spread) {
        dev = page % cfg.devs;
        in_dev = cpu * cfg.area + page / cfg.devs;
    } else {
        dev = cpu % cfg.devs;
        in_dev = cpu * cfg.area + page;
    }
    return (volatile uint64_t *)(cfg.base[dev] + cfg.offset +
                                 in_dev * cfg.stride * PAGE) + word;
}

void store(volatile uint64_t *at, uint64_t value, bool nontemporal)
{
    if (nontemporal) {
        store_nontemporal(at, value);
    } else {
        store_ordinary(at, value);
    }
}
