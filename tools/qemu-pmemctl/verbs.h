/*
 * qemu-pmemctl: what it can do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEMCTL_VERBS_H
#define PMEMCTL_VERBS_H

/* Exit codes; documented in docs/tools/qemu-pmemctl.rst. */
enum {
    PMEMCTL_OK = 0,
    PMEMCTL_FAILED = 1,         /* the other side refused */
    PMEMCTL_USAGE = 2,
    PMEMCTL_UNREACHABLE = 3,    /* no connection, or no QMP there */
    PMEMCTL_UNAVAILABLE = 4,    /* not available yet, or not there */
};

typedef struct PmemctlOptions {
    const char *socket;
    const char *export;
    const char *state_file;
    bool force;
    bool json;
} PmemctlOptions;

int pmemctl_status(const PmemctlOptions *o);
int pmemctl_promote(const PmemctlOptions *o);
int pmemctl_resync(const PmemctlOptions *o);

#endif
