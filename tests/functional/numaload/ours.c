/*
 * A load with memory on the wrong node: QEMU's mover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Peers: "heat" is told how often the load uses each page; those of heat.h,
 * by their names, find out; "blind" has no estimator.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"

#include "heat.h"
#include "mover.h"
#include "numaload.h"

#define MAX_CALLS   4096
#define REMOTE      (2 * NS_MILLION)

/* A call that moved pages: pages @first to @first + @n - 1 of record.page */
typedef struct Call {
    uint32_t phase, first, n;
} Call;

static struct {
    Call call[MAX_CALLS];
    uint32_t n_calls, n, again;
    uint32_t *page;             /* the order that pages moved in */
    uint8_t *moved;
} record;

static Load *load;
static NsMoverSys sys;
static NsHeat *heat;
static NsMoverProgress progress;
static uint32_t *uses;          /* of each page, with exact heat */
static uint32_t *scores;        /* of each page, when the load leaves home */

/* CPU time, us: of looks, and of the kernel's thread for them */
static struct {
    uint64_t look, kernel;
} watching, moving;

/* ---- the kernel, and a record of what it was asked -------------------- */

static long record_move(void *opaque, unsigned long n, void **pages,
                        const int *nodes, int *status)
{
    Load *l = load;
    Call *c = &record.call[record.n_calls];
    long ret = ns_mover_linux.move_pages(opaque, n, pages, nodes, status);

    if (!nodes) {
        return ret;
    }
    l->calls++;
    if (ret < 0 || record.n_calls == MAX_CALLS) {
        return ret;
    }
    c->phase = l->now;
    c->first = record.n;
    for (unsigned long i = 0; i < n; i++) {
        uint32_t page = ((uintptr_t)pages[i] - DATA) / PAGE;

        if (page >= l->pages || status[i] != (int)l->to) {
            continue;
        }
        if (record.moved[page]) {
            record.again++;
        } else {
            record.moved[page] = 1;
            record.page[record.n++] = page;
        }
    }
    c->n = record.n - c->first;
    record.n_calls += c->n > 0;
    return ret;
}

/* ---- heat ------------------------------------------------------------- */

/* Weights by page; a use for each 4096 of them, so that the least has some */
static void know(Load *l, uint32_t phase)
{
    for (uint32_t i = 0; i < l->pages; i++) {
        uses[l->perm[phase & 1][i]] = l->weight[i] / 4096;
    }
}

static void exact_scores(void *opaque, uint64_t addr, uint32_t pages,
                         uint32_t *score)
{
    memcpy(score, uses + (addr - DATA) / PAGE, pages * sizeof(*score));
}

static void heat_scores(void *opaque, uint64_t addr, uint32_t pages,
                        uint32_t *score)
{
    ns_heat_scores(heat, addr, pages, score);
}

static void notes_print(GPtrArray *notes)
{
    for (guint i = 0; i < notes->len; i++) {
        fprintf(stderr, "numaload: %s\n", (char *)notes->pdata[i]);
    }
    g_ptr_array_set_size(notes, 0);
}

static void look(uint64_t *us)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    uint64_t before = cpu_us();

    ns_heat_look(heat, notes);
    *us += cpu_us() - before;
    notes_print(notes);
}

/* CPU time of DAMON's thread so far, us; 0 when there is none */
static uint64_t kernel_us(void)
{
    g_autofree char *pid = NULL;
    g_autofree char *path = NULL;
    g_autofree char *value = NULL;

    if (strcmp(ns_heat_name(heat), "damon") ||
        !g_file_get_contents("/sys/kernel/mm/damon/admin/kdamonds/0/pid",
                             &pid, NULL, NULL)) {
        return 0;
    }
    /* As "stat" has it, but in ns */
    path = g_strdup_printf("/proc/%d/schedstat", atoi(pid));
    return g_file_get_contents(path, &value, NULL, NULL) ?
           g_ascii_strtoull(value, NULL, 10) / 1000 : 0;
}

static uint64_t kernel_since(uint64_t before)
{
    uint64_t now = kernel_us();

    return now > before ? now - before : 0;
}

/* ---- the peers -------------------------------------------------------- */

static void open_record(Load *l)
{
    FILE *f = fopen("/proc/sys/kernel/numa_balancing", "w");

    if (!f || fputs("0", f) < 0 || fclose(f)) {
        die("/proc/sys/kernel/numa_balancing");
    }
    record.page = g_new0(uint32_t, l->pages);
    record.moved = g_new0(uint8_t, l->pages);
    uses = g_new0(uint32_t, l->pages);
    scores = g_new0(uint32_t, l->pages);
    know(l, 0);
}

static void open_heat(Load *l)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    NsHeatRange range = { DATA, (uint64_t)l->mib << 20 };
    Error *err = NULL;

    open_record(l);
    /* NULL: all estimators that there are */
    heat = ns_heat_new(&range, 1, l->peer, NULL, notes, &err);
    notes_print(notes);
    if (!heat) {
        error_reportf_err(err, "numaload: ");
        exit(1);
    }
}

static void warm_heat(Load *l, int64_t end)
{
    int64_t step = l->look * 1000000LL;
    uint64_t before = kernel_us();

    for (int64_t t = now_ns() + step; t <= end; t += step) {
        sleep_until(t);
        look(&watching.look);
    }
    watching.kernel = kernel_since(before);
    ns_heat_scores(heat, DATA, l->pages, scores);
}

static void warm_exact(Load *l, int64_t end)
{
    memcpy(scores, uses, l->pages * sizeof(*scores));
}

static NsMover *mover_new(Load *l)
{
    static const uint32_t ratio[] = {
        NS_MILLION, REMOTE, REMOTE, NS_MILLION
    };
    NsMoverRange range = {
        DATA, (uint64_t)l->mib << 20, PAGE, "numaload"
    };
    int id[] = { l->to, l->from };
    NsMoverConfig config = {
        .range = &range, .n_ranges = 1, .n = 2, .id = id, .ratio = ratio,
        .cpu = 0, .target = 0, .bandwidth = l->bandwidth * 1024ULL,
        .epsilon = l->epsilon, .all = l->all,
        .scores = heat ? heat_scores : strcmp(l->peer, "heat") ? NULL :
                  exact_scores,
    };
    Error *err = NULL;
    NsMover *m;

    sys = ns_mover_linux;
    sys.move_pages = record_move;
    load = l;
    m = ns_mover_new(&config, &sys, NULL, &err);
    if (!m) {
        error_reportf_err(err, "numaload: ");
        exit(1);
    }
    return m;
}

static void mover_end(NsMover *m)
{
    NsMoverProgress p;

    ns_mover_progress(m, &p);
    ns_mover_free(m);
    progress.state = p.state;
    progress.failed += p.failed;
    progress.worth += p.worth;
    progress.huge_moved += p.huge_moved;
}

/* Heat is another: what was not worth moving may be now. */
static NsMover *again(Load *l, NsMover *m)
{
    NsMoverProgress p;

    ns_mover_progress(m, &p);
    if (p.state == NS_MOVER_DONE) {
        mover_end(m);
        return mover_new(l);
    }
    ns_mover_refresh(m);
    return m;
}

static void run(Load *l, int64_t end)
{
    int64_t due = 0, step = l->look * 1000000LL, at = now_ns() + step;
    uint32_t phase = l->now;
    uint64_t before = heat ? kernel_us() : 0;
    NsMover *m = mover_new(l);

    while (now_ns() < end) {
        if (!heat && l->now != phase) {
            phase = l->now;
            know(l, phase);
            m = again(l, m);
            due = 0;
        } else if (heat && now_ns() >= at) {
            look(&moving.look);
            at = now_ns() + step;
            m = again(l, m);
            due = 0;
        }
        if (now_ns() >= due) {
            due = ns_mover_step(m);
        }
        /* A change of phase is seen that much later at most. */
        sleep_until(MIN(MIN(due, end), heat ? at : now_ns() + 10000000));
    }
    mover_end(m);
    moving.kernel = heat ? kernel_since(before) : 0;
}

/* ---- what became of it ------------------------------------------------ */

static int colder(const void *a, const void *b)
{
    uint32_t x = uses[*(const uint32_t *)a], y = uses[*(const uint32_t *)b];

    return x < y ? 1 : x > y ? -1 : 0;
}

/*
 * Calls that moved pages with less than half of the uses which the best pages
 * left, as many, had by then
 */
static uint32_t wasted(Load *l)
{
    g_autofree uint32_t *left = g_new(uint32_t, l->pages);
    uint32_t found = 0, known = UINT32_MAX;

    memset(record.moved, 0, l->pages);
    for (uint32_t c = 0; c < record.n_calls; c++) {
        Call *call = &record.call[c];
        uint64_t best = 0, got = 0;
        uint32_t n = 0;

        if (call->phase != known) {
            known = call->phase;
            load_permute(l, l->perm[known & 1], known + 1);
            know(l, known);
            for (uint32_t i = 0; i < l->pages; i++) {
                left[i] = i;
            }
            qsort(left, l->pages, sizeof(*left), colder);
        }
        for (uint32_t i = 0; i < l->pages && n < call->n; i++) {
            if (!record.moved[left[i]]) {
                best += uses[left[i]];
                n++;
            }
        }
        for (uint32_t i = 0; i < call->n; i++) {
            got += uses[record.page[call->first + i]];
            record.moved[record.page[call->first + i]] = 1;
        }
        found += got < best / 2;
    }
    return found;
}

static void report(Load *l)
{
    uint64_t ns = 0, looks = 0;

    if (heat) {
        ns_heat_cost(heat, &ns, &looks);
    }
    printf(" state=%d failed=%" PRIu64 " worth=%" PRIu64 " whole=%" PRIu64
           " again=%u wasted=%u estimator=%s looks=%" PRIu64 " look-us=%"
           PRIu64 " watching-look=%" PRIu64 " watching-kernel=%" PRIu64
           " moving-look=%" PRIu64 " moving-kernel=%" PRIu64,
           progress.state, progress.failed, progress.worth,
           progress.huge_moved, record.again, wasted(l),
           heat ? ns_heat_name(heat) : "-", looks, ns / 1000,
           watching.look, watching.kernel, moving.look, moving.kernel);
    /* DAMON is for one user: the next run is another. */
    g_clear_pointer(&heat, ns_heat_free);
}

/* "SCORES N N ...", in the order of addresses */
static void print_scores(Load *l)
{
    for (uint32_t i = 0; i < l->pages; i++) {
        printf("%s %u", i % 128 ? "" : i ? "\nSCORES" : "SCORES", scores[i]);
    }
    printf("\n");
}

const Peer ours[] = {
    { "heat", open_record, warm_exact, run, report, print_scores },
    { "blind", open_record, NULL, run, report, NULL },
    { "soft-dirty", open_heat, warm_heat, run, report, print_scores },
    { "pagemap-scan", open_heat, warm_heat, run, report, print_scores },
    { "damon", open_heat, warm_heat, run, report, print_scores },
    { "auto", open_heat, warm_heat, run, report, print_scores },
    { NULL, NULL, NULL, NULL, NULL, NULL },
};
