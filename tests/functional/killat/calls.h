/*
 * killat: system calls by number
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef KILLAT_CALLS_H
#define KILLAT_CALLS_H

#include <stdbool.h>
#include <stdint.h>

/* What the arguments of a call name */
enum target { NOTHING, FD, PATH, AT_PATH, SECOND_FD };

struct call {
    const char *name;           /* NULL: not known, counted */
    bool ignored;
    enum target target;
};

struct call call_info(uint64_t nr);

/* Does this passage of a call that is counted by its number change anything? */
bool call_matters(uint64_t nr, const uint64_t *args, const char *target);

#endif
