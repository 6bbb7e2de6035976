/*
 * NUMA scheduler: what the memory cgroup of this process still allows
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "memcg.h"

#define DEPTH   64              /* of cgroups in each other */

/* The files of one version */
typedef struct Version {
    const char *mount, *limit, *usage, *inactive;
} Version;

static const Version v1 = {
    "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "\ntotal_inactive_file ",
};
static const Version v2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", "\ninactive_file ",
};

static char *load(const char *root, const Version *v, const char *path,
                  const char *name)
{
    g_autofree char *file = g_strdup_printf("%s%s%s/%s", root, v->mount, path,
                                            name);
    char *text = NULL;

    g_file_get_contents(file, &text, NULL, NULL);
    return text;
}

/* False: "max", or something else that is no number */
static bool number(const char *text, uint64_t *n)
{
    const char *end;

    return text && g_ascii_isdigit(*text) &&
           !qemu_strtou64(text, &end, 10, n) && (!*end || *end == '\n');
}

static uint64_t room_in(const char *root, const Version *v, const char *path)
{
    g_autofree char *limit = load(root, v, path, v->limit);
    g_autofree char *usage = load(root, v, path, v->usage);
    g_autofree char *stat = load(root, v, path, "memory.stat");
    const char *line = stat ? strstr(stat, v->inactive) : NULL;
    uint64_t max, used, inactive = 0;

    if (!number(limit, &max) || !number(usage, &used)) {
        return UINT64_MAX;
    }
    if (line) {
        number(line + strlen(v->inactive), &inactive);
    }
    used -= MIN(used, inactive);
    return max - MIN(max, used);
}

/* Is the second of a line's three fields, a list, or all of it, this one? */
static bool has_controller(const char *list, const char *end)
{
    g_autofree char *all = g_strndup(list, end - list);
    g_auto(GStrv) part = g_strsplit(all, ",", 0);

    return g_strv_contains((const char *const *)part, "memory");
}

static uint64_t room_of_line(const char *root, const char *line)
{
    const char *list = strchr(line, ':');
    const char *end = list ? strchr(list + 1, ':') : NULL;
    g_autofree char *path = NULL;
    uint64_t room = UINT64_MAX;
    const Version *v;

    if (!end || end[1] != '/') {
        return UINT64_MAX;
    }
    list++;
    if (list == end) {
        v = &v2;
    } else if (has_controller(list, end)) {
        v = &v1;
    } else {
        return UINT64_MAX;
    }
    /* One outside of what this namespace shows is "/..": the mount is left. */
    path = g_strdup(strstr(end, "/..") ? "" : end + 1);
    for (int i = 0; i < DEPTH; i++) {
        char *slash = strrchr(path, '/');

        room = MIN(room, room_in(root, v, path));
        if (!slash) {
            break;
        }
        *slash = 0;
    }
    return room;
}

uint64_t ns_memcg_room(const char *root)
{
    g_autofree char *file = g_strdup_printf("%s/proc/self/cgroup", root);
    g_autofree char *text = NULL;
    g_auto(GStrv) line = NULL;
    uint64_t room = UINT64_MAX;

    if (!g_file_get_contents(file, &text, NULL, NULL)) {
        return UINT64_MAX;
    }
    line = g_strsplit(text, "\n", 0);
    for (int i = 0; line[i]; i++) {
        room = MIN(room, room_of_line(root, line[i]));
    }
    return room;
}
