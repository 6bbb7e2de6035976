/*
 * Fuzzer: the parsers of sysfs, proc and firmware's tables, and the reader of a
 * host's topology
 *
 * Input: a byte, then a file for the parsers (the byte is even) or the files of
 * a host (it is odd): a byte that chooses the name, two for the length, the
 * lower first, and the content.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include <ftw.h>
#include "accel/kvm/numa-sched/hmat.h"
#include "accel/kvm/numa-sched/parse.h"
#include "accel/kvm/numa-sched/topology.h"
#include "accel/kvm/numa-sched/usage.h"

#include "fuzz.h"

#define SIZE    4096

/* seeds.py names them by their place here: only add at the end. */
static const char *const files[] = {
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/online",
    "sys/devices/system/cpu/cpu1/online",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/devices/system/cpu/cpu1/topology/thread_siblings",
    "sys/devices/system/cpu/cpu1/topology/core_cpus_list",
    "sys/devices/system/cpu/cpu2/topology/core_id",
    "sys/devices/system/cpu/cpu2/topology/physical_package_id",
    "sys/devices/system/node/online",
    "sys/devices/system/node/node0/cpumap",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/distance",
    "sys/devices/system/node/node0/meminfo",
    "sys/devices/system/node/node0/access0/initiators/read_latency",
    "sys/devices/system/node/node0/access0/initiators/node5/x",
    "sys/devices/system/node/node5/cpumap",
    "sys/devices/system/node/node5/cpulist",
    "sys/devices/system/node/node5/distance",
    "sys/devices/system/node/node5/meminfo",
    "sys/devices/system/node/node5/access1/initiators/read_latency",
    "sys/devices/system/node/node5/access1/initiators/node0/x",
    "sys/devices/system/node/node1023/cpumap",
    "proc/meminfo",
};

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static int on_remove(const char *path, const struct stat *st, int type,
                     struct FTW *ftw)
{
    return remove(path);
}

static void check_set(bool (*parse)(const char *, size_t, unsigned long *,
                                    size_t),
                      const char *buf, size_t len, size_t size)
{
    static unsigned long bits[BITS_TO_LONGS(SIZE)];

    bitmap_zero(bits, SIZE);
    if (parse(buf, len, bits, size)) {
        must(find_next_bit(bits, SIZE, size) == SIZE);
    } else {
        must(bitmap_empty(bits, SIZE));
    }
}

static void check_proc(const char *buf, size_t len)
{
    static uint64_t busy[64];
    uint64_t run, wait;
    int cpu;

    ns_parse_schedstat(buf, len, &run, &wait);
    must(!ns_parse_task_cpu(buf, len, &cpu) || (cpu >= 0 && cpu < NS_MAX_CPUS));
    ns_parse_cpus(buf, len, busy, ARRAY_SIZE(busy));
}

/* The bytes are what comes after the header, of both tables. */
static void check_hmat(const char *buf, size_t len)
{
    static NsNode node[3] = {
        { .id = 0, .cpus = 1, .size = 1 }, { .id = 1, .size = 1 },
        { .id = 7, .cpus = 1, .size = 1, .access_ns = 80 },
    };
    static bool initiator[9] = { [8] = true };
    const NsTopology t = { .n = 3, .node = node, .initiator = initiator };
    g_autofree uint8_t *hmat = g_malloc0(40 + len);
    g_autofree uint8_t *srat = g_malloc0(48 + len);
    const char *why;

    memcpy(hmat, "HMAT", 4);
    memcpy(srat, "SRAT", 4);
    memcpy(hmat + 40, buf, len);
    memcpy(srat + 48, buf, len);
    for (hmat[8] = 1; hmat[8] <= 2; hmat[8]++) {
        for (int i = 0; i < 2; i++) {
            g_autofree uint32_t *ns = ns_hmat_parse(&t, hmat, 40 + len,
                                                    i ? srat : NULL,
                                                    i ? 48 + len : 0, &why);

            must(!ns == !!why);
            for (int k = 0; ns && k < 9; k++) {
                must(ns[k] <= NS_MAX_LATENCY);
            }
        }
    }
}

static void check_parsers(const char *buf, size_t len)
{
    static const uint64_t limits[] = { 0, 5, NS_MAX_LATENCY, UINT64_MAX };
    static uint32_t row[64];
    uint64_t v;
    int n;

    for (size_t size = 0; size <= SIZE; size = size * 16 + 1) {
        check_set(ns_parse_list, buf, len, size);
        check_set(ns_parse_mask, buf, len, size);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
        must(!ns_parse_number(buf, len, limits[i], &v) || v <= limits[i]);
        must(!ns_parse_meminfo(buf, len, "MemFree:", limits[i], &v) ||
             v <= limits[i]);
        n = ns_parse_row(buf, len, MIN(limits[i], UINT32_MAX), row,
                         ARRAY_SIZE(row));
        must(n >= -1 && n <= (int)ARRAY_SIZE(row));
        while (n > 0) {
            must(row[--n] <= limits[i]);
        }
    }
    check_proc(buf, len);
    check_hmat(buf, len);
}

static void check_topology(const NsTopology *t)
{
    static unsigned long seen[BITS_TO_LONGS(NS_MAX_CPUS)];
    uint32_t cpus = 0;

    bitmap_zero(seen, NS_MAX_CPUS);
    must(t->n && t->n <= NS_MAX_NODES && t->notes->len <= 65);
    for (uint32_t i = 0; i < t->n; i++) {
        const NsNode *node = &t->node[i];

        must(node->id < NS_MAX_NODES && (!i || node[-1].id < node->id));
        must(ns_topology_find(t, node->id) == i);
        must(node->cores <= node->cpus && !node->cores == !node->cpus);
        must(node->size <= NS_MAX_BYTES && node->free <= node->size);
        must(node->access_ns <= NS_MAX_LATENCY);
        for (uint32_t k = 0; k < node->cpus; k++) {
            must(node->cpu[k] < NS_MAX_CPUS);
            must(!k || node->cpu[k - 1] < node->cpu[k]);
            must(!test_and_set_bit(node->cpu[k], seen));
        }
        for (uint32_t j = 0; j < t->n; j++) {
            must(t->slit[i * t->n + j] <= NS_MAX_SLIT);
            must(!t->initiator[i * t->n + j] || node->cpus);
        }
        cpus += node->cpus;
    }
    must(cpus);
}

static void put(const char *root, const char *name, const uint8_t *data,
                size_t size)
{
    g_autofree char *path = g_build_filename(root, name, NULL);
    g_autofree char *dir = g_path_get_dirname(path);
    FILE *f;

    must(g_mkdir_with_parents(dir, 0700) == 0);
    f = fopen(path, "w");
    must(f && fwrite(data, 1, size, f) == size);
    must(fclose(f) == 0);
}

static void check_tree(const uint8_t *data, size_t size)
{
    g_autofree char *root = g_dir_make_tmp("numa-topology-fuzz-XXXXXX", NULL);
    g_autoptr(NsTopology) t = NULL;
    Error *err = NULL;

    must(root);
    while (size >= 3) {
        size_t len = MIN(data[1] | data[2] << 8, size - 3);

        put(root, files[data[0] % ARRAY_SIZE(files)], data + 3, len);
        data += 3 + len;
        size -= 3 + len;
    }
    t = ns_topology_read(root, &err);
    if (t) {
        must(!err);
        check_topology(t);
    } else {
        must(err && strstr(error_get_pretty(err), root));
        error_free(err);
    }
    must(nftw(root, on_remove, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) {
        return 0;
    }
    if (data[0] & 1) {
        check_tree(data + 1, size - 1);
    } else {
        check_parsers((const char *)data + 1, size - 1);
    }
    return 0;
}
