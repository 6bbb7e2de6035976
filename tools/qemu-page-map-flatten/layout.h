/*
 * qemu-page-map-flatten: the layout of a mapped-ram file with a page map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure: no disks, no output; what it finds goes to callbacks.  The file is
 * described in docs/devel/migration/page-map.rst.
 *
 * Nothing in the file is trusted.  What the callbacks get lies within the file,
 * within its RAM blocks and within its devices.
 */

#ifndef TOOLS_QEMU_PAGE_MAP_FLATTEN_LAYOUT_H
#define TOOLS_QEMU_PAGE_MAP_FLATTEN_LAYOUT_H

#include "migration/pagemap/plan.h"

#define FLAT_MAX_BLOCKS         4096
/* What stock QEMU's MappedRamHeader is, and which versions there are */
#define FLAT_HEADER_SIZE        28
#define FLAT_VERSION_STOCK      1
#define FLAT_VERSION_PAGE_MAP   2

/* A RAM block, and where the file has it */
typedef struct FlatBlock {
    char name[256];             /* no control characters */
    uint64_t length;            /* bytes; a multiple of PM_PAGE_SIZE, not 0 */
    uint64_t bitmap_offset;     /* flat_bitmap_size(length) bytes are there */
    uint64_t pages_offset;      /* @length bytes are there */
} FlatBlock;

/* Of a block of @length bytes: a bit per page, in units of 64 */
static inline uint64_t flat_bitmap_size(uint64_t length)
{
    return DIV_ROUND_UP(length / PM_PAGE_SIZE, 64) * 8;
}

/*
 * In the order of the file.  Each returns false with @errp set to end the
 * parsing.
 */
typedef struct FlatOps {
    /* @n bytes of the file at @offset; all of them are in the file */
    bool (*read)(void *opaque, uint64_t offset, void *buf, size_t n,
                 Error **errp);
    /* Bytes @from to @to (not included) of the file stay as they are. */
    bool (*keep)(void *opaque, uint64_t from, uint64_t to, Error **errp);
    /* The header of a block, its bitmap and its pages come here. */
    bool (*block)(void *opaque, const FlatBlock *b, Error **errp);
    bool (*device)(void *opaque, const PmKey *key, const PmDevice *d,
                   Error **errp);
    /*
     * The records of a batch, which may be changed.  block: counted from 0 in
     * the order of the file; device: a number that was in @device before.
     */
    bool (*batch)(void *opaque, const PmKey *key, PmFetch *page, unsigned n,
                  Error **errp);
} FlatOps;

/*
 * flat_parse: read a file of @size bytes
 *
 * False with @errp set, which names the offset: the file is damaged, another
 * kind of file, or a callback has failed.
 */
bool flat_parse(const FlatOps *ops, void *opaque, uint64_t size,
                Error **errp);

#endif
