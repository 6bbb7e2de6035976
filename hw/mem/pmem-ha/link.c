/*
 * pmem-ha: one connection to a replica
 *
 * The channel is non-blocking and every wait has an end, so that a peer that
 * falls silent is found out by the replicator thread itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "qemu/iov.h"
#include "internal.h"
#include "trace.h"

/* Messages that one system call carries, at most. */
#define SEND_BATCH 32

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
    QIOChannel *ioc = opaque;

    qio_channel_shutdown(ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    return G_SOURCE_REMOVE;
}

/* In a context of its own: the main loop may be waiting for this thread. */
static QIOChannel *start_tls(PmemHaDevice *s, QIOChannel *ioc, Error **errp)
{
    PmemReplica *r = s->replica;
    g_autoptr(GMainContext) context = g_main_context_new();
    g_autoptr(GSource) timeout = g_timeout_source_new(r->link_timeout_ms);
    HandshakeWait wait = { };
    QIOChannelTLS *tls;
    const char *host = r->tls_hostname;

    if (!host && r->addr->type == SOCKET_ADDRESS_TYPE_INET) {
        host = r->addr->u.inet.host;
    }
    tls = qio_channel_tls_new_client(ioc, s->creds, host, errp);
    if (!tls) {
        return NULL;
    }
    wait.loop = g_main_loop_new(context, false);
    g_source_set_callback(timeout, handshake_timeout, ioc, NULL);
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

bool pmem_ha_link_open(PmemHaDevice *s, Error **errp)
{
    ERRP_GUARD();
    QIOChannelSocket *sioc = qio_channel_socket_new();
    QIOChannel *ioc = QIO_CHANNEL(sioc);

    qio_channel_set_name(ioc, "pmem-ha");
    if (qio_channel_socket_connect_sync(sioc, s->replica->addr, errp) < 0) {
        object_unref(OBJECT(sioc));
        return false;
    }
    qio_channel_set_delay(ioc, false);
    /* Returns an int in some releases and a bool in others. */
    qio_channel_set_blocking(ioc, false, errp);
    if (*errp) {
        object_unref(OBJECT(sioc));
        return false;
    }
    if (s->creds) {
        ioc = start_tls(s, ioc, errp);
        object_unref(OBJECT(sioc));
        if (!ioc) {
            return false;
        }
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->link = (PmemHaLink) { .ioc = ioc, .fd = sioc->fd };
    }
    return true;
}

void pmem_ha_link_close(PmemHaDevice *s)
{
    QIOChannel *ioc;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        ioc = g_steal_pointer(&s->link.ioc);
    }
    if (ioc) {
        qio_channel_close(ioc, NULL);
        object_unref(OBJECT(ioc));
    }
}

void pmem_ha_link_shutdown_locked(PmemHaDevice *s)
{
    if (s->link.ioc) {
        qio_channel_shutdown(s->link.ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

/* Wait for the socket; false when @deadline (ms) has passed. */
static bool link_wait(PmemHaDevice *s, bool for_write, int64_t deadline,
                      Error **errp)
{
    GPollFD pfd = {
        .fd = s->link.fd,
        .events = for_write ? G_IO_OUT : G_IO_IN,
    };
    int64_t left = deadline - g_get_monotonic_time() / 1000;

    if (left <= 0 || g_poll(&pfd, 1, left) == 0) {
        error_setg(errp, "replica '%s' at %s did not answer in time "
                   "(link-timeout-ms=%u)", s->export, s->peer,
                   s->replica->link_timeout_ms);
        return false;
    }
    return true;
}

/*
 * Time that a peer may take for an answer: the timeout, and what it takes to
 * bring @bytes to a slow disk (10 MB/s).
 */
static int64_t link_deadline(PmemHaDevice *s, uint64_t bytes)
{
    return g_get_monotonic_time() / 1000 + s->replica->link_timeout_ms +
           bytes / 10000;
}

static bool link_write(PmemHaDevice *s, struct iovec *iov, unsigned niov,
                       Error **errp)
{
    int64_t deadline = link_deadline(s, 0);

    while (niov) {
        ssize_t n = qio_channel_writev(s->link.ioc, iov, niov, errp);

        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!link_wait(s, true, deadline, errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        deadline = link_deadline(s, 0);
        qatomic_set(&s->wire_bytes, s->wire_bytes + n);
        iov_discard_front(&iov, &niov, n);
    }
    return true;
}

static bool link_read(PmemHaDevice *s, void *buf, size_t len,
                      int64_t deadline, Error **errp)
{
    char *p = buf;

    while (len) {
        ssize_t n = qio_channel_read(s->link.ioc, p, len, errp);

        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!link_wait(s, false, deadline, errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            error_setg(errp, "replica '%s' at %s closed the connection",
                       s->export, s->peer);
            return false;
        }
        p += n;
        len -= n;
    }
    return true;
}

static void crash_after_sending(const PmemHaMsg *m)
{
    switch (m->type) {
    case PMEM_HA_MSG_HELLO:
        pmem_ha_crash_point("hello-sent");
        break;
    case PMEM_HA_MSG_COPY:
        pmem_ha_crash_point("resync-announced");
        break;
    case PMEM_HA_MSG_BEGIN:
        pmem_ha_crash_point("begin-sent");
        break;
    case PMEM_HA_MSG_DATA:
        if (m->epoch) {
            pmem_ha_crash_point("data-sent");
        } else {
            pmem_ha_crash_point("resync-data-sent");
        }
        break;
    case PMEM_HA_MSG_COMMIT:
        pmem_ha_crash_point("commit-sent");
        break;
    case PMEM_HA_MSG_PING:
        pmem_ha_crash_point("ping-sent");
        break;
    default:
        break;
    }
}

static void crash_after_receiving(const PmemHaMsg *m)
{
    switch (m->type) {
    case PMEM_HA_MSG_WELCOME:
        pmem_ha_crash_point("welcome-received");
        break;
    case PMEM_HA_MSG_ACK:
        pmem_ha_crash_point("ack-received");
        break;
    case PMEM_HA_MSG_PONG:
        pmem_ha_crash_point("pong-received");
        break;
    default:
        pmem_ha_crash_point("refusal-received");
        break;
    }
}

bool pmem_ha_link_send(PmemHaDevice *s, PmemHaMsg *msgs,
                       void *const *payloads, size_t n, Error **errp)
{
    while (n) {
        uint8_t headers[SEND_BATCH][PMEM_HA_WIRE_HEADER_SIZE];
        struct iovec iov[SEND_BATCH * 2];
        /* One by one for a test, so that each has an end of its own. */
        size_t batch = unlikely(pmem_ha_crash_armed) ? 1 : MIN(n, SEND_BATCH);
        unsigned niov = 0;
        size_t i;

        for (i = 0; i < batch; i++) {
            msgs[i].seq = s->link.tx_seq++;
            msgs[i].generation = s->rec.generation;
            pmem_ha_wire_encode(&msgs[i], headers[i]);
            iov[niov++] = (struct iovec) {
                headers[i], PMEM_HA_WIRE_HEADER_SIZE
            };
            if (msgs[i].len) {
                iov[niov++] = (struct iovec) { payloads[i], msgs[i].len };
            }
        }
        if (!link_write(s, iov, niov, errp)) {
            return false;
        }
        if (unlikely(pmem_ha_crash_armed)) {
            crash_after_sending(msgs);
        }
        msgs += batch;
        payloads += batch;
        n -= batch;
    }
    return true;
}

static bool link_recv_deadline(PmemHaDevice *s, PmemHaMsg *m, void *payload,
                               int64_t deadline, Error **errp)
{
    uint8_t header[PMEM_HA_WIRE_HEADER_SIZE];

    if (!link_read(s, header, sizeof(header), deadline, errp) ||
        !pmem_ha_wire_decode(header, 0, s->link.rx_seq, m, errp)) {
        return false;
    }
    s->link.rx_seq++;
    if (m->len > PMEM_HA_WIRE_MAX_TEXT) {
        error_setg(errp, "replica '%s' at %s sent %u bytes where at most %u "
                   "are allowed", s->export, s->peer, m->len,
                   PMEM_HA_WIRE_MAX_TEXT);
        return false;
    }
    if (m->len &&
        (!link_read(s, payload, m->len, deadline, errp) ||
         !pmem_ha_wire_check_payload(m, payload, errp))) {
        return false;
    }
    trace_pmem_ha_recv(s->name, pmem_ha_msg_name(m->type), m->epoch);
    if (unlikely(pmem_ha_crash_armed)) {
        crash_after_receiving(m);
    }

    switch (m->type) {
    case PMEM_HA_MSG_FENCED:
        s->link.fenced_by = m->generation;
        error_setg(errp, "replica '%s' at %s was promoted to generation %"
                   PRIu64, s->export, s->peer, m->generation);
        return false;
    case PMEM_HA_MSG_REFUSE:
    case PMEM_HA_MSG_FAIL:
        s->link.refusal = m->arg0;
        error_setg(errp, "replica '%s' at %s: %.*s", s->export, s->peer,
                   (int)m->len, (char *)payload);
        return false;
    default:
        return true;
    }
}

bool pmem_ha_link_recv(PmemHaDevice *s, PmemHaMsg *m, void *payload,
                       Error **errp)
{
    uint64_t owed = s->epoch ? s->epoch->bytes : 0;

    if (s->copy_running) {
        /* The replica brings the whole new image to its disk first. */
        owed += s->size;
    }

    return link_recv_deadline(s, m, payload, link_deadline(s, owed), errp);
}
