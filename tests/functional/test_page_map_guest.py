#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Migration with the page map: what works, and with what else.  Each test compares
the SHA-256 of all memory, source stopped and destination not yet running, and
lets the guest verify each page afterwards.

What can go wrong with hints about disks, and where it is tested (F:
test_page_map_faults.py, L: test_page_map_learn.py):

 1 a block changes between record and read    F Stale, Disks.test_other_client
 2 a page changes while it is written         Churn.test_torn_writes
 3 the source's host has not flushed          F Stale.test_not_flushed
 4 the destination's cache is old             F Stale.test_never_fresh
 5 reads while the disk becomes writable      F Stale.test_no_read_afterwards
 6 a record overtakes content, or is passed   Others.test_multifd*, F Again
 7 xbzrle's cache                             Refused
 8 reads that wait for a drained section      Formats.test_after_commit
 9, 10 other page sizes                       not on this target
11 pages that are not what the disk has       Churn.test_all_stale
12 a cache that QEMU does not have            Formats.test_direct
13 disks that QEMU does not see               L
14 encrypted guests                           cannot be made here
15 RDMA, COLO, ignore-shared                  Refused
16 blocks that the guest wrote                Churn.test_writes
17 discarded blocks                           F Disks.test_other_client
18 cancel, and failure                        F Stops
19 limits of the guest's disk                 Formats.test_throttled
20 record/replay                              cannot be migrated
21 the second hop                             Hops
22 a qcow2 whose tables have changed          Churn.test_growing_qcow2
"""

import json
import os
import socket
import subprocess

from pmemha import QmpError, main, program, scaled
from pmemha.migrate import set_caps, set_params
from pmemha.mapguest import (Disk, PageMapTest, disk_content, file_disk,
                            nbd_disk)


class Formats(PageMapTest):
    """A guest that has read its disk, at rest"""

    mib = 64

    def check(self, disk, least=0.6, **kw):
        src = self.source([disk], **kw)
        stats = self.move(src, self.destination([disk]))
        self.assert_mapped(stats, least)
        self.assertEqual(stats['nacked'], 0)
        return stats

    def test_raw(self):
        stats = self.check(self.image())
        if self.map_on:
            self.assertLess(stats['wire-bytes'],
                            stats['mapped-bytes'] // 100)
            self.assertGreaterEqual(stats['fetched-bytes'],
                                    stats['mapped-bytes'])

    def test_qcow2(self):
        self.check(self.image('qcow2'))

    def test_backing(self):
        self.check(self.image('backing'))

    def test_luks(self):
        self.check(self.image('luks'))

    def test_nbd(self):
        self.nbd()
        src = self.source([nbd_disk('nbd', 'src')])
        dst = self.destination([nbd_disk('nbd', 'dst')])
        self.server.export('dst').reset_counts()
        stats = self.move(src, dst)
        self.assert_mapped(stats, 0.4)
        self.assertEqual(stats['nacked'], 0)
        if self.map_on:
            # What is reported is what the storage has seen, and 16 probes.
            dst = self.server.export('dst')
            self.assertEqual((stats['fetch-requests'] + 16,
                              stats['fetched-bytes'] + (16 << 12)),
                             (dst.reads, dst.read_bytes))

    def test_direct(self):
        """Trap 12; where files can be opened so"""
        self.image()
        disk = file_disk('disk.raw', extra=',file.cache.direct=on')
        self.check(disk)

    def test_iothread(self):
        disk = self.image()
        src = self.source([disk], '', '-object', 'iothread,id=io0',
                          props=',iothread=io0')
        dst = self.destination([disk], '-object', 'iothread,id=io0',
                               props=',iothread=io0')
        self.assert_mapped(self.move(src, dst), 0.4)

    def test_two_disks(self):
        disks = [self.image(content=disk_content(self.mib, disk=k, disks=2),
                            name=f'd{k}') for k in range(2)]
        src = self.source(disks, 'depth=4')
        stats = self.move(src, self.destination(disks))
        self.assert_mapped(stats, 0.4)

    def test_one_of_two(self):
        """The other disk is not the same: its pages go by the link."""
        disks = [self.image(content=disk_content(self.mib, disk=k, disks=2),
                            name=f'd{k}') for k in range(2)]
        other = self.image(content=disk_content(self.mib, 1, 1, 2), name='o')
        src = self.source(disks)
        # So slow that it takes no pages off the disk's way, however busy the
        # machine is: a half is all that can be mapped here.
        stats = self.move(src, self.destination([disks[0], other]),
                          params={'max_bandwidth': 8 << 20})
        self.assert_mapped(stats, 0.4)
        self.assertLessEqual(stats['mapped-pages'], self.pages() // 2)
        self.assertEqual(stats['nacked'], 0)

    def test_after_commit(self):
        """Trap 8; blocks that a job has moved are at the same place."""
        base = self.image()
        subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                        '-b', 'disk.raw', '-F', 'raw', 'top.qcow2'],
                       cwd=self.work.dir, check=True, timeout=scaled(20))
        src = self.source([file_disk('top.qcow2', 'qcow2')],
                          'phase=write records=64')
        src.out.wait_seen('^D write 64$', 60)
        src.qmp.cmd('block-commit', job_id='job0', device='node0')
        src.qmp.wait_event('BLOCK_JOB_READY', 30)
        src.qmp.cmd('job-complete', id='job0')
        src.qmp.wait_event('BLOCK_JOB_COMPLETED', 30)
        stats = self.move(src, self.destination([base]))
        self.assert_mapped(stats, 0.4)
        self.assertEqual(stats['nacked'], 0)

    def test_throttled(self):
        """
        Trap 19: the guest's limit does not hold the migration up; with it, the
        probes alone would take longer than the link needs for all.
        """
        self.image()

        class Limited(Disk):
            def add_to(self, q, n=0, props='', name='disk'):
                q.add('-drive', 'if=none,id=drive0,format=raw,file=disk.raw,'
                                'throttling.iops-total=1',
                      '-device', f'virtio-blk-pci,id={name}0,drive=drive0,'
                                 f'addr=8,disable-legacy=off')

        src = self.source([file_disk('disk.raw')])
        stats = self.move(src, self.destination([Limited('')]))
        self.assert_mapped(stats, 0.4)


class Churn(PageMapTest):
    """The guest goes on, and its disk changes."""

    def run_phase(self, phase, cmd='', disk=None, other=None, **kw):
        disk = disk or self.image()
        src = self.source([disk], f'every=8 phase={phase} {cmd}')
        dst = self.destination([other or disk])
        src.goes_on(phase)
        stats = self.move(src, dst, phase, **kw)
        return stats

    def test_all_stale(self):
        """Trap 11: no page is what the disk has."""
        disk = self.image()
        src = self.source([disk], 'anon=100')
        stats = self.move(src, self.destination([disk]))
        self.assertEqual(stats['mapped-pages'], 0)
        # None is asked for twice.
        self.assertLessEqual(stats['nacked'], self.pages())

    def test_stale_with_sample(self):
        """The sample knows it without a read."""
        disk = self.image()
        src = self.source([disk], 'anon=50', has_map=',sample=on')
        stats = self.move(src, self.destination([disk]))
        self.assert_mapped(stats, 0.4)
        if self.map_on:
            self.assertEqual(stats['nacked'], 0)
            self.assertGreater(stats['stale'], 0.4 * self.pages())

    def test_half_stale(self):
        disk = self.image()
        src = self.source([disk], 'anon=50')
        stats = self.move(src, self.destination([disk]))
        self.assert_mapped(stats, 0.3)
        if self.map_on:
            self.assertGreater(stats['nacked'], 0)

    def test_writes(self):
        """Trap 16: what was written is at its place, flushed or not."""
        disk = self.image()
        src = self.source([disk], 'phase=write records=300 every=300')
        src.out.wait_seen('^D write 300$', 60)
        stats = self.move(src, self.destination([disk]))
        self.assert_mapped(stats, 0.4)

    def test_writing(self):
        self.run_phase('write', 'think=20000 check=1',
                       params={'downtime_limit': 2000})

    def test_torn_writes(self):
        """Trap 2: what the disk has is neither the old nor the new page."""
        self.run_phase('write', 'torn=1 think=20000',
                       params={'downtime_limit': 2000})

    def test_storing(self):
        self.run_phase('store', 'think=2000 check=1',
                       params={'downtime_limit': 2000})

    def test_mix(self):
        seed = int.from_bytes(os.urandom(3), 'little')
        self.diag(f'seed={seed}')
        self.run_phase('mix', f'seed={seed} think=20000 torn=1 check=1',
                       params={'downtime_limit': 2000})

    def reread(self, src, dst):
        """16 MiB/s of link, and more than that to send in a second"""
        set_caps(src, events=True)
        self.turn_on(src, dst)
        self.start_migration(src, max_bandwidth=16 << 20, downtime_limit=1000)

    def test_reread(self):
        """
        What stock cannot converge on: the guest reads faster than the link
        is, all the time.
        """
        disk = self.image()
        cmd = 'phase=reread every=8 think=20000 check=1'
        src = self.source([disk], cmd)
        dst = self.destination([disk])
        src.goes_on('reread')
        self.reread(src, dst)
        stats = self.complete(src, dst, 'reread')
        self.assert_mapped(stats, 0.4)

    def test_growing_qcow2(self):
        """
        Trap 22: the destination has read the tables of the image, and then
        the guest lets it grow.
        """
        subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                        '-b', self.image().options.split('=')[-1], '-F', 'raw',
                        'top.qcow2'], cwd=self.work.dir, check=True,
                       timeout=scaled(20))
        disk = file_disk('top.qcow2', 'qcow2')
        src = self.source([disk], f'check=1 every=64 records=64')
        dst = self.destination([disk])
        src.phase('write')
        src.goes_on('write', 1)
        self.assert_mapped(self.move(src, dst), 0.2)
        self.assertFalse([e for e in dst.qmp.events
                          if e['event'] == 'BLOCK_IMAGE_CORRUPTED'])
        dst.quit()
        done = subprocess.run([program('QEMU_IMG'), 'check', '-f', 'qcow2',
                               '--output=json', 'top.qcow2'], check=True,
                              cwd=self.work.dir, stdout=subprocess.PIPE,
                              timeout=scaled(20))
        self.assertEqual(json.loads(done.stdout).get('corruptions', 0), 0)


class Others(PageMapTest):
    """Other capabilities, other transports"""

    cmd = 'every=8 phase=mix think=20000 check=1'

    def pair(self, before=None, uri='unix:mig', **caps):
        """Both, with the capabilities; before(src, dst) sets parameters."""
        disk = self.image()
        src = self.source([disk], self.cmd)
        dst = self.destination([disk], uri='defer')
        self.turn_on(src, dst, **caps)
        if before:
            before(src, dst)
        dst.qmp.cmd('migrate-incoming', uri=uri)
        return src, dst

    def check(self, *args, uri='unix:mig', **caps):
        src, dst = self.pair(*args, uri=uri, **caps)
        if uri.startswith('tcp'):
            at = dst.qmp.cmd('query-migrate')['socket-address'][0]
            uri = f"tcp:127.0.0.1:{at['port']}"
        self.start_migration(src, uri, downtime_limit=2000)
        self.assert_mapped(self.complete(src, dst, 'mix'), 0.3)

    def test_tcp(self):
        self.check(uri='tcp:127.0.0.1:0')

    def test_fd(self):
        """Sockets that they were given"""
        disk = self.image()
        ours, theirs = socket.socketpair()
        src = self.source([disk], self.cmd)
        src.qmp.finish_cmd(src.qmp.start_cmd('getfd', {'fdname': 'mig'},
                                             fds=[ours.fileno()]))
        ours.close()
        dst = self.guest('dst', [disk], '', '-S', has_map=False)
        dst.add('-incoming', f'fd:{dst.inherit(theirs)}').start()
        stats = self.move(src, dst, 'mix', uri='fd:mig',
                          params={'downtime_limit': 2000})
        self.assert_mapped(stats, 0.3)

    def test_exec(self):
        """Nobody answers on a pipe: it goes without the map."""
        disk = self.image()
        src = self.source([disk])
        self.turn_on(src)
        self.start_migration(src, 'exec:cat > stream')
        self.ended(src, 'completed')
        self.assert_nothing_mapped(self.stats(src))
        dst = self.destination([disk], uri='defer')
        self.turn_on(dst)
        dst.qmp.cmd('migrate-incoming', uri='exec:cat stream')
        self.arrived(src, dst)

    def test_multifd(self):
        def before(src, dst):
            for q in (src, dst):
                set_params(q, multifd_channels=4)

        self.check(before, multifd=True)

    def test_multifd_zlib(self):
        def before(src, dst):
            for q in (src, dst):
                set_params(q, multifd_compression='zlib')

        self.check(before, multifd=True)

    def test_multifd_legacy_zeroes(self):
        def before(src, dst):
            for q in (src, dst):
                set_params(q, zero_page_detection='legacy')

        self.check(before, multifd=True)

    def test_tls(self):
        self.work.write('keys.psk', 'qemu:' + os.urandom(32).hex() + '\n')

        def before(src, dst):
            for q, end in ((src, 'client'), (dst, 'server')):
                q.qmp.cmd('object-add', qom_type='tls-creds-psk', id='tls0',
                          endpoint=end, dir='.')
                set_params(q, tls_creds='tls0')

        # With TLS the return path has to be asked for.
        self.check(before, return_path=True)

    def test_auto_converge(self):
        self.check(auto_converge=True)

    def test_return_path(self):
        self.check(return_path=True, switchover_ack=True)

    def test_pause_before_switchover(self):
        src, dst = self.pair(pause_before_switchover=True)
        self.start_migration(src, downtime_limit=2000)
        src.qmp.poll('query-migrate',
                     lambda i: i['status'] == 'pre-switchover', scaled(60))
        src.qmp.cmd('migrate-continue', state='pre-switchover')
        self.assert_mapped(self.complete(src, dst, 'mix'), 0.3)

    def test_late_block_activate(self):
        self.check(late_block_activate=True)

    def test_no_object(self):
        """The capability alone: as without it"""
        disk = self.image()
        src = self.source([disk], has_map=False)
        self.assert_nothing_mapped(self.move(src, self.destination([disk])))

    def test_off_at_the_destination(self):
        """It is refused there, and the guest goes on."""
        if not self.map_on:
            self.skipTest('PAGE_MAP=0')
        disk = self.image()
        src = self.source([disk])
        dst = self.destination([disk])
        self.turn_on(src)
        self.start_migration(src)
        self.ended(src, 'failed')
        self.assertNotEqual(dst.wait(20), 0)
        self.assertIn("section or instance 'page-map'", dst.output())
        self.assertEqual(src.qmp.cmd('query-status')['status'], 'running')
        src.verify()


class Postcopy(PageMapTest):
    def test_drained_before(self):
        """Trap of two writers: no page is held when postcopy starts."""
        self.nbd()
        src = self.source([nbd_disk('nbd', 'src')],
                          'every=8 phase=store think=500')
        dst = self.destination([nbd_disk('nbd', 'dst')])
        try:
            self.turn_on(src, dst, postcopy_ram=True)
        except QmpError as e:
            self.skipTest(f'postcopy-ram: {e.desc}')
        if self.map_on:
            self.server.export('dst').hold(after=16)
        self.start_migration(src)
        if self.map_on:
            self.server.export('dst').wait_held()
        src.qmp.cmd('migrate-start-postcopy')
        # The guest runs on, and that at the source, while answers are due.
        src.goes_on('store', 10)
        self.assertNotIn('postcopy', src.qmp.cmd('query-migrate')['status'])
        self.server.export('dst').release()
        self.assert_mapped(self.complete(src, dst, 'store'), 0.01)


class Hops(PageMapTest):
    def test_second_hop(self):
        """Trap 21: what was fetched is known at the destination."""
        disk = self.image()
        src = self.source([disk])
        two = self.destination([disk], has_map=True)
        self.move(src, two)
        three = self.destination([disk], uri='unix:mig3', name='three')
        stats = self.move(two, three, uri='unix:mig3')
        self.assert_mapped(stats, 0.4)


class Refused(PageMapTest):
    """Trap 7, 15: by name"""

    mib = 8

    def test_capabilities(self):
        if not self.map_on:
            self.skipTest('PAGE_MAP=0')
        q = self.guest('q', [self.image()]).start()
        for cap in ('xbzrle', 'background-snapshot', 'x-colo',
                    'x-ignore-shared', 'rdma-pin-all'):
            for order in (('x-page-map', cap), (cap, 'x-page-map')):
                with self.subTest(cap=cap, order=order):
                    try:
                        set_caps(q, **{order[0]: True})
                    except QmpError as e:
                        # Not built in, or not possible on this host
                        self.assertNotEqual(order[0], 'x-page-map')
                        self.diag(f'{cap}: {e.desc}')
                        continue
                    with self.assertRaises(QmpError) as caught:
                        set_caps(q, **{order[1]: True})
                    self.assertIn('x-page-map', caught.exception.desc)
                    self.assertIn(cap, caught.exception.desc)
                    set_caps(q, **{order[0]: False})


if __name__ == '__main__':
    main()
