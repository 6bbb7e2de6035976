/*
 * NUMA scheduler: which part of the memory is used
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "plan.h"
#include "residency.h"
#include "working.h"

#define PAGES   (NS_WORKING_CHUNK / NS_PAGE)
#define ALL     1000

/*
 * soft-dirty is not among them: it protects all memory of the process, whatever
 * is watched.
 */
static const NsHeatOps *const usual[] = { &ns_heat_pagemap_scan, NULL };

struct NsWorking {
    NsHeatRange chunk[NS_WORKING_CHUNKS];
    uint32_t n;
    NsHeat *heat;
    char *failed;               /* why */
    uint32_t looks;
    int64_t next, window;
};

/* Whole chunks */
static uint64_t chunks_in(const NsHeatRange *r)
{
    uint64_t from = ROUND_UP(r->addr, NS_WORKING_CHUNK);
    uint64_t to = ROUND_DOWN(r->addr + r->bytes, NS_WORKING_CHUNK);

    return to > from ? (to - from) / NS_WORKING_CHUNK : 0;
}

uint32_t ns_working_chunks(const NsHeatRange *range, uint32_t n,
                           NsHeatRange *chunk)
{
    uint64_t fit = 0, before = 0;
    uint32_t found = 0, drawn;

    for (uint32_t i = 0; i < n; i++) {
        fit += chunks_in(&range[i]);
    }
    drawn = MIN(fit, NS_WORKING_CHUNKS);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t here = chunks_in(&range[i]);

        /* The middle of each of as many equal parts of all chunks */
        while (found < drawn) {
            uint64_t at = (2 * found + 1) * fit / (2 * drawn);

            if (at >= before + here) {
                break;
            }
            chunk[found++] = (NsHeatRange) {
                .addr = ROUND_UP(range[i].addr, NS_WORKING_CHUNK) +
                        (at - before) * NS_WORKING_CHUNK,
                .bytes = NS_WORKING_CHUNK,
            };
        }
        before += here;
    }
    return found;
}

bool ns_working_shares(const NsWorkingSeen *seen, uint32_t n, bool reads,
                       uint32_t *share)
{
    uint64_t pages = 0, score = 0, rest = reads ? 0 : NS_WORKING_UNSEEN;

    for (uint32_t j = 0; j < n; j++) {
        pages += seen[j].pages;
        score += MIN(seen[j].score, seen[j].pages * ALL);
    }
    if (!score) {
        return false;
    }
    for (uint32_t j = 0; j < n; j++) {
        bool few = seen[j].pages < NS_WORKING_FEW;
        uint64_t of = few ? pages : seen[j].pages;
        uint64_t used = DIV_ROUND_UP(few ? score :
                                     MIN(seen[j].score, of * ALL), of);

        /* Never nothing: what costs nothing may be anywhere. */
        share[j] = MAX(used + DIV_ROUND_UP((ALL - used) * rest, ALL), 1);
    }
    return true;
}

int64_t ns_working_window(int64_t window, uint32_t score)
{
    /* Between a tenth and four tenths, pages can be told from each other. */
    window = score > 400 ? window / 2 : score < 100 ? window * 2 : window;
    return MIN(MAX(window, NS_WORKING_SHORTEST), NS_WORKING_LONGEST);
}

NsWorking *ns_working_new(const NsHeatRange *range, uint32_t n,
                          const char *name, const NsHeatOps *const *ops,
                          int64_t now, int64_t window, Error **errp)
{
    NsWorking *w = g_new0(NsWorking, 1);
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);

    if (!ops && !strcmp(name, "auto")) {
        ops = usual;
    }
    w->n = ns_working_chunks(range, n, w->chunk);
    w->window = window;
    w->next = now + window;
    if (qemu_real_host_page_size() != NS_PAGE) {
        error_setg(errp, "pages of this host are not of 4096 bytes");
    } else if (!w->n) {
        error_setg(errp, "there is no whole chunk of 2 MiB to be watched");
    } else if (!strcmp(name, ns_heat_perf.name)) {
        error_setg(errp, "estimator 'perf' samples, so that what it does not "
                   "see may be used all the same");
    } else {
        w->heat = ns_heat_new(w->chunk, w->n, name, ops, notes, errp);
    }
    if (w->heat && !strcmp(ns_heat_name(w->heat), "none")) {
        error_setg(errp, "%s", notes->len ?
                   (char *)g_ptr_array_index(notes, notes->len - 1) :
                   "estimator 'none' sees nothing");
        g_clear_pointer(&w->heat, ns_heat_free);
    }
    if (!w->heat) {
        g_clear_pointer(&w, ns_working_free);
    }
    return w;
}

void ns_working_free(NsWorking *w)
{
    if (w) {
        if (w->heat) {
            ns_heat_free(w->heat);
        }
        g_free(w->failed);
        g_free(w);
    }
}

const char *ns_working_estimator(const NsWorking *w)
{
    return ns_heat_name(w->heat);
}

const char *ns_working_failed(const NsWorking *w)
{
    return w->failed;
}

int64_t ns_working_step(NsWorking *w, int64_t now)
{
    g_autofree char *name = NULL;
    g_autoptr(GPtrArray) notes = NULL;

    if (w->failed || w->looks == NS_WORKING_LOOKS) {
        return INT64_MAX;
    }
    if (now < w->next) {
        return w->next;
    }
    name = g_strdup(ns_heat_name(w->heat));
    notes = g_ptr_array_new_with_free_func(g_free);
    ns_heat_look(w->heat, notes);
    /* Another estimator has seen another time. */
    if (strcmp(name, ns_heat_name(w->heat))) {
        w->failed = g_strdup(notes->len ? g_ptr_array_index(notes, 0) : name);
    }
    w->looks++;
    w->next = now + w->window;
    return w->failed || w->looks == NS_WORKING_LOOKS ? INT64_MAX : w->next;
}

bool ns_working_result(NsWorking *w, const NsTopology *t, uint32_t *share,
                       int64_t *window)
{
    g_autofree NsWorkingSeen *seen = g_new0(NsWorkingSeen, t->n);
    g_autofree uint32_t *score = g_new(uint32_t, PAGES);
    g_autofree int *node = g_new(int, PAGES);
    uint32_t full = ns_heat_full(w->looks);
    uint64_t pages = 0, all = 0;

    if (w->failed || !full) {
        return false;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (ns_page_nodes(w->chunk[i].addr, PAGES, node)) {
            return false;
        }
        ns_heat_scores(w->heat, w->chunk[i].addr, PAGES, score);
        for (uint32_t p = 0; p < PAGES; p++) {
            int j = node[p] >= 0 && node[p] < NS_MAX_NODES ?
                    t->index[node[p]] : -1;

            if (j >= 0) {
                seen[j].pages++;
                seen[j].score += (uint64_t)MIN(score[p], full) * ALL / full;
            }
        }
    }
    for (uint32_t j = 0; j < t->n; j++) {
        all += seen[j].score;
        pages += seen[j].pages;
    }
    *window = ns_working_window(w->window, pages ? all / pages : 0);
    return ns_working_shares(seen, t->n, ns_heat_sees_reads(w->heat), share);
}
