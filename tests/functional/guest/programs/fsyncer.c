/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Write numbered records to a file and report each as "ACK n" after its flush
 * returned; or check them.
 *
 * fsyncer [-m MODE] [-n COUNT] [-f FIRST] [-s SIZE] [-w SLOTS] [-q] FILE
 * fsyncer -v [-s SIZE] FILE       prints "GOOD n": records 1 to n are whole
 *
 * MODE: fsync, fdatasync, msync, odsync, none.  With -w the file has SLOTS
 * records and is overwritten in turn (latency without allocation).  At the
 * end: "LAT mode n= p50= p99= max=" of the flushing calls, in ns.
 */
#include "util.h"

#define MAX_SAMPLES 100000

static size_t size = 4096;

static int verify(const char *path)
{
    int fd = open(path, O_RDONLY);
    uint64_t *buf = malloc(size);
    uint64_t n = 0;

    if (fd < 0) {
        die(path);
    }
    while (pread(fd, buf, size, n * size) == (ssize_t)size &&
           record_good(buf, size, n + 1)) {
        n++;
    }
    say("GOOD %llu", (unsigned long long)n);
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = "fsync";
    uint64_t count = 0, first = 1, slots = 0, begin;
    bool quiet = false, check = false;
    uint64_t *buf, *ns;
    uint8_t *map = NULL;
    size_t samples = 0;
    int opt, fd, ret = 0;

    while ((opt = getopt(argc, argv, "m:n:f:s:w:qv")) != -1) {
        switch (opt) {
        case 'm':
            mode = optarg;
            break;
        case 'n':
            count = number(optarg);
            break;
        case 'f':
            first = number(optarg);
            break;
        case 's':
            size = number(optarg);
            break;
        case 'w':
            slots = number(optarg);
            break;
        case 'q':
            quiet = true;
            break;
        case 'v':
            check = true;
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || size < 64 || size % 8) {
        return 2;
    }
    if (check) {
        return verify(argv[optind]);
    }

    fd = open(argv[optind], O_RDWR | O_CREAT |
              (!strcmp(mode, "odsync") ? O_DSYNC : 0), 0600);
    if (fd < 0) {
        die(argv[optind]);
    }
    buf = aligned_alloc(4096, (size + 4095) & ~4095ul);
    ns = malloc(MAX_SAMPLES * sizeof(*ns));
    if (!strcmp(mode, "msync") && !slots) {
        slots = 64;
    }
    if (slots) {
        memset(buf, 0, size);
        for (uint64_t i = 0; i < slots; i++) {
            if (pwrite(fd, buf, size, i * size) != (ssize_t)size) {
                die("pwrite");
            }
        }
        fsync(fd);
    }
    if (!strcmp(mode, "msync")) {
        map = mmap(NULL, slots * size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                   0);
        if (map == MAP_FAILED) {
            die("mmap");
        }
    }

    for (uint64_t n = first; !count || n < first + count; n++) {
        uint64_t at = (slots ? (n - 1) % slots : n - 1) * size;

        record_fill(buf, size, n);
        begin = now_ns();
        if (map) {
            memcpy(map + at, buf, size);
        } else if (pwrite(fd, buf, size, at) != (ssize_t)size) {
            die("pwrite");
        }
        if (strcmp(mode, "odsync")) {
            begin = now_ns();
        }
        if (!strcmp(mode, "fsync")) {
            ret = fsync(fd);
        } else if (!strcmp(mode, "fdatasync")) {
            ret = fdatasync(fd);
        } else if (map) {
            ret = msync(map + (at & ~4095ul), size + (at & 4095), MS_SYNC);
        }
        if (ret) {
            die(mode);
        }
        if (samples < MAX_SAMPLES) {
            ns[samples++] = now_ns() - begin;
        }
        if (!quiet) {
            say("ACK %llu", (unsigned long long)n);
        }
    }
    say_latency(mode, ns, samples);
    return 0;
}
