/*
 * NUMA scheduler: what has another name in other QEMU releases
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The header of memory regions moved after 10.0, and the data of a class became
 * const.
 */

#ifndef NUMA_SCHED_COMPAT_H
#define NUMA_SCHED_COMPAT_H

#if QEMU_VERSION_MAJOR * 100 + QEMU_VERSION_MINOR >= 1002
#include "system/memory.h"
#define NS_CONST const
#else
#include "exec/memory.h"
#define NS_CONST
#endif

#endif
