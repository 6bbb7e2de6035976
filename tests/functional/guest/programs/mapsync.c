/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stores to a MAP_SYNC mapping, flushed by instruction only
 *
 * mapsync [-n COUNT] [-y] FILE
 *
 * Prints "MAPSYNC ok", or "MAPSYNC refused: reason" and ends.  Then a counter
 * goes to two cache lines of different pages, each stored, written back and
 * fenced before the next: "STORED n".  With -y msync follows each.
 */
#include "util.h"

#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#define MAP_SHARED_VALIDATE 3
#endif

#define SIZE (2 * 4096)

/* volatile: the order of stores is the test */
static void persist(volatile uint64_t *at)
{
    asm volatile("clflush %0; sfence" : : "m"(*at) : "memory");
}

int main(int argc, char **argv)
{
    uint64_t count = 0;
    bool sync = false;
    volatile uint64_t *map;             /* see persist() */
    int opt, fd;

    while ((opt = getopt(argc, argv, "n:y")) != -1) {
        switch (opt) {
        case 'n':
            count = number(optarg);
            break;
        case 'y':
            sync = true;
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc) {
        return 2;
    }
    fd = open(argv[optind], O_RDWR | O_CREAT, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, SIZE) || fsync(fd)) {
        die(argv[optind]);
    }
    map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
               MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
    if (map == MAP_FAILED) {
        say("MAPSYNC refused: %s", strerror(errno));
        return 3;
    }
    say("MAPSYNC ok");
    for (uint64_t n = 1; !count || n <= count; n++) {
        map[0] = n;
        persist(&map[0]);
        map[512] = n;
        persist(&map[512]);
        if (sync && msync((void *)map, SIZE, MS_SYNC)) {
            die("msync");
        }
        say("STORED %llu", (unsigned long long)n);
    }
    return 0;
}
