/*
 * NUMA scheduler: which steps are worth talking of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "steady.h"

void ns_steady_clear(NsSteady *s)
{
    g_free(s->best);
    g_free(s->decided);
}

bool ns_steady_look(NsSteady *s, const char *name)
{
    bool is_same = name && !g_strcmp0(name, s->best);

    s->steady = is_same ? MIN(s->steady + 1, NS_STEADY) : !!name;
    if (!is_same) {
        g_free(s->best);
        s->best = g_strdup(name);
    }
    if (!name || g_strcmp0(name, s->decided)) {
        s->without++;
    } else {
        s->without = 0;
    }
    if (s->decided && s->without >= NS_FORGET) {
        g_clear_pointer(&s->decided, g_free);
    }
    if (!name || s->steady < NS_STEADY) {
        return false;
    }
    if (g_strcmp0(name, s->decided)) {
        g_free(s->decided);
        s->decided = g_strdup(name);
        s->without = 0;
        s->decisions++;
    }
    return true;
}

void ns_steady_forget(NsSteady *s)
{
    if (s->decided) {
        g_clear_pointer(&s->decided, g_free);
        s->decisions--;
    }
}
