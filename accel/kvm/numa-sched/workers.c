/*
 * NUMA scheduler: threads of vhost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "workers.h"

typedef struct Known {
    bool is_worker;
    uint64_t seen;              /* the look in which it was there last */
} Known;

struct NsWorkers {
    GHashTable *known;          /* thread's id to Known */
    uint64_t looks;
};

NsWorkers *ns_workers_new(void)
{
    NsWorkers *w = g_new0(NsWorkers, 1);

    w->known = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return w;
}

void ns_workers_free(NsWorkers *w)
{
    if (w) {
        g_hash_table_unref(w->known);
        g_free(w);
    }
}

static Known *learn(NsWorkers *w, const char *task, int tid)
{
    g_autofree char *path = g_strdup_printf("%s/%d/comm", task, tid);
    g_autofree char *name = NULL;
    Known *k;

    /* It may have ended. */
    if (!g_file_get_contents(path, &name, NULL, NULL)) {
        return NULL;
    }
    k = g_new0(Known, 1);
    k->is_worker = g_str_has_prefix(name, "vhost-");
    g_hash_table_insert(w->known, GINT_TO_POINTER(tid), k);
    return k;
}

/* Its id may be another one's the next time. */
static gboolean is_gone(gpointer key, gpointer value, gpointer opaque)
{
    return ((Known *)value)->seen != ((NsWorkers *)opaque)->looks;
}

void ns_workers_look(NsWorkers *w, const char *task, GArray *tids)
{
    g_autoptr(GDir) dir = g_dir_open(task, 0, NULL);
    uint32_t read = 0;
    const char *name;

    w->looks++;
    while (dir && (name = g_dir_read_name(dir))) {
        Known *k;
        int tid;

        if (qemu_strtoi(name, NULL, 10, &tid) || tid <= 0) {
            continue;
        }
        k = g_hash_table_lookup(w->known, GINT_TO_POINTER(tid));
        if (!k && read < NS_WORKERS_READ) {
            k = learn(w, task, tid);
            read++;
        }
        if (k) {
            k->seen = w->looks;
        }
        if (k && k->is_worker) {
            g_array_append_val(tids, tid);
        }
    }
    g_hash_table_foreach_remove(w->known, is_gone, w);
}
