/*
 * Files with a page map, right ones and wrong ones, for tests of their reader
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "tools/qemu-page-map-flatten/layout.h"
#include "page-map-file.h"

/* Three pages, and two */
static const char *const block_names[] = { "pc.ram", "/objects/m1" };
static const uint64_t block_pages[] = { 3, 2 };

#define DISK_LENGTH     (64 * PM_PAGE_SIZE)
#define NUMBER          0x107
#define OTHER_NUMBER    0x2003

static void put(File *f, const void *data, size_t n, Kind kind)
{
    size_t at = f->kind->len;

    g_byte_array_append(f->b, data, n);
    g_byte_array_set_size(f->kind, at + n);
    memset(f->kind->data + at, kind, n);
}

static void put8(File *f, uint8_t v, Kind kind)
{
    put(f, &v, 1, kind);
}

static void put16(File *f, uint16_t v, Kind kind)
{
    uint8_t b[2];

    stw_be_p(b, v);
    put(f, b, sizeof(b), kind);
}

static void put32(File *f, uint32_t v, Kind kind)
{
    uint8_t b[4];

    stl_be_p(b, v);
    put(f, b, sizeof(b), kind);
}

static void put64(File *f, uint64_t v, Kind kind)
{
    uint8_t b[8];

    stq_be_p(b, v);
    put(f, b, sizeof(b), kind);
}

static void put_string(File *f, const char *s, Kind kind)
{
    put8(f, strlen(s), MUST);
    put(f, s, strlen(s), kind);
}

static void put_message(File *f, GByteArray *m)
{
    put(f, m->data, m->len, MUST);
    g_byte_array_set_size(m, 0);
}

/* Of the message that was put last, counted from its end */
static void set_kind(File *f, size_t from_end, size_t n, Kind kind)
{
    memset(f->kind->data + f->kind->len - from_end, kind, n);
}

static void put_start(File *f, uint32_t id, const char *name, uint32_t version)
{
    put8(f, 1, MUST);
    put32(f, id, MUST);
    put_string(f, name, MUST);
    put32(f, 0, MUST);
    put32(f, version, MUST);
}

static void put_part(File *f, uint8_t type, uint32_t id)
{
    put8(f, type, MUST);
    put32(f, id, MUST);
}

static void put_footer(File *f, uint32_t id)
{
    if (f->v != BARE) {
        put8(f, 0x7e, MUST);
        put32(f, id, MUST);
    }
}

static void put_subsection(File *f, const char *name)
{
    put8(f, 5, MUST);
    put_string(f, name, MUST);
    put32(f, 1, MUST);
}

static void put_configuration(File *f)
{
    static const char machine[] = "pc-i440fx-10.0";
    uint32_t caps = f->v == MANY_CAPS ? 257 : 2;

    put8(f, 7, MUST);
    put32(f, strlen(machine), MUST);
    put(f, machine, strlen(machine), SAME);
    put_subsection(f, "configuration/capabilities");
    put32(f, caps, MUST);
    put_string(f, "x-other", ANY);
    put_string(f, f->v == NOT_MAPPED ? "multifd" : "mapped-ram", MUST);
    put_subsection(f, "configuration/uuid");
    put(f, "0123456789abcdef", 16, SAME);
    if (f->v == LARGE_PAGES) {
        put_subsection(f, "configuration/target-page-bits");
        put32(f, 14, MUST);
    }
    if (f->v == NEW_SUBSECTION) {
        put_subsection(f, "configuration/new");
    }
}

static void put_block(File *f, const char *name, uint64_t pages)
{
    g_autofree uint8_t *filler = NULL;
    uint64_t bitmap, at;

    put_string(f, name, f->v == CONTROL_NAME ? MUST : ANY);
    put64(f, pages * PM_PAGE_SIZE, MUST);
    put32(f, f->v == STOCK_VERSION ? 1 : f->v == NEW_VERSION ? 3 : 2, MUST);
    put64(f, PM_PAGE_SIZE, MUST);
    bitmap = f->b->len + 16;
    at = ROUND_UP(bitmap + flat_bitmap_size(pages * PM_PAGE_SIZE),
                  PM_PAGE_SIZE);
    put64(f, f->v == SMALL_GAP ? at - 4 : bitmap, ANY);
    put64(f, at, MUST);
    /* The bitmap and the pages: not looked at here */
    filler = g_malloc(at + pages * PM_PAGE_SIZE - f->b->len);
    memset(filler, 0x77, at + pages * PM_PAGE_SIZE - f->b->len);
    put(f, filler, at + pages * PM_PAGE_SIZE - f->b->len, SAME);
}

static void put_ram(File *f)
{
    static const char *const twice[] = { "pc.ram", "pc.ram" };
    static const char *const control[] = { "pc.ram", "pc\33[7m" };
    const char *const *names = f->v == BLOCK_TWICE ? twice :
                               f->v == CONTROL_NAME ? control : block_names;
    uint64_t many = f->v == MANY_BLOCKS ? FLAT_MAX_BLOCKS : 0;

    put_start(f, 2, "ram", 4);
    put64(f, (block_pages[0] + block_pages[1] + many) * PM_PAGE_SIZE + 4, MUST);
    for (int i = 0; i < 2; i++) {
        put_block(f, names[i], block_pages[i]);
    }
    for (uint64_t i = 0; i < many; i++) {
        g_autofree char *name = g_strdup_printf("b%" PRIu64, i);

        put_block(f, name, 1);
    }
    put64(f, f->v == RAM_FLAGS ? 0x200 : 0x10, MUST);
    put_footer(f, 2);
}

static void put_device(File *f, GByteArray *m, uint16_t number, const char *id)
{
    PmDevice d = { .number = number, .length = DISK_LENGTH, .n_probes = 1 };
    size_t probe = 8 + sizeof(PmTag);

    pstrcpy(d.id, sizeof(d.id), id);
    d.probes[0].offset = f->v == PROBE_BEYOND_DISK ?
                         DISK_LENGTH - PM_PAGE_SIZE + 512 : 512;
    memset(&d.probes[0].tag, 0x33, sizeof(PmTag));
    pm_put_device(m, &d);
    put_message(f, m);
    set_kind(f, probe, probe, ANY);
    set_kind(f, probe + 2 + strlen(id), strlen(id), ANY);
    set_kind(f, probe + 2 + strlen(id) + 2 + 8, 8, ANY);
}

static void put_run(File *f, GByteArray *m, uint32_t batch, uint16_t device,
                    uint16_t block, uint32_t page, unsigned n)
{
    g_autofree PmRun *run = g_new0(PmRun, 1);

    run->batch = batch;
    run->device = device;
    run->offset = f->v == BEYOND_DISK ? DISK_LENGTH - PM_PAGE_SIZE + 512 : 1024;
    run->n = n;
    for (unsigned i = 0; i < n; i++) {
        run->pages[i] = (PmRunPage) { .block = block, .page = page + i % 2 };
        memset(&run->pages[i].tag, i + 1, sizeof(PmTag));
    }
    pm_put_run(m, run);
    put_message(f, m);
    for (unsigned i = 0; i < n; i++) {
        /* Another block may have that page, too. */
        set_kind(f, (n - i) * 22, 22, ANY);
    }
    set_kind(f, n * 22 + 2 + 8, 8, ANY);
}

static void put_commit(File *f, GByteArray *m, uint32_t batch, uint16_t n)
{
    PmCommit c = { .batch = batch, .n = n };

    pm_put_commit(m, &c);
    put_message(f, m);
}

static void put_named(File *f, GByteArray *m, uint16_t number, const char *name)
{
    PmBlockName b = { .number = number };

    pstrcpy(b.name, sizeof(b.name), name);
    pm_put_block(m, &b);
    put_message(f, m);
}

static void put_records(File *f, GByteArray *m)
{
    put_device(f, m, NUMBER, "disk0");
    put_device(f, m, f->v == DEVICE_TWICE ? NUMBER : OTHER_NUMBER,
               "/machine/peripheral-anon/device[2]");
    for (int i = 0; f->v == MANY_DEVICES && i < PM_MAX_DEVICES; i++) {
        put_device(f, m, i, "more");
    }
    put_named(f, m, 4, f->v == UNKNOWN_BLOCK ? "m1" : block_names[1]);
    put_named(f, m, f->v == BLOCK_NUMBER_TWICE ? 4 : 0xfffe, block_names[0]);
    if (f->v == WRONG_PLACE) {
        pm_put_finish(m);
        put_message(f, m);
    }
    put_run(f, m, 1, f->v == UNKNOWN_DEVICE ? 5 : OTHER_NUMBER, 4,
            f->v == BEYOND_BLOCK ? 2 : 0, 1);
    for (int i = 0; f->v == LONG_BATCH && i < 48; i++) {
        put_run(f, m, 1, NUMBER, 0xfffe, 0, 60);
    }
    put_run(f, m, 1, NUMBER, 0xfffe, 1, 2);
    if (f->v != NO_COMMIT) {
        put_commit(f, m, 1, 3);
    }
    if (f->v == TWO_PARTS) {
        pm_put_end(m);
        put_message(f, m);
        put_footer(f, 1);
        put_part(f, 2, 2);
        put64(f, 0x10, MUST);
        put_footer(f, 2);
        put_part(f, 2, 1);
    }
    put_run(f, m, 2, NUMBER, 0xfffe, 0, 1);
    put_commit(f, m, 2, 1);
}

static void put_page_map_start(File *f, GByteArray *m)
{
    PmHello hello = { .version = 1, .page_size = PM_PAGE_SIZE };

    memset(&hello.key, 0x55, sizeof(hello.key));
    put_start(f, 1, "page-map", 1);
    pm_put_hello(m, &hello);
    put_message(f, m);
    set_kind(f, sizeof(PmKey), sizeof(PmKey), ANY);
    if (f->v == TWO_HELLOS) {
        pm_put_hello(m, &hello);
    }
    if (f->v != LIVE) {
        pm_put_snapshot(m);
    }
    pm_put_end(m);
    put_message(f, m);
    put_footer(f, 1);
}

File *file_new(Variant v)
{
    g_autoptr(GByteArray) m = g_byte_array_new();
    File *f = g_new0(File, 1);

    f->v = v;
    f->b = g_byte_array_new();
    f->kind = g_byte_array_new();
    put32(f, 0x5145564d, MUST);
    put32(f, 3, MUST);
    if (v != BARE) {
        put_configuration(f);
    }
    if (v == OTHER_SECTION) {
        put_start(f, 9, "dirty-bitmap", 1);
    }
    if (v == EARLY_DEVICE) {
        put8(f, 4, MUST);
    }
    if (v != NO_PAGE_MAP) {
        put_page_map_start(f, m);
    }
    if (v != PART_FIRST) {
        put_ram(f);
    }
    put_part(f, 2, 1);
    if (v != NO_DISKS) {
        put_records(f, m);
    }
    pm_put_end(m);
    put_message(f, m);
    put_footer(f, 1);
    put_part(f, 2, 2);
    put64(f, 0x10, MUST);
    put_footer(f, 2);
    if (v != BARE) {
        /* Its length decides where it ends. */
        put8(f, 8, MUST);
        put16(f, 11, SAME);
        put16(f, 3, MUST);
        put(f, "abc", 3, SAME);
    }
    if (v != NO_END) {
        put_part(f, 3, 1);
        if (v != NO_FINISH) {
            pm_put_finish(m);
        }
        pm_put_end(m);
        put_message(f, m);
        put_footer(f, 1);
    }
    put_part(f, 3, 2);
    put64(f, 0x10, MUST);
    put_footer(f, 2);
    f->rest = f->b->len;
    put(f, "the rest of it", 14, SAME);
    return f;
}

void file_free(File *f)
{
    g_byte_array_unref(f->b);
    g_byte_array_unref(f->kind);
    g_free(f);
}
