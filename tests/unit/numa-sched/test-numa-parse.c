/*
 * NUMA scheduler: what sysfs files say
 *
 * Random lists and masks are drawn from GLib's test seed: it is printed, and
 * --seed gives it back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/parse.h"

#define SIZE    256     /* of the sets */

/* As a list; NULL: not a set, and nothing changed */
static char *set_of(bool (*parse)(const char *, size_t, unsigned long *,
                                  size_t),
                    const char *buf, size_t len, size_t size)
{
    /* What is read is not followed by anything that can be read. */
    g_autofree char *copy = len ? g_memdup2(buf, len) : g_malloc(1);
    g_autofree unsigned long *bits = bitmap_new(SIZE);
    g_autofree unsigned long *before = bitmap_new(SIZE);
    g_autoptr(GString) text = g_string_new(NULL);

    if (!parse(copy, len, bits, size)) {
        g_assert_true(bitmap_equal(bits, before, SIZE));
        return NULL;
    }
    g_assert_cmpuint(find_next_bit(bits, SIZE, size), ==, SIZE);
    for (unsigned long i = find_first_bit(bits, SIZE); i < SIZE;
         i = find_next_bit(bits, SIZE, i + 1)) {
        g_string_append_printf(text, "%s%lu", text->len ? " " : "", i);
    }
    return g_string_free(g_steal_pointer(&text), false);
}

typedef struct SetCase {
    const char *text;
    const char *set;
} SetCase;

static void check_sets(bool (*parse)(const char *, size_t, unsigned long *,
                                     size_t),
                       const SetCase *c, size_t n, size_t size)
{
    for (size_t i = 0; i < n; i++) {
        g_autofree char *set = set_of(parse, c[i].text, strlen(c[i].text),
                                      size);

        g_assert_cmpstr(set, ==, c[i].set);
    }
}

static void test_parse_list(void)
{
    static const SetCase cases[] = {
        { "", "" },
        { "\n", "" },
        { " \t\r\n", "" },
        { "0", "0" },
        { "0-3,8,10-11\n", "0 1 2 3 8 10 11" },
        { "  5 \x0a\n", "5" },
        { "007", "7" },
        { "3,1,1-2", "1 2 3" },
        { "99", "99" },
        { "98-99", "98 99" },
        { "100", NULL },
        { "98-100", NULL },
        { "0-99999999999", NULL },
        { "99999999999999999999999999999999999-0", NULL },
        { "18446744073709551616", NULL },
        { "3-1", NULL },
        { "1-", NULL },
        { "-1", NULL },
        { "1--2", NULL },
        { "1-2-3", NULL },
        { ",", NULL },
        { "1,", NULL },
        { ",1", NULL },
        { "1,,2", NULL },
        { "1, 2", NULL },
        { "1 2", NULL },
        { "1\n2", NULL },
        { "0-10:2/4", NULL },
        { "0x1", NULL },
        { "a", NULL },
        { "5,100", NULL },
    };
    g_autofree char *nul = set_of(ns_parse_list, "1-2\n\0\0", 6, 100);
    g_autofree char *inside = set_of(ns_parse_list, "1\0" "2", 3, 100);
    g_autofree char *none = set_of(ns_parse_list, "\n", 1, 0);
    g_autofree char *zero = set_of(ns_parse_list, "0", 1, 0);
    g_autofree char *one = set_of(ns_parse_list, "0", 1, 1);

    check_sets(ns_parse_list, cases, ARRAY_SIZE(cases), 100);
    g_assert_cmpstr(nul, ==, "1 2");
    g_assert_cmpstr(inside, ==, NULL);
    g_assert_cmpstr(none, ==, "");
    g_assert_cmpstr(zero, ==, NULL);
    g_assert_cmpstr(one, ==, "0");
}

static void test_parse_mask(void)
{
    static const SetCase cases[] = {
        { "0", "" },
        { "f\n", "0 1 2 3" },
        { "00000000,0000000f", "0 1 2 3" },
        { "1,00000000", "32" },
        { "00000000,00000000,00000000,00000000,00000000,00000001", "0" },
        { "A,80000001\n", "0 31 33 35" },
        { "8,00000000,00000000,00000000", "99" },
        { "10,00000000,00000000,00000000", NULL },
        { "1,00000000,00000000,00000000,00000000", NULL },
        { "", NULL },
        { "\n", NULL },
        { ",00000001", NULL },
        { "1,", NULL },
        { "1,,00000001", NULL },
        { "1,1", NULL },
        { "000000001", NULL },
        { "1,0000001", NULL },
        { "0x1", NULL },
        { "g", NULL },
        { "1 0", NULL },
        { "-1", NULL },
    };
    g_autofree char *nul = set_of(ns_parse_mask, "6\n\0", 3, 100);
    g_autofree char *inside = set_of(ns_parse_mask, "6\0" "6", 3, 100);
    g_autofree char *none = set_of(ns_parse_mask, "00", 2, 0);
    g_autofree char *zero = set_of(ns_parse_mask, "1", 1, 0);

    check_sets(ns_parse_mask, cases, ARRAY_SIZE(cases), 100);
    g_assert_cmpstr(nul, ==, "1 2");
    g_assert_cmpstr(inside, ==, NULL);
    g_assert_cmpstr(none, ==, "");
    g_assert_cmpstr(zero, ==, NULL);
}

/* Any set comes back, from both texts */
static void test_parse_random(void)
{
    for (unsigned round = 0; round < 500; round++) {
        g_autoptr(GString) as_list = g_string_new(NULL);
        g_autoptr(GString) as_mask = g_string_new(NULL);
        g_autofree unsigned long *set = bitmap_new(SIZE);
        g_autofree unsigned long *got = bitmap_new(SIZE);
        unsigned limit = g_test_rand_int_range(1, SIZE + 1);
        unsigned step = g_test_rand_int_range(1, 40);
        unsigned words = g_test_rand_int_range(SIZE / 32, SIZE / 32 + 3);

        for (unsigned at = g_test_rand_int_range(0, step); at < limit;
             at += g_test_rand_int_range(2, step + 2)) {
            unsigned run = MIN(g_test_rand_int_range(1, step + 1), limit - at);

            g_string_append_printf(as_list, run > 1 ? "%s%u-%u" : "%s%u",
                                   as_list->len ? "," : "", at, at + run - 1);
            bitmap_set(set, at, run);
            at += run;
        }
        while (words--) {
            uint32_t w = 0;

            for (unsigned i = 0; i < 32 && words < SIZE / 32; i++) {
                w |= (uint32_t)test_bit(words * 32 + i, set) << i;
            }
            g_string_append_printf(as_mask, words ? "%08x," : "%08x", w);
        }
        g_assert_true(ns_parse_list(as_list->str, as_list->len, got, limit));
        g_assert_true(bitmap_equal(set, got, SIZE));
        bitmap_zero(got, SIZE);
        g_assert_true(ns_parse_mask(as_mask->str, as_mask->len, got, limit));
        g_assert_true(bitmap_equal(set, got, SIZE));
    }
}

static void check_number(const char *text, size_t len, uint64_t max,
                         uint64_t expected)
{
    g_autofree char *copy = len ? g_memdup2(text, len) : g_malloc(1);
    uint64_t value = UINT64_MAX - 7;
    bool ok = ns_parse_number(copy, len, max, &value);

    g_assert_cmpint(ok, ==, expected != UINT64_MAX - 7);
    g_assert_cmpuint(value, ==, expected);
}

static void test_parse_number(void)
{
    const uint64_t bad = UINT64_MAX - 7;
    static const char *const malformed[] = {
        "", "\n", " ", "-1", "+1", "1 2", "1\n2", "0x1", "1a", "1.5", "11",
        "1000000000000000000000000000000", "18446744073709551616",
    };

    check_number("0", 1, 0, 0);
    check_number("1", 1, 0, bad);
    check_number("9", 1, 5, bad);
    check_number("5", 1, 5, 5);
    check_number("10", 2, 10, 10);
    check_number(" 010 \x0a", 6, 10, 10);
    check_number("7\n\0", 3, 10, 7);
    check_number("7\0" "7", 3, 100, bad);
    check_number("18446744073709551615", 20, UINT64_MAX, UINT64_MAX);
    check_number("18446744073709551616", 20, UINT64_MAX, bad);
    check_number("99999999999999999999", 20, UINT64_MAX, bad);
    check_number("65535", 5, 65535, 65535);
    check_number("65536", 5, 65535, bad);
    for (unsigned i = 0; i < ARRAY_SIZE(malformed); i++) {
        check_number(malformed[i], strlen(malformed[i]), 10, bad);
    }
}

static int row(const char *text, size_t len, uint32_t max, uint32_t *value,
               int n)
{
    g_autofree char *copy = len ? g_memdup2(text, len) : g_malloc(1);

    return ns_parse_row(copy, len, max, value, n);
}

static void test_parse_row(void)
{
    static const char *const bad[] = {
        "1 2 3 4", "1,2", "1 x", "x", "-1", "1 -2", "101", "1\n2", "1;",
        "1000000000000000000000000000000", "4294967296",
    };
    uint32_t v[3];

    g_assert_cmpint(row("", 0, 100, v, 3), ==, 0);
    g_assert_cmpint(row(" \x0a", 2, 100, v, 3), ==, 0);
    g_assert_cmpint(row("1", 1, 100, v, 0), ==, -1);
    g_assert_cmpint(row("", 0, 100, NULL, 0), ==, 0);
    g_assert_cmpint(row("10 21\t 100\n", 11, 100, v, 3), ==, 3);
    g_assert_cmpuint(v[0], ==, 10);
    g_assert_cmpuint(v[1], ==, 21);
    g_assert_cmpuint(v[2], ==, 100);
    g_assert_cmpint(row("4294967295\n\0", 12, UINT32_MAX, v, 3), ==, 1);
    g_assert_cmpuint(v[0], ==, UINT32_MAX);
    g_assert_cmpint(row("1\0" "2", 3, 100, v, 3), ==, -1);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_cmpint(row(bad[i], strlen(bad[i]), 100, v, 3), ==, -1);
    }
}

static bool meminfo(const char *text, size_t len, uint64_t max, uint64_t *bytes)
{
    g_autofree char *copy = len ? g_memdup2(text, len) : g_malloc(1);

    return ns_parse_meminfo(copy, len, "MemFree:", max, bytes);
}

static void test_parse_meminfo(void)
{
    static const char *const bad[] = {
        "", "\n", "MemFree:", "MemFree: 1", "MemFree: 1 k", "MemFree: 1 MB",
        "MemFree: 1 kBs", "MemFree: -1 kB", "MemFree: kB", "MemFree 1 kB",
        "MemFreed: 1 kB", "XMemFree: 1 kB", "Node MemFree: 1 kB",
        "Node x MemFree: 1 kB", "MemFree: 1025 kB", "MemFree: 1 kB 2",
        "MemFree: 1000000000000000000000000000000 kB",
        "MemFree: 18014398509481985 kB", "memfree: 1 kB",
        "MemFree: 9999 kB\nMemFree: 1 kB", "Node 0Mem", "Node 0", "Node ",
    };
    static const char *const good[] = {
        "MemFree: 3 kB", "MemFree:3kB\n", "Node 0 MemFree:     3 kB\n",
        "Node 1023 MemFree: 3 kB", "MemTotal: 9 kB\nMemFree: 3 kB\nX: 1 kB\n",
        "\n\nMemFree: 3 kB\nMemFree: 4 kB\n", "SMemFree: 2 kB\nMemFree: 3 kB",
        "Node 0 MemTotal: 9 kB\nNode 0 MemFree: 3 kB",
    };
    uint64_t bytes;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_false(meminfo(bad[i], strlen(bad[i]), MiB, &bytes));
    }
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        bytes = 0;
        g_assert_true(meminfo(good[i], strlen(good[i]), MiB, &bytes));
        g_assert_cmpuint(bytes, ==, 3 * KiB);
    }
    g_assert_true(meminfo("MemFree: 3 kB\n\0", 15, MiB, &bytes));
    g_assert_true(meminfo("\0\nMemFree: 3 kB", 15, MiB, &bytes));
    g_assert_false(meminfo("MemFree: 3\0kB", 13, MiB, &bytes));
    g_assert_true(meminfo("MemFree: 18014398509481983 kB", 29, UINT64_MAX,
                          &bytes));
    g_assert_cmpuint(bytes, ==, UINT64_MAX - 1023);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/parse/list", test_parse_list);
    g_test_add_func("/numa-sched/parse/mask", test_parse_mask);
    g_test_add_func("/numa-sched/parse/random", test_parse_random);
    g_test_add_func("/numa-sched/parse/number", test_parse_number);
    g_test_add_func("/numa-sched/parse/row", test_parse_row);
    g_test_add_func("/numa-sched/parse/meminfo", test_parse_meminfo);
    return g_test_run();
}
