/*
 * qemu-pmem-replica: the image file of an export, its lock and its marker
 *
 * The caller serialises all calls on one image.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_IMAGE_H
#define PMEM_REPLICA_IMAGE_H

#include "hw/mem/pmem-ha-state.h"

typedef struct ReplicaImage {
    char *path;
    char *copy_path;            /* full copy under way */
    char *marker_path;
    uint64_t size;
    int fd;                     /* of the image; holds its lock */
    int copy_fd;                /* or -1 */
    bool copy_decided;          /* the copy is the image, but for its name */
} ReplicaImage;

/*
 * Lock the image at @path; create it when absent.  @owner is for the marker:
 * what to tell those who find the image held.  @image_is_copy: a switch was
 * decided, complete it; otherwise an unfinished copy is deleted.  With
 * @have_image a missing file is an error.
 */
ReplicaImage *image_open(const char *path, uint64_t size, const char *owner,
                         bool have_image, bool image_is_copy,
                         Error **errp);
/* Release the lock; the marker stays. */
void image_close(ReplicaImage *img);

/* Does a marker say that a replica holds @path? */
bool image_is_marked(const char *path);

/* JournalApply for the image and for the copy. */
bool image_apply(void *image, uint64_t offset, uint64_t length,
                 const uint8_t *data, Error **errp);
int image_copy_write(ReplicaImage *img, uint64_t offset, uint64_t length,
                     const uint8_t *data, Error **errp);

int image_sync(ReplicaImage *img, Error **errp);

/* A side file for a full copy, with its blocks allocated. */
int image_copy_start(ReplicaImage *img, Error **errp);
int image_copy_sync(ReplicaImage *img, Error **errp);
void image_copy_abandon(ReplicaImage *img);
/* The copy becomes the image; repeatable. */
bool image_copy_switch(ReplicaImage *img, Error **errp);

/* SHA-256 of the whole image. */
bool image_digest(ReplicaImage *img, uint8_t digest[PMEM_HA_STATE_DIGEST],
                  Error **errp);

/* Remove the marker durably, then the lock may go. */
bool image_unmark(ReplicaImage *img, Error **errp);

#endif
