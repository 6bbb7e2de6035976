/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An application's own memory, which no page cache has
 *
 * bufferpool -m MIB [-r RATE]     content that nothing compresses
 * bufferpool FILE...              the files, read by O_DIRECT, as databases do
 *
 * "POOL bytes" when the memory has its content.  With -r its pages are then
 * replaced one after another, RATE megabytes per second, for ever; else it
 * stays as it is until the program is killed.
 */
#include "util.h"
#include <sys/stat.h>

#define PAGE  4096
#define CHUNK (1 << 20)
#define SLICE 5000000                   /* ns */

static uint64_t state = 88172645463325252;

static void fill(char *page)
{
    uint64_t *words = (uint64_t *)page;

    for (int i = 0; i < PAGE / 8; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
}

static char *memory(size_t size)
{
    char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mem == MAP_FAILED) {
        die("mmap");
    }
    return mem;
}

/* Bytes read; files whose length is no multiple of the page lose their end */
static size_t read_file(const char *name)
{
    int fd = open(name, O_RDONLY | O_DIRECT);
    struct stat st;
    size_t size;
    char *mem;

    if (fd < 0 || fstat(fd, &st)) {
        die(name);
    }
    size = st.st_size / PAGE * PAGE;
    mem = memory(size ? size : PAGE);
    for (size_t at = 0; at < size; at += CHUNK) {
        size_t n = size - at;

        if (n > CHUNK) {
            n = CHUNK;
        }
        if (pread(fd, mem + at, n, at) != (ssize_t)n) {
            die("pread");
        }
    }
    close(fd);
    return size;
}

/* By the clock: what was missed while the guest did not run is not made up. */
static void replace_for_ever(char *mem, size_t size, uint64_t rate)
{
    const struct timespec slice = { .tv_nsec = SLICE };
    uint64_t last = now_ns(), due = 0;
    size_t at = 0;

    for (;;) {
        uint64_t now = now_ns(), passed = now - last;

        last = now;
        if (passed > 20 * (uint64_t)SLICE) {
            passed = 20 * (uint64_t)SLICE;
        }
        /* RATE is bytes per microsecond. */
        for (due += rate * passed / 1000; due >= PAGE; due -= PAGE) {
            fill(mem + at);
            at = (at + PAGE) % size;
        }
        nanosleep(&slice, NULL);
    }
}

int main(int argc, char **argv)
{
    size_t size = 0, total = 0;
    uint64_t rate = 0;
    char *mem = NULL;
    int opt;

    while ((opt = getopt(argc, argv, "m:r:")) != -1) {
        switch (opt) {
        case 'm':
            size = number(optarg) << 20;
            break;
        case 'r':
            rate = number(optarg);
            break;
        default:
            return 2;
        }
    }
    if (!size == (optind == argc) || (rate && !size)) {
        return 2;
    }
    if (size) {
        mem = memory(size);
        for (total = 0; total < size; total += PAGE) {
            fill(mem + total);
        }
    }
    for (; optind < argc; optind++) {
        total += read_file(argv[optind]);
    }
    say("POOL %zu", total);
    if (rate) {
        replace_for_ever(mem, size, rate);
    }
    for (;;) {
        pause();
    }
}
