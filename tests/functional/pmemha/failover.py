# SPDX-License-Identifier: GPL-2.0-or-later
"""
A Linux guest whose host dies: a mirrored primary with programs that report
what was flushed, its violent end, and the guest that goes on elsewhere.
"""

import os
import shlex
import subprocess
import time
from collections import namedtuple

from .linux import LABEL_SIZE, PMEM_SIZE, LinuxGuest
from .paths import program, scaled
from .replica import Replica

# Last numbers that the programs reported, or that a check found.  The numbers
# start at 1 and have no gaps.
Numbers = namedtuple('Numbers', 'records rows')

WRITERS = 'sqlwriter /mnt/db & fsyncer -f {first} /mnt/log'


class Failover:
    """
    One change of hosts.  `arguments` are those of a promoted device, for a
    primary that goes on where another one ended; without them the primary
    is the first.  `adopt` gets each process that is made.
    """

    def __init__(self, work, adopt, tag='', arguments=None):
        self.work = work
        self.adopt = adopt
        self.tag = tag
        self.replica = adopt(Replica(
            work, f'replica{tag}', size=PMEM_SIZE,
            image=f'replica{tag}.img'))
        self.arguments = arguments
        self.guest = None
        self.killed_at = None
        self.promoted = None            # what the operator was told

    def boot_primary(self, extra=()):
        """The guest with its mirror, at its shell"""
        self.replica.start()
        g = self.adopt(LinuxGuest(self.work, f'primary{self.tag}'))
        g.add('-object', self.replica.object('r0'))
        if self.arguments:
            # The device comes last in what promote prints.
            g.add(*self.arguments[:-1], self.arguments[-1] + ',replica=r0')
        else:
            g.pmem(f'primary{self.tag}.img', device='pmem-ha',
                   props=f'replica=r0,state-file=primary{self.tag}.state')
        g.add(*extra)
        self.guest = g
        return g.boot()

    def wait_in_sync(self, timeout=60):
        return self.guest.qmp.poll(
            'query-pmem-ha', lambda infos: infos[0]['state'] == 'in-sync',
            timeout)[0]

    def query(self):
        return self.guest.qmp.cmd('query-pmem-ha')[0]

    def start_writers(self, first=1):
        self.guest.begin(WRITERS.format(first=first))

    def reported(self):
        g = self.guest
        return Numbers(g.last_number('ACK'), g.last_number('SQL'))

    def files(self):
        """What the primary's host has of the device"""
        found = []
        for arg in self.guest.argv:
            for part in arg.split(','):
                key, _, value = part.partition('=')
                if key in ('mem-path', 'state-file'):
                    found.append(self.work.path(value))
        return found

    def kill_and_destroy(self):
        """
        SIGKILL the primary and delete its files; all that it reported before.
        """
        self.killed_at = time.monotonic()
        self.guest.kill()
        for path in self.files():
            os.unlink(path)
        return self.reported()

    def promote(self):
        """Arguments for QEMU, as qemu-pmemctl prints them for an operator"""
        run = subprocess.run(
            [program('PMEMCTL'), 'promote', '--socket',
             self.replica.ctl_socket], cwd=self.work.dir,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=scaled(60), check=False)
        if run.returncode:
            raise AssertionError(f'qemu-pmemctl promote: {run.stderr}')
        self.promoted = run.stdout
        return shlex.split(run.stdout.splitlines()[-1])

    def boot_second(self, arguments):
        """The promoted device in a guest of its own, without a mirror"""
        g = self.adopt(LinuxGuest(self.work, f'second{self.tag}'))
        return g.add(*arguments).boot()


def mount(g):
    """Mount and read; (time of the first read, whether a journal was there)"""
    run = g.begin('mount -o dax,noatime,commit=300 /dev/pmem0 /mnt && '
                  'head -c 4096 /mnt/log >/tmp/first && '
                  'test -s /tmp/first && echo FIRST')
    when, _ = g.shell.wait_line('^FIRST$', 60)
    status, lines = g.finish(run)
    assert status == 0, lines
    replayed = g.sh('dmesg | grep -c "EXT4-fs.*recovery complete"',
                    check=False)
    return when, replayed != ['0']


def check(g):
    """
    Read all that is there, then unmount and check the file system; the
    Numbers found.  Damage is an AssertionError.
    """
    records = int(g.sh('fsyncer -v /mnt/log', 120)[-1].split()[1])
    line = g.sh('sqlwriter -c /mnt/db', 120)[-1]
    assert line.startswith('SQLCHECK ok '), line
    g.sh('umount /mnt')
    g.sh('e2fsck -fn /dev/pmem0', 120)
    return Numbers(records, int(line.split('max=')[1]))


__all__ = ('Failover', 'LABEL_SIZE', 'Numbers', 'PMEM_SIZE', 'check', 'mount')
