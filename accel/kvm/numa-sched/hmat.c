/*
 * NUMA scheduler: the firmware's table of latencies
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "hmat.h"

#define HEADER          36
#define HMAT_BODY       (HEADER + 4)
#define SRAT_BODY       (HEADER + 12)
#define REVISION        8
#define MAX_TABLE       (4 * 1024 * 1024)
#define NO_NODE         UINT32_MAX
#define MATRIX          1               /* system locality latency, bandwidth */
#define MATRIX_HEADER   32
#define NO_ENTRY        0xffff

enum { ACCESS_LATENCY, READ_LATENCY };

/* Proximity domains in the order of their nodes; they may have any number. */
typedef struct Domains {
    uint32_t n;
    uint32_t domain[NS_MAX_NODES];
    bool identity;              /* without a SRAT */
} Domains;

static void meet(Domains *d, uint32_t domain)
{
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->domain[i] == domain) {
            return;
        }
    }
    if (d->n < NS_MAX_NODES) {
        d->domain[d->n++] = domain;
    }
}

/* The next structure of the SRAT; false: there is none, or it is cut off */
static bool srat_next(const uint8_t *srat, size_t len, size_t *at,
                      const uint8_t **entry)
{
    if (*at >= len || len - *at < 2 || srat[*at + 1] < 2 ||
        srat[*at + 1] > len - *at) {
        return false;
    }
    *entry = srat + *at;
    *at += srat[*at + 1];
    return true;
}

static void meet_cpu(Domains *d, const uint8_t *e)
{
    if (e[0] == 0 && e[1] >= 16 && (ldl_le_p(e + 4) & 1)) {
        /* Local APIC: the domain's higher bytes are elsewhere. */
        meet(d, e[2] | (uint32_t)e[9] << 8 | (uint32_t)e[10] << 16 |
             (uint32_t)e[11] << 24);
    } else if (e[0] == 2 && e[1] >= 24 && (ldl_le_p(e + 12) & 1)) {
        meet(d, ldl_le_p(e + 4));       /* x2APIC */
    }
}

static void read_domains(Domains *d, const uint8_t *srat, size_t len)
{
    const uint8_t *e;
    size_t at;

    d->n = 0;
    d->identity = !srat;
    if (!srat) {
        return;
    }
    for (at = SRAT_BODY; srat_next(srat, len, &at, &e);) {
        meet_cpu(d, e);
    }
    for (at = SRAT_BODY; srat_next(srat, len, &at, &e);) {
        if (e[0] == 1 && e[1] >= 40 && (ldl_le_p(e + 28) & 1)) {
            meet(d, ldl_le_p(e + 2));
        }
    }
}

/* The index of a domain's node, or NO_NODE */
static uint32_t index_of(const NsTopology *t, const Domains *d, uint32_t domain)
{
    int index = -1;

    if (d->identity) {
        index = ns_topology_find(t, domain);
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->domain[i] == domain) {
            index = ns_topology_find(t, i);
        }
    }
    return index < 0 ? NO_NODE : index;
}

/* Nanoseconds; 0: not known.  The unit depends on the table's revision. */
static uint32_t ns_of(uint16_t entry, uint64_t base, int revision)
{
    uint64_t value;

    if (!entry || entry == NO_ENTRY || !base || base > UINT32_MAX / entry) {
        return 0;
    }
    value = entry * base;
    if (revision == 1) {
        value = value < 10 ? 0 : DIV_ROUND_UP(value, 10);
    } else {
        value = DIV_ROUND_UP(value, 1000);
    }
    return value <= NS_MAX_LATENCY ? value : 0;
}

/* One matrix; @ns has what it says where @wins, or nothing was known */
static void take_matrix(const NsTopology *t, const Domains *d,
                        const uint8_t *m, uint32_t len, int revision,
                        bool wins, uint32_t *ns)
{
    uint32_t rows = ldl_le_p(m + 12), columns = ldl_le_p(m + 16);
    uint64_t base = ldq_le_p(m + 24);
    const uint8_t *from = m + MATRIX_HEADER, *to, *entry;
    g_autofree uint32_t *column = NULL;

    if (rows > len || columns > len ||
        MATRIX_HEADER + 4ull * rows + 4ull * columns +
        2ull * rows * columns > len) {
        return;
    }
    to = from + 4 * rows;
    entry = to + 4 * columns;
    column = g_new(uint32_t, MAX(columns, 1));
    for (uint32_t j = 0; j < columns; j++) {
        column[j] = index_of(t, d, ldl_le_p(to + 4 * j));
    }
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t row = index_of(t, d, ldl_le_p(from + 4 * i));

        for (uint32_t j = 0; row != NO_NODE && j < columns; j++) {
            uint32_t value = ns_of(lduw_le_p(entry +
                                             2 * ((size_t)i * columns + j)),
                                   base, revision);
            uint32_t *cell;

            if (column[j] == NO_NODE) {
                continue;
            }
            cell = &ns[(size_t)row * t->n + column[j]];
            if (value && (wins || !*cell)) {
                *cell = value;
            }
        }
    }
}

static const char *contradiction(const NsTopology *t, const uint32_t *ns)
{
    bool any = false;

    for (uint32_t i = 0; i < t->n; i++) {
        for (uint32_t j = 0; j < t->n; j++) {
            uint32_t value = ns[(size_t)i * t->n + j];

            if (!t->node[i].cpus || !value) {
                continue;
            }
            any = true;
            if (t->initiator[(size_t)i * t->n + j] && t->node[j].access_ns &&
                t->node[j].access_ns != value) {
                return "not what the kernel says of the same nodes";
            }
        }
    }
    return any ? NULL : "no latency in it";
}

uint32_t *ns_hmat_parse(const NsTopology *t, const uint8_t *hmat, size_t len,
                        const uint8_t *srat, size_t srat_len, const char **why)
{
    g_autofree uint32_t *ns = g_new0(uint32_t, (size_t)t->n * t->n);
    g_autofree Domains *d = g_new(Domains, 1);
    size_t at = HMAT_BODY;

    *why = "not a table of latencies";
    if (len < HMAT_BODY || memcmp(hmat, "HMAT", 4) ||
        (hmat[REVISION] != 1 && hmat[REVISION] != 2) ||
        (srat && (srat_len < SRAT_BODY || memcmp(srat, "SRAT", 4)))) {
        return NULL;
    }
    read_domains(d, srat, srat_len);
    while (at < len && len - at >= 8) {
        const uint8_t *m = hmat + at;
        uint32_t size = ldl_le_p(m + 4);

        if (size < 8 || size > len - at) {
            return NULL;
        }
        /* Of memory, not of a cache at its side */
        if (lduw_le_p(m) == MATRIX && size >= MATRIX_HEADER &&
            !(m[8] & 0xf) && m[9] <= READ_LATENCY) {
            take_matrix(t, d, m, size, hmat[REVISION], m[9] == READ_LATENCY,
                        ns);
        }
        at += size;
    }
    *why = contradiction(t, ns);
    return *why ? NULL : g_steal_pointer(&ns);
}

/* NULL: not there, or not to be read */
static uint8_t *read_table(const char *root, const char *name, size_t *len)
{
    g_autofree char *path = g_build_filename(root, "sys/firmware/acpi/tables",
                                             name, NULL);
    char *buf = NULL;
    struct stat st;

    if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size > MAX_TABLE ||
        !g_file_get_contents(path, &buf, len, NULL)) {
        return NULL;
    }
    return (uint8_t *)buf;
}

uint32_t *ns_hmat_read(NsTopology *t, const char *root)
{
    size_t len, srat_len = 0;
    g_autofree uint8_t *hmat = read_table(root, "HMAT", &len);
    g_autofree uint8_t *srat = NULL;
    const char *why;
    uint32_t *ns;

    if (!hmat) {
        return NULL;
    }
    srat = read_table(root, "SRAT", &srat_len);
    ns = ns_hmat_parse(t, hmat, len, srat, srat_len, &why);
    if (!ns) {
        g_ptr_array_add(t->notes,
                        g_strdup_printf("sys/firmware/acpi/tables/HMAT: %s",
                                        why));
    }
    return ns;
}
