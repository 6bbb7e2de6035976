/*
 * NUMA scheduler: where latencies come from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "accel/kvm/numa-sched/latency-read.h"
#include "accel/kvm/numa-sched/plan.h"

#define N   3
#define GB  (1ull << 30)

/* Nodes 0, 4 and 8; 8 has memory only */
static NsTopology *host(void)
{
    static const uint8_t slit[N * N] = { 10, 21, 17, 21, 10, 28, 17, 28, 10 };
    NsTopology *t = g_new0(NsTopology, 1);

    t->n = N;
    t->node = g_new0(NsNode, N);
    t->slit = g_memdup2(slit, sizeof(slit));
    t->initiator = g_new0(bool, N * N);
    t->notes = g_ptr_array_new_with_free_func(g_free);
    for (uint32_t i = 0; i < N; i++) {
        t->node[i] = (NsNode) {
            .id = 4 * i, .cpus = i < 2 ? 4 : 0, .cores = i < 2 ? 2 : 0,
            .size = GB, .free = GB,
        };
    }
    return t;
}

static void set_access(NsTopology *t)
{
    static const uint32_t ns[N] = { 80, 90, 250 };

    for (uint32_t j = 0; j < N; j++) {
        t->node[j].access_ns = ns[j];
        t->initiator[(j == 2 ? 0 : j) * N + j] = true;
    }
}

static void test_slit(void)
{
    g_autoptr(NsTopology) t = host();
    g_autoptr(NsLatency) l = ns_latency(t, NULL, 0);

    g_assert_cmpint(l->source, ==, NS_SLIT);
    g_assert_cmpuint(l->value[0 * N + 2], ==, 17);
    g_assert_cmpuint(l->ratio[0 * N + 0], ==, NS_MILLION);
    g_assert_cmpuint(l->ratio[1 * N + 2], ==, 2800000);
}

static void test_access(void)
{
    g_autoptr(NsTopology) t = host();
    g_autoptr(NsLatency) l = NULL;

    set_access(t);
    l = ns_latency(t, NULL, 0);
    g_assert_cmpint(l->source, ==, NS_ACCESS);
    g_assert_cmpuint(l->value[0 * N + 2], ==, 250);
    /* The best initiator of node 8 is node 0, at 17; this one is at 28. */
    g_assert_cmpuint(l->value[1 * N + 2], ==, 250 * 28 / 17);
    g_assert_cmpuint(l->value[0 * N + 1], ==, 90 * 21 / 10);
    g_assert_cmpuint(l->ratio[0 * N + 2], ==, 250 * NS_MILLION / 80);
}

/* One that is not known makes all of its source unknown. */
static void test_no_mixture(void)
{
    g_autoptr(NsTopology) t = host();
    g_autoptr(NsLatency) l = NULL, m = NULL;

    set_access(t);
    t->node[2].access_ns = 0;
    l = ns_latency(t, NULL, 0);
    g_assert_cmpint(l->source, ==, NS_SLIT);
    t->slit[1 * N + 2] = 0;
    m = ns_latency(t, NULL, 0);
    g_assert_cmpint(m->source, ==, NS_FLAT);
    for (int i = 0; i < N * N; i++) {
        g_assert_cmpuint(m->ratio[i], ==, NS_MILLION);
    }
}

/* What no CPU asks for need not be known. */
static void test_rows_without_cpus(void)
{
    g_autoptr(NsTopology) t = host();
    g_autoptr(NsLatency) l = NULL;

    memset(t->slit + 2 * N, 0, N);
    l = ns_latency(t, NULL, 0);
    g_assert_cmpint(l->source, ==, NS_SLIT);
    for (int i = 0; i < N * N; i++) {
        g_assert_cmpuint(l->ratio[i], >, 0);
    }
}

static void test_order(void)
{
    g_autoptr(NsTopology) t = host();
    static const uint32_t measured[N * N] = { 81, 150, 260, 150, 82, 300 };
    uint32_t part[N * N] = { 81, 150, 260, 150, 82, 300 };
    static const uint32_t hmat[N * N] = { 70, 140, 250, 140, 70, 0 };
    static const uint32_t said[N * N] = { 75, 145, 255, 145, 75, 290 };
    NsGiven given[] = {
        { NS_MEASURED, measured }, { NS_HMAT, hmat }, { NS_OPERATOR, said },
    };
    g_autoptr(NsLatency) all = NULL, incomplete = NULL, next = NULL;

    set_access(t);
    all = ns_latency(t, given, 3);
    g_assert_cmpint(all->source, ==, NS_OPERATOR);
    g_assert_cmpuint(all->value[1 * N + 2], ==, 290);
    incomplete = ns_latency(t, given, 2);
    g_assert_cmpint(incomplete->source, ==, NS_MEASURED);
    /* A node came since it was measured. */
    part[1 * N + 2] = 0;
    given[0].ns = part;
    next = ns_latency(t, given, 2);
    g_assert_cmpint(next->source, ==, NS_ACCESS);
}

/* Of any two sources the better one counts, however they are listed. */
static void test_precedence(void)
{
    static const NsSource order[] = { NS_OPERATOR, NS_HMAT, NS_MEASURED };
    uint32_t ns[ARRAY_SIZE(order)][N * N];

    for (uint32_t a = 0; a < ARRAY_SIZE(order); a++) {
        for (uint32_t k = 0; k < N * N; k++) {
            ns[a][k] = 100 * (a + 1) + k;
        }
    }
    for (uint32_t a = 0; a < ARRAY_SIZE(order); a++) {
        g_autoptr(NsTopology) t = host();
        NsGiven alone = { order[a], ns[a] };
        g_autoptr(NsLatency) l = NULL;

        /* Before what the kernel says of itself */
        set_access(t);
        l = ns_latency(t, &alone, 1);
        g_assert_cmpint(l->source, ==, order[a]);
        for (uint32_t b = a + 1; b < ARRAY_SIZE(order); b++) {
            NsGiven given[] = { { order[b], ns[b] }, { order[a], ns[a] } };
            NsGiven turned[] = { given[1], given[0] };
            g_autoptr(NsLatency) x = ns_latency(t, given, 2);
            g_autoptr(NsLatency) y = ns_latency(t, turned, 2);

            g_assert_cmpint(x->source, ==, order[a]);
            g_assert_cmpmem(x->value, sizeof(ns[a]), ns[a], sizeof(ns[a]));
            g_assert_cmpmem(y->value, sizeof(ns[a]), ns[a], sizeof(ns[a]));
        }
    }
}

/* With what was measured, but no better source */
static void test_measured(void)
{
    g_autoptr(NsTopology) t = host();
    static const uint32_t ns[N * N] = { 81, 150, 260, 150, 82, 300 };
    const char *said = "0 0 75\n0 4 145\n0 8 255\n4 0 145\n4 4 75\n4 8 290\n";
    g_autofree char *root = g_dir_make_tmp("numa-latency-XXXXXX", NULL);
    g_autoptr(NsLatency) l = NULL, file = NULL;

    l = ns_latency_read(t, root, NULL, NULL, 0, ns, &error_abort);
    g_assert_cmpint(l->source, ==, NS_MEASURED);
    g_assert_cmpuint(l->value[1 * N + 2], ==, 300);
    file = ns_latency_read(t, root, "file", said, strlen(said), ns,
                           &error_abort);
    g_assert_cmpint(file->source, ==, NS_OPERATOR);
    rmdir(root);
}

static uint32_t *parse(const NsTopology *t, const char *text, Error **errp)
{
    return ns_latency_parse(t, "file", text, strlen(text), errp);
}

static void test_file(void)
{
    g_autoptr(NsTopology) t = host();
    g_autofree uint32_t *ns = parse(t, "# host\n0 0 80\n0 4 150 # far\n\n"
                                    "0 8 250\n4 0 150\n4 4 80\n4 8 300",
                                    &error_abort);

    g_assert_cmpuint(ns[0 * N + 1], ==, 150);
    g_assert_cmpuint(ns[1 * N + 2], ==, 300);
}

static void test_bad_files(void)
{
    g_autoptr(NsTopology) t = host();
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "from node 0 to node 0 is missing" },
        { "0 0", "file:1: not a line" },
        { "\n0 0 80 1", "file:2: not a line" },
        { "0 0 x", "file:1: not a line" },
        { "0 0 -1", "file:1: not a line" },
        { "0 0 99999999999999999999", "file:1: not a line" },
        { "0 1 80", "file:1: the host has no node 1" },
        { "0 0 0", "file:1: a latency of 0 ns" },
        { "0 0 65536", "file:1: a latency of 65536 ns" },
        { "0 0 80\n0 0 80", "file:2: the latency from node 0 to node 0 is there"
          " twice" },
        { "0 0 80\n0 4 150\n0 8 250\n4 0 150\n4 4 80",
          "from node 4 to node 8 is missing" },
    };

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        Error *err = NULL;

        g_assert_null(parse(t, bad[i].text, &err));
        if (!strstr(error_get_pretty(err), bad[i].says)) {
            g_error("'%s' is not in '%s'", bad[i].says, error_get_pretty(err));
        }
        error_free(err);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/latency/slit", test_slit);
    g_test_add_func("/numa-sched/latency/access", test_access);
    g_test_add_func("/numa-sched/latency/no-mixture", test_no_mixture);
    g_test_add_func("/numa-sched/latency/rows-without-cpus",
                    test_rows_without_cpus);
    g_test_add_func("/numa-sched/latency/order", test_order);
    g_test_add_func("/numa-sched/latency/precedence", test_precedence);
    g_test_add_func("/numa-sched/latency/measured", test_measured);
    g_test_add_func("/numa-sched/latency/file", test_file);
    g_test_add_func("/numa-sched/latency/bad-files", test_bad_files);
    return g_test_run();
}
