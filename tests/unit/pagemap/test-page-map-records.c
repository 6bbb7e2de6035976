/*
 * Page map: the messages of a batch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/pagemap/records.h"

/* Sorted, mostly consecutive, with repetitions and half pages between */
static size_t draw_pages(PmFetch *page)
{
    size_t n = g_test_rand_int_range(1, PM_MAX_BATCH + 1);
    uint16_t device = 1;
    uint64_t offset = 0;

    for (size_t i = 0; i < n; i++) {
        switch (g_test_rand_int_range(0, 200)) {
        case 0:
            device++;
            offset = 512 * g_test_rand_int_range(0, 100);
            break;
        case 1:
            break;                      /* the same place twice */
        case 2:
            offset += 512;
            break;
        case 3:
            offset += 10 * PM_PAGE_SIZE;
            break;
        default:
            offset += PM_PAGE_SIZE;
        }
        page[i] = (PmFetch) {
            .offset = offset, .device = device,
            .block = g_test_rand_int_range(0, 3),
            .page = g_test_rand_int_range(0, 1 << 20),
        };
        for (size_t b = 0; b < sizeof(PmTag); b++) {
            page[i].tag.b[b] = g_test_rand_int();
        }
    }
    return n;
}

static void check(const PmFetch *page, size_t n)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree PmRun *run = g_new(PmRun, 1);
    size_t at = 0, i = 0, runs = 0, least = 1;
    PmCommit commit;
    PmMsgType type;
    uint32_t len;

    for (size_t k = 1, length = 1; k < n; k++, length++) {
        if (page[k].device != page[k - 1].device ||
            page[k].offset != page[k - 1].offset + PM_PAGE_SIZE ||
            length == PM_MAX_RUN) {
            least++;
            length = 0;
        }
    }
    pm_put_records(out, 7, page, n);
    for (;;) {
        g_assert_true(pm_get_header(out->data + at, &type, &len, &error_abort));
        at += PM_HEADER_SIZE;
        if (type == PM_MSG_COMMIT) {
            break;
        }
        g_assert_cmpint(type, ==, PM_MSG_RUN);
        g_assert_true(pm_get_run(out->data + at, len, run, &error_abort));
        at += len;
        runs++;
        g_assert_cmpuint(run->batch, ==, 7);
        for (unsigned k = 0; k < run->n; k++, i++) {
            g_assert_cmpuint(i, <, n);
            g_assert_cmpuint(run->device, ==, page[i].device);
            g_assert_cmpuint(run->offset + (uint64_t)k * PM_PAGE_SIZE, ==,
                             page[i].offset);
            g_assert_cmpuint(run->pages[k].block, ==, page[i].block);
            g_assert_cmpuint(run->pages[k].page, ==, page[i].page);
            g_assert_cmpmem(&run->pages[k].tag, sizeof(PmTag), &page[i].tag,
                            sizeof(PmTag));
        }
    }
    g_assert_cmpuint(i, ==, n);
    g_assert_cmpuint(runs, ==, least);
    g_assert_true(pm_get_commit(out->data + at, len, &commit, &error_abort));
    g_assert_cmpuint(commit.batch, ==, 7);
    g_assert_cmpuint(commit.n, ==, n);
    g_assert_cmpuint(at + len, ==, out->len);
}

static void test_draw(void)
{
    g_autofree PmFetch *page = g_new(PmFetch, PM_MAX_BATCH);

    for (int i = 0; i < 500; i++) {
        size_t n = draw_pages(page);

        check(page, n);
    }
}

static void test_block_name(void)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    PmBlockName m;

    pm_put_block_named(out, 9, "pc.ram");
    g_assert_true(pm_get_block(out->data + PM_HEADER_SIZE,
                               out->len - PM_HEADER_SIZE, &m, &error_abort));
    g_assert_cmpuint(m.number, ==, 9);
    g_assert_cmpstr(m.name, ==, "pc.ram");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/records/draw", test_draw);
    g_test_add_func("/page-map/records/block-name", test_block_name);
    return g_test_run();
}
