/*
 * State file of a primary: torn slots, locks, lineage
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "hw/mem/pmem-ha-media.h"
#include "hw/mem/pmem-ha-state.h"

static char *dir;

static char *fresh(void)
{
    char *path = g_strdup_printf("%s/state", dir);

    unlink(path);
    return path;
}

static PmemHaStateRecord record(uint64_t epoch)
{
    PmemHaStateRecord r = {
        .uuid = { .data = { 9, 8, 7 } },
        .size = 1 << 20, .generation = 4, .captured = epoch, .acked = epoch,
        .clean = epoch % 2,
        .history = { { 3, 50 }, { 1, 20 } },
    };

    memset(r.digest, epoch, sizeof(r.digest));
    return r;
}

static PmemHaStateFile *open_ok(const char *path, PmemHaStateRecord *r,
                                bool expect_found)
{
    bool found = !expect_found;
    PmemHaStateFile *f = pmem_ha_state_open(path, r, &found, &error_abort);

    g_assert_nonnull(f);
    g_assert_cmpint(found, ==, expect_found);
    return f;
}

static void open_bad(const char *path, const char *text)
{
    PmemHaStateRecord r;
    Error *err = NULL;
    bool found;

    g_assert_null(pmem_ha_state_open(path, &r, &found, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_round_trip(void)
{
    g_autofree char *path = fresh();
    PmemHaStateRecord r, w;
    PmemHaStateFile *f = open_ok(path, &r, false);
    uint64_t i;

    open_bad(path, "lock");
    for (i = 1; i < 20; i++) {
        w = record(i);
        g_assert_true(pmem_ha_state_write(f, &w, i % 3 == 0, &error_abort));
        pmem_ha_state_close(f);
        f = open_ok(path, &r, true);
        g_assert_cmpmem(&r, sizeof(r), &w, sizeof(w));
    }
    g_assert_true(pmem_ha_state_sync(f, &error_abort));
    pmem_ha_state_close(f);
    pmem_ha_state_close(NULL);
}

/* A record that is not durable never replaces the durable one. */
static void test_torn(void)
{
    g_autofree char *path = fresh();
    g_autofree char *before = NULL;
    g_autofree char *after = NULL;
    PmemHaStateRecord r, w;
    PmemHaStateFile *f = open_ok(path, &r, false);
    gsize n_before, n_after, cut;

    w = record(5);
    g_assert_true(pmem_ha_state_write(f, &w, true, &error_abort));
    w = record(6);
    g_assert_true(pmem_ha_state_write(f, &w, false, &error_abort));
    g_assert_true(g_file_get_contents(path, &before, &n_before, NULL));
    w = record(7);
    g_assert_true(pmem_ha_state_write(f, &w, false, &error_abort));
    pmem_ha_state_close(f);
    g_assert_true(g_file_get_contents(path, &after, &n_after, NULL));
    g_assert_cmpuint(n_before, ==, 8192);
    g_assert_cmpuint(n_after, ==, 8192);

    for (cut = 0; cut < n_after; cut += 97) {
        g_autofree char *torn = g_memdup2(after, n_after);

        /* The other slot holds whatever part of the two writes arrived. */
        memcpy(torn + cut, before + cut, n_after - cut);
        g_assert_true(g_file_set_contents(path, torn, n_after, NULL));
        f = open_ok(path, &r, true);
        g_assert_cmpuint(r.acked, >=, 5);
        g_assert_cmpuint(r.acked, <=, 7);
        w = record(r.acked);
        g_assert_cmpmem(&r, sizeof(r), &w, sizeof(w));
        pmem_ha_state_close(f);

        torn[cut] ^= 0x40;
        g_assert_true(g_file_set_contents(path, torn, n_after, NULL));
        f = open_ok(path, &r, true);
        g_assert_cmpuint(r.acked, >=, 5);
        w = record(r.acked);
        g_assert_cmpmem(&r, sizeof(r), &w, sizeof(w));
        pmem_ha_state_close(f);
    }
}

/*
 * Power is lost while the first record is written: any of its sectors arrived.
 * Unless all did, there is none; and a whole one that rots is damage.
 */
static void test_torn_first(void)
{
    g_autofree char *path = fresh();
    g_autofree char *whole = NULL;
    PmemHaStateRecord r, w = record(5);
    PmemHaStateFile *f = open_ok(path, &r, false);
    unsigned set, i;
    gsize n;

    g_assert_true(pmem_ha_state_write(f, &w, true, &error_abort));
    pmem_ha_state_close(f);
    g_assert_true(g_file_get_contents(path, &whole, &n, NULL));
    g_assert_cmpuint(n, ==, 8192);

    for (set = 0; set < 256; set++) {
        bool all = (set & 0x81) == 0x81;
        g_autofree char *torn = g_malloc0(n);

        for (i = 0; i < 8; i++) {
            if (set & (1 << i)) {
                memcpy(torn + 4096 + i * 512, whole + 4096 + i * 512, 512);
            }
        }
        g_assert_true(g_file_set_contents(path, torn, n, NULL));
        f = open_ok(path, &r, all);
        if (!all) {
            g_autofree char *left = NULL;
            gsize n_left;

            /* What arrived must not mix with what the next attempt writes. */
            g_assert_true(g_file_get_contents(path, &left, &n_left, NULL));
            g_assert_true(buffer_is_zero(left, n_left));
            g_assert_true(pmem_ha_state_write(f, &w, true, &error_abort));
            pmem_ha_state_close(f);
            f = open_ok(path, &r, true);
        }
        pmem_ha_state_close(f);
        g_assert_cmpmem(&r, sizeof(r), &w, sizeof(w));
    }
    for (i = 4096; i < 4096 + 288; i++) {
        g_autofree char *rotten = g_memdup2(whole, n);

        rotten[i] ^= 0x10;
        g_assert_true(g_file_set_contents(path, rotten, n, NULL));
        open_bad(path, "damaged");
    }
}

static void test_not_ours(void)
{
    g_autofree char *path = fresh();
    g_autofree char *buf = g_malloc0(8192);

    /* Lost before its first write was durable: as if it were new. */
    g_assert_true(g_file_set_contents(path, buf, 8192, NULL));
    PmemHaStateRecord r;
    pmem_ha_state_close(open_ok(path, &r, false));

    g_assert_true(g_file_set_contents(path, "hello", 5, NULL));
    open_bad(path, "not a state file");
    open_bad(dir, "state file");
    open_bad("/nonexistent/x", "/nonexistent/x");
}

static void test_newer_version(void)
{
    g_autofree char *path = fresh();
    g_autofree char *buf = NULL;
    PmemHaStateRecord r, w = record(3);
    PmemHaStateFile *f = open_ok(path, &r, false);
    gsize n;

    g_assert_true(pmem_ha_state_write(f, &w, true, &error_abort));
    pmem_ha_state_close(f);
    g_assert_true(g_file_get_contents(path, &buf, &n, NULL));
    stl_le_p(buf + n - 4096 + 8, 2);
    stl_le_p(buf + n - 4,
             crc32c(0xffffffff, (uint8_t *)buf + n - 4096, 4092));
    g_assert_true(g_file_set_contents(path, buf, n, NULL));
    open_bad(path, "version 2");
}

static void test_holds(void)
{
    PmemHaStateRecord r = record(60);
    PmemHaStateRecord n;

    g_assert_true(pmem_ha_state_holds(&r, 4, 60));
    g_assert_true(pmem_ha_state_holds(&r, 4, 1));
    g_assert_false(pmem_ha_state_holds(&r, 4, 61));
    g_assert_true(pmem_ha_state_holds(&r, 3, 50));
    g_assert_false(pmem_ha_state_holds(&r, 3, 51));
    g_assert_false(pmem_ha_state_holds(&r, 2, 1));
    g_assert_true(pmem_ha_state_holds(&r, 1, 20));
    g_assert_false(pmem_ha_state_holds(&r, 5, 1));
    g_assert_false(pmem_ha_state_holds(&r, 0, 0));

    n = r;
    n.captured = 61;
    g_assert_true(pmem_ha_state_holds(&n, 4, 61));
    pmem_ha_state_next_generation(&n);
    g_assert_cmpuint(n.generation, ==, 5);
    g_assert_cmpuint(n.history[0].generation, ==, 4);
    g_assert_cmpuint(n.history[0].last_epoch, ==, 60);
    g_assert_cmpuint(n.history[1].generation, ==, 3);
    g_assert_true(pmem_ha_state_holds(&n, 4, 60));
    g_assert_false(pmem_ha_state_holds(&n, 4, 61));
}

static ssize_t no_space(int fd, const void *buf, size_t len, uint64_t offset)
{
    return -ENOSPC;
}

static int bad_sync(int fd)
{
    return -EIO;
}

static void test_errors(void)
{
    static const PmemHaMediaHooks full = { .write = no_space };
    static const PmemHaMediaHooks broken = { .sync = bad_sync };
    g_autofree char *path = fresh();
    PmemHaStateRecord r, w = record(3);
    PmemHaStateFile *f = open_ok(path, &r, false);
    Error *err = NULL;

    pmem_ha_media_set_hooks(&full);
    g_assert_false(pmem_ha_state_write(f, &w, true, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), path));
    g_assert_nonnull(strstr(error_get_pretty(err), "free space"));
    error_free(err);
    err = NULL;
    pmem_ha_media_set_hooks(&broken);
    g_assert_false(pmem_ha_state_write(f, &w, true, &err));
    error_free(err);
    pmem_ha_media_set_hooks(NULL);
    g_assert_true(pmem_ha_state_write(f, &w, true, &error_abort));
    pmem_ha_state_close(f);
    pmem_ha_state_close(open_ok(path, &r, true));
    g_assert_cmpuint(r.acked, ==, 3);
}

static void test_boot_id(void)
{
    QemuUUID a, b;

    g_assert_true(pmem_ha_state_boot_id(&a, &error_abort));
    g_assert_true(pmem_ha_state_boot_id(&b, &error_abort));
    g_assert_true(qemu_uuid_is_equal(&a, &b));
    g_assert_false(qemu_uuid_is_null(&a));
}

int main(int argc, char **argv)
{
    g_autofree char *path = NULL;
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-pmem-ha-state-XXXXXX", NULL);
    g_test_add_func("/pmem-ha/state/round-trip", test_round_trip);
    g_test_add_func("/pmem-ha/state/torn", test_torn);
    g_test_add_func("/pmem-ha/state/torn-first", test_torn_first);
    g_test_add_func("/pmem-ha/state/not-ours", test_not_ours);
    g_test_add_func("/pmem-ha/state/newer-version", test_newer_version);
    g_test_add_func("/pmem-ha/state/holds", test_holds);
    g_test_add_func("/pmem-ha/state/errors", test_errors);
    g_test_add_func("/pmem-ha/state/boot-id", test_boot_id);
    ret = g_test_run();
    path = fresh();
    rmdir(dir);
    g_free(dir);
    return ret;
}
