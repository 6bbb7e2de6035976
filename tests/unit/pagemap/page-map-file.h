/*
 * Files with a page map, right ones and wrong ones, for tests of their reader
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_PAGEMAP_PAGE_MAP_FILE_H
#define TESTS_UNIT_PAGEMAP_PAGE_MAP_FILE_H

/* What damage of a byte may do, besides being refused */
typedef enum Kind {
    MUST = 0,                   /* nothing */
    SAME,                       /* nothing is noticed */
    ANY,                        /* another value */
} Kind;

/* Those from NO_PAGE_MAP on are wrong. */
typedef enum Variant {
    RIGHT,
    BARE,                       /* no configuration, footers or command */
    TWO_PARTS,                  /* two parts of the page map */
    NO_DISKS,                   /* nothing was equal */
    NO_PAGE_MAP,
    NOT_MAPPED,
    MANY_CAPS,
    NEW_SUBSECTION,
    LARGE_PAGES,
    LIVE,
    TWO_HELLOS,
    STOCK_VERSION,
    NEW_VERSION,
    BLOCK_TWICE,
    MANY_BLOCKS,
    SMALL_GAP,
    CONTROL_NAME,
    OTHER_SECTION,
    EARLY_DEVICE,
    PART_FIRST,
    DEVICE_TWICE,
    MANY_DEVICES,
    BLOCK_NUMBER_TWICE,
    UNKNOWN_BLOCK,
    UNKNOWN_DEVICE,
    BEYOND_DISK,
    BEYOND_BLOCK,
    PROBE_BEYOND_DISK,
    NO_COMMIT,
    LONG_BATCH,
    WRONG_PLACE,
    NO_FINISH,
    NO_END,
    RAM_FLAGS,
    N_VARIANTS,
} Variant;

typedef struct File {
    Variant v;
    GByteArray *b;
    GByteArray *kind;           /* Kind of each byte */
    uint64_t rest;              /* where RAM has ended */
} File;

/*
 * A file with RAM blocks of three pages (pc.ram) and two (/objects/m1), and
 * records of pages of both, on disks 263 (disk0) and 8195
 */
File *file_new(Variant v);
void file_free(File *f);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(File, file_free)

#endif
