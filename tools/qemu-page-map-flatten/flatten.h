/*
 * qemu-page-map-flatten: pages from the disks to the file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TOOLS_QEMU_PAGE_MAP_FLATTEN_FLATTEN_H
#define TOOLS_QEMU_PAGE_MAP_FLATTEN_FLATTEN_H

#include "disks.h"

/* Also the exit status of the program: docs/tools/qemu-page-map-flatten.rst */
typedef enum FlatStatus {
    FLAT_DONE = 0,
    FLAT_IO = 1,                /* IN can not be read, OUT not be written */
    FLAT_USAGE = 2,
    FLAT_FORMAT = 3,            /* IN is damaged, or another kind of file */
    FLAT_DISK = 4,              /* a disk is missing, or is another one */
} FlatStatus;

/*
 * flat_flatten: write @out, or with NULL check each record of @in
 *
 * @quiet: no summary
 *
 * Reports errors by itself.
 */
FlatStatus flat_flatten(const char *in, const char *out, FlatDisks *disks,
                        bool force, bool quiet);

#endif
