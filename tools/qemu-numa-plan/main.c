/*
 * qemu-numa-plan: place a workload on a host's NUMA nodes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <getopt.h>
#include "qapi/error.h"
#include "qapi/qapi-visit-numa-sched.h"
#include "qapi/qobject-input-visitor.h"
#include "qapi/qobject-output-visitor.h"
#include "qobject/qjson.h"
#include "qobject/qobject.h"
#include "qemu/error-report.h"
#include "qemu/help-texts.h"
#include "qemu-version.h"
#include "accel/kvm/numa-sched/measure.h"
#include "planner.h"

#define MAX_FILE    (64u << 20)
#define BUDGET      (60 * 1000000000ull)    /* ns of CPU time to measure */

enum {
    OPTION_EXPLAIN = 256,
    OPTION_LATENCY,
    OPTION_MEASURE,
    OPTION_OUTPUT,
    OPTION_ROOT,
    OPTION_WORKLOAD,
};

enum {
    DONE,
    FAILED,
    USAGE,
};

typedef struct Options {
    const char *root, *latency, *workload;
    bool explain, json, measure;
} Options;

static void help(void)
{
    printf(
"Usage: %s [options]\n"
"Say on which NUMA node each group of vCPUs should run, and whether its memory\n"
"should follow\n"
"\n"
"  --topology-root DIR    the host whose sys/ and proc/ are below DIR\n"
"                         (default: this one)\n"
"  --workload FILE        what is to be placed, as JSON; '-' reads one object\n"
"                         from each line of the standard input; without it the\n"
"                         host is printed as it is understood\n"
"  --latency FILE         lines of FROM TO NANOSECONDS, which are believed\n"
"                         more than what the host says\n"
"  --measure              measure the latencies of this host, which should be\n"
"                         idle, and print them as --latency takes them; no\n"
"                         other option is possible\n"
"  --explain              print what each group would cost on each node\n"
"  --output text|json     for people (default) or for programs\n"
"  -V, --version          output version information and exit\n"
"  -h, --help             display this help and exit\n"
"\n"
"Exit status: 0 done; 1 the host, or a file, can not be read; 2 wrong usage.\n"
"\n"
QEMU_HELP_BOTTOM "\n",
    g_get_prgname());
}

/* False: wrong usage, which was reported */
static bool parse_options(int argc, char **argv, Options *o)
{
    static const struct option long_options[] = {
        {"explain", no_argument, NULL, OPTION_EXPLAIN},
        {"help", no_argument, NULL, 'h'},
        {"latency", required_argument, NULL, OPTION_LATENCY},
        {"measure", no_argument, NULL, OPTION_MEASURE},
        {"output", required_argument, NULL, OPTION_OUTPUT},
        {"topology-root", required_argument, NULL, OPTION_ROOT},
        {"version", no_argument, NULL, 'V'},
        {"workload", required_argument, NULL, OPTION_WORKLOAD},
        {0, 0, 0, 0}
    };
    int c;

    while ((c = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
        switch (c) {
        case 'h':
            help();
            exit(DONE);
        case 'V':
            printf("qemu-numa-plan version " QEMU_FULL_VERSION "\n"
                   QEMU_COPYRIGHT "\n");
            exit(DONE);
        case OPTION_EXPLAIN:
            o->explain = true;
            break;
        case OPTION_LATENCY:
            o->latency = optarg;
            break;
        case OPTION_MEASURE:
            o->measure = true;
            break;
        case OPTION_OUTPUT:
            o->json = !strcmp(optarg, "json");
            if (!o->json && strcmp(optarg, "text")) {
                error_report("--output %s: it can be text or json", optarg);
                return false;
            }
            break;
        case OPTION_ROOT:
            o->root = optarg;
            break;
        case OPTION_WORKLOAD:
            o->workload = optarg;
            break;
        default:
            return false;
        }
    }
    if (optind < argc) {
        error_report("%s: not an option", argv[optind]);
        return false;
    }
    if (o->measure && argc > 2) {
        error_report("--measure: it is about this host, and takes no other "
                     "option");
        return false;
    }
    return true;
}

/* The bytes of a file of a user's, with a NUL after them */
static char *read_file(const char *name, size_t *len, Error **errp)
{
    g_autoptr(GError) err = NULL;
    char *buf;
    struct stat st;

    if (stat(name, &st) < 0) {
        error_setg_file_open(errp, errno, name);
        return NULL;
    }
    if (S_ISREG(st.st_mode) && st.st_size > MAX_FILE) {
        error_setg(errp, "%s: %" PRIu64 " bytes; it can be %u", name,
                   (uint64_t)st.st_size, MAX_FILE);
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "%s: not a file; use '-' for the standard input",
                   name);
        return NULL;
    }
    if (!g_file_get_contents(name, &buf, len, &err)) {
        error_setg(errp, "%s", err->message);
        return NULL;
    }
    return buf;
}

/* Errors may quote what is in a file, which may be meant for the terminal. */
static void report(Error *err, const char *name)
{
    g_autofree char *text = g_strdup(error_get_pretty(err));

    for (char *c = text; *c; c++) {
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c;
    }
    error_report("%s: %s", name, text);
    error_free(err);
}

static NumaPlanWorkload *parse_workload(const char *buf, size_t len,
                                        Error **errp)
{
    QObject *object;
    NumaPlanWorkload *w = NULL;
    Visitor *v;

    if (memchr(buf, 0, len)) {
        error_setg(errp, "a NUL byte is not JSON");
        return NULL;
    }
    object = qobject_from_json(buf, errp);
    if (!object) {
        return NULL;
    }
    v = qobject_input_visitor_new(object);
    visit_type_NumaPlanWorkload(v, NULL, &w, errp);
    visit_free(v);
    qobject_unref(object);
    return w;
}

static void print_json(const NumaPlan *answer, bool pretty)
{
    g_autoptr(GString) text = NULL;
    NumaPlan *shown = (NumaPlan *)answer;
    QObject *object = NULL;
    Visitor *v = qobject_output_visitor_new(&object);

    visit_type_NumaPlan(v, NULL, &shown, &error_abort);
    visit_complete(v, &object);
    visit_free(v);
    text = qobject_to_json_pretty(object, pretty);
    qobject_unref(object);
    printf("%s\n", text->str);
}

/* Plan what @buf says, or nothing (NULL), and print it */
static bool answer(const Options *o, const NsTopology *t, const NsLatency *l,
                   const char *name, const char *buf, size_t len)
{
    g_autoptr(NumaPlanWorkload) w = NULL;
    g_autoptr(NumaPlan) out = NULL;
    g_autoptr(NsPlan) plan = NULL;
    Workload work = { };
    Error *err = NULL;

    w = buf ? parse_workload(buf, len, &err) : g_new0(NumaPlanWorkload, 1);
    if (!w || !workload_convert(t, l, w, &work, &err)) {
        workload_clear(&work);
        report(err, name);
        return false;
    }
    plan = ns_plan(&work.host, work.group, work.n);
    out = ns_answer(t, l, &work.host, work.group, work.name, plan,
                    o->explain);
    if (o->json) {
        print_json(out, !o->workload || strcmp(o->workload, "-"));
    } else {
        text_print(t, l, out, buf);
    }
    workload_clear(&work);
    return true;
}

/* One workload on each line; the first that is wrong ends it */
static bool answer_lines(const Options *o, const NsTopology *t,
                         const NsLatency *l)
{
    g_autofree char *line = NULL;
    size_t size = 0;
    ssize_t len;

    for (unsigned n = 1; (len = getline(&line, &size, stdin)) > 0; n++) {
        g_autofree char *name = g_strdup_printf("standard input, line %u", n);

        if (!answer(o, t, l, name, line, len)) {
            return false;
        }
        fflush(stdout);
    }
    return true;
}

static NsLatency *host_latency(const Options *o, NsTopology *t, Error **errp)
{
    g_autofree char *buf = NULL;
    size_t len = 0;

    if (o->latency) {
        buf = read_file(o->latency, &len, errp);
        if (!buf) {
            return NULL;
        }
    }
    return ns_latency_read(t, o->root, o->latency, buf, len, NULL, errp);
}

/* The host is idle: nobody minds that it takes a whole CPU. */
static bool measure(const NsTopology *t)
{
    NsMeasureConfig c = { .budget = BUDGET, .duty = 100 };
    g_autofree char *why = NULL;
    g_autoptr(NsMeasured) m = ns_measure(t, &c, &why);

    if (!m) {
        error_report("--measure: %s", why ? why :
                     "the host has one node, and nothing to measure");
        return false;
    }
    printf("# from to nanoseconds\n");
    for (uint32_t i = 0; i < m->n; i++) {
        for (uint32_t j = 0; j < m->n; j++) {
            uint32_t ns = m->ns[(size_t)i * m->n + j];

            if (ns) {
                printf("%u %u %u\n", m->id[i], m->id[j], ns);
            }
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    Options o = { .root = "/" };
    g_autoptr(NsTopology) t = NULL;
    g_autoptr(NsLatency) l = NULL;
    g_autofree char *buf = NULL;
    Error *err = NULL;
    size_t len = 0;
    bool ok;

    error_init(argv[0]);
    if (!parse_options(argc, argv, &o)) {
        error_report("--help lists the options");
        return USAGE;
    }
    t = ns_topology_read(o.root, &err);
    if (t && o.measure) {
        return measure(t) && !fflush(stdout) ? DONE : FAILED;
    }
    l = t ? host_latency(&o, t, &err) : NULL;
    if (l && o.workload && strcmp(o.workload, "-")) {
        buf = read_file(o.workload, &len, &err);
    }
    if (err) {
        error_report_err(err);
        return FAILED;
    }
    if (o.workload && !buf) {
        ok = answer_lines(&o, t, l);
    } else {
        ok = answer(&o, t, l, o.workload ? o.workload : o.root, buf, len);
    }
    return ok && !fflush(stdout) ? DONE : FAILED;
}
