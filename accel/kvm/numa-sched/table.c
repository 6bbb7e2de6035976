/*
 * NUMA scheduler: the table in which several QEMUs promise what they will do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "table.h"

#define LOCK_TABLE      0
#define LOCK_SLOT(s)    (1 + (s))
#define NO_SLOT         -1
#define NS_PER_MS       1000000ll

/* A promise of another one, and when this one saw it first, ns */
typedef struct Seen {
    bool is_set;
    uint64_t sequence;
    uint32_t pid;
    int64_t since;
} Seen;

struct NsTable {
    char *name;
    NsTableOps ops;
    int fd;                     /* -1: to be opened anew */
    bool begun;                 /* it has the table's lock */
    int slot;                   /* it has the lock of that one */
    int64_t committed;          /* ns; of the own promise */
    int64_t term;               /* ns; 0: nothing is promised */
    Seen seen[NS_TABLE_SLOTS];
    NsPromiseNode sum[NS_MAX_NODES];    /* by id, while they are added up */
    NsOthers others;
    uint8_t record[NS_TABLE_SLOTS][NS_TABLE_RECORD];    /* as begin read it */
};

static int at(const NsTable *t, NsTablePoint point)
{
    return t->ops.at ? t->ops.at(t->ops.opaque, point) : 0;
}

static int64_t clock_now(const NsTable *t)
{
    struct timespec ts;

    if (t->ops.clock) {
        return t->ops.clock(t->ops.opaque);
    }
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return ts.tv_sec * (1000 * NS_PER_MS) + ts.tv_nsec;
}

static void fail(const NsTable *t, int err, const char *what, Error **errp)
{
    error_setg_errno(errp, err, "numa-sched table '%s' %s", t->name, what);
}

/*
 * The file
 */

/* Is it one that nobody else could have put there, or can change? */
static bool is_ours(const NsTable *t, const struct stat *st, Error **errp)
{
    if (!S_ISREG(st->st_mode) || st->st_nlink != 1) {
        error_setg(errp, "numa-sched table '%s' is not a regular file with one"
                   " name: remove it", t->name);
    } else if (st->st_uid != geteuid()) {
        error_setg(errp, "numa-sched table '%s' is user %u's, not user %u's:"
                   " set 'runtime-dir' to a directory of that user", t->name,
                   (unsigned)st->st_uid, (unsigned)geteuid());
    } else if (st->st_mode & (S_IWGRP | S_IWOTH)) {
        error_setg(errp, "numa-sched table '%s' has mode 0%o, so that others "
                   "can write it: set its mode to 0600", t->name,
                   (unsigned)st->st_mode & 07777);
    } else {
        return true;
    }
    return false;
}

static void forget_file(NsTable *t)
{
    if (t->fd >= 0) {
        close(t->fd);
    }
    t->fd = -1;
    t->slot = NO_SLOT;
    t->term = 0;
    memset(t->seen, 0, sizeof(t->seen));
}

static bool open_file(NsTable *t, Error **errp)
{
    int err = at(t, NS_POINT_OPEN);
    struct stat st;

    if (!err) {
        /* A FIFO is not to make all of QEMU wait for its other end. */
        t->fd = open(t->name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC |
                     O_NONBLOCK | O_NOCTTY, 0600);
        err = t->fd < 0 || fstat(t->fd, &st) < 0 ? errno : 0;
    }
    if (err) {
        fail(t, err, err == ELOOP ? "is a symbolic link: remove it" :
             "can not be opened: set 'runtime-dir' to a directory that is "
             "there, and that this user may write", errp);
        forget_file(t);
        return false;
    }
    if (!is_ours(t, &st, errp)) {
        forget_file(t);
        return false;
    }
    return true;
}

static bool read_at(NsTable *t, void *buf, size_t len, off_t from, Error **errp)
{
    size_t got = 0;
    ssize_t n;

    do {
        n = RETRY_ON_EINTR(pread(t->fd, (char *)buf + got, len - got,
                                 from + got));
        got += MAX(n, 0);
    } while (n > 0 && got < len);
    if (n < 0) {
        fail(t, errno, "can not be read", errp);
        return false;
    }
    /* What is not there was never written. */
    memset((char *)buf + got, 0, len - got);
    return true;
}

/* One call, so that what is torn is torn by a crash only */
static bool write_record(NsTable *t, const uint8_t *record, off_t to,
                         NsTablePoint point, Error **errp)
{
    int err = at(t, point);

    if (!err) {
        ssize_t n = RETRY_ON_EINTR(pwrite(t->fd, record, NS_TABLE_RECORD, to));

        err = n < 0 ? errno : n < NS_TABLE_RECORD ? ENOSPC : 0;
    }
    if (err) {
        fail(t, err, "can not be written: make room for it", errp);
    }
    return !err;
}

/* A new file gets its size and its header; another one is checked. */
static bool prepare_file(NsTable *t, const struct stat *st, Error **errp)
{
    uint8_t header[NS_TABLE_RECORD];
    NsRecord is;
    int err;

    if (!read_at(t, header, sizeof(header), 0, errp)) {
        return false;
    }
    is = ns_table_decode_header(header);
    if (is == NS_RECORD_VERSION) {
        error_setg(errp, "numa-sched table '%s' is of another version of QEMU:"
                   " end those that use it and remove it, or set 'runtime-dir'"
                   " to another directory", t->name);
        return false;
    }
    if (is == NS_RECORD_DAMAGED ||
        (is == NS_RECORD_UNUSED && st->st_size > NS_TABLE_BYTES)) {
        error_setg(errp, "numa-sched table '%s' is not a table: remove it",
                   t->name);
        return false;
    }
    if (st->st_size < NS_TABLE_BYTES) {
        err = at(t, NS_POINT_ALLOCATE);
        err = err ? err : posix_fallocate(t->fd, 0, NS_TABLE_BYTES);
        if (err) {
            fail(t, err, "has no room: it needs 257 KiB", errp);
            return false;
        }
    }
    if (is == NS_RECORD_UNUSED) {
        ns_table_encode_header(header);
        return write_record(t, header, 0, NS_POINT_HEADER, errp);
    }
    return true;
}

/*
 * Locks
 */

/* 0, or -EAGAIN when somebody has it, or another -errno */
static int try_lock(NsTable *t, int byte, NsTablePoint point)
{
    int ret = -at(t, point);

    ret = ret ? ret : qemu_lock_fd(t->fd, byte, 1, true);
    return ret == -EACCES ? -EAGAIN : ret;
}

static void unlock_table(NsTable *t)
{
    t->begun = false;
    qemu_unlock_fd(t->fd, LOCK_TABLE, 1);
    at(t, NS_POINT_UNLOCKED);
}

static void give_up_slot(NsTable *t)
{
    if (t->slot != NO_SLOT) {
        qemu_unlock_fd(t->fd, LOCK_SLOT(t->slot), 1);
        t->slot = NO_SLOT;
    }
    t->term = 0;
}

/*
 * Lock the file that has the name now, and make it a table.  A file may be
 * deleted between opening and locking.
 */
static NsBegin lock_table(NsTable *t, Error **errp)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        struct stat st;
        int ret;

        if (t->fd < 0 && !open_file(t, errp)) {
            return NS_BEGIN_FAILED;
        }
        ret = try_lock(t, LOCK_TABLE, NS_POINT_LOCK);
        if (ret == -EAGAIN) {
            return NS_BEGIN_BUSY;
        }
        if (ret < 0) {
            fail(t, -ret, "can not be locked: set 'runtime-dir' to a directory"
                 " on a file system that can", errp);
            return NS_BEGIN_FAILED;
        }
        t->begun = true;
        if (fstat(t->fd, &st) < 0 || !st.st_nlink) {
            unlock_table(t);
            forget_file(t);
            continue;
        }
        if (!is_ours(t, &st, errp) || !prepare_file(t, &st, errp)) {
            unlock_table(t);
            return NS_BEGIN_FAILED;
        }
        return NS_BEGIN_DECIDE;
    }
    return NS_BEGIN_BUSY;
}

NsTable *ns_table_open(const char *dir, const NsTableOps *ops, Error **errp)
{
    NsTable *t = g_new0(NsTable, 1);

    t->name = g_build_filename(dir, NS_TABLE_NAME, NULL);
    t->ops = ops ? *ops : (NsTableOps) { };
    t->fd = -1;
    t->slot = NO_SLOT;
    if (!qemu_has_ofd_lock()) {
        fail(t, ENOTSUP, "needs locks of open files (OFD), which this kernel "
             "does not have: use Linux 3.15 or later", errp);
    } else if (lock_table(t, errp) != NS_BEGIN_FAILED) {
        ns_table_cancel(t);
        return t;
    }
    ns_table_close(t);
    return NULL;
}

void ns_table_close(NsTable *t)
{
    if (t) {
        if (t->fd >= 0) {
            /* A child may have the file open still. */
            ns_table_cancel(t);
            give_up_slot(t);
        }
        forget_file(t);
        g_free(t->name);
        g_free(t);
    }
}

char *ns_table_default_dir(void)
{
    const char *user = getenv("XDG_RUNTIME_DIR");
    g_autofree char *state = NULL;

    if (user && g_path_is_absolute(user)) {
        return g_strdup(user);
    }
    state = qemu_get_local_state_dir();
    return g_build_filename(state, "run", NULL);
}

/*
 * Deciding
 */

/* Is the term over, as this one sees it? */
static bool is_over(Seen *seen, const NsSlot *slot, int64_t now)
{
    if (!seen->is_set || seen->sequence != slot->sequence ||
        seen->pid != slot->pid) {
        *seen = (Seen) {
            .is_set = true, .sequence = slot->sequence, .pid = slot->pid,
            .since = now,
        };
    }
    return now - seen->since >= slot->term * NS_PER_MS;
}

/* Figures are bounded, so that the sums of all slots can not overflow. */
static void add_up(NsTable *t, const NsPromise *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        const NsPromiseNode *from = &p->node[i];
        NsPromiseNode *to = &t->sum[from->id];

        to->cpu_comes += from->cpu_comes;
        to->cpu_leaves += from->cpu_leaves;
        to->comes += from->comes;
        to->leaves += from->leaves;
    }
}

/* False: whether the slot has an owner can not be known */
static bool look_at_slot(NsTable *t, int s, int64_t now, Error **errp)
{
    NsSlot slot;
    NsRecord is = ns_table_decode_slot(t->record[s], &slot);
    int ret;

    if (s == t->slot || is == NS_RECORD_UNUSED ||
        (is == NS_RECORD_GOOD && !slot.promise.n)) {
        return true;
    }
    ret = qemu_lock_fd_test(t->fd, LOCK_SLOT(s), 1, true);
    if (!ret) {
        t->seen[s].is_set = false;
        return true;            /* its owner is dead */
    }
    if (ret != -EAGAIN && ret != -EACCES) {
        fail(t, -ret, "does not tell who is alive", errp);
        return false;
    }
    if (is == NS_RECORD_DAMAGED) {
        t->others.damaged++;
    } else if (is_over(&t->seen[s], &slot, now)) {
        t->others.expired++;
    } else {
        t->others.pid[t->others.promises++] = slot.pid;
        add_up(t, &slot.promise);
    }
    return true;
}

static bool look_at_others(NsTable *t, Error **errp)
{
    NsOthers *o = &t->others;
    /* Under the lock: nothing that is seen is committed later than that. */
    int64_t now = clock_now(t);
    int err = at(t, NS_POINT_READ);

    if (err) {
        fail(t, err, "can not be read", errp);
        return false;
    }
    if (!read_at(t, t->record, sizeof(t->record), NS_TABLE_RECORD, errp)) {
        return false;
    }
    memset(o, 0, sizeof(*o));
    memset(t->sum, 0, sizeof(t->sum));
    for (int s = 0; s < NS_TABLE_SLOTS; s++) {
        if (!look_at_slot(t, s, now, errp)) {
            return false;
        }
    }
    for (uint32_t id = 0; id < NS_MAX_NODES; id++) {
        const NsPromiseNode *sum = &t->sum[id];

        if (sum->cpu_comes || sum->cpu_leaves || sum->comes || sum->leaves) {
            o->node[o->n] = *sum;
            o->node[o->n++].id = id;
        }
    }
    return true;
}

NsBegin ns_table_begin(NsTable *t, const NsOthers **others, Error **errp)
{
    NsBegin begin;

    ns_table_cancel(t);
    begin = lock_table(t, errp);
    if (begin != NS_BEGIN_DECIDE) {
        return begin;
    }
    if (!look_at_others(t, errp)) {
        unlock_table(t);
        return NS_BEGIN_FAILED;
    }
    at(t, NS_POINT_DECIDE);
    *others = &t->others;
    return NS_BEGIN_DECIDE;
}

/*
 * The slot of a dead owner may have its promise still: the own one has to be
 * there before the table is unlocked.
 */
static bool take_slot(NsTable *t, Error **errp)
{
    for (int s = 0; s < NS_TABLE_SLOTS && t->slot == NO_SLOT; s++) {
        int ret = try_lock(t, LOCK_SLOT(s), NS_POINT_SLOT);

        if (!ret) {
            t->slot = s;
        } else if (ret != -EAGAIN) {
            fail(t, -ret, "can not be locked: set 'runtime-dir' to a directory"
                 " on a file system that can", errp);
            return false;
        }
    }
    if (t->slot == NO_SLOT) {
        error_setg(errp, "numa-sched table '%s' has no free slot: at most %u "
                   "QEMUs can use it, set 'runtime-dir' to another directory "
                   "for some", t->name, NS_TABLE_SLOTS);
        return false;
    }
    return true;
}

bool ns_table_commit(NsTable *t, const NsPromise *own, uint32_t term,
                     Error **errp)
{
    NsSlot slot = {
        .pid = getpid(), .promise = *own,
        .term = MIN(MAX(term, 1), NS_PROMISE_MAX_TERM),
    };
    uint8_t record[NS_TABLE_RECORD];
    NsSlot before;
    int64_t now;
    bool ok;

    t->term = 0;
    if (!t->begun || own->n > NS_PROMISE_NODES) {
        error_setg(errp, "numa-sched table '%s' was not locked, or a promise "
                   "has %u nodes: report this", t->name, own->n);
        ns_table_cancel(t);
        return false;
    }
    ok = t->slot != NO_SLOT || take_slot(t, errp);
    if (ok) {
        /* The others' terms begin later: they have to lock before they look. */
        now = clock_now(t);
        if (ns_table_decode_slot(t->record[t->slot], &before) ==
            NS_RECORD_GOOD) {
            slot.sequence = before.sequence + 1;
        } else {
            /* What was here is not known, but not with this number. */
            slot.sequence = now;
        }
        ns_table_encode_slot(record, &slot);
        ok = write_record(t, record, (1 + t->slot) * NS_TABLE_RECORD,
                          NS_POINT_WRITE, errp);
    }
    if (ok) {
        at(t, NS_POINT_WRITTEN);
        t->committed = now;
        t->term = own->n ? slot.term * NS_PER_MS : 0;
    } else {
        give_up_slot(t);
    }
    unlock_table(t);
    return ok;
}

void ns_table_cancel(NsTable *t)
{
    if (t->begun) {
        unlock_table(t);
    }
}

int64_t ns_table_left(const NsTable *t)
{
    return t->term ? MAX(t->committed + t->term - clock_now(t), 0) : 0;
}

NsPromiseNode ns_others_at(const NsOthers *o, uint32_t id)
{
    uint32_t low = 0, high = o->n;

    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (o->node[mid].id < id) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low < o->n && o->node[low].id == id ? o->node[low] :
                                                 (NsPromiseNode) { .id = id };
}
