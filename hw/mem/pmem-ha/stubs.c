/*
 * pmem-ha: for targets without the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-pmem-ha.h"

PmemHaInfoList *qmp_query_pmem_ha(Error **errp)
{
    return NULL;
}

void qmp_pmem_ha_resync(const char *id, Error **errp)
{
    error_setg(errp, "no pmem-ha device has the id '%s'", id);
}
