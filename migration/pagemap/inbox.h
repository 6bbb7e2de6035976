/*
 * Page map: verdicts, from the return path's thread to the migration's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * page_map_verdict() (migration/page-map.h) puts them in, in any thread.
 */

#ifndef MIGRATION_PAGEMAP_INBOX_H
#define MIGRATION_PAGEMAP_INBOX_H

#include "qemu/queue.h"
#include "wire.h"

typedef struct PmVerdict {
    QSIMPLEQ_ENTRY(PmVerdict) next;
    int64_t arrived;            /* ns of QEMU_CLOCK_REALTIME */
    PmRp rp;
} PmVerdict;

typedef QSIMPLEQ_HEAD(, PmVerdict) PmVerdicts;

/* pm_inbox_open: verdicts are taken from now on; before, each is refused */
void pm_inbox_open(void);

/* pm_inbox_close: drops those that nobody took */
void pm_inbox_close(void);

/*
 * pm_inbox_take: append what has come to @out; the caller frees each
 *
 * If there is nothing: waits at most @wait_ms for a verdict or
 * pm_inbox_wake().
 */
void pm_inbox_take(PmVerdicts *out, int wait_ms);

/* pm_inbox_wake: end the wait of pm_inbox_take().  Any thread */
void pm_inbox_wake(void);

#endif
