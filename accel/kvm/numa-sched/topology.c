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
#include <dirent.h>
#include "parse.h"
#include "topology.h"

#define MAX_FILE        (64 * 1024)
#define MAX_NOTES       64
#define NODES           "sys/devices/system/node"
#define CPUS            "sys/devices/system/cpu"

typedef struct Reader {
    const char *root;
    int root_fd;
    NsTopology *t;
    unsigned long *online;      /* NS_MAX_CPUS */
    unsigned long *rows;        /* NS_MAX_NODES: what a distance is given for */
    /* Of the node with that id, or -1; of the one that nodes were made */
    int index[NS_MAX_NODES];
    char path[128];             /* of the last file, below the root */
    const char *why;            /* it was not read */
    size_t len;
    char buf[MAX_FILE + 1];     /* one more shows that a file is too large */
} Reader;

static void G_GNUC_PRINTF(2, 3) note(Reader *r, const char *fmt, ...)
{
    GPtrArray *notes = r->t->notes;
    va_list ap;

    if (notes->len < MAX_NOTES) {
        va_start(ap, fmt);
        g_ptr_array_add(notes, g_strdup_vprintf(fmt, ap));
        va_end(ap);
    } else if (notes->len == MAX_NOTES) {
        g_ptr_array_add(notes, g_strdup("there is more that was missing, or"
                                        " was not believed"));
    }
}

/* About the file that was read last */
static void complain(Reader *r, const char *what)
{
    note(r, "%s: %s", r->path, what);
}

static void G_GNUC_PRINTF(2, 0) set_path(Reader *r, const char *fmt,
                                         va_list ap)
{
    g_vsnprintf(r->path, sizeof(r->path), fmt, ap);
}

/* Regular files only: opening a FIFO or device could wait, or do something. */
static int open_regular(Reader *r)
{
    int fd = -1;
    struct stat st;

    r->why = "not a regular file";
    if (fstatat(r->root_fd, r->path, &st, 0) < 0) {
        r->why = errno == ENOENT ? "missing" : g_strerror(errno);
    } else if (S_ISREG(st.st_mode)) {
        fd = openat(r->root_fd, r->path,
                    O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) {
            r->why = g_strerror(errno);
        } else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
            close(fd);
            fd = -1;
        }
    }
    return fd;
}

/* Read a file; false with @why set otherwise */
static bool G_GNUC_PRINTF(2, 3) load(Reader *r, const char *fmt, ...)
{
    va_list ap;
    ssize_t n = 1;
    int fd;

    va_start(ap, fmt);
    set_path(r, fmt, ap);
    va_end(ap);
    r->len = 0;
    fd = open_regular(r);
    if (fd < 0) {
        return false;
    }
    r->why = NULL;
    while (n > 0 && r->len < sizeof(r->buf)) {
        n = read(fd, r->buf + r->len, sizeof(r->buf) - r->len);
        if (n < 0) {
            r->why = g_strerror(errno);
        } else {
            r->len += n;
        }
    }
    close(fd);
    if (r->len > MAX_FILE) {
        r->why = "too large";
    }
    return !r->why;
}

/*
 * Set the bits of the numbers N for which the directory has a "<prefix>N" that
 * is a directory; with @links it is a link, whose target a copy may lack.
 */
static void G_GNUC_PRINTF(6, 7) scan(Reader *r, const char *prefix, bool links,
                                     unsigned long *bits, size_t size,
                                     const char *fmt, ...)
{
    size_t skip = strlen(prefix);
    struct dirent *e;
    va_list ap;
    DIR *dir;
    int fd;

    va_start(ap, fmt);
    set_path(r, fmt, ap);
    va_end(ap);
    fd = openat(r->root_fd, r->path,
                O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECTORY);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    while ((e = readdir(dir))) {
        const char *number = e->d_name + skip;
        struct stat st;
        uint64_t v;

        if (strncmp(e->d_name, prefix, skip) || !*number ||
            number[strspn(number, "0123456789")] ||
            (*number == '0' && number[1])) {
            continue;
        }
        if (!ns_parse_number(number, strlen(number), size - 1, &v)) {
            note(r, "%s/%s: numbers above %zu are left out", r->path,
                 e->d_name, size - 1);
        } else if (links || (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
                             S_ISDIR(st.st_mode))) {
            set_bit(v, bits);
        }
    }
    closedir(dir);
}

static void read_online(Reader *r)
{
    unsigned long cpu;

    if (!load(r, CPUS "/online")) {
        complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, r->online, NS_MAX_CPUS)) {
        complain(r, "not a list of CPUs");
    } else if (!bitmap_empty(r->online, NS_MAX_CPUS)) {
        return;
    } else {
        complain(r, "no CPU");
    }
    /* Old kernels have only a file for each CPU that can be put offline. */
    scan(r, "cpu", false, r->online, NS_MAX_CPUS, CPUS);
    for (cpu = find_first_bit(r->online, NS_MAX_CPUS); cpu < NS_MAX_CPUS;
         cpu = find_next_bit(r->online, NS_MAX_CPUS, cpu + 1)) {
        uint64_t online;

        if (!load(r, CPUS "/cpu%lu/online", cpu)) {
            continue;
        }
        if (!ns_parse_number(r->buf, r->len, 1, &online)) {
            complain(r, "neither 0 nor 1");
        } else if (!online) {
            clear_bit(cpu, r->online);
        }
    }
}

/* The online CPUs that the node says it has */
static void read_claim(Reader *r, uint32_t id, unsigned long *claim)
{
    bitmap_zero(claim, NS_MAX_CPUS);
    if (!load(r, NODES "/node%u/cpumap", id)) {
        complain(r, r->why);
    } else if (!ns_parse_mask(r->buf, r->len, claim, NS_MAX_CPUS)) {
        complain(r, "not a mask of CPUs");
    } else {
        goto out;
    }
    if (!load(r, NODES "/node%u/cpulist", id)) {
        complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, claim, NS_MAX_CPUS)) {
        complain(r, "not a list of CPUs");
    }
out:
    bitmap_and(claim, claim, r->online, NS_MAX_CPUS);
}

/* From the file that was read last, a meminfo */
static void parse_memory(Reader *r, bool loaded, NsNode *node)
{
    if (!loaded) {
        complain(r, r->why);
    } else if (!ns_parse_meminfo(r->buf, r->len, "MemTotal:", NS_MAX_BYTES,
                                 &node->size)) {
        complain(r, "no size of memory that can be");
    } else if (!ns_parse_meminfo(r->buf, r->len, "MemFree:", node->size,
                                 &node->free)) {
        complain(r, "no size of free memory that can be");
    }
}

/* Whether there is a believable set of the threads of that CPU's core */
static bool read_siblings(Reader *r, uint32_t cpu, unsigned long *siblings)
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
        if (!load(r, CPUS "/cpu%u/topology/%s", cpu, source[i].name)) {
            continue;
        }
        bitmap_zero(siblings, NS_MAX_CPUS);
        if (source[i].parse(r->buf, r->len, siblings, NS_MAX_CPUS) &&
            test_bit(cpu, siblings)) {
            return true;
        }
        complain(r, "not a set of threads with that CPU");
    }
    return false;
}

/* The last resort: cores of one package, on different dies, may share an id. */
static bool read_core_id(Reader *r, uint32_t cpu, uint64_t *core)
{
    uint64_t package;

    /* On some machines it is -1, which says nothing. */
    if (!load(r, CPUS "/cpu%u/topology/physical_package_id", cpu) ||
        !ns_parse_number(r->buf, r->len, UINT32_MAX, &package) ||
        !load(r, CPUS "/cpu%u/topology/core_id", cpu) ||
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
static void set_cpus(Reader *r, NsNode *node, const unsigned long *cpus)
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
        note(r, "node %u: %u CPUs have no core and count as one each",
             node->id, unknown);
    }
}

static void merge(Reader *r, NsNode *node, NsNode *more)
{
    note(r, "node %u has the same CPUs as node %u and is made one with it",
         more->id, node->id);
    node->size = MIN(node->size + more->size, NS_MAX_BYTES);
    node->free = MIN(node->free + more->free, node->size);
}

static void read_nodes(Reader *r, const unsigned long *ids)
{
    g_autofree unsigned long *claim = bitmap_new(NS_MAX_CPUS);
    g_autofree unsigned long *taken = bitmap_new(NS_MAX_CPUS);
    g_autoptr(GHashTable) claims = g_hash_table_new_full(
        g_bytes_hash, g_bytes_equal, (GDestroyNotify)g_bytes_unref, NULL);
    NsTopology *t = r->t;
    unsigned long id;

    t->node = g_new0(NsNode, bitmap_count_one(ids, NS_MAX_NODES));
    for (id = find_first_bit(ids, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(ids, NS_MAX_NODES, id + 1)) {
        NsNode *node = &t->node[t->n];
        gpointer same;

        *node = (NsNode) { .id = id };
        parse_memory(r, load(r, NODES "/node%lu/meminfo", id), node);
        read_claim(r, id, claim);
        if (!bitmap_empty(claim, NS_MAX_CPUS)) {
            GBytes *key = g_bytes_new(claim, BITS_TO_LONGS(NS_MAX_CPUS) *
                                             sizeof(*claim));

            if (g_hash_table_lookup_extended(claims, key, NULL, &same)) {
                g_bytes_unref(key);
                r->index[id] = GPOINTER_TO_INT(same);
                merge(r, &t->node[r->index[id]], node);
                continue;
            }
            g_hash_table_insert(claims, key, GINT_TO_POINTER(t->n));
        }
        if (bitmap_intersects(claim, taken, NS_MAX_CPUS)) {
            note(r, "node %lu: CPUs that nodes with lower numbers have, too,"
                 " stay theirs", id);
            bitmap_andnot(claim, claim, taken, NS_MAX_CPUS);
        }
        bitmap_or(taken, taken, claim, NS_MAX_CPUS);
        set_cpus(r, node, claim);
        r->index[id] = t->n++;
    }
    if (!bitmap_equal(taken, r->online, NS_MAX_CPUS)) {
        note(r, NODES ": %ld online CPUs are in no node and are left out",
             bitmap_count_one(r->online, NS_MAX_CPUS) -
             bitmap_count_one(taken, NS_MAX_CPUS));
    }
}

/* A kernel without NUMA */
static void make_node(Reader *r)
{
    NsTopology *t = r->t;

    note(r, NODES ": no node; all CPUs and all memory are node 0");
    t->node = g_new0(NsNode, 1);
    t->n = 1;
    r->index[0] = 0;
    parse_memory(r, load(r, "proc/meminfo"), t->node);
    set_cpus(r, t->node, r->online);
}

/*
 * The ids to read, none on a kernel without NUMA; and those that a row of
 * distances is for, which may be more in a copy that lacks some.
 */
static void find_nodes(Reader *r, unsigned long *ids)
{
    scan(r, "node", false, ids, NS_MAX_NODES, NODES);
    if (bitmap_empty(ids, NS_MAX_NODES)) {
        return;
    }
    if (!load(r, NODES "/online")) {
        complain(r, r->why);
    } else if (!ns_parse_list(r->buf, r->len, r->rows, NS_MAX_NODES) ||
               !bitmap_intersects(r->rows, ids, NS_MAX_NODES)) {
        complain(r, "not a list of the nodes that are there");
    } else {
        if (!bitmap_equal(r->rows, ids, NS_MAX_NODES)) {
            complain(r, "not the same nodes as are there");
            bitmap_and(ids, ids, r->rows, NS_MAX_NODES);
        }
        return;
    }
    bitmap_copy(r->rows, ids, NS_MAX_NODES);
}

static void read_distances(Reader *r)
{
    long columns = bitmap_count_one(r->rows, NS_MAX_NODES);
    g_autofree uint32_t *value = g_new(uint32_t, columns);
    NsTopology *t = r->t;

    for (uint32_t i = 0; i < t->n && columns; i++) {
        uint8_t *row = &t->slit[(size_t)i * t->n];
        unsigned long id = -1;
        bool bad = false;

        if (!load(r, NODES "/node%u/distance", t->node[i].id)) {
            complain(r, r->why);
            continue;
        }
        if (ns_parse_row(r->buf, r->len, UINT32_MAX, value, columns) !=
            columns) {
            complain(r, "not one distance for each node");
            continue;
        }
        for (long k = 0; k < columns; k++) {
            int j;

            id = find_next_bit(r->rows, NS_MAX_NODES, id + 1);
            j = r->index[id];
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
            complain(r, "distances of 0, or above 254, are not known");
        }
    }
}

/*
 * Class 1 is about CPUs; class 0 is about all that can read memory, but a GPU's
 * latency says nothing about CPUs.
 */
static bool read_access(Reader *r, uint32_t j, int class)
{
    g_autofree unsigned long *from = bitmap_new(NS_MAX_NODES);
    NsTopology *t = r->t;
    bool found = false;
    unsigned long id;
    uint64_t ns;

    scan(r, "node", true, from, NS_MAX_NODES,
         NODES "/node%u/access%d/initiators", t->node[j].id, class);
    if (bitmap_empty(from, NS_MAX_NODES)) {
        return false;
    }
    if (!load(r, NODES "/node%u/access%d/initiators/read_latency",
              t->node[j].id, class)) {
        complain(r, r->why);
        return false;
    }
    if (!ns_parse_number(r->buf, r->len, NS_MAX_LATENCY, &ns) || !ns) {
        complain(r, "not a latency that can be");
        return false;
    }
    for (id = find_first_bit(from, NS_MAX_NODES); id < NS_MAX_NODES;
         id = find_next_bit(from, NS_MAX_NODES, id + 1)) {
        int i = r->index[id];

        if (i >= 0 && t->node[i].cpus) {
            t->initiator[(size_t)i * t->n + j] = true;
            found = true;
        }
    }
    if (found) {
        t->node[j].access_ns = ns;
    } else {
        complain(r, "of no node with CPUs");
    }
    return found;
}

static void read_accesses(Reader *r)
{
    for (uint32_t j = 0; j < r->t->n; j++) {
        if (!read_access(r, j, 1)) {
            read_access(r, j, 0);
        }
    }
}

static bool has_cpus(Reader *r, Error **errp)
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

NsTopology *ns_topology_read(const char *root, Error **errp)
{
    g_autoptr(NsTopology) t = g_new0(NsTopology, 1);
    g_autofree unsigned long *online = bitmap_new(NS_MAX_CPUS);
    g_autofree unsigned long *rows = bitmap_new(NS_MAX_NODES);
    g_autofree unsigned long *ids = bitmap_new(NS_MAX_NODES);
    g_autofree Reader *r = g_new0(Reader, 1);

    t->notes = g_ptr_array_new_with_free_func(g_free);
    r->root = root;
    r->t = t;
    r->online = online;
    r->rows = rows;
    memset(r->index, -1, sizeof(r->index));
    r->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (r->root_fd < 0) {
        error_setg_errno(errp, errno, "cannot open the directory '%s'", root);
        return NULL;
    }
    read_online(r);
    find_nodes(r, ids);
    if (bitmap_empty(ids, NS_MAX_NODES)) {
        make_node(r);
    } else {
        read_nodes(r, ids);
    }
    t->slit = g_new0(uint8_t, (size_t)t->n * t->n);
    t->initiator = g_new0(bool, (size_t)t->n * t->n);
    read_distances(r);
    read_accesses(r);
    close(r->root_fd);
    return has_cpus(r, errp) ? g_steal_pointer(&t) : NULL;
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
