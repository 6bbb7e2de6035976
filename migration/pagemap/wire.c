/*
 * Page map: the messages of the section and of the return path
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "wire.h"

#define SECTOR      512

/* Of a body; a probe is an offset and a tag, a record block, page and tag */
#define HELLO_SIZE  (4 + 4 + sizeof(PmKey))
#define COMMIT_SIZE (4 + 2)
#define PROBE_SIZE  (8 + sizeof(PmTag))
#define RECORD_SIZE (2 + 4 + sizeof(PmTag))
#define RUN_FIXED   (4 + 2 + 8 + 2)

QEMU_BUILD_BUG_ON(2 + 8 + 2 + PM_MAX_ID + 2 + PM_MAX_PROBES * PROBE_SIZE >
                  PM_MAX_BODY);
QEMU_BUILD_BUG_ON(RUN_FIXED + PM_MAX_RUN * RECORD_SIZE > PM_MAX_BODY);
QEMU_BUILD_BUG_ON(1 + 2 + PM_MAX_DEVICES * 3 > PM_RP_MAX);
QEMU_BUILD_BUG_ON(1 + 16 + PM_MAX_BATCH / 8 > PM_RP_MAX);

static const char *const names[] = {
    [PM_MSG_END] = "END",
    [PM_MSG_HELLO] = "HELLO",
    [PM_MSG_DEVICE] = "DEVICE",
    [PM_MSG_BLOCK] = "BLOCK",
    [PM_MSG_RUN] = "RUN",
    [PM_MSG_COMMIT] = "COMMIT",
    [PM_MSG_FINISH] = "FINISH",
    [PM_MSG_SNAPSHOT] = "SNAPSHOT",
};

/* Writers */

static void put8(GByteArray *out, uint8_t v)
{
    g_byte_array_append(out, &v, 1);
}

static void put16(GByteArray *out, uint16_t v)
{
    uint8_t b[2];

    stw_be_p(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void put32(GByteArray *out, uint32_t v)
{
    uint8_t b[4];

    stl_be_p(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void put64(GByteArray *out, uint64_t v)
{
    uint8_t b[8];

    stq_be_p(b, v);
    g_byte_array_append(out, b, sizeof(b));
}

static void put_header(GByteArray *out, PmMsgType type, size_t len)
{
    assert(len <= PM_MAX_BODY);
    put16(out, type);
    put32(out, len);
}

/* The last byte of @len bytes at @offset can be named by an int64_t */
static bool in_range(uint64_t offset, uint64_t len)
{
    return len <= INT64_MAX && offset <= INT64_MAX - len;
}

static bool is_place(uint64_t offset, uint64_t len)
{
    return offset % SECTOR == 0 && in_range(offset, len);
}

void pm_put_hello(GByteArray *out, const PmHello *m)
{
    put_header(out, PM_MSG_HELLO, HELLO_SIZE);
    put32(out, m->version);
    put32(out, m->page_size);
    g_byte_array_append(out, m->key.b, sizeof(m->key.b));
}

void pm_put_device(GByteArray *out, const PmDevice *m)
{
    size_t id = strnlen(m->id, sizeof(m->id));

    assert(id > 0 && id <= PM_MAX_ID);
    assert(m->n_probes <= PM_MAX_PROBES);
    assert(m->length <= INT64_MAX);
    put_header(out, PM_MSG_DEVICE,
               2 + 8 + 2 + id + 2 + m->n_probes * PROBE_SIZE);
    put16(out, m->number);
    put64(out, m->length);
    put16(out, id);
    g_byte_array_append(out, (const uint8_t *)m->id, id);
    put16(out, m->n_probes);
    for (unsigned i = 0; i < m->n_probes; i++) {
        const PmProbe *p = &m->probes[i];

        assert(is_place(p->offset, PM_PAGE_SIZE));
        put64(out, p->offset);
        g_byte_array_append(out, p->tag.b, sizeof(p->tag.b));
    }
}

void pm_put_block(GByteArray *out, const PmBlockName *m)
{
    size_t len = strnlen(m->name, sizeof(m->name));

    assert(len > 0 && len <= UINT8_MAX);
    put_header(out, PM_MSG_BLOCK, 2 + 1 + len);
    put16(out, m->number);
    put8(out, len);
    g_byte_array_append(out, (const uint8_t *)m->name, len);
}

void pm_put_run(GByteArray *out, const PmRun *m)
{
    assert(m->batch > 0);
    assert(m->n > 0 && m->n <= PM_MAX_RUN);
    assert(is_place(m->offset, m->n * (uint64_t)PM_PAGE_SIZE));
    put_header(out, PM_MSG_RUN, RUN_FIXED + m->n * RECORD_SIZE);
    put32(out, m->batch);
    put16(out, m->device);
    put64(out, m->offset);
    put16(out, m->n);
    for (unsigned i = 0; i < m->n; i++) {
        const PmRunPage *p = &m->pages[i];

        put16(out, p->block);
        put32(out, p->page);
        g_byte_array_append(out, p->tag.b, sizeof(p->tag.b));
    }
}

void pm_put_commit(GByteArray *out, const PmCommit *m)
{
    assert(m->batch > 0);
    assert(m->n > 0 && m->n <= PM_MAX_BATCH);
    put_header(out, PM_MSG_COMMIT, COMMIT_SIZE);
    put32(out, m->batch);
    put16(out, m->n);
}

void pm_put_finish(GByteArray *out)
{
    put_header(out, PM_MSG_FINISH, 0);
}

void pm_put_snapshot(GByteArray *out)
{
    put_header(out, PM_MSG_SNAPSHOT, 0);
}

void pm_put_end(GByteArray *out)
{
    put_header(out, PM_MSG_END, 0);
}

char *pm_device_name(const char *id)
{
    static const char before[] = "/machine/peripheral/";
    const char *end;

    if (!g_str_has_prefix(id, before)) {
        return g_strdup(id);
    }
    id += strlen(before);
    end = strchr(id, '/');
    return !end || !strcmp(end, "/virtio-backend") ?
           g_strndup(id, end ? end - id : strlen(id)) : g_strdup(id);
}

/* Readers */

bool pm_get_header(const uint8_t *buf, PmMsgType *type, uint32_t *len,
                   Error **errp)
{
    uint16_t t = lduw_be_p(buf);
    uint32_t n = ldl_be_p(buf + 2);

    if (t >= ARRAY_SIZE(names)) {
        error_setg(errp, "page map: protocol error: unknown message type %u; "
                   "use the same release on both hosts", t);
        return false;
    }
    if (n > PM_MAX_BODY) {
        error_setg(errp, "page map: protocol error: %s with a body of %" PRIu32
                   " bytes, more than %d", names[t], n, PM_MAX_BODY);
        return false;
    }
    if (n && (t == PM_MSG_END || t == PM_MSG_FINISH || t == PM_MSG_SNAPSHOT)) {
        error_setg(errp, "page map: protocol error: %s with a body of %" PRIu32
                   " bytes where none is allowed", names[t], n);
        return false;
    }
    *type = t;
    *len = n;
    return true;
}

/* What is left of a body; a read beyond its end gives 0 and is remembered */
typedef struct Body {
    const char *name;
    const uint8_t *p;
    size_t left;
    bool is_short;
} Body;

static const uint8_t *take(Body *b, size_t n)
{
    const uint8_t *p = b->p;

    if (b->is_short || n > b->left) {
        b->is_short = true;
        return NULL;
    }
    b->p += n;
    b->left -= n;
    return p;
}

static uint8_t get8(Body *b)
{
    const uint8_t *p = take(b, 1);

    return p ? *p : 0;
}

static uint16_t get16(Body *b)
{
    const uint8_t *p = take(b, 2);

    return p ? lduw_be_p(p) : 0;
}

static uint32_t get32(Body *b)
{
    const uint8_t *p = take(b, 4);

    return p ? ldl_be_p(p) : 0;
}

static uint64_t get64(Body *b)
{
    const uint8_t *p = take(b, 8);

    return p ? ldq_be_p(p) : 0;
}

static void get_bytes(Body *b, void *to, size_t n)
{
    const uint8_t *p = take(b, n);

    if (p) {
        memcpy(to, p, n);
    } else {
        memset(to, 0, n);
    }
}

static bool is_whole(const Body *b, Error **errp)
{
    if (b->is_short) {
        error_setg(errp, "page map: protocol error: %s is too short", b->name);
        return false;
    }
    if (b->left) {
        error_setg(errp, "page map: protocol error: %s has %zu bytes left "
                   "over", b->name, b->left);
        return false;
    }
    return true;
}

static bool in_bounds(const Body *b, const char *what, uint32_t v,
                      uint32_t min, uint32_t max, Error **errp)
{
    if (b->is_short) {
        return is_whole(b, errp);
    }
    if (v < min || v > max) {
        error_setg(errp, "page map: protocol error: %s with %s %" PRIu32
                   " where %" PRIu32 " to %" PRIu32 " are allowed", b->name,
                   what, v, min, max);
        return false;
    }
    return true;
}

/* @to: room for @n + 1 bytes */
static bool get_name(Body *b, char *to, size_t n, Error **errp)
{
    get_bytes(b, to, n);
    to[n] = 0;
    if (b->is_short) {
        return is_whole(b, errp);
    }
    if (memchr(to, 0, n)) {
        error_setg(errp, "page map: protocol error: %s with a NUL in its name",
                   b->name);
        return false;
    }
    return true;
}

static bool check_place(const Body *b, uint64_t offset, uint64_t len,
                        Error **errp)
{
    if (b->is_short) {
        return is_whole(b, errp);
    }
    if (!is_place(offset, len)) {
        error_setg(errp, "page map: protocol error: %s with offset 0x%" PRIx64
                   " + 0x%" PRIx64 ", which is not a multiple of %d or too "
                   "large", b->name, offset, len, SECTOR);
        return false;
    }
    return true;
}

bool pm_get_hello(const uint8_t *buf, size_t len, PmHello *m, Error **errp)
{
    Body b = { "HELLO", buf, len };

    m->version = get32(&b);
    m->page_size = get32(&b);
    get_bytes(&b, m->key.b, sizeof(m->key.b));
    /* Of another version the length may differ, too. */
    if (len >= 4 && m->version != PM_WIRE_VERSION) {
        error_setg(errp, "page map: version %" PRIu32 " of the source is not "
                   "version %d of the destination; use the same release on "
                   "both hosts, or x-page-map=off", m->version,
                   PM_WIRE_VERSION);
        return false;
    }
    if (!is_whole(&b, errp)) {
        return false;
    }
    if (m->page_size != PM_PAGE_SIZE) {
        error_setg(errp, "page map: page size %" PRIu32 " of the source is "
                   "not %u of the destination; use x-page-map=off",
                   m->page_size, PM_PAGE_SIZE);
        return false;
    }
    return true;
}

bool pm_get_device(const uint8_t *buf, size_t len, PmDevice *m, Error **errp)
{
    Body b = { "DEVICE", buf, len };
    uint16_t id;

    m->number = get16(&b);
    m->length = get64(&b);
    id = get16(&b);
    if (!in_bounds(&b, "length of the id", id, 1, PM_MAX_ID, errp) ||
        !get_name(&b, m->id, id, errp)) {
        return false;
    }
    if (!in_range(0, m->length)) {
        error_setg(errp, "page map: protocol error: DEVICE '%s' with a length "
                   "of 0x%" PRIx64 " bytes, which no disk can have", m->id,
                   m->length);
        return false;
    }
    m->n_probes = get16(&b);
    if (!in_bounds(&b, "number of probes", m->n_probes, 0, PM_MAX_PROBES,
                   errp)) {
        return false;
    }
    for (unsigned i = 0; i < m->n_probes; i++) {
        PmProbe *p = &m->probes[i];

        p->offset = get64(&b);
        get_bytes(&b, p->tag.b, sizeof(p->tag.b));
        if (!check_place(&b, p->offset, PM_PAGE_SIZE, errp)) {
            return false;
        }
    }
    return is_whole(&b, errp);
}

bool pm_get_block(const uint8_t *buf, size_t len, PmBlockName *m,
                  Error **errp)
{
    Body b = { "BLOCK", buf, len };
    uint8_t n;

    m->number = get16(&b);
    n = get8(&b);
    return in_bounds(&b, "length of the name", n, 1, UINT8_MAX, errp) &&
           get_name(&b, m->name, n, errp) &&
           is_whole(&b, errp);
}

bool pm_get_run(const uint8_t *buf, size_t len, PmRun *m, Error **errp)
{
    Body b = { "RUN", buf, len };

    m->batch = get32(&b);
    m->device = get16(&b);
    m->offset = get64(&b);
    m->n = get16(&b);
    if (!in_bounds(&b, "batch", m->batch, 1, UINT32_MAX, errp) ||
        !in_bounds(&b, "number of pages", m->n, 1, PM_MAX_RUN, errp) ||
        !check_place(&b, m->offset, m->n * (uint64_t)PM_PAGE_SIZE, errp)) {
        return false;
    }
    for (unsigned i = 0; i < m->n; i++) {
        PmRunPage *p = &m->pages[i];

        p->block = get16(&b);
        p->page = get32(&b);
        get_bytes(&b, p->tag.b, sizeof(p->tag.b));
    }
    return is_whole(&b, errp);
}

bool pm_get_commit(const uint8_t *buf, size_t len, PmCommit *m, Error **errp)
{
    Body b = { "COMMIT", buf, len };

    m->batch = get32(&b);
    m->n = get16(&b);
    return in_bounds(&b, "batch", m->batch, 1, UINT32_MAX, errp) &&
           in_bounds(&b, "number of pages", m->n, 1, PM_MAX_BATCH, errp) &&
           is_whole(&b, errp);
}

/* The return path */

size_t pm_put_rp(uint8_t buf[PM_RP_MAX], const PmRp *m)
{
    uint8_t *p = buf;

    *p++ = m->type;
    switch (m->type) {
    case PM_RP_DEVICES:
        assert(m->n <= PM_MAX_DEVICES);
        stw_be_p(p, m->n);
        p += 2;
        for (unsigned i = 0; i < m->n; i++) {
            assert(m->devices[i].verdict < PM_DEV__MAX);
            stw_be_p(p, m->devices[i].number);
            p[2] = m->devices[i].verdict;
            p += 3;
        }
        break;
    case PM_RP_BATCH:
        assert(m->batch > 0);
        assert(m->n > 0 && m->n <= PM_MAX_BATCH);
        stl_be_p(p, m->batch);
        stw_be_p(p + 4, m->n);
        stl_be_p(p + 6, m->bytes);
        stw_be_p(p + 10, m->requests);
        stl_be_p(p + 12, m->busy_us);
        p += 16;
        memcpy(p, m->placed, DIV_ROUND_UP(m->n, 8));
        p += DIV_ROUND_UP(m->n, 8);
        /* Bits beyond the last page are refused by the reader. */
        if (m->n % 8) {
            p[-1] &= (1 << m->n % 8) - 1;
        }
        break;
    default:
        g_assert_not_reached();
    }
    return p - buf;
}

static bool get_rp_devices(Body *b, PmRp *m, Error **errp)
{
    m->n = get16(b);
    if (!in_bounds(b, "number of devices", m->n, 1, PM_MAX_DEVICES, errp)) {
        return false;
    }
    for (unsigned i = 0; i < m->n; i++) {
        m->devices[i].number = get16(b);
        m->devices[i].verdict = get8(b);
        if (!in_bounds(b, "verdict", m->devices[i].verdict, 0, PM_DEV__MAX - 1,
                       errp)) {
            return false;
        }
    }
    return is_whole(b, errp);
}

static bool get_rp_batch(Body *b, PmRp *m, Error **errp)
{
    size_t bytes;

    m->batch = get32(b);
    m->n = get16(b);
    m->bytes = get32(b);
    m->requests = get16(b);
    m->busy_us = get32(b);
    if (!in_bounds(b, "batch", m->batch, 1, UINT32_MAX, errp) ||
        !in_bounds(b, "number of pages", m->n, 1, PM_MAX_BATCH, errp)) {
        return false;
    }
    bytes = DIV_ROUND_UP(m->n, 8);
    memset(m->placed, 0, sizeof(m->placed));
    get_bytes(b, m->placed, bytes);
    if (!is_whole(b, errp)) {
        return false;
    }
    if (m->n % 8 && m->placed[bytes - 1] >> m->n % 8) {
        error_setg(errp, "page map: protocol error: %s with a verdict on a "
                   "page beyond its %u", b->name, m->n);
        return false;
    }
    return true;
}

bool pm_get_rp(const uint8_t *buf, size_t len, PmRp *m, Error **errp)
{
    Body b = { "verdict", buf, len };
    uint8_t type = get8(&b);

    if (!in_bounds(&b, "type", type, PM_RP_DEVICES, PM_RP_BATCH, errp)) {
        return false;
    }
    m->type = type;
    return type == PM_RP_DEVICES ? get_rp_devices(&b, m, errp)
                                 : get_rp_batch(&b, m, errp);
}
