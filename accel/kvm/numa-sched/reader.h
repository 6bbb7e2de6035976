/*
 * NUMA scheduler: files below a root that nobody trusts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One file at a time, of at most 64 KiB, in one buffer.  Names are relative to
 * the root.  One thread at a time for a reader.
 */

#ifndef NUMA_SCHED_READER_H
#define NUMA_SCHED_READER_H

#include "topology.h"

#define NS_MAX_FILE     (64 * 1024)

typedef struct NsReader {
    const char *root;
    int root_fd;
    NsTopology *t;              /* NULL: there is nobody to tell */
    unsigned long *online;      /* NS_MAX_CPUS */
    unsigned long *rows;        /* NS_MAX_NODES: what a distance is given for */
    char path[128];             /* of the last file, below the root */
    const char *why;            /* it was not read */
    size_t len;
    char buf[NS_MAX_FILE + 1];     /* one more shows that a file is too large */
} NsReader;

/* For people: at most 64 notes, and one that there is more */
void G_GNUC_PRINTF(2, 3) ns_reader_note(NsReader *r, const char *fmt, ...);

/* About the file that was read last */
void ns_reader_complain(NsReader *r, const char *what);

/* Read a regular file; false with @why set otherwise */
bool G_GNUC_PRINTF(2, 3) ns_reader_load(NsReader *r, const char *fmt, ...);

/*
 * Set the bits of the numbers N for which the directory has a "<prefix>N" that
 * is a directory; with @links it is a link, whose target a copy may lack.
 */
void G_GNUC_PRINTF(6, 7) ns_reader_scan(NsReader *r, const char *prefix,
                                        bool links, unsigned long *bits,
                                        size_t size, const char *fmt, ...);

#endif
