/*
 * pmem-ha: what has another name in other QEMU releases
 *
 * The headers of guest memory moved from exec/ to system/ after 10.0, and
 * the functions of the dirty bitmap lost their prefix cpu_ and got a header.
 * The data of a class became const.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MEM_PMEM_HA_COMPAT_H
#define HW_MEM_PMEM_HA_COMPAT_H

#define PMEM_HA_QEMU (QEMU_VERSION_MAJOR * 100 + QEMU_VERSION_MINOR)

#if PMEM_HA_QEMU >= 1002
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/physmem.h"
typedef const void PmemHaClassData;
#else
#include "exec/address-spaces.h"
#include "exec/memory.h"
typedef void PmemHaClassData;
#ifdef COMPILING_PER_TARGET
#include "exec/ram_addr.h"
#define physical_memory_set_dirty_range cpu_physical_memory_set_dirty_range
#define physical_memory_dirty_bits_cleared \
    cpu_physical_memory_dirty_bits_cleared
#endif
#endif

/* Also of the modes of CPR; this one is none of the releases'. */
#if PMEM_HA_QEMU >= 1002
#define migrate_add_cpr_blocker(reasonp, errp)                          \
    migrate_add_blocker_modes(reasonp, BIT(MIG_MODE_CPR_REBOOT) |       \
                              BIT(MIG_MODE_CPR_TRANSFER) |              \
                              BIT(MIG_MODE_CPR_EXEC), errp)
#else
#define migrate_add_cpr_blocker(reasonp, errp)                          \
    migrate_add_blocker_modes(reasonp, errp, MIG_MODE_CPR_REBOOT,       \
                              MIG_MODE_CPR_TRANSFER, -1)
#endif

#endif
