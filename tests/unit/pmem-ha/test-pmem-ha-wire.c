/*
 * Messages between a primary and its replica: round trips and refusals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/units.h"
#include "hw/mem/pmem-ha-wire.h"

#define REGION (1 * MiB)

static PmemHaMsg good(PmemHaMsgType type)
{
    PmemHaMsg m = {
        .type = type, .generation = 3, .epoch = 7, .seq = 5, .arg0 = 0,
    };

    switch (type) {
    case PMEM_HA_MSG_HELLO:
        m.len = PMEM_HA_HELLO_FIXED + 3;
        break;
    case PMEM_HA_MSG_WELCOME:
        m.len = PMEM_HA_WELCOME_SIZE;
        break;
    case PMEM_HA_MSG_COMMIT:
        m.len = 4;
        break;
    case PMEM_HA_MSG_DATA:
        m.arg0 = 8192;
        m.arg1 = 4096;
        m.len = 4096;
        break;
    case PMEM_HA_MSG_REFUSE:
    case PMEM_HA_MSG_FAIL:
        m.len = 9;
        break;
    default:
        break;
    }
    m.payload_crc = m.len ? 0x12345678 : 0;
    return m;
}

static void expect_bad(const uint8_t *buf, uint64_t region, uint64_t seq,
                       const char *text)
{
    Error *err = NULL;
    PmemHaMsg m;

    g_assert_false(pmem_ha_wire_decode(buf, region, seq, &m, &err));
    g_assert_nonnull(err);
    if (text) {
        g_assert_nonnull(strstr(error_get_pretty(err), text));
    }
    error_free(err);
}

static void expect_bad_msg(const PmemHaMsg *m, const char *text)
{
    uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];

    pmem_ha_wire_encode(m, buf);
    expect_bad(buf, REGION, m->seq, text);
}

static void test_round_trip(void)
{
    PmemHaMsgType type;

    for (type = PMEM_HA_MSG_HELLO; type < PMEM_HA_MSG__MAX; type++) {
        uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];
        PmemHaMsg m = good(type);
        PmemHaMsg d;

        pmem_ha_wire_encode(&m, buf);
        g_assert_true(pmem_ha_wire_decode(buf, REGION, 5, &d, &error_abort));
        g_assert_cmpint(d.type, ==, type);
        g_assert_cmpuint(d.flags, ==, m.flags);
        g_assert_cmpuint(d.len, ==, m.len);
        g_assert_cmpuint(d.generation, ==, 3);
        g_assert_cmpuint(d.epoch, ==, 7);
        g_assert_cmpuint(d.arg0, ==, m.arg0);
        g_assert_cmpuint(d.arg1, ==, m.arg1);
        g_assert_cmpuint(d.payload_crc, ==, m.payload_crc);
        g_assert_cmpstr(pmem_ha_msg_name(type), !=, "unknown");
    }
    g_assert_cmpstr(pmem_ha_msg_name(0), ==, "unknown");
    g_assert_cmpstr(pmem_ha_msg_name(99), ==, "unknown");
    g_assert_cmpstr(pmem_ha_ack_name(99), ==, "unknown");
    g_assert_cmpstr(pmem_ha_ack_name(PMEM_HA_ACK_APPLIED), ==, "applied");
}

/* The bytes themselves are the contract with other implementations. */
static void test_layout(void)
{
    uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];
    PmemHaMsg m = {
        .type = PMEM_HA_MSG_DATA, .flags = PMEM_HA_FLAG_ZERO,
        .generation = 0x0102030405060708, .epoch = 9, .arg0 = 0x10000,
        .arg1 = 0x2000, .seq = 0x11,
    };

    pmem_ha_wire_encode(&m, buf);
    g_assert_cmpmem(buf, 4, "PMHA", 4);
    g_assert_cmpuint(lduw_le_p(buf + 4), ==, 1);
    g_assert_cmpuint(lduw_le_p(buf + 6), ==, 5);
    g_assert_cmpuint(ldl_le_p(buf + 8), ==, 1);
    g_assert_cmpuint(ldl_le_p(buf + 12), ==, 0);
    g_assert_cmpuint(ldq_le_p(buf + 16), ==, 0x0102030405060708);
    g_assert_cmpuint(ldq_le_p(buf + 24), ==, 9);
    g_assert_cmpuint(ldq_le_p(buf + 32), ==, 0x10000);
    g_assert_cmpuint(ldq_le_p(buf + 40), ==, 0x2000);
    g_assert_cmpuint(ldq_le_p(buf + 48), ==, 0x11);
    g_assert_cmpuint(ldl_le_p(buf + 56), ==, 0);
    /* CRC-32C of "123456789" */
    g_assert_cmpuint(pmem_ha_wire_crc("123456789", 9), ==, 0xe3069283);
    g_assert_cmpuint(pmem_ha_wire_crc(NULL, 0), ==, 0);
}

/* Any single bit that flips on the way is noticed. */
static void test_bit_flips(void)
{
    PmemHaMsgType type;
    int bit;

    for (type = PMEM_HA_MSG_HELLO; type < PMEM_HA_MSG__MAX; type++) {
        uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];
        PmemHaMsg m = good(type);

        pmem_ha_wire_encode(&m, buf);
        for (bit = 0; bit < PMEM_HA_WIRE_HEADER_SIZE * 8; bit++) {
            buf[bit / 8] ^= 1 << bit % 8;
            expect_bad(buf, REGION, 5, NULL);
            buf[bit / 8] ^= 1 << bit % 8;
        }
    }
}

static void test_header_refusals(void)
{
    uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];
    PmemHaMsg m = good(PMEM_HA_MSG_PING);

    pmem_ha_wire_encode(&m, buf);
    expect_bad(buf, REGION, 4, "sequence number 5 where 4");
    memset(buf, 0, sizeof(buf));
    expect_bad(buf, REGION, 5, "magic");

    pmem_ha_wire_encode(&m, buf);
    stw_le_p(buf + 4, 2);
    stl_le_p(buf + 60, crc32c(0xffffffff, buf, 60));
    expect_bad(buf, REGION, 5, "version 2");

    m = good(PMEM_HA_MSG_PING);
    m.generation = PMEM_HA_MAX_NUMBER + 1;
    expect_bad_msg(&m, "no device can reach");
    m = good(PMEM_HA_MSG_PING);
    m.epoch = UINT64_MAX;
    expect_bad_msg(&m, "no device can reach");
    m = good(PMEM_HA_MSG_PING);

    m.type = 0;
    expect_bad_msg(&m, "unknown message type 0");
    m.type = PMEM_HA_MSG__MAX;
    expect_bad_msg(&m, "unknown message type");
    m.type = 0xffff;
    expect_bad_msg(&m, "unknown message type");

    m = good(PMEM_HA_MSG_PING);
    m.flags = 1;
    expect_bad_msg(&m, "flags");
    m = good(PMEM_HA_MSG_BEGIN);
    m.flags = PMEM_HA_FLAG_ZERO;
    expect_bad_msg(&m, "flags");
    m = good(PMEM_HA_MSG_BEGIN);
    m.epoch = 0;
    expect_bad_msg(&m, "without an epoch");
    m = good(PMEM_HA_MSG_COMMIT);
    m.len = 5;
    expect_bad_msg(&m, "payload of 5");
    m = good(PMEM_HA_MSG_REFUSE);
    m.len = PMEM_HA_WIRE_MAX_TEXT + 1;
    expect_bad_msg(&m, "payload");
}

static void test_data_ranges(void)
{
    static const struct {
        uint64_t offset, length;
        uint32_t flags, len;
        bool ok;
    } cases[] = {
        { 0, 4096, 0, 4096, true },
        { REGION - 4096, 4096, 0, 4096, true },
        { 0, REGION, 0, REGION, true },
        { 0, REGION, PMEM_HA_FLAG_ZERO, 0, true },
        { 0, 0, 0, 0, false },
        { 0, 0, PMEM_HA_FLAG_ZERO, 0, false },
        { 512, 4096, 0, 4096, false },
        { 0, 512, 0, 512, false },
        { REGION, 4096, 0, 4096, false },
        { REGION - 4096, 8192, 0, 8192, false },
        { 0, REGION + 4096, PMEM_HA_FLAG_ZERO, 0, false },
        { UINT64_MAX - 4095, 4096, 0, 4096, false },
        { 4096, UINT64_MAX - 4095, PMEM_HA_FLAG_ZERO, 0, false },
        { 0, 4096, PMEM_HA_FLAG_ZERO, 4096, false },
        { 0, 8192, 0, 4096, false },
        { 0, 4096, 0, 0, false },
        { 0, 4096, 0, UINT32_MAX, false },
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE];
        PmemHaMsg m = {
            .type = PMEM_HA_MSG_DATA, .flags = cases[i].flags,
            .len = cases[i].len, .arg0 = cases[i].offset,
            .arg1 = cases[i].length,
        };
        PmemHaMsg d;

        pmem_ha_wire_encode(&m, buf);
        if (cases[i].ok) {
            g_assert_true(pmem_ha_wire_decode(buf, REGION, 0, &d,
                                              &error_abort));
        } else {
            expect_bad(buf, REGION, 0, NULL);
        }
        expect_bad(buf, 0, 0, NULL);
    }
}

static void test_payload(void)
{
    uint8_t data[64] = { 1, 2, 3 };
    PmemHaMsg m = { .type = PMEM_HA_MSG_REFUSE, .len = sizeof(data) };
    Error *err = NULL;
    unsigned i;

    m.payload_crc = pmem_ha_wire_crc(data, sizeof(data));
    g_assert_true(pmem_ha_wire_check_payload(&m, data, &error_abort));
    for (i = 0; i < sizeof(data) * 8; i++) {
        data[i / 8] ^= 1 << i % 8;
        g_assert_false(pmem_ha_wire_check_payload(&m, data, &err));
        error_free(err);
        err = NULL;
        data[i / 8] ^= 1 << i % 8;
    }
}

static void test_digest(void)
{
    PmemHaMsg a = { .arg0 = 4096, .arg1 = 4096, .payload_crc = 1 };
    PmemHaMsg b = { .arg0 = 8192, .arg1 = 4096, .payload_crc = 2 };
    PmemHaMsg c = a;
    uint32_t ab = pmem_ha_wire_digest(pmem_ha_wire_digest(0, &a), &b);
    uint32_t ba = pmem_ha_wire_digest(pmem_ha_wire_digest(0, &b), &a);

    g_assert_cmpuint(ab, !=, ba);
    c.arg0 = 0;
    g_assert_cmpuint(pmem_ha_wire_digest(0, &c), !=,
                     pmem_ha_wire_digest(0, &a));
    c = a;
    c.flags = PMEM_HA_FLAG_ZERO;
    g_assert_cmpuint(pmem_ha_wire_digest(0, &c), !=,
                     pmem_ha_wire_digest(0, &a));
    c = a;
    c.payload_crc = 9;
    g_assert_cmpuint(pmem_ha_wire_digest(0, &c), !=,
                     pmem_ha_wire_digest(0, &a));
}

static PmemHaHello good_hello(void)
{
    return (PmemHaHello) {
        .uuid = { .data = { 1, 2, 3 } },
        .size = REGION, .label_size = 128 * KiB, .slot = 3,
        .ack = PMEM_HA_ACK_APPLIED, .captured = 10, .acked = 9,
        .instance = 0x1122334455667788, .name = "pm0",
    };
}

static void bad_hello(const PmemHaHello *h, const char *text)
{
    uint8_t buf[PMEM_HA_HELLO_MAX];
    size_t len = pmem_ha_hello_encode(h, buf);
    Error *err = NULL;
    PmemHaHello d;

    g_assert_false(pmem_ha_hello_decode(buf, len, &d, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), text));
    error_free(err);
}

static void test_hello(void)
{
    PmemHaHello h = good_hello();
    PmemHaHello d;
    uint8_t buf[PMEM_HA_HELLO_MAX];
    size_t len = pmem_ha_hello_encode(&h, buf);
    size_t i;

    g_assert_cmpuint(len, ==, PMEM_HA_HELLO_FIXED + 3);
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    g_assert_cmpmem(&h, sizeof(h), &d, sizeof(d));
    h.flags = PMEM_HA_HELLO_TAKE;
    pmem_ha_hello_encode(&h, buf);
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    g_assert_cmpuint(d.flags, ==, PMEM_HA_HELLO_TAKE);

    for (i = 0; i < len; i++) {
        Error *err = NULL;

        g_assert_false(pmem_ha_hello_decode(buf, i, &d, &err));
        error_free(err);
    }
    h.size = 0;
    bad_hello(&h, "size");
    h.size = 4097;
    bad_hello(&h, "size");
    h = good_hello();
    h.label_size = REGION;
    bad_hello(&h, "labels");
    h = good_hello();
    h.slot = 256;
    bad_hello(&h, "slot");
    h = good_hello();
    h.ack = PMEM_HA_ACK__MAX;
    bad_hello(&h, "ack level");
    h = good_hello();
    h.acked = 11;
    bad_hello(&h, "acknowledged");
    h = good_hello();
    h.flags = PMEM_HA_HELLO_ADOPT << 1;
    bad_hello(&h, "flags");
    h = good_hello();
    h.name[0] = '\n';
    bad_hello(&h, "name");
    h = good_hello();
    h.name[0] = 0xff;
    bad_hello(&h, "name");
    h = good_hello();
    memset(h.name, 'x', PMEM_HA_WIRE_MAX_NAME);
    len = pmem_ha_hello_encode(&h, buf);
    g_assert_cmpuint(len, <=, sizeof(buf));
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    g_assert_cmpstr(d.name, ==, h.name);
}

static void test_hello_of_group(void)
{
    PmemHaHello h = good_hello();
    PmemHaHello d;
    uint8_t buf[PMEM_HA_HELLO_MAX];
    size_t len, i;

    h.flags = PMEM_HA_HELLO_GROUP;
    for (i = 0; i < PMEM_HA_WIRE_MAX_MORE; i++) {
        h.more[h.n_more++] = (PmemHaMember) {
            .uuid = { .data = { 9, i } },
            .size = (i + 1) * PMEM_HA_PAGE_SIZE, .label_size = i,
            .slot = i + 4,
        };
    }
    memset(h.name, 'x', PMEM_HA_WIRE_MAX_NAME);
    len = pmem_ha_hello_encode(&h, buf);
    g_assert_cmpuint(len, ==, sizeof(buf) - PMEM_HA_HELLO_FILE);
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    g_assert_cmpmem(&h, sizeof(h), &d, sizeof(d));
    for (i = 0; i < h.n_more; i++) {
        g_assert_true(pmem_ha_member_is_equal(&h.more[i], &d.more[i]));
        d.more[i].slot++;
        g_assert_false(pmem_ha_member_is_equal(&h.more[i], &d.more[i]));
    }

    buf[len - 4] = 1;
    {
        Error *err = NULL;

        g_assert_false(pmem_ha_hello_decode(buf, len, &d, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "reserved 0x1"));
        error_free(err);
    }
    buf[len - 4] = 0;

    /* Shorter, it is malformed, or has whole devices less. */
    for (i = 0; i < len; i++) {
        Error *err = NULL;
        size_t more = i - PMEM_HA_HELLO_FIXED - PMEM_HA_WIRE_MAX_NAME;

        if (i > PMEM_HA_HELLO_FIXED + PMEM_HA_WIRE_MAX_NAME &&
            more % PMEM_HA_MEMBER_SIZE == 0) {
            g_assert_true(pmem_ha_hello_decode(buf, i, &d, &error_abort));
            g_assert_cmpuint(d.n_more, ==, more / PMEM_HA_MEMBER_SIZE);
        } else {
            g_assert_false(pmem_ha_hello_decode(buf, i, &d, &err));
            error_free(err);
        }
    }

    h.more[3].size = 0;
    bad_hello(&h, "device 5");
    h.more[3].size = 4097;
    bad_hello(&h, "device 5");
    h.more[3].size = h.size;
    bad_hello(&h, "device 5");
    h.more[3].size = UINT64_MAX & ~(PMEM_HA_PAGE_SIZE - 1ULL);
    bad_hello(&h, "device 5");
    h.more[3].size = PMEM_HA_PAGE_SIZE;
    h.more[3].label_size = PMEM_HA_PAGE_SIZE;
    bad_hello(&h, "device 5");
    h.more[3].label_size = 0;
    h.more[3].slot = 256;
    bad_hello(&h, "device 5");
    h.more[3].slot = 0;
    /* The first one must have more than its labels. */
    h.more[3].size = h.size - 40 * PMEM_HA_PAGE_SIZE;
    bad_hello(&h, "labels");

    /* Without the flag nothing may follow the name. */
    h = good_hello();
    len = pmem_ha_hello_encode(&h, buf);
    memset(buf + len, 0, PMEM_HA_MEMBER_SIZE);
    {
        Error *err = NULL;

        g_assert_false(pmem_ha_hello_decode(buf, len + PMEM_HA_MEMBER_SIZE, &d,
                                            &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "behind the name"));
        error_free(err);
    }
}

static void test_hello_with_file(void)
{
    PmemHaHello h = good_hello();
    PmemHaHello d;
    uint8_t buf[PMEM_HA_HELLO_MAX];
    size_t len;

    h.flags = PMEM_HA_HELLO_TAKE | PMEM_HA_HELLO_ADOPT | PMEM_HA_HELLO_GROUP;
    h.host.data[5] = 7;
    h.file_dev = 0x801;
    h.file_ino = 12345678901;
    h.n_more = 1;
    h.more[0].size = PMEM_HA_PAGE_SIZE;
    len = pmem_ha_hello_encode(&h, buf);
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    g_assert_cmpmem(&h, sizeof(h), &d, sizeof(d));

    h = good_hello();
    h.flags = PMEM_HA_HELLO_ADOPT;
    bad_hello(&h, "TAKE");
    h.flags |= PMEM_HA_HELLO_TAKE;
    len = pmem_ha_hello_encode(&h, buf);
    g_assert_true(pmem_ha_hello_decode(buf, len, &d, &error_abort));
    while (--len > PMEM_HA_HELLO_FIXED + 3) {
        Error *err = NULL;

        g_assert_false(pmem_ha_hello_decode(buf, len, &d, &err));
        error_free(err);
    }
}

static void test_welcome(void)
{
    PmemHaWelcome w = { .have_image = true, .generation = 2, .epoch = 77 };
    uint8_t buf[PMEM_HA_WELCOME_SIZE];
    PmemHaWelcome d;
    Error *err = NULL;

    pmem_ha_welcome_encode(&w, buf);
    g_assert_true(pmem_ha_welcome_decode(buf, sizeof(buf), &d, &error_abort));
    g_assert_true(d.have_image);
    g_assert_cmpuint(d.generation, ==, 2);
    g_assert_cmpuint(d.epoch, ==, 77);

    w.have_image = false;
    pmem_ha_welcome_encode(&w, buf);
    g_assert_true(pmem_ha_welcome_decode(buf, sizeof(buf), &d, &error_abort));
    g_assert_false(d.have_image);
    g_assert_cmpuint(d.epoch, ==, 0);

    stq_le_p(buf + 16, 5);
    g_assert_false(pmem_ha_welcome_decode(buf, sizeof(buf), &d, &err));
    error_free(err);
    err = NULL;
    g_assert_false(pmem_ha_welcome_decode(buf, 23, &d, &err));
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pmem-ha/wire/round-trip", test_round_trip);
    g_test_add_func("/pmem-ha/wire/layout", test_layout);
    g_test_add_func("/pmem-ha/wire/bit-flips", test_bit_flips);
    g_test_add_func("/pmem-ha/wire/header-refusals", test_header_refusals);
    g_test_add_func("/pmem-ha/wire/data-ranges", test_data_ranges);
    g_test_add_func("/pmem-ha/wire/payload", test_payload);
    g_test_add_func("/pmem-ha/wire/digest", test_digest);
    g_test_add_func("/pmem-ha/wire/hello", test_hello);
    g_test_add_func("/pmem-ha/wire/hello-of-group", test_hello_of_group);
    g_test_add_func("/pmem-ha/wire/hello-with-file", test_hello_with_file);
    g_test_add_func("/pmem-ha/wire/welcome", test_welcome);
    return g_test_run();
}
