/*
 * The replica's journal: torn, damaged and forged logs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "test-pmem-ha-journal.h"

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

static void poke(gsize at, char value)
{
    int fd = open(path, O_RDWR);

    g_assert_cmpint(pwrite(fd, &value, 1, at), ==, 1);
    close(fd);
}

/*
 * Power is lost while the journal is created: any sectors of its superblock
 * arrived.  It starts anew; but one that was whole and rots is damage.
 */
static int creation_syncs;

static int note_creation(int fd)
{
    struct stat st;

    /* What arrived must not mix with what the next attempt writes. */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !st.st_size) {
        creation_syncs++;
    }
    return 0;
}

static void test_torn_creation(void)
{
    static const PmemHaMediaHooks note = { .sync = note_creation };
    Bytes b, torn;
    unsigned set, i;
    Journal *j;

    unlink(path);
    journal_close(journal_open(path, SIZE, &error_abort));
    g_assert_true(g_file_get_contents(path, &b.data, &b.len, NULL));
    g_assert_cmpuint(b.len, ==, 8192);
    torn = (Bytes) { g_malloc(b.len), b.len };
    for (set = 0; set < 256; set++) {
        memset(torn.data, 0, b.len);
        for (i = 0; i < 8; i++) {
            if (set & (1 << i)) {
                memcpy(torn.data + 4096 + i * 512, b.data + 4096 + i * 512,
                       512);
            }
        }
        put(&torn, b.len);
        creation_syncs = 0;
        pmem_ha_media_set_hooks(&note);
        j = journal_open(path, SIZE, &error_abort);
        pmem_ha_media_set_hooks(NULL);
        g_assert_cmpuint(j->super.number, ==, 1);
        g_assert_cmpint(creation_syncs, ==,
                        (set & 0x85) && (set & 0x85) != 0x85);
        g_assert_true(write_epoch(j, true));
        j = reopen(j);
        g_assert_cmpuint(j->end.epoch, ==, 1);
        journal_close(j);
    }
    for (i = 4096; i < 8192; i++) {
        put(&b, b.len);
        poke(i, b.data[i] ^ 0x10);
        open_bad(SIZE, "damaged");
    }
    g_free(torn.data);
    g_free(b.data);
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
static void add_tests(void)
{
    g_test_add_func("/pmem-ha/journal/round-trip", test_round_trip);
    g_test_add_func("/pmem-ha/journal/refusals", test_refusals);
    g_test_add_func("/pmem-ha/journal/torn-creation", test_torn_creation);
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
    g_test_add_func("/pmem-ha/journal/epoch-beyond-region",
                    test_epoch_beyond_region);
}

int main(int argc, char **argv)
{
    return run_tests(argc, argv, add_tests);
}
