/*
 * NUMA scheduler: latencies that are measured
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Samples that are made up, and a kernel that is: its latencies are given, and
 * each of its calls can fail, or be the last one.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "accel/kvm/numa-sched/measure.h"
#include "accel/kvm/numa-sched/memcg.h"

#define N       3
#define TIMES   NS_MEASURE_TIMES
#define FAR     1000            /* CPUs of nodes are FAR apart */

/* ns; node 8 has memory only */
static const uint32_t host_ns[N][N] = {
    { 80, 150, 260 }, { 140, 90, 300 }, { 0, 0, 0 },
};

/* Nodes 0, 4 and 8 */
static NsTopology *topology(void)
{
    NsTopology *t = g_new0(NsTopology, 1);

    t->n = N;
    t->node = g_new0(NsNode, N);
    t->slit = g_new0(uint8_t, N * N);
    t->initiator = g_new0(bool, N * N);
    t->notes = g_ptr_array_new_with_free_func(g_free);
    for (uint32_t i = 0; i < N; i++) {
        t->node[i] = (NsNode) { .id = 4 * i, .cpus = i < 2 ? 2 : 0,
                                .cores = i < 2 ? 2 : 0, .size = GiB };
        if (i < 2) {
            t->node[i].cpu = g_new(uint32_t, 2);
            t->node[i].cpu[0] = i * FAR;
            t->node[i].cpu[1] = i * FAR + 1;
        }
    }
    return t;
}

/*
 * The pure part
 */

typedef uint32_t Samples[N][N][TIMES];

static void fill(Samples ps)
{
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            for (uint32_t k = 0; k < TIMES; k++) {
                ps[i][j][k] = host_ns[i][j] * (1000 + k);
            }
        }
    }
}

static void is_matrix(const uint32_t *ns)
{
    g_assert_nonnull(ns);
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            uint32_t want = host_ns[i][j];

            g_assert_cmpuint(ns[i * N + j], >=, want);
            g_assert_cmpuint(ns[i * N + j], <=, want + want / 50);
        }
    }
}

static void accepted(Samples ps)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;
    g_autofree uint32_t *ns = ns_measure_clean(t, ps[0][0], &why);

    g_assert_null(why);
    is_matrix(ns);
}

static void refused(Samples ps, const char *says)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;

    g_assert_null(ns_measure_clean(t, ps[0][0], &why));
    g_assert_nonnull(why);
    if (!strstr(why, says)) {
        g_error("'%s' is not in '%s'", says, why);
    }
}

static void test_clean(void)
{
    Samples ps;

    fill(ps);
    accepted(ps);
    /* Nobody asks from node 8. */
    ps[2][0][0] = 7;
    accepted(ps);
}

/* One sample of each pair may be anything, wherever it is. */
static void test_outlier(void)
{
    static const uint32_t odd[] = {
        0, 1, 999, 1000, 2000000, 65535000, 65535001, UINT32_MAX,
    };

    for (uint32_t o = 0; o < ARRAY_SIZE(odd); o++) {
        for (uint32_t at = 0; at < TIMES; at++) {
            Samples ps;

            fill(ps);
            for (uint32_t i = 0; i < 2; i++) {
                for (uint32_t j = 0; j < N; j++) {
                    ps[i][j][at] = odd[o];
                }
            }
            accepted(ps);
        }
    }
}

static void test_missing(void)
{
    Samples ps;

    fill(ps);
    memset(ps[1][2], 0, 3 * sizeof(uint32_t));
    accepted(ps);
    ps[1][2][3] = 0;
    refused(ps, "from node 4 to node 8 only 3 of 7 samples");
    memset(ps[1][2], 0, sizeof(ps[1][2]));
    refused(ps, "only 0 of 7");
    for (uint32_t k = 0; k < TIMES; k++) {
        ps[1][2][k] = UINT32_MAX;
    }
    refused(ps, "only 0 of 7");
}

static void test_noise(void)
{
    Samples ps;

    fill(ps);
    for (uint32_t k = 0; k < TIMES; k++) {
        ps[0][1][k] = 150000 + k * 12000;
    }
    refused(ps, "from node 0 to node 4 samples differ by 25 %");
}

/* What is farther must not be nearer than the noise explains. */
static void test_near_and_far(void)
{
    Samples ps;

    fill(ps);
    for (uint32_t k = 0; k < TIMES; k++) {
        ps[0][1][k] = 79000;
    }
    refused(ps, "memory of node 4 would be nearer to node 0 (79 ns) than to its"
            " own CPUs (90 ns)");
    fill(ps);
    for (uint32_t k = 0; k < TIMES; k++) {
        /* Of two kinds: no contradiction */
        ps[0][2][k] = 60000;
    }
    {
        g_autoptr(NsTopology) t = topology();
        g_autofree char *why = NULL;
        g_autofree uint32_t *ns = ns_measure_clean(t, ps[0][0], &why);

        g_assert_nonnull(ns);
        g_assert_cmpuint(ns[2], ==, 60);
    }
}

static void test_alike(void)
{
    Samples ps;

    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N; j++) {
            for (uint32_t k = 0; k < TIMES; k++) {
                ps[i][j][k] = 100000 + (i + j + k) % 4 * 1000;
            }
        }
    }
    refused(ps, "all memory is as far");
}

static void test_bytes(void)
{
    static const struct {
        uint64_t cache, bytes;
    } of[] = {
        { 0, 32 * MiB }, { 1, 32 * MiB }, { 8 * MiB, 32 * MiB },
        { 8 * MiB + 1, 64 * MiB }, { 33 * MiB, 256 * MiB },
        { 128 * MiB, 256 * MiB }, { 128 * MiB + 1, 0 }, { UINT64_MAX, 0 },
    };

    for (uint32_t i = 0; i < ARRAY_SIZE(of); i++) {
        g_assert_cmpuint(ns_measure_bytes(of[i].cache), ==, of[i].bytes);
    }
}

/* Nodes that came since have no entry, those that stayed keep theirs. */
static void test_now(void)
{
    uint32_t id[] = { 0, 8, 12 };
    uint32_t was[] = { 80, 260, 400, 1, 2, 3, 410, 420, 85 };
    NsMeasured m = { .n = 3, .id = id, .ns = was };
    g_autoptr(NsTopology) t = topology();
    g_autofree uint32_t *now = ns_measured_now(&m, t);
    static const uint32_t want[] = { 80, 0, 260, 0, 0, 0, 1, 0, 2 };

    g_assert_cmpmem(now, sizeof(want), want, sizeof(want));
    g_assert_null(ns_measured_now(NULL, t));
}

/*
 * Limits of cgroups, in a tree of files
 */

static void put(const char *root, const char *path, const char *text)
{
    g_autofree char *file = g_build_filename(root, path, NULL);
    g_autofree char *dir = g_path_get_dirname(file);

    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, text, -1, NULL));
}

#define V1  "sys/fs/cgroup/memory/"
#define V2  "sys/fs/cgroup/"

static void test_memcg(void)
{
    g_autofree char *root = g_dir_make_tmp("numa-memcg-XXXXXX", NULL);
    g_autofree char *rm = g_strdup_printf("rm -rf '%s'", root);

    /* Nothing is known. */
    g_assert_cmpuint(ns_memcg_room(root), ==, UINT64_MAX);
    put(root, "proc/self/cgroup", "0::/vm/one\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, UINT64_MAX);
    /* The nearest limit is the one above, of which files can be taken. */
    put(root, V2 "vm/one/memory.max", "max\n");
    put(root, V2 "vm/one/memory.current", "100\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, UINT64_MAX);
    put(root, V2 "vm/memory.max", "1000\n");
    put(root, V2 "vm/memory.current", "900\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 100);
    put(root, V2 "vm/memory.stat", "anon 7\ninactive_file 300\nslab 8\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 400);
    put(root, V2 "vm/one/memory.max", "150\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 50);
    /* More is used than is allowed, and more can be taken than is used. */
    put(root, V2 "vm/one/memory.current", "160\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 0);
    put(root, V2 "vm/one/memory.stat", "a 1\ninactive_file 500\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 150);
    put(root, V2 "vm/one/memory.max", "-5\n");
    put(root, V2 "vm/memory.max", "10 00\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, UINT64_MAX);

    /* Version 1; the list of controllers has to have memory. */
    put(root, "proc/self/cgroup",
        "9:name=memory:/x\n4:cpu,memoryless:/x\n3:cpu,memory:/c/d\n0::/\n"
        "bad\n:\n::\n");
    put(root, V1 "memory.limit_in_bytes", "9223372036854771712\n");
    put(root, V1 "memory.usage_in_bytes", "5000\n");
    put(root, V1 "x/memory.limit_in_bytes", "1\n");
    put(root, V1 "x/memory.usage_in_bytes", "1\n");
    put(root, V1 "c/d/memory.limit_in_bytes", "3000\n");
    put(root, V1 "c/d/memory.usage_in_bytes", "2000\n");
    put(root, V1 "c/d/memory.stat",
        "inactive_file 1\ntotal_inactive_file 70\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 1070);

    /* Outside of what is seen: what is mounted counts. */
    put(root, "proc/self/cgroup", "3:memory:/../c\n");
    g_assert_cmpuint(ns_memcg_room(root), ==, 9223372036854771712ull - 5000);
    g_assert_cmpint(system(rm), ==, 0);
}

/*
 * A kernel
 */

typedef enum Call {
    NEVER, ALLOWED, BIND, CPU, NODE, MAP, ELSEWHERE,
} Call;

typedef struct Fake {
    Call fails;
    int error, after;           /* so many calls of that kind are good */
    int calls[ELSEWHERE + 1];
    uint64_t cache, free, room, elsewhere;
    bool half;                  /* of the CPUs may be used; of node 0, none */
    bool moved;                 /* runs somewhere else than it was bound to */

    int at_node, buf_node;      /* indices; -1: none */
    uint64_t filled, bytes;
    int buffers, chases;
    uint64_t used, rested;      /* ns */
    int rests, stop_after;      /* 0: never */
} Fake;

static int call(Fake *f, Call c)
{
    return f->fails == c && f->calls[c]++ >= f->after ? -f->error : 0;
}

static int fake_allowed(void *opaque, bool *cpu)
{
    Fake *f = opaque;

    for (uint32_t i = 0; i < 2; i++) {
        cpu[i * FAR] = !f->half || i;
        cpu[i * FAR + 1] = !f->half;
    }
    return call(f, ALLOWED);
}

static int fake_bind(void *opaque, const bool *cpu)
{
    Fake *f = opaque;

    g_assert_true(cpu[0] != cpu[FAR]);
    if (f->half) {
        g_assert_false(cpu[1] || cpu[FAR + 1]);
    }
    f->at_node = cpu[FAR];
    return call(f, BIND);
}

static int fake_cpu(void *opaque)
{
    Fake *f = opaque;
    int ret = call(f, CPU);

    return ret ? ret : (f->moved ? !f->at_node : f->at_node) * FAR;
}

static uint64_t fake_cache(void *opaque, uint32_t cpu)
{
    return ((Fake *)opaque)->cache;
}

static bool fake_node(void *opaque, int node, uint64_t *free, uint64_t *size,
                      uint64_t *watermark)
{
    Fake *f = opaque;

    *free = f->free;
    *size = GiB;
    *watermark = 0;
    return !call(f, NODE);
}

static uint64_t fake_room(void *opaque)
{
    return ((Fake *)opaque)->room;
}

static int fake_map(void *opaque, uint32_t node, uint64_t bytes, void **buf)
{
    Fake *f = opaque;
    int ret = call(f, MAP);

    g_assert_cmpint(f->buffers, ==, 0);
    if (!ret) {
        f->buffers = 1;
        f->buf_node = node / 4;
        f->bytes = bytes;
        f->filled = 0;
        *buf = f;
    }
    return ret;
}

static void fake_unmap(void *opaque, void *buf, uint64_t bytes)
{
    Fake *f = opaque;

    g_assert_true(buf == f && bytes == f->bytes);
    g_assert_cmpint(f->buffers, ==, 1);
    f->buffers = 0;
}

static void fake_fill(void *opaque, void *buf, uint64_t bytes, uint64_t from,
                      uint64_t to)
{
    Fake *f = opaque;

    g_assert_cmpuint(from, ==, f->filled);
    g_assert_cmpuint(to, <=, bytes);
    f->filled = to;
    f->used += 400000;
}

static int64_t fake_elsewhere(void *opaque, uint32_t node, void *buf,
                              uint64_t bytes)
{
    Fake *f = opaque;
    int ret = call(f, ELSEWHERE);

    return ret ? ret : f->elsewhere;
}

static uint64_t fake_chase(void *opaque, void **at, uint32_t accesses)
{
    Fake *f = opaque;
    uint64_t ns;

    g_assert_cmpuint(f->filled, ==, f->bytes);
    ns = (uint64_t)host_ns[f->at_node][f->buf_node] * accesses;
    f->used += ns;
    f->chases++;
    return ns;
}

static uint64_t fake_used(void *opaque)
{
    return ((Fake *)opaque)->used;
}

static bool fake_rest(void *opaque, uint64_t ns)
{
    Fake *f = opaque;

    f->rested += ns;
    return ++f->rests != f->stop_after;
}

static const NsMeasureSys fake_sys = {
    .allowed = fake_allowed,
    .bind = fake_bind,
    .cpu = fake_cpu,
    .cache = fake_cache,
    .node = fake_node,
    .room = fake_room,
    .map = fake_map,
    .unmap = fake_unmap,
    .fill = fake_fill,
    .elsewhere = fake_elsewhere,
    .chase = fake_chase,
    .used = fake_used,
};

static Fake fake(void)
{
    return (Fake) { .free = GiB, .room = UINT64_MAX, .error = EPERM,
                    .at_node = -1, .buf_node = -1 };
}

static NsMeasured *run(const NsTopology *t, Fake *f, char **why)
{
    NsMeasureConfig c = {
        .sys = &fake_sys, .sys_opaque = f, .budget = NS_MEASURE_BUDGET,
        .duty = NS_MEASURE_DUTY, .rest = fake_rest, .rest_opaque = f,
    };
    NsMeasured *m = ns_measure(t, &c, why);

    g_assert_cmpint(f->buffers, ==, 0);
    return m;
}

static void fails(Fake f, const char *says)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;

    g_assert_null(run(t, &f, &why));
    if (!says) {
        g_assert_null(why);
    } else if (!why || !strstr(why, says)) {
        g_error("'%s' is not in '%s'", says, why);
    }
}

static void test_measure(void)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;
    g_autoptr(NsMeasured) m = NULL;
    Fake f = fake();

    m = run(t, &f, &why);
    g_assert_null(why);
    g_assert_nonnull(m);
    is_matrix(m->ns);
    g_assert_cmpuint(m->id[2], ==, 8);
    g_assert_cmpint(f.chases, ==, 2 * N * TIMES);
    g_assert_cmpuint(f.bytes, ==, NS_MEASURE_MIN);
    /* A quarter of a CPU */
    g_assert_cmpuint(f.rested, >=, 3 * f.used);
}

static void test_one_node(void)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;
    Fake f = fake();

    t->n = 1;
    g_assert_null(run(t, &f, &why));
    g_assert_null(why);
    g_assert_cmpint(f.chases + f.rests, ==, 0);
    g_assert_cmpuint(f.bytes, ==, 0);
}

/* Each call fails at each time. */
static void test_errors(void)
{
    static const struct {
        Call call;
        int error, times;       /* that it is called */
        const char *says;
    } bad[] = {
        { ALLOWED, EPERM, 1, "the CPUs of QEMU" },
        { BIND, EPERM, 2 * N * TIMES, "it can not run on node" },
        { CPU, ENOSYS, 2 * N * TIMES, "there is no CPU of node" },
        { NODE, EIO, N, "is not online" },
        { MAP, EINVAL, N, "there is no memory of node" },
        { ELSEWHERE, ENOSYS, N, "it is not to be known what is on node" },
    };

    for (uint32_t b = 0; b < ARRAY_SIZE(bad); b++) {
        for (int after = 0; after < bad[b].times; after++) {
            Fake f = fake();

            f.fails = bad[b].call;
            f.error = bad[b].error;
            f.after = after;
            fails(f, bad[b].says);
            if (bad[b].call != NODE) {
                fails(f, strerror(bad[b].error));
            }
        }
    }
}

static void test_refusals(void)
{
    Fake f = fake();

    f.half = true;
    fails(f, "QEMU may use no CPU of node 0");
    f = fake();
    f.moved = true;
    fails(f, "CPUs of node 0 went away");
    f = fake();
    f.elsewhere = 5;
    fails(f, "5 pages that should be on node 0 are not");
    f = fake();
    f.cache = 300 * MiB;
    fails(f, "caches of 300 MiB");
    /* A node keeps a twentieth of its memory. */
    f = fake();
    f.free = GiB / 20 + NS_MEASURE_MIN - MiB;
    fails(f, "node 0 has no 32 MiB of memory to spare");
    f = fake();
    f.room = 64 * MiB - 1;
    fails(f, "than the memory cgroup of QEMU has left");
}

/* The sooner it is too much, the sooner it ends. */
static void test_budget(void)
{
    g_autoptr(NsTopology) t = topology();
    g_autofree char *why = NULL;
    Fake f = fake();
    NsMeasureConfig c = {
        .sys = &fake_sys, .sys_opaque = &f, .budget = 10 * 1000000,
        .duty = 100,
    };

    g_assert_null(ns_measure(t, &c, &why));
    g_assert_nonnull(strstr(why, "more than 10 ms of CPU time"));
    g_assert_cmpint(f.buffers, ==, 0);
    g_assert_cmpuint(f.used, <, 2 * c.budget);
}

/* Whenever it is told to stop, nothing else is done, and nothing is said. */
static void test_cancel(void)
{
    g_autoptr(NsTopology) t = topology();
    Fake whole = fake();
    g_autofree char *why = NULL;
    g_autoptr(NsMeasured) m = run(t, &whole, &why);

    g_assert_nonnull(m);
    for (int stop = 1; stop <= whole.rests; stop++) {
        Fake f = fake();

        f.stop_after = stop;
        g_assert_null(run(t, &f, &why));
        g_assert_null(why);
        g_assert_cmpint(f.rests, ==, stop);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/measure/clean", test_clean);
    g_test_add_func("/numa-sched/measure/outlier", test_outlier);
    g_test_add_func("/numa-sched/measure/missing", test_missing);
    g_test_add_func("/numa-sched/measure/noise", test_noise);
    g_test_add_func("/numa-sched/measure/near-and-far", test_near_and_far);
    g_test_add_func("/numa-sched/measure/alike", test_alike);
    g_test_add_func("/numa-sched/measure/bytes", test_bytes);
    g_test_add_func("/numa-sched/measure/now", test_now);
    g_test_add_func("/numa-sched/measure/memcg", test_memcg);
    g_test_add_func("/numa-sched/measure/measure", test_measure);
    g_test_add_func("/numa-sched/measure/one-node", test_one_node);
    g_test_add_func("/numa-sched/measure/errors", test_errors);
    g_test_add_func("/numa-sched/measure/refusals", test_refusals);
    g_test_add_func("/numa-sched/measure/budget", test_budget);
    g_test_add_func("/numa-sched/measure/cancel", test_cancel);
    return g_test_run();
}
