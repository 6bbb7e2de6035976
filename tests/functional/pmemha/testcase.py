# SPDX-License-Identifier: GPL-2.0-or-later
"""The base of all functional tests: work directory, bounds, cleanup"""

import functools
import os
import shutil
import signal
import subprocess
import unittest

from .paths import scaled, work_base
from .process import Process, kill_all
from .qemu import Qemu
from .replica import Replica


class TestTimeout(AssertionError):
    """A test ran longer than it may"""


def mounts_below(path):
    """Mount points below a directory, in the order of mounting"""
    with open('/proc/self/mounts', encoding='utf-8') as f:
        points = [line.split(' ')[1].encode().decode('unicode_escape')
                  for line in f]
    return [p for p in points
            if p.startswith(os.path.realpath(path) + os.sep)]


class WorkDir:
    """
    Files, sockets and logs of one test, below build/work or $WORK_DIR.
    Removed when it passed, kept and named when it failed or KEEP=1 is set.
    """

    def __init__(self, name, base=None):
        self.dir = os.path.join(base or work_base(), f'{name}.{os.getpid()}')
        shutil.rmtree(self.dir, ignore_errors=True)
        os.mkdir(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, data):
        with open(self.path(name), 'wb') as f:
            f.write(data.encode() if isinstance(data, str) else data)
        return self.path(name)

    def sparse(self, name, size):
        with open(self.path(name), 'wb') as f:
            f.truncate(size)
        return self.path(name)

    def unmount(self):
        """What a test that was interrupted left mounted: files below are
        those of other file systems, which rmtree() must not enter."""
        for path in reversed(mounts_below(self.dir)):
            subprocess.run(['umount', '-l', path], check=False,
                           stdin=subprocess.DEVNULL)

    def close(self, failed):
        """Path when it was kept"""
        self.unmount()
        if failed or os.environ.get('KEEP', '0') not in ('', '0'):
            return self.dir
        shutil.rmtree(self.dir, ignore_errors=True)
        return None


def skip_unless(condition, reason):
    """
    Decorator: skip with the reason unless condition (a value, or a function
    called when the test is about to run) holds.
    """
    def decorate(method):
        @functools.wraps(method)
        def wrapper(self, *args, **kw):
            if not (condition() if callable(condition) else condition):
                raise unittest.SkipTest(reason)
            return method(self, *args, **kw)
        return wrapper
    return decorate


class TestCase(unittest.TestCase):
    """
    `timeout` bounds each test.  qemu(), replica() and process() make
    processes that are killed when the test ends.
    """

    timeout = 60
    work = None

    def run(self, result=None):
        def expired(_signum, _frame):
            raise TestTimeout(f'not finished within '
                              f'{scaled(self.timeout):g} s')

        self.work = WorkDir(self.id().split('.', 1)[-1])
        bad = len(result.failures) + len(result.errors)
        old = signal.signal(signal.SIGALRM, expired)
        signal.setitimer(signal.ITIMER_REAL, scaled(self.timeout))
        try:
            return super().run(result)
        except KeyboardInterrupt:
            # unittest leaves without them: processes, mounts and files stay.
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.doCleanups()
            kill_all()                  # before their directory goes
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
            failed = len(result.failures) + len(result.errors) > bad
            kept = self.work.close(failed)
            if kept and hasattr(result, 'diag'):
                result.diag(f'files and logs: {kept}')

    def adopt(self, process):
        self.addCleanup(process.kill)
        return process

    def qemu(self, name='qemu', **kw):
        return self.adopt(Qemu(self.work, name, **kw))

    def replica(self, name='replica', **kw):
        return self.adopt(Replica(self.work, name, **kw))

    def process(self, name, argv, **kw):
        return self.adopt(Process(self.work, name, argv, **kw))

    def diag(self, text):
        """A line of the test's output, as '# text'"""
        print(f'# {text}', flush=True)
