/*
 * Page map: its commands of the monitor
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-page-map.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "system/block-backend.h"
#include "system/block-observer.h"
#include "migration/page-map.h"
#include "compat.h"
#include "internal.h"

static PageMapState *existing(Error **errp)
{
    PageMapState *s = page_map_state();

    if (!s) {
        error_setg(errp, "there is no page-map object; create one, as by "
                   "-object page-map,id=map0");
    }
    return s;
}

typedef struct Count {
    const PmMap *map;
    uint64_t ram_pages;
    uint64_t mapped;
    uint64_t *of_device;        /* [PM_MAP_MAX_DEVICE + 1] */
} Count;

static void count_entry(void *opaque, uint64_t addr, const PmEntry *entry)
{
    Count *c = opaque;

    c->mapped++;
    c->of_device[entry->device]++;
}

static int count_block(RAMBlock *block, void *opaque)
{
    Count *c = opaque;

    if (qemu_ram_is_migratable(block)) {
        uint64_t bytes = qemu_ram_get_used_length(block);

        c->ram_pages += bytes >> PM_MAP_PAGE_BITS;
        pm_map_foreach(c->map, qemu_ram_get_offset(block), bytes, count_entry,
                       c);
    }
    return 0;
}

PageMapInfo *qmp_query_page_map(Error **errp)
{
    g_autofree uint64_t *of_device = g_new0(uint64_t, PM_MAP_MAX_DEVICE + 1);
    PageMapState *s = page_map_state();
    Count c = { .of_device = of_device };
    BlockBackend *blk;
    PageMapDeviceList **tail;
    PageMapInfo *info;

    info = g_new0(PageMapInfo, 1);
    if (!s) {
        return info;
    }
    c.map = s->map;
    qemu_ram_foreach_block(count_block, &c);

    info->id = g_strdup(s->id);
    info->sample = pm_map_samples(s->map);
    info->ram_pages = c.ram_pages;
    info->mapped_pages = c.mapped;
    info->orphaned_pages = c.mapped;
    info->memory = pm_map_memory(s->map);
    info->stale = stat64_get(&s->stale);

    tail = &info->devices;
    for (blk = blk_all_next(NULL); blk; blk = blk_all_next(blk)) {
        PageMapDevice *d;

        if (!blk_get_attached_dev(blk)) {
            continue;
        }
        d = g_new0(PageMapDevice, 1);
        d->device = blk_get_attached_dev_id(blk);
        if (blk_bs(blk)) {
            d->node_name = g_strdup(bdrv_get_node_name(blk_bs(blk)));
        }
        d->number = blk_observer_id(blk);
        d->has_number = d->number;
        d->entries = d->number ? of_device[d->number] : 0;
        d->bytes = d->entries << PM_MAP_PAGE_BITS;
        info->orphaned_pages -= d->entries;
        QAPI_LIST_APPEND(tail, d);
    }
    return info;
}

static char *device_of(uint16_t number)
{
    BlockBackend *blk;

    for (blk = blk_all_next(NULL); blk; blk = blk_all_next(blk)) {
        if (blk_get_attached_dev(blk) && blk_observer_id(blk) == number) {
            return blk_get_attached_dev_id(blk);
        }
    }
    return NULL;
}

PageMapEntryList *qmp_x_query_page_map_entry(uint64_t address,
                                             bool has_filter, bool filter,
                                             Error **errp)
{
    PageMapEntryList *list = NULL;
    MemoryRegionSection section;
    PageMapPlace place;

    if (!existing(errp)) {
        return NULL;
    }
    section = memory_region_find(get_system_memory(), address, 1);
    if (!section.mr || !memory_region_is_ram(section.mr)) {
        error_setg(errp, "parameter 'address' is 0x%" PRIx64 ", where no RAM "
                   "is; give the physical address of some", address);
    } else {
        uint64_t at = QEMU_ALIGN_DOWN(section.offset_within_region,
                                      PM_MAP_PAGE_SIZE);
        uint8_t *host = memory_region_get_ram_ptr(section.mr);

        if (page_map_lookup(memory_region_get_ram_addr(section.mr) + at,
                            has_filter && filter ? host + at : NULL,
                            &place)) {
            PageMapEntry *e = g_new0(PageMapEntry, 1);

            e->device = device_of(place.device);
            e->number = place.device;
            e->offset = place.offset;
            e->written = place.written;
            QAPI_LIST_PREPEND(list, e);
        }
    }
    if (section.mr) {
        memory_region_unref(section.mr);
    }
    return list;
}

static void hmp_info_page_map(Monitor *mon, const QDict *qdict)
{
    g_autoptr(PageMapInfo) info = qmp_query_page_map(&error_abort);
    PageMapDeviceList *l;
    g_autofree char *memory = NULL;

    if (!info->id) {
        monitor_printf(mon, "no page-map object\n");
        return;
    }
    memory = size_to_str(info->memory);
    monitor_printf(mon, "%s: %" PRIu64 " of %" PRIu64 " pages, %" PRIu64
                   " of them orphaned; sample %s, %" PRIu64 " stale; memory "
                   "%s\n", info->id, info->mapped_pages, info->ram_pages,
                   info->orphaned_pages, info->sample ? "on" : "off",
                   info->stale, memory);
    for (l = info->devices; l; l = l->next) {
        g_autofree char *bytes = size_to_str(l->value->bytes);

        monitor_printf(mon, "  %s (%s): %" PRIu64 " pages, %s\n",
                       l->value->device, l->value->node_name ?: "no medium",
                       l->value->entries, bytes);
    }
}

static void page_map_hmp_init(void)
{
    monitor_register_hmp("page-map", true, hmp_info_page_map);
}

type_init(page_map_hmp_init)
