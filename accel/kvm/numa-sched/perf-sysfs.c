/*
 * NUMA scheduler: events that the kernel names in /sys/bus/event_source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "perf-sysfs.h"

#define MAX_LINE    256
#define MAX_TERMS   16

/* One number, which may end with one of @ends */
static bool number(const char **at, int base, const char *ends, uint64_t *value)
{
    const char *end;

    /* strtoull() takes signs and blanks, too. */
    if (!qemu_isxdigit(**at) || qemu_strtou64(*at, &end, base, value) ||
        (*end && !strchr(ends, *end))) {
        return false;
    }
    *at = end;
    return true;
}

bool ns_perf_format(const char *text, uint32_t *which, uint64_t *mask)
{
    uint64_t first, last;

    if (!strstart(text, "config", &text)) {
        return false;
    }
    *which = 0;
    if (*text == '1' || *text == '2') {
        *which = *text++ - '0';
    }
    *mask = 0;
    if (*text != ':') {
        return false;
    }
    do {
        text++;
        if (!number(&text, 10, "-,", &first)) {
            return false;
        }
        last = first;
        if (*text == '-') {
            text++;
            if (!number(&text, 10, ",", &last)) {
                return false;
            }
        }
        if (first > last || last > 63) {
            return false;
        }
        *mask |= (UINT64_MAX >> (63 - last)) & (UINT64_MAX << first);
    } while (*text == ',');
    return !*text;
}

bool ns_perf_place(uint64_t value, uint64_t mask, uint64_t *config)
{
    uint64_t out = *config & ~mask;

    for (uint32_t bit = 0; bit < 64; bit++) {
        if (mask & (1ull << bit)) {
            out |= (value & 1) << bit;
            value >>= 1;
        }
    }
    if (value) {
        return false;
    }
    *config = out;
    return true;
}

/* The file's only line, without its end */
static bool get_line(const char *devices, const char *pmu, const char *name,
                     char line[MAX_LINE])
{
    g_autofree char *path = g_build_filename(devices, pmu, name, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n;

    if (fd < 0) {
        return false;
    }
    n = RETRY_ON_EINTR(read(fd, line, MAX_LINE));
    close(fd);
    if (n < 0 || n == MAX_LINE || memchr(line, 0, n)) {
        return false;
    }
    if (n && line[n - 1] == '\n') {
        n--;
    }
    line[n] = 0;
    return true;
}

static bool is_name(const char *name)
{
    while (qemu_isalnum(*name) || *name == '_') {
        name++;
    }
    return !*name;
}

/* "name" or "name=number" */
static bool take_term(const char *devices, const char *pmu, char *term,
                      NsPerfEvent *e)
{
    char line[MAX_LINE], *equals = strchr(term, '=');
    g_autofree char *file = NULL;
    const char *at = equals ? equals + 1 : NULL;
    uint64_t value = 1, mask;
    uint32_t which;

    if (equals) {
        *equals = 0;
    }
    if (!*term || !is_name(term) || (at && !number(&at, 0, "", &value))) {
        return false;
    }
    file = g_strdup_printf("format/%s", term);
    return get_line(devices, pmu, file, line) &&
           ns_perf_format(line, &which, &mask) &&
           ns_perf_place(value, mask, &e->config[which]);
}

static bool take_event(const char *devices, const char *pmu, const char *event,
                       NsPerfEvent *e, Error **errp)
{
    g_autofree char *file = g_strdup_printf("events/%s", event);
    g_auto(GStrv) term = NULL;
    char line[MAX_LINE];

    if (!get_line(devices, pmu, file, line)) {
        error_setg(errp, "%s/%s/%s can not be read, or is too long", devices,
                   pmu, file);
        return false;
    }
    if (!*line) {
        error_setg(errp, "%s/%s/%s is empty", devices, pmu, file);
        return false;
    }
    term = g_strsplit(line, ",", MAX_TERMS + 1);
    for (int i = 0; term[i]; i++) {
        g_autofree char *text = g_strdup(term[i]);

        if (i == MAX_TERMS || !take_term(devices, pmu, text, e)) {
            error_setg(errp, "%s/%s/%s: '%s' is not known", devices, pmu, file,
                       term[i]);
            return false;
        }
    }
    return true;
}

bool ns_perf_has(const char *devices, const char *pmu, const char *event)
{
    g_autofree char *path = g_build_filename(devices, pmu,
                                             event ? "events" : "type", event,
                                             NULL);

    return !access(path, F_OK);
}

bool ns_perf_find(const char *devices, const char *pmu, const char *event,
                  NsPerfEvent *found, Error **errp)
{
    char line[MAX_LINE];
    const char *at = line;
    uint64_t type;

    *found = (NsPerfEvent) { };
    if (!get_line(devices, pmu, "type", line) || !number(&at, 10, "", &type) ||
        type > INT32_MAX) {
        error_setg(errp, "%s/%s/type is not a number", devices, pmu);
        return false;
    }
    found->type = type;
    return !event || take_event(devices, pmu, event, found, errp);
}
