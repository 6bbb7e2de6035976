/*
 * NUMA scheduler: the table of several QEMUs, its file
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "qemu/cutils.h"
#include "numa-table.h"

static void put(const char *name, const void *data, size_t size)
{
    g_assert_true(g_file_set_contents(name, data, size, NULL));
    g_assert_cmpint(chmod(name, 0600), ==, 0);
}

/* It does not open, and says why. */
static void refused(const char *dir, const NsTableOps *ops, const char *why)
{
    Error *err = NULL;
    NsTable *t = ns_table_open(dir, ops, &err);

    g_assert_null(t);
    g_assert_nonnull(strstr(error_get_pretty(err), NS_TABLE_NAME));
    if (!strstr(error_get_pretty(err), why)) {
        g_test_message("%s", error_get_pretty(err));
        g_test_fail();
    }
    error_free(err);
}

static void test_default_dir(void)
{
    g_autofree char *old = g_strdup(getenv("XDG_RUNTIME_DIR"));
    char *dir;

    g_setenv("XDG_RUNTIME_DIR", "/here", true);
    dir = ns_table_default_dir();
    g_assert_cmpstr(dir, ==, "/here");
    g_free(dir);
    g_setenv("XDG_RUNTIME_DIR", "here", true);
    dir = ns_table_default_dir();
    g_assert_true(g_str_has_suffix(dir, "/run"));
    g_free(dir);
    g_unsetenv("XDG_RUNTIME_DIR");
    dir = ns_table_default_dir();
    g_assert_true(g_path_is_absolute(dir) && g_str_has_suffix(dir, "/run"));
    g_free(dir);
    if (old) {
        g_setenv("XDG_RUNTIME_DIR", old, true);
    }
}

static void test_new_file(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    mode_t old = umask(0);
    g_autoptr(NsTable) t = table_open(dir);
    struct stat st;

    umask(old);
    g_assert_cmpint(stat(dir->table, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0600);
    g_assert_cmpint(st.st_size, ==, NS_TABLE_BYTES);
    /* Later writes need no room. */
    g_assert_cmpint(st.st_blocks * 512, >=, NS_TABLE_BYTES);
}

/* T7: what is not this user's, and nobody else's, is left alone. */
static void test_other_files(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autofree char *victim = g_build_filename(dir->name, "victim", NULL);
    g_autofree char *none = g_build_filename(dir->name, "none", NULL);
    struct stat st;

    refused(none, NULL, "runtime-dir");
    put(victim, NULL, 0);
    g_assert_cmpint(symlink(victim, dir->table), ==, 0);
    refused(dir->name, NULL, "symbolic link");
    unlink(dir->table);
    g_assert_cmpint(link(victim, dir->table), ==, 0);
    refused(dir->name, NULL, "one name");
    unlink(dir->table);
    g_assert_cmpint(mkfifo(dir->table, 0600), ==, 0);
    refused(dir->name, NULL, "regular file");
    unlink(dir->table);
    g_assert_cmpint(mkdir(dir->table, 0700), ==, 0);
    refused(dir->name, NULL, "runtime-dir");
    rmdir(dir->table);
    put(dir->table, NULL, 0);
    for (int mode = 0620; mode >= 0602; mode -= 016) {
        g_assert_cmpint(chmod(dir->table, mode), ==, 0);
        refused(dir->name, NULL, "0600");
    }
    g_assert_cmpint(chmod(dir->table, 0600), ==, 0);
    if (!geteuid() && !chown(dir->table, 4711, -1)) {
        refused(dir->name, NULL, "4711");
    }
    g_assert_cmpint(stat(dir->table, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
    g_assert_cmpint(stat(victim, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
}

static void test_not_a_table(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autofree uint8_t *data = g_malloc0(2 * NS_TABLE_BYTES);
    static const struct {
        size_t size, at;
        uint8_t byte;
    } file[] = {
        { 1, 0, 'x' }, { 100, 99, 1 }, { NS_TABLE_BYTES, 500, 1 },
        { 2 * NS_TABLE_BYTES, 0, 0 }, { NS_TABLE_BYTES + 1, 0, 0 },
    };

    for (int i = 0; i < ARRAY_SIZE(file); i++) {
        g_autofree char *now = NULL;
        size_t len;

        data[file[i].at] = file[i].byte;
        put(dir->table, data, file[i].size);
        refused(dir->name, NULL, "not a table");
        g_assert_true(g_file_get_contents(dir->table, &now, &len, NULL));
        g_assert_cmpmem(now, len, data, file[i].size);
        data[file[i].at] = 0;
    }
    ns_table_encode_header(data);
    stl_le_p(data + 8, 2);
    stl_le_p(data + 1020, crc32c(0xffffffff, data, 1020));
    put(dir->table, data, NS_TABLE_BYTES);
    refused(dir->name, NULL, "another version");
}

/* What the kernel may answer, where it may */
static void test_faults(void)
{
    static const struct {
        NsTablePoint point;
        int error;
        const char *why;
    } fault[] = {
        { NS_POINT_OPEN, EROFS, "runtime-dir" },
        { NS_POINT_OPEN, EACCES, "runtime-dir" },
        { NS_POINT_LOCK, ENOLCK, "runtime-dir" },
        { NS_POINT_ALLOCATE, ENOSPC, "257 KiB" },
        { NS_POINT_HEADER, EDQUOT, "room" },
    };

    for (int i = 0; i < ARRAY_SIZE(fault); i++) {
        g_autoptr(TestDir) dir = test_dir_new();
        Trap trap = { .point = fault[i].point, .error = fault[i].error,
                      .count = 1 };
        NsTableOps ops = { .at = spring, .opaque = &trap };
        g_autoptr(NsTable) t = NULL;

        refused(dir->name, &ops, fault[i].why);
        t = ns_table_open(dir->name, &ops, &error_abort);
        g_assert_nonnull(t);
    }
}

/* T8: nothing is promised, and the next time all is well again. */
static void test_commit_fails(void)
{
    static const NsTablePoint point[] = { NS_POINT_SLOT, NS_POINT_WRITE };
    NsPromise p = promise(2, 1000, GB);

    for (int i = 0; i < 4; i++) {
        g_autoptr(TestDir) dir = test_dir_new();
        Trap trap = { .point = point[i % 2], .error = ENOSPC };
        NsTableOps ops = { .at = spring, .opaque = &trap };
        g_autoptr(NsTable) t = ns_table_open(dir->name, &ops, &error_abort);
        g_autoptr(NsTable) other = table_open(dir);

        if (i / 2) {
            g_assert_true(table_put(t, &p, 1000));
            g_assert_cmpuint(table_sum(other, 2).comes, ==, GB);
            trap.point = NS_POINT_WRITE;
        }
        trap.count = 1;
        g_assert_false(table_put(t, &p, 1000));
        g_assert_cmpint(ns_table_left(t), ==, 0);
        g_assert_cmpuint(table_sum(other, 2).comes, ==, 0);
        g_assert_true(table_put(t, &p, 1000));
        g_assert_cmpuint(table_sum(other, 2).comes, ==, GB);
    }
}

static void test_read_fails(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    Trap trap = { .point = NS_POINT_READ, .error = EIO, .count = 1 };
    NsTableOps ops = { .at = spring, .opaque = &trap };
    g_autoptr(NsTable) t = ns_table_open(dir->name, &ops, &error_abort);
    g_autoptr(NsTable) other = table_open(dir);
    const NsOthers *o;
    Error *err = NULL;

    g_assert_cmpint(ns_table_begin(t, &o, &err), ==, NS_BEGIN_FAILED);
    g_assert_nonnull(strstr(error_get_pretty(err), NS_TABLE_NAME));
    error_free(err);
    /* It keeps no lock. */
    g_assert_cmpint(ns_table_begin(other, &o, &error_abort), ==,
                    NS_BEGIN_DECIDE);
}

/* Deleted, replaced, cut off and damaged while it is in use */
static void test_file_changes(void)
{
    g_autoptr(TestDir) dir = test_dir_new();
    g_autoptr(NsTable) a = table_open(dir);
    g_autoptr(NsTable) b = table_open(dir);
    NsPromise p = promise(2, 1000, GB);
    const NsOthers *o;
    Error *err = NULL;

    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpint(unlink(dir->table), ==, 0);
    g_assert_cmpuint(table_sum(b, 2).comes, ==, 0);
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    put(dir->table, NULL, 0);           /* by rename */
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    g_assert_cmpint(truncate(dir->table, 1050), ==, 0);
    g_assert_cmpuint(table_sum(b, 2).comes, ==, 0);
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    g_assert_cmpint(truncate(dir->table, 0), ==, 0);
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    tear(dir->table);
    g_assert_cmpint(ns_table_begin(b, &o, &error_abort), ==, NS_BEGIN_DECIDE);
    g_assert_cmpuint(o->promises, ==, 0);
    g_assert_cmpuint(o->damaged, ==, 1);        /* a's; b has no slot */
    ns_table_cancel(b);
    g_assert_true(table_put(a, &p, 1000));
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    g_assert_cmpint(chmod(dir->table, 0666), ==, 0);
    g_assert_cmpint(ns_table_begin(b, &o, &err), ==, NS_BEGIN_FAILED);
    error_free(err);
    g_assert_cmpint(chmod(dir->table, 0600), ==, 0);
    g_assert_cmpuint(table_sum(b, 2).comes, ==, GB);
    g_assert_cmpint(unlink(dir->table), ==, 0);
    g_assert_cmpint(mkdir(dir->table, 0700), ==, 0);
    err = NULL;
    g_assert_cmpint(ns_table_begin(a, &o, &err), ==, NS_BEGIN_FAILED);
    error_free(err);
    g_assert_cmpint(ns_table_left(a), ==, 0);
    g_assert_cmpint(rmdir(dir->table), ==, 0);
    g_assert_true(table_put(a, &p, 1000));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_init_exec_dir(argv[0]);
    g_test_add_func("/numa-sched/table/default-dir", test_default_dir);
    g_test_add_func("/numa-sched/table/new-file", test_new_file);
    g_test_add_func("/numa-sched/table/other-files", test_other_files);
    g_test_add_func("/numa-sched/table/not-a-table", test_not_a_table);
    g_test_add_func("/numa-sched/table/faults", test_faults);
    g_test_add_func("/numa-sched/table/commit-fails", test_commit_fails);
    g_test_add_func("/numa-sched/table/read-fails", test_read_fails);
    g_test_add_func("/numa-sched/table/file-changes", test_file_changes);
    return g_test_run();
}
