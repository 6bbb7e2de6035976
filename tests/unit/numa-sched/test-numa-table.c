/*
 * NUMA scheduler: the table of several QEMUs, its bytes and its rules
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "numa-table.h"

static void draw_slot(GRand *rand, NsSlot *s)
{
    static const uint64_t bytes[] = { 0, 1, NS_PAGE, NS_MAX_BYTES };
    static const uint32_t cpu[] = { 0, 1, 1000, NS_MAX_CPU };
    uint32_t id = draw(rand, 20);

    memset(s, 0, sizeof(*s));
    s->sequence = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
    s->pid = g_rand_int(rand);
    s->term = 1 + draw(rand, NS_PROMISE_MAX_TERM);
    s->promise.n = draw(rand, NS_PROMISE_NODES + 1);
    for (uint32_t i = 0; i < s->promise.n; i++) {
        s->promise.node[i] = (NsPromiseNode) {
            .id = id, .cpu_comes = cpu[draw(rand, 4)],
            .cpu_leaves = cpu[draw(rand, 4)], .comes = bytes[draw(rand, 4)],
            .leaves = bytes[draw(rand, 4)],
        };
        id += 1 + draw(rand, 32);
    }
}

static void test_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(61);
    uint8_t record[NS_TABLE_RECORD];
    NsSlot s, back;

    for (int round = 0; round < 2000; round++) {
        draw_slot(rand, &s);
        ns_table_encode_slot(record, &s);
        g_assert_cmpint(ns_table_decode_slot(record, &back), ==,
                        NS_RECORD_GOOD);
        g_assert_cmpmem(&s, sizeof(s), &back, sizeof(back));
    }
    memset(record, 0, sizeof(record));
    g_assert_cmpint(ns_table_decode_slot(record, &back), ==, NS_RECORD_UNUSED);
    g_assert_cmpuint(back.promise.n, ==, 0);
    /* Other machines have the same bytes. */
    s = (NsSlot) {
        .sequence = 0x0102030405060708, .pid = 0x11121314, .term = 0x00012122,
        .promise = { 1, { { 0x123, 0x31, 0x41, 0x5152535455, 0x61 } } },
    };
    ns_table_encode_slot(record, &s);
    g_assert_cmpmem(record + 4, 56,
                    "\1\0\0\0\x8\7\6\5\4\3\2\1\x14\x13\x12\x11\x22\x21\1\0"
                    "\0\0\0\0\0\0\0\0\x23\1\0\0\x31\0\0\0\x41\0\0\0\0\0\0\0"
                    "\x55\x54\x53\x52\x51\0\0\0\x61\0\0", 56);
}

/* T6: whatever the bytes are, what is believed is in range and encodes back */
static bool check_bytes(const uint8_t *record)
{
    uint8_t again[NS_TABLE_RECORD];
    NsSlot s;

    if (ns_table_decode_slot(record, &s) != NS_RECORD_GOOD) {
        g_assert_cmpuint(s.promise.n, ==, 0);
        return false;
    }
    g_assert_cmpuint(s.promise.n, <=, NS_PROMISE_NODES);
    g_assert_cmpuint(s.term, <=, NS_PROMISE_MAX_TERM);
    g_assert_true(s.term || !s.promise.n);
    for (uint32_t i = 0; i < s.promise.n; i++) {
        const NsPromiseNode *node = &s.promise.node[i];

        g_assert_cmpuint(node->id, <, NS_MAX_NODES);
        g_assert_true(!i || node[-1].id < node->id);
        g_assert_cmpuint(node->cpu_comes, <=, NS_MAX_CPU);
        g_assert_cmpuint(node->cpu_leaves, <=, NS_MAX_CPU);
        g_assert_cmpuint(node->comes, <=, NS_MAX_BYTES);
        g_assert_cmpuint(node->leaves, <=, NS_MAX_BYTES);
    }
    ns_table_encode_slot(again, &s);
    g_assert_cmpmem(again, sizeof(again), record, NS_TABLE_RECORD);
    return true;
}

static void test_damage(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(62);
    uint8_t record[NS_TABLE_RECORD], other[NS_TABLE_RECORD];
    uint32_t good = 0;
    NsSlot s;

    for (int round = 0; round < 20000; round++) {
        bool summed = draw(rand, 2);

        draw_slot(rand, &s);
        ns_table_encode_slot(record, &s);
        if (!draw(rand, 4)) {
            /* Torn: the beginning of one, and the end of another one */
            draw_slot(rand, &s);
            ns_table_encode_slot(other, &s);
            memcpy(record, other, draw(rand, NS_TABLE_RECORD));
        }
        for (int i = draw(rand, 4); i >= 0; i--) {
            uint32_t to = 4 + draw(rand, draw(rand, 2) ? 60 : 1020);

            record[to] = draw(rand, 2) ? g_rand_int(rand) :
                         record[to] ^ 1 << draw(rand, 8);
        }
        if (summed) {
            stl_le_p(record, crc32c(0xffffffff, record + 4, 1020));
        }
        good += check_bytes(record);
    }
    /* With its sum put right, some damage has to get beyond it. */
    g_assert_cmpuint(good, >, 1000);
    g_assert_cmpuint(good, <, 10500);
}

/* Each single bit that is wrong is seen. */
static void test_one_bit(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(63);
    uint8_t record[NS_TABLE_RECORD];
    NsSlot s;

    draw_slot(rand, &s);
    for (int header = 0; header < 2; header++) {
        for (int bit = 0; bit < NS_TABLE_RECORD * 8; bit++) {
            NsRecord is;

            if (header) {
                ns_table_encode_header(record);
            } else {
                ns_table_encode_slot(record, &s);
            }
            record[bit / 8] ^= 1 << bit % 8;
            is = header ? ns_table_decode_header(record) :
                 ns_table_decode_slot(record, &s);
            g_assert_cmpint(is, ==, NS_RECORD_DAMAGED);
        }
    }
}

/* What only the sum would not find */
static void test_absurd(void)
{
    static const struct {
        uint32_t at;
        uint64_t value;
        bool wide;
    } wrong[] = {
        { 4, NS_PROMISE_NODES + 1 }, { 4, UINT32_MAX }, { 4, 3 }, { 4, 1 },
        { 20, 0 }, { 20, NS_PROMISE_MAX_TERM + 1 }, { 24, 1 }, { 28, 1 },
        { 32, 8 }, { 32, 9 }, { 64, 7 }, { 64, 1024 }, { 64, UINT32_MAX },
        { 36, NS_MAX_CPU + 1 }, { 40, NS_MAX_CPU + 1 }, { 44, 1 },
        { 48, NS_MAX_BYTES + 1, true }, { 56, NS_MAX_BYTES + 1, true },
        { 56, UINT64_MAX, true }, { 96, 1 }, { 1020, 1 },
    };
    const NsSlot s = {
        .sequence = 1, .pid = 2, .term = 3,
        .promise = { 2, { { 7, 1, 1, 1, 1 }, { 8, 1, 1, 1, 1 } } },
    };
    uint8_t record[NS_TABLE_RECORD];
    NsSlot back;

    for (int i = 0; i < ARRAY_SIZE(wrong); i++) {
        ns_table_encode_slot(record, &s);
        if (wrong[i].wide) {
            stq_le_p(record + wrong[i].at, wrong[i].value);
        } else {
            stl_le_p(record + wrong[i].at, wrong[i].value);
        }
        stl_le_p(record, crc32c(0xffffffff, record + 4, 1020));
        g_assert_cmpint(ns_table_decode_slot(record, &back), ==,
                        NS_RECORD_DAMAGED);
    }
    ns_table_encode_header(record);
    g_assert_cmpint(ns_table_decode_header(record), ==, NS_RECORD_GOOD);
    stl_le_p(record + 8, 2);
    stl_le_p(record + 1020, crc32c(0xffffffff, record, 1020));
    g_assert_cmpint(ns_table_decode_header(record), ==, NS_RECORD_VERSION);
    memset(record, 0, sizeof(record));
    g_assert_cmpint(ns_table_decode_header(record), ==, NS_RECORD_UNUSED);
}

/* Nothing that comes is left out, and nothing overflows. */
static void test_promise_add(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(64);

    for (int round = 0; round < 500; round++) {
        g_autofree uint64_t *comes = g_new0(uint64_t, NS_MAX_NODES);
        uint32_t ids = 1 + draw(rand, 80);
        NsPromise p = { };

        for (int i = 0; i < 100; i++) {
            NsPromiseNode what = {
                .id = draw(rand, ids) * 1023 / 80,
                .comes = draw(rand, 2) ? draw(rand, 1000) : 0,
                .leaves = draw(rand, 1000),
            };

            if (ns_promise_add(&p, &what)) {
                comes[what.id] += what.comes;
            } else {
                g_assert_cmpuint(what.comes, >, 0);
                g_assert_cmpuint(p.n, ==, NS_PROMISE_NODES);
            }
            g_assert_cmpuint(p.n, <=, NS_PROMISE_NODES);
        }
        for (uint32_t i = 0; i < p.n; i++) {
            g_assert_true(!i || p.node[i - 1].id < p.node[i].id);
            g_assert_cmpuint(p.node[i].comes, ==, comes[p.node[i].id]);
            comes[p.node[i].id] = 0;
        }
        for (uint32_t id = 0; id < NS_MAX_NODES; id++) {
            g_assert_cmpuint(comes[id], ==, 0);
        }
    }
    {
        NsPromiseNode most = { 5, UINT32_MAX, UINT32_MAX, UINT64_MAX,
                               UINT64_MAX };
        NsPromise p = { };

        g_assert_true(ns_promise_add(&p, &most));
        g_assert_true(ns_promise_add(&p, &most));
        g_assert_cmpuint(p.node[0].cpu_comes, ==, NS_MAX_CPU);
        g_assert_cmpuint(p.node[0].leaves, ==, NS_MAX_BYTES);
        most.id = NS_MAX_NODES;
        g_assert_false(ns_promise_add(&p, &most));
    }
}

/*
 * Two and more of them in one process
 */

static void test_others(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autoptr(NsTable) a = table_open(dir);
    g_autoptr(NsTable) b = table_open(dir);
    g_autoptr(NsTable) c = table_open(dir);
    const NsOthers *o;
    NsPromise p = promise(3, 2000, 5 * GB);
    const NsPromiseNode leaves = { .id = 900, .cpu_leaves = 7, .leaves = 9 };

    g_assert_true(ns_promise_add(&p, &leaves));
    g_assert_true(table_put(a, &p, 1000));
    p = promise(3, 500, GB);
    g_assert_true(table_put(b, &p, 1000));
    g_assert_cmpint(ns_table_begin(c, &o, &error_abort), ==, NS_BEGIN_DECIDE);
    g_assert_cmpuint(o->promises, ==, 2);
    g_assert_cmpuint(o->n, ==, 2);
    g_assert_cmpuint(o->pid[0], ==, getpid());
    g_assert_cmpuint(ns_others_at(o, 3).cpu_comes, ==, 2500);
    g_assert_cmpuint(ns_others_at(o, 3).comes, ==, 6 * GB);
    g_assert_cmpuint(ns_others_at(o, 900).cpu_leaves, ==, 7);
    g_assert_cmpuint(ns_others_at(o, 900).leaves, ==, 9);
    g_assert_cmpuint(ns_others_at(o, 4).comes, ==, 0);
    g_assert_cmpuint(ns_others_at(o, 1023).comes, ==, 0);
    /* T1: nobody waits; and own promises are not the others'. */
    g_assert_cmpint(ns_table_begin(a, &o, &error_abort), ==, NS_BEGIN_BUSY);
    ns_table_cancel(c);
    g_assert_cmpint(ns_table_begin(a, &o, &error_abort), ==, NS_BEGIN_DECIDE);
    g_assert_cmpuint(ns_others_at(o, 3).comes, ==, GB);
    ns_table_cancel(a);
    /* In place of the one before; nothing at all; gone. */
    p = promise(3, 1, 1);
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(c, 3).comes, ==, GB + 1);
    p = (NsPromise) { };
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(c, 3).comes, ==, GB);
    ns_table_close(b);
    b = NULL;
    g_assert_cmpuint(table_sum(c, 3).comes, ==, 0);
    /* A commit without begin is refused. */
    g_assert_false(ns_table_commit(c, &p, 1000, NULL));
}

/* T5: over for the owner before it is for others, by whatever clock */
static void test_term(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(65);

    for (int round = 0; round < 50; round++) {
        g_autoptr(TestDir) dir = test_dir_new();
        /* Of two time namespaces */
        int64_t mine = draw(rand, 1000), yours = (int64_t)draw(rand, 2000) *
                                                 1000000000;
        NsTableOps mine_ops = { .clock = test_clock, .opaque = &mine };
        NsTableOps your_ops = { .clock = test_clock, .opaque = &yours };
        g_autoptr(NsTable) a = ns_table_open(dir->name, &mine_ops,
                                             &error_abort);
        g_autoptr(NsTable) b = ns_table_open(dir->name, &your_ops,
                                             &error_abort);
        NsPromise p = promise(0, 1000, 0);
        int expired = 0;

        for (int i = 0; i < 100; i++) {
            uint32_t step = draw(rand, 3000000);
            const NsOthers *o;

            if (!draw(rand, 10)) {
                g_assert_true(table_put(a, &p, 1 + draw(rand, 10)));
                g_assert_cmpint(ns_table_left(a), >, 0);
            }
            g_assert_cmpint(ns_table_begin(b, &o, &error_abort), ==,
                            NS_BEGIN_DECIDE);
            if (ns_table_left(a)) {
                g_assert_cmpuint(ns_others_at(o, 0).cpu_comes, ==, 1000);
            }
            expired += o->expired;
            ns_table_cancel(b);
            mine += step;
            yours += step;
        }
        g_assert_cmpint(expired, >, 0);
        /* It does end for others, too. */
        g_assert_true(table_put(a, &p, 10));
        g_assert_cmpuint(table_sum(b, 0).cpu_comes, ==, 1000);
        yours += 9999999;
        g_assert_cmpuint(table_sum(b, 0).cpu_comes, ==, 1000);
        yours++;
        g_assert_cmpuint(table_sum(b, 0).cpu_comes, ==, 0);
        mine += 10000000;
        g_assert_cmpint(ns_table_left(a), ==, 0);
        /* The same once more is another promise. */
        g_assert_true(table_put(a, &p, 10));
        g_assert_cmpuint(table_sum(b, 0).cpu_comes, ==, 1000);
    }
}

static void test_full(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    NsTable *t[NS_TABLE_SLOTS + 1];
    NsPromise p = promise(1, NS_MAX_CPU, NS_MAX_BYTES);
    Error *err = NULL;
    const NsOthers *o;

    for (int i = 0; i < NS_TABLE_SLOTS; i++) {
        t[i] = table_open(dir);
        g_assert_true(table_put(t[i], &p, 60000));
    }
    t[NS_TABLE_SLOTS] = table_open(dir);
    g_assert_cmpint(ns_table_begin(t[NS_TABLE_SLOTS], &o, &error_abort), ==,
                    NS_BEGIN_DECIDE);
    g_assert_cmpuint(o->promises, ==, NS_TABLE_SLOTS);
    g_assert_cmpuint(ns_others_at(o, 1).comes, ==,
                     NS_TABLE_SLOTS * NS_MAX_BYTES);
    g_assert_cmpuint(ns_others_at(o, 1).cpu_comes, ==,
                     NS_TABLE_SLOTS * NS_MAX_CPU);
    g_assert_false(ns_table_commit(t[NS_TABLE_SLOTS], &p, 1000, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "256"));
    g_assert_cmpint(ns_table_left(t[NS_TABLE_SLOTS]), ==, 0);
    error_free(err);
    ns_table_close(t[77]);
    g_assert_true(table_put(t[NS_TABLE_SLOTS], &p, 1000));
    t[77] = NULL;
    for (int i = 0; i <= NS_TABLE_SLOTS; i++) {
        ns_table_close(t[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/table/round-trip", test_round_trip);
    g_test_add_func("/numa-sched/table/damage", test_damage);
    g_test_add_func("/numa-sched/table/one-bit", test_one_bit);
    g_test_add_func("/numa-sched/table/absurd", test_absurd);
    g_test_add_func("/numa-sched/table/promise-add", test_promise_add);
    g_test_add_func("/numa-sched/table/others", test_others);
    g_test_add_func("/numa-sched/table/term", test_term);
    g_test_add_func("/numa-sched/table/full", test_full);
    return g_test_run();
}
