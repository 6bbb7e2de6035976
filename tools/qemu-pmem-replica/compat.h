/*
 * qemu-pmem-replica: what has another name in other QEMU releases
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEM_REPLICA_COMPAT_H
#define PMEM_REPLICA_COMPAT_H

#include "io/net-listener.h"

/* The sockets of a listener got an accessor, and are hidden behind it. */
#if QEMU_VERSION_MAJOR * 100 + QEMU_VERSION_MINOR < 1002
static inline QIOChannelSocket *qio_net_listener_sioc(QIONetListener *listener,
                                                      size_t n)
{
    return listener->sioc[n];
}
#endif

#endif
