/*
 * NUMA scheduler: files below a root that nobody trusts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include <dirent.h>
#include "parse.h"
#include "reader.h"

#define MAX_NOTES       64

void ns_reader_note(NsReader *r, const char *fmt, ...)
{
    GPtrArray *notes;
    va_list ap;

    if (!r->t) {
        return;
    }
    notes = r->t->notes;
    if (notes->len < MAX_NOTES) {
        va_start(ap, fmt);
        g_ptr_array_add(notes, g_strdup_vprintf(fmt, ap));
        va_end(ap);
    } else if (notes->len == MAX_NOTES) {
        g_ptr_array_add(notes, g_strdup("there is more that was missing, or"
                                        " was not believed"));
    }
}

/* About the file that was read last */
void ns_reader_complain(NsReader *r, const char *what)
{
    ns_reader_note(r, "%s: %s", r->path, what);
}

static void G_GNUC_PRINTF(2, 0) set_path(NsReader *r, const char *fmt,
                                         va_list ap)
{
    g_vsnprintf(r->path, sizeof(r->path), fmt, ap);
}

/* Regular files only: opening a FIFO or device could wait, or do something. */
static int open_regular(NsReader *r)
{
    int fd = -1;
    struct stat st;

    r->why = "not a regular file";
    if (fstatat(r->root_fd, r->path, &st, 0) < 0) {
        r->why = errno == ENOENT ? "missing" : g_strerror(errno);
    } else if (S_ISREG(st.st_mode)) {
        fd = openat(r->root_fd, r->path,
                    O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) {
            r->why = g_strerror(errno);
        } else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
            close(fd);
            fd = -1;
        }
    }
    return fd;
}

/* Read a file; false with @why set otherwise */
bool ns_reader_load(NsReader *r, const char *fmt, ...)
{
    va_list ap;
    ssize_t n = 1;
    int fd;

    va_start(ap, fmt);
    set_path(r, fmt, ap);
    va_end(ap);
    r->len = 0;
    fd = open_regular(r);
    if (fd < 0) {
        return false;
    }
    r->why = NULL;
    while (n > 0 && r->len < sizeof(r->buf)) {
        n = read(fd, r->buf + r->len, sizeof(r->buf) - r->len);
        if (n < 0) {
            r->why = g_strerror(errno);
        } else {
            r->len += n;
        }
    }
    close(fd);
    if (r->len > NS_MAX_FILE) {
        r->why = "too large";
    }
    return !r->why;
}

/*
 * Set the bits of the numbers N for which the directory has a "<prefix>N" that
 * is a directory; with @links it is a link, whose target a copy may lack.
 */
void ns_reader_scan(NsReader *r, const char *prefix, bool links,
                    unsigned long *bits, size_t size, const char *fmt, ...)
{
    size_t skip = strlen(prefix);
    struct dirent *e;
    va_list ap;
    DIR *dir;
    int fd;

    va_start(ap, fmt);
    set_path(r, fmt, ap);
    va_end(ap);
    fd = openat(r->root_fd, r->path,
                O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECTORY);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    while ((e = readdir(dir))) {
        const char *number = e->d_name + skip;
        struct stat st;
        uint64_t v;

        if (strncmp(e->d_name, prefix, skip) || !*number ||
            number[strspn(number, "0123456789")] ||
            (*number == '0' && number[1])) {
            continue;
        }
        if (!ns_parse_number(number, strlen(number), size - 1, &v)) {
            ns_reader_note(r, "%s/%s: numbers above %zu are left out", r->path,
                           e->d_name, size - 1);
        } else if (links || (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
                             S_ISDIR(st.st_mode))) {
            set_bit(v, bits);
        }
    }
    closedir(dir);
}
