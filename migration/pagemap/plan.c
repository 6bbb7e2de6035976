/*
 * Page map: which reads of a disk fetch the pages of a batch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "plan.h"

int pm_fetch_by_place(const void *x, const void *y)
{
    const PmFetch *a = x, *b = y;

    if (a->device != b->device) {
        return a->device < b->device ? -1 : 1;
    }
    if (a->offset != b->offset) {
        return a->offset < b->offset ? -1 : 1;
    }
    /* The same order on each run, whatever qsort does with equal ones */
    return a->index < b->index ? -1 : a->index > b->index;
}

/*
 * No sum here can overflow: the pages are sorted, and an offset plus a page is
 * at most INT64_MAX (wire.h).
 */
static bool fits(const PmRead *r, const PmFetch *head, const PmFetch *f)
{
    return f->device == head->device &&
           f->offset - r->offset <= PM_READ_MAX - PM_PAGE_SIZE &&
           f->offset <= r->offset + r->bytes + PM_READ_GAP;
}

size_t pm_plan(PmFetch *fetch, size_t n, PmRead *reads)
{
    size_t n_reads = 0;

    assert(n <= PM_MAX_BATCH);
    if (n) {
        qsort(fetch, n, sizeof(*fetch), pm_fetch_by_place);
    }
    for (size_t i = 0; i < n; i++) {
        PmRead *r = n_reads ? &reads[n_reads - 1] : NULL;

        if (r && fits(r, &fetch[r->first], &fetch[i])) {
            r->bytes = fetch[i].offset + PM_PAGE_SIZE - r->offset;
            r->n++;
        } else {
            reads[n_reads++] = (PmRead) {
                .offset = fetch[i].offset,
                .bytes = PM_PAGE_SIZE,
                .first = i,
                .n = 1,
            };
        }
    }
    return n_reads;
}
