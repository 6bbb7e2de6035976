# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the guest does in tests/bench/page-map.  /mnt has the set of files and is
read-only; /w is a disk that the guests of one kind have for themselves.
"""

import os

from .maphosts import FILE, MIB
from .mappeers import MOVES, PAIR
from .paths import scaled

DROP = 'echo 3 > /proc/sys/vm/drop_caches'
READ = 'cat /mnt/f* > /dev/null'


class Workload:
    """
    begin() before each migration; end() makes it as it was before.  One that
    has not ended after `limit` seconds is cancelled.
    """

    rounds = 3
    limit = 120
    reread = False              # the time to read the files at the destination
    fresh = False               # wants guests that have done nothing
    peers = PAIR
    overlay = None              # see Lab._guest
    switchover = None           # see Lab._wait

    def __init__(self, mib):
        self.mib = mib
        self.files = max(mib * MIB // FILE, 1)

    def begin(self, g):
        pass

    def end(self, g):
        pass


class Idle(Workload):
    name, what = 'W0', 'a guest that has booted'
    fresh = True


class PageCache(Workload):
    name, what = 'W1', 'page cache full of files, nothing runs'
    rounds, reread, peers = 5, True, MOVES

    def begin(self, g):
        g.sh(READ, 300)


class Written(Workload):
    name, what = 'W2', 'files that were written, and synced'

    def begin(self, g):
        n = max(self.files // 2, 1)
        g.sh(f'{DROP}; for i in $(seq 0 {n - 1}); do '
             'cat /mnt/f$(printf %03d $i) > /w/g$i || exit; done; sync', 300)

    def end(self, g):
        g.sh('rm -f /w/g*; sync', 120)


class Unsynced(Workload):
    """The files are only in the guest's memory: it must not write by itself"""

    name, what = 'W2-nosync', 'files that were written, and not synced'
    vm = {'dirty_background_ratio': 89, 'dirty_ratio': 90,
          'dirty_writeback_centisecs': 0, 'dirty_expire_centisecs': 360000}

    def begin(self, g):
        n = min(max(self.files // 2, 1), 4)
        for key, value in self.vm.items():
            g.sh(f'f=/proc/sys/vm/{key}; [ -e /tmp/{key} ] || '
                 f'cat $f > /tmp/{key}; echo {value} > $f')
        g.sh(f'{DROP}; for i in $(seq 0 {n - 1}); do '
             'cat /mnt/f$(printf %03d $i) > /w/u$i || exit; done', 300)

    def end(self, g):
        for key in reversed(self.vm):
            g.sh(f'cat /tmp/{key} > /proc/sys/vm/{key}; rm /tmp/{key}')
        g.sh('rm -f /w/u*; sync', 120)


class ReRead(Workload):
    """From the disk each time"""

    name = 'W3'
    what = 'endless reading of files that do not stay in the page cache'
    limit, peers = 20, tuple(p for p in MOVES if p != 'ours, off')
    # More than a link of 1 Gb/s takes away, and less than storage gives
    rate = 200 * 10 ** 6

    @staticmethod
    def _limit(g, rate):
        g.qmp.raw_cmd('block_set_io_throttle', {
            'id': '/machine/peripheral/disk0/virtio-backend', 'bps': rate,
            'bps_rd': 0, 'bps_wr': 0, 'iops': 0, 'iops_rd': 0, 'iops_wr': 0})

    def begin(self, g):
        self._limit(g, self.rate)
        g.sh(f'{DROP}; (while {READ}; do {DROP}; done) < /dev/null & '
             'echo $! > /tmp/loop')
        # Until the cache has most of it: not a start from empty memory
        g.sh("while [ $(awk '/^Cached:/ { print $2 }' /proc/meminfo) -lt "
             f'{self.mib * 1024 * 8 // 10} ]; do kill -0 $(cat /tmp/loop) || '
             'exit 1; done', 120)

    def end(self, g):
        self._limit(g, 0)
        g.sh('kill $(cat /tmp/loop); killall cat 2>/dev/null; true')


class Pool(Workload):
    """A program that holds memory; it says POOL when it has its content."""

    arguments = ''

    def begin(self, g):
        g.sh(f'{DROP}; bufferpool {self.arguments} < /dev/null > /tmp/pool & '
             'echo $! > /tmp/pool.pid')
        g.sh('until grep -q POOL /tmp/pool; do kill -0 $(cat /tmp/pool.pid) || '
             '{ cat /tmp/pool; exit 1; }; done', 300)

    def end(self, g):
        g.sh('kill $(cat /tmp/pool.pid); rm /tmp/pool')


class Dirtier(Pool):
    rate = 50

    def __init__(self, mib):
        super().__init__(mib)
        size = min(256, mib)
        self.arguments = f'-m {size} -r {self.rate}'
        self.what = (f'{size} MiB of anonymous memory, replaced at '
                     f'{self.rate} MB/s')

    name = 'W4'


class Direct(Pool):
    name, what = 'W6', 'files in the memory of a program, by O_DIRECT'

    def __init__(self, mib):
        super().__init__(mib)
        n = max(self.files * 3 // 4, 1)
        self.arguments = f'$(ls /mnt/f* | head -n {n})'


class Stale(Workload):
    """Other memory is where the map still has the files."""

    name = 'W5'
    what = 'files read and dropped, then other data in the same memory'
    seed_mib = 64
    peers = tuple(p for p in MOVES if p != 'ours, off')

    def begin(self, g):
        copies = max(self.mib // self.seed_mib - 1, 1)
        g.sh(f'mount -o remount,size={(copies + 2) * self.seed_mib}m /tmp; '
             f'rm -f /tmp/w5.*; {READ}; [ -f /tmp/seed ] || dd bs=1M '
             f'if=/dev/urandom of=/tmp/seed count={self.seed_mib} '
             f'2>/dev/null; {DROP}; for i in $(seq {copies}); do '
             'cat /tmp/seed > /tmp/w5.$i; done', 300)

    def end(self, g):
        g.sh('rm -f /tmp/w5.* /tmp/seed')


class Commit(Workload):
    """
    The second disk is qcow2 on top of what it was; half of the files are in
    the one, half in the other.  Both hosts have this image as a file.  As
    libvirt does it, the job goes on until the guest has stopped.
    """

    name = 'W8'
    what = 'files on qcow2 with a backing image, while a commit job runs'
    speed = 20 * MIB
    job = {'job-id': 'commit', 'device': 'top', 'base-node': 'd1',
           'top-node': 'top'}

    def _write(self, g, first, last):
        g.sh(f'{DROP}; for i in $(seq {first} {last - 1}); do '
             'cat /mnt/f$(printf %03d $i) > /w/c$i || exit; done; sync', 300)

    def begin(self, g):
        n = max(self.files // 2, 2)
        self._write(g, 0, n // 2)
        self.overlay = f'top-{g.name}.qcow2'
        size = next(i['inserted']['image']['virtual-size'] for i in
                    g.qmp.cmd('query-block') if i['qdev'].endswith(
                        '/disk1/virtio-backend'))
        g.qmp.cmd('blockdev-create', **{'job_id': 'create', 'options': {
            'driver': 'file', 'filename': self.overlay, 'size': 0}})
        self._concluded(g, 'create')
        g.qmp.raw_cmd('blockdev-add', {
            'driver': 'file', 'node-name': 'file', 'filename': self.overlay})
        g.qmp.raw_cmd('blockdev-create', {'job-id': 'create', 'options': {
            'driver': 'qcow2', 'file': 'file', 'size': size}})
        self._concluded(g, 'create')
        g.qmp.raw_cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top', 'file': 'file',
            'backing': None})
        g.qmp.cmd('blockdev-snapshot', node='d1', overlay='top')
        self._write(g, n // 2, n)
        g.sh(f'{DROP}; cat /w/c* > /dev/null', 300)
        g.qmp.raw_cmd('block-commit', {**self.job, 'speed': self.speed})

    @staticmethod
    def _concluded(g, job):
        jobs = g.qmp.poll('query-jobs', lambda jobs: all(
            j['status'] == 'concluded' for j in jobs if j['id'] == job),
            scaled(60))
        failed = [j['error'] for j in jobs if 'error' in j]
        if failed:
            raise AssertionError(f'{g.name}: {job}: {failed}')
        g.qmp.raw_cmd('job-dismiss', {'id': job})

    @staticmethod
    def _gone(g):
        g.qmp.poll('query-jobs', lambda jobs: not jobs, scaled(60))

    def switchover(self, g):
        if g.qmp.cmd('query-jobs'):
            g.qmp.cmd('block-job-cancel', device='commit')
            self._gone(g)

    def end(self, g):
        self.switchover(g)
        g.qmp.raw_cmd('block-commit', self.job)
        g.qmp.poll('query-jobs', lambda jobs: jobs[0]['status'] == 'ready',
                   scaled(60))
        g.qmp.cmd('block-job-complete', device='commit')
        self._gone(g)
        for node in 'top', 'file':
            g.qmp.raw_cmd('blockdev-del', {'node-name': node})
        os.unlink(g.work.path(self.overlay))
        self.overlay = None
        g.sh('rm -f /w/c*; sync', 120)


WORKLOADS = {w.name: w for w in (Idle, PageCache, Written, Unsynced, ReRead,
                                 Dirtier, Stale, Direct, Commit)}
