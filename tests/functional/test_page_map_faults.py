#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Migration with the page map when disks are not what they should be, and when it
ends before its time.  Both QEMUs reach the disk through a server of the test
(pmemha.nbdviews), where each has a view of its own: the numbers of traps are those
of test_page_map_migration.py.  No page may ever be wrong.
"""

import subprocess

from pmemha import main, program, scaled
from pmemha.migrate import set_params
from pmemha.nbdviews import drop_at, eio_every, eio_range
from pmemha.mapguest import MIB, PageMapTest, disk_content, nbd_disk

PROBES = 16                     # of a disk, reads of a page each


class FaultTest(PageMapTest):
    def setUp(self):
        super().setUp()
        self.nbd()
        self.theirs = self.server.export('dst')
        self.ours = self.server.export('src')
        self.n = 0

    def source_of(self, cmd='', **kw):
        return self.source([nbd_disk('nbd', 'src')], cmd, **kw)

    def next_destination(self, src, **kw):
        """Another one each time; its address"""
        self.n += 1
        self.theirs.release()           # of a subtest that has failed
        dst = self.destination([nbd_disk('nbd', 'dst')], name=f'dst{self.n}',
                               uri=f'unix:mig{self.n}', **kw)
        self.turn_on(src, dst)
        self.theirs.reset_counts()
        return dst, f'unix:mig{self.n}'

    def move_once(self, src, before_run=None, **kw):
        """before_run(): memory was compared, the guest shall go on."""
        dst, uri = self.next_destination(src, **kw)
        self.start_migration(src, uri)
        self.ended(src, 'completed')
        stats = self.stats(src)
        self.diag(' '.join(f'{k}={v}' for k, v in stats.items() if v))
        if before_run:
            before_run()
        self.arrived(src, dst)
        return stats


class Witness(FaultTest):
    """What the other tests rely on"""

    mib = 8

    def test_guest_notices(self):
        g = self.guest('src', [nbd_disk('nbd', 'src')], ram=32 * MIB)
        qtest = g.qtest()
        g.start().filled()
        g.verify()
        at = 16 * MIB + 5 * 4096 + 808
        qtest.writeq(at, qtest.readq(at) ^ 1)
        with self.assertRaisesRegex(AssertionError, 'BAD page 5 word 101 '):
            g.verify()

    def test_comparison_notices(self):
        one, two = (self.guest(name, [nbd_disk('nbd', name)], ram=32 * MIB)
                    for name in ('src', 'dst'))
        qtest = two.qtest()
        for g in (one, two):
            g.start().filled()
            g.qmp.cmd('stop')
            # What they have read: the rest knows the time.
            g.first, g.ram = 16 * MIB, 24 * MIB
        self.assert_same_memory(one, two)
        qtest.writeq(24 * MIB - 8, 1)
        with self.assertRaisesRegex(AssertionError, '0x17ff000'):
            self.assert_same_memory(one, two)


class Stale(FaultTest):
    def test_not_flushed(self):
        """Trap 3: the source flushes before it names a place."""
        src = self.source_of('phase=write records=200 every=200')
        src.out.wait_seen('^D write 200$', 60)
        self.assertTrue(self.ours.cache)
        stats = self.move_once(src)
        self.assert_mapped(stats, 0.4)
        self.assertEqual(stats['nacked'], 0)

    def test_never_fresh(self):
        """Trap 4: the destination sees the disk as it was long ago."""
        # So few that the probes find the same disk: with a third of the places
        # stale, eight of sixteen probes were in one run of ten.
        src = self.source_of('records=30 every=30')
        self.theirs.freeze()
        src.phase('write')
        src.out.wait_for('^D write 30$', 60)
        stats = self.move_once(src, self.theirs.thaw)
        self.assert_mapped(stats, 0.1)
        if self.map_on:
            self.assertGreater(stats['nacked'], 0)

    def test_no_read_afterwards(self):
        """Trap 5: from the end of the migration on, the disk is the guest's."""
        src = self.source_of()
        dst, uri = self.next_destination(src)
        if self.map_on:
            self.theirs.hold(after=PROBES + 3)
        self.start_migration(src, uri)
        if self.map_on:
            self.theirs.wait_held(4)
            # RAM has nothing left, and it does not complete.
            self.wait_sent(src)
            self.assertEqual(src.qmp.cmd('query-status')['status'], 'running')
            self.theirs.release()
        self.ended(src, 'completed')
        self.ended(dst, 'completed')
        reads = self.theirs.reads
        self.arrived(src, dst)
        self.assertEqual(self.theirs.reads, reads)

    def wait_sent(self, src):
        set_params(src, max_bandwidth=1 << 30)
        src.qmp.poll('query-migrate', lambda i: i['status'] != 'active' or
                     self.link_has(i) < MIB, scaled(30))
        self.assertEqual(src.qmp.cmd('query-migrate')['status'], 'active')


class Again(FaultTest):
    """Pages change while the destination reads the disk for them."""

    def check(self, phase):
        """
        The reads of the first records have been answered by the storage,
        and the answers are under way.  The guest changes pages.  Then the old
        content arrives.
        """
        src = self.source_of('records=3000 every=3000' if phase == 'store'
                             else 'records=200 every=200')
        dst, uri = self.next_destination(src)
        if self.map_on:
            self.theirs.hold(after=PROBES)
        self.start_migration(src, uri, downtime_limit=300)
        if self.map_on:
            self.theirs.wait_held(2)
            # Little enough to stop the guest for: but for what is held.
            set_params(src, downtime_limit=60000)
        src.phase(phase)
        src.out.wait_for(rf'^D {phase} ', 60)
        if self.map_on:
            self.assertEqual(src.qmp.cmd('query-migrate')['status'],
                             'active')
            self.theirs.release()
        self.ended(src, 'completed')
        stats = self.stats(src)
        self.diag(' '.join(f'{k}={v}' for k, v in stats.items() if v))
        self.arrived(src, dst)

    def test_stores(self):
        self.check('store')

    def test_disk_reads(self):
        self.check('reread')

    def test_disk_writes(self):
        self.check('write')


class Disks(FaultTest):
    def test_all_but_probes(self):
        """
        The probes are good, and nothing else is: each byte of the rest has
        been changed.
        """
        other = disk_content(self.mib, salt=1)

        def alter(number, offset, data):
            return data if number <= PROBES else \
                other[offset:offset + len(data)]

        src = self.source_of()
        self.theirs.alter = alter
        stats = self.move_once(src)
        self.assertEqual(stats['mapped-pages'], 0)
        if self.map_on:
            self.assertGreater(stats['nacked'], 0)

    def test_half(self):
        other = disk_content(self.mib, salt=1)
        src = self.source_of()
        half = len(other) // 2 - 2048       # in the middle of a page
        with self.server.cond:
            self.theirs.replace(other[:half] + self.content[half:])
        stats = self.move_once(src)
        # By chance the probes may say that it is another disk.
        self.assertLessEqual(stats['mapped-pages'], self.pages() // 2)

    def test_single_bytes(self):
        """One byte of each page, somewhere else each time"""
        content = bytearray(self.content)
        for page in range(1, self.pages(), 2):
            content[page * 4096 + page * 37 % 4096] ^= 1
        src = self.source_of()

        def alter(number, offset, data):
            return data if number <= PROBES else \
                content[offset:offset + len(data)]

        self.theirs.alter = alter
        stats = self.move_once(src)
        self.assertLessEqual(stats['mapped-pages'], self.pages() // 2)
        self.assert_mapped(stats, 0.1)

    def test_wrong_disk(self):
        """No read of it but the probes"""
        src = self.source_of()
        self.theirs.replace(disk_content(self.mib, salt=1))
        self.assert_nothing_mapped(self.move_once(src))
        if self.map_on:
            self.assertLessEqual(self.theirs.reads, PROBES + 1)

    def test_absent(self):
        src = self.source_of()
        self.assert_nothing_mapped(self.move_once(src, device='other'))
        self.assertLessEqual(self.theirs.reads, 1)

    def test_longer(self):
        src = self.source_of()
        self.theirs.replace(self.content + bytes(MIB))
        self.assert_nothing_mapped(self.move_once(src))

    def test_shorter(self):
        src = self.source_of()
        self.theirs.replace(self.content[:-MIB])
        self.assert_nothing_mapped(self.move_once(src))

    def test_unreadable(self):
        src = self.source_of()

        def heal():
            self.theirs.fault = None

        dst = self.next_destination(src)
        self.theirs.fault = eio_every(1)
        self.start_migration(src, dst[1])
        self.ended(src, 'completed')
        self.assert_nothing_mapped(self.stats(src))
        heal()
        self.arrived(src, dst[0])

    def test_some_errors(self):
        src = self.source_of()
        dst, uri = self.next_destination(src)
        self.theirs.fault = eio_every(3)
        self.start_migration(src, uri)
        stats = self.complete(src, dst)
        self.assert_mapped(stats, 0.1)
        if self.map_on:
            self.assertGreater(stats['nacked'], 0)

    def test_bad_range(self):
        src = self.source_of()
        dst, uri = self.next_destination(src)
        # Half of the 16 probes would have to be drawn there (1 in 300,000).
        self.theirs.fault = eio_range(self.mib * MIB // 4,
                                      self.mib * MIB * 5 // 16)
        self.start_migration(src, uri)
        self.assert_mapped(self.complete(src, dst), 0.1)

    def test_connection_lost(self):
        """In the middle of a reply, and for all that follow"""
        src = self.source_of()
        dst, uri = self.next_destination(src)
        self.theirs.fault = drop_at(PROBES + 4)
        self.start_migration(src, uri)
        stats = self.complete(src, dst)
        if self.map_on:
            self.assertGreater(stats['nacked'], 0)

    def test_other_client(self):
        """Trap 1, 17: blocks change after the guest has read them."""
        disk = self.image()
        src = self.source([disk])
        subprocess.run([program('QEMU_IO'), '--image-opts', 'driver=raw,'
                        'discard=unmap,file.driver=file,'
                        'file.filename=disk.raw,file.locking=off',
                        '-c', 'write -P 0x55 4M 2M', '-c', 'write -z 8M 2M',
                        '-c', 'discard 12M 2M', '-c', 'write -P 0 16000000 1'],
                       cwd=self.work.dir, check=True, timeout=scaled(20),
                       stdout=subprocess.DEVNULL)
        dst = self.destination([disk])
        stats = self.move(src, dst)
        self.assert_mapped(stats, 0.3)
        if self.map_on:
            self.assertGreater(stats['nacked'], 1024)


class Stops(FaultTest):
    """
    Trap 18: a migration that does not get to its end, in each of its phases.
    The next one does, with the map.
    """

    PHASES = ('devices', 'records', 'draining')

    def freeze(self, src, phase):
        dst, uri = self.next_destination(src)
        if self.map_on:
            self.theirs.hold(after=0 if phase == 'devices' else PROBES + 2)
        self.start_migration(src, uri, downtime_limit=300)
        if not self.map_on:
            return dst
        self.theirs.wait_held()
        if phase == 'draining':
            # All that is left is held; so little that the guest could stop.
            set_params(src, downtime_limit=60000, max_bandwidth=1 << 30)
            src.qmp.poll('query-migrate',
                         lambda i: self.link_has(i) < MIB, scaled(30))
        self.assertEqual(src.qmp.cmd('query-migrate')['status'], 'active')
        return dst

    def cancelled(self, src):
        """QEMU closes the return path before it says that it cancels: who
        sees this in time has failed."""
        self.ended(src, 'cancelled|failed')

    def goes_well(self, src):
        self.assertEqual(src.qmp.cmd('query-status')['status'], 'running')
        src.verify()

    def last_one(self, src):
        self.assert_mapped(self.move_once(src), 0.3)

    def ends(self, dst):
        """By itself, with an error and nothing worse"""
        self.theirs.release()
        self.assertEqual(dst.wait(20), 1, dst.output())

    def test_cancel(self):
        src = self.source_of()
        for phase in self.PHASES:
            with self.subTest(phase=phase):
                dst = self.freeze(src, phase)
                src.qmp.cmd('migrate_cancel')
                self.cancelled(src)
                self.ends(dst)
                self.goes_well(src)
        self.last_one(src)

    def test_cancel_before_probes(self):
        """The source's own reads are under way."""
        src = self.source_of()
        dst, uri = self.next_destination(src)
        if self.map_on:
            self.ours.hold()
        self.start_migration(src, uri)
        if self.map_on:
            self.ours.wait_held()
        cancel = src.qmp.start_cmd('migrate_cancel')
        self.ours.release()
        src.qmp.finish_cmd(cancel)
        self.cancelled(src)
        self.ends(dst)
        self.goes_well(src)
        self.last_one(src)

    def test_kill_destination(self):
        src = self.source_of()
        for phase in self.PHASES:
            with self.subTest(phase=phase):
                dst = self.freeze(src, phase)
                dst.kill()
                self.ended(src, 'failed')
                self.theirs.release()
                self.goes_well(src)
        self.last_one(src)

    def test_kill_source(self):
        for phase in self.PHASES:
            with self.subTest(phase=phase):
                src = self.source_of()
                dst = self.freeze(src, phase)
                src.kill()
                self.ends(dst)


if __name__ == '__main__':
    main()
