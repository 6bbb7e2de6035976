/*
 * qemu-pmemctl: control mirrored persistent memory from a shell
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <getopt.h>
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/help-texts.h"
#include "qemu/module.h"
#include "qemu-version.h"
#include "qom/object.h"
#include "verbs.h"

typedef struct Verb {
    const char *name;
    int (*run)(const PmemctlOptions *o);
    const char *help;
} Verb;

static const Verb verbs[] = {
    { "status", pmemctl_status, "show each device or export" },
    { "promote", pmemctl_promote, "take over from the primary" },
    { "verify", NULL, "not available yet" },
    { "resync", pmemctl_resync, "let an empty replica get a full copy" },
    { "power-fail", NULL, "not available yet" },
    { "recover", NULL, "not available yet" },
    { "metrics", NULL, "not available yet" },
};

static void help(void)
{
    unsigned i;

    printf(
"Usage: %s <verb> --socket QMP [options]\n"
"Control mirrored persistent memory (pmem-ha)\n"
"\n", g_get_prgname());
    for (i = 0; i < ARRAY_SIZE(verbs); i++) {
        printf("  %-22s %s\n", verbs[i].name, verbs[i].help);
    }
    printf(
"\n"
"  --socket <path>        Unix socket of the QMP monitor of a QEMU or of a\n"
"                         qemu-pmem-replica\n"
"  --export <name>        which export (promote) or device (status, resync);\n"
"                         promote needs it when there is more than one\n"
"  --state-file <path>    promote: where the state file of the new primary\n"
"                         goes (default: image path + .state)\n"
"  --force                promote: although an acknowledged epoch is damaged\n"
"  --output text|json     (default: text)\n"
"  -h, --help             display this help and exit\n"
"  -V, --version          output version information and exit\n"
"\n"
"Exit status: 0 done; 1 refused by the other side; 2 wrong usage; 3 socket\n"
"cannot be reached; 4 not available yet, or not there.\n"
"\n"
QEMU_HELP_BOTTOM "\n");
}

static const Verb *find_verb(const char *name)
{
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (g_str_equal(verbs[i].name, name)) {
            return &verbs[i];
        }
    }
    return NULL;
}

enum {
    OPTION_SOCKET = 256,
    OPTION_EXPORT,
    OPTION_STATE_FILE,
    OPTION_FORCE,
    OPTION_OUTPUT,
};

static bool parse(int argc, char **argv, PmemctlOptions *o, const char **verb)
{
    static const struct option long_options[] = {
        {"socket", required_argument, NULL, OPTION_SOCKET},
        {"export", required_argument, NULL, OPTION_EXPORT},
        {"state-file", required_argument, NULL, OPTION_STATE_FILE},
        {"force", no_argument, NULL, OPTION_FORCE},
        {"output", required_argument, NULL, OPTION_OUTPUT},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0, 0, 0, 0}
    };
    int c;

    while ((c = getopt_long(argc, argv, "-hV", long_options, NULL)) != -1) {
        switch (c) {
        case 'h':
            help();
            exit(PMEMCTL_OK);
        case 'V':
            printf("qemu-pmemctl version " QEMU_FULL_VERSION "\n"
                   QEMU_COPYRIGHT "\n");
            exit(PMEMCTL_OK);
        case OPTION_SOCKET:
            o->socket = optarg;
            break;
        case OPTION_EXPORT:
            o->export = optarg;
            break;
        case OPTION_STATE_FILE:
            o->state_file = optarg;
            break;
        case OPTION_FORCE:
            o->force = true;
            break;
        case OPTION_OUTPUT:
            if (g_str_equal(optarg, "json")) {
                o->json = true;
            } else if (!g_str_equal(optarg, "text")) {
                error_report("--output must be text or json, not '%s'",
                             optarg);
                return false;
            }
            break;
        case 1:
            if (*verb) {
                error_report("unexpected argument '%s'", optarg);
                return false;
            }
            *verb = optarg;
            break;
        default:
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    PmemctlOptions o = { };
    const char *name = NULL;
    const Verb *verb;

    signal(SIGPIPE, SIG_IGN);
    error_init(argv[0]);
    module_call_init(MODULE_INIT_QOM);

    if (!parse(argc, argv, &o, &name)) {
        return PMEMCTL_USAGE;
    }
    if (!name) {
        error_report("name a verb; see --help");
        return PMEMCTL_USAGE;
    }
    verb = find_verb(name);
    if (!verb) {
        error_report("unknown verb '%s'; see --help", name);
        return PMEMCTL_USAGE;
    }
    if (!verb->run) {
        error_report("'%s' is not available yet", name);
        return PMEMCTL_UNAVAILABLE;
    }
    if (!o.socket) {
        error_report("%s needs --socket", name);
        return PMEMCTL_USAGE;
    }
    return verb->run(&o);
}
