/*
 * NUMA scheduler: the use of pages, by sampled accesses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Few hosts can sample accesses.  The kernel's own event of page faults has
 * addresses, too, and goes the same way.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "accel/kvm/numa-sched/heat-perf.h"
#include "accel/kvm/numa-sched/perf-event.h"
#include "accel/kvm/numa-sched/perf-frames.h"
#include "accel/kvm/numa-sched/perf-ring.h"
#include "accel/kvm/numa-sched/plan.h"
#include "accel/kvm/numa-sched/working.h"
#include "numa-tree.h"

enum { RING = 256, WORD = 8, PAGES = 64, RECORDS = 5, ROUNDS = 20000 };

/*
 * The ring
 */

typedef struct Seen {
    NsPerfSample sample[RING];
    uint32_t n;
} Seen;

static void keep(void *opaque, const NsPerfSample *s)
{
    Seen *seen = opaque;

    g_assert_cmpuint(seen->n, <, RING / WORD);
    seen->sample[seen->n++] = *s;
}

static uint64_t ring[RING / WORD];

static NsPerfCounts parse(uint64_t tail, uint64_t head, uint64_t types,
                          Seen *seen)
{
    NsPerfCounts c = { };

    seen->n = 0;
    ns_perf_ring(ring, RING, tail, head, types, keep, seen, &c);
    g_assert_cmpuint(c.samples, ==, seen->n);
    return c;
}

static void word(uint64_t *at, uint64_t value)
{
    ring[*at % RING / WORD] = value;
    *at += WORD;
}

static void header(uint64_t *at, uint32_t type, uint16_t misc, uint16_t size)
{
    struct perf_event_header h = { .type = type, .misc = misc, .size = size };
    uint64_t value;

    memcpy(&value, &h, sizeof(value));
    word(at, value);
}

/* Three samples with all, what was lost, and what we do not know */
static uint64_t put_records(uint64_t at, uint64_t end[RECORDS])
{
    for (uint64_t i = 0; i < RECORDS; i++) {
        if (i == 1) {
            header(&at, PERF_RECORD_LOST, 0, 24);
            word(&at, 4711);
            word(&at, 9);
        } else if (i == 3) {
            header(&at, PERF_RECORD_THROTTLE, 0, 16);
            word(&at, 4712);
        } else {
            header(&at, PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER | 1 << 14,
                   32);
            word(&at, 100 + i);
            word(&at, 200 + i);
            word(&at, 300 + i);
        }
        end[i] = at;
    }
    return at;
}

static void test_wraps(void)
{
    Seen seen;

    for (uint64_t tail = 0; tail < 2 * RING; tail += WORD) {
        /* Also where the count of bytes itself begins anew */
        for (int k = 0; k < 2; k++) {
            uint64_t from = tail - k * (uint64_t)RING, end[RECORDS];
            uint64_t head = put_records(from, end);
            NsPerfCounts c = parse(from, head, NS_PERF_SAMPLE_TYPES, &seen);

            g_assert_cmpuint(c.samples, ==, 3);
            g_assert_cmpuint(c.lost, ==, 9);
            g_assert_cmpuint(c.bad, ==, 0);
            for (int i = 0; i < 3; i++) {
                const NsPerfSample *s = &seen.sample[i];

                g_assert_cmpuint(s->mode, ==, PERF_RECORD_MISC_USER);
                g_assert_cmpuint(s->addr, ==, 100 + 2 * i);
                g_assert_cmpuint(s->source, ==, 200 + 2 * i);
                g_assert_cmpuint(s->phys, ==, 300 + 2 * i);
            }
        }
    }
}

static void test_truncated(void)
{
    uint64_t end[RECORDS], head = put_records(0, end);
    Seen seen;

    for (uint64_t to = 0; to < head; to += WORD) {
        NsPerfCounts c = parse(0, to, NS_PERF_SAMPLE_TYPES, &seen);
        bool whole = !to;
        uint32_t samples = 0;

        for (int i = 0; i < RECORDS; i++) {
            whole = whole || to == end[i];
            samples += i % 4 != 1 && i != 3 && to >= end[i];
        }
        g_assert_cmpuint(c.samples, ==, samples);
        g_assert_cmpuint(c.bad, ==, !whole);
    }
    /* No record begins there. */
    for (uint64_t i = 1; i < WORD; i++) {
        g_assert_cmpuint(parse(i, head, NS_PERF_SAMPLE_TYPES, &seen).bad, ==,
                         1);
        g_assert_cmpuint(parse(0, head + i, NS_PERF_SAMPLE_TYPES, &seen).bad,
                         ==, 1);
        g_assert_cmpuint(seen.n, ==, 0);
    }
    /* More than there is */
    g_assert_cmpuint(parse(0, RING + WORD, NS_PERF_SAMPLE_TYPES, &seen).bad,
                     ==, 1);
    g_assert_cmpuint(parse(WORD, 0, NS_PERF_SAMPLE_TYPES, &seen).bad, ==, 1);
}

static void test_sizes(void)
{
    uint64_t at;
    Seen seen;

    /* A record without end, which is none */
    for (uint32_t size = 0; size < 64; size++) {
        NsPerfCounts c;

        at = 0;
        header(&at, PERF_RECORD_SAMPLE, 0, size);
        word(&at, 1);
        header(&at, PERF_RECORD_SAMPLE, 0, 16);
        word(&at, 2);
        c = parse(0, at, PERF_SAMPLE_ADDR, &seen);
        g_assert_cmpuint(c.samples, ==, size == 16 ? 2 : 0);
        /* After 8 and 24, which are no such samples, there is no header. */
        g_assert_cmpuint(c.bad, ==, size == 8 || size == 24 ? 2 : size != 16);
    }
    /* What was lost, without a number */
    at = 0;
    header(&at, PERF_RECORD_LOST, 0, 16);
    word(&at, 77);
    header(&at, PERF_RECORD_SAMPLE, 0, 16);
    word(&at, 2);
    g_assert_cmpuint(parse(0, at, PERF_SAMPLE_ADDR, &seen).lost, ==, 0);
    g_assert_cmpuint(seen.sample[0].addr, ==, 2);
    g_assert_cmpuint(seen.sample[0].phys, ==, 0);
}

static void test_random(void)
{
    static const uint64_t types[] = {
        PERF_SAMPLE_ADDR, NS_PERF_SAMPLE_TYPES, UINT64_MAX, 0,
    };
    Seen seen;

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t tail = g_test_rand_int() * (uint64_t)WORD, head;

        for (int k = 0; k < RING / WORD; k++) {
            ring[k] = ((uint64_t)g_test_rand_int() << 32) |
                      (uint32_t)g_test_rand_int();
            /* Now and then what may be a record */
            if (g_test_rand_bit()) {
                uint64_t at = k * WORD;

                header(&at, g_test_rand_int_range(0, 16), g_test_rand_int(),
                       WORD * g_test_rand_int_range(0, 8));
            }
        }
        head = tail + g_test_rand_int_range(0, RING / WORD + 2) * WORD;
        parse(tail, head, types[i % ARRAY_SIZE(types)], &seen);
    }
}

/*
 * What the kernel says of events
 */

static void test_format(void)
{
    static const struct {
        const char *text;
        uint32_t which;
        uint64_t mask;
    } good[] = {
        { "config:0-7", 0, 0xff }, { "config:21", 0, 1 << 21 },
        { "config:0-7,32-35", 0, 0xf000000ff }, { "config1:0-15", 1, 0xffff },
        { "config2:0", 2, 1 }, { "config:0-63", 0, UINT64_MAX },
        { "config1:63", 1, 1ull << 63 },
    };
    static const char *const bad[] = {
        "", "config", "config:", "config3:0", "config:64", "config:0-64",
        "config:7-0", "config:-1", "config: 1", "config:+1", "config:1,",
        "config:1 ", "config:0-", "config:0-7-9", "cfg:0", "config1",
        "config:0x1", "config:99999999999999999999",
    };
    uint64_t mask, config = 0;
    uint32_t which;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        g_assert_true(ns_perf_format(good[i].text, &which, &mask));
        g_assert_cmpuint(which, ==, good[i].which);
        g_assert_cmphex(mask, ==, good[i].mask);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (ns_perf_format(bad[i], &which, &mask)) {
            g_test_message("'%s' is taken", bad[i]);
            g_test_fail();
        }
    }
    g_assert_true(ns_perf_place(0x1cd, 0xf000000ff, &config));
    g_assert_cmphex(config, ==, 0x1000000cd);
    g_assert_true(ns_perf_place(2, 0x300, &config));
    g_assert_cmphex(config, ==, 0x1000002cd);
    g_assert_false(ns_perf_place(4, 0x300, &config));
    g_assert_cmphex(config, ==, 0x1000002cd);
}

static void put_loads(const char *event)
{
    put("cpu/type", "4\n");
    put("cpu/format/event", "config:0-7\n");
    put("cpu/format/umask", "config:8-15\n");
    put("cpu/format/ldlat", "config1:0-15\n");
    put("cpu/events/mem-loads", event);
}

/* NULL: it is found; otherwise why not */
static void choose(NsPerfSampling *s, const char *why)
{
    Error *err = NULL;
    bool ok = ns_perf_choose(root, s, &err);

    if (ok != !why || (why && !strstr(error_get_pretty(err), why))) {
        g_test_message("not '%s': %s", why ?: "", err ? error_get_pretty(err) :
                       "taken");
        g_test_fail();
    }
    error_free(err);
}

static void test_choose(void)
{
    NsPerfSampling s;

    ns_perf_own_addresses(false);
    choose(&s, "neither");
    choose(&s, "ibs_op");
    choose(&s, "mem-loads");
    put_loads("event=0xcd,umask=0x1,ldlat=3\n");
    /* The guest's own addresses */
    choose(&s, "under KVM");
    ns_perf_own_addresses(true);
    choose(&s, NULL);
    g_assert_cmpuint(s.n, ==, 1);
    g_assert_cmpuint(s.event[0].type, ==, 4);
    g_assert_cmphex(s.event[0].config[0], ==, 0x1cd);
    g_assert_cmphex(s.event[0].config[1], ==, 3);
    g_assert_false(s.physical);
    g_assert_true(s.precise);
    put("cpu/events/mem-stores", "event=0xd0,umask=0x82\n");
    choose(&s, NULL);
    g_assert_cmpuint(s.n, ==, 2);
    g_assert_cmphex(s.event[1].config[0], ==, 0x82d0);
    /* It is as good for TCG, and the only one for KVM. */
    put("ibs_op/type", "9\n");
    choose(&s, NULL);
    g_assert_cmpuint(s.event[0].type, ==, 9);
    g_assert_false(s.physical);
    ns_perf_own_addresses(false);
    choose(&s, NULL);
    g_assert_true(s.physical);
    g_assert_true(s.typed);
    put("ibs_op/type", "nine\n");
    choose(&s, "ibs_op/type");
}

static void test_malformed(void)
{
    static const char *const bad[] = {
        "", "\n", "event=\n", "event=0x1cd\n", "event=cd,umask\n",
        "event=0xcd,ldlat=?\n", "event=0xcd,,umask=1\n", "../type=1\n",
        "event=0xcd umask=1\n", "event=-1\n", "event=0xcd,none=1\n",
        "event=1=2\n", "event=1,event=1,event=1,event=1,event=1,event=1,"
        "event=1,event=1,event=1,event=1,event=1,event=1,event=1,event=1,"
        "event=1,event=1,event=1\n",
    };
    g_autofree char *longest = g_strnfill(300, '0');
    NsPerfSampling s;

    ns_perf_own_addresses(true);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        put_loads(bad[i]);
        choose(&s, "cpu/events/mem-loads");
    }
    put_loads(longest);
    choose(&s, "too long");
    put_loads("event=0xcd\n");
    choose(&s, NULL);
    put("cpu/format/event", "config:0-\n");
    choose(&s, "is not known");
    put("cpu/format/event", "config:0-7\n");
    put("cpu/type", "-4\n");
    choose(&s, "cpu/type");
    put("cpu/type", "4294967300\n");
    choose(&s, "cpu/type");
}

/*
 * Physical addresses
 */

static void test_frames(void)
{
    enum { PRESENT = 1 };
    uint64_t present = (uint64_t)PRESENT << 63;
    NsFrames *f = ns_frames_new(4);

    ns_frames_add(f, 0);
    ns_frames_add(f, 0xfff);
    ns_frames_add(f, 9 * NS_PAGE + 8);
    ns_frames_add(f, 7 * NS_PAGE);
    ns_frames_add(f, 9 * NS_PAGE + 4000);
    ns_frames_add(f, UINT64_MAX);
    ns_frames_add(f, 5 * NS_PAGE);          /* too many */
    ns_frames_sort(f);
    g_assert_cmpuint(ns_frames_count(f, present | 9), ==, 2);
    g_assert_cmpuint(ns_frames_count(f, present | 7), ==, 1);
    g_assert_cmpuint(ns_frames_count(f, present | 5), ==, 0);
    g_assert_cmpuint(ns_frames_count(f, present | 8), ==, 0);
    /* Another one with the same bit, not there, and bits that say else */
    g_assert_cmpuint(ns_frames_count(f, present | (9 + (1 << 20))), ==, 0);
    g_assert_cmpuint(ns_frames_count(f, 9), ==, 0);
    g_assert_cmpuint(ns_frames_count(f, present | (7ull << 55) | 9), ==, 2);
    g_assert_cmpuint(ns_frames_count(f, present), ==, 0);
    g_assert_cmpuint(ns_frames_count(f, UINT64_MAX), ==, 0);
    ns_frames_clear(f);
    g_assert_cmpuint(ns_frames_count(f, present | 9), ==, 0);
    ns_frames_add(f, 5 * NS_PAGE);
    ns_frames_sort(f);
    g_assert_cmpuint(ns_frames_count(f, present | 5), ==, 1);
    ns_frames_free(f);
}

/*
 * This kernel
 */

static NsPerfSampling sampling;
static void *opened;

static void *open_this(const NsHeatRange *range, uint32_t n, Error **errp)
{
    return opened = ns_perf_open_event(&sampling, range, n, errp);
}

static NsHeatOps ops;
static const NsHeatOps *const these[] = { &ops, NULL };

/* NULL: it can not be used here, which is said */
static NsHeat *heat_new(char *at, uint64_t pages, uint64_t config,
                        bool physical)
{
    NsHeatRange range = { (uintptr_t)at, pages * NS_PAGE };
    Error *err = NULL;
    NsHeat *h;

    sampling = (NsPerfSampling) {
        .name = "faults", .n = 1, .period = 1, .physical = physical,
        .event[0] = { .type = PERF_TYPE_SOFTWARE, .config = { config } },
    };
    ops = ns_heat_perf;
    ops.open = open_this;
    h = ns_heat_new(&range, 1, "perf", these, NULL, &err);
    if (!h) {
        g_test_skip(error_get_pretty(err));
        error_free(err);
    } else {
        g_assert_cmpstr(ns_heat_name(h), ==, "perf");
        g_assert_true(ns_heat_sees_reads(h));
    }
    return h;
}

static char *map(uint64_t pages)
{
    char *at = mmap(NULL, pages * NS_PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(at != MAP_FAILED);
    /* One fault for each page */
    madvise(at, pages * NS_PAGE, MADV_NOHUGEPAGE);
    return at;
}

static void is_hot(const NsHeat *h, const char *at, bool (*hot)(uint32_t page))
{
    uint32_t score[PAGES];

    ns_heat_scores(h, (uintptr_t)at, PAGES, score);
    for (uint32_t i = 0; i < PAGES; i++) {
        g_assert_cmpuint(score[i] > 0, ==, hot(i));
    }
}

static bool third(uint32_t page)
{
    return page % 3 == 1;
}

static bool third_or_fourth(uint32_t page)
{
    return third(page) || page % 4 == 2;
}

static void touch(char *at, bool (*which)(uint32_t page))
{
    for (uint32_t i = 0; i < PAGES; i++) {
        if (which(i)) {
            qatomic_set(at + i * NS_PAGE + 77, 1);
        }
    }
}

static unsigned descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

typedef struct Worker {
    char *at;
    int step;                   /* atomic */
} Worker;

static void *work(void *opaque)
{
    Worker *w = opaque;

    while (qatomic_read(&w->step) < 1) {
        g_thread_yield();
    }
    touch(w->at, third_or_fourth);
    qatomic_set(&w->step, 2);
    while (qatomic_read(&w->step) < 3) {
        g_thread_yield();
    }
    return NULL;
}

static void test_faults(void)
{
    Worker w = { .at = map(PAGES) };
    unsigned before = descriptors();
    NsHeat *h = heat_new(w.at, PAGES, PERF_COUNT_SW_PAGE_FAULTS, false);
    GThread *thread;
    uint32_t threads;

    if (!h) {
        munmap(w.at, PAGES * NS_PAGE);
        return;
    }
    touch(w.at, third);
    ns_heat_look(h, NULL);
    is_hot(h, w.at, third);
    /* A thread that comes is sampled from the next look on. */
    threads = ns_perf_threads(opened);
    thread = g_thread_new("work", work, &w);
    ns_heat_look(h, NULL);
    g_assert_cmpuint(ns_perf_threads(opened), ==, threads + 1);
    qatomic_set(&w.step, 1);
    while (qatomic_read(&w.step) < 2) {
        g_thread_yield();
    }
    ns_heat_look(h, NULL);
    is_hot(h, w.at, third_or_fourth);
    /* And one that goes is closed. */
    qatomic_set(&w.step, 3);
    g_thread_join(thread);
    /* The kernel lists it a little longer. */
    do {
        ns_heat_look(h, NULL);
    } while (ns_perf_threads(opened) > threads);
    g_assert_cmpuint(ns_perf_threads(opened), ==, threads);
    ns_heat_free(h);
    g_assert_cmpuint(descriptors(), ==, before);
    munmap(w.at, PAGES * NS_PAGE);
}

/* The kernel looks up the address after it has made the page present. */
static void test_physical(void)
{
    char *at = map(PAGES);
    NsHeat *h = heat_new(at, PAGES, PERF_COUNT_SW_PAGE_FAULTS_MIN, true);

    if (h) {
        touch(at, third);
        ns_heat_look(h, NULL);
        is_hot(h, at, third);
        touch(at, third_or_fourth);
        ns_heat_look(h, NULL);
        is_hot(h, at, third_or_fourth);
        ns_heat_free(h);
    }
    munmap(at, PAGES * NS_PAGE);
}

/* More than a ring holds: what is lost is lost, and no more. */
static void test_overflow(void)
{
    enum { MANY = 16384 };
    g_autofree uint32_t *score = g_new(uint32_t, MANY);
    char *at = map(MANY);
    uint32_t hot = 0;
    NsHeat *h = heat_new(at, MANY, PERF_COUNT_SW_PAGE_FAULTS, false);

    if (h) {
        for (int i = 0; i < MANY - PAGES; i++) {
            qatomic_set(at + i * NS_PAGE, 1);
        }
        ns_heat_look(h, NULL);
        ns_heat_scores(h, (uintptr_t)at, MANY, score);
        for (int i = 0; i < MANY; i++) {
            hot += !!score[i];
        }
        g_assert_cmpuint(hot, >, 0);
        g_assert_cmpuint(hot, <, MANY - PAGES);
        touch(at + (MANY - PAGES) * NS_PAGE, third);
        ns_heat_look(h, NULL);
        is_hot(h, at + (MANY - PAGES) * NS_PAGE, third);
        ns_heat_free(h);
    }
    munmap(at, MANY * (size_t)NS_PAGE);
}

static void test_refused(void)
{
    NsHeatRange range = { 1 << 30, PAGES * NS_PAGE };
    NsPerfSampling s = {
        .name = "made-up", .n = 1, .event[0] = { .type = INT32_MAX },
    };
    unsigned before = descriptors();
    Error *err = NULL;

    g_assert_null(ns_perf_open_event(&s, &range, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "made-up"));
    error_free(err);
    err = NULL;
    /* All pages are gone through in each look. */
    s.physical = true;
    range.bytes = (NS_PERF_FRAMES + 1) * NS_PAGE;
    g_assert_null(ns_perf_open_event(&s, &range, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "4194305"));
    error_free(err);
    g_assert_cmpuint(descriptors(), ==, before);
}

/* What was not sampled may be used: it says nothing of a working set. */
static void test_working(void)
{
    char *at = map(1024);
    NsHeatRange range = { (uintptr_t)at, 1024 * NS_PAGE };
    Error *err = NULL;

    g_assert_null(ns_working_new(&range, 1, "perf", NULL, 0,
                                 NS_WORKING_WINDOW, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "'perf' samples"));
    error_free(err);
    munmap(at, 1024 * NS_PAGE);
}

static void test_not_auto(void)
{
    static const NsHeatOps *const only[] = { &ns_heat_perf, NULL };
    NsHeatRange range = { 1 << 30, PAGES * NS_PAGE };
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    NsHeat *h = ns_heat_new(&range, 1, "auto", only, notes, &error_abort);

    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    g_assert_cmpuint(notes->len, ==, 0);
    ns_heat_free(h);
}

int main(int argc, char **argv)
{
    static void (*const choose_test)(void) = test_choose;
    static void (*const malformed_test)(void) = test_malformed;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/numa-sched/perf/wraps", test_wraps);
    g_test_add_func("/numa-sched/perf/truncated", test_truncated);
    g_test_add_func("/numa-sched/perf/sizes", test_sizes);
    g_test_add_func("/numa-sched/perf/random", test_random);
    g_test_add_func("/numa-sched/perf/format", test_format);
    g_test_add_data_func("/numa-sched/perf/choose", &choose_test,
                         with_tree);
    g_test_add_data_func("/numa-sched/perf/malformed", &malformed_test,
                         with_tree);
    g_test_add_func("/numa-sched/perf/frames", test_frames);
    g_test_add_func("/numa-sched/perf/faults", test_faults);
    g_test_add_func("/numa-sched/perf/physical", test_physical);
    g_test_add_func("/numa-sched/perf/overflow", test_overflow);
    g_test_add_func("/numa-sched/perf/refused", test_refused);
    g_test_add_func("/numa-sched/perf/working", test_working);
    g_test_add_func("/numa-sched/perf/not-auto", test_not_auto);
    return g_test_run();
}
