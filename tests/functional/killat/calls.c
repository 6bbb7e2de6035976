/*
 * killat: which system calls count
 *
 * A call is left out when neither a file, nor a lock, nor a peer can tell
 * whether it was made: a kill there leaves what a kill at the call of the same
 * thread before it (at its exit) and after it (at its entry) leaves.  Those
 * are
 *
 * - waiting, for time or for another thread: how long is up to the scheduler;
 * - memory, signals, identity, threads: gone with the process;
 * - asking: the time, names, attributes, content of files;
 * - eventfds and pipes: both ends are gone with the process;
 * - io_uring, which QEMU's main loop uses to wait, where the host has it.
 *
 * What is not listed here counts, so a call that the program starts to use is
 * not missed.  Taking data from a socket counts: a peer sees a reset in place
 * of the end of the stream when something was not read.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "calls.h"

#define IGNORE(x)   [SYS_##x] = { #x, true, NOTHING }
#define COUNT(x, t) [SYS_##x] = { #x, false, t }

static const struct call calls[] = {
    IGNORE(futex), IGNORE(ppoll), IGNORE(pselect6), IGNORE(epoll_pwait),
    IGNORE(nanosleep), IGNORE(clock_nanosleep), IGNORE(restart_syscall),
    IGNORE(sched_yield), IGNORE(wait4),
#ifdef SYS_io_uring_setup
    IGNORE(io_uring_setup), IGNORE(io_uring_enter), IGNORE(io_uring_register),
#endif
#ifdef SYS_poll
    IGNORE(poll), IGNORE(select), IGNORE(epoll_wait),
#endif

    IGNORE(mmap), IGNORE(munmap), IGNORE(mprotect), IGNORE(madvise),
    IGNORE(mremap), IGNORE(brk), IGNORE(rt_sigaction), IGNORE(rt_sigprocmask),
    IGNORE(rt_sigreturn), IGNORE(sigaltstack), IGNORE(getpid), IGNORE(gettid),
    IGNORE(getppid), IGNORE(getuid), IGNORE(geteuid), IGNORE(getgid),
    IGNORE(getegid), IGNORE(prctl), IGNORE(set_robust_list),
    IGNORE(set_tid_address), IGNORE(prlimit64), IGNORE(clone), IGNORE(exit),
    IGNORE(sched_getaffinity), IGNORE(sched_setaffinity), IGNORE(membarrier),
#ifdef SYS_arch_prctl
    IGNORE(arch_prctl),
#endif
#ifdef SYS_rseq
    IGNORE(rseq),
#endif
#ifdef SYS_clone3
    IGNORE(clone3),
#endif

    IGNORE(clock_gettime), IGNORE(clock_getres), IGNORE(gettimeofday),
    IGNORE(getrandom), IGNORE(uname), IGNORE(sysinfo), IGNORE(getcwd),
    IGNORE(readlinkat), IGNORE(faccessat), IGNORE(fstat), IGNORE(newfstatat),
    IGNORE(statx), IGNORE(statfs), IGNORE(fstatfs), IGNORE(lseek),
    IGNORE(getsockname), IGNORE(getpeername), IGNORE(getsockopt),
    IGNORE(pread64), IGNORE(preadv), IGNORE(read), IGNORE(readv),
    IGNORE(getdents64), IGNORE(eventfd2), IGNORE(pipe2), IGNORE(signalfd4),
    IGNORE(epoll_create1), IGNORE(epoll_ctl),
#ifdef SYS_faccessat2
    IGNORE(faccessat2),
#endif
#ifdef SYS_stat
    IGNORE(stat), IGNORE(lstat), IGNORE(access), IGNORE(readlink),
    IGNORE(time), IGNORE(eventfd), IGNORE(pipe),
#endif

    COUNT(write, FD), COUNT(writev, FD), COUNT(pwrite64, FD),
    COUNT(pwritev, FD), COUNT(fdatasync, FD), COUNT(fsync, FD),
    COUNT(ftruncate, FD), COUNT(fallocate, FD), COUNT(fcntl, FD),
    COUNT(flock, FD), COUNT(close, FD), COUNT(ioctl, FD), COUNT(fchmod, FD),
    COUNT(openat, AT_PATH), COUNT(unlinkat, AT_PATH), COUNT(mkdirat, AT_PATH),
    COUNT(renameat, AT_PATH), COUNT(renameat2, AT_PATH),
    COUNT(socket, NOTHING), COUNT(bind, FD), COUNT(listen, FD),
    COUNT(accept, FD), COUNT(accept4, FD), COUNT(connect, FD),
    COUNT(shutdown, FD), COUNT(setsockopt, FD), COUNT(sendto, FD),
    COUNT(sendmsg, FD), COUNT(recvfrom, FD), COUNT(recvmsg, FD),
    COUNT(exit_group, NOTHING),
#ifdef SYS_open
    COUNT(open, PATH), COUNT(unlink, PATH), COUNT(rename, PATH),
    COUNT(mkdir, PATH), COUNT(chmod, PATH),
#endif
};

struct call call_info(uint64_t nr)
{
    if (nr < sizeof(calls) / sizeof(*calls)) {
        return calls[nr];
    }
    return (struct call) { 0 };
}

static bool creates(uint64_t flags)
{
    return flags & (O_CREAT | O_TRUNC);
}

bool call_matters(uint64_t nr, const uint64_t *args, const char *target)
{
    switch (nr) {
#ifdef SYS_open
    case SYS_open:
        return creates(args[1]);
#endif
    case SYS_openat:
        return creates(args[2]);
    case SYS_fcntl:
        return args[1] == F_SETLK || args[1] == F_OFD_SETLK ||
               args[1] == F_SETLKW || args[1] == F_OFD_SETLKW;
    case SYS_write:
    case SYS_close:
        return strncmp(target, "anon_inode:", 11) &&
               strncmp(target, "pipe:", 5);
    default:
        return true;
    }
}
