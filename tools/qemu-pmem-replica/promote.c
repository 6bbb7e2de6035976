/*
 * qemu-pmem-replica: promotion
 *
 * The steps, and what a crash between them leaves, are specified in
 * docs/specs/pmem-ha-media.rst.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/lockable.h"
#include "qemu/uuid.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "trace.h"

/* A value within an option: commas are doubled. */
static char *option_value(const char *text)
{
    GString *s = g_string_new(NULL);

    for (; *text; text++) {
        g_string_append_c(s, *text);
        if (*text == ',') {
            g_string_append_c(s, ',');
        }
    }
    return g_string_free(s, FALSE);
}

static void add_arg(strList ***tail, GString *text, const char *arg)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789-_=,./:+@%";
    g_autofree char *quoted = NULL;

    if (strspn(arg, plain) != strlen(arg)) {
        quoted = g_shell_quote(arg);
    }
    g_string_append_printf(text, "%s%s", text->len ? " " : "", quoted ?: arg);
    QAPI_LIST_APPEND(*tail, g_strdup(arg));
}

/* One device and its memory backend: @n counts from 0. */
static void add_device(ReplicaExport *e, PmemReplicaPromotion *p,
                       strList ***tail, GString *text, unsigned n,
                       const PmemHaMember *m, uint64_t offset)
{
    g_autofree char *mem = option_value(p->mem_path);
    g_autofree char *state = option_value(p->state_file);
    g_autofree char *group = option_value(e->name);
    GString *object = g_string_new(NULL);
    GString *device = g_string_new(NULL);

    g_string_printf(object, "memory-backend-file,id=mem%u,mem-path=%s", n, mem);
    if (offset) {
        g_string_append_printf(object, ",offset=%" PRIu64, offset);
    }
    g_string_append_printf(object, ",size=%" PRIu64 ",share=on", m->size);

    g_string_printf(device, "pmem-ha,id=pm%u,memdev=mem%u,slot=%" PRIu32, n, n,
                    m->slot);
    if (m->label_size) {
        g_string_append_printf(device, ",label-size=%" PRIu64, m->label_size);
    }
    if (!qemu_uuid_is_null(&m->uuid)) {
        g_autofree char *uuid = qemu_uuid_unparse_strdup(&m->uuid);

        g_string_append_printf(device, ",uuid=%s", uuid);
    }
    if (e->j->super.n_more) {
        g_string_append_printf(device, ",consistency-group=%s", group);
    }
    g_string_append_printf(device, ",state-file=%s", state);

    add_arg(tail, text, "-object");
    add_arg(tail, text, object->str);
    add_arg(tail, text, "-device");
    add_arg(tail, text, device->str);
    g_string_free(object, TRUE);
    g_string_free(device, TRUE);
}

static void set_command_line(ReplicaExport *e, PmemReplicaPromotion *p)
{
    const JournalSuper *s = &e->j->super;
    PmemHaMember first = {
        .uuid = s->uuid,
        .size = s->size,
        .label_size = s->label_size,
        .slot = s->slot,
    };
    GString *text = g_string_new(NULL);
    strList **tail = &p->command_line;
    uint64_t offset;
    unsigned i;

    for (i = 0; i < s->n_more; i++) {
        first.size -= s->more[i].size;
    }
    add_device(e, p, &tail, text, 0, &first, 0);
    offset = first.size;
    for (i = 0; i < s->n_more; i++) {
        add_device(e, p, &tail, text, i + 1, &s->more[i], offset);
        offset += s->more[i].size;
    }
    p->command_line_text = g_string_free(text, FALSE);
}

static PmemReplicaPromotion *result(ReplicaExport *e)
{
    const JournalSuper *s = &e->j->super;
    g_autofree char *real = realpath(e->mem_path, NULL);
    PmemReplicaPromotion *p = g_new0(PmemReplicaPromotion, 1);

    p->export = g_strdup(e->name);
    p->generation = s->generation;
    p->epoch = s->applied;
    p->mem_path = g_strdup(real ?: e->mem_path);
    p->state_file = g_strdup(s->state_path);
    set_command_line(e, p);
    return p;
}

/* Nothing is decided that the log can not carry out.  Both locks held. */
static bool check_log(ReplicaExport *e, Error **errp)
{
    JournalCursor c = e->applied;
    Error *err = NULL;

    while (c.pos < e->j->end.pos) {
        if (!journal_read_epoch(e->j, &c, e->apply_buf, NULL, NULL, NULL,
                                &err)) {
            /* Damaged since it was written: find out from where on. */
            error_free(err);
            return journal_scan(e->j, errp);
        }
    }
    return true;
}

static bool check_damage(ReplicaExport *e, bool force, Error **errp)
{
    if (!e->j->damage || force) {
        return true;
    }
    error_setg(errp, "export '%s' can not be promoted: %s. With 'force', "
               "the image is promoted as of epoch %" PRIu64 "; it may hold "
               "parts of later epochs, so check its content",
               e->name, e->j->damage, e->j->end.epoch);
    return false;
}

/* Step 1.  Both locks held. */
static bool decide(ReplicaExport *e, const char *state_path, bool force,
                   Error **errp)
{
    JournalSuper s = e->j->super;

    if (!s.have_image) {
        error_setg(errp, "export '%s' holds no whole image; wait until the "
                   "first full copy is complete", e->name);
        return false;
    }
    journal_abort(e->j);
    if (!journal_settle(e->j, errp) || !check_log(e, errp) ||
        !check_damage(e, force, errp)) {
        return false;
    }
    journal_push_history(&s, e->j->end.epoch);
    s.generation++;
    s.taker = 0;
    s.promoted = true;
    g_strlcpy(s.state_path, state_path, sizeof(s.state_path));
    return journal_write_super(e->j, &s, true, errp);
}

/* Step 2.  apply_lock held. */
static bool apply_rest(ReplicaExport *e, const char *state_path, Error **errp)
{
    JournalSuper s;

    image_copy_abandon(e->img);
    if (!export_apply_all(e, errp) || !export_sync_image(e, errp)) {
        return false;
    }
    QEMU_LOCK_GUARD(&e->lock);
    s = e->j->super;
    s.applied = e->j->end.epoch;
    /* Damage since the decision: claim no epoch that is not there. */
    s.history[0].last_epoch = MIN(s.history[0].last_epoch, s.applied);
    if (*state_path) {
        /* By command: whoever asked to adopt it must not get it afterwards. */
        s.taker = 0;
    }
    s.salt = journal_new_salt();
    g_strlcpy(s.state_path, state_path, sizeof(s.state_path));
    if (!journal_write_super(e->j, &s, false, errp)) {
        return false;
    }
    journal_restart_log(e->j);
    e->applied = journal_base(e->j);
    e->applied_epoch = e->applied.epoch;
    return true;
}

/* Step 3. */
static bool write_state(ReplicaExport *e, PmemHaStateFile *f, Error **errp)
{
    const JournalSuper *s = &e->j->super;
    PmemHaStateRecord rec = {
        .uuid = s->uuid,
        .size = s->size,
        .generation = s->generation,
        .captured = s->applied,
        .acked = s->applied,
        .clean = true,
    };

    memcpy(rec.history, s->history, sizeof(rec.history));
    return image_digest(e->img, rec.digest, errp) &&
           pmem_ha_state_boot_id(&rec.boot_id, errp) &&
           pmem_ha_state_write(f, &rec, true, errp);
}

/*
 * Before anything is decided: can the state file be written, and is it not
 * that of another device?
 */
static PmemHaStateFile *open_state(ReplicaExport *e, const char *path,
                                   Error **errp)
{
    PmemHaStateRecord rec;
    PmemHaStateFile *f;
    bool found;

    if (strlen(path) > JOURNAL_MAX_PATH) {
        error_setg(errp, "path of state-file '%s' is longer than %d bytes",
                   path, JOURNAL_MAX_PATH);
        return NULL;
    }
    f = pmem_ha_state_open(path, &rec, &found, errp);
    if (f && found && !qemu_uuid_is_equal(&rec.uuid, &e->j->super.uuid)) {
        g_autofree char *uuid = qemu_uuid_unparse_strdup(&rec.uuid);

        error_setg(errp, "state-file '%s' belongs to the device with uuid %s; "
                   "name another one", path, uuid);
        pmem_ha_state_close(f);
        return NULL;
    }
    return f;
}

/* Both locks held; drops neither.  Returns: the path to use, or NULL. */
static char *choose_state_path(ReplicaExport *e, const char *asked)
{
    if (asked) {
        return g_canonicalize_filename(asked, NULL);
    }
    if (e->j->super.promoted && *e->j->super.state_path) {
        return g_strdup(e->j->super.state_path);
    }
    return g_strdup_printf("%s.state", e->img->path);
}

PmemReplicaPromotion *export_promote(ReplicaExport *e, const char *state_file,
                                     bool force, Error **errp)
{
    PmemReplicaPromotion *p = NULL;
    PmemHaStateFile *f = NULL;
    g_autofree char *path = NULL;
    bool decided;

    qatomic_set(&e->promoting, 1);
    QEMU_LOCK_GUARD(&e->apply_lock);

    WITH_QEMU_LOCK_GUARD(&e->lock) {
        /* Whoever waits for it goes on when the lock is free. */
        qatomic_set(&e->promoting, 0);
        qemu_cond_broadcast(&e->attach_cond);
        if (!e->img) {
            if (e->j->super.applied != e->j->end.epoch) {
                error_setg(errp, "export '%s': marker '%s.replica' is gone "
                           "although epoch %" PRIu64 " is not in the image "
                           "yet; create the marker, restart "
                           "qemu-pmem-replica and promote again", e->name,
                           e->mem_path, e->j->end.epoch);
                return NULL;
            }
            if (!*e->j->super.state_path) {
                error_setg(errp, "export '%s': its image '%s' was adopted by a "
                           "primary on this host; if that is gone, start a "
                           "guest with the image and its state-file, or with a "
                           "new state-file", e->name, e->mem_path);
                return NULL;
            }
            return result(e);
        }
        path = choose_state_path(e, state_file);
        if (!e->j->super.promoted) {
            if (!e->j->super.have_image) {
                decide(e, path, force, errp);
                return NULL;
            }
            f = open_state(e, path, errp);
            if (!f) {
                goto out;
            }
            decided = decide(e, path, force, errp);
            /* The first of its two superblocks counts. */
            if (e->j->super.promoted) {
                if (e->conn) {
                    conn_kick(e->conn);
                }
                e->copying = false;
                e->copy_epoch_open = false;
                export_announce(e, "promoted by command");
            }
            if (!decided) {
                goto out;
            }
        } else {
            f = open_state(e, path, errp);
            if (!f || !check_log(e, errp) || !check_damage(e, force, errp)) {
                goto out;
            }
        }
    }
    pmem_ha_crash_point("promote-decided");

    if (!apply_rest(e, path, errp)) {
        goto out;
    }
    pmem_ha_crash_point("promote-applied");
    if (!write_state(e, f, errp)) {
        goto out;
    }
    pmem_ha_crash_point("promote-state");
    if (!image_unmark(e->img, errp)) {
        goto out;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        p = result(e);
        image_close(g_steal_pointer(&e->img));
    }
    trace_pmem_replica_promoted(e->name, p->generation, p->epoch);

out:
    pmem_ha_state_close(f);
    return p;
}

/* Is what the primary has mapped the file that we have?  apply_lock held. */
static bool same_file(ReplicaExport *e, const PmemHaHello *hello, Error **errp)
{
    QemuUUID boot_id;
    struct stat st;

    if (!pmem_ha_state_boot_id(&boot_id, errp)) {
        return false;
    }
    if (!qemu_uuid_is_equal(&boot_id, &hello->host) ||
        fstat(e->img->fd, &st) < 0 || st.st_dev != hello->file_dev ||
        st.st_ino != hello->file_ino) {
        error_setg(errp, "export '%s': the primary has not mapped the image "
                   "'%s' as it is now (perhaps a full copy took its place); "
                   "let its mem-path name that, and migrate again", e->name,
                   e->img->path);
        return false;
    }
    return true;
}

/* Whether the image will be just what was handed over.  Both locks held. */
static int check_adoption(ReplicaExport *e, const PmemHaHello *hello,
                          Error **errp)
{
    if (!journal_settle(e->j, errp) || !check_log(e, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    if (e->j->damage) {
        error_setg(errp, "export '%s' is damaged: %s", e->name, e->j->damage);
        return PMEM_HA_REFUSE_DAMAGED;
    }
    if (e->j->end.epoch != hello->captured) {
        error_setg(errp, "export '%s' holds epoch %" PRIu64 ", and what was "
                   "handed over is epoch %" PRIu64 "; let the guest go on "
                   "where it came from", e->name, e->j->end.epoch,
                   hello->captured);
        return PMEM_HA_REFUSE_WENT_ON;
    }
    return EXPORT_OK;
}

/* Step 1 of an adoption: TAKE and promotion in one.  Both locks held. */
static int decide_adoption(ReplicaExport *e, const PmemHaHello *hello,
                           Error **errp)
{
    JournalSuper s;
    int ret;

    journal_abort(e->j);
    ret = check_adoption(e, hello, errp);
    if (ret) {
        return ret;
    }
    s = e->j->super;
    journal_push_history(&s, e->j->end.epoch);
    s.generation++;
    s.taker = hello->instance;
    s.promoted = true;
    s.state_path[0] = 0;
    return journal_write_super(e->j, &s, true, errp) ? EXPORT_OK :
           PMEM_HA_REFUSE_IO;
}

static int adopt_locked(ReplicaExport *e, uint64_t generation,
                        const PmemHaHello *hello, Error **errp)
{
    int ret = export_check_peer(e, generation, hello, errp);

    if (ret) {
        return ret;
    }
    if (e->j->super.promoted) {
        /* Asked again.  The log may have been damaged since. */
        return e->img ? check_adoption(e, hello, errp) : EXPORT_OK;
    }
    if (!same_file(e, hello, errp)) {
        return PMEM_HA_REFUSE_FILE;
    }
    ret = decide_adoption(e, hello, errp);
    /* The first of its two superblocks counts. */
    if (e->j->super.promoted) {
        if (e->conn) {
            conn_kick(e->conn);
        }
        e->copying = false;
        e->copy_epoch_open = false;
        export_announce(e, "adopted by a primary on this host");
    }
    return ret;
}

int export_adopt(ReplicaExport *e, uint64_t generation,
                 const PmemHaHello *hello, PmemHaWelcome *welcome,
                 Error **errp)
{
    int ret;

    qatomic_set(&e->promoting, 1);
    QEMU_LOCK_GUARD(&e->apply_lock);
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        /* Whoever waits for it goes on when the lock is free. */
        qatomic_set(&e->promoting, 0);
        qemu_cond_broadcast(&e->attach_cond);
    }
    if (e->img && !export_finish_switch(e, errp)) {
        return PMEM_HA_REFUSE_IO;
    }
    WITH_QEMU_LOCK_GUARD(&e->lock) {
        ret = adopt_locked(e, generation, hello, errp);
    }
    if (ret) {
        return ret;
    }
    if (e->img) {
        pmem_ha_crash_point("promote-decided");
        if (!apply_rest(e, "", errp)) {
            return PMEM_HA_REFUSE_IO;
        }
        pmem_ha_crash_point("promote-applied");
        if (!image_unmark(e->img, errp)) {
            return PMEM_HA_REFUSE_IO;
        }
    }
    QEMU_LOCK_GUARD(&e->lock);
    image_close(g_steal_pointer(&e->img));
    *welcome = (PmemHaWelcome) {
        .have_image = true,
        .generation = e->j->super.generation,
        .epoch = e->j->super.applied,
    };
    trace_pmem_replica_promoted(e->name, welcome->generation, welcome->epoch);
    return EXPORT_OK;
}
