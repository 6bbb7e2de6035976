# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest does in tests/bench/page-map, and which peers take part"""

DROP = 'echo 3 > /proc/sys/vm/drop_caches'
READ = 'cat /mnt/f* > /dev/null'
SEED_MIB = 64


class PageCache:
    """W1: the file set is in the guest's page cache; nothing runs."""

    name = 'W1'
    what = 'page cache full of files'
    rounds, limit, reread = 5, 120, True
    peers = ('stock', 'stock again', 'multifd', 'multifd+zstd', 'xbzrle',
             'drop caches+hint', 'ours', 'ours+multifd', 'ours, sample')

    def __init__(self, mib):
        self.mib = mib

    def begin(self, g):
        g.sh(READ, 300)

    def end(self, g):
        """To the state before begin()"""


class ReRead:
    """W3: the guest reads the set again and again, from the disk each time."""

    name = 'W3'
    what = 'endless reading of files that do not stay in the page cache'
    rounds, limit, reread = 3, 20, False
    peers = 'stock', 'ours', 'ours+multifd'
    # More than a link of 1 Gb/s takes away, and less than storage gives
    rate = 200 * 10 ** 6

    def __init__(self, mib):
        self.mib = mib

    @staticmethod
    def _limit(g, rate):
        g.qmp.raw_cmd('block_set_io_throttle', {
            'id': '/machine/peripheral/disk0/virtio-backend', 'bps': rate, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0,
            'iops_rd': 0, 'iops_wr': 0})

    def begin(self, g):
        self._limit(g, self.rate)
        g.sh(f'{DROP}; (while {READ}; do {DROP}; done) < /dev/null & '
             'echo $! > /tmp/loop')
        # Until the cache has most of it: not a start from empty memory
        g.sh("while [ $(awk '/^Cached:/ { print $2 }' /proc/meminfo) -lt "
             f'{self.mib * 1024 * 8 // 10} ]; do :; done', 120)

    def end(self, g):
        self._limit(g, 0)
        g.sh('kill $(cat /tmp/loop); killall cat 2>/dev/null; true')


class Stale:
    """W5: other memory is where the map still has the files."""

    name = 'W5'
    what = 'files read and dropped, then other data in the same memory'
    rounds, limit, reread = 3, 120, False
    peers = 'stock', 'stock again', 'ours', 'ours, sample'

    def __init__(self, mib):
        self.copies = mib // SEED_MIB - 1

    def begin(self, g):
        g.sh(f'mount -o remount,size={(self.copies + 2) * SEED_MIB}m /tmp; '
             f'rm -f /tmp/w5.*; {READ}; [ -f /tmp/seed ] || dd bs=1M '
             f'if=/dev/urandom of=/tmp/seed count={SEED_MIB} 2>/dev/null; '
             f'{DROP}; for i in $(seq {self.copies}); do '
             'cat /tmp/seed > /tmp/w5.$i; done', 300)

    def end(self, g):
        g.sh('rm -f /tmp/w5.* /tmp/seed')


WORKLOADS = {w.name: w for w in (PageCache, Stale, ReRead)}
