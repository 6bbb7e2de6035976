/*
 * Page map: the messages of a batch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "records.h"

void pm_put_block_named(GByteArray *out, uint16_t number, const char *name)
{
    PmBlockName m = { .number = number };

    pstrcpy(m.name, sizeof(m.name), name);
    pm_put_block(out, &m);
}

void pm_put_records(GByteArray *out, uint32_t batch, const PmFetch *page,
                    size_t n)
{
    g_autofree PmRun *run = g_new(PmRun, 1);
    PmCommit commit = { .batch = batch, .n = n };

    for (size_t i = 0; i < n; ) {
        run->batch = batch;
        run->device = page[i].device;
        run->offset = page[i].offset;
        run->n = 0;
        do {
            run->pages[run->n++] = (PmRunPage) {
                .block = page[i].block,
                .page = page[i].page,
                .tag = page[i].tag,
            };
            i++;
        } while (i < n && run->n < PM_MAX_RUN &&
                 page[i].device == run->device &&
                 page[i].offset == run->offset +
                                   (uint64_t)run->n * PM_PAGE_SIZE);
        pm_put_run(out, run);
    }
    pm_put_commit(out, &commit);
}
