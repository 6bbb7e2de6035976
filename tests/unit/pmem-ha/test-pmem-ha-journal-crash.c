/*
 * The replica's journal: crashes of its process and of its host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "test-pmem-ha-journal.h"

#define SECTOR 512

/*
 * Crash of the process after any number of bytes: what was written stays.
 */
static uint64_t budget;

static ssize_t limited_write(int fd, const void *buf, size_t len,
                             uint64_t offset)
{
    size_t n = MIN(len, budget);
    ssize_t done;

    if (!n) {
        return -EIO;
    }
    budget -= n;
    done = pwrite(fd, buf, n, offset);
    return done < 0 ? -errno : done;
}

static int limited_sync(int fd)
{
    return budget ? 0 : -EIO;
}

static const PmemHaMediaHooks limited = {
    .write = limited_write,
    .sync = limited_sync,
};

/* Returns: false when the budget ended it. */
static bool scenario(Journal *j, uint8_t *image, uint64_t *acked,
                     uint64_t *begun)
{
    g_autofree uint8_t *buf = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    int i;

    for (i = 1; i <= 7; i++) {
        *begun = i;
        if (!write_epoch(j, true) || journal_mark(j, NULL) < 0) {
            return false;
        }
        *acked = i;
        if (i == 3 || i == 5) {
            replay(j, image);
            if (!journal_checkpoint(j, i == 3 ? 0 : SIZE, NULL)) {
                return false;
            }
        }
    }
    return true;
}

static void check_crash(uint8_t *image, uint64_t acked, uint64_t begun)
{
    static const PmemHaMediaHooks fast = { .sync = no_sync };
    Journal *j;

    pmem_ha_media_set_hooks(&fast);
    j = journal_open(path, SIZE, &error_abort);
    g_assert_null(j->damage);
    g_assert_cmpuint(j->end.epoch, >=, acked);
    g_assert_cmpuint(j->end.epoch, <=, begun);
    check_image(j, image);
    /* And life goes on. */
    g_assert_true(journal_checkpoint(j, SIZE, &error_abort));
    g_assert_true(write_epoch(j, true));
    journal_close(j);
    pmem_ha_media_set_hooks(NULL);
}

static void test_crash_every_write(void)
{
    uint64_t at;
    bool complete = false;

    for (at = 0; !complete; at += 37) {
        g_autofree uint8_t *image = g_malloc0(SIZE);
        uint64_t acked = 0, begun = 0;
        Journal *j = fresh();

        budget = at;
        pmem_ha_media_set_hooks(&limited);
        complete = scenario(j, image, &acked, &begun);
        pmem_ha_media_set_hooks(NULL);
        journal_close(j);
        check_crash(image, acked, begun);
    }
    g_test_message("%" PRIu64 " crashes", at / 37);
}

/*
 * Crash of the host: of what was written since the last fdatasync, any subset
 * of sectors arrived.
 */
static GByteArray *durable;
static GHashTable *pending;
static unsigned syncs;          /* it comes before so many of them ended */

static void copy_sector(int fd, gsize n)
{
    uint8_t buf[SECTOR] = { 0 };
    ssize_t got = pread(fd, buf, SECTOR, n * SECTOR);

    if (got <= 0) {
        return;
    }
    if (durable->len < n * SECTOR + got) {
        gsize old = durable->len;

        g_byte_array_set_size(durable, n * SECTOR + got);
        memset(durable->data + old, 0, durable->len - old);
    }
    memcpy(durable->data + n * SECTOR, buf, got);
}

static ssize_t host_write(int fd, const void *buf, size_t len, uint64_t offset)
{
    gsize n;
    ssize_t done = limited_write(fd, buf, len, offset);

    if (done > 0) {
        for (n = offset / SECTOR; n <= (offset + done - 1) / SECTOR; n++) {
            g_hash_table_add(pending, GSIZE_TO_POINTER(n));
        }
    }
    return done;
}

static int host_sync(int fd)
{
    GHashTableIter iter;
    gpointer key;
    struct stat st;

    if (!budget || !syncs) {
        budget = 0;
        return -EIO;
    }
    syncs--;
    fstat(fd, &st);
    if (!S_ISREG(st.st_mode)) {
        return 0;
    }
    if (durable->len > st.st_size) {
        g_byte_array_set_size(durable, st.st_size);
    }
    g_hash_table_iter_init(&iter, pending);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        copy_sector(fd, GPOINTER_TO_SIZE(key));
    }
    g_hash_table_remove_all(pending);
    return 0;
}

/* Power fails: what is there is durable, and some of what is pending. */
static void lose_power(int fd)
{
    GHashTableIter iter;
    gpointer key;
    Bytes b;

    g_hash_table_iter_init(&iter, pending);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if (g_test_rand_int() & 1) {
            copy_sector(fd, GPOINTER_TO_SIZE(key));
        }
    }
    b = (Bytes) { (char *)durable->data, durable->len };
    put(&b, b.len);
}

/*
 * The daemon is killed, started again, brings its log to the image (all of
 * which happens to reach the disk), and then power fails.
 */
static void restart(uint8_t *image)
{
    Journal *j;

    budget = UINT64_MAX / 2;
    syncs = UINT_MAX;
    j = journal_open(path, SIZE, &error_abort);
    replay(j, image);
    journal_close(j);
}

static void crash_of_host(bool restarted)
{
    static const PmemHaMediaHooks hooks = {
        .write = host_write, .sync = host_sync,
    };
    int round;

    for (round = 0; round < 1500; round++) {
        g_autofree uint8_t *image = g_malloc0(SIZE);
        uint64_t acked = 0, begun = 0;
        Journal *j = fresh();
        gsize len;
        char *now;
        int fd;

        g_assert_true(g_file_get_contents(path, &now, &len, NULL));
        durable = g_byte_array_new_take((guint8 *)now, len);
        pending = g_hash_table_new(NULL, NULL);
        /* Killed before a sync, all that was written is in the page cache. */
        budget = g_test_rand_int_range(1, 80000);
        syncs = restarted ? g_test_rand_int_range(0, 10) : UINT_MAX;
        pmem_ha_media_set_hooks(&hooks);
        scenario(j, image, &acked, &begun);
        journal_close(j);
        if (restarted) {
            restart(image);
        }
        pmem_ha_media_set_hooks(NULL);
        fd = open(path, O_RDWR);
        lose_power(fd);
        close(fd);
        check_crash(image, acked, begun);
        g_byte_array_unref(durable);
        g_hash_table_unref(pending);
    }
}

static void test_crash_of_host(void)
{
    crash_of_host(false);
}

static void test_crash_after_restart(void)
{
    crash_of_host(true);
}
static void add_tests(void)
{
    g_test_add_func("/pmem-ha/journal/crash/process", test_crash_every_write);
    g_test_add_func("/pmem-ha/journal/crash/host", test_crash_of_host);
    g_test_add_func("/pmem-ha/journal/crash/restart",
                    test_crash_after_restart);
}

int main(int argc, char **argv)
{
    return run_tests(argc, argv, add_tests);
}
