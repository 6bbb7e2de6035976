/*
 * qemu-page-map-flatten: the file that is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which pages there are is in the bitmaps of the file itself, so memory does
 * not depend on the size of the guest.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/memfd.h"
#include "output.h"

/* As stock QEMU has it, which reads any multiple of the page size */
#define ALIGNMENT       (1024 * 1024)
#define BUFFER          (1024 * 1024)
/* Bytes of a bitmap that are looked at together; a multiple of 8 */
#define WINDOW          (64 * 1024)

typedef struct OutBlock {
    char name[256];
    uint64_t bitmap_offset;
    uint64_t pages_offset;
} OutBlock;

struct FlatOutput {
    int in, fd;
    uint64_t pos;
    uint64_t copied;            /* pages */
    char *path;                 /* NULL: keeps account only */
    char *tmp;
    bool force;
    GArray *blocks;             /* OutBlock */
    uint8_t *buf;               /* BUFFER bytes */
    unsigned long *window;      /* WINDOW bytes */
};

/* What a signal that ends us removes */
static char *volatile to_unlink;

static void ended_by_signal(int sig)
{
    if (to_unlink) {
        unlink(to_unlink);
    }
    /* SA_RESETHAND has put back what it did. */
    raise(sig);
}

static void watch_signals(void)
{
    static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction sa = {
        .sa_handler = ended_by_signal,
        .sa_flags = SA_RESETHAND,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++) {
        sigaction(sigs[i], &sa, NULL);
    }
}

static bool read_at(FlatOutput *o, int fd, uint64_t offset, void *buf,
                    size_t n, Error **errp)
{
    uint8_t *p = buf;

    while (n) {
        ssize_t got = RETRY_ON_EINTR(pread(fd, p, n, offset));

        if (got <= 0) {
            error_setg_errno(errp, got ? errno : EIO, "reading %zu bytes at 0x%"
                             PRIx64 " of %s failed", n, offset,
                             fd == o->in ? "it" : o->path ?: "the account");
            return false;
        }
        p += got;
        offset += got;
        n -= got;
    }
    return true;
}

static bool write_at(FlatOutput *o, uint64_t offset, const void *buf, size_t n,
                     Error **errp)
{
    const uint8_t *p = buf;

    while (n) {
        ssize_t done = RETRY_ON_EINTR(pwrite(o->fd, p, n, offset));

        if (done <= 0) {
            error_setg_errno(errp, done ? errno : EIO, "writing %zu bytes at "
                             "0x%" PRIx64 " of '%s' failed", n, offset,
                             o->path ?: "the account");
            return false;
        }
        p += done;
        offset += done;
        n -= done;
    }
    return true;
}

static bool create(FlatOutput *o, Error **errp)
{
    struct stat st;

    if (!o->force && !lstat(o->path, &st)) {
        error_setg(errp, "'%s' exists: remove it, name another one, or use "
                   "--force", o->path);
        return false;
    }
    o->tmp = g_strconcat(o->path, ".XXXXXX", NULL);
    o->fd = g_mkstemp_full(o->tmp, O_RDWR | O_CLOEXEC, 0600);
    if (o->fd < 0) {
        error_setg_errno(errp, errno, "'%s' can not be created", o->tmp);
        g_clear_pointer(&o->tmp, g_free);
        return false;
    }
    to_unlink = o->tmp;
    watch_signals();
    /* It holds the same secrets. */
    if (fstat(o->in, &st) < 0 || fchmod(o->fd, st.st_mode & 0777) < 0) {
        error_setg_errno(errp, errno, "the permissions of '%s' can not be set",
                         o->tmp);
        return false;
    }
    return true;
}

FlatOutput *flat_output_new(int in, const char *path, bool force,
                            Error **errp)
{
    FlatOutput *o = g_new0(FlatOutput, 1);
    bool ok;

    o->in = in;
    o->fd = -1;
    o->path = g_strdup(path);
    o->force = force;
    o->blocks = g_array_new(false, false, sizeof(OutBlock));
    o->buf = g_malloc(BUFFER);
    o->window = g_malloc(WINDOW);
    if (path) {
        ok = create(o, errp);
    } else {
        o->fd = qemu_memfd_create("page-map-flatten", 0, false, 0, 0, errp);
        ok = o->fd >= 0;
    }
    if (!ok) {
        flat_output_free(o);
        return NULL;
    }
    return o;
}

void flat_output_free(FlatOutput *o)
{
    if (!o) {
        return;
    }
    if (o->fd >= 0) {
        close(o->fd);
    }
    if (o->tmp) {
        unlink(o->tmp);
        to_unlink = NULL;
        g_free(o->tmp);
    }
    g_array_unref(o->blocks);
    g_free(o->window);
    g_free(o->buf);
    g_free(o->path);
    g_free(o);
}

const char *flat_output_block_name(const FlatOutput *o, unsigned block)
{
    return g_array_index(o->blocks, OutBlock, block).name;
}

uint64_t flat_output_copied(const FlatOutput *o)
{
    return o->copied;
}

/* What is all zeroes stays a hole. */
static bool copy(FlatOutput *o, uint64_t from, uint64_t to, uint64_t n,
                 Error **errp)
{
    while (n && o->path) {
        size_t len = MIN(n, BUFFER);

        if (!read_at(o, o->in, from, o->buf, len, errp) ||
            (!buffer_is_zero(o->buf, len) &&
             !write_at(o, to, o->buf, len, errp))) {
            return false;
        }
        from += len;
        to += len;
        n -= len;
    }
    return true;
}

/* An offset of the other file may be near the largest one that there is. */
static bool advance(FlatOutput *o, uint64_t n, Error **errp)
{
    if (n > INT64_MAX - o->pos) {
        error_setg(errp, "the file that is to be written would be larger than "
                   "a file can be: this one is damaged");
        return false;
    }
    o->pos += n;
    return true;
}

bool flat_output_keep(FlatOutput *o, uint64_t from, uint64_t to, Error **errp)
{
    uint64_t at = o->pos;

    return advance(o, to - from, errp) && copy(o, from, at, to - from, errp);
}

/* The pages of a window of the bitmap, of which page @first is the first */
static bool copy_window(FlatOutput *o, const FlatBlock *b, const OutBlock *out,
                        uint64_t first, size_t n, Error **errp)
{
    size_t i = find_first_bit(o->window, n);

    while (i < n) {
        size_t end = find_next_zero_bit(o->window, n, i);
        uint64_t at = (first + i) << PM_PAGE_BITS;

        if (!copy(o, b->pages_offset + at, out->pages_offset + at,
                  (uint64_t)(end - i) << PM_PAGE_BITS, errp)) {
            return false;
        }
        o->copied += end - i;
        i = find_next_bit(o->window, n, end);
    }
    return true;
}

static bool copy_pages(FlatOutput *o, const FlatBlock *b, const OutBlock *out,
                       Error **errp)
{
    uint64_t size = flat_bitmap_size(b->length);
    uint64_t pages = b->length >> PM_PAGE_BITS;

    for (uint64_t at = 0; at < size; at += WINDOW) {
        size_t len = MIN(size - at, WINDOW);

        if (!read_at(o, o->in, b->bitmap_offset + at, o->window, len, errp)) {
            return false;
        }
        if (buffer_is_zero(o->window, len)) {
            continue;
        }
        if (!write_at(o, out->bitmap_offset + at, o->window, len, errp) ||
            !copy_window(o, b, out, at * 8, MIN(len * 8, pages - at * 8),
                         errp)) {
            return false;
        }
    }
    return true;
}

bool flat_output_block(FlatOutput *o, const FlatBlock *b, Error **errp)
{
    uint8_t header[FLAT_HEADER_SIZE];
    uint64_t at = o->pos;
    OutBlock out;

    pstrcpy(out.name, sizeof(out.name), b->name);
    if (!advance(o, sizeof(header), errp)) {
        return false;
    }
    out.bitmap_offset = o->pos;
    if (!advance(o, flat_bitmap_size(b->length), errp) ||
        !advance(o, -o->pos % ALIGNMENT, errp)) {
        return false;
    }
    out.pages_offset = o->pos;
    if (!advance(o, b->length, errp)) {
        return false;
    }
    g_array_append_val(o->blocks, out);

    stl_be_p(header, FLAT_VERSION_STOCK);
    stq_be_p(header + 4, PM_PAGE_SIZE);
    stq_be_p(header + 12, out.bitmap_offset);
    stq_be_p(header + 20, out.pages_offset);
    /* So that every byte of the bitmaps can be read */
    if (ftruncate(o->fd, o->pos) < 0) {
        error_setg_errno(errp, errno, "'%s' can not have 0x%" PRIx64 " bytes",
                         o->path ?: "the account", o->pos);
        return false;
    }
    return write_at(o, at, header, sizeof(header), errp) &&
           copy_pages(o, b, &out, errp);
}

/* A bitmap is an array of unsigned long of the host. */
static uint64_t bitmap_byte(const OutBlock *b, uint32_t page)
{
    return b->bitmap_offset + (page / 8 ^ (HOST_BIG_ENDIAN ? 7 : 0));
}

bool flat_output_has(FlatOutput *o, unsigned block, uint32_t page, bool *has,
                     Error **errp)
{
    const OutBlock *b = &g_array_index(o->blocks, OutBlock, block);
    uint8_t bits;

    if (!read_at(o, o->fd, bitmap_byte(b, page), &bits, 1, errp)) {
        return false;
    }
    *has = bits & 1 << page % 8;
    return true;
}

bool flat_output_page(FlatOutput *o, unsigned block, uint32_t page,
                      const void *content, Error **errp)
{
    const OutBlock *b = &g_array_index(o->blocks, OutBlock, block);
    uint64_t byte = bitmap_byte(b, page);
    uint8_t bits;

    if (o->path && content &&
        !write_at(o, b->pages_offset + ((uint64_t)page << PM_PAGE_BITS),
                  content, PM_PAGE_SIZE, errp)) {
        return false;
    }
    if (!read_at(o, o->fd, byte, &bits, 1, errp)) {
        return false;
    }
    bits |= 1 << page % 8;
    return write_at(o, byte, &bits, 1, errp);
}

static bool sync_directory(FlatOutput *o, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(o->path);
    int fd = qemu_open(dir, O_RDONLY | O_DIRECTORY, errp);
    bool ok;

    if (fd < 0) {
        return false;
    }
    ok = fsync(fd) == 0;
    if (!ok) {
        error_setg_errno(errp, errno, "directory '%s' can not be written to "
                         "storage", dir);
    }
    close(fd);
    return ok;
}

bool flat_output_commit(FlatOutput *o, Error **errp)
{
    unsigned flags = o->force ? 0 : RENAME_NOREPLACE;
    int ret;

    if (ftruncate(o->fd, o->pos) < 0 || fsync(o->fd) < 0) {
        error_setg_errno(errp, errno, "'%s' can not be written to storage",
                         o->tmp);
        return false;
    }
    ret = renameat2(AT_FDCWD, o->tmp, AT_FDCWD, o->path, flags);
    if (ret < 0 && flags && (errno == EINVAL || errno == ENOSYS)) {
        /* The file system cannot do it; nor can it be done without a gap. */
        if (access(o->path, F_OK) < 0) {
            ret = rename(o->tmp, o->path);
        } else {
            errno = EEXIST;
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, errno, "'%s' can not be called '%s'", o->tmp,
                         o->path);
        return false;
    }
    to_unlink = NULL;
    g_clear_pointer(&o->tmp, g_free);
    return sync_directory(o, errp);
}
