/*
 * NUMA scheduler: what becomes known of a look
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/util.h"
#include "answer.h"
#include "report.h"

static NumaSchedThread *thread_info(const NsLook *k, const NsThread *th)
{
    NumaSchedThread *out = g_new0(NumaSchedThread, 1);
    intList **vcpus = &out->vcpus;
    int node = th->bound.node >= 0 ? th->bound.node : th->node;

    out->thread_id = th->tid;
    out->cpu = th->cpu;
    out->has_node = node >= 0;
    out->node = node >= 0 ? k->t->node[node].id : 0;
    out->bound = th->bound.node >= 0;
    for (guint i = 0; i < k->guest->vcpu->len; i++) {
        const NsVcpu *v = &g_array_index(k->guest->vcpu, NsVcpu, i);

        if (v->tid == th->tid && v->index >= 0) {
            QAPI_LIST_APPEND(vcpus, v->index);
        }
    }
    return out;
}

static void add_bytes(const NsLook *k, const uint64_t *bytes,
                      NumaPlanBytesList **tail)
{
    for (uint32_t j = 0; j < k->t->n; j++) {
        if (bytes[j]) {
            NumaPlanBytes *b = g_new0(NumaPlanBytes, 1);

            b->node = k->t->node[j].id;
            b->bytes = bytes[j];
            QAPI_LIST_APPEND(tail, b);
        }
    }
}

/* What is known of its vCPUs one by one */
static void add_vcpus(const NsLook *k, uint32_t g, NumaSchedGroup *out)
{
    NumaSchedVcpuList **tail = &out->vcpus;

    for (guint i = 0; i < k->guest->vcpu->len; i++) {
        const NsVcpu *v = &g_array_index(k->guest->vcpu, NsVcpu, i);
        const uint64_t *bytes = ns_vcpu_sets_vcpu(k->sets, k->t, v->index,
                                                  k->now);

        if (v->group == g && v->index >= 0 && bytes) {
            NumaSchedVcpu *x = g_new0(NumaSchedVcpu, 1);

            x->index = v->index;
            add_bytes(k, bytes, &x->written);
            QAPI_LIST_APPEND(tail, x);
            out->has_vcpus = true;
        }
    }
}

NumaSchedGroup *ns_report_group(const NsLook *k, uint32_t g)
{
    NumaSchedGroup *out = g_new0(NumaSchedGroup, 1);
    NumaSchedThreadList **threads = &out->threads;
    int home = k->group[g].home;
    uint64_t all = 0;

    out->name = g_strdup(k->guest->name[g]);
    out->has_guest_node = k->guest->node[g] >= 0;
    out->guest_node = out->has_guest_node ? k->guest->node[g] : 0;
    out->has_home = home >= 0;
    out->home = home >= 0 ? k->t->node[home].id : 0;
    out->fixed = k->fixed[g];
    out->absent = k->absent[g];
    out->resident = k->resident[g];
    out->measured = k->measured[g];
    out->intensity = k->group[g].intensity;
    out->intensity_source = k->intensity[g];
    for (guint i = 0; i < k->thread->len; i++) {
        const NsThread *th = &g_array_index(k->thread, NsThread, i);

        if (th->group == g) {
            QAPI_LIST_APPEND(threads, thread_info(k, th));
        }
    }
    add_bytes(k, k->group[g].bytes, &out->working_set);
    for (uint32_t j = 0; j < k->t->n; j++) {
        all += k->group[g].bytes[j];
    }
    add_vcpus(k, g, out);
    out->local = home >= 0 && all ?
                 (double)k->group[g].bytes[home] / all * 1000 : 0;
    return out;
}

static NumaSchedMove *move_info(const NsLook *k, const NsHost *host, uint32_t g,
                                const NsOption *to)
{
    NumaSchedMove *out = g_new0(NumaSchedMove, 1);
    g_autofree NsOption *option = g_new(NsOption, 2 * k->t->n);
    uint32_t n = ns_options(host, &k->group[g], option);
    intList **tids = &out->thread_ids;

    out->name = g_strdup(k->guest->name[g]);
    for (uint32_t o = 0; o < n; o++) {
        if ((int)option[o].node == k->group[g].home && !option[o].follow) {
            out->from = ns_answer_option(k->t, &option[o]);
        }
    }
    out->to = ns_answer_option(k->t, to);
    out->cpus = ns_cpu_list(&k->t->node[to->node]);
    for (guint i = 0; i < k->thread->len; i++) {
        const NsThread *th = &g_array_index(k->thread, NsThread, i);

        if (th->group == g) {
            QAPI_LIST_APPEND(tids, th->tid);
        }
    }
    return out;
}

NumaSchedDecision *ns_report_decision(const NsLook *k, const NsHost *host,
                                      const NsStep *step)
{
    NumaSchedDecision *out = g_new0(NumaSchedDecision, 1);
    NumaSchedMoveList **moves = &out->moves;

    out->cost = step->cost;
    out->gain = step->gain;
    for (uint32_t i = 0; i < step->n; i++) {
        QAPI_LIST_APPEND(moves, move_info(k, host, step->group[i],
                                          &step->to[i]));
    }
    return out;
}

char *ns_report_name(const NsLook *k, const NsStep *step)
{
    GString *s = g_string_new(NULL);

    for (uint32_t i = 0; i < step->n; i++) {
        g_string_append_printf(s, "%s %u %d,", k->guest->name[step->group[i]],
                               k->t->node[step->to[i].node].id,
                               step->to[i].follow);
    }
    return g_string_free(s, !step->n);
}
