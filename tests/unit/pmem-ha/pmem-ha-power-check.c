/*
 * What qemu-pmem-replica makes of files that a loss of power left behind
 *
 *     pmem-ha-power-check DIR SIZE JOURNAL NAME...
 *
 * A helper of tests/functional/test_power_loss.py, which says what the files
 * hold.  For each state it writes them to DIR, opens the export as the daemon
 * does, promotes it, and says in one line what came of it.  The code under
 * test is the daemon's own, in this process: a start of the daemon for each of
 * some hundred thousand states would take hours.
 *
 * Messages on stdin: type (4), length (4), payload; little endian.
 *
 *   MODEL  generation (8), epoch (8), image; numbered from 0
 *   BASE   inodes (4), pieces (4); for each inode: length (4), content; for
 *          each piece: inode (4), sector (4), 512 bytes
 *   STATE  names (4), pieces (4); for each name: NAME's number (4), inode (4);
 *          the size of each inode (8); the pieces that arrived (4 each)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include "block/block.h"
#include "crypto/init.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "hw/mem/pmem-ha-media.h"
#include "system/runstate.h"
#include "tools/qemu-pmem-replica/qapi/qapi-commands.h"
#include "tools/qemu-pmem-replica/export.h"

#define SECTOR 512
/* What the test sends is far less. */
#define MAX_MESSAGE (64 * MiB)

enum { MSG_MODEL = 1, MSG_BASE, MSG_STATE };

typedef struct Model {
    uint64_t generation;
    uint64_t epoch;
    uint8_t *image;
} Model;

typedef struct Piece {
    uint32_t inode;
    uint32_t sector;
    const uint8_t *data;
} Piece;

static const char *dir;
static uint64_t size;
static char **paths;            /* of the names */
static unsigned n_paths;
static char *img_path, *journal_path, *state_path, *marker_path;

static GArray *models;
static uint8_t *base;           /* the message that pieces point into */
static GPtrArray *contents;     /* of inodes: GByteArray */
static GArray *pieces;

/* It is another power loss that would show what is missing here. */
static int no_sync(int fd)
{
    return 0;
}

static const PmemHaMediaHooks fast = { .sync = no_sync };

/* As of the daemon's main.c */
void qemu_system_killed(int signal, pid_t pid)
{
    exit(EXIT_FAILURE);
}

void qmp_quit(Error **errp)
{
}

static void G_NORETURN bad(const char *why)
{
    error_report("pmem-ha-power-check: %s", why);
    exit(EXIT_FAILURE);
}

typedef struct Reader {
    const uint8_t *p;
    size_t left;
} Reader;

static const uint8_t *take(Reader *r, size_t n)
{
    const uint8_t *p = r->p;

    if (n > r->left) {
        bad("a message is too short");
    }
    r->p += n;
    r->left -= n;
    return p;
}

static uint32_t take32(Reader *r)
{
    return ldl_le_p(take(r, 4));
}

static uint64_t take64(Reader *r)
{
    return ldq_le_p(take(r, 8));
}

static void add_model(Reader *r)
{
    Model m;

    m.generation = take64(r);
    m.epoch = take64(r);
    m.image = g_memdup2(take(r, size), size);
    g_array_append_val(models, m);
}

static void set_base(Reader *r)
{
    uint32_t n_inodes = take32(r);
    uint32_t n_pieces = take32(r);

    g_ptr_array_set_size(contents, 0);
    g_array_set_size(pieces, 0);
    while (n_inodes--) {
        GByteArray *a = g_byte_array_new();
        uint32_t len = take32(r);

        g_byte_array_append(a, take(r, len), len);
        g_ptr_array_add(contents, a);
    }
    while (n_pieces--) {
        Piece p;

        p.inode = take32(r);
        p.sector = take32(r);
        p.data = take(r, SECTOR);
        if (p.inode >= contents->len || p.sector > MAX_MESSAGE / SECTOR) {
            bad("a piece of no file");
        }
        g_array_append_val(pieces, p);
    }
}

static void put_file(const char *path, const uint8_t *data, size_t len,
                     uint64_t total)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || pwrite(fd, data, MIN(len, total), 0) != MIN(len, total) ||
        ftruncate(fd, total) < 0) {
        bad(strerror(errno));
    }
    close(fd);
}

/* Make the files of a state. */
static void put_state(Reader *r)
{
    uint32_t n_names = take32(r);
    uint32_t n_chosen = take32(r);
    Reader names = { .p = take(r, n_names * 8), .left = n_names * 8 };
    Reader sizes = { .p = take(r, contents->len * 8),
                     .left = contents->len * 8 };
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    unsigned i;

    for (i = 0; i < contents->len; i++) {
        GByteArray *from = g_ptr_array_index(contents, i);
        GByteArray *a = g_byte_array_sized_new(from->len);

        g_byte_array_append(a, from->data, from->len);
        g_ptr_array_add(made, a);
    }
    while (n_chosen--) {
        uint32_t n = take32(r);
        Piece *p = &g_array_index(pieces, Piece, n);
        GByteArray *a;
        guint end;

        if (n >= pieces->len) {
            bad("no such piece");
        }
        a = g_ptr_array_index(made, p->inode);
        end = (p->sector + 1) * SECTOR;
        if (a->len < end) {
            guint old = a->len;

            g_byte_array_set_size(a, end);
            memset(a->data + old, 0, end - old);
        }
        memcpy(a->data + end - SECTOR, p->data, SECTOR);
    }
    for (i = 0; i < n_paths; i++) {
        unlink(paths[i]);
    }
    while (n_names--) {
        uint32_t name = take32(&names);
        uint32_t inode = take32(&names);
        GByteArray *a;

        if (name >= n_paths || inode >= made->len) {
            bad("no such name or file");
        }
        a = g_ptr_array_index(made, inode);
        put_file(paths[name], a->data, a->len,
                 ldq_le_p(sizes.p + inode * 8));
    }
    for (i = 0; i < made->len; i++) {
        g_byte_array_unref(g_ptr_array_index(made, i));
    }
}

/* The number of the newest model that the image equals, or -1 */
static int which_model(uint64_t generation, uint64_t epoch)
{
    g_autofree char *now = NULL;
    gsize len;
    int i;

    if (!g_file_get_contents(img_path, &now, &len, NULL) || len != size) {
        return -1;
    }
    for (i = models->len - 1; i >= 0; i--) {
        Model *m = &g_array_index(models, Model, i);

        if ((!epoch || (m->epoch == epoch && m->generation == generation)) &&
            !memcmp(m->image, now, size)) {
            return i;
        }
    }
    return -1;
}

/* Does the state file certify the image, as the second host will check? */
static const char *check_state_file(PmemReplicaPromotion *p)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree char *now = NULL;
    uint8_t digest[PMEM_HA_STATE_DIGEST];
    gsize len = sizeof(digest);
    PmemHaStateRecord rec;
    PmemHaStateFile *f;
    bool found;

    f = pmem_ha_state_open(state_path, &rec, &found, NULL);
    pmem_ha_state_close(f);
    if (!f || !found) {
        return "no state file";
    }
    if (!g_file_get_contents(img_path, &now, &len, NULL)) {
        return "no image";
    }
    g_checksum_update(sum, (uint8_t *)now, len);
    len = sizeof(digest);
    g_checksum_get_digest(sum, digest, &len);
    if (!rec.clean || memcmp(rec.digest, digest, len)) {
        return "digest in the state file";
    }
    if (rec.generation != p->generation || rec.captured != p->epoch ||
        rec.acked != p->epoch || rec.history[0].last_epoch != p->epoch ||
        rec.history[0].generation + 1 != p->generation) {
        return "epochs in the state file";
    }
    return access(marker_path, F_OK) == 0 ? "marker is still there" : "";
}

static ReplicaExport *open_export(Error **errp)
{
    PmemReplicaExportOptions o = {
        .name = (char *)"pm0",
        .mem_path = img_path,
        .journal = journal_path,
        .size = size,
    };

    return export_add(&o, errp) ? export_find("pm0") : NULL;
}

static void say(const char *what, uint64_t generation, uint64_t epoch,
                int before, int after, bool held, const char *text)
{
    g_autofree char *line = g_strdelimit(g_strdup(text), "\n", ' ');

    printf("%s %" PRIu64 " %" PRIu64 " %d %d %d %s\n", what, generation, epoch,
           before, after, held, line);
}

static void try_state(void)
{
    int before = which_model(0, 0);
    PmemReplicaPromotion *p;
    Error *err = NULL;
    ReplicaExport *e = open_export(&err);
    const char *wrong;
    int after;
    bool held;

    if (!e) {
        say("start", 0, 0, before, -1, false, error_get_pretty(err));
        error_free(err);
        return;
    }
    held = e->img;
    if (e->j->damage) {
        say("damage", 0, 0, before, -1, held, e->j->damage);
        export_cleanup();
        return;
    }
    p = export_promote(e, NULL, false, &err);
    export_cleanup();
    if (!p) {
        say("promote", 0, 0, before, -1, held, error_get_pretty(err));
        error_free(err);
        return;
    }
    after = which_model(p->generation - 1, p->epoch);
    wrong = check_state_file(p);
    if (!*wrong) {
        /* The image is the second host's now: another start keeps off it. */
        e = open_export(&err);
        if (!e || e->img) {
            wrong = e ? "taken again by the next start" : "no next start";
        }
        error_free(err);
        export_cleanup();
    }
    say(*wrong ? "state" : "ok", p->generation, p->epoch, before, after, held,
        wrong);
    qapi_free_PmemReplicaPromotion(p);
}

static bool read_message(uint32_t *type, GByteArray *a)
{
    uint8_t head[8];

    if (fread(head, sizeof(head), 1, stdin) != 1) {
        return false;
    }
    *type = ldl_le_p(head);
    if (ldl_le_p(head + 4) > MAX_MESSAGE) {
        bad("a message is too long");
    }
    g_byte_array_set_size(a, ldl_le_p(head + 4));
    return !a->len || fread(a->data, a->len, 1, stdin) == 1;
}

static void init(int argc, char **argv)
{
    int i;

    /* Each state needs buffers of 1 MiB: not new pages for each of them. */
    mallopt(M_MMAP_THRESHOLD, 32 * MiB);
    mallopt(M_TRIM_THRESHOLD, 64 * MiB);
    error_init(argv[0]);
    module_call_init(MODULE_INIT_QOM);
    qcrypto_init(&error_fatal);
    bdrv_init();
    monitor_init_globals();
    qemu_init_main_loop(&error_fatal);
    pmem_ha_media_set_hooks(&fast);

    if (argc < 4 || qemu_strtou64(argv[2], NULL, 10, &size) < 0 ||
        size > MAX_MESSAGE) {
        bad("usage: pmem-ha-power-check DIR SIZE JOURNAL NAME...");
    }
    dir = argv[1];
    n_paths = argc - 3;
    paths = g_new0(char *, n_paths);
    for (i = 0; i < n_paths; i++) {
        paths[i] = g_strdup_printf("%s/%s", dir, argv[i + 3]);
    }
    img_path = g_strdup_printf("%s/img", dir);
    journal_path = paths[0];
    state_path = g_strdup_printf("%s/img.state", dir);
    marker_path = g_strdup_printf("%s/img.replica", dir);
    models = g_array_new(false, false, sizeof(Model));
    contents = g_ptr_array_new_with_free_func((GDestroyNotify)
                                              g_byte_array_unref);
    pieces = g_array_new(false, false, sizeof(Piece));
}

int main(int argc, char **argv)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    uint32_t type;

    init(argc, argv);
    while (read_message(&type, a)) {
        Reader r = { .p = a->data, .left = a->len };

        switch (type) {
        case MSG_MODEL:
            add_model(&r);
            break;
        case MSG_BASE:
            g_free(base);
            base = g_memdup2(a->data, a->len);
            r.p = base;
            set_base(&r);
            break;
        case MSG_STATE:
            /* What the code reports is of interest for this state alone. */
            if (ftruncate(STDERR_FILENO, 0) == 0) {
                lseek(STDERR_FILENO, 0, SEEK_SET);
            }
            put_state(&r);
            try_state();
            if (fflush(stdout)) {
                return EXIT_FAILURE;
            }
            break;
        default:
            bad("a message of an unknown type");
        }
    }
    return EXIT_SUCCESS;
}
