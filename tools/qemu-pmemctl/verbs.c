/*
 * qemu-pmemctl: what it can do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "qmp-client.h"
#include "verbs.h"

static QmpClient *open_socket(const PmemctlOptions *o)
{
    Error *err = NULL;
    QmpClient *c = qmp_client_open(o->socket, &err);

    if (!c) {
        error_reportf_err(err, "cannot use QMP socket '%s': ", o->socket);
    }
    return c;
}

/* Text for one value of a status; nested objects on the same line. */
static char *value_text(QObject *value)
{
    QString *s = qobject_to(QString, value);
    g_autoptr(GString) json = NULL;

    if (s) {
        return g_strdup(qstring_get_str(s));
    }
    json = qobject_to_json(value);
    return g_strdup(json->str);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One entry: its name and state in a line, the rest below in order. */
static void print_entry(QDict *d, const char *name_key)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new();
    const QDictEntry *entry;
    unsigned i;

    printf("%s: %s\n", qdict_get_try_str(d, name_key) ?: "?",
           qdict_get_try_str(d, "state") ?: "?");
    for (entry = qdict_first(d); entry; entry = qdict_next(d, entry)) {
        const char *key = qdict_entry_key(entry);

        if (!g_str_equal(key, name_key) && !g_str_equal(key, "state")) {
            g_ptr_array_add(keys, (gpointer)key);
        }
    }
    qsort(keys->pdata, keys->len, sizeof(gpointer), compare_keys);
    for (i = 0; i < keys->len; i++) {
        g_autofree char *text = value_text(qdict_get(d, keys->pdata[i]));

        printf("  %-18s %s\n", (char *)keys->pdata[i], text);
    }
}

static void print_json(QObject *obj)
{
    g_autoptr(GString) text = qobject_to_json_pretty(obj, true);

    printf("%s\n", text->str);
}

int pmemctl_status(const PmemctlOptions *o)
{
    /* A replica knows the first, a primary the second. */
    static const char *const commands[][2] = {
        { "query-pmem-replica", "name" },
        { "query-pmem-ha", "id" },
    };
    QmpClient *c = open_socket(o);
    g_autofree char *class = NULL;
    const QListEntry *entry;
    Error *err = NULL;
    QObject *answer = NULL;
    QList *list;
    bool found = false;
    unsigned i;
    int ret;

    if (!c) {
        return PMEMCTL_UNREACHABLE;
    }
    for (i = 0; i < ARRAY_SIZE(commands); i++) {
        g_free(class);
        answer = qmp_client_run(c, commands[i][0], NULL, &class, &err);
        if (answer || g_strcmp0(class, "CommandNotFound")) {
            break;
        }
        if (i + 1 < ARRAY_SIZE(commands)) {
            error_free(err);
            err = NULL;
        }
    }
    qmp_client_close(c);
    if (!answer) {
        ret = !class ? PMEMCTL_UNREACHABLE :
              g_str_equal(class, "CommandNotFound") ? PMEMCTL_UNAVAILABLE :
              PMEMCTL_FAILED;
        if (ret == PMEMCTL_UNAVAILABLE) {
            error_report("'%s' is neither a qemu-pmem-replica nor a QEMU that "
                         "knows pmem-ha", o->socket);
            error_free(err);
        } else {
            error_report_err(err);
        }
        return ret;
    }
    list = qobject_to(QList, answer);
    if (!list) {
        error_report("'%s' gave an answer that is not a list", o->socket);
        qobject_unref(answer);
        return PMEMCTL_UNREACHABLE;
    }
    if (o->json && !o->export) {
        print_json(answer);
        qobject_unref(answer);
        return PMEMCTL_OK;
    }
    QLIST_FOREACH_ENTRY(list, entry) {
        QDict *d = qobject_to(QDict, qlist_entry_obj(entry));
        const char *name = d ? qdict_get_try_str(d, commands[i][1]) : NULL;

        if (!d || (o->export && g_strcmp0(name, o->export))) {
            continue;
        }
        found = true;
        if (o->json) {
            print_json(QOBJECT(d));
        } else {
            print_entry(d, commands[i][1]);
        }
    }
    qobject_unref(answer);
    if (!found && o->export) {
        error_report("no export or device '%s' there", o->export);
        return PMEMCTL_FAILED;
    }
    return PMEMCTL_OK;
}

int pmemctl_resync(const PmemctlOptions *o)
{
    g_autofree char *class = NULL;
    Error *err = NULL;
    QObject *answer;
    QmpClient *c;
    QDict *args;

    if (!o->export) {
        error_report("resync needs --export <id of the device>");
        return PMEMCTL_USAGE;
    }
    c = open_socket(o);
    if (!c) {
        return PMEMCTL_UNREACHABLE;
    }
    args = qdict_new();
    qdict_put_str(args, "id", o->export);
    answer = qmp_client_run(c, "pmem-ha-resync", args, &class, &err);
    qmp_client_close(c);
    if (answer) {
        qobject_unref(answer);
        return PMEMCTL_OK;
    }
    if (!g_strcmp0(class, "CommandNotFound")) {
        error_report("'%s' is not the QMP socket of a QEMU that knows pmem-ha; "
                     "only a primary makes a full copy", o->socket);
        error_free(err);
        return PMEMCTL_UNAVAILABLE;
    }
    error_report_err(err);
    return class ? PMEMCTL_FAILED : PMEMCTL_UNREACHABLE;
}

static void print_promotion(QDict *d)
{
    static const char *const keys[] = {
        "export", "generation", "epoch", "mem-path", "state-file",
    };
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(keys); i++) {
        QObject *value = qdict_get(d, keys[i]);
        g_autofree char *text = value ? value_text(value) : g_strdup("?");

        printf("%s: %s\n", keys[i], text);
    }
    printf("arguments for QEMU on this host:\n%s\n",
           qdict_get_try_str(d, "command-line-text") ?: "");
}

int pmemctl_promote(const PmemctlOptions *o)
{
    QmpClient *c = open_socket(o);
    QDict *args = qdict_new();
    g_autofree char *class = NULL;
    g_autofree char *state_file = NULL;
    Error *err = NULL;
    QObject *answer;

    if (!c) {
        qobject_unref(args);
        return PMEMCTL_UNREACHABLE;
    }
    if (o->export) {
        qdict_put_str(args, "export", o->export);
    }
    if (o->state_file) {
        /* The daemon may run in another directory. */
        state_file = g_canonicalize_filename(o->state_file, NULL);
        qdict_put_str(args, "state-file", state_file);
    }
    if (o->force) {
        qdict_put_bool(args, "force", true);
    }
    answer = qmp_client_run(c, "pmem-replica-promote", args, &class, &err);
    qmp_client_close(c);
    if (!answer) {
        if (!g_strcmp0(class, "CommandNotFound")) {
            error_report("'%s' is not the QMP socket of a qemu-pmem-replica; "
                         "only a replica can be promoted", o->socket);
            error_free(err);
            return PMEMCTL_UNAVAILABLE;
        }
        error_report_err(err);
        return class ? PMEMCTL_FAILED : PMEMCTL_UNREACHABLE;
    }
    if (o->json) {
        print_json(answer);
    } else if (qobject_to(QDict, answer)) {
        print_promotion(qobject_to(QDict, answer));
    }
    qobject_unref(answer);
    return PMEMCTL_OK;
}
