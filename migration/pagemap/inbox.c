/*
 * Page map: verdicts, from the return path's thread to the migration's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "migration/page-map.h"
#include "qapi/error.h"
#include "inbox.h"
#include "pagemap.h"

/* More than a destination that keeps to the protocol can owe */
#define MAX_VERDICTS    (PM_MAX_IN_FLIGHT + PM_MAX_DEVICES)

static struct {
    QemuMutex lock;             /* protects what follows */
    QemuCond cond;
    bool open;
    bool woken;
    unsigned n;
    PmVerdicts verdicts;
} inbox;

void pm_inbox_wake(void)
{
    QEMU_LOCK_GUARD(&inbox.lock);
    inbox.woken = true;
    qemu_cond_signal(&inbox.cond);
}

void pm_inbox_open(void)
{
    QEMU_LOCK_GUARD(&inbox.lock);
    inbox.open = true;
    inbox.woken = false;
}

void pm_inbox_close(void)
{
    PmVerdict *v;

    QEMU_LOCK_GUARD(&inbox.lock);
    inbox.open = false;
    while ((v = QSIMPLEQ_FIRST(&inbox.verdicts))) {
        QSIMPLEQ_REMOVE_HEAD(&inbox.verdicts, next);
        g_free(v);
    }
    inbox.n = 0;
}

void pm_inbox_take(PmVerdicts *out, int wait_ms)
{
    QEMU_LOCK_GUARD(&inbox.lock);
    if (wait_ms && QSIMPLEQ_EMPTY(&inbox.verdicts) && !inbox.woken) {
        qemu_cond_timedwait(&inbox.cond, &inbox.lock, wait_ms);
    }
    inbox.woken = false;
    inbox.n = 0;
    QSIMPLEQ_CONCAT(out, &inbox.verdicts);
}

bool page_map_verdict(const uint8_t *buf, size_t len, Error **errp)
{
    g_autofree PmVerdict *v = g_new(PmVerdict, 1);

    if (!pm_get_rp(buf, len, &v->rp, errp)) {
        return false;
    }
    v->arrived = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    QEMU_LOCK_GUARD(&inbox.lock);
    if (!inbox.open || inbox.n == MAX_VERDICTS) {
        error_setg(errp, "page-map: the destination answers to what was not"
                   " asked");
        return false;
    }
    inbox.n++;
    QSIMPLEQ_INSERT_TAIL(&inbox.verdicts, v, next);
    g_steal_pointer(&v);
    qemu_cond_signal(&inbox.cond);
    return true;
}

void page_map_mig_init(void)
{
    qemu_mutex_init(&inbox.lock);
    qemu_cond_init(&inbox.cond);
    QSIMPLEQ_INIT(&inbox.verdicts);
}
