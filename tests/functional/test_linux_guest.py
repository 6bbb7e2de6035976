#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The Linux guest boots, makes a DAX file system, and its programs work."""

import time

from pmemha import TestCase, main
from pmemha.linux import LinuxGuest, guest_dir, latency


def setUpModule():
    guest_dir()                         # not within the time of a test


class Linux(TestCase):

    timeout = 240

    def guest(self, **kw):
        return self.adopt(LinuxGuest(self.work, **kw))

    def test_fsync_survives_qemu(self):
        """Programs report; QEMU is killed; a second guest finds it all."""
        started = time.monotonic()
        g = self.guest(name='first').pmem().boot()
        booted = time.monotonic()
        g.sh('pmem-setup /mnt')
        self.assertTrue(any('dax' in line for line in
                            g.sh('grep " /mnt " /proc/mounts')))
        self.diag(f'boot {booted - started:.1f} s, '
                  f'DAX file system {time.monotonic() - booted:.1f} s')

        for mode in ('fsync', 'fdatasync', 'msync', 'odsync'):
            lines = g.sh(f'fsyncer -q -m {mode} -n 200 -w 16 /mnt/w.{mode}')
            self.assertEqual(latency(lines)[mode]['n'], 200)
        self.assertEqual(g.sh('fsyncer -m fsync -n 3 /mnt/few')[:3],
                         ['ACK 1', 'ACK 2', 'ACK 3'])
        self.assertEqual(g.sh('mapsync -n 2 /mnt/m'),
                         ['MAPSYNC ok', 'STORED 1', 'STORED 2'])

        g.begin('sqlwriter /mnt/db & fsyncer /mnt/log')
        g.shell.wait_seen('^SQL 40$', 60)
        g.shell.wait_seen('^ACK 40$', 60)
        g.kill()
        acked, rows = g.last_number('ACK'), g.last_number('SQL')

        g = self.guest(name='second').pmem().boot()
        g.sh('mount -o dax /dev/pmem0 /mnt')
        good = int(g.sh('fsyncer -v /mnt/log')[-1].split()[1])
        self.assertGreaterEqual(good, acked)
        found = int(g.sh('sqlwriter -c /mnt/db')[-1].split('max=')[1])
        self.assertGreaterEqual(found, rows)
        g.sh('umount /mnt')
        g.sh('e2fsck -fn /dev/pmem0')
        self.assertEqual(g.poweroff(), 0)

    def test_phases_and_dma(self):
        """flushcount stops between its phases; a disk writes to pmem."""
        self.work.write('disk.img', bytes(range(256)) * 4096)
        g = self.guest().pmem()
        g.add('-drive', 'if=none,id=d0,file=disk.img,format=raw',
              '-device', 'virtio-blk-pci,drive=d0')
        g.boot()
        g.sh('pmem-setup /mnt')
        run = g.begin('flushcount /mnt fsync nosync msync mapsync create')
        phases = []
        for _ in range(5):
            m = g.shell.wait_for(r'^(BEGIN|SKIP) (\w+)', 30)
            self.assertEqual(m[1], 'BEGIN')
            phases.append(m[2])
            g.shell.send('\n')
            g.shell.wait_for(f'^END {m[2]}$', 30)
            g.shell.send('\n')
        self.assertEqual(g.finish(run)[0], 0)
        self.assertEqual(phases,
                         ['fsync', 'nosync', 'msync', 'mapsync', 'create'])

        g.sh('directread -n 16 /dev/vda /mnt/copy')
        self.assertEqual(g.sh('cmp /dev/vda /mnt/copy'), [])
        self.check_lines(g)

    def check_lines(self, g):
        """
        What a command leaves behind ends while the next line is under way; a
        line that is damaged is noticed at once.
        """
        g.sh('sleep 1 < /dev/null & echo "while [ -d /proc/$! ] && '
             '! grep -q State:.Z /proc/$!/status; do :; done; echo GONE" '
             '> /tmp/watch; sh /tmp/watch < /dev/null &')
        g.shell.send('not-a-number ec')
        g.shell.wait_for('^GONE$', 30)
        g.shell.send('ho whole\n')
        g.shell.wait_for('^whole$', 30)
        with self.assertRaisesRegex(AssertionError, 'had another line'):
            started = g.begin('true')
            g.finish((started[0] + 1, 0, 'what is waited for'), 30)

    def test_modules(self):
        """Each group of modules can be loaded; the packed kernel boots."""
        g = self.guest(fast=False, smp=2)
        g.boot()
        for group in ('dax', 'xfs', 'net', 'console', 'rdma'):
            self.assertEqual(g.sh(f'load {group}'), [], group)
        self.assertEqual(g.sh('nproc'), ['2'])


if __name__ == '__main__':
    main()
