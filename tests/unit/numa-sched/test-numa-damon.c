/*
 * NUMA scheduler: DAMON, as a tree of plain files that is made up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The host's own DAMON may be somebody's: nothing here touches it.
 */

#include "qemu/osdep.h"
#include <linux/capability.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "accel/kvm/numa-sched/heat-damon.h"
#include "accel/kvm/numa-sched/plan.h"
#include "numa-tree.h"

enum { AT = 1 << 30, PAGES = 64 };

#define KDAMONDS    "kdamonds/"
#define NUMBER      KDAMONDS "nr_kdamonds"
#define STATE       KDAMONDS "0/state"
#define KDAMOND     KDAMONDS "0/pid"
#define CONTEXT     KDAMONDS "0/contexts/0/"
#define PID_TARGET  CONTEXT "targets/0/pid_target"
#define TRIED       CONTEXT "schemes/0/tried_regions/"
#define UPDATE      "update_schemes_tried_regions"

/* What a kernel makes when it is told numbers */
static void put_kernel(void)
{
    static const char *const empty[] = {
        "contexts/nr_contexts", "contexts/0/operations",
        "contexts/0/monitoring_attrs/intervals/sample_us",
        "contexts/0/monitoring_attrs/intervals/aggr_us",
        "contexts/0/monitoring_attrs/nr_regions/min",
        "contexts/0/monitoring_attrs/nr_regions/max",
        "contexts/0/targets/nr_targets", "contexts/0/targets/0/pid_target",
        "contexts/0/targets/0/regions/nr_regions",
        "contexts/0/targets/0/regions/0/start",
        "contexts/0/targets/0/regions/0/end",
        "contexts/0/targets/0/regions/1/start",
        "contexts/0/targets/0/regions/1/end",
        "contexts/0/schemes/nr_schemes", "contexts/0/schemes/0/action",
        "contexts/0/schemes/0/access_pattern/sz/min",
        "contexts/0/schemes/0/access_pattern/sz/max",
        "contexts/0/schemes/0/access_pattern/nr_accesses/min",
        "contexts/0/schemes/0/access_pattern/nr_accesses/max",
        "contexts/0/schemes/0/access_pattern/age/min",
        "contexts/0/schemes/0/access_pattern/age/max",
        "contexts/0/schemes/0/tried_regions/total_bytes",
    };

    put(NUMBER, "0\n");
    put(STATE, "off\n");
    put(KDAMOND, "4711\n");
    for (size_t i = 0; i < ARRAY_SIZE(empty); i++) {
        g_autofree char *name = g_strconcat(KDAMONDS "0/", empty[i], NULL);

        put(name, "0\n");
    }
}

static void is(const char *name, const char *expected)
{
    g_autofree char *path = path_of(name);
    g_autofree char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_strchomp(text);
    g_assert_cmpstr(text, ==, expected);
}

/* The file is another thing, to which writing does nothing, or fails */
static void put_link(const char *name, const char *to)
{
    g_autofree char *path = path_of(name);

    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(symlink(to, path), ==, 0);
}

static void put_region(unsigned i, const char *start, const char *end,
                       const char *n)
{
    const char *name[] = { "start", "end", "nr_accesses" };
    const char *text[] = { start, end, n };

    for (int k = 0; k < 3; k++) {
        g_autofree char *path = g_strdup_printf(TRIED "%u/%s", i, name[k]);

        if (text[k]) {
            put(path, text[k]);
        }
    }
}

static void put_used(unsigned i, uint64_t page, uint64_t pages, unsigned n)
{
    g_autofree char *start = g_strdup_printf("%" PRIu64 "\n",
                                             AT + page * NS_PAGE);
    g_autofree char *end = g_strdup_printf("%" PRIu64 "\n",
                                           AT + (page + pages) * NS_PAGE);
    g_autofree char *uses = g_strdup_printf("%u\n", n);

    put_region(i, start, end, uses);
}

static void *open_here(const NsHeatRange *range, uint32_t n, Error **errp)
{
    return ns_damon_open_at(root, range, n, errp);
}

static NsHeatOps ops;
static const NsHeatOps *const these[] = { &ops, NULL };

/* NULL: @expected is why */
static NsHeat *heat_new(const char *expected)
{
    /* The kernel wants them by address. */
    NsHeatRange range[] = {
        { AT + 2 * PAGES * NS_PAGE, PAGES * NS_PAGE },
        { AT, PAGES * NS_PAGE },
    };
    Error *err = NULL;
    NsHeat *h;

    ops = ns_heat_damon;
    ops.open = open_here;
    h = ns_heat_new(range, 2, "damon", these, NULL, &err);
    if (expected) {
        g_assert_null(h);
        g_assert_nonnull(strstr(error_get_pretty(err), root));
        if (!strstr(error_get_pretty(err), expected)) {
            g_test_message("%s", error_get_pretty(err));
            g_test_fail();
        }
        error_free(err);
    } else if (err) {
        error_report_err(err);
        g_assert_not_reached();
    }
    return h;
}

static uint32_t score(const NsHeat *h, uint64_t page)
{
    uint32_t s;

    ns_heat_scores(h, AT + page * NS_PAGE, 1, &s);
    return s;
}

static void test_use(void)
{
    g_autofree char *pid = g_strdup_printf("%d", getpid());
    g_autofree char *first = g_strdup_printf("%u", AT);
    NsHeat *h;

    put_kernel();
    h = heat_new(NULL);
    g_assert_cmpstr(ns_heat_name(h), ==, "damon");
    is(NUMBER, "1");
    is(STATE, "on");
    is(PID_TARGET, pid);
    is(CONTEXT "operations", "fvaddr");
    is(CONTEXT "targets/0/regions/nr_regions", "2");
    is(CONTEXT "targets/0/regions/0/start", first);
    is(CONTEXT "schemes/0/action", "stat");
    put_used(0, 3, 2, 20);
    put_used(1, 5, 1, 10);
    put_used(2, 2 * PAGES, 1, 1);
    /* More than there can be */
    put_used(3, 2 * PAGES + 1, 1, 4000000000u);
    /* Between the ranges, and past the end of one */
    put_used(4, PAGES - 1, 3, 20);
    ns_heat_look(h, NULL);
    is(STATE, UPDATE);
    g_assert_cmpuint(score(h, 2), ==, 0);
    g_assert_cmpuint(score(h, 3), ==, NS_HEAT_USE);
    g_assert_cmpuint(score(h, 4), ==, NS_HEAT_USE);
    g_assert_cmpuint(score(h, 5), ==, NS_HEAT_USE / 2);
    g_assert_cmpuint(score(h, 6), ==, 0);
    g_assert_cmpuint(score(h, 2 * PAGES), ==, NS_HEAT_USE / 20);
    g_assert_cmpuint(score(h, 2 * PAGES + 1), ==, NS_HEAT_USE);
    g_assert_cmpuint(score(h, PAGES - 1), ==, NS_HEAT_USE);
    ns_heat_free(h);
    is(STATE, "off");
    is(NUMBER, "0");
    /* It can be used again. */
    h = heat_new(NULL);
    ns_heat_free(h);
    is(NUMBER, "0");
}

static void test_malformed(void)
{
    static const char *const bad[][3] = {
        { "", "", "" },
        { "\n", "1073750016\n", "20\n" },
        { "1073741824\n", "1073741824\n", "20\n" },         /* empty */
        { "1073750016\n", "1073741824\n", "20\n" },         /* backwards */
        { "1073741825\n", "1073750016\n", "20\n" },         /* unaligned */
        { "1073741824\n", "1073750015\n", "20\n" },
        { "0x40000000\n", "1073750016\n", "20\n" },
        { "-1\n", "1073750016\n", "20\n" },
        { "1073741824\n", "99999999999999999999999\n", "20\n" },
        { "1073741824\n", "18446744073709551616\n", "20\n" },
        { "1073741824\n", "1073750016\n", "many\n" },
        { "1073741824\n", "1073750016\n", "20 20\n" },
        { "1073741824\n", "1073750016\n", "-20\n" },
        { "1073741824\n", "1073750016\n", NULL },           /* no file */
        { "1073741824\n", "1073750016\n",
          "00000000000000000000000000000000000000000000000020\n" },
    };
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    uint32_t s[3 * PAGES];
    NsHeat *h;

    put_kernel();
    h = heat_new(NULL);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        put_region(i, bad[i][0], bad[i][1], bad[i][2]);
    }
    ns_heat_look(h, notes);
    ns_heat_scores(h, AT, 3 * PAGES, s);
    for (int i = 0; i < 3 * PAGES; i++) {
        g_assert_cmpuint(s[i], ==, 0);
    }
    g_assert_cmpuint(notes->len, ==, 0);
    /* Of what it says nothing about, the next one is still read. */
    put_used(ARRAY_SIZE(bad), 7, 1, 20);
    ns_heat_look(h, notes);
    g_assert_cmpuint(score(h, 7), ==, NS_HEAT_USE);
    /* All memory that there may be */
    put_region(ARRAY_SIZE(bad) + 1, "0\n", "18446744073709547520\n", "20\n");
    ns_heat_look(h, notes);
    g_assert_cmpuint(score(h, 0), ==, NS_HEAT_USE);
    g_assert_cmpstr(ns_heat_name(h), ==, "damon");
    ns_heat_free(h);
}

/* A directory without end is not read to its end. */
static void test_bounded(void)
{
    NsHeat *h;
    char name[96];

    put_kernel();
    put_used(0, 9, 1, 1);
    h = heat_new(NULL);
    for (unsigned i = 1; i < 6000; i++) {
        g_autofree char *path = NULL;

        snprintf(name, sizeof(name), TRIED "%u", i);
        path = path_of(name);
        g_assert_cmpint(symlink("0", path), ==, 0);
    }
    ns_heat_look(h, NULL);
    g_assert_cmpuint(score(h, 9), >=, 1000 * (NS_HEAT_USE / 20));
    g_assert_cmpuint(score(h, 9), <, UINT16_MAX);
    ns_heat_free(h);
}

static void test_absent(void)
{
    remove_below("");
    heat_new("CONFIG_DAMON_SYSFS");
    g_assert_cmpint(mkdir(root, 0700), ==, 0);
    heat_new("CONFIG_DAMON_SYSFS");
    /* Neither a number, nor what it would be of */
    g_free(path_of(NUMBER));
    heat_new("can not be set");
}

static void test_in_use(void)
{
    put_kernel();
    put(NUMBER, "1\n");
    put(STATE, "on\n");
    put(PID_TARGET, "1\n");
    heat_new("is '1', not '0'");
    is(NUMBER, "1");
    is(STATE, "on");
    is(PID_TARGET, "1");
    is(CONTEXT "operations", "0");
    /* Off and prepared by somebody, or left by one who has ended */
    put(STATE, "off\n");
    heat_new("write 0 there");
    is(STATE, "off");
    put(NUMBER, "3\n");
    heat_new("is '3'");
    is(NUMBER, "3");
    put(NUMBER, "");
    heat_new("is ''");
    is(NUMBER, "");
}

/* Modes are for root, too, or again no longer */
static void obey_modes(bool obey)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct cap[2];

    g_assert_cmpint(syscall(SYS_capget, &header, cap), ==, 0);
    cap[0].effective = obey ? 0 : cap[0].permitted;
    g_assert_cmpint(syscall(SYS_capset, &header, cap), ==, 0);
}

static void test_not_writable(void)
{
    g_autofree char *path = NULL;

    put_kernel();
    path = path_of(NUMBER);
    g_assert_cmpint(chmod(path, 0444), ==, 0);
    obey_modes(true);
    heat_new("can not be set to 1");
    obey_modes(false);
    is(NUMBER, "0");
    is(STATE, "off");
    is(PID_TARGET, "0");
}

/* A kernel that has less, or refuses something: nothing stays. */
static void test_refused(void)
{
    static const char *const name[] = {
        CONTEXT "operations", CONTEXT "targets/0/regions/1/end",
        CONTEXT "schemes/0/action", STATE,
    };

    for (size_t i = 0; i < ARRAY_SIZE(name); i++) {
        put_kernel();
        put_link(name[i], "/dev/full");
        heat_new(strcmp(name[i], STATE) ? "does not take" :
                 "can not be turned on");
        is(NUMBER, "0");
        if (strcmp(name[i], STATE)) {
            is(STATE, "off");
        }
        remove_below(name[i]);
    }
    /* Before there is a target */
    put_kernel();
    remove_below(KDAMONDS "0/contexts");
    heat_new("CONFIG_DAMON_VADDR");
    is(NUMBER, "0");
    /* It ends at once. */
    put_kernel();
    put(KDAMOND, "-1\n");
    heat_new("is off again");
    is(STATE, "off");
    is(NUMBER, "0");
}

/* Who begins at the same moment has what he wrote. */
static void test_race(void)
{
    /* What others wrote is what is read: of a null device, nothing. */
    static const char *const name[] = {
        PID_TARGET, CONTEXT "operations",
        CONTEXT "targets/0/regions/0/start",
    };

    for (size_t i = 0; i < ARRAY_SIZE(name); i++) {
        put_kernel();
        put_link(name[i], "/dev/null");
        /* It is not even tried. */
        put_link(STATE, "/dev/full");
        heat_new("another is using DAMON");
        is(NUMBER, i ? "0" : "1");
        remove_below(name[i]);
        remove_below(STATE);
    }
    /* Just when it is turned on, which is ours to undo */
    put_kernel();
    put_link(STATE, "contexts/0/targets/0/pid_target");
    heat_new("pid_target was set to");
    is(STATE, "off");
    is(NUMBER, "1");
}

static void test_too_many(void)
{
    g_autofree NsHeatRange *range = g_new(NsHeatRange, NS_HEAT_MAX_RANGES);
    Error *err = NULL;

    put_kernel();
    for (int i = 0; i < NS_HEAT_MAX_RANGES; i++) {
        range[i] = (NsHeatRange) { AT + 2 * i * NS_PAGE, NS_PAGE };
    }
    g_assert_null(open_here(range, NS_HEAT_MAX_RANGES, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "4096 pieces"));
    error_free(err);
    is(NUMBER, "0");
}

static void ends(NsHeat *h, const char *why)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);

    put_used(0, 1, 1, 20);
    ns_heat_look(h, notes);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    g_assert_cmpuint(notes->len, ==, 1);
    g_assert_nonnull(strstr(g_ptr_array_index(notes, 0), why));
    g_assert_cmpuint(score(h, 1), ==, 0);
    ns_heat_free(h);
}

static void test_turned_off(void)
{
    NsHeat *h;

    put_kernel();
    h = heat_new(NULL);
    put(STATE, "off\n");
    put(KDAMOND, "-1\n");
    ends(h, "has another turned it off?");
    /* What is ours is given back. */
    is(STATE, "off");
    is(NUMBER, "0");

    put_kernel();
    h = heat_new(NULL);
    put_link(STATE, "/dev/full");
    ends(h, "has another turned it off?");
    remove_below(STATE);
}

/* What another has made of it meanwhile stays. */
static void test_anothers(void)
{
    NsHeat *h;

    put_kernel();
    h = heat_new(NULL);
    put(STATE, "on\n");
    put(KDAMOND, "4712\n");
    put(PID_TARGET, "1\n");
    ends(h, "has another turned it off?");
    is(STATE, "on");
    is(NUMBER, "1");
    is(PID_TARGET, "1");

    /* Just before it is closed */
    put_kernel();
    h = heat_new(NULL);
    put(STATE, "on\n");
    put(PID_TARGET, "1\n");
    ns_heat_free(h);
    is(STATE, "on");
    is(NUMBER, "1");
    put_kernel();
    h = heat_new(NULL);
    put(STATE, "on\n");
    put(KDAMOND, "4712\n");
    put(NUMBER, "2\n");
    ns_heat_free(h);
    is(STATE, "on");
    is(NUMBER, "2");
    /* All of it was removed. */
    put_kernel();
    h = heat_new(NULL);
    put(NUMBER, "0\n");
    remove_below(KDAMONDS "0");
    ns_heat_free(h);
    is(NUMBER, "0");
}

/* It is for who asks for it. */
static void test_not_auto(void)
{
    NsHeatRange range = { AT, NS_PAGE };
    NsHeat *h;

    put_kernel();
    h = heat_new(NULL);
    ns_heat_free(h);
    put(STATE, "off\n");
    h = ns_heat_new(&range, 1, "auto", these, NULL, &error_abort);
    g_assert_cmpstr(ns_heat_name(h), ==, "none");
    is(NUMBER, "0");
    ns_heat_free(h);
    is(STATE, "off");
}

int main(int argc, char **argv)
{
    static void (*const test[])(void) = {
        test_use, test_malformed, test_bounded, test_absent, test_in_use,
        test_not_writable, test_refused, test_race, test_too_many,
        test_turned_off, test_anothers, test_not_auto,
    };
    static const char *const name[] = {
        "use", "malformed", "bounded", "absent", "in-use", "not-writable",
        "refused", "race", "too-many", "turned-off", "anothers", "not-auto",
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(test); i++) {
        g_autofree char *path = g_strconcat("/numa-sched/damon/", name[i],
                                            NULL);

        g_test_add_data_func(path, &test[i], with_tree);
    }
    return g_test_run();
}
