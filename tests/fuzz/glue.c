/*
 * The little that the code under test wants of the rest of QEMU: the fuzzers
 * report nothing, and do not need stable storage or locks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"

int error_printf(const char *fmt, ...)
{
    return 0;
}

void error_report(const char *fmt, ...)
{
}

void warn_report(const char *fmt, ...)
{
}

int qemu_fdatasync(int fd)
{
    return 0;
}

int qemu_lock_fd(int fd, int64_t start, int64_t len, bool exclusive)
{
    return 0;
}

int qemu_open(const char *name, int flags, Error **errp)
{
    return open(name, flags);
}
