/*
 * pmem-ha: a guest that moves to the host of its replica
 *
 * The destination maps the replica's image, and nothing of it is in the stream.
 * It becomes the image's owner in the moment in which it takes the role; until
 * then its mapping is a private one, so that whatever it does leaves the
 * replica as it is.  Order and cases: docs/devel/pmem-ha-handover.rst,
 * "Adoption".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "hw/mem/pc-dimm.h"
#include "hw/qdev-core.h"
#include "system/hostmem.h"
#include "system/runstate.h"
#include "system/system.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

void pmem_ha_content_travels(PmemHaDevice *s, bool on)
{
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        if (on) {
            qemu_ram_set_migratable(s->part[i].mr->ram_block);
        } else {
            qemu_ram_unset_migratable(s->part[i].mr->ram_block);
        }
    }
}

/* Private: stores stay in this process.  Shared: they reach the image. */
static bool map_parts(PmemHaDevice *s, bool shared, Error **errp)
{
    unsigned i;

    for (i = 0; i < s->n_parts; i++) {
        PmemHaPart *p = &s->part[i];
        uint64_t at = object_property_get_uint(
            OBJECT(PC_DIMM(p->dev)->hostmem), "offset", NULL);

        if (mmap(p->ram, p->size, PROT_READ | PROT_WRITE, MAP_FIXED |
                 (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE),
                 s->image_fd, at) == MAP_FAILED) {
            error_setg_errno(errp, errno, "pmem-ha device '%s': cannot map the "
                             "image of the replica", s->name);
            return false;
        }
        qemu_madvise(p->ram, p->size, QEMU_MADV_DONTFORK);
    }
    return true;
}

static bool may_start(void);

/* When all RAM is registered: the stream must not write to the image. */
static void machine_done(Notifier *n, void *data)
{
    pmem_ha_content_travels(container_of(n, PmemHaDevice, adopt_notifier),
                            false);
}

bool pmem_ha_adopt_init(PmemHaDevice *s, Error **errp)
{
    PmemHaDevice *other;

    if (phase_check(PHASE_MACHINE_READY) && !s->starting_group) {
        error_setg(errp, "pmem-ha device '%s': handover=adopt is for a device "
                   "that is given by -device, use handover=copy", s->name);
        return false;
    }
    if (pmem_ha_any_backend_has(s, "pmem")) {
        error_setg(errp, "pmem-ha device '%s': handover=adopt maps the image "
                   "anew, which memdev property pmem=on does not allow; use "
                   "handover=copy", s->name);
        return false;
    }
    if (pmem_ha_any_backend_has(s, "prealloc")) {
        error_setg(errp, "pmem-ha device '%s': handover=adopt maps an image "
                   "that the replica writes to, which memdev property "
                   "prealloc=on does, too; use prealloc=off", s->name);
        return false;
    }
    if (!map_parts(s, false, errp)) {
        return false;
    }
    for (other = pmem_ha_next(NULL); other; other = pmem_ha_next(other)) {
        if (other != s && other->leader->adopting && other->leader != s) {
            error_setg(errp, "pmem-ha device '%s': handover=adopt is for one "
                       "device or one consistency-group, and '%s' has it, too; "
                       "put them into one group, or use handover=copy",
                       s->name, other->name);
            return false;
        }
    }
    vm_start_check = may_start;
    s->adopt_notifier.notify = machine_done;
    qemu_add_machine_init_done_notifier(&s->adopt_notifier);
    return true;
}

void pmem_ha_adopt_cleanup(PmemHaDevice *s)
{
    if (s->adopt_notifier.notify) {
        qemu_remove_machine_init_done_notifier(&s->adopt_notifier);
        s->adopt_notifier.notify = NULL;
    }
}

void pmem_ha_adopt_hello(PmemHaDevice *s, PmemHaHello *h)
{
    struct stat st;

    if (!s->adopting || fstat(s->image_fd, &st) < 0) {
        return;
    }
    h->flags |= PMEM_HA_HELLO_ADOPT;
    h->host = s->boot_id;
    h->file_dev = st.st_dev;
    h->file_ino = st.st_ino;
}

bool pmem_ha_adopted_locked(PmemHaDevice *s, const PmemHaWelcome *w,
                            Error **errp)
{
    PmemHaStateRecord was = s->rec;
    unsigned i;
    int ret;

    if (!w->have_image || w->generation != s->rec.generation + 1 ||
        w->epoch != s->rec.captured) {
        error_setg(errp, "protocol error: replica '%s' at %s gave its image "
                   "with generation %" PRIu64 ", epoch %" PRIu64 ", and what "
                   "was handed over is generation %" PRIu64 ", epoch %" PRIu64,
                   s->export, s->peer, w->generation, w->epoch,
                   s->rec.generation, s->rec.captured);
        return false;
    }
    ret = qemu_lock_fd(s->image_fd, 0, 0, true);
    if (ret < 0) {
        error_setg(errp, "pmem-ha device '%s': the replica gave its image, and "
                   "another program uses it (%s); stop that", s->name,
                   strerror(-ret));
        return false;
    }
    if (!map_parts(s, true, errp)) {
        return false;
    }
    pmem_ha_state_next_generation(&s->rec);
    /* As for any guest without a replica: see pmem_ha_begin(). */
    s->rec.acked = 0;
    s->rec.boot_id = s->boot_id;
    s->rec.clean = false;
    pmem_ha_note_backing(s);
    if (!pmem_ha_state_write(s->state_file, &s->rec, true, errp)) {
        /* Nobody else gets the image any more: ask for it again. */
        s->rec = was;
        return false;
    }
    s->take = false;
    s->loaded = false;
    s->proof_lineage = true;
    /* What the guest waited for is in the image. */
    for (i = 0; i < s->waiters->len; i++) {
        g_array_index(s->waiters, PmemHaWaiter, i).target = 0;
    }
    s->link_state = PMEM_HA_STATE_STANDALONE;
    qatomic_set(&s->adopted, true);
    pmem_ha_release_locked(s);
    pmem_ha_stall_settle(s);
    pmem_ha_announce_locked(s, "adopted the image of the replica");
    qemu_cond_broadcast(&s->settled);
    trace_pmem_ha_adopted(s->name, s->rec.generation, w->epoch);
    return true;
}

void pmem_ha_adopt_settle(PmemHaDevice *s)
{
    CPUState *cpu;

    if (s->adopting && qatomic_read(&s->adopted)) {
        s->adopting = false;
        pmem_ha_content_travels(s, true);
        CPU_FOREACH(cpu) {
            cpu->flush_blocked = pmem_ha_cpu_waits(cpu);
        }
    }
}

static bool adopt_wait(PmemHaDevice *s)
{
    int64_t deadline = g_get_monotonic_time() / 1000 +
                       MAX(s->replica->connect_timeout_ms, PMEM_HA_ADOPT_MS);

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        while (!s->adopted && s->link_state == PMEM_HA_STATE_CONNECTING) {
            int64_t left = deadline - g_get_monotonic_time() / 1000;

            if (left <= 0) {
                break;
            }
            qemu_cond_timedwait(&s->settled, &s->lock, left);
        }
        if (!s->adopted) {
            error_report("pmem-ha device '%s': the replica did not give its "
                         "image (%s), this guest must not run; let it go on "
                         "where it came from%s", s->name, s->last_error ?
                         error_get_pretty(s->last_error) : "no answer yet",
                         s->link_state == PMEM_HA_STATE_CONNECTING ?
                         ", or try 'cont' again" : "");
            return false;
        }
    }
    pmem_ha_adopt_settle(s);
    return true;
}

/* Before any vCPU or device runs */
static bool may_start(void)
{
    PmemHaDevice *s;

    for (s = pmem_ha_next(NULL); s; s = pmem_ha_next(s)) {
        if (!s->adopting) {
            continue;
        }
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            pmem_ha_take_locked(s);
        }
        if (!adopt_wait(s)) {
            if (runstate_check(RUN_STATE_INMIGRATE)) {
                /* So that 'cont' can try again. */
                runstate_set(RUN_STATE_PAUSED);
            }
            return false;
        }
    }
    return true;
}
