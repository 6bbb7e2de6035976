/*
 * killat: run a program and kill it at its Nth system call
 *
 *   killat FD [--from NAME N WHERE] PROGRAM [ARGUMENT...]
 *
 * Calls are counted over all threads, in the order in which they are entered;
 * those that nobody can tell are left out (calls.c).  FD is a connected socket:
 *
 *   arm N WHERE    from now on count; kill at the Nth call (0: never).
 *                  Answer "armed", when no thread can make a call unseen
 *   off            count no more.  Answer "off"
 *
 * With --from, a call that opens a file of that name starts the count.
 * WHERE says what the last call has done when the process is gone:
 *   entry  nothing: it was not made
 *   exit   all of it, and its thread has done nothing more
 *   part   about half, when it writes to more than one page of a file: SIGKILL
 *          may end a write between two pages.  As exit for others
 *
 * Printed to FD: "call INDEX NAME TARGET" at each call; "killed", when nothing
 * of the process is left.  Exit status: that of the program; 99 when killed
 * here, 128 and the signal when killed otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <linux/ptrace.h>

#include "calls.h"

#define KILLED 99
#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | \
                 PTRACE_O_EXITKILL)

enum where { ENTRY, EXIT, PART };

static int control;
static pid_t child;
static bool seized;
static bool counting;
static const char *from;        /* open of this file starts the count */
static long count;
static long stop_at;
static enum where where;
static pid_t victim;            /* thread whose call's exit is the end */

static void fail(const char *what)
{
    fprintf(stderr, "killat: %s: %s\n", what, strerror(errno));
    if (child > 0) {
        kill(child, SIGKILL);
    }
    exit(125);
}

static void say(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
    char line[PATH_MAX + 64];
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    if (send(control, line, n, MSG_NOSIGNAL) != n) {
        fail("control socket");
    }
}

static void end(int status)
{
    if (WIFEXITED(status)) {
        say("exited %d\n", WEXITSTATUS(status));
        exit(WEXITSTATUS(status));
    }
    say("signal %d\n", WTERMSIG(status));
    exit(128 + WTERMSIG(status));
}

static void kill_it(void)
{
    int status;
    pid_t pid;

    kill(child, SIGKILL);
    do {
        pid = waitpid(-1, &status, __WALL);
        /* Threads that stopped before the signal came die as they are. */
    } while (pid > 0 && (pid != child || WIFSTOPPED(status)));
    say("killed\n");
    exit(KILLED);
}

static void read_text(pid_t tid, uint64_t at, char *buf, size_t size)
{
    struct iovec local = { buf, size - 1 };
    struct iovec remote = { (void *)(uintptr_t)at, size - 1 };
    size_t left = 4096 - at % 4096;     /* the next page may not be there */
    ssize_t n;

    if (left < remote.iov_len) {
        remote.iov_len = left;
    }
    n = process_vm_readv(tid, &local, 1, &remote, 1, 0);
    buf[n > 0 ? n : 0] = 0;
}

/* What a call is about: the name of a file without its directory */
static void target_of(pid_t tid, const struct call *c, const uint64_t *args,
                      char *buf, size_t size)
{
    char link[64];
    char *slash;
    ssize_t n;

    switch (c->target) {
    case FD:
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", tid, (int)args[0]);
        n = readlink(link, buf, size - 1);
        buf[n > 0 ? n : 0] = 0;
        break;
    case PATH:
        read_text(tid, args[0], buf, size);
        break;
    case AT_PATH:
        read_text(tid, args[1], buf, size);
        break;
    default:
        buf[0] = 0;
    }
    slash = strrchr(buf, '/');
    if (slash) {
        memmove(buf, slash + 1, strlen(slash + 1) + 1);
    }
    if (!strncmp(buf, "socket:", 7)) {
        strcpy(buf, "socket");          /* the number differs each time */
    }
}

/*
 * How much of a write is done when it ends between two pages: all of it when
 * it is within one.
 */
static uint64_t pages_of(uint64_t offset, uint64_t len)
{
    uint64_t at = (offset + len / 2) & ~UINT64_C(4095);

    if (at <= offset) {
        at = (offset + len - 1) & ~UINT64_C(4095);
    }
    return at <= offset ? len : at - offset;
}

/* Let a write to a file do half of what it was asked for (x86-64). */
static void halve(pid_t tid, uint64_t nr, const uint64_t *args)
{
    struct user_regs_struct regs;
    struct iovec iov[2];
    struct iovec local = { iov, sizeof(iov) };
    struct iovec remote = { (void *)(uintptr_t)args[1], sizeof(iov) };

    if (nr == SYS_pwrite64 && args[2] > 1) {
        if (ptrace(PTRACE_GETREGS, tid, 0, &regs) < 0) {
            return;
        }
        regs.rdx = pages_of(args[3], args[2]);
        ptrace(PTRACE_SETREGS, tid, 0, &regs);
    } else if (nr == SYS_pwritev && args[2] == 2 &&
               process_vm_readv(tid, &local, 1, &remote, 1, 0) ==
               sizeof(iov)) {
        uint64_t len = pages_of(args[3], iov[0].iov_len + iov[1].iov_len);

        iov[0].iov_len = len < iov[0].iov_len ? len : iov[0].iov_len;
        iov[1].iov_len = len - iov[0].iov_len;
        process_vm_writev(tid, &local, 1, &remote, 1, 0);
    }
}

static void entered(pid_t tid, uint64_t nr, const uint64_t *args)
{
    struct call c = call_info(nr);
    char target[PATH_MAX];

    if (!counting && !from) {
        return;
    }
    if (c.ignored) {
        return;
    }
    target_of(tid, &c, args, target, sizeof(target));
    if (from && c.target == AT_PATH && !strcmp(target, from)) {
        counting = true;
        from = NULL;
    }
    if (!counting || !call_matters(nr, args, target)) {
        return;
    }
    count++;
    if (c.name) {
        say("call %ld %s %s\n", count, c.name, target);
    } else {
        say("call %ld nr%d %s\n", count, (int)nr, target);
    }
    if (count != stop_at) {
        return;
    }
    if (where == ENTRY) {
        kill_it();
    }
    if (where == PART) {
        halve(tid, nr, args);
    }
    victim = tid;
}

static void stopped(pid_t tid, int status)
{
    struct ptrace_syscall_info info;
    int sig = WSTOPSIG(status);

    if (sig == (SIGTRAP | 0x80)) {
        sig = 0;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) < 0) {
            return;                     /* killed meanwhile */
        }
        if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            uint64_t args[6];

            memcpy(args, info.entry.args, sizeof(args));
            entered(tid, info.entry.nr, args);
        } else if (tid == victim) {
            kill_it();
        }
    } else if (status >> 16) {
        sig = 0;                        /* a new thread, an end of a stop */
    }
    ptrace(PTRACE_SYSCALL, tid, 0, sig);
}

static void reaped(pid_t tid, int status)
{
    if (WIFSTOPPED(status)) {
        stopped(tid, status);
    } else if (tid == child) {
        end(status);
    } else if (tid == victim) {
        victim = 0;
    }
}

/* Trace all threads; true when there was a new one. */
static bool seize_all(void)
{
    char path[64];
    struct dirent *d;
    bool found = false;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", child);
    dir = opendir(path);
    if (!dir) {
        fail(path);
    }
    while ((d = readdir(dir))) {
        pid_t tid = atoi(d->d_name);
        int status;

        /* Refused for one that is traced, or that has ended. */
        if (tid <= 0 || ptrace(PTRACE_SEIZE, tid, 0, OPTIONS) < 0) {
            continue;
        }
        found = true;
        if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0 &&
            waitpid(tid, &status, __WALL) == tid) {
            reaped(tid, status);
        }
    }
    closedir(dir);
    return found;
}

static enum where parse_where(const char *text)
{
    static const char *const names[] = { "entry", "exit", "part" };
    int i;

    for (i = 0; i < 3; i++) {
        if (!strcmp(text, names[i])) {
            return i;
        }
    }
    fprintf(stderr, "killat: '%s' is not entry, exit or part\n", text);
    exit(125);
}

static void command(void)
{
    char line[128];
    char word[16];
    ssize_t n = recv(control, line, sizeof(line) - 1, 0);

    if (n <= 0) {
        kill_it();                      /* nobody is interested any more */
    }
    line[n] = 0;
    if (sscanf(line, "arm %ld %15s", &stop_at, word) == 2) {
        where = parse_where(word);
        if (!seized) {
            while (seize_all()) {
                ;
            }
            seized = true;
        }
        count = 0;
        counting = true;
        say("armed\n");
    } else {
        counting = false;
        say("off\n");
    }
}

static void start(char **argv)
{
    pid_t parent = getpid();
    sigset_t none;
    int go[2];
    char byte;

    if (pipe2(go, O_CLOEXEC) < 0) {
        fail("pipe");
    }
    child = fork();
    if (child < 0) {
        fail("fork");
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (getppid() != parent || read(go[0], &byte, 1) != 1) {
            _exit(125);
        }
        execv(argv[0], argv);
        fprintf(stderr, "killat: %s: %s\n", argv[0], strerror(errno));
        _exit(125);
    }
    if (from) {
        while (seize_all()) {
            ;
        }
        seized = true;
    }
    if (write(go[1], "", 1) != 1) {
        fail("pipe");
    }
    close(go[0]);
    close(go[1]);
}

int main(int argc, char **argv)
{
    struct pollfd fds[2];
    sigset_t set;
    int status;
    pid_t tid;
    int arg = 2;

    if (argc > 6 && !strcmp(argv[2], "--from")) {
        from = argv[3];
        stop_at = atol(argv[4]);
        where = parse_where(argv[5]);
        arg = 6;
    }
    if (argc <= arg) {
        fprintf(stderr, "usage: killat FD [--from NAME N WHERE] PROGRAM "
                "[ARGUMENT...]\n");
        return 125;
    }
    control = atoi(argv[1]);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    /* These go to the whole group, and are the program's to obey. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fds[0] = (struct pollfd) { signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
                               POLLIN, 0 };
    fds[1] = (struct pollfd) { control, POLLIN, 0 };
    start(argv + arg);

    for (;;) {
        struct signalfd_siginfo info;

        while ((tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
            reaped(tid, status);
        }
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            fail("poll");
        }
        while (read(fds[0].fd, &info, sizeof(info)) == sizeof(info)) {
            ;
        }
        if (fds[1].revents) {
            command();
        }
    }
}
