/*
 * qemu-pmem-replica: listening
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/sockets.h"
#include "io/channel-tls.h"
#include "qom/object.h"
#include "compat.h"
#include "server.h"

typedef struct Listener {
    QIONetListener *listener;
    ServerOptions opts;
    QTAILQ_ENTRY(Listener) next;
} Listener;

static QTAILQ_HEAD(, Listener) listeners =
    QTAILQ_HEAD_INITIALIZER(listeners);
static QEMUBH *reap_bh;
static int ending;              /* atomic */

bool server_ending(void)
{
    return qatomic_read(&ending);
}

void server_reap_soon(void)
{
    qemu_bh_schedule(reap_bh);
}

static void reap(void *opaque)
{
    conns_reap(false);
}

static bool is_local(const SocketAddress *addr)
{
    struct in6_addr in6;
    struct in_addr in;
    const char *host;

    if (addr->type == SOCKET_ADDRESS_TYPE_UNIX) {
        return true;
    }
    if (addr->type != SOCKET_ADDRESS_TYPE_INET) {
        return false;
    }
    host = addr->u.inet.host;
    if (inet_pton(AF_INET, host, &in) == 1) {
        return ntohl(in.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    if (inet_pton(AF_INET6, host, &in6) == 1) {
        return IN6_IS_ADDR_LOOPBACK(&in6);
    }
    return g_str_equal(host, "localhost");
}

static QCryptoTLSCreds *find_creds(const char *id, Error **errp)
{
    Object *obj = object_resolve_path_component(object_get_objects_root(), id);
    QCryptoTLSCreds *creds;

    creds = (QCryptoTLSCreds *)object_dynamic_cast(obj, TYPE_QCRYPTO_TLS_CREDS);
    if (!creds) {
        error_setg(errp, "--listen tls-creds=%s: no tls-creds object with that "
                   "id; give --object tls-creds-... before", id);
        return NULL;
    }
    if (!qcrypto_tls_creds_check_endpoint(creds,
                                          QCRYPTO_TLS_CREDS_ENDPOINT_SERVER,
                                          errp)) {
        return NULL;
    }
    object_ref(OBJECT(creds));
    return creds;
}

static void accepted(QIONetListener *listener, QIOChannelSocket *sioc,
                     gpointer opaque)
{
    Listener *l = opaque;

    conn_new(sioc, &l->opts);
}

static void listener_free(Listener *l)
{
    if (l->listener) {
        qio_net_listener_disconnect(l->listener);
        object_unref(OBJECT(l->listener));
    }
    if (l->opts.tls_creds) {
        object_unref(OBJECT(l->opts.tls_creds));
    }
    g_free(l->opts.tls_authz);
    g_free(l);
}

bool server_listen(PmemReplicaListenOptions *o, bool allow_plaintext,
                   Error **errp)
{
    g_autofree char *uri = socket_uri(o->addr);
    Listener *l;

    if (o->tls_authz && !o->tls_creds) {
        error_setg(errp, "--listen tls-authz=%s needs tls-creds", o->tls_authz);
        return false;
    }
    if (!o->tls_creds && !is_local(o->addr) && !allow_plaintext) {
        error_setg(errp, "--listen %s: persistent memory would cross the "
                   "network unprotected, and anyone who reaches this address "
                   "could replace it; give tls-creds, or --allow-plaintext if "
                   "the network is trusted", uri);
        return false;
    }
    l = g_new0(Listener, 1);
    if (o->tls_creds) {
        l->opts.tls_creds = find_creds(o->tls_creds, errp);
        if (!l->opts.tls_creds) {
            goto fail;
        }
        l->opts.tls_authz = g_strdup(o->tls_authz);
    }
    l->listener = qio_net_listener_new();
    qio_net_listener_set_name(l->listener, "pmem-replica");
    if (qio_net_listener_open_sync(l->listener, o->addr, SOMAXCONN,
                                   errp) < 0) {
        error_prepend(errp, "--listen %s: ", uri);
        goto fail;
    }
    QTAILQ_INSERT_TAIL(&listeners, l, next);
    return true;

fail:
    listener_free(l);
    return false;
}

bool server_has_listener(void)
{
    return !QTAILQ_EMPTY(&listeners);
}

void server_start(void)
{
    Listener *l;

    conns_init();
    reap_bh = qemu_bh_new(reap, NULL);
    printf("ready:");
    QTAILQ_FOREACH(l, &listeners, next) {
        size_t i;

        for (i = 0; i < l->listener->nsioc; i++) {
            QIOChannelSocket *sioc = qio_net_listener_sioc(l->listener, i);
            SocketAddress *addr;
            g_autofree char *uri = NULL;

            addr = qio_channel_socket_get_local_address(sioc, NULL);
            if (addr) {
                uri = socket_uri(addr);
                printf(" %s", uri);
                qapi_free_SocketAddress(addr);
            }
        }
        qio_net_listener_set_client_func(l->listener, accepted, l, NULL);
    }
    printf("\n");
    fflush(stdout);
}

void server_cleanup(void)
{
    Listener *l;

    qatomic_set(&ending, 1);
    QTAILQ_FOREACH(l, &listeners, next) {
        qio_net_listener_set_client_func(l->listener, NULL, NULL, NULL);
    }
    if (reap_bh) {
        conns_reap(true);
        qemu_bh_delete(reap_bh);
    }
    while ((l = QTAILQ_FIRST(&listeners))) {
        QTAILQ_REMOVE(&listeners, l, next);
        listener_free(l);
    }
}

typedef struct HandshakeWait {
    GMainLoop *loop;
    Error *err;
    bool done;
} HandshakeWait;

static void handshake_done(QIOTask *task, gpointer opaque)
{
    HandshakeWait *wait = opaque;

    qio_task_propagate_error(task, &wait->err);
    wait->done = true;
    g_main_loop_quit(wait->loop);
}

static gboolean handshake_timeout(gpointer opaque)
{
    qio_channel_shutdown(opaque, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    return G_SOURCE_REMOVE;
}

QIOChannel *server_start_tls(QIOChannelSocket *sioc, const ServerOptions *opts,
                             int timeout_ms, Error **errp)
{
    g_autoptr(GMainContext) context = NULL;
    g_autoptr(GSource) timeout = NULL;
    HandshakeWait wait = { };
    QIOChannelTLS *tls;

    if (!opts->tls_creds) {
        object_ref(OBJECT(sioc));
        return QIO_CHANNEL(sioc);
    }
    tls = qio_channel_tls_new_server(QIO_CHANNEL(sioc), opts->tls_creds,
                                     opts->tls_authz, errp);
    if (!tls) {
        return NULL;
    }
    context = g_main_context_new();
    timeout = g_timeout_source_new(timeout_ms);
    wait.loop = g_main_loop_new(context, false);
    g_source_set_callback(timeout, handshake_timeout, sioc, NULL);
    g_source_attach(timeout, context);
    qio_channel_tls_handshake(tls, handshake_done, &wait, NULL, context);
    while (!wait.done) {
        g_main_loop_run(wait.loop);
    }
    g_source_destroy(timeout);
    g_main_loop_unref(wait.loop);
    if (wait.err) {
        error_propagate(errp, wait.err);
        object_unref(OBJECT(tls));
        return NULL;
    }
    return QIO_CHANNEL(tls);
}
