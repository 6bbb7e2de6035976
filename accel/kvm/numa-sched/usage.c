/*
 * NUMA scheduler: who uses which CPU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "parse.h"
#include "plan.h"
#include "usage.h"

#define STAT_MAX    (4 * 1024 * 1024)   /* 8192 CPUs and their interrupts */
#define CPU_FIELD   39                  /* of stat, counted from 1 */
#define NAME_FIELD  2
#define STAY_CALLS  8
#define STAY_UNIT   1024                /* so that a 1 can be smoothed */

static void skip_blanks(const char **p, const char *end)
{
    while (*p < end && (**p == ' ' || **p == '\t')) {
        (*p)++;
    }
}

/* The next word as a number; false: there is none, or it is something else */
static bool take(const char **p, const char *end, uint64_t max, uint64_t *v)
{
    const char *word;

    skip_blanks(p, end);
    word = *p;
    while (*p < end && **p != ' ' && **p != '\t' && **p != '\n') {
        (*p)++;
    }
    return ns_parse_number(word, *p - word, max, v);
}

bool ns_parse_schedstat(const char *buf, size_t len, uint64_t *run,
                        uint64_t *wait)
{
    const char *end = buf + len;
    uint64_t r, w;

    if (!take(&buf, end, INT64_MAX, &r) || !take(&buf, end, INT64_MAX, &w) ||
        buf == end) {
        return false;
    }
    *run = r;
    *wait = w;
    return true;
}

bool ns_parse_task_cpu(const char *buf, size_t len, int *cpu)
{
    const char *end = buf + len, *p = end;
    uint64_t v;

    while (p > buf && p[-1] != ')') {
        p--;
    }
    if (p == buf) {
        return false;
    }
    for (int field = NAME_FIELD + 1; field < CPU_FIELD; field++) {
        skip_blanks(&p, end);
        while (p < end && *p != ' ') {
            p++;
        }
    }
    if (!take(&p, end, NS_MAX_CPUS - 1, &v) || p == end) {
        return false;
    }
    *cpu = v;
    return true;
}

/* "cpu3 user nice system idle iowait irq softirq steal guest guest_nice" */
static void parse_cpu(const char *p, const char *end, uint64_t *busy,
                      uint32_t n)
{
    uint64_t id, sum = 0;

    if (end - p < 4 || memcmp(p, "cpu", 3)) {
        return;
    }
    p += 3;
    if (!g_ascii_isdigit(*p) || !take(&p, end, NS_MAX_CPUS - 1, &id) ||
        id >= n) {
        return;
    }
    for (int i = 0; i < 8; i++) {
        uint64_t v;

        if (!take(&p, end, INT64_MAX / 8, &v)) {
            return;
        }
        sum += i == 3 || i == 4 ? 0 : v;
    }
    busy[id] = sum;
}

void ns_parse_cpus(const char *buf, size_t len, uint64_t *busy, uint32_t n)
{
    const char *end = buf + len;

    while (buf < end) {
        const char *stop = memchr(buf, '\n', end - buf) ?: end;

        parse_cpu(buf, stop, busy, n);
        buf = stop < end ? stop + 1 : end;
    }
}

/* -1: it can not be read; otherwise bytes, at most @size */
static ssize_t read_file(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0) {
        return -1;
    }
    n = RETRY_ON_EINTR(read(fd, buf, size));
    close(fd);
    return n;
}

bool ns_task_read(int tid, NsTask *task)
{
    char path[64], buf[1024];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
    n = read_file(path, buf, sizeof(buf));
    if (n < 0 || !ns_parse_schedstat(buf, n, &task->run, &task->wait)) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
    n = read_file(path, buf, sizeof(buf));
    if (n < 0 || !ns_parse_task_cpu(buf, n, &task->cpu)) {
        task->cpu = -1;
    }
    return true;
}

bool ns_cpus_read(const char *root, uint64_t *busy, uint32_t n)
{
    g_autofree char *path = g_build_filename(root, "proc/stat", NULL);
    g_autofree char *buf = NULL;
    size_t len = 0, room = 64 * 1024;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got;

    if (fd < 0) {
        return false;
    }
    /* Its size is not known before, and the CPUs come first. */
    buf = g_malloc(room);
    while ((got = RETRY_ON_EINTR(read(fd, buf + len, room - len))) > 0) {
        len += got;
        if (len == room) {
            if (room >= STAT_MAX) {
                break;
            }
            room *= 2;
            buf = g_realloc(buf, room);
        }
    }
    close(fd);
    if (got < 0) {
        return false;
    }
    ns_parse_cpus(buf, len, busy, n);
    return true;
}

static uint32_t part_of(uint64_t used, int64_t elapsed)
{
    if (elapsed <= 0) {
        return 0;
    }
    if (used >= elapsed) {
        return 1000;
    }
    /* Without an overflow, and to less than a millionth */
    return elapsed > INT64_MAX / 1000 ? used / (elapsed / 1000) :
           used * 1000 / elapsed;
}

uint32_t ns_task_cpu(const NsTask *before, const NsTask *now, int64_t elapsed)
{
    return now->run < before->run || now->wait < before->wait ? 0 :
           part_of(now->run - before->run + (now->wait - before->wait),
                   elapsed);
}

uint32_t ns_task_run(const NsTask *before, const NsTask *now, int64_t elapsed)
{
    return now->run < before->run ? 0 :
           part_of(now->run - before->run, elapsed);
}

uint32_t ns_smooth(uint32_t value, uint32_t sample)
{
    return sample > value ? value + MAX((sample - value) / 4, 1) :
           sample < value ? value - MAX((value - sample) / 4, 1) : value;
}

void ns_used_by_others(const NsTopology *t, const uint64_t *before,
                       const uint64_t *now, uint32_t n, int64_t elapsed,
                       uint32_t hz, const uint64_t *own, uint64_t *used)
{
    uint64_t all = elapsed > 0 ? elapsed / SCALE_MS * hz / 1000 : 0;

    for (uint32_t i = 0; i < t->n; i++) {
        uint64_t sum = 0;

        for (uint32_t k = 0; all && k < t->node[i].cpus; k++) {
            uint32_t cpu = t->node[i].cpu[k];

            if (cpu < n && before[cpu] != NS_BUSY_UNKNOWN &&
                now[cpu] != NS_BUSY_UNKNOWN && now[cpu] > before[cpu]) {
                sum += MIN((now[cpu] - before[cpu]), all) * 1000 / all;
            }
        }
        used[i] = MIN(sum - MIN(sum, own[i]), NS_MAX_CPU);
    }
}

void ns_nodes_of_cpus(const NsTopology *t, int *node, uint32_t n)
{
    for (uint32_t c = 0; c < n; c++) {
        node[c] = -1;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t k = 0; k < t->node[i].cpus; k++) {
            if (t->node[i].cpu[k] < n) {
                node[t->node[i].cpu[k]] = i;
            }
        }
    }
}

int ns_stay(NsStay *s, const uint32_t *used, uint32_t n)
{
    bool anew = s->n != n;
    uint32_t best = 0;

    if (anew) {
        ns_stay_clear(s);
        s->n = n;
        s->weight = g_new0(uint32_t, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        int64_t to = (int64_t)used[i] * STAY_UNIT, from = s->weight[i];

        s->weight[i] = anew ? to : from + (to - from) / STAY_CALLS;
        best = s->weight[i] > s->weight[best] ? i : best;
    }
    if (s->weight[best] && (s->home < 0 || (uint64_t)s->weight[best] * 4 >
                            (uint64_t)s->weight[s->home] * 5)) {
        s->home = best;
    }
    return s->home;
}

void ns_stay_clear(NsStay *s)
{
    g_free(s->weight);
    *s = (NsStay) { .home = -1 };
}
