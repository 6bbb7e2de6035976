/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test programs of the guest: messages, time, content of records
 */
#ifndef GUEST_UTIL_H
#define GUEST_UTIL_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what)
{
    printf("ERROR %s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

/* One write per line, so that lines of several programs do not mix */
__attribute__((format(printf, 1, 2)))
static inline void say(const char *fmt, ...)
{
    char line[256];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    line[n++] = '\n';
    if (write(STDOUT_FILENO, line, n) != n) {
        exit(2);
    }
}

/* The value of an option */
static inline uint64_t number(const char *text)
{
    uint64_t n;
    char rest;

    if (sscanf(text, "%" SCNu64 "%c", &n, &rest) != 1) {
        printf("ERROR not a number: %s\n", text);
        exit(2);
    }
    return n;
}

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static inline int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* "LAT name n=.. p50=.. p99=.. max=.." in ns */
static inline void say_latency(const char *name, uint64_t *ns, size_t n)
{
    if (!n) {
        return;
    }
    qsort(ns, n, sizeof(*ns), compare_u64);
    say("LAT %s n=%zu p50=%llu p99=%llu max=%llu", name, n,
        (unsigned long long)ns[n / 2], (unsigned long long)ns[n * 99 / 100],
        (unsigned long long)ns[n - 1]);
}

/* Record @n: number, content that depends on it, checksum at the end */
static inline void record_fill(uint64_t *words, size_t size, uint64_t n)
{
    size_t count = size / 8;
    uint64_t sum = 0, x = n;

    words[0] = n;
    for (size_t i = 1; i < count - 1; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        words[i] = x;
    }
    for (size_t i = 0; i < count - 1; i++) {
        sum = (sum << 7 | sum >> 57) + words[i];
    }
    words[count - 1] = sum;
}

static inline bool record_good(const uint64_t *words, size_t size, uint64_t n)
{
    uint64_t *want = malloc(size);
    bool good;

    record_fill(want, size, n);
    good = !memcmp(want, words, size);
    free(want);
    return good;
}

#endif
