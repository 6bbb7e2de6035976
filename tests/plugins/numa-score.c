/*
 * A plugin that counts accesses to memory by vCPU and node of the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest is a host with NUMA nodes; what it says about itself is not asked.
 * Instructions in a range of virtual addresses are looked at (code=), and of
 * their accesses those to another one (data=).  Its node is that of the
 * physical address (node=, once for each range).
 *
 *   -plugin FILE,out=PATH,code=START:BYTES,data=START:BYTES,mark=ADDR,
 *           pages=ADDR,node=ID:START:BYTES,...
 *
 * A store to mark= appends one line to the file:
 *   mark VALUE VCPU:ID=COUNT,ID=COUNT,... VCPU:...
 * with the value stored and, of each vCPU that made any, all accesses since the
 * start; ID -1 is no range given.  Lines count up, so that a reader subtracts:
 * nothing is ever reset, and each counter has one writer.  A line read while
 * other vCPUs run may be late by what they just did.
 *
 * A store to pages= (which may be left out) appends
 *   pages VALUE PAGE=COUNT PAGE=COUNT ...
 * with all accesses to each page of 4096 bytes since the start, of all vCPUs;
 * PAGE counts from the start of data=.
 */

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

#define MAX_RANGES  16
#define PAGE_BITS   12

typedef struct Range {
    uint64_t start, bytes;
    int node;
} Range;

/* Of one vCPU; [n_ranges]: elsewhere */
typedef struct Counts {
    uint64_t n[MAX_RANGES + 1];
} Counts;

static Range code, data, range[MAX_RANGES];
static unsigned int n_ranges;
static uint64_t mark, pages;
static uint64_t *page;                  /* with pages= only */
static FILE *out;
static GMutex out_lock;
static struct qemu_plugin_scoreboard *score;

static bool in(const Range *r, uint64_t addr)
{
    return addr - r->start < r->bytes;
}

static void line(const char *word, uint64_t value)
{
    g_autoptr(GString) s = g_string_new(NULL);
    int vcpus = qemu_plugin_num_vcpus();

    g_string_append_printf(s, "%s %" PRIu64, word, value);
    for (int v = 0; v < vcpus; v++) {
        Counts *c = qemu_plugin_scoreboard_find(score, v);
        char sep = ':';

        for (unsigned int i = 0; i <= n_ranges; i++) {
            if (!c->n[i]) {
                continue;
            }
            if (sep == ':') {
                g_string_append_printf(s, " %d", v);
            }
            g_string_append_printf(s, "%c%d=%" PRIu64, sep,
                                   i < n_ranges ? range[i].node : -1, c->n[i]);
            sep = ',';
        }
    }
    g_mutex_lock(&out_lock);
    fprintf(out, "%s\n", s->str);
    fflush(out);
    g_mutex_unlock(&out_lock);
}

static void page_line(uint64_t value)
{
    g_mutex_lock(&out_lock);
    fprintf(out, "pages %" PRIu64, value);
    for (uint64_t i = 0; i <= (data.bytes - 1) >> PAGE_BITS; i++) {
        uint64_t n = __atomic_load_n(&page[i], __ATOMIC_RELAXED);

        if (n) {
            fprintf(out, " %" PRIu64 "=%" PRIu64, i, n);
        }
    }
    fprintf(out, "\n");
    fflush(out);
    g_mutex_unlock(&out_lock);
}

static void access(unsigned int vcpu, qemu_plugin_meminfo_t info,
                   uint64_t addr, void *unused)
{
    struct qemu_plugin_hwaddr *hw;
    Counts *c;
    uint64_t phys;
    unsigned int i;

    if (in(&data, addr)) {
        c = qemu_plugin_scoreboard_find(score, vcpu);
        hw = qemu_plugin_get_hwaddr(info, addr);
        i = n_ranges;
        if (hw && !qemu_plugin_hwaddr_is_io(hw)) {
            phys = qemu_plugin_hwaddr_phys_addr(hw);
            for (i = 0; i < n_ranges && !in(&range[i], phys); i++) {
                /* few ranges: the first ones are the first nodes */
            }
        }
        c->n[i]++;
        if (page) {
            __atomic_fetch_add(&page[(addr - data.start) >> PAGE_BITS], 1,
                               __ATOMIC_RELAXED);
        }
    } else if (addr == mark && qemu_plugin_mem_is_store(info)) {
        line("mark", qemu_plugin_mem_get_value(info).data.u64);
    } else if (page && addr == pages && qemu_plugin_mem_is_store(info)) {
        page_line(qemu_plugin_mem_get_value(info).data.u64);
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);

    /* All else runs as if there were no plugin: Linux boots no slower. */
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

        if (in(&code, qemu_plugin_insn_vaddr(insn))) {
            qemu_plugin_register_vcpu_mem_cb(insn, access,
                                             QEMU_PLUGIN_CB_NO_REGS,
                                             QEMU_PLUGIN_MEM_RW, NULL);
        }
    }
}

static void at_exit(qemu_plugin_id_t id, void *unused)
{
    line("exit", 0);
    fclose(out);
    free(page);
    page = NULL;
    qemu_plugin_scoreboard_free(score);
}

/* A number up to @end, which is skipped; false: it is none */
static bool number(const char **p, char end, uint64_t *value)
{
    char *rest;

    errno = 0;
    *value = g_ascii_strtoull(*p, &rest, 0);
    if (errno || rest == *p || *rest != end) {
        return false;
    }
    *p = rest + (end != 0);
    return true;
}

static bool parse_range(const char *p, Range *r)
{
    return number(&p, ':', &r->start) && number(&p, 0, &r->bytes) &&
           r->bytes && r->start + r->bytes - 1 >= r->start;
}

static bool parse_node(const char *p)
{
    uint64_t node;

    if (n_ranges == MAX_RANGES || !number(&p, ':', &node) || node > INT16_MAX ||
        !parse_range(p, &range[n_ranges])) {
        return false;
    }
    range[n_ranges++].node = node;
    return true;
}

static bool parse(const char *arg)
{
    const char *p = strchr(arg, '=');
    g_autofree char *name = g_strndup(arg, p ? p - arg : 0);

    if (!p++) {
        return false;
    }
    if (!strcmp(name, "out")) {
        out = out ? out : fopen(p, "w");
        return out;
    } else if (!strcmp(name, "code")) {
        return parse_range(p, &code);
    } else if (!strcmp(name, "data")) {
        return parse_range(p, &data);
    } else if (!strcmp(name, "mark")) {
        return number(&p, 0, &mark);
    } else if (!strcmp(name, "pages")) {
        return number(&p, 0, &pages);
    } else if (!strcmp(name, "node")) {
        return parse_node(p);
    }
    return false;
}

QEMU_PLUGIN_EXPORT
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
                        int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (!parse(argv[i])) {
            fprintf(stderr, "numa-score: '%s' is not one of out=PATH (that "
                    "can be written), code=START:BYTES, data=START:BYTES, "
                    "mark=ADDR, pages=ADDR, node=ID:START:BYTES (at most "
                    "%d)\n",
                    argv[i], MAX_RANGES);
            return -1;
        }
    }
    if (!out || !code.bytes || !data.bytes || !n_ranges) {
        fprintf(stderr, "numa-score: out=, code=, data= and node= are "
                "needed\n");
        return -1;
    }
    score = qemu_plugin_scoreboard_new(sizeof(Counts));
    if (pages) {
        page = calloc(((data.bytes - 1) >> PAGE_BITS) + 1, sizeof(*page));
        if (!page) {
            fprintf(stderr, "numa-score: there is no memory for the counters "
                    "of pages\n");
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
