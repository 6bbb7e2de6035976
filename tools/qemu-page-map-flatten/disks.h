/*
 * qemu-page-map-flatten: the disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TOOLS_QEMU_PAGE_MAP_FLATTEN_DISKS_H
#define TOOLS_QEMU_PAGE_MAP_FLATTEN_DISKS_H

#include "migration/pagemap/wire.h"

typedef struct FlatDisks FlatDisks;

FlatDisks *flat_disks_new(void);
void flat_disks_free(FlatDisks *d);

/*
 * flat_disks_add: open the disk that "ID=SPEC" names
 *
 * SPEC: a file name, json:{...}, or options of a driver
 */
bool flat_disks_add(FlatDisks *d, const char *arg, Error **errp);

/*
 * flat_disks_device: the file names a disk: is there one, and is it the same?
 *
 * Its number must not have been used.
 */
bool flat_disks_device(FlatDisks *d, const PmKey *key, const PmDevice *dev,
                       Error **errp);

/* flat_disks_read: 0 or -errno.  @number was in flat_disks_device() before. */
int flat_disks_read(FlatDisks *d, uint16_t number, uint64_t offset,
                    uint32_t bytes, void *buf);

/* flat_disks_name: for messages; valid as long as @d */
const char *flat_disks_name(const FlatDisks *d, uint16_t number);

/* flat_disks_unused: the id of one that the file does not name, or NULL */
const char *flat_disks_unused(const FlatDisks *d, unsigned *iter);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlatDisks, flat_disks_free)

#endif
