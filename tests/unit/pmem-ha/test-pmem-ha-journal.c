/*
 * The replica's journal: torn, damaged and forged logs, and crashes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "hw/mem/pmem-ha-media.h"
#include "tools/qemu-pmem-replica/journal.h"

#define PAGES  8
#define SIZE   (PAGES * PMEM_HA_PAGE_SIZE)
#define SECTOR 512

static char *dir;
static char *path;

/*
 * Epoch e writes three pages (one of zeroes).  What the image is after epoch
 * e follows from e alone, so that a mix of two epochs is always found out.
 */
static void fill(uint8_t *page, uint64_t epoch, unsigned n)
{
    unsigned i;

    for (i = 0; i < PMEM_HA_PAGE_SIZE; i += 16) {
        stq_le_p(page + i, epoch);
        stq_le_p(page + i + 8, epoch * 31 + n * 7 + i);
    }
}

static void range_of(uint64_t epoch, unsigned n, uint64_t *offset, bool *zero)
{
    *offset = ((epoch + n * 3) % PAGES) * PMEM_HA_PAGE_SIZE;
    *zero = n == 1;
}

static void model(uint8_t *image, uint64_t epoch)
{
    uint64_t e;
    unsigned n;

    memset(image, 0, SIZE);
    for (e = 1; e <= epoch; e++) {
        for (n = 0; n < 3; n++) {
            uint64_t offset;
            bool zero;

            range_of(e, n, &offset, &zero);
            if (zero) {
                memset(image + offset, 0, PMEM_HA_PAGE_SIZE);
            } else {
                fill(image + offset, e, n);
            }
        }
    }
}

static bool apply(void *opaque, uint64_t offset, uint64_t length,
                  const uint8_t *data, Error **errp)
{
    uint8_t *image = opaque;

    g_assert_cmpuint(offset + length, <=, SIZE);
    if (data) {
        memcpy(image + offset, data, length);
    } else {
        memset(image + offset, 0, length);
    }
    return true;
}

static uint64_t replay(Journal *j, uint8_t *image)
{
    g_autofree uint8_t *buf = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    JournalCursor c = journal_base(j);

    while (c.pos < j->end.pos) {
        g_assert_true(journal_read_epoch(j, &c, buf, apply, image, NULL,
                                         &error_abort));
    }
    g_assert_cmpuint(c.epoch, ==, j->end.epoch);
    return c.epoch;
}

/* As journal_commit() and journal_sync() would be called for a primary. */
static bool write_epoch(Journal *j, bool commit)
{
    uint64_t epoch = j->end.epoch + 1;
    uint8_t page[PMEM_HA_PAGE_SIZE];
    uint32_t digest = 0;
    unsigned n;

    if (journal_begin(j, epoch, NULL) < 0) {
        return false;
    }
    for (n = 0; n < 3; n++) {
        PmemHaMsg m = { .arg1 = PMEM_HA_PAGE_SIZE };
        bool zero;

        range_of(epoch, n, &m.arg0, &zero);
        fill(page, epoch, n);
        m.flags = zero ? PMEM_HA_FLAG_ZERO : 0;
        m.len = zero ? 0 : PMEM_HA_PAGE_SIZE;
        m.payload_crc = pmem_ha_wire_crc(page, m.len);
        digest = pmem_ha_wire_digest(digest, &m);
        if (journal_data(j, &m, zero ? NULL : page, NULL) < 0) {
            return false;
        }
    }
    return !commit ||
           (journal_commit(j, 3, 3 * PMEM_HA_PAGE_SIZE, digest, NULL) == 0 &&
            journal_sync(j, NULL) == 0);
}

static int no_sync(int fd)
{
    return 0;
}

static Journal *fresh(void)
{
    static const PmemHaMediaHooks fast = { .sync = no_sync };
    JournalSuper s;
    Journal *j;

    pmem_ha_media_set_hooks(&fast);
    unlink(path);
    j = journal_open(path, SIZE, &error_abort);
    s = j->super;
    s.have_image = true;
    g_assert_true(journal_write_super(j, &s, false, &error_abort));
    pmem_ha_media_set_hooks(NULL);
    return j;
}

static Journal *reopen(Journal *j)
{
    journal_close(j);
    return journal_open(path, SIZE, &error_abort);
}

static void check_image(Journal *j, uint8_t *image)
{
    g_autofree uint8_t *want = g_malloc(SIZE);

    model(want, replay(j, image));
    g_assert_cmpmem(image, SIZE, want, SIZE);
}

static void test_round_trip(void)
{
    g_autofree uint8_t *image = g_malloc0(SIZE);
    Journal *j = fresh();
    int i;

    for (i = 1; i <= 20; i++) {
        g_assert_true(write_epoch(j, true));
        g_assert_cmpint(journal_mark(j, &error_abort), ==, 0);
        if (i % 3 == 0) {
            j = reopen(j);
        }
        if (i % 7 == 0) {
            check_image(j, image);
            g_assert_true(journal_checkpoint(j, 4096, &error_abort));
            g_assert_cmpuint(journal_log_bytes(j), ==, 0);
        }
        g_assert_null(j->damage);
        g_assert_null(j->discard);
        g_assert_cmpuint(j->end.epoch, ==, i);
        g_assert_cmpuint(j->acked, ==, i);
    }
    j = reopen(j);
    check_image(j, image);
    journal_close(j);
}

static void open_bad(uint64_t size, const char *text)
{
    Error *err = NULL;

    g_assert_null(journal_open(path, size, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    g_assert_nonnull(strstr(error_get_pretty(err), path));
    error_free(err);
}

static void test_refusals(void)
{
    Journal *j = fresh();

    open_bad(SIZE, "lock");
    journal_close(j);
    open_bad(SIZE * 2, "size=");
    g_assert_true(g_file_set_contents(path, "hello", 5, NULL));
    open_bad(SIZE, "not a journal");
}

static void test_wrong_commit(void)
{
    Journal *j = fresh();
    Error *err = NULL;

    g_assert_true(write_epoch(j, false));
    g_assert_cmpint(journal_commit(j, 3, 3 * PMEM_HA_PAGE_SIZE, 1, &err), ==,
                    -EPROTO);
    error_free(err);
    journal_abort(j);
    g_assert_cmpuint(journal_log_bytes(j), ==, 0);
    g_assert_true(write_epoch(j, true));
    j = reopen(j);
    g_assert_cmpuint(j->end.epoch, ==, 1);
    journal_close(j);
}

/* An epoch that was given up whole must not come back after a crash. */
static int bad_sync(int fd)
{
    return -EIO;
}

static void test_ghost(void)
{
    static const PmemHaMediaHooks broken = { .sync = bad_sync };
    Journal *j = fresh();

    g_assert_true(write_epoch(j, true));
    pmem_ha_media_set_hooks(&broken);
    g_assert_false(write_epoch(j, true));
    pmem_ha_media_set_hooks(NULL);
    journal_abort(j);
    g_assert_true(j->ghost);
    g_assert_true(journal_settle(j, &error_abort));
    g_assert_false(j->ghost);
    j = reopen(j);
    g_assert_cmpuint(j->end.epoch, ==, 1);
    g_assert_null(j->discard);
    journal_close(j);
}

typedef struct Bytes {
    char *data;
    gsize len;
} Bytes;

static void put(const Bytes *b, gsize len)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, b->data, len, 0), ==, len);
    g_assert_cmpint(ftruncate(fd, len), ==, 0);
    close(fd);
}

static void poke(gsize at, char value)
{
    int fd = open(path, O_RDWR);

    g_assert_cmpint(pwrite(fd, &value, 1, at), ==, 1);
    close(fd);
}

/*
 * Two epochs, then a third (of three DATA records) from @first to @last, then
 * perhaps a fourth.
 */
static Bytes prepare(bool marked, bool fourth, gsize *first, gsize *last)
{
    Journal *j = fresh();
    Bytes b;
    int i;

    for (i = 1; i <= 3; i++) {
        *first = j->end.pos;
        g_assert_true(write_epoch(j, true));
        if (i < 3 || marked) {
            journal_mark(j, &error_abort);
        }
    }
    *last = j->end.pos;
    if (fourth) {
        g_assert_true(write_epoch(j, true));
    }
    journal_close(j);
    g_assert_true(g_file_get_contents(path, &b.data, &b.len, NULL));
    return b;
}

static void expect(gsize at, gsize first, bool damaged)
{
    Journal *j = journal_open(path, SIZE, &error_abort);
    g_autofree uint8_t *image = g_malloc0(SIZE);

    g_assert_cmpuint(j->end.epoch, ==, 2);
    if (damaged) {
        g_assert_nonnull(j->damage);
        g_assert_nonnull(strstr(j->damage, "epoch 3 "));
        g_assert_cmpuint(j->damaged_epoch, ==, 3);
    } else {
        g_assert_null(j->damage);
        if (at >= first + 64) {
            g_assert_nonnull(j->discard);
            g_assert_cmpuint(j->discarded_epoch, ==, 3);
            g_assert_cmpuint(j->discarded_bytes, >, 0);
        }
    }
    check_image(j, image);
    journal_close(j);
}

static void cut_everywhere(bool marked)
{
    gsize first, last, at;
    Bytes b = prepare(marked, false, &first, &last);

    for (at = first; at < last; at++) {
        put(&b, at);
        expect(at, first, marked);
    }
    g_free(b.data);
}

static void flip_everywhere(bool marked, bool fourth)
{
    gsize first, last, at;
    Bytes b = prepare(marked, fourth, &first, &last);

    put(&b, b.len);
    for (at = first; at < last; at++) {
        poke(at, b.data[at] ^ 1);
        expect(at, first, marked || fourth);
        poke(at, b.data[at]);
    }
    g_free(b.data);
}

static void test_cut_unacknowledged(void)
{
    cut_everywhere(false);
}

static void test_cut_acknowledged(void)
{
    cut_everywhere(true);
}

static void test_flip_unacknowledged(void)
{
    flip_everywhere(false, false);
}

static void test_flip_acknowledged(void)
{
    flip_everywhere(true, false);
}

static void test_flip_followed(void)
{
    flip_everywhere(false, true);
}

/* One superblock may be lost; what it said is not silently older. */
static void test_lost_superblock(void)
{
    g_autofree uint8_t *image = g_malloc0(SIZE);
    int slot;

    for (slot = 0; slot < 2; slot++) {
        Journal *j = fresh();
        unsigned newest;
        int i;

        for (i = 1; i <= 7; i++) {
            g_assert_true(write_epoch(j, true));
            journal_mark(j, &error_abort);
            if (i % 2 == 0) {
                g_assert_true(journal_checkpoint(j, SIZE, &error_abort));
            }
        }
        newest = j->super_slot;
        journal_close(j);
        poke(slot * 4096 + 100, 0x55);
        j = journal_open(path, SIZE, &error_abort);
        if (slot == newest) {
            g_assert_nonnull(j->damage);
        } else {
            g_assert_null(j->damage);
            g_assert_cmpuint(j->end.epoch, ==, 7);
        }
        journal_close(j);
    }
}

/* Guest data that looks like records is not read as records. */
static void test_forged(void)
{
    Journal *j = fresh();
    g_autofree char *old = NULL;
    PmemHaMsg m = { .arg1 = PMEM_HA_PAGE_SIZE, .len = PMEM_HA_PAGE_SIZE };
    gsize len;

    g_assert_true(write_epoch(j, true));
    g_assert_true(write_epoch(j, true));
    g_assert_true(g_file_get_contents(path, &old, &len, NULL));
    /* A later round of the log carries the bytes of an earlier one. */
    g_assert_true(journal_checkpoint(j, 0, &error_abort));
    g_assert_cmpint(journal_begin(j, 3, &error_abort), ==, 0);
    m.payload_crc = pmem_ha_wire_crc(old + JOURNAL_LOG_BASE, m.len);
    g_assert_cmpint(journal_data(j, &m, old + JOURNAL_LOG_BASE, &error_abort),
                    ==, 0);
    j = reopen(j);
    g_assert_null(j->damage);
    g_assert_cmpuint(j->end.epoch, ==, 2);
    g_assert_cmpuint(j->discarded_epoch, ==, 3);
    journal_close(j);
}

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

/* The ranges of an epoch are disjoint: a longer one is no epoch of ours. */
static void test_epoch_beyond_region(void)
{
    Journal *j = fresh();
    uint32_t digest = 0;
    int i;

    g_assert_cmpint(journal_begin(j, 1, &error_abort), ==, 0);
    for (i = 0; i < 2; i++) {
        PmemHaMsg m = { .flags = PMEM_HA_FLAG_ZERO, .arg1 = SIZE };

        digest = pmem_ha_wire_digest(digest, &m);
        g_assert_cmpint(journal_data(j, &m, NULL, &error_abort), ==, 0);
    }
    g_assert_cmpint(journal_commit(j, 2, 2 * SIZE, digest, &error_abort), ==,
                    0);
    g_assert_cmpint(journal_sync(j, &error_abort), ==, 0);
    j = reopen(j);
    g_assert_cmpuint(j->end.epoch, ==, 0);
    g_assert_nonnull(strstr(j->discard, "more bytes"));
    journal_close(j);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-pmem-ha-journal-XXXXXX", NULL);
    path = g_strdup_printf("%s/journal", dir);
    g_test_add_func("/pmem-ha/journal/round-trip", test_round_trip);
    g_test_add_func("/pmem-ha/journal/refusals", test_refusals);
    g_test_add_func("/pmem-ha/journal/wrong-commit", test_wrong_commit);
    g_test_add_func("/pmem-ha/journal/ghost", test_ghost);
    g_test_add_func("/pmem-ha/journal/cut/unacknowledged",
                    test_cut_unacknowledged);
    g_test_add_func("/pmem-ha/journal/cut/acknowledged",
                    test_cut_acknowledged);
    g_test_add_func("/pmem-ha/journal/flip/unacknowledged",
                    test_flip_unacknowledged);
    g_test_add_func("/pmem-ha/journal/flip/acknowledged",
                    test_flip_acknowledged);
    g_test_add_func("/pmem-ha/journal/flip/followed", test_flip_followed);
    g_test_add_func("/pmem-ha/journal/lost-superblock", test_lost_superblock);
    g_test_add_func("/pmem-ha/journal/forged", test_forged);
    g_test_add_func("/pmem-ha/journal/crash/process", test_crash_every_write);
    g_test_add_func("/pmem-ha/journal/crash/host", test_crash_of_host);
    g_test_add_func("/pmem-ha/journal/crash/restart",
                    test_crash_after_restart);
    g_test_add_func("/pmem-ha/journal/epoch-beyond-region",
                    test_epoch_beyond_region);
    ret = g_test_run();
    unlink(path);
    rmdir(dir);
    g_free(path);
    g_free(dir);
    return ret;
}
