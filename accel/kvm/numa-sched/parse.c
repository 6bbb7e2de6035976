/*
 * NUMA scheduler: what sysfs files say
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/units.h"
#include "parse.h"

#define WORD_DIGITS     8       /* of a mask, 4 bits each, between commas */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/*
 * Some kernels put a NUL after the end of the line, and copies of their sysfs
 * have it.  Elsewhere a NUL is malformed.
 */
static bool is_end(char c)
{
    return c == '\n' || c == '\r' || c == '\0' || is_blank(c);
}

/* Without the blanks around it, and the end of its line */
static void trim(const char **buf, size_t *len)
{
    while (*len && is_end((*buf)[*len - 1])) {
        (*len)--;
    }
    while (*len && is_blank(**buf)) {
        (*buf)++;
        (*len)--;
    }
}

/* Take a decimal number from the front: false when there is none up to @max */
static bool take_number(const char **buf, const char *end, uint64_t max,
                        uint64_t *value)
{
    const char *p = *buf;
    uint64_t v = 0;

    for (; p < end && g_ascii_isdigit(*p); p++) {
        unsigned digit = *p - '0';

        if (digit > max || v > max / 10 || v * 10 > max - digit) {
            return false;
        }
        v = v * 10 + digit;
    }
    if (p == *buf) {
        return false;
    }
    *buf = p;
    *value = v;
    return true;
}

/* Only look when @bits is NULL */
static bool list(const char *buf, size_t len, unsigned long *bits, size_t size)
{
    const char *end = buf + len;

    while (buf < end) {
        uint64_t first, last;

        if (!size || !take_number(&buf, end, size - 1, &first)) {
            return false;
        }
        last = first;
        if (buf < end && *buf == '-') {
            buf++;
            if (!take_number(&buf, end, size - 1, &last) || last < first) {
                return false;
            }
        }
        if (bits) {
            bitmap_set(bits, first, last - first + 1);
        }
        if (buf == end) {
            break;
        }
        /* One comma, and something after it */
        if (*buf++ != ',' || buf == end) {
            return false;
        }
    }
    return true;
}

bool ns_parse_list(const char *buf, size_t len, unsigned long *bits,
                   size_t size)
{
    trim(&buf, &len);
    if (!list(buf, len, NULL, size)) {
        return false;
    }
    return list(buf, len, bits, size);
}

/* Only look when @bits is NULL; from the end, where bit 0 is */
static bool mask(const char *buf, size_t len, unsigned long *bits, size_t size)
{
    unsigned digits = 0;
    size_t at = 0;

    while (len--) {
        int v = g_ascii_xdigit_value(buf[len]);

        /* Only the highest word may have fewer digits. */
        if (buf[len] == ',' && digits == WORD_DIGITS) {
            digits = 0;
            continue;
        }
        if (v < 0 || digits == WORD_DIGITS) {
            return false;
        }
        for (unsigned i = 0; i < 4; i++) {
            if (!(v >> i & 1)) {
                continue;
            }
            if (at + i >= size) {
                return false;
            }
            if (bits) {
                set_bit(at + i, bits);
            }
        }
        at += 4;
        digits++;
    }
    return digits;
}

bool ns_parse_mask(const char *buf, size_t len, unsigned long *bits,
                   size_t size)
{
    trim(&buf, &len);
    return mask(buf, len, NULL, size) && mask(buf, len, bits, size);
}

bool ns_parse_number(const char *buf, size_t len, uint64_t max,
                     uint64_t *value)
{
    const char *end;
    uint64_t v;

    trim(&buf, &len);
    end = buf + len;
    if (!take_number(&buf, end, max, &v) || buf != end) {
        return false;
    }
    *value = v;
    return true;
}

int ns_parse_row(const char *buf, size_t len, uint32_t max, uint32_t *value,
                 int n)
{
    const char *end;
    int k = 0;

    trim(&buf, &len);
    end = buf + len;
    while (buf < end) {
        uint64_t v;

        if (k == n || !take_number(&buf, end, max, &v) ||
            (buf < end && !is_blank(*buf))) {
            return -1;
        }
        value[k++] = v;
        while (buf < end && is_blank(*buf)) {
            buf++;
        }
    }
    return k;
}

static void skip_blanks(const char **buf, const char *end)
{
    while (*buf < end && is_blank(**buf)) {
        (*buf)++;
    }
}

/* In a node's file each line starts with "Node 0 ". */
static void skip_node(const char **buf, const char *end)
{
    static const char word[] = "Node ";
    const char *p = *buf;
    uint64_t id;

    if ((size_t)(end - p) < strlen(word) || memcmp(p, word, strlen(word))) {
        return;
    }
    p += strlen(word);
    if (take_number(&p, end, UINT64_MAX, &id)) {
        skip_blanks(&p, end);
        *buf = p;
    }
}

bool ns_parse_meminfo(const char *buf, size_t len, const char *key,
                      uint64_t max_bytes, uint64_t *bytes)
{
    const char *end = buf + len;
    size_t key_len = strlen(key);

    while (buf < end) {
        const char *p = buf, *stop = memchr(buf, '\n', end - buf);
        uint64_t kib;

        if (!stop) {
            stop = end;
        }
        skip_node(&p, stop);
        if ((size_t)(stop - p) >= key_len && !memcmp(p, key, key_len)) {
            p += key_len;
            skip_blanks(&p, stop);
            if (!take_number(&p, stop, max_bytes / KiB, &kib)) {
                return false;
            }
            skip_blanks(&p, stop);
            if (stop - p < 2 || memcmp(p, "kB", 2)) {
                return false;
            }
            p += 2;
            skip_blanks(&p, stop);
            if (p != stop) {
                return false;
            }
            *bytes = kib * KiB;
            return true;
        }
        buf = stop < end ? stop + 1 : end;
    }
    return false;
}
