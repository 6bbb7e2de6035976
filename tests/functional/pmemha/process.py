# SPDX-License-Identifier: GPL-2.0-or-later
"""
Child processes that end with the harness, however it ends: each is leader of
its own group, is killed by the kernel when the harness dies, and by atexit
otherwise.
"""

import atexit
import ctypes
import os
import shlex
import signal
import socket
import subprocess

from .lines import Channel
from .paths import scaled

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_running = set()


class ProcessDied(AssertionError):
    """A program ended when it should have gone on"""


def _die_with_parent(parent):
    def setup():
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:      # it died before the call
            os._exit(1)
    return setup


def kill_all():
    for p in list(_running):
        p.kill()


class Terminated(KeyboardInterrupt):
    """A signal that ends the harness.  unittest turns other exceptions into
    the failure of one test and goes on with the next."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _on_signal(signum, _frame):
    # Once is enough; the way down must not be interrupted.
    for s in _SIGNALS:
        signal.signal(s, signal.SIG_IGN)
    raise Terminated(signum)


def install_handlers():
    """Called once by the runner"""
    atexit.register(kill_all)
    for signum in _SIGNALS:
        signal.signal(signum, _on_signal)


class Process:
    """
    A program with its log file, and any number of sockets that it inherits.
    Start it from the main thread only: the kernel's kill is bound to it.
    """

    def __init__(self, work, name, argv, env=None):
        self.work = work
        self.name = name
        self.argv = [str(a) for a in argv]
        self.env = env
        self.log = work.path(f'{name}.log')
        self.popen = None
        self.channels = {}
        self._theirs = {}

    def pair(self, name, cls=Channel):
        """A connected socket: (our end as channel, their file descriptor)"""
        ours, theirs = socket.socketpair()
        self._theirs[name] = theirs
        channel = cls(ours, f'{self.name}.{name}',
                      self.work.path(f'{self.name}.{name}.log'))
        self.channels[name] = channel
        return channel, theirs.fileno()

    def listener(self, path):
        """A Unix socket on which it can accept at once: the descriptor"""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(os.path.relpath(self.work.path(path)))
        sock.listen()
        self._theirs[path] = sock
        return str(sock.fileno())

    def inherit(self, sock):
        """It has this socket when it starts, and the harness no more."""
        self._theirs[f'fd{sock.fileno()}'] = sock
        return sock.fileno()

    def start(self):
        fds = [s.fileno() for s in self._theirs.values()]
        with open(self.log, 'ab') as log:
            log.write(f'$ {shlex.join(self.argv)}\n'.encode())
            log.flush()
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, cwd=self.work.dir, env=self.env,
                pass_fds=fds, start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()))
        _running.add(self)
        for s in self._theirs.values():
            s.close()
        self._theirs = {}
        return self

    @property
    def pid(self):
        return self.popen.pid

    @property
    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def output(self):
        """What the program printed"""
        with open(self.log, encoding='utf-8', errors='replace') as f:
            return ''.join(f.readlines()[1:])

    def signal(self, signum):
        """Send a signal to the program and what it started."""
        os.killpg(self.popen.pid, signum)

    def freeze(self):
        """SIGSTOP; on return none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        # The end is left to whoever waits for it.
        got = os.waitid(os.P_PID, self.pid,
                        os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if got.si_code != os.CLD_STOPPED:
            raise ProcessDied(f'{self.name} ended before it was stopped')
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def _reaped(self):
        _running.discard(self)
        # What it wrote before its end is still under way to the reader.
        for channel in self.channels.values():
            channel.wait_eof(10)

    def kill(self):
        """SIGKILL; on return it is gone and all that it wrote was read."""
        for s in self._theirs.values():
            s.close()
        self._theirs = {}
        if self.popen is None:
            return
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()
        self._reaped()

    def wait(self, timeout):
        """Exit status (negative: signal) of a program that ends by itself"""
        try:
            status = self.popen.wait(scaled(timeout))
        except subprocess.TimeoutExpired:
            raise AssertionError(f'{self.name} did not end within '
                                 f'{scaled(timeout):g} s; '
                                 f'log: {self.log}') from None
        self._reaped()
        return status

    def check_alive(self):
        if not self.alive:
            raise ProcessDied(f'{self.name} ended with status '
                              f'{self.popen.returncode}: {self.output()}')
