/*
 * qemu-pmem-replica: listening, and what connections need from it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_SERVER_H
#define PMEM_REPLICA_SERVER_H

#include "crypto/tlscreds.h"
#include "io/channel-socket.h"
#include "tools/qemu-pmem-replica/qapi/qapi-types.h"

typedef struct ServerOptions {
    QCryptoTLSCreds *tls_creds;     /* referenced; NULL: plaintext */
    char *tls_authz;
} ServerOptions;

/*
 * Listen; connections are served from server_start() on.  Main thread.
 */
bool server_listen(PmemReplicaListenOptions *opts, bool allow_plaintext,
                   Error **errp);
bool server_has_listener(void);
/* Serve; the addresses go to stdout as the line "ready: ...". */
void server_start(void);
/* End all connections.  Main thread. */
void server_cleanup(void);

/* Any thread. */
bool server_ending(void);
void server_reap_soon(void);
/*
 * The channel to talk over: a TLS session, or @sioc itself.  Blocks for at
 * most @timeout_ms.
 */
QIOChannel *server_start_tls(QIOChannelSocket *sioc, const ServerOptions *opts,
                             int timeout_ms, Error **errp);

/* connection.c; main thread */
void conns_init(void);
void conn_new(QIOChannelSocket *sioc, const ServerOptions *opts);
/* Free those that ended; with @all end them first. */
void conns_reap(bool all);

#endif
