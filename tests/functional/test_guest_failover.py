#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Debian loses its host three times, each time while SQLite commits and a
program fsyncs; its files are destroyed.  The guest that goes on has every
number that was reported, and is mirrored to the next replica itself.

    test_guest_failover.py [--seed N] [--kills N] [PATTERN]
"""

import random

from pmemha import TestCase, main
from pmemha.failover import Failover, Numbers, check, mount
from pmemha.linux import guest_dir
from pmemha.options import option

KILLS = option('kills', 3)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))


def setUpModule():
    guest_dir()                         # not within the time of a test


class Debian(TestCase):

    timeout = 200 * KILLS

    def setUp(self):
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)

    def write_until(self, host, before):
        """Both programs are at work; some moment among their reports"""
        records = before.records + self.rng.randrange(20, 300)
        rows = before.rows + self.rng.randrange(5, 30)
        shell = host.guest.shell
        host.start_writers(before.records + 1)
        shell.wait_seen(f'^SQL {rows}$', 90)
        shell.wait_seen(f'^ACK {records}$', 90)

    def verify(self, g, reported):
        """Every number is there; what the guest holds"""
        found = check(g)
        self.assertGreaterEqual(found.records, reported.records)
        self.assertGreaterEqual(found.rows, reported.rows)
        return found

    def test_three_hosts_die(self):
        found = reported = Numbers(0, 0)
        arguments = None
        for n in range(KILLS):
            host = Failover(self.work, self.adopt, f'{n}', arguments)
            g = host.boot_primary()
            if n:
                self.assertTrue(mount(g)[1], 'no journal was replayed')
                found = self.verify(g, reported)
                g.sh('mount -o dax,noatime,commit=300 /dev/pmem0 /mnt')
            else:
                g.sh('pmem-setup /mnt')
            host.wait_in_sync()
            self.write_until(host, found)
            reported = host.kill_and_destroy()
            self.assertGreater(reported.records, found.records)
            self.assertGreater(reported.rows, found.rows)
            arguments = host.promote()
            # The promoted image is that of the next host now.
            host.replica.kill()
            self.diag(f'kill {n + 1}: {reported.records} records and '
                      f'{reported.rows} rows reported')
        g = host.boot_second(arguments)
        self.assertTrue(mount(g)[1], 'no journal was replayed')
        found = self.verify(g, reported)
        self.assertEqual(g.poweroff(), 0)
        self.diag(f'{KILLS} kills; found {found.records} records and '
                  f'{found.rows} rows, 0 lost')


if __name__ == '__main__':
    main()
