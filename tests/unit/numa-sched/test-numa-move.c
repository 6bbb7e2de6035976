/*
 * NUMA scheduler: what memory moves first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "accel/kvm/numa-sched/move-order.h"
#include "numa-case.h"

#define MB      (1u << 20)
#define BATCH   (4 * MB)
#define UNITS   (GB / NS_PAGE)

/* Node 0 has the CPUs and is the target */
static const uint32_t two[] = { 1000000, 2000000, 2000000, 1000000 };
static const NsMoveHost pair = { .n = 2, .ratio = two };

static int64_t gain(const NsMoveHost *h, const NsMoveUnit *u)
{
    int64_t farther = (int64_t)h->ratio[h->cpu * h->n + u->src] -
                      h->ratio[h->cpu * h->n + h->target];

    return u->shared || farther <= 0 ? -1 : farther * u->score;
}

/* M1, M2: what moves, and in which order, of a few units */
static void check_order(const NsMoveHost *h, const NsMoveUnit *unit, uint32_t n,
                        uint32_t epsilon)
{
    g_autoptr(NsMoveOrder) o = ns_move_order(h, unit, n, epsilon);
    g_autofree bool *seen = g_new0(bool, n);
    uint64_t bytes = 0, sum = 0, worth = 0;
    uint32_t count = 0, hot = 0;

    for (uint32_t i = 0; i < n; i++) {
        int64_t g = gain(h, &unit[i]);

        count += g >= 0;
        hot += g > 0;
        bytes += g >= 0 ? unit[i].bytes : 0;
        sum += MAX(g, 0);
    }
    g_assert_cmpuint(o->n, ==, count);
    g_assert_cmpuint(o->hot, ==, hot);
    g_assert_cmpuint(o->bytes, ==, bytes);
    g_assert_cmpint(o->scored, ==, hot > 0);
    for (uint32_t i = 0; i < o->n; i++) {
        const NsMoveUnit *u = &unit[o->unit[i]];
        int64_t key = gain(h, u) / (u->bytes / NS_PAGE), least;

        g_assert_false(seen[o->unit[i]]);
        seen[o->unit[i]] = true;
        g_assert_cmpint(gain(h, u), >=, 0);
        least = sum / (bytes / NS_PAGE);
        least = least / 1000 * epsilon + least % 1000 * epsilon / 1000;
        if (o->skewed && epsilon) {
            g_assert_cmpint(i < o->stop, ==, u->score && key >= least);
        } else {
            g_assert_cmpuint(i, <, o->stop);
        }
        worth += i < o->stop ? u->bytes : 0;
        if (i + 1 < o->n) {
            const NsMoveUnit *v = &unit[o->unit[i + 1]];
            int64_t after = gain(h, v) / (v->bytes / NS_PAGE);

            g_assert_cmpint(!!u->score, >=, !!v->score);
            if (!u->score == !v->score) {
                g_assert_cmpint(key, >=, after);
                if (key == after && u->score) {
                    g_assert_cmpint(u->write_hot, <=, v->write_hot);
                }
                if (key == after &&
                    (!u->score || u->write_hot == v->write_hot)) {
                    g_assert_cmpuint(u->addr, <, v->addr);
                }
            }
        }
    }
    g_assert_cmpuint(o->stop_bytes, ==, worth);
}

static void test_order(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(51);

    for (int round = 0; round < 3000; round++) {
        uint32_t n = draw(rand, 40), nodes = 1 + draw(rand, 4);
        uint32_t scores = 1 + draw(rand, 1 << draw(rand, 20));
        g_autofree NsMoveUnit *unit = g_new0(NsMoveUnit, n);
        g_autofree uint32_t *ratio = g_new(uint32_t, nodes * nodes);
        NsMoveHost h = { .n = nodes, .ratio = ratio, .cpu = draw(rand, nodes),
                         .target = draw(rand, nodes) };

        for (uint32_t i = 0; i < nodes * nodes; i++) {
            ratio[i] = NS_MILLION + draw(rand, 8) * 200000;
        }
        for (uint32_t i = 0; i < n; i++) {
            bool huge = draw(rand, 2);

            unit[i] = (NsMoveUnit) {
                .addr = (uint64_t)(n - i) * NS_MOVE_HUGE,
                .bytes = huge ? NS_MOVE_HUGE : NS_PAGE,
                .score = draw(rand, scores) * (huge ? 512 : 1),
                .src = draw(rand, nodes),
                .write_hot = draw(rand, 2),
                .shared = !draw(rand, 5),
            };
        }
        check_order(&h, unit, n, draw(rand, NS_MOVE_MAX_EPSILON + 1));
    }
}

static void test_order_extremes(void)
{
    uint32_t ratio[] = { 1, NS_MAX_RATIO, 1, 1 };
    NsMoveHost h = { .n = 2, .ratio = ratio };
    NsMoveUnit unit[4] = { };
    NsMoveOrder *o;

    for (int i = 0; i < 4; i++) {
        unit[i] = (NsMoveUnit) {
            .addr = UINT64_MAX - UINT64_MAX % NS_MOVE_HUGE - i * NS_MOVE_HUGE,
            .bytes = i % 2 ? NS_PAGE : NS_MOVE_HUGE,
            .score = UINT32_MAX,
            .src = 1,
        };
    }
    o = ns_move_order(&h, unit, 4, NS_MOVE_MAX_EPSILON);
    /* The small ones are 512 times as hot; the higher address is unit 1. */
    g_assert_cmpuint(o->unit[0], ==, 3);
    g_assert_cmpuint(o->unit[1], ==, 1);
    /* 2 of 1026 pages: the large ones have just over half of the average. */
    g_assert_cmpuint(o->stop, ==, 4);
    ns_move_order_free(o);
    unit[0].score /= 2;
    o = ns_move_order(&h, unit, 4, NS_MOVE_MAX_EPSILON);
    g_assert_cmpuint(o->unit[3], ==, 0);
    g_assert_cmpuint(o->stop, ==, 3);
    ns_move_order_free(o);
    o = ns_move_order(&h, NULL, 0, 0);
    g_assert_cmpuint(ns_move_take(o, NULL, GB, 1, true), ==, 0);
    ns_move_order_free(o);
}

static void test_take(void)
{
    NsMoveUnit unit[3] = { };
    g_autoptr(NsMoveOrder) o = NULL;

    for (int i = 0; i < 3; i++) {
        unit[i] = (NsMoveUnit) { .addr = i * NS_MOVE_HUGE, .src = 1,
                                 .bytes = i == 1 ? NS_MOVE_HUGE : NS_PAGE };
    }
    o = ns_move_order(&pair, unit, 3, NS_MOVE_EPSILON);
    g_assert_false(o->scored);
    g_assert_cmpuint(ns_move_take(o, unit, MB, 100, false), ==, 1);
    /* A large page is more than what was asked for, and stays whole. */
    g_assert_cmpuint(ns_move_next(o, unit, false), ==, NS_MOVE_HUGE);
    g_assert_cmpuint(ns_move_take(o, unit, MB, 100, false), ==, 1);
    g_assert_cmpuint(ns_move_take(o, unit, MB, 100, false), ==, 1);
    g_assert_cmpuint(ns_move_take(o, unit, MB, 100, true), ==, 0);
}

/* Shares as (k + 1) ^ (-s / 1000), by the series of (1 - x) ^ s: no libm */
static double *zipf(uint32_t n, uint32_t s)
{
    double *w = g_new(double, n), sum = 0;

    for (uint32_t k = 0; k < n; k++) {
        double x = 1.0 / (k + 1), term = 1, step = 0;

        for (int j = 0; j < (k < 64 ? 60 : 8); j++) {
            step += term;
            term *= x * (j - s / 1000.0) / (j + 1);
        }
        w[k] = k ? w[k - 1] * step : 1;
        sum += w[k];
    }
    for (uint32_t k = 0; k < n; k++) {
        w[k] /= sum;
    }
    return w;
}

/* A guest of 1 GiB on node 1, with the share of accesses that each page gets */
typedef struct Guest {
    NsMoveUnit *unit;
    double *heat;
    GRand *rand;
} Guest;

static void shuffle(Guest *g)
{
    for (uint32_t i = UNITS - 1; i; i--) {
        uint32_t j = draw(g->rand, i + 1);
        double heat = g->heat[i];

        g->heat[i] = g->heat[j];
        g->heat[j] = heat;
    }
}

static void score_exactly(Guest *g)
{
    for (uint32_t i = 0; i < UNITS; i++) {
        g->unit[i].score = g->heat[i] * 4e9;
    }
}

static void score_samples(Guest *g, uint32_t samples)
{
    for (uint32_t i = 0; i < UNITS; i++) {
        double part = g->heat[i] * samples / 16;
        uint32_t score = 0;

        for (int t = 0; t < 16; t++) {
            score += (uint32_t)part +
                     (g_rand_double(g->rand) < part - (uint32_t)part);
        }
        g->unit[i].score = score;
    }
}

static Guest *guest_new(uint32_t s)
{
    Guest *g = g_new0(Guest, 1);

    g->unit = g_new0(NsMoveUnit, UNITS);
    g->heat = zipf(UNITS, s);
    g->rand = g_rand_new_with_seed(52);
    for (uint32_t i = 0; i < UNITS; i++) {
        g->unit[i] = (NsMoveUnit) { .addr = i * (uint64_t)NS_PAGE,
                                    .bytes = NS_PAGE, .src = 1 };
    }
    shuffle(g);
    return g;
}

static void guest_free(Guest *g)
{
    g_free(g->unit);
    g_free(g->heat);
    g_rand_free(g->rand);
    g_free(g);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Guest, guest_free)

/* The mean share of remote accesses over the time that moving all takes */
static double area(const Guest *g, const NsMoveOrder *o)
{
    double remote = 1, sum = 0;

    for (uint32_t i = 0; i < o->n; i++) {
        sum += remote - g->heat[o->unit[i]] / 2;
        remote -= g->heat[o->unit[i]];
    }
    return sum / o->n;
}

static double share(const Guest *g, const NsMoveOrder *o, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += g->heat[o->unit[i]];
    }
    return sum;
}

static void test_hot_first(void)
{
    static const struct {
        uint32_t s;
        double most;
    } cases[] = { { 990, 0.10 }, { 700, 0.25 } };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        g_autoptr(Guest) g = guest_new(cases[i].s);
        g_autoptr(NsMoveOrder) blind = ns_move_order(&pair, g->unit, UNITS, 0);
        g_autoptr(NsMoveOrder) o = NULL;
        double worth;

        g_assert_false(blind->scored);
        g_assert_cmpfloat(area(g, blind), >, 0.45);
        score_exactly(g);
        o = ns_move_order(&pair, g->unit, UNITS, NS_MOVE_EPSILON);
        worth = share(g, o, o->stop);
        g_test_message("zipf %u: %.4f; in address order %.4f; %.1f%% of the "
                       "bytes are worth it and bring %.1f%%", cases[i].s,
                       area(g, o), area(g, blind), o->stop * 100.0 / UNITS,
                       worth * 100);
        g_assert_cmpfloat(area(g, o), <=, cases[i].most);
        g_assert_true(o->skewed);
        g_assert_cmpfloat(worth, >=, 0.85);
        if (cases[i].s == 990) {
            g_assert_cmpuint(o->stop, <, UNITS / 2);
        }
    }
}

static void take_all(NsMoveOrder *o, const NsMoveUnit *unit, bool all)
{
    uint32_t before, n;

    do {
        before = o->next;
        n = ns_move_take(o, unit, MB, 100, all);
        g_assert_cmpuint(o->next - before, ==, n);
        g_assert_cmpuint(n, <=, 100);
    } while (n);
}

/* M4: 10^5 samples tell hot from cold; what was not seen comes last. */
static void test_samples(void)
{
    g_autoptr(Guest) g = guest_new(990);
    g_autoptr(NsMoveOrder) o = NULL;

    score_samples(g, 100000);
    o = ns_move_order(&pair, g->unit, UNITS, NS_MOVE_EPSILON);
    g_test_message("%.4f, %u hot", area(g, o), o->hot);
    g_assert_cmpfloat(area(g, o), <=, 0.16);
    g_assert_true(o->skewed);
    g_assert_cmpuint(o->stop, <=, o->hot);
    take_all(o, g->unit, false);
    g_assert_cmpuint(o->next, ==, o->stop);
    take_all(o, g->unit, true);
    g_assert_cmpuint(o->next, ==, UNITS);
    for (uint32_t i = o->hot + 1; i < UNITS; i++) {
        g_assert_cmpuint(o->unit[i - 1], <, o->unit[i]);
    }
}

/* M3: even heat never stops early, however few or many samples there are. */
static void test_uniform(void)
{
    g_autoptr(Guest) g = guest_new(0);

    /* Two in all to 76 for each page, thrown blindly */
    for (uint32_t samples = 2, seen = 0; samples <= UNITS * 80; samples *= 6) {
        g_autoptr(NsMoveOrder) o = NULL;

        while (seen < samples) {
            g->unit[g_rand_int(g->rand) % UNITS].score++;
            seen++;
        }
        o = ns_move_order(&pair, g->unit, UNITS, NS_MOVE_MAX_EPSILON);
        g_test_message("%u samples: %u hot, %u worth it, skewed %d", samples,
                       o->hot, o->stop, o->skewed);
        g_assert_cmpuint(o->stop, ==, UNITS);
        g_assert_cmpfloat(area(g, o), <, 0.51);
        g_assert_cmpfloat(area(g, o), >, 0.49);
    }
    score_exactly(g);
    {
        g_autoptr(NsMoveOrder) o = ns_move_order(&pair, g->unit, UNITS,
                                                 NS_MOVE_MAX_EPSILON);

        g_assert_cmpuint(o->stop, ==, UNITS);
        for (uint32_t i = 0; i < UNITS; i++) {
            g_assert_cmpuint(o->unit[i], ==, i);
        }
    }
}

/*
 * M5: the hot set is another one in the middle: what is under way is wasted, no
 * more; nothing moves twice.
 */
static void test_phase_change(void)
{
    g_autoptr(Guest) g = guest_new(990);
    g_autofree uint8_t *moved = g_new0(uint8_t, UNITS);
    NsMoveOrder *o;
    uint64_t total = 0;
    double remote = 0, worst = 0;

    score_exactly(g);
    o = ns_move_order(&pair, g->unit, UNITS, NS_MOVE_EPSILON);
    for (uint32_t batch = 0;; batch++) {
        uint32_t n;

        n = ns_move_take(o, g->unit, BATCH, UINT32_MAX, true);
        if (!n) {
            break;
        }
        if (batch == 30) {
            /* The batch is under way; then it is over. */
            shuffle(g);
        }
        for (uint32_t i = o->next - n; i < o->next; i++) {
            g_assert_cmpuint(moved[o->unit[i]]++, ==, 0);
            g->unit[o->unit[i]].src = 0;
            total += g->unit[o->unit[i]].bytes;
        }
        if (batch == 30) {
            score_exactly(g);
            ns_move_order_free(o);
            o = ns_move_order(&pair, g->unit, UNITS, NS_MOVE_EPSILON);
            g_assert_cmpuint(o->n, ==, UNITS - 31 * 1024);
            /* From here on the new heat alone decides. */
            for (uint32_t i = 0; i < o->n; i++) {
                remote += g->heat[o->unit[i]];
            }
            worst = area(g, o) - (1 - remote);
            g_assert_cmpfloat(worst, <=, 0.10);
        }
    }
    g_assert_cmpuint(total, ==, GB);
    ns_move_order_free(o);
}

static void test_split(void)
{
    uint32_t score[NS_MOVE_SUBPAGES] = { };

    g_assert_false(ns_move_split(score, true));
    score[7] = NS_MOVE_SPLIT_MIN - 1;
    g_assert_false(ns_move_split(score, true));
    score[511] = 1;
    g_assert_true(ns_move_split(score, true));
    g_assert_false(ns_move_split(score, false));
    /* Of 51, exactly 4/5 */
    for (int i = 0; i < 512; i++) {
        score[i] = i < 51 ? 461 * 4 : 51;
    }
    g_assert_false(ns_move_split(score, true));
    score[0]++;
    g_assert_true(ns_move_split(score, true));
    for (int i = 0; i < 512; i++) {
        score[i] = UINT32_MAX;
    }
    g_assert_false(ns_move_split(score, true));
}

static void test_room(void)
{
    g_assert_cmpuint(ns_move_room(10 * GB, 100 * GB, GB), ==, 4 * GB);
    g_assert_cmpuint(ns_move_room(6 * GB, 100 * GB, GB), ==, 0);
    g_assert_cmpuint(ns_move_room(GB, 0, 2 * GB), ==, 0);
    g_assert_cmpuint(ns_move_room(0, UINT64_MAX, UINT64_MAX), ==, 0);
    g_assert_cmpuint(ns_move_room(UINT64_MAX, 0, 0), ==, UINT64_MAX);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/move/order", test_order);
    g_test_add_func("/numa-sched/move/order-extremes", test_order_extremes);
    g_test_add_func("/numa-sched/move/take", test_take);
    g_test_add_func("/numa-sched/move/hot-first", test_hot_first);
    g_test_add_func("/numa-sched/move/samples", test_samples);
    g_test_add_func("/numa-sched/move/uniform", test_uniform);
    g_test_add_func("/numa-sched/move/phase-change", test_phase_change);
    g_test_add_func("/numa-sched/move/split", test_split);
    g_test_add_func("/numa-sched/move/room", test_room);
    return g_test_run();
}
