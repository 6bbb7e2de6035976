/*
 * NUMA scheduler: the use of pages, by DAMON
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A thread of the kernel (kdamond) looks at the accessed bit of one page in
 * each region, again and again, and splits and joins regions by what it finds.
 * It sees reads, too, and what a guest does.  The interface is one for all of
 * the host (Linux, admin-guide/mm/damon/usage.rst): who sets the number of
 * kdamonds removes those that others prepared, and the kernel does not say
 * whose one is.  So we take it only when there is none, believe that it is ours
 * as long as it has our pid, and leave anything else as it is.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "damon-sysfs.h"
#include "heat.h"
#include "heat-damon.h"
#include "plan.h"

#define ROOT            "/sys/kernel/mm/damon/admin"
#define SAMPLE_US       5000
#define AGGREGATE_US    100000
#define SAMPLES         (AGGREGATE_US / SAMPLE_US)
#define MIN_REGIONS     10
#define MAX_REGIONS     1000
/* The kernel may exceed its limit for a while. */
#define MAX_TRIED       (4 * MAX_REGIONS)
#define MAX_BUSY        8               /* looks in a row */

#define NUMBER          "nr_kdamonds"
#define STATE           "0/state"
#define KDAMOND         "0/pid"
#define CONTEXT         "0/contexts/0/"
#define TARGET          CONTEXT "targets/0/"
#define SCHEME          CONTEXT "schemes/0/"
#define PID_TARGET      TARGET "pid_target"
#define TRIED           SCHEME "tried_regions"

typedef struct Setting {
    char *name, *value;
    bool optional;
} Setting;

typedef struct Damon {
    char *root;
    int dir;                    /* kdamonds */
    GArray *setting;
    char pid[NS_DAMON_VALUE];   /* our own */
    char kdamond[NS_DAMON_VALUE];       /* pid; "": not turned on */
    uint32_t busy;
} Damon;

static void clear_setting(void *opaque)
{
    Setting *s = opaque;

    g_free(s->name);
    g_free(s->value);
}

static void G_GNUC_PRINTF(3, 4) set(Damon *d, const char *name,
                                    const char *fmt, ...)
{
    Setting s = { .name = g_strdup(name) };
    va_list ap;

    va_start(ap, fmt);
    s.value = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_array_append_val(d->setting, s);
}

static int by_address(const void *a, const void *b)
{
    const NsHeatRange *x = a, *y = b;

    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* The kernel wants them by address. */
static void set_regions(Damon *d, const NsHeatRange *range, uint32_t n)
{
    g_autofree NsHeatRange *sorted = g_memdup2(range, n * sizeof(*range));

    qsort(sorted, n, sizeof(*sorted), by_address);
    set(d, TARGET "regions/nr_regions", "%u", n);
    for (uint32_t i = 0; i < n; i++) {
        g_autofree char *start = g_strdup_printf(TARGET "regions/%u/start", i);
        g_autofree char *end = g_strdup_printf(TARGET "regions/%u/end", i);

        set(d, start, "%" PRIu64, sorted[i].addr);
        set(d, end, "%" PRIu64, sorted[i].addr + sorted[i].bytes);
    }
}

/* In the order in which the kernel makes the directories */
static void set_all(Damon *d, const NsHeatRange *range, uint32_t n)
{
    set(d, "0/contexts/nr_contexts", "1");
    set(d, CONTEXT "targets/nr_targets", "1");
    set(d, PID_TARGET, "%s", d->pid);
    /* Those of "vaddr" would replace our regions by what is mapped. */
    set(d, CONTEXT "operations", "fvaddr");
    set(d, CONTEXT "monitoring_attrs/intervals/sample_us", "%u", SAMPLE_US);
    set(d, CONTEXT "monitoring_attrs/intervals/aggr_us", "%u", AGGREGATE_US);
    set(d, CONTEXT "monitoring_attrs/nr_regions/min", "%u", MIN_REGIONS);
    set(d, CONTEXT "monitoring_attrs/nr_regions/max", "%u", MAX_REGIONS);
    set_regions(d, range, n);
    set(d, CONTEXT "schemes/nr_schemes", "1");
    set(d, SCHEME "action", "stat");
    set(d, SCHEME "access_pattern/sz/min", "0");
    set(d, SCHEME "access_pattern/sz/max", "%lu", ULONG_MAX);
    /* What is not used needs not be read. */
    set(d, SCHEME "access_pattern/nr_accesses/min", "1");
    set(d, SCHEME "access_pattern/nr_accesses/max", "%u", UINT_MAX);
    set(d, SCHEME "access_pattern/age/min", "0");
    set(d, SCHEME "access_pattern/age/max", "%u", UINT_MAX);
    /* A look waits that long; before Linux 6.7, for an aggregation. */
    set(d, SCHEME "apply_interval_us", "%u", SAMPLE_US);
    g_array_index(d->setting, Setting, d->setting->len - 1).optional = true;
}

static bool prepare(Damon *d, Error **errp)
{
    for (guint i = 0; i < d->setting->len; i++) {
        const Setting *s = &g_array_index(d->setting, Setting, i);
        int ret = ns_damon_put(d->dir, s->name, s->value);

        if (ret && !(s->optional && ret == -ENOENT)) {
            error_setg_errno(errp, -ret, "DAMON does not take '%s' in "
                             "%s/kdamonds/%s (it needs Linux 6.2 and "
                             "CONFIG_DAMON_VADDR; is another using it, too?)",
                             s->value, d->root, s->name);
            return false;
        }
    }
    return true;
}

/* Is all still there?  Somebody else may have begun when we did. */
static bool is_as_set(const Damon *d, Error **errp)
{
    char value[NS_DAMON_VALUE];
    int ret = ns_damon_get(d->dir, NUMBER, value);

    if (ret || strcmp(value, "1")) {
        error_setg(errp, "%s/kdamonds/" NUMBER " was 1 and is now '%s': "
                   "another is using DAMON; try again when it is not",
                   d->root, ret ? strerror(-ret) : value);
        return false;
    }
    for (guint i = 0; i < d->setting->len; i++) {
        const Setting *s = &g_array_index(d->setting, Setting, i);

        ret = ns_damon_get(d->dir, s->name, value);
        if (s->optional && ret == -ENOENT) {
            continue;
        }
        if (ret || strcmp(value, s->value)) {
            error_setg(errp, "%s/kdamonds/%s was set to '%s' and is now '%s': "
                       "another is using DAMON; try again when it is not",
                       d->root, s->name, s->value,
                       ret ? strerror(-ret) : value);
            return false;
        }
    }
    return true;
}

/* The thread that we turned on */
static bool is_on(const Damon *d)
{
    return d->kdamond[0] && ns_damon_is(d->dir, KDAMOND, d->kdamond);
}

static bool turn_on(Damon *d, Error **errp)
{
    int ret = ns_damon_put(d->dir, STATE, "on");
    uint64_t pid;

    if (ret) {
        error_setg_errno(errp, -ret, "DAMON can not be turned on (%s/kdamonds/"
                         STATE "); is the kernel using it, as DAMON_RECLAIM "
                         "and DAMON_LRU_SORT do?", d->root);
        return false;
    }
    ret = ns_damon_get(d->dir, KDAMOND, d->kdamond);
    if (ret || !ns_damon_number(d->dir, KDAMOND, &pid)) {
        error_setg(errp, "DAMON was turned on and is off again (%s/kdamonds/"
                   KDAMOND " is '%s'); is another using it, too?", d->root,
                   ret ? strerror(-ret) : d->kdamond);
        d->kdamond[0] = 0;
        /* It may be on all the same: nobody else would turn it off. */
        if (ns_damon_is(d->dir, PID_TARGET, d->pid)) {
            ns_damon_put(d->dir, STATE, "off");
        }
        return false;
    }
    return true;
}

/*
 * @opening: that it was turned on by us is certain, even if another has written
 * to its files meanwhile.
 */
static void leave(Damon *d, bool opening)
{
    char pid[NS_DAMON_VALUE];
    int ret = ns_damon_get(d->dir, PID_TARGET, pid);
    /* Without a target nobody has begun to use it. */
    bool ours = ret ? ret == -ENOENT && opening : !strcmp(pid, d->pid);

    if ((ours || opening) && is_on(d)) {
        ns_damon_put(d->dir, STATE, "off");
    }
    if (ours && ns_damon_is(d->dir, NUMBER, "1")) {
        /* The kernel refuses that while one is on. */
        ns_damon_put(d->dir, NUMBER, "0");
    }
}

static void damon_free(Damon *d)
{
    if (d->dir >= 0) {
        close(d->dir);
    }
    g_array_unref(d->setting);
    g_free(d->root);
    g_free(d);
}

/* Take it, if nobody has */
static bool claim(Damon *d, Error **errp)
{
    g_autofree char *path = g_strdup_printf("%s/kdamonds", d->root);
    char value[NS_DAMON_VALUE];
    int ret;

    d->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir < 0) {
        error_setg_errno(errp, errno, "%s can not be opened; DAMON needs root "
                         "and a kernel with CONFIG_DAMON_SYSFS", path);
        return false;
    }
    ret = ns_damon_get(d->dir, NUMBER, value);
    if (!ret && strcmp(value, "0")) {
        error_setg(errp, "another is using DAMON, of which a host has one: "
                   "%s/" NUMBER " is '%s', not '0' (a QEMU that was killed "
                   "leaves it so: write 0 there if nobody needs it)", path,
                   value);
        return false;
    }
    ret = ret ?: ns_damon_put(d->dir, NUMBER, "1");
    if (ret) {
        error_setg_errno(errp, -ret, "%s/" NUMBER " can not be set to 1; DAMON "
                         "needs root and a sysfs that can be written to",
                         path);
    }
    return !ret;
}

void *ns_damon_open_at(const char *root, const NsHeatRange *range, uint32_t n,
                       Error **errp)
{
    Damon *d;

    if (n > MAX_REGIONS / 2) {
        error_setg(errp, "memory is in %u pieces, and DAMON is asked for %u "
                   "regions at most; take estimator 'pagemap-scan'", n,
                   MAX_REGIONS);
        return NULL;
    }
    d = g_new0(Damon, 1);
    d->root = g_strdup(root);
    d->setting = g_array_new(false, false, sizeof(Setting));
    g_array_set_clear_func(d->setting, clear_setting);
    snprintf(d->pid, sizeof(d->pid), "%d", getpid());
    set_all(d, range, n);
    if (claim(d, errp)) {
        /* Once more when it is on: nobody can take it away from then on. */
        if (prepare(d, errp) && is_as_set(d, errp) && turn_on(d, errp) &&
            is_as_set(d, errp)) {
            return d;
        }
        leave(d, true);
    }
    damon_free(d);
    return NULL;
}

static void *damon_open(const NsHeatRange *range, uint32_t n, Error **errp)
{
    return ns_damon_open_at(ROOT, range, n, errp);
}

static void damon_close(void *opaque)
{
    leave(opaque, false);
    damon_free(opaque);
}

/* What does not make sense says nothing. */
static void add_region(int dir, NsHeat *heat)
{
    uint64_t start, end, n;

    if (ns_damon_number(dir, "start", &start) &&
        ns_damon_number(dir, "end", &end) &&
        ns_damon_number(dir, "nr_accesses", &n) && start < end &&
        !((start | end) % NS_PAGE)) {
        ns_heat_add_part(heat, start, end - start,
                         NS_HEAT_USE * MIN(n, SAMPLES) / SAMPLES);
    }
}

static int add_regions(const Damon *d, NsHeat *heat)
{
    int dir = openat(d->dir, TRIED, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0) {
        return -errno;
    }
    for (uint32_t i = 0; i < MAX_TRIED; i++) {
        char name[16];
        int region;

        snprintf(name, sizeof(name), "%u", i);
        region = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (region < 0) {
            break;
        }
        add_region(region, heat);
        close(region);
    }
    close(dir);
    return 0;
}

static bool damon_look(void *opaque, NsHeat *heat, Error **errp)
{
    Damon *d = opaque;
    int ret;

    if (!is_on(d)) {
        ret = -ESRCH;
    } else {
        ret = ns_damon_put(d->dir, STATE, "update_schemes_tried_regions");
        if (ret == -EBUSY && ++d->busy < MAX_BUSY) {
            return true;
        }
    }
    /* Are these regions of ours? */
    if (!ret && !(is_on(d) && ns_damon_is(d->dir, PID_TARGET, d->pid))) {
        ret = -ESRCH;
    }
    ret = ret ?: add_regions(d, heat);
    if (ret) {
        error_setg_errno(errp, -ret, "DAMON does not say more (%s/kdamonds/"
                         STATE "); has another turned it off?", d->root);
        return false;
    }
    d->busy = 0;
    return true;
}

const NsHeatOps ns_heat_damon = {
    .name = "damon",
    .by_name_only = true,
    .sees_reads = true,
    .open = damon_open,
    .look = damon_look,
    .close = damon_close,
};
