/*
 * NUMA scheduler: bind the guest's threads to nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qapi/error.h"
#include "act.h"
#include "affinity.h"
#include "parse.h"

typedef struct Bound {
    bool before[NS_MAX_CPUS];
    bool seen;                  /* in the guest, lately */
} Bound;

struct NsAct {
    GHashTable *bound;          /* thread's id to Bound */
    GHashTable *cpus;           /* group's name to bool[NS_MAX_CPUS] */
};

NsAct *ns_act_new(void)
{
    NsAct *act = g_new(NsAct, 1);

    act->bound = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    act->cpus = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return act;
}

void ns_act_free(NsAct *act)
{
    GHashTableIter it;
    gpointer tid, value;

    if (!act) {
        return;
    }
    g_hash_table_iter_init(&it, act->bound);
    while (g_hash_table_iter_next(&it, &tid, &value)) {
        /* One that is gone, or that may not be bound any more, stays so. */
        ns_affinity_write(GPOINTER_TO_INT(tid), ((Bound *)value)->before);
    }
    g_hash_table_unref(act->bound);
    g_hash_table_unref(act->cpus);
    g_free(act);
}

/* 0, also for a thread that is gone, or a negative errno */
static int bind_one(NsAct *act, int tid, const bool *cpu)
{
    Bound *b = g_hash_table_lookup(act->bound, GINT_TO_POINTER(tid));
    int ret;

    if (!b) {
        b = g_new0(Bound, 1);
        if (!ns_affinity_read(tid, b->before)) {
            g_free(b);
            return errno == ESRCH ? 0 : -errno;
        }
        ret = ns_affinity_write(tid, cpu);
        if (ret) {
            g_free(b);
            return ret == -ESRCH ? 0 : ret;
        }
        g_hash_table_insert(act->bound, GINT_TO_POINTER(tid), b);
        return 0;
    }
    ret = ns_affinity_write(tid, cpu);
    return ret == -ESRCH ? 0 : ret;
}

static void refused(Error **errp, int tid, const char *name, int ret)
{
    error_setg_errno(errp, -ret, "numa-sched: thread %d of group '%s' can not"
                     " be bound", tid, name);
    error_append_hint(errp, "Run QEMU without -sandbox resourcecontrol=deny, or"
                      " give mode=advise and let the manager bind it.\n");
}

static const char *group_name(const NsGuest *guest, uint32_t group)
{
    return group < guest->n ? guest->name[group] : "";
}

/* The threads of a group get the CPUs that it had, or their own ones. */
static void give_back(NsAct *act, const NsGuest *guest, const char *name,
                      const bool *cpu, guint until)
{
    for (guint i = 0; i < until; i++) {
        const NsVcpu *v = &g_array_index(guest->vcpu, NsVcpu, i);
        Bound *b = g_hash_table_lookup(act->bound, GINT_TO_POINTER(v->tid));

        if (b && !strcmp(group_name(guest, v->group), name)) {
            ns_affinity_write(v->tid, cpu ? cpu : b->before);
            if (!cpu) {
                g_hash_table_remove(act->bound, GINT_TO_POINTER(v->tid));
            }
        }
    }
}

bool ns_act_bind(NsAct *act, const NsGuest *guest, const char *name,
                 const char *cpus, Error **errp)
{
    g_autofree unsigned long *bits = bitmap_new(NS_MAX_CPUS);
    g_autofree bool *cpu = g_new0(bool, NS_MAX_CPUS);

    if (!ns_parse_list(cpus, strlen(cpus), bits, NS_MAX_CPUS)) {
        error_setg(errp, "numa-sched: '%s' is no list of CPUs", cpus);
        return false;
    }
    for (uint32_t i = 0; i < NS_MAX_CPUS; i++) {
        cpu[i] = test_bit(i, bits);
    }
    for (guint i = 0; i < guest->vcpu->len; i++) {
        const NsVcpu *v = &g_array_index(guest->vcpu, NsVcpu, i);
        int ret;

        if (strcmp(group_name(guest, v->group), name)) {
            continue;
        }
        ret = bind_one(act, v->tid, cpu);
        if (ret) {
            refused(errp, v->tid, name, ret);
            give_back(act, guest, name, g_hash_table_lookup(act->cpus, name),
                      i);
            return false;
        }
    }
    g_hash_table_replace(act->cpus, g_strdup(name), g_steal_pointer(&cpu));
    return true;
}

void ns_act_let_go(NsAct *act, const NsGuest *guest, const char *name)
{
    give_back(act, guest, name, NULL, guest->vcpu->len);
    g_hash_table_remove(act->cpus, name);
}

static gboolean is_gone(gpointer key, gpointer value, gpointer opaque)
{
    Bound *b = value;
    bool gone = !b->seen;

    b->seen = false;
    return gone;
}

bool ns_act_follow(NsAct *act, const NsGuest *guest, Error **errp)
{
    for (guint i = 0; i < guest->vcpu->len; i++) {
        const NsVcpu *v = &g_array_index(guest->vcpu, NsVcpu, i);
        const char *name = group_name(guest, v->group);
        const bool *cpu = g_hash_table_lookup(act->cpus, name);
        Bound *b = g_hash_table_lookup(act->bound, GINT_TO_POINTER(v->tid));

        if (cpu && !b) {
            int ret = bind_one(act, v->tid, cpu);

            if (ret) {
                refused(errp, v->tid, name, ret);
                return false;
            }
            b = g_hash_table_lookup(act->bound, GINT_TO_POINTER(v->tid));
        }
        if (b) {
            b->seen = true;
        }
    }
    g_hash_table_foreach_remove(act->bound, is_gone, NULL);
    return true;
}
