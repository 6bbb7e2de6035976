/*
 * NUMA scheduler: the firmware's table of latencies
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "accel/kvm/numa-sched/hmat.h"
#include "accel/kvm/numa-sched/latency-read.h"
#include "qapi/error.h"

/* Nodes 0 and 2 have CPUs, 1 has memory only; all have it. */
static NsTopology *topology(void)
{
    static NsNode node[3];
    static bool initiator[9];
    static uint8_t slit[9] = { 10, 17, 21, 17, 10, 28, 21, 28, 10 };
    static NsTopology t;

    for (int i = 0; i < 3; i++) {
        node[i] = (NsNode) { .id = i, .cpus = i == 1 ? 0 : 2, .size = 1 };
    }
    memset(initiator, 0, sizeof(initiator));
    t = (NsTopology) {
        .n = 3, .node = node, .slit = slit, .initiator = initiator,
        .notes = g_ptr_array_new_with_free_func(g_free),
    };
    return &t;
}

static void put(GByteArray *a, int size, uint64_t v)
{
    uint8_t b[8];

    stq_le_p(b, v);
    g_byte_array_append(a, b, size);
}

static GByteArray *table(const char *name, int revision, int body)
{
    GByteArray *a = g_byte_array_new();

    g_byte_array_append(a, (const uint8_t *)name, 4);
    put(a, 4, 0);
    put(a, 1, revision);
    while (a->len < body) {
        put(a, 1, 0);
    }
    return a;
}

/* Two initiators, three targets; entries in rows */
static void put_matrix(GByteArray *a, int type, int hierarchy, uint64_t base,
                       const uint32_t *domain, const uint16_t *entry)
{
    guint start = a->len;

    put(a, 2, 1);
    put(a, 2, 0);
    put(a, 4, 0);
    put(a, 1, hierarchy);
    put(a, 1, type);
    put(a, 2, 0);
    put(a, 4, 2);
    put(a, 4, 3);
    put(a, 4, 0);
    put(a, 8, base);
    put(a, 4, domain[0]);
    put(a, 4, domain[2]);
    for (int j = 0; j < 3; j++) {
        put(a, 4, domain[j]);
    }
    for (int i = 0; i < 6; i++) {
        put(a, 2, entry[i]);
    }
    stl_le_p(a->data + start + 4, a->len - start);
}

static const uint32_t plain[3] = { 0, 1, 2 };
static const uint16_t ns[6] = { 80, 140, 350, 350, 250, 81 };

static void check(const uint32_t *got)
{
    g_assert_nonnull(got);
    for (int j = 0; j < 3; j++) {
        g_assert_cmpuint(got[j], ==, ns[j]);
        g_assert_cmpuint(got[3 + j], ==, 0);
        g_assert_cmpuint(got[6 + j], ==, ns[3 + j]);
    }
}

static uint32_t *parse(NsTopology *t, const GByteArray *h, const GByteArray *s,
                       const char **why)
{
    return ns_hmat_parse(t, h->data, h->len, s ? s->data : NULL,
                         s ? s->len : 0, why);
}

static void test_matrix(void)
{
    NsTopology *t = topology();
    g_autoptr(GByteArray) h = table("HMAT", 2, 40);
    g_autoptr(GByteArray) old = table("HMAT", 1, 40);
    g_autofree uint32_t *two = NULL, *one = NULL;
    uint16_t other[6] = { 1, 2, 3, 4, 5, 6 }, tens[6];
    const char *why;

    /* Memory attributes; bandwidth; a cache's latency; access, which loses */
    put(h, 2, 0);
    put(h, 2, 0);
    put(h, 4, 40);
    for (int i = 0; i < 32; i++) {
        put(h, 1, 0xff);
    }
    put_matrix(h, 3, 0, 1000, plain, other);
    put_matrix(h, 1, 1, 1000, plain, other);
    put_matrix(h, 0, 0, 1000, plain, other);
    put_matrix(h, 1, 0, 1000, plain, ns);
    put_matrix(h, 0, 0, 1000, plain, other);
    two = parse(t, h, NULL, &why);
    check(two);
    /* Revision 1: the kernel takes tenths of the unit. */
    for (int i = 0; i < 6; i++) {
        tens[i] = ns[i] * 10;
    }
    put_matrix(old, 0, 0, 1, plain, tens);
    one = parse(t, old, NULL, &why);
    check(one);
    g_ptr_array_unref(t->notes);
}

static void put_cpu(GByteArray *s, uint32_t domain, bool enabled)
{
    put(s, 1, 0);
    put(s, 1, 16);
    put(s, 1, domain & 0xff);
    put(s, 1, 0);
    put(s, 4, enabled);
    put(s, 1, 0);
    put(s, 3, domain >> 8);
    put(s, 4, 0);
}

static void put_memory(GByteArray *s, uint32_t domain)
{
    put(s, 1, 1);
    put(s, 1, 40);
    put(s, 4, domain);
    for (int i = 6; i < 28; i++) {
        put(s, 1, 0);
    }
    put(s, 4, 1);
    put(s, 8, 0);
}

/* Domains in any order and of any number; nodes are numbered as they come up */
static void test_domains(void)
{
    static const uint32_t domain[3] = { 0x12345678, 7, 3 };
    NsTopology *t = topology();
    g_autoptr(GByteArray) h = table("HMAT", 2, 40);
    g_autoptr(GByteArray) s = table("SRAT", 3, 48);
    g_autofree uint32_t *got = NULL;
    const char *why;

    /* Nodes are 0: 0x12345678, 1: 3, 2: 7 */
    put_memory(s, 7);
    put_cpu(s, 99, false);
    put_cpu(s, domain[0], true);
    put_cpu(s, domain[2], true);
    put_memory(s, domain[0]);
    put_matrix(h, 1, 0, 1000, domain, ns);
    t->node[1].cpus = 2;
    t->node[2].cpus = 0;
    got = parse(t, h, s, &why);
    g_assert_nonnull(got);
    g_assert_cmpuint(got[0], ==, ns[0]);
    g_assert_cmpuint(got[2], ==, ns[1]);
    g_assert_cmpuint(got[1], ==, ns[2]);
    g_assert_cmpuint(got[3], ==, ns[3]);
    g_assert_cmpuint(got[5], ==, ns[4]);
    g_assert_cmpuint(got[4], ==, ns[5]);
    g_ptr_array_unref(t->notes);
}

static void test_contradiction(void)
{
    NsTopology *t = topology();
    g_autoptr(GByteArray) h = table("HMAT", 2, 40);
    g_autoptr(GByteArray) none = table("HMAT", 2, 40);
    g_autofree uint32_t *got = NULL;
    const char *why;

    put_matrix(h, 1, 0, 1000, plain, ns);
    t->initiator[2 * 3 + 1] = true;
    t->node[1].access_ns = 250;
    got = parse(t, h, NULL, &why);
    check(got);
    t->node[1].access_ns = 140;
    g_assert_null(parse(t, h, NULL, &why));
    g_assert_nonnull(strstr(why, "kernel"));
    g_assert_null(parse(t, none, NULL, &why));
    g_assert_nonnull(strstr(why, "no latency"));
    g_ptr_array_unref(t->notes);
}

/* Each truncation, and drawn damage: any answer, and no harm */
static void test_damage(void)
{
    NsTopology *t = topology();
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    g_autoptr(GByteArray) h = table("HMAT", 2, 40);
    g_autoptr(GByteArray) s = table("SRAT", 3, 48);
    const char *why;

    put_matrix(h, 1, 0, 1000, plain, ns);
    put_matrix(h, 0, 0, 1000, plain, ns);
    put_cpu(s, 0, true);
    put_memory(s, 1);
    put_cpu(s, 2, true);
    for (guint len = 0; len <= h->len; len++) {
        g_autofree uint8_t *part = g_memdup2(h->data, len);

        g_free(ns_hmat_parse(t, part, len, s->data, s->len, &why));
    }
    for (guint len = 0; len <= s->len; len++) {
        g_autofree uint8_t *part = g_memdup2(s->data, len);

        g_free(ns_hmat_parse(t, h->data, h->len, part, len, &why));
    }
    for (int round = 0; round < 20000; round++) {
        g_autofree uint8_t *hm = g_memdup2(h->data, h->len);
        g_autofree uint8_t *sr = g_memdup2(s->data, s->len);

        for (int i = g_rand_int_range(rand, 1, 5); i; i--) {
            hm[g_rand_int_range(rand, 36, h->len)] = g_rand_int(rand);
            sr[g_rand_int_range(rand, 36, s->len)] = g_rand_int(rand);
        }
        g_free(ns_hmat_parse(t, hm, h->len, sr, s->len, &why));
    }
    g_ptr_array_unref(t->notes);
}

/* Read from a tree, used as the source, and a note where it is not used */
static void test_tree(void)
{
    NsTopology *t = topology();
    g_autofree char *root = g_dir_make_tmp("numa-hmat-XXXXXX", NULL);
    g_autofree char *dir = g_build_filename(root, "sys/firmware/acpi/tables",
                                            NULL);
    g_autofree char *file = g_build_filename(dir, "HMAT", NULL);
    g_autoptr(GByteArray) h = table("HMAT", 2, 40);
    g_autoptr(NsLatency) before = NULL, after = NULL, wrong = NULL;

    before = ns_latency_read(t, root, NULL, NULL, 0, NULL, &error_abort);
    g_assert_cmpint(before->source, ==, NS_SLIT);
    g_assert_cmpuint(t->notes->len, ==, 0);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    put_matrix(h, 1, 0, 1000, plain, ns);
    g_assert_true(g_file_set_contents(file, (char *)h->data, h->len, NULL));
    after = ns_latency_read(t, root, NULL, NULL, 0, NULL, &error_abort);
    g_assert_cmpint(after->source, ==, NS_HMAT);
    g_assert_cmpuint(after->value[2], ==, 350);

    g_assert_true(g_file_set_contents(file, "HMAT", 4, NULL));
    wrong = ns_latency_read(t, root, NULL, NULL, 0, NULL, &error_abort);
    g_assert_cmpint(wrong->source, ==, NS_SLIT);
    g_assert_cmpuint(t->notes->len, ==, 1);

    unlink(file);
    for (int i = 0; i < 5; i++) {
        rmdir(dir);
        *strrchr(dir, '/') = 0;
    }
    g_ptr_array_unref(t->notes);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/hmat/matrix", test_matrix);
    g_test_add_func("/numa-sched/hmat/domains", test_domains);
    g_test_add_func("/numa-sched/hmat/contradiction", test_contradiction);
    g_test_add_func("/numa-sched/hmat/damage", test_damage);
    g_test_add_func("/numa-sched/hmat/tree", test_tree);
    return g_test_run();
}
