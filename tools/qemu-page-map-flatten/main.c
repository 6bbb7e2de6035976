/*
 * qemu-page-map-flatten: a snapshot file that needs no disks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <getopt.h>
#include "block/block.h"
#include "crypto/init.h"
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/help-texts.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu-version.h"
#include "qom/object_interfaces.h"
#include "trace/control.h"
#include "flatten.h"

enum {
    OPTION_CHECK = 256,
    OPTION_DISK,
    OPTION_FORCE,
    OPTION_OBJECT,
};

static void help(void)
{
    printf(
"Usage: %s [options] IN OUT\n"
"       %s [options] --check IN\n"
"Write the guest's memory that the file IN leaves to the disks into OUT\n"
"\n"
"IN is what 'migrate file:IN' wrote with the capabilities x-page-map and\n"
"mapped-ram.  OUT needs neither the disks nor the page map to be restored.\n"
"\n"
"  --disk ID=SPEC         the disk of the device with the id ID, as it was\n"
"                         when IN was written: a file name, json:{...}, or\n"
"                         driver=...[,option=value...]; can be repeated\n"
"  --check                write nothing: is each page on the disks?\n"
"  --force                replace OUT\n"
"  --object <type>[,<property>=<value>...]\n"
"                         create an object, such as a secret for a disk\n"
"  -q, --quiet            print nothing but errors\n"
"  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]\n"
"                         specify tracing options\n"
"  -V, --version          output version information and exit\n"
"  -h, --help             display this help and exit\n"
"\n"
"Exit status: 0 done; 1 IN can not be read, or OUT not be written; 2 wrong\n"
"usage; 3 IN is damaged or another kind of file; 4 a disk is missing, can not\n"
"be read, or is not as it was.\n"
"\n"
QEMU_HELP_BOTTOM "\n",
    g_get_prgname(), g_get_prgname());
}

typedef struct Options {
    GPtrArray *disks;           /* arguments of --disk */
    bool check, force, quiet;
} Options;

static bool parse_options(int argc, char **argv, Options *o)
{
    static const struct option long_options[] = {
        {"check", no_argument, NULL, OPTION_CHECK},
        {"disk", required_argument, NULL, OPTION_DISK},
        {"force", no_argument, NULL, OPTION_FORCE},
        {"help", no_argument, NULL, 'h'},
        {"object", required_argument, NULL, OPTION_OBJECT},
        {"quiet", no_argument, NULL, 'q'},
        {"trace", required_argument, NULL, 'T'},
        {"version", no_argument, NULL, 'V'},
        {0, 0, 0, 0}
    };
    int c;

    while ((c = getopt_long(argc, argv, "hqT:V", long_options, NULL)) != -1) {
        switch (c) {
        case 'h':
            help();
            exit(FLAT_DONE);
        case 'V':
            printf("qemu-page-map-flatten version " QEMU_FULL_VERSION "\n"
                   QEMU_COPYRIGHT "\n");
            exit(FLAT_DONE);
        case 'q':
            o->quiet = true;
            break;
        case 'T':
            trace_opt_parse(optarg);
            break;
        case OPTION_CHECK:
            o->check = true;
            break;
        case OPTION_FORCE:
            o->force = true;
            break;
        case OPTION_DISK:
            g_ptr_array_add(o->disks, optarg);
            break;
        case OPTION_OBJECT:
            user_creatable_process_cmdline(optarg);
            break;
        default:
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    Options o = { .disks = args };
    FlatDisks *disks;
    FlatStatus status;
    Error *err = NULL;

    signal(SIGPIPE, SIG_IGN);
    socket_init();
    error_init(argv[0]);
    module_call_init(MODULE_INIT_TRACE);
    qemu_init_exec_dir(argv[0]);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_add_opts(&qemu_trace_opts);

    if (!parse_options(argc, argv, &o)) {
        error_printf("Try '%s --help'\n", g_get_prgname());
        return FLAT_USAGE;
    }
    if (argc - optind != (o.check ? 1 : 2)) {
        error_report(o.check ? "--check needs IN, and no OUT" :
                     "IN and OUT are needed; see --help");
        return FLAT_USAGE;
    }
    if (!trace_init_backends()) {
        return FLAT_USAGE;
    }
    trace_init_file();
    qemu_set_log(LOG_TRACE, &error_fatal);

    disks = flat_disks_new();
    for (guint i = 0; !err && i < args->len; i++) {
        flat_disks_add(disks, g_ptr_array_index(args, i), &err);
    }
    if (err) {
        error_report_err(err);
        status = FLAT_DISK;
    } else {
        status = flat_flatten(argv[optind], o.check ? NULL : argv[optind + 1],
                              disks, o.force, o.quiet);
    }
    flat_disks_free(disks);
    user_creatable_cleanup();
    if (fflush(stdout) && status == FLAT_DONE) {
        error_report("standard output can not be written: %s",
                     strerror(errno));
        status = FLAT_IO;
    }
    return status;
}
