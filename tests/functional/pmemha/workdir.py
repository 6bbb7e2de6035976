# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of a test, and all that must end with the test."""
import atexit
import ctypes
import os
import shutil
import signal
import sys
import tempfile

_LIVE = []


def die_with_parent():
    """For preexec_fn: the child gets SIGKILL when the harness dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.setpgid(0, 0)


class WorkDir:
    """Removed at the end, unless the test failed or KEEP is set."""

    def __init__(self, label='test'):
        base = os.environ.get('PMEM_HA_TMP') or tempfile.gettempdir()
        name = ''.join(c if c.isalnum() else '-' for c in label)[:40]
        self.path = tempfile.mkdtemp(prefix='pmemha-%s-' % name, dir=base)
        self.keep = bool(os.environ.get('KEEP'))
        self.things = []
        _LIVE.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def file(self, name):
        return os.path.join(self.path, name)

    def own(self, thing):
        """thing.kill() is called at the end, in reverse order."""
        self.things.append(thing)
        return thing

    def sparse(self, name, size):
        path = self.file(name)
        with open(path, 'wb') as f:
            f.truncate(size)
        return path

    def tails(self, lines=15):
        for name in sorted(os.listdir(self.path)):
            if name.endswith('.log'):
                with open(self.file(name), errors='replace') as f:
                    tail = f.read()[-20000:].splitlines()[-lines:]
                yield '--- ' + name
                yield from tail

    def close(self):
        while self.things:
            self.things.pop().kill()
        if self in _LIVE:
            _LIVE.remove(self)
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)


def _close_all():
    for work in list(_LIVE):
        work.close()


def _signal(number, frame):
    _close_all()
    sys.exit(128 + number)


atexit.register(_close_all)
for _n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(_n, _signal)
