/*
 * pmem-ha: for targets without the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-commands-pmem-ha.h"

PmemHaInfoList *qmp_query_pmem_ha(Error **errp)
{
    return NULL;
}
