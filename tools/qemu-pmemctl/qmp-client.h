/*
 * qemu-pmemctl: a client of the QEMU machine protocol
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PMEMCTL_QMP_CLIENT_H
#define PMEMCTL_QMP_CLIENT_H

#include "qobject/qdict.h"

typedef struct QmpClient QmpClient;

/* Connect to the Unix socket @path and leave the negotiation behind. */
QmpClient *qmp_client_open(const char *path, Error **errp);
void qmp_client_close(QmpClient *c);

/*
 * Run @command.  @arguments is consumed and may be NULL.
 *
 * Returns: what it returned; or NULL with @errp set.  @class (may be NULL)
 * then is the class of the error that the other side gave, or NULL when it
 * gave none (the connection failed); free it.
 */
QObject *qmp_client_run(QmpClient *c, const char *command, QDict *arguments,
                        char **class, Error **errp);

#endif
