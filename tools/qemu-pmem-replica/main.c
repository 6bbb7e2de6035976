/*
 * qemu-pmem-replica: options, start and end
 *
 * Works like qemu-storage-daemon: options are processed in the order in which
 * they are given, so that objects come before what uses them.  Exports come
 * first, since a socket may belong to a daemon that runs already, which the
 * locks on its journal and image tell.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <getopt.h>
#include "block/block.h"
#include "chardev/char.h"
#include "crypto/init.h"
#include "monitor/monitor.h"
#include "monitor/monitor-internal.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-control.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/help-texts.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qemu-version.h"
#include "qom/object_interfaces.h"
#include "system/runstate.h"
#include "system/system.h"
#include "trace/control.h"
#include "tools/qemu-pmem-replica/qapi/qapi-commands.h"
#include "tools/qemu-pmem-replica/qapi/qapi-init-commands.h"
#include "tools/qemu-pmem-replica/qapi/qapi-visit.h"
#include "hw/mem/pmem-ha-media.h"
#include "export.h"
#include "server.h"

static const char *pid_file;
static char *pid_file_realpath;
static bool allow_plaintext;
static volatile sig_atomic_t exit_requested;

void qemu_system_killed(int signal, pid_t pid)
{
    exit_requested = true;
    qemu_notify_event();
}

void qmp_quit(Error **errp)
{
    exit_requested = true;
}

static void help(void)
{
    printf(
"Usage: %s [options]\n"
"Keep the replica of persistent memory devices (pmem-ha)\n"
"\n"
"  -h, --help             display this help and exit\n"
"  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]\n"
"                         specify tracing options\n"
"  -V, --version          output version information and exit\n"
"\n"
"  --export name=<name>,mem-path=<file>,size=<bytes>,journal=<file>\n"
"           [,journal-size=<bytes>]\n"
"                         keep a replica of one device; can be repeated\n"
"\n"
"  --listen addr.type=unix,addr.path=<path>\n"
"           [,tls-creds=<id>][,tls-authz=<id>]\n"
"  --listen addr.type=inet,addr.host=<host>,addr.port=<port>\n"
"           [,tls-creds=<id>][,tls-authz=<id>]\n"
"                         wait for primaries there; can be repeated\n"
"\n"
"  --allow-plaintext      listen beyond this host without tls-creds\n"
"\n"
"  --chardev <options>    configure a character device backend\n"
"                         (see the qemu(1) man page for possible options)\n"
"\n"
"  --monitor [chardev=]name[,mode=control][,pretty[=on|off]]\n"
"                         configure a QMP monitor\n"
"\n"
"  --object help          list object types that can be added\n"
"  --object <type>,help   list properties for the given object type\n"
"  --object <type>[,<property>=<value>...]\n"
"                         create an object, such as tls-creds-x509; the\n"
"                         property 'id' must be set\n"
"\n"
"  --pidfile <path>       write process ID to a file after startup\n"
"\n"
"When it serves, it prints one line that starts with \"ready:\" to standard\n"
"output.  SIGTERM and SIGINT end it.\n"
"\n"
QEMU_HELP_BOTTOM "\n",
    g_get_prgname());
}

enum {
    OPTION_ALLOW_PLAINTEXT = 256,
    OPTION_CHARDEV,
    OPTION_EXPORT,
    OPTION_LISTEN,
    OPTION_MONITOR,
    OPTION_OBJECT,
    OPTION_PIDFILE,
};

static void init_qmp_commands(void)
{
    qmp_init_marshal(&qmp_commands);

    QTAILQ_INIT(&qmp_cap_negotiation_commands);
    qmp_register_command(&qmp_cap_negotiation_commands, "qmp_capabilities",
                         qmp_marshal_qmp_capabilities,
                         QCO_ALLOW_PRECONFIG, 0);
}

static void add_chardev(const char *text)
{
    QemuOpts *opts = qemu_opts_parse_noisily(&qemu_chardev_opts, text, true);

    if (!opts) {
        exit(EXIT_FAILURE);
    }
    if (!qemu_chr_new_from_opts(opts, NULL, &error_fatal)) {
        /* No error, but NULL returned means help was printed */
        exit(EXIT_SUCCESS);
    }
    qemu_opts_del(opts);
}

static void add_monitor(const char *text)
{
    Visitor *v = qobject_input_visitor_new_str(text, "chardev", &error_fatal);
    MonitorOptions *opts;

    visit_type_MonitorOptions(v, NULL, &opts, &error_fatal);
    visit_free(v);
    monitor_init(opts, false, &error_fatal);
    qapi_free_MonitorOptions(opts);
}

static void add_export(const char *text)
{
    Visitor *v = qobject_input_visitor_new_str(text, NULL, &error_fatal);
    PmemReplicaExportOptions *opts;

    visit_type_PmemReplicaExportOptions(v, NULL, &opts, &error_fatal);
    visit_free(v);
    export_add(opts, &error_fatal);
    qapi_free_PmemReplicaExportOptions(opts);
}

static void add_listener(const char *text)
{
    Visitor *v = qobject_input_visitor_new_str(text, NULL, &error_fatal);
    PmemReplicaListenOptions *opts;

    visit_type_PmemReplicaListenOptions(v, NULL, &opts, &error_fatal);
    visit_free(v);
    server_listen(opts, allow_plaintext, &error_fatal);
    qapi_free_PmemReplicaListenOptions(opts);
}

static int getopt_set_loc(int argc, char **argv, const char *optstring,
                          const struct option *longopts)
{
    int save_index = optind;
    int c;

    optarg = NULL;
    c = getopt_long(argc, argv, optstring, longopts, NULL);
    if (optarg) {
        loc_set_cmdline(argv, save_index, MAX(1, optind - save_index));
    }
    return c;
}

/*
 * Before QEMU is set up, what concerns the process; then traces and exports;
 * then the rest.
 */
enum { PASS_PROCESS, PASS_EXPORTS, PASS_REST };

static int pass_of(int c)
{
    switch (c) {
    case '?':
    case 'h':
    case 'V':
    case OPTION_PIDFILE:
    case OPTION_ALLOW_PLAINTEXT:
        return PASS_PROCESS;
    case 'T':
    case OPTION_EXPORT:
        return PASS_EXPORTS;
    default:
        return PASS_REST;
    }
}

static void process_options(int argc, char *argv[], int pass)
{
    static const struct option long_options[] = {
        {"allow-plaintext", no_argument, NULL, OPTION_ALLOW_PLAINTEXT},
        {"chardev", required_argument, NULL, OPTION_CHARDEV},
        {"export", required_argument, NULL, OPTION_EXPORT},
        {"help", no_argument, NULL, 'h'},
        {"listen", required_argument, NULL, OPTION_LISTEN},
        {"monitor", required_argument, NULL, OPTION_MONITOR},
        {"object", required_argument, NULL, OPTION_OBJECT},
        {"pidfile", required_argument, NULL, OPTION_PIDFILE},
        {"trace", required_argument, NULL, 'T'},
        {"version", no_argument, NULL, 'V'},
        {0, 0, 0, 0}
    };
    int c;

    optind = 1;
    while ((c = getopt_set_loc(argc, argv, "-hT:V", long_options)) != -1) {
        if (pass_of(c) != pass) {
            continue;
        }
        switch (c) {
        case '?':
            exit(EXIT_FAILURE);
        case 'h':
            help();
            exit(EXIT_SUCCESS);
        case 'V':
            printf("qemu-pmem-replica version " QEMU_FULL_VERSION "\n"
                   QEMU_COPYRIGHT "\n");
            exit(EXIT_SUCCESS);
        case OPTION_PIDFILE:
            pid_file = optarg;
            break;
        case OPTION_ALLOW_PLAINTEXT:
            allow_plaintext = true;
            break;
        case 'T':
            trace_opt_parse(optarg);
            trace_init_file();
            break;
        case OPTION_CHARDEV:
            add_chardev(optarg);
            break;
        case OPTION_EXPORT:
            add_export(optarg);
            break;
        case OPTION_LISTEN:
            add_listener(optarg);
            break;
        case OPTION_MONITOR:
            add_monitor(optarg);
            break;
        case OPTION_OBJECT:
            user_creatable_process_cmdline(optarg);
            break;
        case 1:
            error_report("Unexpected argument");
            exit(EXIT_FAILURE);
        default:
            g_assert_not_reached();
        }
    }
    loc_set_none();
}

static void pid_file_cleanup(void)
{
    unlink(pid_file_realpath);
}

static void pid_file_init(void)
{
    if (!pid_file) {
        return;
    }
    qemu_write_pidfile(pid_file, &error_fatal);
    pid_file_realpath = realpath(pid_file, NULL);
    if (pid_file_realpath) {
        atexit(pid_file_cleanup);
    }
}

int main(int argc, char *argv[])
{
    signal(SIGPIPE, SIG_IGN);

    error_init(argv[0]);
    qemu_init_exec_dir(argv[0]);
    os_setup_signal_handling();
    pmem_ha_crash_init("PMEM_HA_CRASH_AT");

    process_options(argc, argv, PASS_PROCESS);

    module_call_init(MODULE_INIT_QOM);
    module_call_init(MODULE_INIT_TRACE);
    qemu_add_opts(&qemu_trace_opts);
    qcrypto_init(&error_fatal);
    bdrv_init();
    monitor_init_globals();
    init_qmp_commands();

    if (!trace_init_backends()) {
        return EXIT_FAILURE;
    }
    qemu_set_log(LOG_TRACE, &error_fatal);

    qemu_init_main_loop(&error_fatal);
    process_options(argc, argv, PASS_EXPORTS);
    process_options(argc, argv, PASS_REST);

    if (!export_exists()) {
        error_report("there is nothing to keep: give --export");
        return EXIT_FAILURE;
    }
    if (!server_has_listener()) {
        error_report("nobody could connect: give --listen");
        return EXIT_FAILURE;
    }
    pid_file_init();
    server_start();

    while (!exit_requested || export_promotions()) {
        main_loop_wait(false);
    }

    server_cleanup();
    export_cleanup();
    monitor_cleanup();
    qemu_chr_cleanup();
    user_creatable_cleanup();
    return EXIT_SUCCESS;
}
