/*
 * NUMA scheduler: threads and memory of the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/mem/memory-device.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-misc.h"
#include "qapi/qapi-types-machine.h"
#include "system/hostmem.h"
#include "system/numa.h"
#include "compat.h"
#include "guest.h"

/* The guest's node of a vCPU; -1: none */
static int node_of(MachineState *ms, const CPUState *cpu)
{
    MachineClass *mc = MACHINE_GET_CLASS(ms);
    CpuInstanceProperties props;

    if (!ms->numa_state || !ms->numa_state->num_nodes ||
        !mc->cpu_index_to_instance_props) {
        return -1;
    }
    props = mc->cpu_index_to_instance_props(ms, cpu->cpu_index);
    return props.has_node_id && props.node_id >= 0 &&
           props.node_id < ms->numa_state->num_nodes ? props.node_id : -1;
}

/* What the vCPUs are grouped by */
typedef enum Grouping {
    GUEST, NODES, VCPUS,
} Grouping;

static Grouping choose(MachineState *ms, uint32_t largest)
{
    g_autoptr(GHashTable) node_of_thread = g_hash_table_new(NULL, NULL);
    CPUState *cpu;
    uint32_t n = 0;
    bool nodes = true;

    CPU_FOREACH(cpu) {
        int node = node_of(ms, cpu);
        gpointer tid = GINT_TO_POINTER(cpu->thread_id), seen;

        if (g_hash_table_lookup_extended(node_of_thread, tid, NULL, &seen)) {
            if (GPOINTER_TO_INT(seen) != node || node < 0) {
                return GUEST;
            }
        }
        g_hash_table_insert(node_of_thread, tid, GINT_TO_POINTER(node));
        nodes &= node >= 0;
        n++;
    }
    return n && nodes ? NODES : n > largest ? VCPUS : GUEST;
}

static uint32_t group_of(GPtrArray *names, GArray *nodes, int node,
                         char *name, bool is_new)
{
    for (uint32_t k = 0; !is_new && k < names->len; k++) {
        if (!strcmp(g_ptr_array_index(names, k), name)) {
            g_free(name);
            return k;
        }
    }
    g_ptr_array_add(names, name);
    g_array_append_val(nodes, node);
    return names->len - 1;
}

static void look_at_vcpus(NsGuest *g, MachineState *ms, Grouping by)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autoptr(GArray) nodes = g_array_new(false, false, sizeof(int));
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        int node = by == NODES ? node_of(ms, cpu) : -1;
        char *name = by == NODES ? g_strdup_printf("node%d", node) :
                     by == VCPUS ? g_strdup_printf("vcpu%d", cpu->cpu_index) :
                     g_strdup("guest");
        NsVcpu v = {
            .index = cpu->cpu_index, .tid = cpu->thread_id,
            .group = group_of(names, nodes, node, name, by == VCPUS),
        };

        /* A new vCPU has no thread yet. */
        if (v.tid > 0) {
            g_array_append_val(g->vcpu, v);
        }
    }
    g->n = names->len;
    g_ptr_array_add(names, NULL);
    g->name = (char **)g_ptr_array_free(g_steal_pointer(&names), false);
    g->node = (int *)g_array_free(g_steal_pointer(&nodes), false);
}

static void add_helper(NsGuest *g, int tid)
{
    NsVcpu v = { .index = -1, .tid = tid };

    g_array_append_val(g->vcpu, v);
}

static void look_at_vhost(NsGuest *g, NsWorkers *workers)
{
    g_autoptr(GArray) tids = g_array_new(false, false, sizeof(int));

    ns_workers_look(workers, "/proc/self/task", tids);
    for (guint i = 0; i < tids->len; i++) {
        add_helper(g, g_array_index(tids, int, i));
    }
}

static void look_at_helpers(NsGuest *g, NsWorkers *workers)
{
    IOThreadInfoList *all = qmp_query_iothreads(NULL);

    for (IOThreadInfoList *l = all; l; l = l->next) {
        if (l->value->thread_id > 0) {
            add_helper(g, l->value->thread_id);
        }
    }
    qapi_free_IOThreadInfoList(all);
    look_at_vhost(g, workers);
}

static void add_range(NsGuest *g, int node, MemoryRegion *mr, uint64_t offset,
                      uint64_t bytes)
{
    uint64_t size = memory_region_size(mr);
    NsGuestRange r;

    if (!bytes || !memory_region_is_ram(mr) || offset >= size) {
        return;
    }
    r = (NsGuestRange) {
        .host = (char *)memory_region_get_ram_ptr(mr) + offset,
        .bytes = MIN(bytes, size - offset),
        .page = qemu_ram_pagesize(mr->ram_block),
    };
    while (r.group < g->n && g->node[r.group] != node) {
        r.group++;
    }
    if (r.group < g->n) {
        g_array_append_val(g->range, r);
    }
}

static void add_backend(NsGuest *g, int node, const char *path)
{
    Object *o = object_resolve_path(path, NULL);
    HostMemoryBackend *b = (HostMemoryBackend *)
                           object_dynamic_cast(o, TYPE_MEMORY_BACKEND);
    MemoryRegion *mr = b ? host_memory_backend_get_memory(b) : NULL;

    if (mr) {
        add_range(g, node, mr, 0, UINT64_MAX);
    }
}

static void look_at_plugged(NsGuest *g, Grouping by)
{
    MemoryDeviceInfoList *all = qmp_memory_device_list();

    for (MemoryDeviceInfoList *l = all; l; l = l->next) {
        /* Persistent memory is a file's, and no node's. */
        switch (l->value->type) {
        case MEMORY_DEVICE_INFO_KIND_DIMM: {
            PCDIMMDeviceInfo *d = l->value->u.dimm.data;

            add_backend(g, by == NODES ? d->node : -1, d->memdev);
            break;
        }
        case MEMORY_DEVICE_INFO_KIND_VIRTIO_MEM: {
            VirtioMEMDeviceInfo *d = l->value->u.virtio_mem.data;

            add_backend(g, by == NODES ? d->node : -1, d->memdev);
            break;
        }
        default:
            break;
        }
    }
    qapi_free_MemoryDeviceInfoList(all);
}

static void look_at_memory(NsGuest *g, MachineState *ms, Grouping by)
{
    uint64_t offset = 0;

    if (by == VCPUS) {
        return;
    }
    if (ms->ram) {
        /* The machine's own: all nodes are parts of it, one after another. */
        for (int i = 0; by == NODES && i < ms->numa_state->num_nodes; i++) {
            uint64_t bytes = ms->numa_state->nodes[i].node_mem;

            add_range(g, i, ms->ram, offset, bytes);
            offset += bytes;
        }
        if (by == GUEST) {
            add_range(g, -1, ms->ram, 0, UINT64_MAX);
        }
    }
    for (int i = 0; ms->numa_state && i < ms->numa_state->num_nodes; i++) {
        HostMemoryBackend *b = ms->numa_state->nodes[i].node_memdev;

        if (b) {
            add_range(g, by == NODES ? i : -1,
                      host_memory_backend_get_memory(b), 0, UINT64_MAX);
        }
    }
    look_at_plugged(g, by);
}

NsGuest *ns_guest_look(uint32_t largest, NsWorkers *workers)
{
    MachineState *ms = MACHINE(qdev_get_machine());
    Grouping by = choose(ms, largest);
    NsGuest *g = g_new0(NsGuest, 1);

    g->vcpu = g_array_new(false, false, sizeof(NsVcpu));
    g->range = g_array_new(false, false, sizeof(NsGuestRange));
    look_at_vcpus(g, ms, by);
    if (g->n == 1) {
        look_at_helpers(g, workers);
    }
    look_at_memory(g, ms, by);
    return g;
}

void ns_guest_free(NsGuest *g)
{
    if (g) {
        g_strfreev(g->name);
        g_free(g->node);
        g_array_unref(g->vcpu);
        g_array_unref(g->range);
        g_free(g);
    }
}
