/*
 * NUMA scheduler: KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Logging is QEMU's global one, with a flag of ours beside those of migration,
 * calc-dirty-rate and dirtylimit: it is on as long as one of them is set.
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "migration/migration.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "system/kvm.h"
#include "compat.h"
#include "ring.h"

static bool exists(void)
{
    return kvm_enabled() && kvm_dirty_ring_enabled();
}

static void apply(void *unused)
{
    ns_ring_apply();
}

/* Of the contexts of the main loop the one that nothing polls in between */
static void schedule(void)
{
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), apply, NULL);
}

/*
 * Devices log, too, from then on.  Those that can not keep the guest from being
 * migrated, and may fail in other ways.
 */
static bool start(Error **errp)
{
    if (migration_is_blocked(errp)) {
        error_prepend(errp, "estimator 'dirty-ring' needs a guest that can be "
                      "migrated: ");
        return false;
    }
    return memory_global_dirty_log_start(GLOBAL_DIRTY_NUMA_SCHED, errp);
}

/* While the guest does not run, QEMU puts it off. */
static void stop(void)
{
    memory_global_dirty_log_stop(GLOBAL_DIRTY_NUMA_SCHED);
}

void ns_ring_use_kvm(void)
{
    static const NsRingSource kvm = {
        .exists = exists, .schedule = schedule, .start = start, .stop = stop,
    };

    ns_ring_set_source(&kvm);
}
