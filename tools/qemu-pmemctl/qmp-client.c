/*
 * qemu-pmemctl: a client of the QEMU machine protocol
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-sockets.h"
#include "io/channel-socket.h"
#include "qemu/units.h"
#include "qobject/qjson.h"
#include "qmp-client.h"

/* An answer longer than this is not one of ours. */
#define MAX_LINE (16 * MiB)

struct QmpClient {
    QIOChannelSocket *sioc;
    char *path;
    GString *in;                /* received and not yet read */
};

static bool send_all(QmpClient *c, const char *text, Error **errp)
{
    return qio_channel_write_all(QIO_CHANNEL(c->sioc), text, strlen(text),
                                 errp) == 0;
}

/* The next line, which is one JSON object. */
static QDict *receive(QmpClient *c, Error **errp)
{
    g_autofree char *line = NULL;
    QObject *obj;
    QDict *dict;
    char *end;

    while (!(end = memchr(c->in->str, '\n', c->in->len))) {
        char buf[4096];
        ssize_t n = qio_channel_read(QIO_CHANNEL(c->sioc), buf, sizeof(buf),
                                     errp);

        if (n < 0) {
            return NULL;
        }
        if (n == 0) {
            error_setg(errp, "'%s' closed the connection", c->path);
            return NULL;
        }
        g_string_append_len(c->in, buf, n);
        if (c->in->len > MAX_LINE) {
            error_setg(errp, "'%s' sends lines that are too long for QMP",
                       c->path);
            return NULL;
        }
    }
    line = g_strndup(c->in->str, end - c->in->str);
    g_string_erase(c->in, 0, end - c->in->str + 1);

    obj = qobject_from_json(line, errp);
    if (!obj) {
        error_prepend(errp, "'%s' does not speak QMP: ", c->path);
        return NULL;
    }
    dict = qobject_to(QDict, obj);
    if (!dict) {
        error_setg(errp, "'%s' does not speak QMP: not an object", c->path);
        qobject_unref(obj);
    }
    return dict;
}

QObject *qmp_client_run(QmpClient *c, const char *command, QDict *arguments,
                        char **class, Error **errp)
{
    g_autoptr(QDict) request = qdict_new();
    g_autoptr(GString) text = NULL;

    if (class) {
        *class = NULL;
    }
    qdict_put_str(request, "execute", command);
    if (arguments) {
        qdict_put(request, "arguments", arguments);
    }
    text = qobject_to_json(QOBJECT(request));
    g_string_append_c(text, '\n');
    if (!send_all(c, text->str, errp)) {
        return NULL;
    }
    for (;;) {
        g_autoptr(QDict) answer = receive(c, errp);
        QObject *result;
        QDict *err;

        if (!answer) {
            return NULL;
        }
        result = qdict_get(answer, "return");
        if (result) {
            return qobject_ref(result);
        }
        err = qdict_get_qdict(answer, "error");
        if (err) {
            const char *desc = qdict_get_try_str(err, "desc");

            if (class) {
                *class = g_strdup(qdict_get_try_str(err, "class") ?:
                                  "GenericError");
            }
            error_setg(errp, "%s", desc ?: "no description");
            return NULL;
        }
        /* Events may come between. */
    }
}

QmpClient *qmp_client_open(const char *path, Error **errp)
{
    SocketAddress addr = {
        .type = SOCKET_ADDRESS_TYPE_UNIX,
        .u.q_unix.path = (char *)path,
    };
    QmpClient *c = g_new0(QmpClient, 1);
    g_autoptr(QDict) greeting = NULL;
    QObject *ok;

    c->path = g_strdup(path);
    c->in = g_string_new(NULL);
    c->sioc = qio_channel_socket_new();
    if (qio_channel_socket_connect_sync(c->sioc, &addr, errp) < 0) {
        goto fail;
    }
    do {
        /*
         * A monitor sends events to its socket between accepting it and
         * greeting: "connected" to the chardev comes first.
         */
        qobject_unref(greeting);
        greeting = receive(c, errp);
        if (!greeting) {
            goto fail;
        }
    } while (qdict_haskey(greeting, "event"));
    if (!qdict_haskey(greeting, "QMP")) {
        error_setg(errp, "'%s' does not speak QMP: no greeting", path);
        goto fail;
    }
    ok = qmp_client_run(c, "qmp_capabilities", NULL, NULL, errp);
    if (!ok) {
        goto fail;
    }
    qobject_unref(ok);
    return c;

fail:
    qmp_client_close(c);
    return NULL;
}

void qmp_client_close(QmpClient *c)
{
    if (!c) {
        return;
    }
    object_unref(OBJECT(c->sioc));
    g_string_free(c->in, TRUE);
    g_free(c->path);
    g_free(c);
}
