/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bare-metal test guest: the little of a C library that it needs
 */
#include <stdarg.h>
#include "guest.h"

#define DEBUGCON    0xe9
#define DEBUG_EXIT  0xf4
#define LINE_MAX    160

static volatile uint32_t report_lock;
static volatile uint32_t barrier_count;

void *memcpy(void *to, const void *from, size_t n)
{
    void *ret = to;

    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return ret;
}

void *memset(void *to, int c, size_t n)
{
    void *ret = to;

    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return ret;
}

int strcmp(const char *a, const char *b)
{
    for (; *a == *b; a++, b++) {
        if (!*a) {
            return 0;
        }
    }
    return *a < *b ? -1 : 1;
}

void lock(volatile uint32_t *l)
{
    while (__atomic_exchange_n(l, 1, __ATOMIC_ACQUIRE)) {
        pause();
    }
}

void unlock(volatile uint32_t *l)
{
    __atomic_store_n(l, 0, __ATOMIC_RELEASE);
}

/* Wait until all processors of the run are here. */
void barrier(void)
{
    uint32_t n = __atomic_add_fetch(&barrier_count, 1, __ATOMIC_SEQ_CST);
    uint32_t goal = (n + cfg.cpus - 1) / cfg.cpus * cfg.cpus;

    while (__atomic_load_n(&barrier_count, __ATOMIC_SEQ_CST) < goal) {
        pause();
    }
}

static unsigned number(char *to, uint64_t v, unsigned base)
{
    char digits[20];
    unsigned n = 0, len = 0;

    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n) {
        to[len++] = digits[--n];
    }
    return len;
}

/*
 * Write one line: %s, %u and %x (both of uint64_t).  Lines of several
 * processors never mix, and a line without its end was cut off by a kill.
 */
void report(const char *fmt, ...)
{
    char line[LINE_MAX];
    unsigned n = 0;
    const char *s;
    va_list ap;

    va_start(ap, fmt);
    for (; *fmt && n < LINE_MAX - 24; fmt++) {
        if (*fmt != '%') {
            line[n++] = *fmt;
            continue;
        }
        switch (*++fmt) {
        case 's':
            for (s = va_arg(ap, const char *); *s && n < LINE_MAX - 24; s++) {
                line[n++] = *s;
            }
            break;
        case 'u':
            n += number(line + n, va_arg(ap, uint64_t), 10);
            break;
        case 'x':
            n += number(line + n, va_arg(ap, uint64_t), 16);
            break;
        }
    }
    va_end(ap);
    line[n++] = '\n';

    lock(&report_lock);
    for (unsigned i = 0; i < n; i++) {
        outb(DEBUGCON, line[i]);
    }
    unlock(&report_lock);
}

/* QEMU's exit status becomes code * 2 + 1. */
void power_off(uint64_t code)
{
    outl(DEBUG_EXIT, code);
}
