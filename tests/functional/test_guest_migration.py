#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Debian moves to another QEMU while SQLite commits and a program fsyncs.  Both
go on there; then that host dies, too, and nothing is lost of what was reported
at either.
"""

import os

from pmemha import TestCase, main, scaled
from pmemha.failover import Failover, check, mount
from pmemha.linux import LinuxGuest, guest_dir


def setUpModule():
    guest_dir()                         # not within the time of a test


class Debian(TestCase):

    timeout = 240

    def test_migration_then_failover(self):
        host = Failover(self.work, self.adopt)
        src = host.boot_primary()
        src.sh('pmem-setup /mnt')
        host.wait_in_sync()
        dst = self.adopt(LinuxGuest(self.work, 'destination'))
        dst.add('-object', host.replica.object('r0'))
        dst.pmem('destination.img', device='pmem-ha',
                 props='replica=r0,state-file=destination.state')
        dst.add('-incoming', 'unix:dst.mig').start()
        host.start_writers()
        src.shell.wait_seen('^SQL 5$', 90)
        src.shell.wait_seen('^ACK 50$', 90)

        src.qmp.cmd('migrate', uri='unix:dst.mig')
        info = src.qmp.poll('query-migrate', lambda i: i.get('status') in
                            ('completed', 'failed'), scaled(120))
        self.assertEqual(info['status'], 'completed', info)
        at_source = host.reported()
        host.guest = dst
        dst.shell.wait_seen(rf'^SQL {at_source.rows + 10}$', 90)
        dst.shell.wait_seen(rf'^ACK {at_source.records + 100}$', 90)
        device, = dst.qmp.cmd('query-pmem-ha')
        self.assertEqual((device['role'], device['generation'],
                          device['resync-remaining']), ('primary', 2, 0))
        # It was never copied in whole.
        self.assertLess(device['wire-bytes'], 64 << 20)
        self.assertEqual(src.quit(), 0)

        reported = host.kill_and_destroy()
        os.unlink(self.work.path('primary.img'))
        self.assertGreater(reported.records, at_source.records)
        g = host.boot_second(host.promote())
        self.assertTrue(mount(g)[1], 'no journal was replayed')
        found = check(g)
        self.assertGreaterEqual(found.records, reported.records)
        self.assertGreaterEqual(found.rows, reported.rows)
        self.assertEqual(g.poweroff(), 0)
        self.diag(f"downtime {info['downtime']} ms; reported at the source "
                  f'{at_source}, in all {reported}; found {found}')


if __name__ == '__main__':
    main()
