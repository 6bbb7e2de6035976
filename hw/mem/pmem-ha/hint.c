/*
 * pmem-ha: the flush hint and its NFIT structure
 *
 * One MMIO region serves all slots, because Linux maps hints by the page and
 * finds those of several devices in one (docs/specs/pmem-ha.rst).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/acpi/aml-build.h"
#include "hw/core/cpu.h"
#include "hw/mem/pc-dimm.h"
#include "hw/qdev-core.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

#define NFIT_FLUSH_HINT_ADDRESS 6   /* ACPI 6.0: 5.2.25.7 */
#define NFIT_FLUSH_HINT_LENGTH  24  /* header, and one address */

static struct {
    MemoryRegion mr;
    unsigned users;
    PmemHaDevice *slot[PMEM_HA_HINT_SLOTS];
} hints;    /* BQL */

static uint64_t pmem_ha_hint_read(void *opaque, hwaddr addr, unsigned size)
{
    return 0;
}

static void pmem_ha_hint_write(void *opaque, hwaddr addr, uint64_t value,
                               unsigned size)
{
    PmemHaDevice *s = hints.slot[addr / PMEM_HA_HINT_STRIDE];

    if (s) {
        trace_pmem_ha_hint(s->name, current_cpu ? current_cpu->cpu_index : -1);
        pmem_ha_flush(s, current_cpu);
    }
}

static const MemoryRegionOps pmem_ha_hint_ops = {
    .read = pmem_ha_hint_read,
    .write = pmem_ha_hint_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 1,
        .max_access_size = 8,
        .unaligned = true,
    },
    .impl = {
        .min_access_size = 1,
        .max_access_size = 8,
        .unaligned = true,
    },
};

bool pmem_ha_hint_add(PmemHaDevice *s, Error **errp)
{
    if (s->slot < 0 || s->slot >= PMEM_HA_HINT_SLOTS) {
        error_setg(errp, "pmem-ha device '%s': slot %d has no flush hint, use "
                   "a slot below %d", s->name, s->slot, PMEM_HA_HINT_SLOTS);
        return false;
    }
    if (hints.users++ == 0) {
        memory_region_init_io(&hints.mr, NULL, &pmem_ha_hint_ops, NULL,
                              "pmem-ha-flush-hints",
                              PMEM_HA_HINT_SLOTS * PMEM_HA_HINT_STRIDE);
        memory_region_add_subregion(get_system_memory(), PMEM_HA_HINT_BASE,
                                    &hints.mr);
    }
    hints.slot[s->slot] = s;
    return true;
}

void pmem_ha_hint_remove(PmemHaDevice *s)
{
    hints.slot[s->slot] = NULL;
    if (--hints.users == 0) {
        memory_region_del_subregion(get_system_memory(), &hints.mr);
        object_unparent(OBJECT(&hints.mr));
    }
}

void pmem_ha_build_nfit(NVDIMMDevice *nvdimm, uint32_t handle,
                        GArray *structures)
{
    int slot = PC_DIMM(nvdimm)->slot;

    build_append_int_noprefix(structures, NFIT_FLUSH_HINT_ADDRESS, 2);
    build_append_int_noprefix(structures, NFIT_FLUSH_HINT_LENGTH, 2);
    build_append_int_noprefix(structures, handle, 4);
    build_append_int_noprefix(structures, 1 /* one hint */, 2);
    build_append_int_noprefix(structures, 0 /* reserved */, 6);
    build_append_int_noprefix(structures,
                              PMEM_HA_HINT_BASE + slot * PMEM_HA_HINT_STRIDE,
                              8);
}
