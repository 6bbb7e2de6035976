/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Known numbers of flushing calls, so that the host can count what arrives.
 *
 * flushcount DIR [PHASE...]
 *
 * For each phase: prepare, print "BEGIN phase calls", wait for a line, work,
 * print "END phase", wait for a line.  While the program waits it does
 * nothing, so that the host samples its counters.  Before BEGIN and END,
 * "JOURNAL n" tells how many transactions the file system has committed.
 */
#include "util.h"
#include <glob.h>
#include <sys/stat.h>

#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#define MAP_SHARED_VALIDATE 3
#endif

static const char *dir;
static int fd = -1;
static char page[4096];
static volatile char *map;     /* volatile: each store shall happen */
static uint64_t turn;

static char *path_of(const char *name, int n)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s.%d", dir, name, n);
    return path;
}

/*
 * A write gives the file a new mtime, which fsync() has to journal.  So the
 * clock is put back before each write: on a file system whose timestamps are
 * whole seconds, the mtime stays what it was, and only the data is flushed.
 */
static void write_page(int i)
{
    static struct timespec now;

    if (!now.tv_sec) {
        now.tv_sec = time(NULL);
    }
    if (clock_settime(CLOCK_REALTIME, &now)) {
        die("clock_settime");
    }
    page[0] = ++turn;
    if (pwrite(fd, page, sizeof(page), i * 4096) != sizeof(page)) {
        die("pwrite");
    }
}

/* A file whose blocks are allocated and whose metadata is on the medium */
static void open_file(int flags)
{
    fd = open(path_of("f", 0), O_RDWR | O_CREAT, 0600);
    if (fd < 0) {
        die("open");
    }
    for (int i = 0; i < 100; i++) {
        write_page(i);
    }
    fsync(fd);
    close(fd);
    fd = open(path_of("f", 0), O_RDWR | flags);
    if (fd < 0) {
        die("open");
    }
}

static void prep_plain(void)
{
    open_file(0);
}

static void prep_dsync(void)
{
    open_file(O_DSYNC);
}

static void map_file(int flags)
{
    open_file(0);
    map = mmap(NULL, 100 * 4096, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (map == MAP_FAILED) {
        map = NULL;
        return;
    }
    for (int i = 0; i < 100; i++) {
        map[i * 4096] = 1;              /* page faults are not measured */
    }
    fsync(fd);
}

static void prep_map(void)
{
    map_file(MAP_SHARED);
}

static void prep_map_sync(void)
{
    map_file(MAP_SHARED_VALIDATE | MAP_SYNC);
}

static void prep_dir(void)
{
    int d = open(dir, O_RDONLY);

    fsync(d);
    close(d);
}

static void do_fsync(int i)
{
    write_page(i);
    if (fsync(fd)) {
        die("fsync");
    }
}

static void do_fdatasync(int i)
{
    write_page(i);
    if (fdatasync(fd)) {
        die("fdatasync");
    }
}

static void do_msync(int i)
{
    map[i * 4096] = ++turn;
    if (msync((void *)(map + i * 4096), 4096, MS_SYNC)) {
        die("msync");
    }
}

/* What libpmem does on a mapping that it may flush by itself */
static void do_clflush(int i)
{
    map[i * 4096] = ++turn;
    asm volatile("clflush %0; sfence" : : "m"(map[i * 4096]) : "memory");
}

static void do_create(int i)
{
    int f = open(path_of("new", i), O_RDWR | O_CREAT | O_EXCL, 0600);

    if (f < 0 || write(f, page, sizeof(page)) != sizeof(page) || fsync(f)) {
        die("create");
    }
    close(f);
}

static void do_deep(int i)
{
    int f = open("/sys/bus/nd/devices/region0/deep_flush", O_WRONLY);

    (void)i;
    if (f < 0 || write(f, "1", 1) != 1) {
        say("NOTE deep_flush: %s", strerror(errno));
    }
    close(f);
}

static void do_idle(int i)
{
    struct timespec t = { 0, 100 * 1000 * 1000 };

    (void)i;
    nanosleep(&t, NULL);                /* the background of other phases */
}

static const struct {
    const char *name;
    int calls;
    void (*prepare)(void);
    void (*call)(int i);
} phases[] = {
    { "idle", 10, prep_plain, do_idle },
    { "fsync", 10, prep_plain, do_fsync },
    { "fdatasync", 10, prep_plain, do_fdatasync },
    { "nosync", 100, prep_plain, write_page },
    { "odsync", 10, prep_dsync, write_page },
    { "msync", 10, prep_map, do_msync },
    { "mapsync", 100, prep_map_sync, do_clflush },
    { "create", 10, prep_dir, do_create },
    { "deepflush", 5, NULL, do_deep },
};

/* The kernel's count for the first mounted journal */
static void say_journal(void)
{
    unsigned long n = 0;
    glob_t g;

    if (glob("/proc/fs/jbd2/" "*/info", 0, NULL, &g) == 0) {
        FILE *f = fopen(g.gl_pathv[0], "r");

        if (!f || fscanf(f, "%lu", &n) != 1) {
            die(g.gl_pathv[0]);
        }
        fclose(f);
        globfree(&g);
    }
    say("JOURNAL %lu", n);
}

static void wait_line(void)
{
    char c;

    do {
        if (read(STDIN_FILENO, &c, 1) != 1) {
            exit(3);
        }
    } while (c != '\n');
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        return 2;
    }
    dir = argv[1];
    for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
        bool wanted = argc == 2;

        for (int a = 2; a < argc; a++) {
            wanted |= !strcmp(argv[a], phases[p].name);
        }
        if (!wanted) {
            continue;
        }
        if (phases[p].prepare) {
            phases[p].prepare();
        }
        if (strstr(phases[p].name, "map") == phases[p].name && !map) {
            say("SKIP %s: %s", phases[p].name, strerror(errno));
        } else {
            say_journal();
            say("BEGIN %s %d", phases[p].name, phases[p].calls);
            wait_line();
            for (int i = 0; i < phases[p].calls; i++) {
                phases[p].call(i);
            }
            say_journal();
            say("END %s", phases[p].name);
            wait_line();
        }
        if (map) {
            munmap((void *)map, 100 * 4096);
            map = NULL;
        }
        if (fd >= 0) {
            close(fd);
            fd = -1;
        }
    }
    return 0;
}
