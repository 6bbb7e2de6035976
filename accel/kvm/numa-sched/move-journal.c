/*
 * NUMA scheduler: what moved from where, to move it back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "move-journal.h"

void ns_journal_init(NsJournal *j, uint32_t max)
{
    *j = (NsJournal) { .max = max, .in_order = true };
    j->run = g_new(NsRun, max);
}

void ns_journal_clear(NsJournal *j)
{
    g_free(j->run);
    *j = (NsJournal) { };
}

/* Make @b a part of @a, if it is next to it and came from the same node */
static bool join(NsRun *a, const NsRun *b)
{
    if (a->src != b->src) {
        return false;
    }
    if (a->addr + a->bytes == b->addr) {
        a->bytes += b->bytes;
        return true;
    }
    if (b->addr + b->bytes == a->addr) {
        a->addr = b->addr;
        a->bytes += b->bytes;
        return true;
    }
    return false;
}

static int by_place(const void *a, const void *b)
{
    const NsRun *x = a, *y = b;

    if (x->src != y->src) {
        return x->src < y->src ? -1 : 1;
    }
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void compact(NsJournal *j)
{
    uint32_t n = 1;

    qsort(j->run, j->n, sizeof(*j->run), by_place);
    for (uint32_t i = 1; i < j->n; i++) {
        if (!join(&j->run[n - 1], &j->run[i])) {
            j->run[n++] = j->run[i];
        }
    }
    j->n = n;
    j->in_order = false;
    /* Sorting again for a few places only would cost more than it brings. */
    j->full = n > j->max - j->max / 4;
}

bool ns_journal_add(NsJournal *j, uint64_t addr, uint64_t bytes, uint16_t src)
{
    NsRun run = { .addr = addr, .bytes = bytes, .src = src };

    if (!bytes) {
        return true;
    }
    if (!j->n || !join(&j->run[j->n - 1], &run)) {
        if (j->n == j->max && !j->full) {
            compact(j);
        }
        if (j->n == j->max || j->full) {
            j->lost += bytes;
            return false;
        }
        j->run[j->n++] = run;
    }
    j->bytes += bytes;
    return true;
}

bool ns_journal_take_back(NsJournal *j, uint64_t bytes, NsRun *run)
{
    NsRun *last;

    if (!j->n) {
        return false;
    }
    last = &j->run[j->n - 1];
    *run = *last;
    run->bytes = MIN(bytes / NS_PAGE * NS_PAGE, last->bytes);
    last->bytes -= run->bytes;
    run->addr = last->addr + last->bytes;
    j->bytes -= run->bytes;
    if (!last->bytes) {
        j->n--;
        j->full &= j->n > j->max - j->max / 4;
        j->in_order |= !j->n;
    }
    return true;
}
