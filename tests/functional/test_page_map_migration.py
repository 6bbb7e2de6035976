#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Migration by page map: memory is equal bit by bit whatever the destination's
disk answers, and what is on the disk is not in the stream.

    test_page_map_migration.py [--seed N] [PATTERN]
"""

import threading

from pmemha import main
from pmemha.disks import until
from pmemha.migrate import set_caps
from pmemha.pagemap import (CANCELLED, MIB, OTHER, PAGE, WINDOW,
                            PageMapTest)
from pmemha.qmp import QmpError


class Formats(PageMapTest):
    """Every page that was read is fetched; hardly a byte is in the stream."""

    def moves(self, disk, other=None):
        src = self.source(disk)
        pages = self.fill(src)
        stats = self.moved(src, self.destination(other or disk))
        self.assertEqual(stats['mapped-pages'], len(pages))
        self.assertEqual(stats['nacked'], 0)
        self.assertEqual(stats['mapped-bytes'], len(self.content))
        self.assertGreaterEqual(stats['fetched-bytes'], len(self.content))
        self.assertLess(self.ram(src)['transferred'],
                        len(self.content) // 4)
        self.assertGreater(stats['wire-bytes-saved'],
                           len(self.content) * 0.98)

    def test_raw(self):
        self.moves(self.raw())

    def test_nbd(self):
        server = self.nbd()
        self.moves(server.blockdev('src', 'n0'), server.blockdev('dst', 'n0'))
        # Long reads in order, not page by page
        self.assertLess(server.views['dst'].reads, 200)

    def qcow2(self, name='disk.qcow2'):
        return ('-blockdev', 'driver=qcow2,node-name=n0,file.driver=file,'
                f'file.locking=off,file.filename={name}')

    def test_qcow2(self):
        self.raw()
        self.image('convert', '-O', 'qcow2', 'disk.img', 'disk.qcow2')
        self.moves(self.qcow2())

    def test_qcow2_backing(self):
        self.raw()
        self.image('create', '-f', 'qcow2', '-b', 'disk.img', '-F', 'raw',
                   'disk.qcow2')
        self.moves(('-blockdev', 'driver=qcow2,node-name=n0,file.driver=file,'
                    'file.locking=off,file.filename=disk.qcow2,'
                    'backing.driver=raw,backing.file.driver=file,'
                    'backing.read-only=on,backing.file.locking=off,'
                    'backing.file.filename=disk.img'))

    def test_luks(self):
        self.raw()
        secret, options = self.luks()
        self.moves(('-object', secret, '-blockdev',
                    f'node-name=n0,{options}'))

    def test_second_hop(self):
        """The destination knows what it fetched."""
        disk = self.raw()
        src = self.source(disk)
        n = len(self.fill(src))
        dst = self.destination(disk)
        self.moved(src, dst)
        third = self.destination(disk, name='third')
        dst.qmp.cmd('cont')
        stats = self.moved(dst, third, 'unix:third.mig')
        self.assertEqual(stats['mapped-pages'], n)

    def test_iothread(self):
        disk = self.raw()
        thread = ('-object', 'iothread,id=io0')
        src = self.source(disk, *thread, props=',iothread=io0')
        n = len(self.fill(src))
        dst = self.destination(disk, *thread, props=',iothread=io0')
        self.assertEqual(self.moved(src, dst)['mapped-pages'], n)


class Metadata(Formats):
    """qcow2's metadata that is garbage at the destination"""

    # Not those of the base class
    test_raw = test_nbd = test_qcow2 = test_qcow2_backing = None
    test_luks = test_second_hop = test_iothread = None

    def test_stale_table(self):
        self.raw()
        # Four tables; the first one is read when the device is made.
        for name in ('disk.qcow2', 'other.qcow2'):
            self.image('convert', '-O', 'qcow2', '-o', 'cluster_size=4096',
                       'disk.img', name)
        src = self.source(self.qcow2())
        self.fill(src)
        dst = self.destination(self.qcow2('other.qcow2'))
        with open(self.work.path('other.qcow2'), 'r+b') as f:
            head = f.read(72)
            f.seek(int.from_bytes(head[40:48], 'big'))
            l1 = f.read(32)
            # Offsets that no cluster has
            for n in range(8, 32, 8):
                f.seek(int.from_bytes(l1[n:n + 8], 'big') & 0xfffffffffffe00)
                f.write((1 << 63 | 0x1200).to_bytes(8, 'big') * 512)
        stats = self.moved(src, dst)
        self.assertLessEqual(stats['mapped-pages'], 512)
        self.assertNotIn('corrupt', dst.output())
        self.assertFalse([
            e for e in dst.qmp.events
            if e['event'] == 'BLOCK_IMAGE_CORRUPTED'])
        with open(self.work.path('other.qcow2'), 'rb') as f:
            self.assertEqual(f.read(80)[79] & 2, 0)     # not marked


class Stale(PageMapTest):
    """What the map says is not, or no more, so."""

    def setUp(self):
        super().setUp()
        self.server = self.nbd()
        self.dst_view = self.server.views['dst']

    def pair(self, **kw):
        src = self.source(self.server.blockdev('src', 'n0'), **kw)
        return src, lambda **kw: self.destination(
            self.server.blockdev('dst', 'n0'), **kw)

    def test_stored_to(self):
        """Trap 1, from the guest's side: the page changed, not the disk"""
        src, dst = self.pair()
        pages = self.fill(src)
        changed = self.rng.sample(pages, 300)
        for address in changed:
            self.store(src, address, b'\x5a' * 8)
        stats = self.moved(src, dst())
        self.assertEqual(stats['nacked'], len(changed))
        self.assertEqual(stats['mapped-pages'], len(pages) - len(changed))

    def test_sample(self):
        """The digest finds what changed before anything is fetched."""
        src, dst = self.pair(sample=True)
        pages = self.fill(src)
        changed = self.rng.sample(pages, 300)
        for address in changed:
            self.store(src, address)
        stats = self.moved(src, dst())
        self.assertEqual(stats['nacked'], 0)
        self.assertEqual(stats['stale'], len(changed))
        self.assertEqual(stats['mapped-pages'], len(pages) - len(changed))

    def test_disk_changed(self):
        """Trap 1: another one wrote to the disk"""
        src, dst = self.pair()
        pages = self.fill(src)
        # Few enough for the probes to find the same disk
        changed = self.rng.sample(range(len(pages)), 100)
        self.server.follows = False
        for n in changed:
            self.dst_view.own[n * PAGE:n * PAGE + 8] = self.rng.randbytes(8)
        stats = self.moved(src, dst())
        self.assertEqual(stats['nacked'], len(changed))

    def test_everything_changed(self):
        """Nothing is as it was, and the probes could not tell"""
        src, dst = self.pair()
        self.fill(src)
        dst = dst()
        self.dst_view.hold()
        self.begin(src)
        self.dst_view.wait_held()
        # The probes are answered with the content, the rest with another one.
        reads = []
        self.server.follows = False
        self.dst_view.own[:] = self.rng.randbytes(len(self.content))

        def fails(offset, size):
            reads.append(offset)
            return False
        self.dst_view.fails = fails
        self.dst_view.release()
        stats = self.end(src)
        self.same(src, dst)
        self.assertEqual(stats['mapped-pages'], 0)
        self.assertTrue(reads)

    def test_not_flushed(self):
        """
        Traps 3 and 4: what the guest wrote is in the source's cache; the
        flush at the beginning takes it to where the destination sees it
        """
        src, dst = self.pair()
        self.assertTrue(src.blk.flushes)
        addresses = self.rng.sample(range(WINDOW, OTHER, PAGE), 256)
        for address in addresses:
            self.store(src, address)
        for n in range(0, 256, 32):
            src.blk.transfer(True, n * PAGE,
                             [(a, PAGE) for a in addresses[n:n + 32]])
        self.assertNotEqual(self.server.data, self.dst_view.own)
        stats = self.moved(src, dst())
        self.assertGreater(self.server.flushes, 0)
        self.assertEqual(stats['mapped-pages'], 256)
        self.assertEqual(stats['nacked'], 0)

    def test_never_coherent(self):
        """The same, and no flush helps"""
        src, dst = self.pair()
        self.fill(src, pages=1536)
        self.server.follows = False
        # Few enough for the probes to find the same disk
        addresses = self.rng.sample(range(OTHER, OTHER + 8 * MIB, PAGE), 64)
        for address in addresses:
            self.store(src, address)
        for n in range(0, 64, 32):
            src.blk.transfer(True, (1536 + n) * PAGE,
                             [(a, PAGE) for a in addresses[n:n + 32]])
        stats = self.moved(src, dst())
        self.assertEqual(stats['mapped-pages'], 1536)
        self.assertEqual(stats['nacked'], 64)

    def test_read_errors(self):
        src, dst = self.pair()
        pages = self.fill(src)
        bad = 2 * MIB, 3 * MIB
        # Not the probes: too many that fail make it another disk.
        self.dst_view.fails = lambda offset, size: size > PAGE and \
            offset < bad[1] and offset + size > bad[0]
        stats = self.moved(src, dst())
        self.assertGreaterEqual(stats['nacked'], MIB // PAGE)
        self.assertEqual(stats['nacked'] + stats['mapped-pages'], len(pages))

    def test_short_reads(self):
        """The connection ends in the middle of a reply: no read succeeds"""
        src, dst = self.pair()
        pages = self.fill(src)
        self.dst_view.breaks = lambda offset, size: size > 65536
        stats = self.moved(src, dst())
        self.assertLess(stats['mapped-pages'], len(pages))


class Trial(PageMapTest):
    """The source finds out by itself whether memory has what its disk has."""

    def moved_with(self, changed):
        """`changed` pages were stored to; the disks are looked at first."""
        server = self.nbd()
        src = self.source(server.blockdev('src', 'n0'), '-trace',
                          'page_map_trial')
        pages = self.fill(src)
        for address in pages[:changed]:
            self.store(src, address, b'\x5a' * 8)
        dst = self.destination(server.blockdev('dst', 'n0'))
        server.views['dst'].hold()
        self.begin(src)
        server.views['dst'].wait_held()
        until(lambda: 'page_map_trial' in src.output(), 'the trial')
        server.views['dst'].release()
        stats = self.end(src)
        self.same(src, dst)
        return len(pages), stats

    def test_nothing_is_there(self):
        pages, stats = self.moved_with(len(self.content) // PAGE)
        self.assertGreater(pages, 1000)
        self.assertEqual(stats['mapped-pages'] + stats['nacked'], 0)

    def test_it_is_waited_for(self):
        """The destination knows the disk, and the source's one is slow."""
        self.raw()
        disk = ('-blockdev', 'driver=raw,node-name=n0,file.driver=blkdebug,'
                'file.image.driver=file,file.image.locking=off,'
                'file.image.filename=disk.img')
        src = self.source(disk, '-trace', 'page_map_device')
        for address in self.fill(src):
            self.store(src, address, b'\x5a' * 8)
        dst = self.destination(self.raw())
        # The first read is the trial's.
        inner = '/machine/peripheral/disk0/virtio-backend'
        src.hmp(f'qemu-io -d {inner} "break read_aio first"')
        self.begin(src)
        until(lambda: 'page_map_device' in src.output(), 'the destination')
        src.hmp(f'qemu-io -d {inner} "resume first"')
        stats = self.end(src)
        self.same(src, dst)
        self.assertEqual(stats['mapped-pages'] + stats['nacked'], 0)

    def test_a_third_is_there(self):
        changed = len(self.content) // PAGE * 2 // 3
        pages, stats = self.moved_with(changed)
        self.assertEqual(stats['nacked'], changed)
        self.assertEqual(stats['mapped-pages'], pages - changed)


class Disks(PageMapTest):
    """Whether the destination has the same disk is found out."""

    def setUp(self):
        super().setUp()
        self.src = self.source(self.raw())
        self.fill(self.src)

    def nothing(self, *disk, verdict, **kw):
        dst = self.destination(*disk, '-trace', 'page_map_device', **kw)
        stats = self.moved(self.src, dst)
        self.assertEqual(stats['mapped-pages'], 0)
        self.assertEqual(stats['nacked'], 0)
        self.assertRegex(dst.output(), rf'page_map_device .* verdict {verdict}')

    def test_another(self):
        self.work.write('wrong.img', self.rng.randbytes(len(self.content)))
        self.nothing(self.raw('wrong.img'), verdict=3)

    def test_empty(self):
        self.work.sparse('wrong.img', len(self.content))
        self.nothing(self.raw('wrong.img'), verdict=3)

    def test_longer(self):
        self.work.write('wrong.img', self.content + bytes(512))
        self.nothing(self.raw('wrong.img'), verdict=2)

    def test_unreadable(self):
        server = self.nbd()
        server.views['dst'].fails = lambda offset, size: offset >= 65536
        self.nothing(server.blockdev('dst', 'n0'), verdict=4)

    def test_two(self):
        """Of two disks one is shared: the other one's pages are content."""
        self.src.kill()
        self.work.write('wrong.img', self.rng.randbytes(len(self.content)))

        def two(second):
            return (*self.raw(), '-blockdev', 'driver=file,node-name=n1,'
                    f'locking=off,filename={second}', '-device',
                    'virtio-blk-pci,drive=n1,id=disk1,disable-legacy=on,'
                    'share-rw=on,addr=6')
        from pmemha.disks import VirtioBlkDisk
        src = self.source(two('disk.img'))
        n = len(self.fill(src, pages=512))
        src.blk = VirtioBlkDisk(src.mem, 6, ring=0x200000).start()
        self.fill(src, pages=512, offset=1024 * PAGE)
        stats = self.moved(src, self.destination(two('wrong.img')))
        # Drawn pages may be the same.
        self.assertLessEqual(stats['mapped-pages'], n)
        self.assertGreater(stats['mapped-pages'], n * 3 // 4)


class Phases(PageMapTest):
    """Reads are held: what happens meanwhile is in the test's hand."""

    def setUp(self):
        super().setUp()
        self.server = self.nbd()
        self.view = self.server.views['dst']
        self.src = self.source(self.server.blockdev('src', 'n0'))
        self.pages = self.fill(self.src)
        self.dst = self.new_destination()

    def new_destination(self, name='dst', **kw):
        return self.destination(self.server.blockdev('dst', 'n0'), name=name,
                                **kw)

    def in_flight(self, downtime_limit=300):
        """Until the device is known, and a read for pages waits"""
        # Probes are read one by one.
        self.view.hold(lambda offset, size: size > PAGE)
        self.begin(self.src)
        self.view.wait_held()
        self.src.qmp.cmd('migrate-set-parameters',
                         downtime_limit=downtime_limit)

    def test_the_guest_is_not_stopped(self):
        """M6: nothing else is left to send, and the source waits."""
        # All that is held is less than what the downtime allows.
        self.in_flight(downtime_limit=2000000)
        # It has looked at that some times: each adds to the stream.
        sent = self.src.qmp.cmd('query-migrate')['page-map']['wire-bytes']
        info = self.src.qmp.poll('query-migrate', lambda i: (
            i['ram']['remaining'] <
            (64 + i['page-map']['held-pages']) * PAGE and
            i['page-map']['wire-bytes'] > sent + 60), 30)
        # A monitor sees that there is more to come.
        self.assertGreater(info['page-map']['held-pages'], 0)
        self.assertGreaterEqual(info['ram']['remaining'],
                                info['page-map']['held-pages'] * PAGE)
        self.assertEqual(self.src.qmp.cmd('query-migrate')['status'],
                         'active')
        self.assertEqual(self.src.qmp.cmd('query-status')['status'],
                         'running')
        self.view.release()
        self.end(self.src)
        self.same(self.src, self.dst)

    def test_stores_to_pages_in_flight(self):
        """M5: the verdict comes, and the page is sent again."""
        self.in_flight(downtime_limit=2000000)
        for address in self.rng.sample(self.pages, 500):
            self.store(self.src, address)
        self.view.release()
        self.end(self.src)
        self.same(self.src, self.dst)

    def cancelled(self):
        before = self.digest(self.src)
        self.src.qmp.cmd('migrate_cancel')
        self.end(self.src, CANCELLED)
        self.goes_on(self.src, before)
        self.view.release()
        self.dst.kill()
        stats = self.moved(self.src, self.new_destination('again'),
                           'unix:again.mig')
        self.assertEqual(stats['mapped-pages'], len(self.pages))

    def test_cancel_in_flight(self):
        self.in_flight()
        self.cancelled()

    def test_cancel_before_the_verdict(self):
        self.view.hold()
        self.begin(self.src)
        self.view.wait_held()
        self.cancelled()

    def test_destination_killed_in_flight(self):
        self.in_flight()
        before = self.digest(self.src)
        self.dst.kill()
        self.end(self.src, 'failed')
        self.goes_on(self.src, before)
        self.view.release()
        stats = self.moved(self.src, self.new_destination('again'),
                           'unix:again.mig')
        self.assertEqual(stats['mapped-pages'], len(self.pages))

    def test_destination_killed_before_the_verdict(self):
        self.view.hold()
        self.begin(self.src)
        self.view.wait_held()
        before = self.digest(self.src)
        self.dst.kill()
        self.end(self.src, 'failed')
        self.goes_on(self.src, before)

    def test_source_killed(self):
        self.in_flight()
        self.src.kill()
        self.view.release()
        self.assertEqual(self.dst.wait(30), 1)

    def test_destination_goes_on_after_a_failure(self):
        """exit-on-error=off: the disks are released, and it can be asked."""
        self.dst.kill()
        dst = self.destination(self.server.blockdev('dst', 'n0'),
                               name='defer', uri='defer')
        dst.qmp.cmd('migrate-incoming', uri='unix:defer.mig',
                    **{'exit-on-error': False})
        self.view.hold()
        self.begin(self.src, 'unix:defer.mig')
        self.view.wait_held()
        self.src.qmp.cmd('migrate_cancel')
        self.end(self.src, CANCELLED)
        self.view.release()
        dst.qmp.poll('query-migrate', lambda i: i.get('status') == 'failed',
                     30)
        self.assertEqual(dst.quit(), 0)

    def test_source_disk_hangs(self):
        """A flush or a read of it is not waited for, at no phase."""
        self.server.views['src'].hold()
        self.begin(self.src)
        self.server.views['src'].wait_held()
        self.src.qmp.cmd('migrate_cancel')
        self.end(self.src, CANCELLED)
        self.assertEqual(self.src.qmp.cmd('query-status')['status'],
                         'running')
        self.server.views['src'].release()
        self.dst.kill()
        stats = self.moved(self.src, self.new_destination('again'),
                           'unix:again.mig')
        self.assertEqual(stats['mapped-pages'], len(self.pages))

    def test_probes_hang(self):
        """The content goes by the link; the guest stops after the answer."""
        self.view.hold()
        self.begin(self.src)
        self.view.wait_held()
        self.src.qmp.poll('query-migrate', lambda i:
                          i['ram']['transferred'] > len(self.content), 30)
        self.assertEqual(self.src.qmp.cmd('query-status')['status'],
                         'running')
        self.view.release()
        stats = self.end(self.src)
        self.same(self.src, self.dst)
        self.assertEqual(stats['mapped-pages'], 0)

    def test_refused_writes_are_forgotten(self):
        """A page that was refused once is not asked for in the next one."""
        self.server.follows = False
        for address in self.pages[:64]:
            self.store(self.src, address)
        for n in range(0, 64, 32):
            self.src.blk.transfer(True, MIB + n * PAGE, [
                (a, PAGE) for a in self.pages[n:n + 32]])
        self.begin(self.src)
        stats = self.end(self.src)
        self.assertGreater(stats['nacked'], 0)
        self.dst.kill()
        self.src.qmp.cmd('cont')
        stats = self.moved(self.src, self.new_destination('again'),
                           'unix:again.mig')
        self.assertEqual(stats['nacked'], 0)

    def test_postcopy(self):
        """It starts when no page is held."""
        for q in (self.src, self.dst):
            q.kill()
        self.src = self.source(self.server.blockdev('src', 'n0'),
                               caps={'postcopy_ram': True})
        self.fill(self.src)
        try:
            self.dst = self.new_destination('post',
                                            caps={'postcopy_ram': True})
        except QmpError as e:
            self.skipTest(f'postcopy: {e}')
        self.view.hold()
        self.begin(self.src, 'unix:post.mig')
        self.view.wait_held()
        self.src.qmp.cmd('migrate-start-postcopy')
        self.view.release()
        self.end(self.src)
        self.same(self.src, self.dst)

    def test_pause_before_switchover(self):
        for q in (self.src, self.dst):
            set_caps(q, pause_before_switchover=True)
        self.begin(self.src)
        self.src.qmp.poll('query-migrate',
                          lambda i: i['status'] == 'pre-switchover', 30)
        self.src.qmp.cmd('migrate-continue', state='pre-switchover')
        stats = self.end(self.src)
        self.same(self.src, self.dst)
        self.assertEqual(stats['mapped-pages'], len(self.pages))

    def test_little_is_left(self):
        """What the guest is stopped with is not all that the limit allows."""
        self.store(self.src, OTHER, self.rng.randbytes(12 * MIB))
        for q in (self.src, self.dst):
            set_caps(q, pause_before_switchover=True)
        # 10 MB may be left.
        self.begin(self.src, max_bandwidth=10000000, downtime_limit=1000)
        info = self.src.qmp.poll('query-migrate', lambda i:
                                 i['status'] == 'pre-switchover', 60)
        self.assertLess(info['ram']['remaining'], 2500000)
        self.src.qmp.cmd('migrate-continue', state='pre-switchover')
        self.end(self.src)
        self.same(self.src, self.dst)

    def test_paused_guest(self):
        self.src.qmp.cmd('stop')
        stats = self.moved(self.src, self.dst)
        self.assertEqual(stats['mapped-pages'], len(self.pages))

    def test_churn(self):
        """
        The guest reads on and on, more than the link carries: it ends, since
        reads cost the link nothing
        """
        stop = threading.Event()
        errors = []

        def reread():
            rng = self.rng
            while not stop.is_set():
                n = rng.randrange(0, len(self.pages) - 32, 32)
                try:
                    self.src.blk.transfer(False, n * PAGE, [
                        (a, PAGE) for a in self.pages[n:n + 32]])
                except AssertionError as e:
                    if not stop.is_set():
                        errors.append(e)
                    return
        thread = threading.Thread(target=reread)
        thread.start()
        try:
            self.begin(self.src, max_bandwidth=8 << 20, downtime_limit=20)
            self.src.qmp.poll('query-migrate', lambda i: i['status'] in
                              ('device', 'completed', 'failed'), 50)
        finally:
            stop.set()
            thread.join()
        self.end(self.src)
        # The thread may have written a request after the guest was stopped.
        self.same(self.src, self.dst, rings=False)


if __name__ == '__main__':
    main()
