/*
 * NUMA scheduler: the nodes of a host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a file says is believed only as far as it fits: the tree may be a copy,
 * a part of one, or made to confuse.  Each file is read into one buffer, and
 * what is kept is bounded by NS_MAX_NODES, NS_MAX_CPUS and MAX_NOTES.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "parse.h"
#include "reader.h"

#define NODES           "sys/devices/system/node"
#define CPUS            "sys/devices/system/cpu"

static void read_online(NsReader *r)
{
    unsigned long cpu;

    if (!ns_reader_load(r, CPUS "/online")) {
        ns_reader_complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, r->online, NS_MAX_CPUS)) {
        ns_reader_complain(r, "not a list of CPUs");
    } else if (!bitmap_empty(r->online, NS_MAX_CPUS)) {
        return;
    } else {
        ns_reader_complain(r, "no CPU");
    }
    /* Old kernels have only a file for each CPU that can be put offline. */
    ns_reader_scan(r, "cpu", false, r->online, NS_MAX_CPUS, CPUS);
    for (cpu = find_first_bit(r->online, NS_MAX_CPUS); cpu < NS_MAX_CPUS;
         cpu = find_next_bit(r->online, NS_MAX_CPUS, cpu + 1)) {
        uint64_t online;

        if (!ns_reader_load(r, CPUS "/cpu%lu/online", cpu)) {
            continue;
        }
        if (!ns_parse_number(r->buf, r->len, 1, &online)) {
            ns_reader_complain(r, "neither 0 nor 1");
        } else if (!online) {
            clear_bit(cpu, r->online);
        }
    }
}

/* The online CPUs that the node says it has */
static void read_claim(NsReader *r, uint32_t id, unsigned long *claim)
{
    bitmap_zero(claim, NS_MAX_CPUS);
    if (!ns_reader_load(r, NODES "/node%u/cpumap", id)) {
        ns_reader_complain(r, r->why);
    } else if (!ns_parse_mask(r->buf, r->len, claim, NS_MAX_CPUS)) {
        ns_reader_complain(r, "not a mask of CPUs");
    } else {
        goto out;
    }
    if (!ns_reader_load(r, NODES "/node%u/cpulist", id)) {
        ns_reader_complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, claim, NS_MAX_CPUS)) {
        ns_reader_complain(r, "not a list of CPUs");
    }
out:
    bitmap_and(claim, claim, r->online, NS_MAX_CPUS);
}

/* From the file that was read last, a meminfo; false: not all is known */
static bool parse_memory(NsReader *r, bool loaded, NsNode *node)
{
    if (!loaded) {
        ns_reader_complain(r, r->why);
    } else if (!ns_parse_meminfo(r->buf, r->len, "MemTotal:", NS_MAX_BYTES,
                                 &node->size)) {
        ns_reader_complain(r, "no size of memory that can be");
    } else if (!ns_parse_meminfo(r->buf, r->len, "MemFree:", node->size,
                                 &node->free)) {
        ns_reader_complain(r, "no size of free memory that can be");
    } else {
        return true;
    }
    return false;
}

/* Whether there is a believable set of the threads of that CPU's core */
static bool read_siblings(NsReader *r, uint32_t cpu, unsigned long *siblings)
{
    static const struct {
        const char *name;
        bool (*parse)(const char *buf, size_t len, unsigned long *bits,
                      size_t size);
    } source[] = {
        { "thread_siblings_list", ns_parse_list },
        { "core_cpus_list", ns_parse_list },
        { "thread_siblings", ns_parse_mask },
        { "core_cpus", ns_parse_mask },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(source); i++) {
        if (!ns_reader_load(r, CPUS "/cpu%u/topology/%s", cpu,
                            source[i].name)) {
            continue;
        }
        bitmap_zero(siblings, NS_MAX_CPUS);
        if (source[i].parse(r->buf, r->len, siblings, NS_MAX_CPUS) &&
            test_bit(cpu, siblings)) {
            return true;
        }
        ns_reader_complain(r, "not a set of threads with that CPU");
    }
    return false;
}

/* The last resort: cores of one package, on different dies, may share an id. */
static bool read_core_id(NsReader *r, uint32_t cpu, uint64_t *core)
{
    uint64_t package;

    /* On some machines it is -1, which says nothing. */
    if (!ns_reader_load(r, CPUS "/cpu%u/topology/physical_package_id", cpu) ||
                  !ns_parse_number(r->buf, r->len, UINT32_MAX, &package) ||
                  !ns_reader_load(r, CPUS "/cpu%u/topology/core_id", cpu) ||
                  !ns_parse_number(r->buf, r->len, UINT32_MAX, core)) {
        return false;
    }
    *core |= package << 32;
    return true;
}

/*
 * Fill in CPUs and cores.  A core counts as its lowest CPU among @cpus, so that
 * it does not matter which of its other threads a set has.
 */
static void set_cpus(NsReader *r, NsNode *node, const unsigned long *cpus)
{
    g_autofree unsigned long *siblings = bitmap_new(NS_MAX_CPUS);
    g_autofree unsigned long *lowest = bitmap_new(NS_MAX_CPUS);
    g_autoptr(GHashTable) ids = g_hash_table_new_full(g_int64_hash,
                                                      g_int64_equal, g_free,
                                                      NULL);
    uint32_t unknown = 0;
    unsigned long cpu = -1;

    node->cpus = bitmap_count_one(cpus, NS_MAX_CPUS);
    node->cpu = g_new(uint32_t, node->cpus);
    for (uint32_t k = 0; k < node->cpus; k++) {
        uint64_t id;

        cpu = find_next_bit(cpus, NS_MAX_CPUS, cpu + 1);
        node->cpu[k] = cpu;
        if (read_siblings(r, cpu, siblings)) {
            unsigned long i = find_first_bit(siblings, NS_MAX_CPUS);

            /* This ends at @cpu, which is in both. */
            while (!test_bit(i, cpus)) {
                i = find_next_bit(siblings, NS_MAX_CPUS, i + 1);
            }
            set_bit(i, lowest);
        } else if (read_core_id(r, cpu, &id)) {
            g_hash_table_add(ids, g_memdup2(&id, sizeof(id)));
        } else {
            unknown++;
        }
    }
    node->cores = bitmap_count_one(lowest, NS_MAX_CPUS) +
                  g_hash_table_size(ids) + unknown;
    if (unknown) {
        ns_reader_note(r, "node %u: %u CPUs have no core and count as one each",
                       node->id, unknown);
    }
}

static void add_memory(NsNode *node, const NsNode *more)
{
    node->size = MIN(node->size + more->size, NS_MAX_BYTES);
    node->free = MIN(node->free + more->free, node->size);
}

static void merge(NsReader *r, NsNode *node, NsNode *more)
{
    ns_reader_note(r, "node %u has the same CPUs as node %u and is made one"
                   " with it",
                   more->id, node->id);
    add_memory(node, more);
}

/* False: of some node, not all of its memory is known */
static bool read_nodes(NsReader *r, const unsigned long *ids)
{
    g_autofree unsigned long *claim = bitmap_new(NS_MAX_CPUS);
    g_autofree unsigned long *taken = bitmap_new(NS_MAX_CPUS);
    g_autoptr(GHashTable) claims = g_hash_table_new_full(
        g_bytes_hash, g_bytes_equal, (GDestroyNotify)g_bytes_unref, NULL);
    NsTopology *t = r->t;
    bool known = true;
    unsigned long id;

    t->node = g_new0(NsNode, bitmap_count_one(ids, NS_MAX_NODES));
    for (id = find_first_bit(ids, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(ids, NS_MAX_NODES, id + 1)) {
        NsNode *node = &t->node[t->n];
        gpointer same;

        *node = (NsNode) { .id = id };
        known &= parse_memory(r, ns_reader_load(r, NODES "/node%lu/meminfo",
                                                id), node);
        read_claim(r, id, claim);
        if (!bitmap_empty(claim, NS_MAX_CPUS)) {
            GBytes *key = g_bytes_new(claim, BITS_TO_LONGS(NS_MAX_CPUS) *
                                             sizeof(*claim));

            if (g_hash_table_lookup_extended(claims, key, NULL, &same)) {
                g_bytes_unref(key);
                r->t->index[id] = GPOINTER_TO_INT(same);
                merge(r, &t->node[r->t->index[id]], node);
                continue;
            }
            g_hash_table_insert(claims, key, GINT_TO_POINTER(t->n));
        }
        if (bitmap_intersects(claim, taken, NS_MAX_CPUS)) {
            ns_reader_note(r, "node %lu: CPUs that nodes with lower numbers"
                           " have, too,"
                           " stay theirs", id);
            bitmap_andnot(claim, claim, taken, NS_MAX_CPUS);
        }
        bitmap_or(taken, taken, claim, NS_MAX_CPUS);
        set_cpus(r, node, claim);
        r->t->index[id] = t->n++;
    }
    if (!bitmap_equal(taken, r->online, NS_MAX_CPUS)) {
        ns_reader_note(r, NODES ": %ld online CPUs are in no node and are left"
                       " out",
                       bitmap_count_one(r->online, NS_MAX_CPUS) -
                       bitmap_count_one(taken, NS_MAX_CPUS));
    }
    return known;
}

/* A kernel without NUMA */
static void make_node(NsReader *r)
{
    NsTopology *t = r->t;

    ns_reader_note(r, NODES ": no node; all CPUs and all memory are node 0");
    t->node = g_new0(NsNode, 1);
    t->n = 1;
    r->t->index[0] = 0;
    parse_memory(r, ns_reader_load(r, "proc/meminfo"), t->node);
    set_cpus(r, t->node, r->online);
}

/*
 * The ids to read, none on a kernel without NUMA; and those that a row of
 * distances is for, which may be more in a copy that lacks some.
 */
static void find_nodes(NsReader *r, unsigned long *ids)
{
    ns_reader_scan(r, "node", false, ids, NS_MAX_NODES, NODES);
    if (bitmap_empty(ids, NS_MAX_NODES)) {
        return;
    }
    if (!ns_reader_load(r, NODES "/online")) {
        ns_reader_complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, r->rows, NS_MAX_NODES) ||
               !bitmap_intersects(r->rows, ids, NS_MAX_NODES)) {
        ns_reader_complain(r, "not a list of the nodes that are there");
    } else {
        if (!bitmap_equal(r->rows, ids, NS_MAX_NODES)) {
            ns_reader_complain(r, "not the same nodes as are there");
            bitmap_and(ids, ids, r->rows, NS_MAX_NODES);
        }
        return;
    }
    bitmap_copy(r->rows, ids, NS_MAX_NODES);
}

static void read_distances(NsReader *r)
{
    long columns = bitmap_count_one(r->rows, NS_MAX_NODES);
    g_autofree uint32_t *value = g_new(uint32_t, columns);
    NsTopology *t = r->t;

    for (uint32_t i = 0; i < t->n && columns; i++) {
        uint8_t *row = &t->slit[(size_t)i * t->n];
        unsigned long id = -1;
        bool bad = false;

        if (!ns_reader_load(r, NODES "/node%u/distance", t->node[i].id)) {
            ns_reader_complain(r, r->why);
            continue;
        }
        if (ns_parse_row(r->buf, r->len, UINT32_MAX, value, columns) !=
            columns) {
            ns_reader_complain(r, "not one distance for each node");
            continue;
        }
        for (long k = 0; k < columns; k++) {
            int j;

            id = find_next_bit(r->rows, NS_MAX_NODES, id + 1);
            j = r->t->index[id];
            /* Of nodes that were made one, the first counts. */
            if (j < 0 || t->node[j].id != id) {
                continue;
            }
            if (!value[k] || value[k] > NS_MAX_SLIT) {
                bad = true;
                continue;
            }
            row[j] = value[k];
        }
        if (bad) {
            ns_reader_complain(r, "distances of 0, or above 254, are not"
                               " known");
        }
    }
}

/*
 * Class 1 is about CPUs; class 0 is about all that can read memory, but a GPU's
 * latency says nothing about CPUs.
 */
static bool read_access(NsReader *r, uint32_t j, int class)
{
    g_autofree unsigned long *from = bitmap_new(NS_MAX_NODES);
    NsTopology *t = r->t;
    bool found = false;
    unsigned long id;
    uint64_t ns;

    ns_reader_scan(r, "node", true, from, NS_MAX_NODES,
                   NODES "/node%u/access%d/initiators", t->node[j].id, class);
    if (bitmap_empty(from, NS_MAX_NODES)) {
        return false;
    }
    if (!ns_reader_load(r, NODES "/node%u/access%d/initiators/read_latency",
                        t->node[j].id, class)) {
        ns_reader_complain(r, r->why);
        return false;
    }
    if (!ns_parse_number(r->buf, r->len, NS_MAX_LATENCY, &ns) || !ns) {
        ns_reader_complain(r, "not a latency that can be");
        return false;
    }
    for (id = find_first_bit(from, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(from, NS_MAX_NODES, id + 1)) {
        int i = r->t->index[id];

        if (i >= 0 && t->node[i].cpus) {
            t->initiator[(size_t)i * t->n + j] = true;
            found = true;
        }
    }
    if (found) {
        t->node[j].access_ns = ns;
    } else {
        ns_reader_complain(r, "of no node with CPUs");
    }
    return found;
}

static void read_accesses(NsReader *r)
{
    for (uint32_t j = 0; j < r->t->n; j++) {
        if (!read_access(r, j, 1)) {
            read_access(r, j, 0);
        }
    }
}

static bool has_cpus(NsReader *r, Error **errp)
{
    for (uint32_t i = 0; i < r->t->n; i++) {
        if (r->t->node[i].cpus) {
            return true;
        }
    }
    if (bitmap_empty(r->online, NS_MAX_CPUS)) {
        error_setg(errp, "%s: no CPU is online: " CPUS "/online names none, and"
                   " there is no " CPUS "/cpu*; is this the root of a host, or"
                   " of a copy of its sys/devices/system?", r->root);
    } else {
        error_setg(errp, "%s: no node has a CPU that is online: none of " NODES
                   "/node*/cpumap and cpulist names one of " CPUS "/online;"
                   " copy both directories from the same host", r->root);
    }
    return false;
}

static void append_file(GByteArray *mark, const NsReader *r)
{
    uint32_t len = r->len;

    g_byte_array_append(mark, (const uint8_t *)&len, sizeof(len));
    g_byte_array_append(mark, (const uint8_t *)r->buf, len);
}

/*
 * What tells that something came, or went, and @ids, the nodes that are there,
 * in a bitmap that is clear.  NULL where this kernel, or copy, has no such
 * files.  As they are: what they mean matters only when they differ.
 */
static GBytes *read_mark(NsReader *r, unsigned long *ids)
{
    g_autoptr(GByteArray) mark = g_byte_array_new();
    unsigned long id;

    if (!ns_reader_load(r, CPUS "/online")) {
        return NULL;
    }
    append_file(mark, r);
    bitmap_zero(r->online, NS_MAX_CPUS);
    if (!ns_parse_list(r->buf, r->len, r->online, NS_MAX_CPUS) ||
        bitmap_empty(r->online, NS_MAX_CPUS)) {
        bitmap_zero(r->online, NS_MAX_CPUS);
        return NULL;
    }
    bitmap_zero(r->online, NS_MAX_CPUS);
    if (!ns_reader_load(r, NODES "/online")) {
        return NULL;
    }
    append_file(mark, r);
    ns_reader_scan(r, "node", false, ids, NS_MAX_NODES, NODES);
    g_byte_array_append(mark, (const uint8_t *)ids,
                        BITS_TO_LONGS(NS_MAX_NODES) * sizeof(*ids));
    for (id = find_first_bit(ids, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(ids, NS_MAX_NODES, id + 1)) {
        bool good = ns_reader_load(r, NODES "/node%lu/cpumap", id);

        append_file(mark, r);
        bitmap_zero(r->online, NS_MAX_CPUS);
        good = good && ns_parse_mask(r->buf, r->len, r->online, NS_MAX_CPUS);
        bitmap_zero(r->online, NS_MAX_CPUS);
        /* Where there is no good mask, the list counts: read_claim() */
        if (!good) {
            if (!ns_reader_load(r, NODES "/node%lu/cpulist", id)) {
                return NULL;
            }
            append_file(mark, r);
        }
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&mark));
}

/* Whether all is known of the memory of the nodes of @ids that count */
static bool read_memory(NsReader *r, NsTopology *t, const unsigned long *ids)
{
    g_autofree NsNode *sum = g_new0(NsNode, t->n);
    unsigned long id;

    for (id = find_first_bit(ids, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(ids, NS_MAX_NODES, id + 1)) {
        NsNode node = { };

        if (t->index[id] >= 0) {
            if (!parse_memory(r, ns_reader_load(r, NODES "/node%lu/meminfo",
                                                id), &node)) {
                return false;
            }
            add_memory(&sum[t->index[id]], &node);
        }
    }
    for (uint32_t i = 0; i < t->n; i++) {
        t->node[i].size = sum[i].size;
        t->node[i].free = sum[i].free;
    }
    return true;
}

NsTopology *ns_topology_read(const char *root, Error **errp)
{
    g_autoptr(NsTopology) t = g_new0(NsTopology, 1);
    g_autofree unsigned long *online = bitmap_new(NS_MAX_CPUS);
    g_autofree unsigned long *rows = bitmap_new(NS_MAX_NODES);
    g_autofree unsigned long *ids = bitmap_new(NS_MAX_NODES);
    g_autoptr(GBytes) mark = NULL;
    g_autofree NsReader *r = g_new0(NsReader, 1);

    t->notes = g_ptr_array_new_with_free_func(g_free);
    r->root = root;
    r->t = t;
    r->online = online;
    r->rows = rows;
    memset(t->index, -1, sizeof(t->index));
    r->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (r->root_fd < 0) {
        error_setg_errno(errp, errno, "cannot open the directory '%s'", root);
        return NULL;
    }
    /* First, so that what changes meanwhile is seen the next time */
    r->t = NULL;
    mark = read_mark(r, ids);
    r->t = t;
    bitmap_zero(ids, NS_MAX_NODES);
    read_online(r);
    find_nodes(r, ids);
    if (bitmap_empty(ids, NS_MAX_NODES)) {
        make_node(r);
    } else if (read_nodes(r, ids)) {
        t->mark = g_steal_pointer(&mark);
    }
    t->slit = g_new0(uint8_t, (size_t)t->n * t->n);
    t->initiator = g_new0(bool, (size_t)t->n * t->n);
    read_distances(r);
    read_accesses(r);
    close(r->root_fd);
    return has_cpus(r, errp) ? g_steal_pointer(&t) : NULL;
}

NsTopology *ns_topology_refresh(NsTopology *old, const char *root,
                                Error **errp)
{
    g_autoptr(NsTopology) t = old;

    if (t && t->mark) {
        g_autofree unsigned long *online = bitmap_new(NS_MAX_CPUS);
        g_autofree unsigned long *ids = bitmap_new(NS_MAX_NODES);
        g_autofree NsReader *r = g_new0(NsReader, 1);
        bool same = false;

        r->root = root;
        r->online = online;
        r->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (r->root_fd >= 0) {
            g_autoptr(GBytes) mark = read_mark(r, ids);

            same = mark && g_bytes_equal(mark, t->mark) &&
                   read_memory(r, t, ids);
            close(r->root_fd);
        }
        if (same) {
            return g_steal_pointer(&t);
        }
    }
    return ns_topology_read(root, errp);
}

void ns_topology_free(NsTopology *t)
{
    if (!t) {
        return;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        g_free(t->node[i].cpu);
    }
    g_free(t->node);
    g_free(t->slit);
    g_free(t->initiator);
    g_ptr_array_unref(t->notes);
    g_clear_pointer(&t->mark, g_bytes_unref);
    g_free(t);
}

int ns_topology_find(const NsTopology *t, uint64_t id)
{
    uint32_t low = 0, high = t->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (t->node[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < t->n && t->node[low].id == id ? (int)low : -1;
}
