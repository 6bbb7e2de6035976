# SPDX-License-Identifier: GPL-2.0-or-later
"""The Linux guest: its QEMU and a shell in it"""

import itertools
import os
import re
import subprocess

from .paths import ROOT
from .qemu import Qemu

# What a test does not need costs seconds under TCG.
COMMAND_LINE = ('console=ttyS0 loglevel=5 panic=-1 nokaslr mitigations=off '
                'audit=0 apparmor=0 random.trust_cpu=on no_timer_check '
                'tsc=reliable cryptomgr.notests')

# Labels follow the region, and the region must be a multiple of 128 MiB for
# a namespace to be aligned.
LABEL_SIZE = 128 << 10
PMEM_SIZE = (256 << 20) + LABEL_SIZE
BOOT_TIMEOUT = 120

_dir = None


def guest_dir():
    """Directory with vmlinuz, vmlinux, initramfs; built when needed"""
    global _dir
    if _dir is None:
        run = subprocess.run(
            [os.path.join(ROOT, 'tests', 'functional', 'build-guest')],
            check=True, stdout=subprocess.PIPE, text=True)
        _dir = run.stdout.strip()
    return _dir


class LinuxGuest(Qemu):
    """
    A QEMU that boots the guest.  The kernel's console is kept in
    <name>.console.log; `.shell` is the channel of the second serial port, on
    which the guest's init runs one command per line.
    """

    def __init__(self, work, name='linux', memory='512M,slots=4,maxmem=4G',
                 machine='q35,nvdimm=on', cpu='max', append='', fast=True,
                 **kw):
        super().__init__(work, name, memory=memory, machine=machine, **kw)
        base = guest_dir()
        kernel = os.path.join(base, 'vmlinux')
        if not fast or not os.path.exists(kernel):
            kernel = os.path.join(base, 'vmlinuz')
        self.console = self.serial('console')
        self.shell = self.serial('shell')
        self.ids = itertools.count(1)
        self.booted = False
        self.begun = {}                 # number of a command: its first line
        self.ended = {}                 # and of the line that says its end
        self.add('-cpu', cpu, '-no-reboot', '-kernel', kernel,
                 '-initrd', os.path.join(base, 'initramfs'),
                 '-append', f'{COMMAND_LINE} {append}'.strip())

    def pmem(self, name='pmem.img', n=0, device='nvdimm', backend='',
             props='', size=PMEM_SIZE, label_size=LABEL_SIZE):
        """An NVDIMM that ndctl accepts as fsdax"""
        labels = f'label-size={label_size}' if label_size else ''
        return self.pmem_file(name, size, n, device, backend,
                              ','.join(p for p in (labels, props) if p))

    def boot(self, timeout=BOOT_TIMEOUT):
        """Start, and wait until the guest's shell listens."""
        self.start()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=BOOT_TIMEOUT):
        release = self.shell.wait_for(r'^READY (.*)', timeout)[1]
        self.booted = True
        return release

    def begin(self, command):
        """Start a command; give what is returned to finish()."""
        n = next(self.ids)
        with self.shell.cond:
            first = len(self.shell.lines)
            # wait_for() looks at what this command prints
            self.shell.cursor = first
        self.begun[n] = first
        self.shell.send(f'{n} {command}\n')
        return n, first, command

    def finish(self, started, timeout=60):
        """(exit status, lines that it printed)"""
        n, first, command = started

        def look():
            for i in range(first, len(self.shell.lines)):
                text = self.shell.lines[i][1]
                m = re.match(r'EXIT (\S+) (\d+)$', text)
                if not m:
                    continue
                if m[1] == str(n):
                    self.shell.cursor = i + 1
                    self.ended[n] = i
                    return int(m[2]), [t for _, t in
                                       self.shell.lines[first:i]]
                self._check_end(m[1], i, command)
            return None

        return self.shell.wait(look, timeout, f'end of {command!r}')

    def _check_end(self, n, at, command):
        """The end of a command that nobody sent is a line that was damaged
        on its way: the one that is waited for would never come.  A guest that
        came by migration may have had commands before."""
        n = int(n) if n.isdigit() else None
        if not self.booted:
            return
        if n not in self.begun or at < self.begun[n] or \
                self.ended.setdefault(n, at) != at:
            raise AssertionError(
                f'{self.name}: its shell had another line than {command!r}; '
                f'{self.shell.tail()}')

    def sh(self, command, timeout=60, check=True):
        """Lines that a command printed; it must succeed unless check=False."""
        status, lines = self.finish(self.begin(command), timeout)
        if check and status:
            raise AssertionError(f'{self.name}: {command!r} ended with '
                                 f'{status}: ' + '\n'.join(lines))
        return lines

    def poweroff(self, timeout=30):
        """Unmounts are the test's business; the exit status of QEMU"""
        self.shell.send('0 poweroff -f\n')
        return self.wait(timeout)

    def last_number(self, word):
        """n of the last complete line 'word n', 0 without one"""
        last = 0
        pattern = re.compile(rf'^{word} (\d+)$')
        for text in self.shell.text_lines():
            m = pattern.match(text)
            if m:
                last = int(m[1])
        return last


def latency(lines):
    """{mode: {'n', 'p50', 'p99', 'max'}} (ns) of LAT lines"""
    result = {}
    for line in lines:
        m = re.match(r'LAT (\S+) (.*)', line)
        if m:
            result[m[1]] = {k: int(v) for k, v in
                            (p.split('=') for p in m[2].split())}
    return result
