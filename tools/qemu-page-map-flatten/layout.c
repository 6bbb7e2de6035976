/*
 * qemu-page-map-flatten: the layout of a mapped-ram file with a page map
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "records.h"

/* Of QEMU's migration stream */
#define FILE_MAGIC          0x5145564d
#define FILE_VERSION        3
#define SECTION_START       FLAT_START
#define SECTION_PART        FLAT_PART
#define SECTION_END         FLAT_END
#define SUBSECTION          5
#define CONFIGURATION       7
#define COMMAND             8
#define SECTION_FOOTER      0x7e
#define RAM_VERSION         4
#define RAM_FLAG_MEM_SIZE   4
#define RAM_FLAG_EOS        0x10
#define PAGE_MAP_VERSION    1

#define MAX_CAPS            256
#define BUFFER              (64 * 1024)     /* at least PM_MAX_BODY */

typedef struct Parser {
    const FlatOps *ops;
    void *opaque;
    uint64_t size;
    uint64_t pos;
    uint64_t kept;              /* what is before it was kept or left out */
    uint64_t buf_at;
    size_t buf_len;
    uint8_t *buf;
    GArray *blocks;             /* FlatBlock */
    FlatRecords *records;
    bool has_page_map, has_ram, page_map_ended, ram_ended, has_footers;
    uint64_t sections;          /* parts that have ended */
    uint32_t page_map_id, ram_id;
} Parser;

/* The next @n bytes, at most BUFFER; valid until the next call */
static const uint8_t *peek(Parser *p, size_t n, Error **errp)
{
    if (n > p->size - p->pos) {
        error_setg(errp, "the file ends at 0x%" PRIx64 ", where more is "
                   "needed: it is cut off or damaged", p->size);
        return NULL;
    }
    if (p->pos < p->buf_at || p->pos - p->buf_at > p->buf_len ||
        n > p->buf_len - (p->pos - p->buf_at)) {
        size_t len = MIN(BUFFER, p->size - p->pos);

        p->buf_len = 0;
        if (!p->ops->read(p->opaque, p->pos, p->buf, len, errp)) {
            return NULL;
        }
        p->buf_at = p->pos;
        p->buf_len = len;
    }
    return p->buf + (p->pos - p->buf_at);
}

static const uint8_t *take(Parser *p, size_t n, Error **errp)
{
    const uint8_t *b = peek(p, n, errp);

    p->pos += b ? n : 0;
    return b;
}

static bool skip(Parser *p, uint64_t n, Error **errp)
{
    if (n > p->size - p->pos) {
        error_setg(errp, "0x%" PRIx64 " bytes reach beyond the end of the "
                   "file: it is cut off or damaged", n);
        return false;
    }
    p->pos += n;
    return true;
}

static bool get8(Parser *p, uint8_t *v, Error **errp)
{
    const uint8_t *b = take(p, 1, errp);

    *v = b ? *b : 0;
    return b;
}

static bool get16(Parser *p, uint16_t *v, Error **errp)
{
    const uint8_t *b = take(p, 2, errp);

    *v = b ? lduw_be_p(b) : 0;
    return b;
}

static bool get32(Parser *p, uint32_t *v, Error **errp)
{
    const uint8_t *b = take(p, 4, errp);

    *v = b ? ldl_be_p(b) : 0;
    return b;
}

static bool get64(Parser *p, uint64_t *v, Error **errp)
{
    const uint8_t *b = take(p, 8, errp);

    *v = b ? ldq_be_p(b) : 0;
    return b;
}

/* A length of 8 bits, and as many bytes */
static bool get_string(Parser *p, char s[256], Error **errp)
{
    const uint8_t *b;
    uint8_t n;

    if (!get8(p, &n, errp)) {
        return false;
    }
    b = take(p, n, errp);
    if (!b) {
        return false;
    }
    memcpy(s, b, n);
    s[n] = 0;
    if (strlen(s) != n) {
        error_setg(errp, "a name has a NUL inside: the file is damaged");
        return false;
    }
    return flat_check_name("part of the file", s, errp);
}

/* Everything up to @to stays as it is. */
static bool keep(Parser *p, uint64_t to, Error **errp)
{
    uint64_t from = p->kept;

    p->kept = to;
    return from == to || p->ops->keep(p->opaque, from, to, errp);
}

/* What was read since the last keep() is left out. */
static void leave_out(Parser *p)
{
    p->kept = p->pos;
}

static bool parse_capabilities(Parser *p, bool *mapped_ram, Error **errp)
{
    char name[256];
    uint32_t n;

    if (!get32(p, &n, errp)) {
        return false;
    }
    if (n > MAX_CAPS) {
        error_setg(errp, "%" PRIu32 " capabilities: the file is damaged", n);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!get_string(p, name, errp)) {
            return false;
        }
        *mapped_ram |= !strcmp(name, "mapped-ram");
    }
    return true;
}

static bool parse_subsection(Parser *p, bool *mapped_ram, Error **errp)
{
    uint32_t version, bits;
    char name[256];

    if (!skip(p, 1, errp) || !get_string(p, name, errp) ||
        !get32(p, &version, errp)) {
        return false;
    }
    if (version != 1) {
        error_setg(errp, "version %" PRIu32 " of '%s' is not known to this "
                   "release; use that of the QEMU that wrote the file",
                   version, name);
        return false;
    }
    if (!strcmp(name, "configuration/capabilities")) {
        return parse_capabilities(p, mapped_ram, errp);
    }
    if (!strcmp(name, "configuration/uuid")) {
        return skip(p, 16, errp);
    }
    if (!strcmp(name, "configuration/target-page-bits")) {
        if (!get32(p, &bits, errp)) {
            return false;
        }
        if (bits != PM_PAGE_BITS) {
            error_setg(errp, "pages of 2^%" PRIu32 " bytes, where a page map "
                       "has only those of %u: the file is damaged", bits,
                       PM_PAGE_SIZE);
            return false;
        }
        return true;
    }
    error_setg(errp, "'%s' is not known to this release; use that of the QEMU "
               "that wrote the file", name);
    return false;
}

static bool parse_configuration(Parser *p, Error **errp)
{
    bool mapped_ram = false;
    const uint8_t *b;
    uint32_t n;

    if (!skip(p, 1, errp) || !get32(p, &n, errp) || !skip(p, n, errp)) {
        return false;
    }
    while ((b = peek(p, 1, errp)) && *b == SUBSECTION) {
        if (!parse_subsection(p, &mapped_ram, errp)) {
            return false;
        }
    }
    if (b && !mapped_ram) {
        error_setg(errp, "it was not written with the capability mapped-ram; "
                   "restore it in QEMU, and write it again with it");
        return false;
    }
    return b;
}

static bool parse_head(Parser *p, Error **errp)
{
    uint32_t magic, version;
    const uint8_t *b;

    if (!get32(p, &magic, errp) || !get32(p, &version, errp)) {
        return false;
    }
    if (magic != FILE_MAGIC || version != FILE_VERSION) {
        error_setg(errp, "this is not a file that QEMU's 'migrate file:' "
                   "writes, or not of version %d; name such a file",
                   FILE_VERSION);
        return false;
    }
    b = peek(p, 1, errp);
    if (!b) {
        return false;
    }
    return *b != CONFIGURATION || parse_configuration(p, errp);
}

static bool parse_messages(Parser *p, FlatPart part, Error **errp)
{
    for (;;) {
        const uint8_t *b = take(p, PM_HEADER_SIZE, errp);
        PmMsgType type;
        uint32_t len;

        if (!b || !pm_get_header(b, &type, &len, errp)) {
            return false;
        }
        if (type == PM_MSG_END) {
            return flat_records_end(p->records, part, errp);
        }
        b = take(p, len, errp);
        if (!b || !flat_records_message(p->records, part, type, b, len,
                                        errp)) {
            return false;
        }
    }
}

static bool parse_eos(Parser *p, Error **errp)
{
    uint64_t flags;

    if (!get64(p, &flags, errp)) {
        return false;
    }
    if (flags != RAM_FLAG_EOS) {
        error_setg(errp, "RAM with 0x%" PRIx64 ", which no mapped-ram file "
                   "has: the file is damaged", flags);
        return false;
    }
    return true;
}

static bool parse_mapped_header(Parser *p, FlatBlock *b, Error **errp)
{
    uint64_t page_size;
    uint32_t version;

    if (!get32(p, &version, errp) || !get64(p, &page_size, errp) ||
        !get64(p, &b->bitmap_offset, errp) ||
        !get64(p, &b->pages_offset, errp)) {
        return false;
    }
    if (version == FLAT_VERSION_STOCK) {
        error_setg(errp, "RAM block '%s' has version 1, in a file with a page "
                   "map: the file is damaged", b->name);
        return false;
    }
    if (version != FLAT_VERSION_PAGE_MAP) {
        error_setg(errp, "RAM block '%s' has version %" PRIu32 ", which is "
                   "not known to this release; use that of the QEMU that "
                   "wrote the file", b->name, version);
        return false;
    }
    if (page_size != PM_PAGE_SIZE) {
        error_setg(errp, "RAM block '%s' has pages of %" PRIu64 " bytes, "
                   "where a page map has only those of %u: the file is "
                   "damaged", b->name, page_size, PM_PAGE_SIZE);
        return false;
    }
    /* Then none of them overlaps another one, or anything else. */
    if (b->bitmap_offset < p->pos || b->bitmap_offset > p->size ||
        b->pages_offset < b->bitmap_offset || b->pages_offset > p->size ||
        b->length > p->size - b->pages_offset ||
        flat_bitmap_size(b->length) > b->pages_offset - b->bitmap_offset ||
        b->pages_offset % PM_PAGE_SIZE) {
        error_setg(errp, "RAM block '%s' of 0x%" PRIx64 " bytes has its bitmap "
                   "at 0x%" PRIx64 " and its pages at 0x%" PRIx64 " of 0x%"
                   PRIx64 ", where they can not be: the file is cut off or "
                   "damaged", b->name, b->length, b->bitmap_offset,
                   b->pages_offset, p->size);
        return false;
    }
    return true;
}

static bool parse_block(Parser *p, uint64_t *left, Error **errp)
{
    uint64_t header;
    FlatBlock b;

    if (p->blocks->len == FLAT_MAX_BLOCKS) {
        error_setg(errp, "more than %d RAM blocks: the file is damaged",
                   FLAT_MAX_BLOCKS);
        return false;
    }
    memset(&b, 0, sizeof(b));
    if (!get_string(p, b.name, errp) || !get64(p, &b.length, errp)) {
        return false;
    }
    if (!b.length || b.length % PM_PAGE_SIZE || b.length > *left) {
        error_setg(errp, "RAM block '%s' of 0x%" PRIx64 " bytes, of 0x%" PRIx64
                   " in all that are left: the file is damaged", b.name,
                   b.length, *left);
        return false;
    }
    for (guint i = 0; i < p->blocks->len; i++) {
        if (!strcmp(g_array_index(p->blocks, FlatBlock, i).name, b.name)) {
            error_setg(errp, "RAM block '%s' comes twice: the file is damaged",
                       b.name);
            return false;
        }
    }
    header = p->pos;
    if (!parse_mapped_header(p, &b, errp) || !keep(p, header, errp)) {
        return false;
    }
    *left -= b.length;
    p->pos = b.pages_offset + b.length;
    leave_out(p);
    g_array_append_val(p->blocks, b);
    return p->ops->block(p->opaque, &b, errp);
}

static bool parse_blocks(Parser *p, Error **errp)
{
    uint64_t total;

    if (!get64(p, &total, errp)) {
        return false;
    }
    if ((total & (PM_PAGE_SIZE - 1)) != RAM_FLAG_MEM_SIZE) {
        error_setg(errp, "RAM does not begin with its size: the file is "
                   "damaged");
        return false;
    }
    total -= RAM_FLAG_MEM_SIZE;
    while (total) {
        if (!parse_block(p, &total, errp)) {
            return false;
        }
    }
    return parse_eos(p, errp);
}

/* Old machine types have none, in the whole file. */
static bool parse_footer(Parser *p, uint32_t id, Error **errp)
{
    const uint8_t *b = peek(p, 1, errp);
    uint32_t v;

    if (!b) {
        return false;
    }
    if (!p->sections++) {
        p->has_footers = *b == SECTION_FOOTER;
    }
    if (!p->has_footers) {
        return true;
    }
    if (*b != SECTION_FOOTER) {
        error_setg(errp, "section %" PRIu32 " does not end here: the file is "
                   "damaged", id);
        return false;
    }
    if (!skip(p, 1, errp) || !get32(p, &v, errp)) {
        return false;
    }
    if (v != id) {
        error_setg(errp, "section %" PRIu32 " ends as section %" PRIu32 ": "
                   "the file is damaged", id, v);
        return false;
    }
    return true;
}

static bool parse_start(Parser *p, Error **errp)
{
    uint64_t begin = p->pos;
    uint32_t id, instance, version;
    char name[256];

    if (!skip(p, 1, errp) || !get32(p, &id, errp) ||
        !get_string(p, name, errp) || !get32(p, &instance, errp) ||
        !get32(p, &version, errp)) {
        return false;
    }
    if (!strcmp(name, "page-map") && !instance &&
        version == PAGE_MAP_VERSION && !p->has_page_map && !p->has_ram) {
        p->has_page_map = true;
        p->page_map_id = id;
        if (!keep(p, begin, errp) || !parse_messages(p, FLAT_START, errp) ||
            !parse_footer(p, id, errp)) {
            return false;
        }
        leave_out(p);
        return true;
    }
    if (!strcmp(name, "ram") && !instance && version == RAM_VERSION &&
        !p->has_ram) {
        if (!p->has_page_map) {
            error_setg(errp, "it has no page map: QEMU restores it as it is");
            return false;
        }
        if (id == p->page_map_id) {
            error_setg(errp, "two sections have the number %" PRIu32 ": the "
                       "file is damaged", id);
            return false;
        }
        p->has_ram = true;
        p->ram_id = id;
        return parse_blocks(p, errp) && parse_footer(p, id, errp);
    }
    error_setg(errp, "section '%s', instance %" PRIu32 ", version %" PRIu32
               " is here, which this tool does not know; restore the file in "
               "QEMU with the page map", name, instance, version);
    return false;
}

static bool parse_part(Parser *p, FlatPart part, Error **errp)
{
    uint64_t begin = p->pos;
    uint32_t id;

    if (!skip(p, 1, errp) || !get32(p, &id, errp)) {
        return false;
    }
    if (p->has_ram && id == p->page_map_id && !p->page_map_ended) {
        p->page_map_ended = part == FLAT_END;
        if (!keep(p, begin, errp) || !parse_messages(p, part, errp) ||
            !parse_footer(p, id, errp)) {
            return false;
        }
        leave_out(p);
        return true;
    }
    if (p->has_ram && id == p->ram_id) {
        p->ram_ended = part == FLAT_END;
        /* What comes then is not looked at. */
        if (p->ram_ended && !p->page_map_ended) {
            error_setg(errp, "RAM ends before the page map: the file is "
                       "damaged");
            return false;
        }
        return parse_eos(p, errp) && parse_footer(p, id, errp);
    }
    error_setg(errp, "a part of section %" PRIu32 ", which has not begun or "
               "has ended: the file is damaged", id);
    return false;
}

static bool parse_command(Parser *p, Error **errp)
{
    uint16_t command, len;

    return skip(p, 1, errp) && get16(p, &command, errp) &&
           get16(p, &len, errp) && skip(p, len, errp);
}

static bool parse_section(Parser *p, Error **errp)
{
    const uint8_t *b = peek(p, 1, errp);

    if (!b) {
        return false;
    }
    switch (*b) {
    case SECTION_START:
        return parse_start(p, errp);
    case SECTION_PART:
        return parse_part(p, FLAT_PART, errp);
    case SECTION_END:
        return parse_part(p, FLAT_END, errp);
    case COMMAND:
        return parse_command(p, errp);
    default:
        error_setg(errp, "a section of type %u in front of RAM's end, which "
                   "this tool does not know (virtio-mem has one); restore the "
                   "file in QEMU with the page map", *b);
        return false;
    }
}

bool flat_parse(const FlatOps *ops, void *opaque, uint64_t size, Error **errp)
{
    ERRP_GUARD();
    g_autofree uint8_t *buf = g_malloc(BUFFER);
    g_autoptr(GArray) blocks = g_array_new(false, false, sizeof(FlatBlock));
    Parser p = {
        .ops = ops, .opaque = opaque, .size = size, .buf = buf,
        .blocks = blocks,
    };
    bool ok;

    p.records = flat_records_new(ops, opaque, blocks);
    ok = parse_head(&p, errp);
    while (ok && !p.ram_ended) {
        ok = parse_section(&p, errp);
    }
    ok = ok && keep(&p, size, errp);
    flat_records_free(p.records);
    if (!ok) {
        error_prepend(errp, "at 0x%" PRIx64 ": ", p.pos);
    }
    return ok;
}
