# SPDX-License-Identifier: GPL-2.0-or-later
"""
A daemon that is killed at its Nth system call, by the program of
tests/functional/killat.
"""

import fcntl
import os
import subprocess
from itertools import groupby

from .lines import Channel
from .paths import ROOT, build_dir
from .primary import Daemon

SOURCE = os.path.join(ROOT, 'tests', 'functional', 'killat')
WHERE = ('entry', 'exit', 'part')
WRITES = ('pwrite64', 'pwritev')
KILLED = 99                     # exit status


def tool():
    """Path of killat, built when a source is newer"""
    out = build_dir('tools')
    path = os.path.join(out, 'killat')
    with open(f'{path}.lock', 'w', encoding='ascii') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = [os.path.join(SOURCE, n) for n in os.listdir(SOURCE)]
        if not os.path.exists(path) or \
                os.path.getmtime(path) < max(map(os.path.getmtime, sources)):
            subprocess.run(['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra',
                            '-Werror', '-o', f'{path}.new',
                            *[s for s in sources if s.endswith('.c')]],
                           check=True)
            os.rename(f'{path}.new', path)
    return path


class Count:
    """What killat says of a program"""

    def __init__(self, process, start=()):
        """@start: (name of the file whose opening starts it, N, where)"""
        self.channel, fd = process.pair('killat', Channel)
        words = ['--from', *map(str, start)] if start else []
        process.argv = [tool(), str(fd), *words, *process.argv]
        self.at = start[1] if start else 0

    def arm(self, n, where):
        """Count from now on; die at the Nth call, or never when that is 0."""
        self.at = n
        self.channel.send(f'arm {n} {where}\n')
        self.channel.wait_for('^armed$', 20)

    def calls(self):
        """(name, target) of each call so far"""
        return [tuple(text.split(' ', 3)[2:])
                for _, text in self.channel.lines if text.startswith('call ')]

    @property
    def killed(self):
        return any(text == 'killed' for _, text in self.channel.lines)

    def until(self, done, what, timeout=30):
        """(True, calls): killed; (False, calls): done(calls) came first"""
        def look():
            calls = self.calls()
            if self.killed:
                return True, calls
            if self.at and len(calls) >= self.at:
                return None             # about to be
            return (False, calls) if done(calls) else None

        return self.channel.wait(look, timeout, what)


class CountedDaemon(Daemon):
    def __init__(self, *args, start=(), **kw):
        super().__init__(*args, **kw)
        self.count = Count(self, start)


def summary(calls):
    """As text, with repeated ones in one"""
    out = []
    names = [(name, 'directory' if target.startswith('tmp') else target)
             for name, target in calls]
    for call, same in groupby(':'.join(filter(None, c)) for c in names):
        times = len(list(same))
        out.append(call + (f' x{times}' if times > 1 else ''))
    return ', '.join(out)
