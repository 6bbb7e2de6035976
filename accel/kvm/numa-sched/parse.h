/*
 * NUMA scheduler: what sysfs files say
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pure functions of the bytes of a file, which may hold anything, NUL too.
 */

#ifndef NUMA_SCHED_PARSE_H
#define NUMA_SCHED_PARSE_H

/*
 * A list such as "0-3,8,10-11", or nothing: sets the bits, all below @size.
 * False: not a list, or a number that is not below @size; @bits is then not
 * changed.
 */
bool ns_parse_list(const char *buf, size_t len, unsigned long *bits,
                   size_t size);

/*
 * A mask such as "00000000,0000000f", the lowest bits last, at least one digit;
 * as above otherwise
 */
bool ns_parse_mask(const char *buf, size_t len, unsigned long *bits,
                   size_t size);

/* One decimal number, alone, at most @max */
bool ns_parse_number(const char *buf, size_t len, uint64_t max,
                     uint64_t *value);

/* Decimal numbers with blanks between; -1: anything else, or more than @n */
int ns_parse_row(const char *buf, size_t len, uint32_t max, uint32_t *value,
                 int n);

/* What is in kB in the line with @key ("MemFree:"); of a node's meminfo, too */
bool ns_parse_meminfo(const char *buf, size_t len, const char *key,
                      uint64_t max_bytes, uint64_t *bytes);

#endif
