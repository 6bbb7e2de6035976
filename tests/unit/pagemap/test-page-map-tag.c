/*
 * Page map: tags
 *
 *     test-page-map-tag -m perf       also measures
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "crypto/hash.h"
#include "crypto/init.h"
#include "migration/pagemap/wire.h"
#include "wrap-hash.h"

static bool hash_fails;

int __wrap_qcrypto_hash_bytesv(QCryptoHashAlgo alg, const struct iovec *iov,
                               size_t n, uint8_t **result, size_t *len,
                               Error **errp)
{
    if (hash_fails) {
        error_setg(errp, "no memory for a hash");
        return -1;
    }
    return __real_qcrypto_hash_bytesv(alg, iov, n, result, len, errp);
}

/* Byte i is 7 * i + (i >> 8), so that no two parts of the page are equal. */
static void fill(uint8_t *page)
{
    for (int i = 0; i < PM_PAGE_SIZE; i++) {
        page[i] = i * 7 + (i >> 8);
    }
}

/*
 * Computed by Python:
 *
 *   key = bytes(range(16))
 *   page = bytes((i * 7 + (i >> 8)) & 255 for i in range(4096))
 *   hashlib.sha256(key + page).hexdigest()[:32]
 *   hashlib.sha256(bytes(16) + bytes(4096)).hexdigest()[:32]
 */
static void test_known(void)
{
    static const PmTag expect = { {
        0xba, 0x87, 0xb8, 0x31, 0x35, 0x59, 0xde, 0x4a,
        0xc1, 0x22, 0xa0, 0xb9, 0x33, 0xaf, 0x6a, 0xab,
    } };
    static const PmTag zeroes = { {
        0xd7, 0xaf, 0x8f, 0x8b, 0xdd, 0xfd, 0x8b, 0x18,
        0xae, 0x03, 0x17, 0x11, 0x50, 0xad, 0x5c, 0x10,
    } };
    static const PmKey no_key;
    g_autofree uint8_t *page = g_malloc0(PM_PAGE_SIZE);
    PmKey key;
    PmTag tag;

    pm_tag(&no_key, page, &tag);
    g_assert_cmpmem(&tag, sizeof(tag), &zeroes, sizeof(zeroes));

    for (int i = 0; i < sizeof(key.b); i++) {
        key.b[i] = i;
    }
    fill(page);
    pm_tag(&key, page, &tag);
    g_assert_cmpmem(&tag, sizeof(tag), &expect, sizeof(expect));
}

/* One bit of the key, or anywhere in the page, makes another tag. */
static void test_differs(void)
{
    g_autofree uint8_t *page = g_malloc(PM_PAGE_SIZE);
    PmKey key = { { 1, 2, 3 } };
    PmTag tag, other;

    fill(page);
    pm_tag(&key, page, &tag);
    for (int bit = 0; bit < 128; bit++) {
        key.b[bit / 8] ^= 1 << bit % 8;
        pm_tag(&key, page, &other);
        g_assert_false(pm_tag_equal(&tag, &other));
        key.b[bit / 8] ^= 1 << bit % 8;
    }
    for (int i = 0; i < PM_PAGE_SIZE; i++) {
        page[i] ^= 1 << i % 8;
        pm_tag(&key, page, &other);
        g_assert_false(pm_tag_equal(&tag, &other));
        page[i] ^= 1 << i % 8;
    }
    pm_tag(&key, page, &other);
    g_assert_true(pm_tag_equal(&tag, &other));
}

static void test_equal(void)
{
    PmTag a = { { 1 } }, b, none = { { 0 } };

    for (int bit = 0; bit < 128; bit++) {
        b = a;
        g_assert_true(pm_tag_equal(&a, &b));
        b.b[bit / 8] ^= 1 << bit % 8;
        g_assert_false(pm_tag_equal(&a, &b));
    }
    /* What stands for a tag that could not be computed */
    g_assert_false(pm_tag_equal(&none, &none));
}

/* A page whose tag cannot be computed is fetched from nowhere. */
static void test_no_tag(void)
{
    g_autofree uint8_t *page = g_malloc0(PM_PAGE_SIZE);
    PmKey key = { { 1 } };
    PmTag tag, other;

    memset(&tag, 0xaa, sizeof(tag));
    memset(&other, 0xaa, sizeof(other));
    hash_fails = true;
    pm_tag(&key, page, &tag);
    pm_tag(&key, page, &other);
    hash_fails = false;
    g_assert_false(pm_tag_equal(&tag, &other));
    pm_tag(&key, page, &other);
    g_assert_false(pm_tag_equal(&tag, &other));
}

static void test_key(void)
{
    PmKey a = { { 0 } }, b = { { 0 } }, none = { { 0 } };

    g_assert_true(pm_key_new(&a, &error_abort));
    g_assert_true(pm_key_new(&b, &error_abort));
    g_assert_cmpint(memcmp(&a, &b, sizeof(a)), !=, 0);
    g_assert_cmpint(memcmp(&a, &none, sizeof(a)), !=, 0);
    /* Not only a part of it */
    g_assert_cmpint(memcmp(a.b + 12, b.b + 12, 4), !=, 0);
}

/* Pages that are not in the processor's cache, as those of a guest */
static void test_speed(void)
{
    enum { PAGES = 32768 };
    g_autofree uint8_t *ram = g_malloc(PAGES * (size_t)PM_PAGE_SIZE);
    PmKey key = { { 1 } };
    PmTag tag;
    double s;

    for (size_t i = 0; i < PAGES; i++) {
        fill(ram + i * PM_PAGE_SIZE);
    }
    g_test_timer_start();
    for (size_t i = 0; i < PAGES; i++) {
        pm_tag(&key, ram + i * PM_PAGE_SIZE, &tag);
    }
    s = g_test_timer_elapsed();
    g_test_maximized_result(PAGES * (double)PM_PAGE_SIZE / 1e6 / s,
                            "pm_tag: %.0f MB/s, %.2f us for a page",
                            PAGES * (double)PM_PAGE_SIZE / 1e6 / s,
                            s * 1e6 / PAGES);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qcrypto_init(&error_abort);
    g_test_add_func("/page-map/tag/known", test_known);
    g_test_add_func("/page-map/tag/differs", test_differs);
    g_test_add_func("/page-map/tag/equal", test_equal);
    g_test_add_func("/page-map/tag/none", test_no_tag);
    g_test_add_func("/page-map/tag/key", test_key);
    if (g_test_perf()) {
        g_test_add_func("/page-map/tag/speed", test_speed);
    }
    return g_test_run();
}
