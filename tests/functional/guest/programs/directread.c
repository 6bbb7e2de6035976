/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk that writes into persistent memory: O_DIRECT reads into a DAX mapping
 *
 * directread [-m] [-n COUNT] [-s SIZE] DISK FILE
 *
 * Turn n reads SIZE bytes from n * SIZE on the disk (modulo its length) to
 * the same place of the mapped file, flushes by fsync (-m: msync): "ACK n".
 * The data never passes through the processor.
 */
#include "util.h"

int main(int argc, char **argv)
{
    uint64_t count = 16;
    size_t size = 65536;
    off_t length;
    bool by_msync = false;
    char *map;
    int opt, disk, fd;

    while ((opt = getopt(argc, argv, "mn:s:")) != -1) {
        switch (opt) {
        case 'm':
            by_msync = true;
            break;
        case 'n':
            count = number(optarg);
            break;
        case 's':
            size = number(optarg);
            break;
        default:
            return 2;
        }
    }
    if (optind + 2 != argc) {
        return 2;
    }
    disk = open(argv[optind], O_RDONLY | O_DIRECT);
    if (disk < 0) {
        die(argv[optind]);
    }
    length = lseek(disk, 0, SEEK_END) / size * size;
    fd = open(argv[optind + 1], O_RDWR | O_CREAT, 0600);
    if (fd < 0 || !length || posix_fallocate(fd, 0, length) || fsync(fd)) {
        die(argv[optind + 1]);
    }
    map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        die("mmap");
    }
    for (uint64_t n = 1; n <= count; n++) {
        off_t at = n * size % length;

        if (pread(disk, map + at, size, at) != (ssize_t)size) {
            die("pread");
        }
        if (by_msync ? msync(map + at, size, MS_SYNC) : fsync(fd)) {
            die("flush");
        }
        say("ACK %llu", (unsigned long long)n);
    }
    return 0;
}
