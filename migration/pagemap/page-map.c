/*
 * Page map: the object
 *
 * It listens to the transfers of block devices while it exists.  Observers run
 * in any thread and take no lock: the state outlives the object by a grace
 * period of RCU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qom/object_interfaces.h"
#include "system/block-backend.h"
#include "system/block-observer.h"
#include "system/reset.h"
#include "migration/page-map.h"
#include "compat.h"
#include "internal.h"
#include "trace.h"

#define TYPE_PAGE_MAP "page-map"
OBJECT_DECLARE_SIMPLE_TYPE(PageMap, PAGE_MAP)

struct PageMap {
    Object parent_obj;

    bool sample;
    PageMapState *state;        /* NULL before the object is complete */
    RAMBlockNotifier ram;
};

QEMU_BUILD_BUG_ON(BLOCK_OBSERVER_MAX_ID > PM_MAP_MAX_DEVICE);

/* Of the only complete object; written under the BQL, read within RCU */
static PageMapState *current;

PageMapState *page_map_state(void)
{
    return qatomic_rcu_read(&current);
}

/*
 * Observer
 */

/* One transfer; its last buffer's RAM block is mostly the next one's, too */
typedef struct Transfer {
    PageMapState *state;
    uint16_t device;
    bool written;
    const uint8_t *host;
    uint64_t addr;
    uint64_t length;            /* 0: none yet */
} Transfer;

static bool resolve(void *opaque, const void *host, uint64_t *addr,
                    uint64_t *bytes)
{
    Transfer *t = opaque;
    uint64_t at = (const uint8_t *)host - t->host;

    if (!t->length || (const uint8_t *)host < t->host || at >= t->length) {
        ram_addr_t offset;
        RAMBlock *block = qemu_ram_block_from_host((void *)host, false,
                                                   &offset);

        if (!block || offset >= block->used_length ||
            !qemu_ram_is_migratable(block) ||
            memory_region_is_rom(block->mr)) {
            return false;
        }
        t->host = block->host;
        t->addr = block->offset;
        t->length = block->used_length;
        at = offset;
    }
    *addr = t->addr + at;
    *bytes = t->length - at;
    return true;
}

static void learn(void *opaque, uint64_t addr, const void *host, bool whole,
                  uint64_t offset)
{
    Transfer *t = opaque;
    PmMap *map = t->state->map;

    if (whole) {
        PmEntry entry = {
            .offset = offset, .device = t->device, .written = t->written,
        };

        trace_page_map_learn(addr, t->device, offset, t->written);
        pm_map_set(map, addr, &entry,
                   pm_map_samples(map) ? pm_sample(host) : 0);
    } else {
        trace_page_map_unlearn(addr);
        pm_map_clear(map, addr, 1);
    }
}

static void observe_io(BlockBackend *blk, uint16_t id, int64_t offset,
                       const QEMUIOVector *qiov, bool is_write, int ret)
{
    RCU_READ_LOCK_GUARD();
    Transfer t = {
        .state = page_map_state(), .device = id, .written = is_write,
    };

    trace_page_map_io(id, offset, qiov->size, qiov->niov, is_write, ret);
    if (t.state) {
        pm_observe(qiov->iov, qiov->niov, offset, ret >= 0 && id, resolve,
                   learn, &t);
    }
}

/*
 * What the rest of QEMU asks
 */

bool page_map_enabled(void)
{
    return page_map_state();
}

bool page_map_lookup(ram_addr_t addr, const void *host, PageMapPlace *place)
{
    RCU_READ_LOCK_GUARD();
    PageMapState *s = page_map_state();
    PmEntry entry;
    uint64_t sample;

    if (!s || !pm_map_get(s->map, addr, &entry, &sample)) {
        return false;
    }
    if (host && sample && sample != pm_sample(host)) {
        trace_page_map_stale(addr, entry.device, entry.offset);
        if (pm_map_clear_if(s->map, addr, &entry)) {
            stat64_add(&s->stale, 1);
        }
        return false;
    }
    *place = (PageMapPlace) {
        .offset = entry.offset, .device = entry.device,
        .written = entry.written,
    };
    return true;
}

static PmEntry entry_of(const PageMapPlace *place)
{
    return (PmEntry) {
        .offset = place->offset, .device = place->device,
        .written = place->written,
    };
}

void page_map_learn(ram_addr_t addr, const void *host,
                    const PageMapPlace *place)
{
    RCU_READ_LOCK_GUARD();
    PageMapState *s = page_map_state();
    PmEntry entry = entry_of(place);

    if (s) {
        pm_map_set(s->map, addr, &entry,
                   host && pm_map_samples(s->map) ? pm_sample(host) : 0);
    }
}

void page_map_forget(ram_addr_t addr, const PageMapPlace *place)
{
    RCU_READ_LOCK_GUARD();
    PageMapState *s = page_map_state();
    PmEntry entry = entry_of(place);

    if (s) {
        pm_map_clear_if(s->map, addr, &entry);
    }
}

/*
 * Changes of the machine
 */

static void clear_part(RAMBlockNotifier *n, void *host, size_t from, size_t to)
{
    PageMap *pm = container_of(n, PageMap, ram);
    ram_addr_t offset;
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    block = qemu_ram_block_from_host(host, false, &offset);
    if (block && from < to) {
        trace_page_map_clear(block->offset + from, to - from);
        pm_map_clear(pm->state->map, block->offset + from, to - from);
    }
}

/* Its addresses may be those of another block soon. */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    clear_part(n, host, 0, max_size);
}

static void block_resized(RAMBlockNotifier *n, void *host, size_t old_size,
                          size_t new_size)
{
    clear_part(n, host, new_size, old_size);
}

/* Also before a snapshot is loaded: the disks went back to another time. */
static void machine_reset(void *opaque)
{
    PageMap *pm = opaque;

    trace_page_map_clear_all("reset");
    pm_map_clear_all(pm->state->map);
}

/*
 * Object
 */

static void state_free(PageMapState *s)
{
    pm_map_free(s->map);
    g_free(s->id);
    g_free(s);
}

static void page_map_complete(UserCreatable *uc, Error **errp)
{
    PageMap *pm = PAGE_MAP(uc);
    const char *id = object_get_canonical_path_component(OBJECT(uc));

    if (current) {
        error_setg(errp, "page-map '%s' can not be created: there may be one, "
                   "and there is '%s'; delete that first", id, current->id);
        return;
    }
    pm->state = g_new0(PageMapState, 1);
    pm->state->map = pm_map_new(pm->sample);
    pm->state->id = g_strdup(id);
    pm->ram.ram_block_removed = block_removed;
    pm->ram.ram_block_resized = block_resized;
    ram_block_notifier_add(&pm->ram);
    qemu_register_reset(machine_reset, pm);
    qatomic_rcu_set(&current, pm->state);
    qatomic_set(&block_observer, observe_io);
}

static void page_map_finalize(Object *obj)
{
    PageMap *pm = PAGE_MAP(obj);

    if (!pm->state) {
        return;
    }
    qatomic_set(&block_observer, NULL);
    qatomic_rcu_set(&current, NULL);
    qemu_unregister_reset(machine_reset, pm);
    ram_block_notifier_remove(&pm->ram);
    call_rcu(pm->state, state_free, rcu);
}

static bool page_map_get_sample(Object *obj, Error **errp)
{
    return PAGE_MAP(obj)->sample;
}

static void page_map_set_sample(Object *obj, bool value, Error **errp)
{
    PageMap *pm = PAGE_MAP(obj);

    if (pm->state) {
        error_setg(errp, "page-map '%s' property 'sample' can not be set to "
                   "'%s' now, give it when the object is created",
                   pm->state->id, value ? "on" : "off");
        return;
    }
    pm->sample = value;
}

static void page_map_class_init(ObjectClass *oc, PAGE_MAP_CONST void *data)
{
    USER_CREATABLE_CLASS(oc)->complete = page_map_complete;
    object_class_property_add_bool(oc, "sample", page_map_get_sample,
                                   page_map_set_sample);
    object_class_property_set_description(oc, "sample",
        "Keep a digest of a part of each page, to recognise changed pages "
        "(default: off)");
}

static const TypeInfo page_map_info = {
    .name = TYPE_PAGE_MAP,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(PageMap),
    .instance_finalize = page_map_finalize,
    .class_init = page_map_class_init,
    .interfaces = (PAGE_MAP_CONST InterfaceInfo[]) {
        { TYPE_USER_CREATABLE },
        { }
    },
};

static void page_map_register(void)
{
    type_register_static(&page_map_info);
}

type_init(page_map_register)
