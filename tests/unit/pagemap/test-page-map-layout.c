/*
 * qemu-page-map-flatten: the layout of a file: what is found in a right one,
 * and refusals of wrong ones
 *
 * Random damage is drawn from GLib's test seed: it is printed, and --seed gives
 * it back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "tools/qemu-page-map-flatten/layout.h"
#include "page-map-file.h"

/*
 * Reading it: everything that comes is checked and written down
 */

typedef struct Seen {
    const uint8_t *data;
    uint64_t size;
    uint64_t end;               /* of what was kept or is a block */
    GString *log;
    GArray *pages;              /* of each block */
    GArray *numbers;            /* of disks */
} Seen;

static bool on_read(void *opaque, uint64_t offset, void *buf, size_t n,
                    Error **errp)
{
    Seen *s = opaque;

    g_assert_cmpuint(offset, <=, s->size);
    g_assert_cmpuint(n, <=, s->size - offset);
    memcpy(buf, s->data + offset, n);
    return true;
}

static bool on_keep(void *opaque, uint64_t from, uint64_t to, Error **errp)
{
    Seen *s = opaque;

    g_assert_cmpuint(from, >=, s->end);
    g_assert_cmpuint(to, >, from);
    g_assert_cmpuint(to, <=, s->size);
    s->end = to;
    g_string_append_printf(s->log, "keep %" PRIx64 " %" PRIx64 "\n", from, to);
    return true;
}

static bool on_block(void *opaque, const FlatBlock *b, Error **errp)
{
    Seen *s = opaque;
    uint64_t pages = b->length / PM_PAGE_SIZE;

    g_assert_cmpuint(b->length % PM_PAGE_SIZE, ==, 0);
    g_assert_cmpuint(pages, >, 0);
    g_assert_cmpuint(b->bitmap_offset, >=, s->end);
    g_assert_cmpuint(b->pages_offset, >=, b->bitmap_offset);
    g_assert_cmpuint(b->pages_offset - b->bitmap_offset, >=,
                     flat_bitmap_size(b->length));
    g_assert_cmpuint(b->pages_offset, <=, s->size);
    g_assert_cmpuint(b->length, <=, s->size - b->pages_offset);
    s->end = b->pages_offset + b->length;
    g_array_append_val(s->pages, pages);
    g_string_append_printf(s->log, "block %s %" PRIx64 " %" PRIx64 " %" PRIx64
                           "\n", b->name, b->length, b->bitmap_offset,
                           b->pages_offset);
    return true;
}

static void log_bytes(GString *log, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        g_string_append_printf(log, "%02x", ((const uint8_t *)data)[i]);
    }
    g_string_append_c(log, '\n');
}

static bool on_device(void *opaque, const PmKey *key, const PmDevice *d,
                      Error **errp)
{
    Seen *s = opaque;

    g_array_append_val(s->numbers, d->number);
    g_assert_cmpuint(s->numbers->len, <=, PM_MAX_DEVICES);
    g_string_append_printf(s->log, "device %u %s %" PRIx64 " ", d->number,
                           d->id, d->length);
    log_bytes(s->log, key, sizeof(*key));
    for (unsigned i = 0; i < d->n_probes; i++) {
        g_string_append_printf(s->log, "probe %" PRIx64 " ",
                               d->probes[i].offset);
        log_bytes(s->log, &d->probes[i].tag, sizeof(PmTag));
    }
    return true;
}

static bool on_batch(void *opaque, const PmKey *key, PmFetch *page, unsigned n,
                     Error **errp)
{
    Seen *s = opaque;

    g_assert_cmpuint(n, >, 0);
    g_assert_cmpuint(n, <=, PM_MAX_BATCH);
    for (unsigned i = 0; i < n; i++) {
        bool known = false;

        for (guint j = 0; j < s->numbers->len; j++) {
            known |= g_array_index(s->numbers, uint16_t, j) == page[i].device;
        }
        g_assert_true(known);
        g_assert_cmpuint(page[i].block, <, s->pages->len);
        g_assert_cmpuint(page[i].page, <, g_array_index(s->pages, uint64_t,
                                                        page[i].block));
        g_assert_cmpuint(page[i].offset, <=, INT64_MAX - PM_PAGE_SIZE);
        g_string_append_printf(s->log, "page %u %u %u %" PRIx64 " ",
                               page[i].block, page[i].page, page[i].device,
                               page[i].offset);
        log_bytes(s->log, &page[i].tag, sizeof(PmTag));
    }
    g_string_append(s->log, "batch\n");
    return true;
}

static const FlatOps ops = {
    .read = on_read,
    .keep = on_keep,
    .block = on_block,
    .device = on_device,
    .batch = on_batch,
};

/* What was found, or NULL with @errp set */
static char *parse(const uint8_t *data, uint64_t size, Error **errp)
{
    Seen s = {
        .data = data,
        .size = size,
        .log = g_string_new(NULL),
        .pages = g_array_new(false, false, sizeof(uint64_t)),
        .numbers = g_array_new(false, false, sizeof(uint16_t)),
    };
    bool ok = flat_parse(&ops, &s, size, errp);

    if (ok) {
        g_assert_cmpuint(s.end, ==, size);
    }
    g_array_unref(s.pages);
    g_array_unref(s.numbers);
    return g_string_free(s.log, !ok);
}

/* The same, of a file that may be wrong: a reason, or something to be done */
static char *try_parse(const uint8_t *data, uint64_t size)
{
    Error *err = NULL;
    char *log = parse(data, size, &err);

    g_assert_true(!log == !!err);
    if (err) {
        g_assert_cmpuint(strlen(error_get_pretty(err)), >, 20);
        error_free(err);
    }
    return log;
}

static void test_right(void)
{
    for (Variant v = RIGHT; v < NO_PAGE_MAP; v++) {
        g_autoptr(File) f = file_new(v);
        g_autofree char *log = parse(f->b->data, f->b->len, &error_abort);
        g_autofree char *end = NULL;

        g_assert_nonnull(strstr(log, "block pc.ram 3000 "));
        g_assert_nonnull(strstr(log, "block /objects/m1 2000 "));
        end = g_strdup_printf(" %x\n", f->b->len);
        g_assert_true(g_str_has_suffix(log, end));
        if (v == NO_DISKS) {
            g_assert_null(strstr(log, "page "));
            continue;
        }
        g_assert_nonnull(strstr(log, "device 263 disk0 40000 5555"));
        g_assert_nonnull(strstr(log, "probe 200 3333"));
        g_assert_nonnull(strstr(log, "page 1 0 8195 400 0101"));
        g_assert_nonnull(strstr(log, "page 0 1 263 400 0101"));
        g_assert_nonnull(strstr(log, "page 0 2 263 1400 0202"));
        g_assert_nonnull(strstr(log, "batch\n"));
        g_assert_nonnull(strstr(strstr(log, "batch\n"),
                                "\npage 0 0 263 400 0101"));
    }
}

/* The kept ranges have every byte but the section, headers and blocks. */
static void test_kept(void)
{
    g_autoptr(File) f = file_new(RIGHT);
    g_autofree char *log = parse(f->b->data, f->b->len, &error_abort);
    g_auto(GStrv) lines = g_strsplit(log, "\n", -1);
    g_autoptr(GByteArray) kept = g_byte_array_new();

    for (char **l = lines; *l; l++) {
        uint64_t from, to;

        if (sscanf(*l, "keep %" SCNx64 " %" SCNx64, &from, &to) == 2) {
            g_byte_array_append(kept, f->b->data + from, to - from);
        }
    }
    g_assert_null(memmem(kept->data, kept->len, "page-map", 8));
    g_assert_null(memmem(kept->data, kept->len, "disk0", 5));
    g_assert_nonnull(memmem(kept->data, kept->len, "\1\0\0\0\2\3ram", 9));
    /* A block's name and length are in front of where its header comes. */
    g_assert_nonnull(memmem(kept->data, kept->len,
                            "pc.ram\0\0\0\0\0\0\x30\0\x0b/objects/m1", 26));
    g_assert_nonnull(memmem(kept->data, kept->len, "the rest of it", 14));
    g_assert_nonnull(memmem(kept->data, kept->len, "\x8\0\xb\0\3abc", 8));
}

static void test_refused(void)
{
    static const char *const texts[N_VARIANTS] = {
        [NO_PAGE_MAP] = "has no page map",
        [NOT_MAPPED] = "capability mapped-ram",
        [MANY_CAPS] = "257 capabilities",
        [NEW_SUBSECTION] = "'configuration/new' is not known",
        [LARGE_PAGES] = "2^14 bytes",
        [LIVE] = "a live migration",
        [TWO_HELLOS] = "begins twice",
        [STOCK_VERSION] = "has version 1",
        [NEW_VERSION] = "has version 3",
        [BLOCK_TWICE] = "'pc.ram' comes twice",
        [MANY_BLOCKS] = "more than 4096 RAM blocks",
        [SMALL_GAP] = "where they can not be",
        [CONTROL_NAME] = "control characters",
        [OTHER_SECTION] = "'dirty-bitmap'",
        [EARLY_DEVICE] = "type 4",
        [PART_FIRST] = "part of section 1, which has not begun",
        [DEVICE_TWICE] = "number 263 of disk",
        [MANY_DEVICES] = "more than 64 disks",
        [BLOCK_NUMBER_TWICE] = "number 4 is named twice",
        [UNKNOWN_BLOCK] = "'m1' is not in the file",
        [UNKNOWN_DEVICE] = "there is none",
        [BEYOND_DISK] = "beyond its end",
        [BEYOND_BLOCK] = "page 2 of RAM block number 4",
        [PROBE_BEYOND_DISK] = "a probe at offset",
        [NO_COMMIT] = "batch 1 ends without a COMMIT",
        [LONG_BATCH] = "more than 2048 pages",
        [WRONG_PLACE] = "message 6 is not allowed here",
        [NO_FINISH] = "the end is missing",
        [NO_END] = "RAM ends before the page map",
        [RAM_FLAGS] = "RAM with 0x200",
    };

    for (Variant v = NO_PAGE_MAP; v < N_VARIANTS; v++) {
        g_autoptr(File) f = file_new(v);
        Error *err = NULL;

        g_assert_null(parse(f->b->data, f->b->len, &err));
        if (!strstr(error_get_pretty(err), texts[v])) {
            g_error("'%s' does not say '%s'", error_get_pretty(err), texts[v]);
        }
        g_assert_true(g_str_has_prefix(error_get_pretty(err), "at 0x"));
        error_free(err);
    }
}

/* Each byte that means something, with each value */
static void test_damaged(void)
{
    g_autoptr(File) f = file_new(RIGHT);
    g_autofree char *right = parse(f->b->data, f->b->len, &error_abort);
    unsigned count[3] = { };

    for (guint at = 0; at < f->b->len; at++) {
        Kind kind = f->kind->data[at];
        uint8_t byte = f->b->data[at];
        int step = kind == SAME ? 255 : 1;

        /* The filler is of one kind. */
        if (kind == SAME && f->b->data[at] == 0x77 && at % 37) {
            continue;
        }
        for (int d = step; d < 256; d += step) {
            g_autofree char *log = NULL;

            f->b->data[at] = byte ^ d;
            log = try_parse(f->b->data, f->b->len);
            if (kind == MUST ? log != NULL :
                kind == SAME && g_strcmp0(log, right)) {
                g_error("byte 0x%x with 0x%02x in place of 0x%02x: %s", at,
                        byte ^ d, byte, log ?: "refused");
            }
            count[!log ? 0 : strcmp(log, right) ? 2 : 1]++;
        }
        f->b->data[at] = byte;
    }
    g_test_message("refused %u, the same %u, another value %u", count[0],
                   count[1], count[2]);
}

static void test_cut_off(void)
{
    g_autoptr(File) f = file_new(RIGHT);

    for (uint64_t size = 0; size < f->rest; size++) {
        if (size && f->kind->data[size - 1] == SAME && size % 37) {
            continue;
        }
        g_assert_null(try_parse(f->b->data, size));
    }
    for (uint64_t size = f->rest; size <= f->b->len; size++) {
        g_autofree char *log = try_parse(f->b->data, size);

        g_assert_nonnull(log);
    }
}

/* Numbers at the bounds of what they can be, in several places at once */
static void test_drawn(void)
{
    static const uint64_t values[] = {
        0, 1, 0x1000, 0x10000, INT32_MAX, UINT32_MAX, INT64_MAX,
        INT64_MAX - 0xfff, UINT64_MAX, UINT64_MAX - 0xfff, 1ull << 63,
    };
    unsigned good = 0, rounds = 20000;

    for (unsigned round = 0; round < rounds; round++) {
        g_autoptr(File) f = file_new(g_test_rand_int_range(RIGHT, NO_PAGE_MAP));
        g_autofree char *log = NULL;
        int n = g_test_rand_int_range(1, 4);

        while (n) {
            uint32_t at = g_test_rand_int_range(0, f->b->len - 8);
            int bytes = 1 << g_test_rand_int_range(0, 4);
            uint8_t b[8];

            if (f->kind->data[at] == SAME) {
                continue;
            }
            stq_be_p(b, values[g_test_rand_int_range(0, ARRAY_SIZE(values))]);
            memcpy(f->b->data + at, b + 8 - bytes, bytes);
            n--;
        }
        log = try_parse(f->b->data, f->b->len);
        good += !!log;
    }
    g_test_message("%u of %u are files", good, rounds);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/layout/right", test_right);
    g_test_add_func("/page-map/layout/kept", test_kept);
    g_test_add_func("/page-map/layout/refused", test_refused);
    g_test_add_func("/page-map/layout/damaged", test_damaged);
    g_test_add_func("/page-map/layout/cut-off", test_cut_off);
    g_test_add_func("/page-map/layout/drawn", test_drawn);
    return g_test_run();
}
