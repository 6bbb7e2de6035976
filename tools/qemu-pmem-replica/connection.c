/*
 * qemu-pmem-replica: one connection, served by a thread of its own
 *
 * The channel does not block: each wait ends when the peer, a timeout or a
 * kick says so.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/sockets.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "server.h"
#include "trace.h"

/* A peer must say HELLO, and take in what it is told, within this time. */
#define HANDSHAKE_MS 10000
/* At most one line about strangers in so long a time */
#define STRANGER_MS  1000
/* So long, the last message may take to reach a peer that is still sending. */
#define LINGER_MS    2000

struct ReplicaConn {
    QIOChannel *ioc;            /* of the TLS session, or the socket */
    QIOChannelSocket *sioc;
    const ServerOptions *opts;
    char *peer;
    QemuThread thread;
    int wake[2];                /* a pipe: kicked when readable */
    int kicked;                 /* atomic */
    bool done;                  /* guarded by the server's lock */
    QTAILQ_ENTRY(ReplicaConn) next;
    int64_t heard_ms;           /* atomic */
    int busy;                   /* atomic: does what the peer said last */

    ReplicaExport *export;
    uint64_t generation;
    uint64_t rx_seq;
    uint64_t tx_seq;
    uint8_t *payload;
};

static QemuMutex conns_lock;
static QTAILQ_HEAD(, ReplicaConn) conns = QTAILQ_HEAD_INITIALIZER(conns);
static unsigned n_conns;

/* More than this are not primaries. */
#define MAX_CONNS 64
/* With those that were told to end and have not yet. */
#define MAX_ENDING 64

static int64_t now_ms(void)
{
    return g_get_monotonic_time() / 1000;
}

void conn_kick(ReplicaConn *c)
{
    if (!qatomic_xchg(&c->kicked, 1)) {
        char byte = 0;

        (void)!write(c->wake[1], &byte, 1);
    }
}

int64_t conn_silence_ms(ReplicaConn *c)
{
    /* A peer can not be heard by a thread that waits for its disk. */
    return qatomic_read(&c->busy) ? 0 : now_ms() - qatomic_read(&c->heard_ms);
}

const char *conn_peer(ReplicaConn *c)
{
    return c->peer;
}

/* Wait for the socket.  False: timeout (@deadline 0: none) or kicked. */
static bool conn_wait(ReplicaConn *c, bool out, int64_t deadline, bool kickable,
                      Error **errp)
{
    GPollFD fds[2] = {
        { .fd = c->sioc->fd, .events = out ? G_IO_OUT : G_IO_IN },
        { .fd = c->wake[0], .events = G_IO_IN },
    };
    int64_t left = deadline ? deadline - now_ms() : -1;

    if ((deadline && left <= 0) ||
        g_poll(fds, kickable ? 2 : 1, left) == 0) {
        error_setg(errp, "primary at %s does not %s", c->peer,
                   out ? "take in what it is told" : "say anything");
        return false;
    }
    if (kickable && qatomic_read(&c->kicked)) {
        error_setg(errp, "ended by this side");
        return false;
    }
    return true;
}

static bool conn_read(ReplicaConn *c, void *buf, size_t len, int64_t deadline,
                      Error **errp)
{
    char *p = buf;

    while (len) {
        ssize_t n = qio_channel_read(c->ioc, p, len, errp);

        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!conn_wait(c, false, deadline, true, errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            error_setg(errp, "primary at %s closed the connection", c->peer);
            return false;
        }
        qatomic_set(&c->heard_ms, now_ms());
        p += n;
        len -= n;
    }
    return true;
}

/* With @wait false a socket that takes no more is an error (see J7). */
static bool conn_send(ReplicaConn *c, PmemHaMsg *m, const void *payload,
                      bool wait, Error **errp)
{
    uint8_t buf[PMEM_HA_WIRE_HEADER_SIZE + PMEM_HA_WIRE_MAX_TEXT];
    int64_t deadline = now_ms() + HANDSHAKE_MS;
    size_t len = PMEM_HA_WIRE_HEADER_SIZE + m->len;
    size_t done = 0;

    assert(m->len <= PMEM_HA_WIRE_MAX_TEXT);
    m->seq = c->tx_seq++;
    m->payload_crc = pmem_ha_wire_crc(payload, m->len);
    pmem_ha_wire_encode(m, buf);
    if (m->len) {
        memcpy(buf + PMEM_HA_WIRE_HEADER_SIZE, payload, m->len);
    }
    trace_pmem_replica_send(c->peer, pmem_ha_msg_name(m->type), m->epoch);

    while (done < len) {
        ssize_t n = qio_channel_write(c->ioc, (char *)buf + done, len - done,
                                      errp);

        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!wait) {
                error_setg(errp, "primary at %s does not take in what it is "
                           "told", c->peer);
                return false;
            }
            if (!conn_wait(c, true, deadline, false, errp)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return false;
        }
        done += n;
    }
    return true;
}

bool conn_ack(ReplicaConn *c, uint64_t epoch, Error **errp)
{
    PmemHaMsg m = {
        .type = PMEM_HA_MSG_ACK,
        .generation = c->generation,
        .epoch = epoch,
    };

    return conn_send(c, &m, NULL, false, errp);
}

/* Receive one message; its payload is in c->payload. */
static bool conn_recv(ReplicaConn *c, PmemHaMsg *m, int64_t deadline,
                      bool *malformed, Error **errp)
{
    uint8_t head[PMEM_HA_WIRE_HEADER_SIZE];

    *malformed = false;
    if (!conn_read(c, head, sizeof(head), deadline, errp)) {
        return false;
    }
    *malformed = true;
    if (!pmem_ha_wire_decode(head, c->export ? c->export->size : 0, c->rx_seq,
                             m, errp)) {
        return false;
    }
    c->rx_seq++;
    *malformed = false;
    if (m->len && !conn_read(c, c->payload, m->len, deadline, errp)) {
        return false;
    }
    trace_pmem_replica_recv(c->peer, pmem_ha_msg_name(m->type), m->epoch,
                            m->len);
    *malformed = m->len && !pmem_ha_wire_check_payload(m, c->payload, errp);
    return !*malformed;
}

/* Tell the peer why its connection ends. */
static void conn_refuse(ReplicaConn *c, PmemHaMsgType type, int code,
                        Error *err)
{
    const char *text = error_get_pretty(err);
    PmemHaMsg m = {
        .type = type,
        .generation = c->generation,
        .arg0 = code,
        .len = MIN(strlen(text), PMEM_HA_WIRE_MAX_TEXT),
    };

    conn_send(c, &m, text, true, NULL);
}

static void conn_fence(ReplicaConn *c, ReplicaExport *e)
{
    PmemHaMsg m = {
        .type = PMEM_HA_MSG_FENCED,
        .generation = export_generation(e),
    };

    trace_pmem_replica_fenced(e->name, c->peer, m.generation);
    conn_send(c, &m, NULL, true, NULL);
}

/* @result of an operation other than EXPORT_OK; always false. */
static bool conn_end(ReplicaConn *c, ReplicaExport *e, PmemHaMsgType type,
                     int result, Error **errp)
{
    if (result == EXPORT_FENCED) {
        conn_fence(c, e);
        error_setg(errp, "export '%s' is promoted", e->name);
    } else if (result == EXPORT_REPLACED) {
        error_setg(errp, "the primary connected anew");
    } else {
        conn_refuse(c, type, result, *errp);
    }
    return false;
}

static bool handshake(ReplicaConn *c, Error **errp)
{
    ERRP_GUARD();
    int64_t deadline = now_ms() + HANDSHAKE_MS;
    PmemHaWelcome welcome;
    PmemHaHello hello;
    ReplicaExport *e;
    uint8_t buf[PMEM_HA_WELCOME_SIZE];
    PmemHaMsg m;
    bool malformed;
    int ret;

    if (!conn_recv(c, &m, deadline, &malformed, errp)) {
        if (malformed) {
            conn_refuse(c, PMEM_HA_MSG_REFUSE, PMEM_HA_REFUSE_PROTOCOL, *errp);
        }
        return false;
    }
    if (m.type != PMEM_HA_MSG_HELLO) {
        error_setg(errp, "protocol error: %s where HELLO must be first",
                   pmem_ha_msg_name(m.type));
        conn_refuse(c, PMEM_HA_MSG_REFUSE, PMEM_HA_REFUSE_PROTOCOL, *errp);
        return false;
    }
    if (!pmem_ha_hello_decode(c->payload, m.len, &hello, errp)) {
        conn_refuse(c, PMEM_HA_MSG_REFUSE, PMEM_HA_REFUSE_PROTOCOL, *errp);
        return false;
    }
    e = export_find(hello.name);
    if (!e) {
        error_setg(errp, "no export '%s' here; see --export name=", hello.name);
        conn_refuse(c, PMEM_HA_MSG_REFUSE, PMEM_HA_REFUSE_NO_EXPORT, *errp);
        return false;
    }
    c->generation = m.generation;
    ret = export_attach(e, c, m.generation, &hello, &welcome, errp);
    if (ret) {
        return conn_end(c, e, PMEM_HA_MSG_REFUSE, ret, errp);
    }
    if (hello.flags & PMEM_HA_HELLO_TAKE) {
        c->generation = welcome.generation;
    }
    qatomic_set(&c->export, e);
    pmem_ha_welcome_encode(&welcome, buf);
    m = (PmemHaMsg) {
        .type = PMEM_HA_MSG_WELCOME,
        .generation = welcome.generation,
        .epoch = welcome.epoch,
        .len = sizeof(buf),
    };
    return conn_send(c, &m, buf, true, errp);
}

static int dispatch(ReplicaConn *c, PmemHaMsg *m, bool *clean, Error **errp)
{
    ReplicaExport *e = c->export;
    PmemHaMsg pong;

    if (m->generation != c->generation) {
        error_setg(errp, "protocol error: %s of generation %" PRIu64 " after "
                   "HELLO of generation %" PRIu64, pmem_ha_msg_name(m->type),
                   m->generation, c->generation);
        return PMEM_HA_REFUSE_PROTOCOL;
    }
    switch (m->type) {
    case PMEM_HA_MSG_DATA:
        return export_data(e, c, m, c->payload, errp);
    case PMEM_HA_MSG_BEGIN:
        return export_begin(e, c, m, errp);
    case PMEM_HA_MSG_COMMIT:
        return export_commit(e, c, m, ldl_le_p(c->payload), errp);
    case PMEM_HA_MSG_COPY:
        if (m->arg0 != e->size) {
            error_setg(errp, "protocol error: COPY of %" PRIu64 " bytes, the "
                       "export has %" PRIu64, m->arg0, e->size);
            return PMEM_HA_REFUSE_PROTOCOL;
        }
        return export_copy(e, c, errp);
    case PMEM_HA_MSG_PING:
        pong = (PmemHaMsg) {
            .type = PMEM_HA_MSG_PONG,
            .generation = c->generation,
            .arg0 = m->arg0,
        };
        /* A peer that is gone is found out by the next read. */
        conn_send(c, &pong, NULL, true, NULL);
        return EXPORT_OK;
    case PMEM_HA_MSG_CLEAN:
        *clean = true;
        return EXPORT_OK;
    default:
        error_setg(errp, "protocol error: %s from a primary",
                   pmem_ha_msg_name(m->type));
        return PMEM_HA_REFUSE_PROTOCOL;
    }
}

static void serve(ReplicaConn *c, Error **errp)
{
    ERRP_GUARD();
    bool clean = false;

    while (!clean) {
        bool malformed;
        PmemHaMsg m;
        int ret;

        if (!conn_recv(c, &m, 0, &malformed, errp)) {
            if (malformed) {
                conn_refuse(c, PMEM_HA_MSG_FAIL, PMEM_HA_REFUSE_PROTOCOL,
                            *errp);
            } else if (qatomic_read(&c->kicked) &&
                       export_is_promoted(c->export)) {
                conn_fence(c, c->export);
            }
            return;
        }
        export_give_way(c->export);
        qatomic_set(&c->busy, 1);
        ret = dispatch(c, &m, &clean, errp);
        qatomic_set(&c->heard_ms, now_ms());
        qatomic_set(&c->busy, 0);
        if (ret) {
            conn_end(c, c->export, PMEM_HA_MSG_FAIL, ret, errp);
            return;
        }
    }
}

/*
 * Closing a socket with unread data resets it, and the peer may lose what it
 * was told last.  So read on for a moment.
 */
static void linger(ReplicaConn *c)
{
    int64_t deadline = now_ms() + LINGER_MS;
    char buf[4096];

    shutdown(c->sioc->fd, SHUT_WR);
    for (;;) {
        ssize_t n = RETRY_ON_EINTR(recv(c->sioc->fd, buf, sizeof(buf), 0));

        if (n == 0 || (n < 0 && errno != EAGAIN) || server_ending() ||
            now_ms() >= deadline) {
            return;
        }
        if (n < 0) {
            GPollFD fd = { .fd = c->sioc->fd, .events = G_IO_IN };

            g_poll(&fd, 1, MAX(deadline - now_ms(), 0));
        }
    }
}

/*
 * The only trace of a peer that did not get in: with TLS, it was told nothing.
 * Strangers must not fill the log.
 */
static void report_stranger(ReplicaConn *c, Error *err)
{
    static int64_t last;        /* atomic; 0: none yet */
    int64_t before = qatomic_read(&last);
    int64_t now = now_ms();

    if (err && (!before || now - before >= STRANGER_MS) &&
        qatomic_cmpxchg(&last, before, now) == before) {
        warn_report("connection from %s: %s", c->peer, error_get_pretty(err));
    }
}

static void *conn_thread(void *opaque)
{
    ReplicaConn *c = opaque;
    Error *err = NULL;

    c->ioc = server_start_tls(c->sioc, c->opts, HANDSHAKE_MS, &err);
    if (c->ioc && handshake(c, &err)) {
        trace_pmem_replica_attached(c->export->name, c->peer, c->generation);
        serve(c, &err);
    }
    trace_pmem_replica_closed(c->peer, err ? error_get_pretty(err) : "");
    if (c->export) {
        export_detach(c->export, c, err ? error_get_pretty(err) : NULL);
    } else {
        report_stranger(c, err);
    }
    error_free(err);
    linger(c);
    WITH_QEMU_LOCK_GUARD(&conns_lock) {
        c->done = true;
    }
    server_reap_soon();
    return NULL;
}

static void conn_free(ReplicaConn *c)
{
    if (c->ioc) {
        object_unref(OBJECT(c->ioc));
    }
    qio_channel_close(QIO_CHANNEL(c->sioc), NULL);
    object_unref(OBJECT(c->sioc));
    close(c->wake[0]);
    close(c->wake[1]);
    g_free(c->payload);
    g_free(c->peer);
    g_free(c);
}

/*
 * Strangers that keep all places must not keep a primary out: the oldest
 * connection that has not said who it is ends.  Main thread.
 */
static bool make_way(void)
{
    ReplicaConn *c;

    if (n_conns >= MAX_CONNS + MAX_ENDING) {
        return false;
    }
    QTAILQ_FOREACH(c, &conns, next) {
        if (!qatomic_read(&c->export) && !qatomic_read(&c->kicked)) {
            conn_kick(c);
            shutdown(c->sioc->fd, SHUT_RDWR);
            return true;
        }
    }
    return false;
}

void conn_new(QIOChannelSocket *sioc, const ServerOptions *opts)
{
    ReplicaConn *c;
    SocketAddress *addr;

    if (n_conns >= MAX_CONNS && !make_way()) {
        return;
    }
    c = g_new0(ReplicaConn, 1);
    if (!g_unix_open_pipe(c->wake, FD_CLOEXEC, NULL)) {
        g_free(c);
        return;
    }
    n_conns++;
    addr = qio_channel_socket_get_remote_address(sioc, NULL);
    c->peer = addr ? socket_uri(addr) : g_strdup("unknown");
    qapi_free_SocketAddress(addr);
    c->sioc = sioc;
    object_ref(OBJECT(sioc));
    c->opts = opts;
    c->heard_ms = now_ms();
    c->payload = g_malloc(PMEM_HA_WIRE_MAX_PAYLOAD);
    qio_channel_set_name(QIO_CHANNEL(sioc), "pmem-replica");
    qio_channel_set_blocking(QIO_CHANNEL(sioc), false, NULL);
    qio_channel_set_delay(QIO_CHANNEL(sioc), false);
    WITH_QEMU_LOCK_GUARD(&conns_lock) {
        QTAILQ_INSERT_TAIL(&conns, c, next);
    }
    qemu_thread_create(&c->thread, "primary", conn_thread, c,
                       QEMU_THREAD_JOINABLE);
}

void conns_init(void)
{
    qemu_mutex_init(&conns_lock);
}

void conns_reap(bool all)
{
    ReplicaConn *c;
    ReplicaConn *tmp;

    QTAILQ_FOREACH_SAFE(c, &conns, next, tmp) {
        bool done;

        WITH_QEMU_LOCK_GUARD(&conns_lock) {
            done = c->done;
        }
        if (!done && !all) {
            continue;
        }
        conn_kick(c);
        if (all) {
            shutdown(c->sioc->fd, SHUT_RDWR);
        }
        qemu_thread_join(&c->thread);
        QTAILQ_REMOVE(&conns, c, next);
        conn_free(c);
        n_conns--;
    }
}
