/*
 * Page map: messages: layout, round trips, and refusals at each bound
 *
 * Random messages are drawn from GLib's test seed: it is printed, and --seed
 * gives it back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "migration/pagemap/wire.h"

/* Of a message on its way: where the bodies' fields are */
#define DEVICE_LENGTH   2
#define DEVICE_ID_LEN   10
#define DEVICE_ID       12
#define RUN_OFFSET      6
#define RUN_N           14
#define RP_N            5
#define RP_BITS         17

static uint32_t draw(uint32_t below)
{
    return g_test_rand_int_range(0, below);
}

static void draw_bytes(void *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)to)[i] = draw(256);
    }
}

static uint64_t draw_place(uint64_t bytes)
{
    uint64_t v;

    draw_bytes(&v, sizeof(v));
    v >>= draw(64);
    return v % (INT64_MAX - bytes + 1) & ~511ull;
}

static void draw_name(char *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        to[i] = 1 + draw(255);
    }
    to[n] = 0;
}

static void refused(Error *err, const char *text)
{
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), text)) {
        g_error("'%s' does not say '%s'", error_get_pretty(err), text);
    }
    error_free(err);
}

/* Each body by the same interface: read it, and write what was read. */
static bool again(PmMsgType type, const uint8_t *body, size_t len,
                  GByteArray *out, Error **errp)
{
    g_autofree PmDevice *device = g_new(PmDevice, 1);
    g_autofree PmRun *run = g_new(PmRun, 1);
    PmBlockName block;
    PmCommit commit;
    PmHello hello;

    switch (type) {
    case PM_MSG_HELLO:
        if (!pm_get_hello(body, len, &hello, errp)) {
            return false;
        }
        pm_put_hello(out, &hello);
        return true;
    case PM_MSG_DEVICE:
        if (!pm_get_device(body, len, device, errp)) {
            return false;
        }
        pm_put_device(out, device);
        return true;
    case PM_MSG_BLOCK:
        if (!pm_get_block(body, len, &block, errp)) {
            return false;
        }
        pm_put_block(out, &block);
        return true;
    case PM_MSG_RUN:
        if (!pm_get_run(body, len, run, errp)) {
            return false;
        }
        pm_put_run(out, run);
        return true;
    case PM_MSG_COMMIT:
        if (!pm_get_commit(body, len, &commit, errp)) {
            return false;
        }
        pm_put_commit(out, &commit);
        return true;
    default:
        g_assert_not_reached();
    }
}

/* A copy of exactly @len bytes: a sanitizer sees what is read beyond it. */
static bool read_body(PmMsgType type, const uint8_t *body, size_t len,
                      GByteArray *out, Error **errp)
{
    g_autofree uint8_t *copy = g_malloc(len ? len : 1);

    memcpy(copy, body, len);
    return again(type, len ? copy : copy + 1, len, out, errp);
}

static void expect_refused(PmMsgType type, const uint8_t *body, size_t len,
                           const char *text)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    Error *err = NULL;

    g_assert_false(read_body(type, body, len, out, &err));
    refused(err, text);
}

/* Returns a message without its header */
static GByteArray *body_of(GByteArray *message, PmMsgType expect)
{
    PmMsgType type;
    uint32_t len;

    g_assert_cmpuint(message->len, >=, PM_HEADER_SIZE);
    g_assert_true(pm_get_header(message->data, &type, &len, &error_abort));
    g_assert_cmpint(type, ==, expect);
    g_assert_cmpuint(len, ==, message->len - PM_HEADER_SIZE);
    g_byte_array_remove_range(message, 0, PM_HEADER_SIZE);
    return message;
}

static void draw_device(PmDevice *m, size_t id, unsigned n_probes)
{
    m->number = draw(65536);
    m->length = draw_place(0);
    draw_name(m->id, id);
    m->n_probes = n_probes;
    for (unsigned i = 0; i < n_probes; i++) {
        m->probes[i].offset = draw_place(PM_PAGE_SIZE);
        draw_bytes(&m->probes[i].tag, sizeof(PmTag));
    }
}

static void draw_run(PmRun *m, unsigned n)
{
    m->batch = 1 + draw(INT32_MAX);
    m->device = draw(65536);
    m->offset = draw_place(n * PM_PAGE_SIZE);
    m->n = n;
    for (unsigned i = 0; i < n; i++) {
        m->pages[i].block = draw(65536);
        draw_bytes(&m->pages[i].page, 4);
        draw_bytes(&m->pages[i].tag, sizeof(PmTag));
    }
}

/* @size: 0 is the smallest message, 1 the largest, else random */
static GByteArray *draw_body(PmMsgType type, int size)
{
    GByteArray *out = g_byte_array_new();
    g_autofree PmDevice *device = NULL;
    g_autofree PmRun *run = NULL;
    PmHello hello = { PM_WIRE_VERSION, PM_PAGE_SIZE };
    PmBlockName block;
    PmCommit commit;

#define SIZE(min, max) (size == 0 ? (min) : size == 1 ? (max) : \
                        (min) + draw((max) - (min) + 1))
    switch (type) {
    case PM_MSG_HELLO:
        draw_bytes(&hello.key, sizeof(hello.key));
        pm_put_hello(out, &hello);
        break;
    case PM_MSG_DEVICE:
        device = g_new0(PmDevice, 1);
        draw_device(device, SIZE(1, PM_MAX_ID), SIZE(0, PM_MAX_PROBES));
        pm_put_device(out, device);
        break;
    case PM_MSG_BLOCK:
        block.number = draw(65536);
        draw_name(block.name, SIZE(1, 255));
        pm_put_block(out, &block);
        break;
    case PM_MSG_RUN:
        run = g_new0(PmRun, 1);
        draw_run(run, SIZE(1, PM_MAX_RUN));
        pm_put_run(out, run);
        break;
    case PM_MSG_COMMIT:
        commit.batch = 1 + draw(INT32_MAX);
        commit.n = SIZE(1, PM_MAX_BATCH);
        pm_put_commit(out, &commit);
        break;
    default:
        g_assert_not_reached();
    }
    return body_of(out, type);
}

static void test_round_trip(void)
{
    for (int i = 0; i < 400; i++) {
        for (PmMsgType t = PM_MSG_HELLO; t <= PM_MSG_COMMIT; t++) {
            g_autoptr(GByteArray) body = draw_body(t, i);
            g_autoptr(GByteArray) out = g_byte_array_new();

            g_assert_true(read_body(t, body->data, body->len, out,
                                    &error_abort));
            body_of(out, t);
            g_assert_cmpmem(out->data, out->len, body->data, body->len);
        }
    }
}

/* What the reader gives is what the writer was given, field by field. */
static void test_fields(void)
{
    g_autofree PmDevice *d = g_new0(PmDevice, 1), *e = g_new0(PmDevice, 1);
    g_autofree PmRun *r = g_new0(PmRun, 1), *s = g_new0(PmRun, 1);

    for (int i = 0; i < 100; i++) {
        g_autoptr(GByteArray) device = g_byte_array_new();
        g_autoptr(GByteArray) run = g_byte_array_new();

        draw_device(d, 1 + draw(PM_MAX_ID), draw(PM_MAX_PROBES + 1));
        pm_put_device(device, d);
        body_of(device, PM_MSG_DEVICE);
        g_assert_true(pm_get_device(device->data, device->len, e,
                                    &error_abort));
        g_assert_cmpuint(e->number, ==, d->number);
        g_assert_cmpuint(e->length, ==, d->length);
        g_assert_cmpstr(e->id, ==, d->id);
        g_assert_cmpuint(e->n_probes, ==, d->n_probes);
        g_assert_cmpmem(e->probes, e->n_probes * sizeof(PmProbe),
                        d->probes, d->n_probes * sizeof(PmProbe));

        draw_run(r, 1 + draw(PM_MAX_RUN));
        pm_put_run(run, r);
        body_of(run, PM_MSG_RUN);
        g_assert_true(pm_get_run(run->data, run->len, s, &error_abort));
        g_assert_cmpuint(s->batch, ==, r->batch);
        g_assert_cmpuint(s->device, ==, r->device);
        g_assert_cmpuint(s->offset, ==, r->offset);
        g_assert_cmpuint(s->n, ==, r->n);
        for (unsigned p = 0; p < s->n; p++) {
            g_assert_cmpuint(s->pages[p].block, ==, r->pages[p].block);
            g_assert_cmpuint(s->pages[p].page, ==, r->pages[p].page);
            g_assert_cmpmem(&s->pages[p].tag, 16, &r->pages[p].tag, 16);
        }
    }
}

/* The bytes as docs/devel/migration/page-map.rst has them */
static void test_layout(void)
{
    static const uint8_t expect[] = {
        0, 1, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0x10, 0,
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        0, 2, 0, 0, 0, 40, 1, 2, 0, 0, 0, 1, 2, 3, 4, 0, 0, 2, 'v', 'd',
        0, 1, 0, 0, 0, 0, 0, 0, 2, 0,
        8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8,
        0, 3, 0, 0, 0, 6, 0, 3, 3, 'r', 'a', 'm',
        0, 4, 0, 0, 0, 38, 0, 0, 1, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0x10, 0,
        0, 1, 0, 6, 0, 1, 0, 9,
        9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
        0, 5, 0, 0, 0, 6, 0, 0, 1, 2, 8, 0,
        0, 6, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0,
    };
    g_autofree PmDevice *device = g_new0(PmDevice, 1);
    g_autofree PmRun *run = g_new0(PmRun, 1);
    g_autoptr(GByteArray) out = g_byte_array_new();
    PmHello hello = { 1, 4096 };
    PmBlockName block = { 3, "ram" };
    PmCommit commit = { 0x102, 2048 };

    memset(&hello.key, 7, sizeof(hello.key));
    pm_put_hello(out, &hello);
    device->number = 0x102;
    device->length = 0x102030400;
    strcpy(device->id, "vd");
    device->n_probes = 1;
    device->probes[0].offset = 512;
    memset(&device->probes[0].tag, 8, sizeof(PmTag));
    pm_put_device(out, device);
    pm_put_block(out, &block);
    run->batch = 0x102;
    run->device = 5;
    run->offset = 0x1000;
    run->n = 1;
    run->pages[0].block = 6;
    run->pages[0].page = 0x10009;
    memset(&run->pages[0].tag, 9, sizeof(PmTag));
    pm_put_run(out, run);
    pm_put_commit(out, &commit);
    pm_put_finish(out);
    pm_put_end(out);
    g_assert_cmpmem(out->data, out->len, expect, sizeof(expect));
}

static void test_truncated(void)
{
    for (int size = 0; size < 3; size++) {
        for (PmMsgType t = PM_MSG_HELLO; t <= PM_MSG_COMMIT; t++) {
            g_autoptr(GByteArray) body = draw_body(t, size);
            uint8_t more = 0;

            for (size_t len = 0; len < body->len; len++) {
                expect_refused(t, body->data, len, "is too short");
            }
            g_byte_array_append(body, &more, 1);
            expect_refused(t, body->data, body->len, "1 bytes left over");
        }
    }
}

static void test_device_name(void)
{
    static const char *const names[][2] = {
        { "disk0", "disk0" },
        { "/machine/peripheral/disk0", "disk0" },
        { "/machine/peripheral/disk0/virtio-backend", "disk0" },
        { "/machine/peripheral/hba/lun", "hba/lun" },
        { "/machine/unattached/device[3]", "/machine/unattached/device[3]" },
        { "", "" },
    };

    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *name = pm_device_name(names[i][0]);

        g_assert_cmpstr(name, ==, names[i][1]);
    }
}

static void test_header(void)
{
    uint8_t buf[PM_HEADER_SIZE];

    for (unsigned type = 0; type < 65536; type++) {
        bool empty = type == PM_MSG_END || type == PM_MSG_FINISH ||
                     type == PM_MSG_SNAPSHOT;
        uint32_t lens[] = { 0, 1, PM_MAX_BODY, PM_MAX_BODY + 1, UINT32_MAX };

        for (int i = 0; i < ARRAY_SIZE(lens); i++) {
            Error *err = NULL;
            PmMsgType t;
            uint32_t len;

            stw_be_p(buf, type);
            stl_be_p(buf + 2, lens[i]);
            if (pm_get_header(buf, &t, &len, &err)) {
                g_assert_cmpuint(type, <=, PM_MSG_SNAPSHOT);
                g_assert_cmpuint(lens[i], <=, empty ? 0 : PM_MAX_BODY);
                g_assert_cmpuint(t, ==, type);
                g_assert_cmpuint(len, ==, lens[i]);
            } else {
                g_assert_true(type > PM_MSG_SNAPSHOT || lens[i] > PM_MAX_BODY ||
                              (empty && lens[i]));
                refused(err, type > PM_MSG_SNAPSHOT ? "unknown message type" :
                             "with a body of");
            }
        }
    }
}

/* Change a field of 16, 32 or 64 bits of a body that is right otherwise. */
static void patched(PmMsgType type, GByteArray *body, size_t at, int bytes,
                    uint64_t v, const char *text)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree uint8_t *copy = g_memdup2(body->data, body->len);

    g_assert_cmpuint(at + bytes, <=, body->len);
    for (int i = bytes; i-- > 0; v >>= 8) {
        copy[at + i] = v;
    }
    if (text) {
        expect_refused(type, copy, body->len, text);
    } else {
        g_assert_true(read_body(type, copy, body->len, out, &error_abort));
        g_assert_cmpmem(out->data + PM_HEADER_SIZE,
                        out->len - PM_HEADER_SIZE, copy, body->len);
    }
}

static void test_bounds(void)
{
    g_autoptr(GByteArray) hello = draw_body(PM_MSG_HELLO, 0);
    g_autoptr(GByteArray) device = draw_body(PM_MSG_DEVICE, 1);
    g_autoptr(GByteArray) tiny = draw_body(PM_MSG_DEVICE, 0);
    g_autoptr(GByteArray) block = draw_body(PM_MSG_BLOCK, 1);
    g_autoptr(GByteArray) run = draw_body(PM_MSG_RUN, 1);
    g_autoptr(GByteArray) commit = draw_body(PM_MSG_COMMIT, 0);
    size_t probes = DEVICE_ID + PM_MAX_ID;

    patched(PM_MSG_HELLO, hello, 0, 4, 0, "version 0 of the source");
    patched(PM_MSG_HELLO, hello, 0, 4, 2, "version 2 of the source");
    patched(PM_MSG_HELLO, hello, 4, 4, 4095, "page size 4095");
    patched(PM_MSG_HELLO, hello, 4, 4, 4097, "page size 4097");
    /* A newer one is named as such, whatever follows. */
    stl_be_p(hello->data, 2);
    expect_refused(PM_MSG_HELLO, hello->data, hello->len - 1, "version 2");

    patched(PM_MSG_DEVICE, device, DEVICE_LENGTH, 8, INT64_MAX, NULL);
    patched(PM_MSG_DEVICE, device, DEVICE_LENGTH, 8, 1ull << 63, "length of");
    patched(PM_MSG_DEVICE, tiny, DEVICE_ID_LEN, 2, 0, "length of the id 0");
    patched(PM_MSG_DEVICE, device, DEVICE_ID_LEN, 2, PM_MAX_ID + 1,
            "length of the id 1025");
    patched(PM_MSG_DEVICE, device, DEVICE_ID_LEN, 2, 65535, "length of the id");
    patched(PM_MSG_DEVICE, device, probes, 2, PM_MAX_PROBES + 1,
            "number of probes 33");
    patched(PM_MSG_DEVICE, device, probes, 2, PM_MAX_PROBES - 1, "left over");
    for (int i = 0; i < PM_MAX_PROBES; i += PM_MAX_PROBES - 1) {
        size_t at = probes + 2 + i * 24;

        patched(PM_MSG_DEVICE, device, at, 8, 511, "not a multiple of 512");
        patched(PM_MSG_DEVICE, device, at, 8, 512, NULL);
        patched(PM_MSG_DEVICE, device, at, 8, 513, "not a multiple of 512");
        patched(PM_MSG_DEVICE, device, at, 8, (1ull << 63) - 4096 - 512, NULL);
        patched(PM_MSG_DEVICE, device, at, 8, (1ull << 63) - 4096,
                "too large");
        patched(PM_MSG_DEVICE, device, at, 8, -512ull, "too large");
    }
    for (int i = 0; i < PM_MAX_ID; i++) {
        patched(PM_MSG_DEVICE, device, DEVICE_ID + i, 1, 0, "NUL");
    }

    patched(PM_MSG_BLOCK, block, 2, 1, 0, "length of the name 0");
    patched(PM_MSG_BLOCK, block, 2, 1, 254, "left over");
    for (int i = 0; i < 255; i++) {
        patched(PM_MSG_BLOCK, block, 3 + i, 1, 0, "NUL");
    }

    patched(PM_MSG_RUN, run, 0, 4, 0, "batch 0");
    patched(PM_MSG_RUN, run, 0, 4, UINT32_MAX, NULL);
    patched(PM_MSG_RUN, run, RUN_N, 2, 0, "number of pages 0");
    patched(PM_MSG_RUN, run, RUN_N, 2, PM_MAX_RUN - 1, "left over");
    patched(PM_MSG_RUN, run, RUN_N, 2, PM_MAX_RUN + 1, "number of pages 257");
    patched(PM_MSG_RUN, run, RUN_N, 2, 65535, "number of pages 65535");
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, 511, "not a multiple of 512");
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, 512, NULL);
    /* The end of the last page counts, not that of the first. */
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, (1ull << 63) - MiB - 512, NULL);
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, (1ull << 63) - MiB, "too large");
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, -512ull, "too large");
    patched(PM_MSG_RUN, run, RUN_OFFSET, 8, -MiB, "too large");

    patched(PM_MSG_COMMIT, commit, 0, 4, 0, "batch 0");
    patched(PM_MSG_COMMIT, commit, 4, 2, 0, "number of pages 0");
    patched(PM_MSG_COMMIT, commit, 4, 2, PM_MAX_BATCH, NULL);
    patched(PM_MSG_COMMIT, commit, 4, 2, PM_MAX_BATCH + 1,
            "number of pages 2049");
}

/* The return path */

static size_t draw_rp(uint8_t *buf, int size)
{
    g_autofree PmRp *m = g_new0(PmRp, 1);

    if (draw(2)) {
        m->type = PM_RP_BATCH;
        m->batch = 1 + draw(INT32_MAX);
        m->n = SIZE(1, PM_MAX_BATCH);
        draw_bytes(&m->bytes, sizeof(m->bytes));
        draw_bytes(&m->requests, sizeof(m->requests));
        draw_bytes(&m->busy_us, sizeof(m->busy_us));
        /* Bits beyond n, too: they must not travel. */
        draw_bytes(m->placed, sizeof(m->placed));
    } else {
        m->type = PM_RP_DEVICES;
        m->n = SIZE(1, PM_MAX_DEVICES);
        for (int i = 0; i < m->n; i++) {
            m->devices[i].number = draw(65536);
            m->devices[i].verdict = draw(PM_DEV__MAX);
        }
    }
    return pm_put_rp(buf, m);
}

static bool read_rp(const uint8_t *buf, size_t len, PmRp *m, Error **errp)
{
    g_autofree uint8_t *copy = g_malloc(len ? len : 1);

    memcpy(copy, buf, len);
    return pm_get_rp(len ? copy : copy + 1, len, m, errp);
}

static void rp_refused(const uint8_t *buf, size_t len, const char *text)
{
    g_autofree PmRp *m = g_new0(PmRp, 1);
    Error *err = NULL;

    g_assert_false(read_rp(buf, len, m, &err));
    refused(err, text);
}

static void test_rp(void)
{
    g_autofree PmRp *m = g_new(PmRp, 1);
    uint8_t buf[PM_RP_MAX + 1], out[PM_RP_MAX];

    for (int i = 0; i < 1000; i++) {
        size_t n = draw_rp(buf, i % 3);

        g_assert_cmpuint(n, <=, PM_RP_MAX);
        memset(m, 0xff, sizeof(*m));
        g_assert_true(read_rp(buf, n, m, &error_abort));
        g_assert_cmpmem(out, pm_put_rp(out, m), buf, n);
        if (m->type == PM_RP_BATCH) {
            for (int b = m->n; b < PM_MAX_BATCH; b++) {
                g_assert_false(m->placed[b >> 3] & 1 << (b & 7));
            }
        }
        if (i < 100) {
            for (size_t len = 0; len < n; len++) {
                rp_refused(buf, len, "is too short");
            }
        }
        buf[n] = 0;
        rp_refused(buf, n + 1, "1 bytes left over");
    }
}

static void test_rp_bounds(void)
{
    static const uint8_t devices[] = { 0, 0, 2, 1, 2, 0, 0, 3, 5 };
    static const uint8_t batch[] = { 1, 0, 0, 1, 2, 0, 10,
                                     0, 1, 0x20, 0, 0, 3, 0, 1, 2, 3, 0x81, 2 };
    g_autofree PmRp *m = g_new0(PmRp, 1);
    uint8_t buf[PM_RP_MAX];

    /* As the document has them */
    g_assert_true(pm_get_rp(devices, sizeof(devices), m, &error_abort));
    g_assert_cmpint(m->type, ==, PM_RP_DEVICES);
    g_assert_cmpuint(m->n, ==, 2);
    g_assert_cmpuint(m->devices[0].number, ==, 0x102);
    g_assert_cmpuint(m->devices[0].verdict, ==, PM_DEV_SAME);
    g_assert_cmpuint(m->devices[1].verdict, ==, PM_DEV_FORBIDDEN);
    g_assert_true(pm_get_rp(batch, sizeof(batch), m, &error_abort));
    g_assert_cmpint(m->type, ==, PM_RP_BATCH);
    g_assert_cmpuint(m->batch, ==, 0x102);
    g_assert_cmpuint(m->n, ==, 10);
    g_assert_cmpuint(m->bytes, ==, 0x12000);
    g_assert_cmpuint(m->requests, ==, 3);
    g_assert_cmpuint(m->busy_us, ==, 0x10203);
    g_assert_cmpuint(m->placed[0], ==, 0x81);
    g_assert_cmpuint(m->placed[1], ==, 2);

    memset(buf, 0, sizeof(buf));
    buf[0] = 2;
    rp_refused(buf, sizeof(buf), "type 2");
    buf[0] = PM_RP_DEVICES;
    rp_refused(buf, 3, "number of devices 0");
    stw_be_p(buf + 1, PM_MAX_DEVICES);
    g_assert_true(pm_get_rp(buf, 3 + 3 * PM_MAX_DEVICES, m, &error_abort));
    stw_be_p(buf + 1, PM_MAX_DEVICES + 1);
    rp_refused(buf, 3 + 3 * (PM_MAX_DEVICES + 1), "number of devices 65");
    stw_be_p(buf + 1, 65535);
    rp_refused(buf, sizeof(buf), "number of devices 65535");
    memcpy(buf, devices, sizeof(devices));
    buf[8] = PM_DEV__MAX;
    rp_refused(buf, sizeof(devices), "verdict 6");

    memset(buf, 0, sizeof(buf));
    buf[0] = PM_RP_BATCH;
    stw_be_p(buf + RP_N, 1);
    rp_refused(buf, RP_BITS + 1, "batch 0");
    stl_be_p(buf + 1, 1);
    g_assert_true(pm_get_rp(buf, RP_BITS + 1, m, &error_abort));
    buf[RP_BITS] = 2;
    rp_refused(buf, RP_BITS + 1, "beyond its 1");
    buf[RP_BITS] = 0;
    stw_be_p(buf + RP_N, 0);
    rp_refused(buf, RP_BITS, "number of pages 0");
    stw_be_p(buf + RP_N, PM_MAX_BATCH);
    g_assert_true(pm_get_rp(buf, RP_BITS + PM_MAX_BATCH / 8, m, &error_abort));
    stw_be_p(buf + RP_N, PM_MAX_BATCH + 1);
    rp_refused(buf, RP_BITS + PM_MAX_BATCH / 8 + 1, "number of pages 2049");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page-map/wire/layout", test_layout);
    g_test_add_func("/page-map/wire/round-trip", test_round_trip);
    g_test_add_func("/page-map/wire/fields", test_fields);
    g_test_add_func("/page-map/wire/truncated", test_truncated);
    g_test_add_func("/page-map/wire/header", test_header);
    g_test_add_func("/page-map/wire/device-name", test_device_name);
    g_test_add_func("/page-map/wire/bounds", test_bounds);
    g_test_add_func("/page-map/wire/return-path", test_rp);
    g_test_add_func("/page-map/wire/return-path-bounds", test_rp_bounds);
    return g_test_run();
}
