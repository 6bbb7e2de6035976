#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
How many flushes Debian's kernel sends for each call that promises durability.

One flush for each fsync, fdatasync, msync and write with O_DSYNC, two for a
file that is created and fsynced, none for what is not synchronised.  A phase
without any call is the control run: what it shows is background, and is
subtracted.
"""

from pmemha import TestCase, main
from pmemha.linux import LinuxGuest, guest_dir

# What would add to these numbers is a commit of ext4's journal: its record
# is preceded and followed by a flush, and serves as that of the fsync() which
# asked for it.  A write causes one when the clock ticked since the last write
# to the file, because the new mtime has to be journaled by fsync().  Inodes
# of 128 bytes have no room for parts of a second, and flushcount puts the
# clock back to the same second before each write: the mtime never changes.
# Access times are off, and the journal commits by itself after 300 s only
# (pmem-setup); what is left is the commit of a file that is created.
MKFS = '-I 128'

# phase: (flushes, commits of the journal) for each call
EXPECTED = {
    'fsync': (1, 0),
    'fdatasync': (1, 0),
    'odsync': (1, 0),
    'msync': (1, 0),
    'nosync': (0, 0),
    'mapsync': (0, 0),
    'create': (2, 1),
    'deepflush': (1, 0),
}


def setUpModule():
    guest_dir()                         # not within the time of a test


class Counts(TestCase):

    timeout = 200

    def phases(self, g, *names):
        """{phase: (calls, flushes, commits of the journal)}"""
        result = {}
        run = g.begin(' '.join(('flushcount /mnt', *names)))
        while True:
            m = g.shell.wait_for(r'^(JOURNAL|SKIP|EXIT) ?(.*)', 60)
            if m[1] == 'EXIT':
                break
            self.assertEqual(m[1], 'JOURNAL', m[0])
            m = g.shell.wait_for(r'^BEGIN (\w+) (\d+)$', 60)
            flushes, commits = self.flushes(g), self.commits(g)
            g.shell.send('\n')
            g.shell.wait_for(f'^END {m[1]}$', 60)
            result[m[1]] = (int(m[2]), self.flushes(g) - flushes,
                            self.commits(g) - commits)
            g.shell.send('\n')
        self.assertEqual(g.finish(run)[0], 0)
        return result

    @staticmethod
    def flushes(g):
        return g.qmp.cmd('query-pmem-ha')[0]['flushes']

    @staticmethod
    def commits(g):
        return g.last_number('JOURNAL')

    def test_flushes_by_call(self):
        g = self.adopt(LinuxGuest(self.work)).pmem(
            device='pmem-ha', props='state-file=pmem.state').boot()
        self.assertEqual(g.sh(f"MKFS='{MKFS}' pmem-setup /mnt")[-1],
                         'PMEM pmem0 /mnt')
        self.assertEqual(
            g.sh('cat /sys/bus/nd/devices/region0/deep_flush'), ['1'])
        found = self.phases(g)
        background = found.pop('idle')[1]
        self.assertEqual(set(found), set(EXPECTED))
        for phase, (calls, flushes, commits) in found.items():
            self.diag(f'{phase}: {calls} calls, {flushes} flushes, '
                      f'{commits} commits, background {background}')
        for phase, (calls, flushes, commits) in found.items():
            with self.subTest(phase):
                self.assertEqual((flushes - background, commits),
                                 tuple(calls * n for n in EXPECTED[phase]))

    def test_plain_nvdimm_sends_none(self):
        """Without a hint the kernel takes the medium for durable."""
        g = self.adopt(LinuxGuest(self.work)).pmem().boot()
        g.sh('pmem-setup /mnt')
        self.assertEqual(
            g.sh('cat /sys/bus/nd/devices/region0/deep_flush'), ['0'])
        self.assertEqual(g.qmp.cmd('query-pmem-ha'), [])


if __name__ == '__main__':
    main()
