/*
 * qemu-page-map-flatten: the file that is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TOOLS_QEMU_PAGE_MAP_FLATTEN_OUTPUT_H
#define TOOLS_QEMU_PAGE_MAP_FLATTEN_OUTPUT_H

#include "layout.h"

typedef struct FlatOutput FlatOutput;

/*
 * flat_output_new: begin a file
 *
 * @in: the file that is copied from; stays the caller's
 * @path: what it is called when it is complete; NULL: only keep account of
 *        which pages there are, in memory
 * @force: replace a file that exists
 *
 * Until flat_output_commit() it has a temporary name in the same directory.
 */
FlatOutput *flat_output_new(int in, const char *path, bool force,
                            Error **errp);

/* Bytes @from to @to of the other file come next. */
bool flat_output_keep(FlatOutput *o, uint64_t from, uint64_t to, Error **errp);

/* So does a block's header, with room for its bitmap, and its pages. */
bool flat_output_block(FlatOutput *o, const FlatBlock *b, Error **errp);

/* Is the page @page of a block there?  Blocks are counted from 0. */
bool flat_output_has(FlatOutput *o, unsigned block, uint32_t page, bool *has,
                     Error **errp);

/*
 * flat_output_page: a page that the other file has not
 *
 * @content: NULL if it is not known
 */
bool flat_output_page(FlatOutput *o, unsigned block, uint32_t page,
                      const void *content, Error **errp);

const char *flat_output_block_name(const FlatOutput *o, unsigned block);

/* flat_output_copied: pages that were in the other file */
uint64_t flat_output_copied(const FlatOutput *o);

/* flat_output_commit: on storage, and under its name */
bool flat_output_commit(FlatOutput *o, Error **errp);

/* flat_output_free: what was not committed is gone */
void flat_output_free(FlatOutput *o);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlatOutput, flat_output_free)

#endif
