/*
 * Page map: what a transfer means for it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Next to cases by hand, transfers that are drawn: what the map says after each
 * is compared with where each byte of the fake RAM came from.
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "migration/pagemap/map.h"

#define PAGE        ((uint64_t)PM_MAP_PAGE_SIZE)
#define PAGES       12
#define BASE        (64 * PAGE)         /* address of the fake RAM */
#define SECOND      (1000 * PAGE)       /* of its second half: another block */
#define HALF        (PAGES / 2 * PAGE)
#define NOWHERE     UINT64_MAX

typedef struct Ram {
    uint8_t *host;
    uint8_t *bounce;            /* not RAM */
    uint64_t step;              /* most that one answer covers; 0: no bound */
    uint64_t entry[PAGES];      /* offset in the device, or NOWHERE */
    uint64_t from[PAGES * PAGE]; /* the same of each byte */
    unsigned calls;
} Ram;

static bool resolve(void *opaque, const void *host, uint64_t *addr,
                    uint64_t *bytes)
{
    Ram *r = opaque;
    uint64_t at = (const uint8_t *)host - r->host;

    if ((const uint8_t *)host < r->host || at >= PAGES * PAGE) {
        return false;
    }
    *addr = BASE + at;
    if (at >= HALF) {
        *addr = SECOND + at - HALF;
    }
    *bytes = HALF - at % HALF;
    if (r->step) {
        *bytes = MIN(*bytes, r->step);
    }
    return true;
}

static void learn(void *opaque, uint64_t addr, const void *host, bool whole,
                  uint64_t offset)
{
    Ram *r = opaque;
    uint64_t page = addr < SECOND ? (addr - BASE) / PAGE :
                    (addr - SECOND + HALF) / PAGE;

    g_assert_cmpuint(addr % PAGE, ==, 0);
    g_assert_cmpuint(page, <, PAGES);
    if (whole) {
        g_assert_true(host == r->host + page * PAGE);
    }
    r->entry[page] = whole ? offset : NOWHERE;
    r->calls++;
}

static Ram *ram_new(void)
{
    Ram *r = g_new0(Ram, 1);
    uint64_t i;

    r->host = qemu_memalign(PAGE, PAGES * PAGE);
    r->bounce = qemu_memalign(PAGE, 4 * PAGE);
    for (i = 0; i < PAGES * PAGE; i++) {
        r->from[i] = NOWHERE;
    }
    for (i = 0; i < PAGES; i++) {
        r->entry[i] = NOWHERE;
    }
    return r;
}

static void ram_free(Ram *r)
{
    qemu_vfree(r->host);
    qemu_vfree(r->bounce);
    g_free(r);
}

static void transfer(Ram *r, const struct iovec *iov, unsigned n,
                     uint64_t offset)
{
    unsigned i;
    size_t k;

    pm_observe(iov, n, offset, true, resolve, learn, r);
    for (i = 0; i < n; i++) {
        uint64_t at = (uint8_t *)iov[i].iov_base - r->host;

        for (k = 0; k < iov[i].iov_len; k++, offset++) {
            if ((uint8_t *)iov[i].iov_base >= r->host &&
                at + k < PAGES * PAGE) {
                r->from[at + k] = offset;
            }
        }
    }
}

static bool page_is_whole(const Ram *r, unsigned page)
{
    const uint64_t *from = &r->from[page * PAGE];
    unsigned i;

    for (i = 0; i < PAGE; i++) {
        if (from[0] == NOWHERE || from[0] % 512 || from[i] != from[0] + i) {
            return false;
        }
    }
    return true;
}

static struct iovec buffer(Ram *r, uint64_t at, uint64_t len)
{
    return (struct iovec) { r->host + at, len };
}

static void test_whole(void)
{
    Ram *r = ram_new();
    struct iovec iov[] = { buffer(r, PAGE, 2 * PAGE),
                           buffer(r, 7 * PAGE, PAGE) };

    transfer(r, iov, 2, 63 * 512);
    g_assert_cmpuint(r->entry[0], ==, NOWHERE);
    g_assert_cmpuint(r->entry[1], ==, 63 * 512);
    g_assert_cmpuint(r->entry[2], ==, 63 * 512 + PAGE);
    g_assert_cmpuint(r->entry[3], ==, NOWHERE);
    g_assert_cmpuint(r->entry[7], ==, 63 * 512 + 2 * PAGE);
    g_assert_cmpuint(r->calls, ==, 3);
    ram_free(r);
}

/* Buffers of a sector each; and answers of a few bytes each */
static void test_continued(void)
{
    Ram *r = ram_new();
    struct iovec iov[16];
    unsigned i;

    for (i = 0; i < 16; i++) {
        iov[i] = buffer(r, 2 * PAGE + i * 512, 512);
    }
    transfer(r, iov, 16, 1024);
    g_assert_cmpuint(r->entry[2], ==, 1024);
    g_assert_cmpuint(r->entry[3], ==, 1024 + PAGE);
    g_assert_cmpuint(r->calls, ==, 2);

    r->step = 100;
    r->entry[2] = r->entry[3] = NOWHERE;
    transfer(r, iov, 16, 2048);
    g_assert_cmpuint(r->entry[2], ==, 2048);
    g_assert_cmpuint(r->entry[3], ==, 2048 + PAGE);
    ram_free(r);
}

/* A page that is covered by consecutive buffers, but not in this order */
static void test_not_consecutive(void)
{
    Ram *r = ram_new();
    struct iovec swapped[] = { buffer(r, PAGE + 2048, 2048),
                               buffer(r, PAGE, 2048) };
    struct iovec gap[] = { buffer(r, 2 * PAGE, 2048),
                           { r->bounce, 512 },
                           buffer(r, 2 * PAGE + 2048, 2048) };
    struct iovec alien[] = { { r->bounce, 3 * PAGE } };

    r->entry[1] = r->entry[2] = r->entry[4] = 512;
    transfer(r, swapped, 2, 0);
    g_assert_cmpuint(r->entry[1], ==, NOWHERE);
    transfer(r, gap, 3, 0);
    g_assert_cmpuint(r->entry[2], ==, NOWHERE);
    r->calls = 0;
    transfer(r, alien, 1, 0);
    pm_observe(NULL, 0, 0, true, resolve, learn, r);
    g_assert_cmpuint(r->calls, ==, 0);
    g_assert_cmpuint(r->entry[4], ==, 512);
    ram_free(r);
}

static void test_partial(void)
{
    Ram *r = ram_new();
    struct iovec iov = buffer(r, PAGE + 512, 2 * PAGE);
    struct iovec odd = buffer(r, 8 * PAGE, PAGE);
    struct iovec edge = buffer(r, HALF - 512, 1024);

    r->entry[1] = r->entry[2] = r->entry[3] = 512;
    transfer(r, &iov, 1, 0);
    g_assert_cmpuint(r->entry[1], ==, NOWHERE);
    g_assert_cmpuint(r->entry[2], ==, PAGE - 512);
    g_assert_cmpuint(r->entry[3], ==, NOWHERE);

    /* No request has such an offset, but nothing depends on that. */
    r->entry[8] = 512;
    transfer(r, &odd, 1, 100);
    g_assert_cmpuint(r->entry[8], ==, NOWHERE);

    /* Two blocks that follow each other in the host only */
    r->entry[PAGES / 2 - 1] = r->entry[PAGES / 2] = 512;
    transfer(r, &edge, 1, 0);
    g_assert_cmpuint(r->entry[PAGES / 2 - 1], ==, NOWHERE);
    g_assert_cmpuint(r->entry[PAGES / 2], ==, NOWHERE);
    ram_free(r);
}

static void test_failed(void)
{
    Ram *r = ram_new();
    struct iovec iov[] = { buffer(r, PAGE, PAGE),
                           buffer(r, 3 * PAGE + 512, PAGE) };
    unsigned i;

    for (i = 0; i < PAGES; i++) {
        r->entry[i] = 512;
    }
    pm_observe(iov, 2, 0, false, resolve, learn, r);
    for (i = 0; i < PAGES; i++) {
        bool touched = i == 1 || i == 3 || i == 4;

        g_assert_cmpuint(r->entry[i], ==, touched ? NOWHERE : 512);
    }
    ram_free(r);
}

static void test_drawn(void)
{
    static const unsigned unit[] = { 512, 512, 1024, 2048, 4096, 4096, 1 };
    unsigned round, i, whole = 0;

    for (round = 0; round < 3000; round++) {
        Ram *r = ram_new();
        unsigned u = unit[g_test_rand_int_range(0, ARRAY_SIZE(unit))];
        unsigned transfers = g_test_rand_int_range(1, 4);
        bool single = transfers == 1;

        r->step = g_test_rand_bit() ? g_test_rand_int_range(1, 5000) : 0;
        while (transfers--) {
            struct iovec iov[12];
            unsigned n = g_test_rand_int_range(1, ARRAY_SIZE(iov) + 1);
            uint64_t at = 0, len = 0;

            for (i = 0; i < n; i++) {
                /* Often where the one before ended */
                at = i && g_test_rand_int_range(0, 3) ? at + len :
                     (uint64_t)g_test_rand_int_range(0, PAGES * PAGE / u) * u;
                at %= PAGES * PAGE;
                len = (uint64_t)g_test_rand_int_range(1, 2 * PAGE / u + 1) * u;
                len = MIN(len, PAGES * PAGE - at);
                iov[i] = buffer(r, at, len);
                if (!g_test_rand_int_range(0, 10)) {
                    iov[i].iov_base = r->bounce;
                }
            }
            transfer(r, iov, n,
                     (uint64_t)g_test_rand_int_range(0, 1000) * 512);
        }
        /*
         * What is claimed is so.  What is so is claimed, if one transfer made
         * it so.
         */
        for (i = 0; i < PAGES; i++) {
            bool is = page_is_whole(r, i);

            if (r->entry[i] != NOWHERE || (is && single)) {
                g_assert_true(is);
                g_assert_cmpuint(r->entry[i], ==, r->from[i * PAGE]);
            }
            whole += is;
        }
        ram_free(r);
    }
    g_assert_cmpuint(whole, >, 1000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/whole", test_whole);
    g_test_add_func("/page-map/continued", test_continued);
    g_test_add_func("/page-map/not-consecutive", test_not_consecutive);
    g_test_add_func("/page-map/partial", test_partial);
    g_test_add_func("/page-map/failed", test_failed);
    g_test_add_func("/page-map/drawn", test_drawn);
    return g_test_run();
}
