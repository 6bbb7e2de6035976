/*
 * What tests of the replica's journal share: epochs whose content follows from
 * their number alone, so that a mix of two is always found out
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_PMEM_HA_JOURNAL_H
#define TEST_PMEM_HA_JOURNAL_H

#include "qemu/bswap.h"
#include "qapi/error.h"
#include "hw/mem/pmem-ha-media.h"
#include "tools/qemu-pmem-replica/journal.h"

#define PAGES  8
#define SIZE   (PAGES * PMEM_HA_PAGE_SIZE)

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

static inline Journal *reopen(Journal *j)
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

/* As main() of a test: @add adds the tests. */
static int run_tests(int argc, char **argv, void (*add)(void))
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-pmem-ha-journal-XXXXXX", NULL);
    path = g_strdup_printf("%s/journal", dir);
    add();
    ret = g_test_run();
    unlink(path);
    rmdir(dir);
    g_free(path);
    g_free(dir);
    return ret;
}

#endif
