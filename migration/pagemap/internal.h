/*
 * Page map: what the object shows to its commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_PAGEMAP_INTERNAL_H
#define MIGRATION_PAGEMAP_INTERNAL_H

#include "qemu/rcu.h"
#include "qemu/stats64.h"
#include "map.h"

typedef struct PageMapState {
    struct rcu_head rcu;
    PmMap *map;
    char *id;
    Stat64 stale;           /* entries that the sample contradicted */
} PageMapState;

/* NULL without an object; within RCU's read lock, or under the BQL */
PageMapState *page_map_state(void);

#endif
