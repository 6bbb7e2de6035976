/*
 * pmem-ha: QEMU without vhost
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "internal.h"

bool pmem_ha_vhost_keep_log(PmemHaDevice *s, Error **errp)
{
    return true;
}

void pmem_ha_vhost_drop_log(void)
{
}

void pmem_ha_vhost_fetch(PmemHaDevice *s)
{
}

char *pmem_ha_vhost_why_not(Object *obj)
{
    return NULL;
}
