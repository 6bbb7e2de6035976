/*
 * Page map: what has another name in other QEMU releases
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The headers of guest memory moved after 10.0, the data of a class became
 * const, and the last step of a migrated section was renamed.
 */

#ifndef MIGRATION_PAGEMAP_COMPAT_H
#define MIGRATION_PAGEMAP_COMPAT_H

#define PAGE_MAP_QEMU (QEMU_VERSION_MAJOR * 100 + QEMU_VERSION_MINOR)

#if PAGE_MAP_QEMU >= 1002
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/ramblock.h"
#define PAGE_MAP_CONST const
#define PAGE_MAP_SAVE_COMPLETE save_complete
#else
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#define PAGE_MAP_CONST
#define PAGE_MAP_SAVE_COMPLETE save_live_complete_precopy
#endif

#endif
