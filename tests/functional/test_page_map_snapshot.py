#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Snapshots with a page map: what the disk has is not in them, memory is equal bit
by bit after the restore, and a disk that has changed is named.

    test_page_map_snapshot.py [--seed N] [PATTERN]
"""

import os
import re

from pmemha import main
from pmemha.disks import VirtioBlkDisk
from pmemha.migrate import set_caps
from pmemha.pagemap import MIB, OTHER, PAGE, RINGS, SLOT
from pmemha.snapshots import REMEDY, SnapshotTest


class Internal(SnapshotTest):
    """savevm, loadvm, and the jobs"""

    def job(self, q, command, **args):
        q.qmp.cmd(command, **{'job-id': 'j', **args})
        q.qmp.poll('query-jobs', lambda jobs: any(
            j['id'] == 'j' and j['status'] == 'concluded' for j in jobs), 30)
        job, = [j for j in q.qmp.cmd('query-jobs') if j['id'] == 'j']
        q.qmp.cmd('job-dismiss', id='j')
        return job.get('error')

    def prepared(self, *args, caps=True, **kw):
        q = self.source(self.qcow2(), *args, **kw)
        if not caps:
            set_caps(q, x_page_map=False)
        pages = self.fill(q)
        self.anon(q)
        q.qmp.cmd('stop')
        return q, pages

    def test_smaller(self):
        """Beside one without, of the same memory"""
        grown = {}
        for caps in (False, True):
            q, pages = self.prepared(caps=caps)
            q.qmp.cmd('human-monitor-command',
                      **{'command-line': 'qemu-io n0 flush'})
            before = self.allocated('disk.qcow2')
            self.assertEqual(q.hmp('savevm a'), '')
            grown[caps] = self.allocated('disk.qcow2') - before
            stats = self.info(q).get('page-map')
            if caps:
                self.assertEqual(stats['mapped-pages'], len(pages))
                self.assertEqual(stats['nacked'], 0)
                self.assertGreater(stats['wire-bytes-saved'],
                                   len(self.content) * 0.98)
            else:
                self.assertIsNone(stats)
            q.kill()
        self.diag(f'bytes allocated by the snapshot: {grown[False]} without,'
                  f' {grown[True]} with the page map')
        self.assertLess(grown[True], grown[False] - len(self.content) * 0.95)

    def test_goes_back(self):
        """Memory and disk change in between."""
        q, pages = self.prepared()
        want = self.digest(q)
        self.assertEqual(q.hmp('savevm a'), '')
        q.qmp.cmd('cont')
        for page in pages[::7]:
            self.store(q, page)
        for first in range(0, 512, 32):
            q.blk.transfer(True, first * PAGE,
                           [(OTHER + n * PAGE, PAGE) for n in range(32)])
        self.assertNotEqual(self.digest(q), want)
        self.assertEqual(q.hmp('loadvm a'), '')
        self.assertEqual(self.digest(q), want)
        # What was restored is known: the next one profits, too.
        q.qmp.cmd('stop')
        self.assertEqual(q.hmp('savevm b'), '')
        self.assertEqual(self.info(q)['page-map']['mapped-pages'], len(pages))

    def test_other_process(self):
        q, _ = self.prepared()
        want = self.digest(q)
        self.assertEqual(q.hmp('savevm a'), '')
        q.quit()
        for object_too in (True, False):
            r = self.machine('again', self.qcow2(make=False), '-S',
                             page_map=object_too)
            self.assertEqual(r.hmp('loadvm a'), '')
            self.assertEqual(self.digest(r), want)
            r.kill()

    def test_without_the_capability(self):
        q, _ = self.prepared()
        self.assertEqual(q.hmp('savevm a'), '')
        set_caps(q, x_page_map=False)
        self.assertIn("'x-page-map', which is off here: set it",
                      q.hmp('loadvm a'))
        set_caps(q, x_page_map=True)
        self.assertEqual(q.hmp('loadvm a'), '')

    def test_recording(self):
        """Each read of a disk would have to be recorded."""
        q = self.machine('src', self.qcow2(), '-S', '-icount',
                         'shift=7,rr=record,rrfile=rr.bin', accel='tcg')
        self.assertEqual(q.hmp('savevm a'), '')
        self.assertIsNone(self.info(q).get('page-map'))

    def test_iothread(self):
        q, pages = self.prepared('-object', 'iothread,id=io0',
                                 props=',iothread=io0')
        want = self.digest(q)
        self.assertEqual(q.hmp('savevm a'), '')
        self.assertEqual(self.info(q)['page-map']['mapped-pages'], len(pages))
        self.store(q, pages[0])
        self.assertEqual(q.hmp('loadvm a'), '')
        self.assertEqual(self.digest(q), want)

    def test_stale_entries(self):
        """Pages that were stored to, and blocks that were written since"""
        for sample in (False, True):
            q, pages = self.prepared(sample=sample)
            for page in pages[::3]:
                self.store(q, page)
            q.hmp('qemu-io n0 "write -P 7 0 1M"')
            want = self.digest(q)
            self.assertEqual(q.hmp('savevm a'), '')
            stats = self.info(q)['page-map']
            self.assertLess(stats['mapped-pages'], len(pages) * 2 // 3)
            self.assertGreater(stats['nacked'] + stats['stale'],
                               len(pages) // 3)
            self.store(q, pages[1])
            self.assertEqual(q.hmp('loadvm a'), '')
            self.assertEqual(self.digest(q), want)
            q.kill()

    def test_disk_that_is_left_out(self):
        """The list of snapshot-save does not have the guest's disk."""
        self.image('create', '-f', 'qcow2', 'state.qcow2', '16M')
        q, pages = self.prepared(*self.qcow2('state.qcow2', 'n1', make=False),
                                 '-device',
                                 'virtio-blk-pci,drive=n1,id=disk1')
        want = self.digest(q)
        self.assertIsNone(self.job(q, 'snapshot-save', tag='a', vmstate='n1',
                                   devices=['n1']))
        self.assertEqual(self.info(q)['page-map']['mapped-pages'], 0)
        q.hmp('qemu-io n0 "write -P 7 0 8M"')
        self.store(q, pages[0])
        self.assertIsNone(self.job(q, 'snapshot-load', tag='a', vmstate='n1',
                                   devices=['n1']))
        self.assertEqual(self.digest(q), want)
        # And with it: more than the state's disk.
        self.store(q, pages[0])
        want = self.digest(q)
        self.assertIsNone(self.job(q, 'snapshot-save', tag='b', vmstate='n1',
                                   devices=['n0', 'n1']))
        self.assertIsNone(self.job(q, 'snapshot-load', tag='b', vmstate='n1',
                                   devices=['n0', 'n1']))
        self.assertEqual(self.digest(q), want)

    def test_read_only_disk(self):
        """It is not in the snapshot, so nothing of it may be left out."""
        self.image('create', '-f', 'qcow2', 'state.qcow2', '16M')
        q = self.machine(
            'src', self.qcow2(extra=',read-only=on'),
            *self.qcow2('state.qcow2', 'n1', make=False),
            '-device', 'virtio-blk-pci,drive=n1,id=disk1')
        q.blk = VirtioBlkDisk(q.mem, SLOT, ring=RINGS).start()
        self.fill(q)
        self.assertEqual(q.hmp('savevm a'), '')
        self.assertEqual(self.info(q)['page-map']['mapped-pages'], 0)

    def test_disk_changed_behind_it(self):
        """The snapshot's cluster is overwritten in the image's file."""
        q, pages = self.prepared()
        self.assertEqual(q.hmp('savevm a'), '')
        q.quit()
        page = 777
        with open(self.work.path('disk.qcow2'), 'r+b') as f:
            data = f.read()
            at = data.index(self.content[page * PAGE:(page + 1) * PAGE])
            f.seek(at + 100)
            f.write(b'other')
        r = self.machine('again', self.qcow2(make=False), '-S')
        said = r.hmp('loadvm a')
        self.assertIn(f"page-map: disk 'disk0' has other content at offset"
                      f" {page * PAGE}, where the snapshot has page"
                      f" {pages[page] // PAGE} of RAM block 'pc.ram': {REMEDY}",
                      said)
        self.assertIn('Error', said)
        self.assertEqual(r.qmp.cmd('query-status')['running'], False)


class File(SnapshotTest):
    """Migration to a file, with and without mapped-ram"""

    disk = 16

    def test_ways(self):
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                src, pages = self.stopped(self.raw(), caps)
                stats = self.save(src)
                self.assertEqual(stats['mapped-pages'], len(pages))
                self.assertEqual(stats['nacked'], 0)
                size = self.allocated('guest.file')
                self.diag(f'{caps}: {size} bytes')
                self.assertLess(size, len(self.content) // 4)
                dst = self.restored(self.raw(), caps)
                self.same(src, dst)
                # It knows what it fetched.
                dst.qmp.cmd('stop')
                self.remove()
                self.assertEqual(self.save(dst)['mapped-pages'], len(pages))
                for q in (src, dst):
                    q.kill()
                self.remove()

    def test_second_hop_goes_on(self):
        """Restored with more than one disk's worth, in another process"""
        src, pages = self.stopped(self.qcow2(), {'mapped_ram': True})
        self.save(src)
        dst = self.restored(self.qcow2(make=False), {'mapped_ram': True})
        self.same(src, dst)
        src.kill()
        dst.qmp.cmd('cont')
        dst.blk = VirtioBlkDisk(dst.mem, SLOT, ring=RINGS).start()
        dst.blk.transfer(False, 0, [(OTHER, PAGE)])
        self.assertEqual(dst.mem.read(OTHER, PAGE), self.content[:PAGE])
        self.assertEqual(len(pages), len(self.content) // PAGE)

    def test_guest_that_runs(self):
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                src = self.source(self.raw(), caps=caps)
                self.fill(src)
                want = self.digest(src)
                self.begin(src, 'file:guest.file')
                self.end(src, 'failed')
                self.assertIn("needs a stopped guest for a migration to a"
                              " file, as its disks change while it runs:"
                              " 'stop' it first, or turn the capability off",
                              self.info(src)['error-desc'])
                self.goes_on(src, want)
                src.kill()

    def test_without_the_object(self):
        """A file as stock QEMU writes it"""
        src = self.source(self.raw(), page_map=False)
        self.fill(src)
        self.begin(src, 'file:guest.file')
        self.assertIsNone(self.end(src))
        dst = self.restored(self.raw())
        set_caps(dst, x_page_map=False)
        self.same(src, dst)

    def test_old_reader(self):
        """Without the capability the file is refused, by its section."""
        src, _ = self.stopped(self.raw(), {'mapped_ram': True})
        self.save(src)
        dst = self.destination(self.raw(), uri='defer',
                               caps={'mapped_ram': True})
        set_caps(dst, x_page_map=False)
        dst.qmp.cmd('migrate-incoming', uri='file:guest.file')
        self.assertEqual(dst.wait(30), 1)
        self.assertIn("'x-page-map', which is off here", dst.output())

    def test_version(self):
        """2 with omitted pages only; and 2 alone is refused."""
        found = {}
        for page_map in (True, False):
            src = self.source(self.raw(), page_map=page_map,
                              caps={'mapped_ram': True})
            self.fill(src)
            src.qmp.cmd('stop')
            self.save(src)
            src.kill()
            with open(self.work.path('guest.file'), 'r+b') as f:
                data = f.read(1 << 16)
                at = data.index(b'\x06pc.ram') + 7 + 8
                found[page_map] = int.from_bytes(data[at:at + 4], 'big')
                if not page_map:
                    f.seek(at)
                    f.write((2).to_bytes(4, 'big'))
            if page_map:
                self.remove()
        self.assertEqual(found, {True: 2, False: 1})
        dst = self.restored(self.raw(), {'mapped_ram': True})
        self.assertEqual(dst.wait(30), 1)
        self.assertIn('expected <= 1, got 2', dst.output())

    def refuses(self, disk, said, caps=None):
        dst = self.restored(disk, caps)
        self.assertEqual(dst.wait(30), 1)
        self.assertRegex(dst.output(), said)
        self.assertIn(REMEDY, dst.output())

    def test_disk_changed(self):
        """One block, so that no probe need tell"""
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                src, pages = self.stopped(self.raw(), caps)
                self.save(src)
                src.kill()
                page = self.rng.randrange(len(pages))
                with open(self.work.path('disk.img'), 'r+b') as f:
                    f.seek(page * PAGE + 1234)
                    f.write(b'other')
                self.refuses(self.raw(),
                             f"page-map: disk 'disk0' has other content at"
                             f" offset {page * PAGE}, where the snapshot has"
                             f" page {pages[page] // PAGE} of RAM block"
                             f" 'pc.ram'", caps)
                for name in ('disk.img', 'guest.file'):
                    os.unlink(self.work.path(name))

    def test_another_disk(self):
        src, _ = self.stopped(self.raw())
        self.save(src)
        src.kill()
        self.work.write('other.img', self.rng.randbytes(len(self.content)))
        self.work.write('long.img', self.content + bytes(MIB))
        for name, said in (('other.img', 'the disk has other content'),
                           ('long.img', 'the disk has another length')):
            self.refuses(self.raw(name), f"page-map: device 'disk0': {said}")

    def test_absent_disk(self):
        src, _ = self.stopped(self.raw())
        self.save(src)
        src.kill()
        dst = self.qemu('none', machine='pc', accel='qtest', memory='64M')
        dst.add('-object', 'page-map,id=map0', *self.raw(), '-device',
                f'virtio-blk-pci,drive=n0,id=disk9,disable-legacy=on,'
                f'addr={SLOT:#x}', '-S', '-incoming', 'defer')
        dst.start()
        set_caps(dst, x_page_map=True)
        dst.qmp.cmd('migrate-incoming', uri='file:guest.file')
        self.assertEqual(dst.wait(30), 1)
        self.assertIn("page-map: device 'disk0': there is no such device, or it"
                      " has no disk", dst.output())

    def test_disk_that_cannot_be_read(self):
        server = self.nbd()
        src, pages = self.stopped(server.blockdev('src', 'n0'))
        self.save(src)
        src.kill()
        view = server.views['dst']
        view.fails = lambda offset, size: size > PAGE and offset >= 4 * MIB
        self.refuses(server.blockdev('dst', 'n0'),
                     r"page-map: disk 'disk0' can not be read at offset \d+,"
                     r" where the snapshot has page \d+")
        view.fails = lambda offset, size: True
        self.refuses(server.blockdev('dst', 'n0'),
                     "page-map: device 'disk0': the disk can not be read")
        view.fails = lambda offset, size: False
        dst = self.restored(server.blockdev('dst', 'n0'), name='well')
        self.arrived(dst)
        self.assertEqual(len(pages), len(self.content) // PAGE)

    def test_reads_that_fail_while_it_is_taken(self):
        """Pages that can not be compared are in the file."""
        server = self.nbd()
        src, pages = self.stopped(server.blockdev('src', 'n0'))
        server.views['src'].fails = lambda offset, size: offset < 4 * MIB
        stats = self.save(src)
        failed = 4 * MIB // PAGE
        self.assertEqual(stats['nacked'], failed)
        self.assertEqual(stats['mapped-pages'], len(pages) - failed)
        dst = self.restored(server.blockdev('dst', 'n0'))
        self.same(src, dst)

    def test_temporary_disk(self):
        """snapshot=on: the file outlives what was written to it."""
        self.raw()
        src = self.qemu('src', machine='pc', accel='qtest', memory='64M')
        src.mem = src.qtest()
        src.add('-object', 'page-map,id=map0', '-drive',
                'if=none,id=d0,format=raw,snapshot=on,file=disk.img',
                '-device', f'virtio-blk-pci,drive=d0,id=disk0,'
                f'disable-legacy=on,addr={SLOT:#x}')
        src.start()
        set_caps(src, x_page_map=True)
        src.blk = VirtioBlkDisk(src.mem, SLOT, ring=RINGS).start()
        self.fill(src)
        src.qmp.cmd('stop')
        self.assertEqual(self.save(src)['mapped-pages'], 0)

    def test_copy_on_read(self):
        """To compare, or to place, would write to it."""
        self.raw()
        disk = ('-blockdev', 'driver=copy-on-read,node-name=n0,file.driver='
                'file,file.locking=off,file.filename=disk.img')
        src, _ = self.stopped(disk)
        self.assertEqual(self.save(src)['mapped-pages'], 0)
        src.kill()
        self.remove()
        src, pages = self.stopped(self.raw())
        self.assertEqual(self.save(src)['mapped-pages'], len(pages))
        src.kill()
        self.refuses(disk, "page-map: device 'disk0': the disk is not read, as"
                           " copy-on-read would write to it")

    def test_removable_disk(self):
        self.raw()
        src = self.qemu('src', machine='pc', accel='qtest', memory='64M')
        src.add('-object', 'page-map,id=map0', *self.raw(), '-device',
                'floppy,drive=n0,id=disk0', '-device',
                'virtio-blk-pci,drive=n1,id=disk1', '-blockdev',
                'driver=null-co,node-name=n1,read-zeroes=on')
        src.start()
        set_caps(src, x_page_map=True)
        src.qmp.cmd('stop')
        self.assertEqual(self.save(src)['mapped-pages'], 0)

    def test_cancel(self):
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                server, src, _ = self.held(caps)
                want = self.digest(src)
                src.qmp.cmd('migrate_cancel')
                server.views['src'].release()
                self.end(src, 'cancelled')
                src.qmp.cmd('cont')
                self.goes_on(src, want)
                src.qmp.cmd('stop')
                self.assertGreater(self.save(src)['mapped-pages'], 0)
                src.kill()
                server.close()
                os.unlink(self.work.path(server.path))

    def test_resumed(self):
        """Its disks change with it, so the file would be of no use."""
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                server, src, pages = self.held(caps)
                want = self.digest(src)
                # QEMU 10.2 waits here for reads that are under way.
                cont = src.qmp.start_cmd('cont')
                src.qmp.wait_event('RESUME', 20)
                server.views['src'].release()
                src.qmp.finish_cmd(cont)
                self.end(src, 'failed')
                self.assertIn('the guest ran while it was saved',
                              self.info(src)['error-desc'])
                self.goes_on(src, want)
                src.kill()
                server.close()
                os.unlink(self.work.path(server.path))

    def late_store(self, caps):
        """A page that was equal is stored to before RAM is saved."""
        # The server answers in order, and at most 8 of the 16 reads are under
        # way: when the 13th is there, the first ones have been compared.
        server, src, pages = self.held(
            caps, lambda offset, size: offset >= 12 * MIB)
        self.store(src, pages[3])
        server.views['src'].release()
        return server, src, pages

    def test_stored_to(self):
        server, src, _ = self.late_store({})
        stats = self.end(src)
        self.assertGreater(stats['mapped-pages'], 0)
        dst = self.restored(server.blockdev('dst', 'n0'))
        self.same(src, dst)

    def test_stored_to_mapped_ram(self):
        _, src, pages = self.late_store({'mapped_ram': True})
        want = self.digest(src)
        self.end(src, 'failed')
        self.assertRegex(self.info(src)['error-desc'],
                         f"page {pages[3] // PAGE} of RAM block 'pc.ram' was"
                         f" written while the stopped guest was saved")
        src.qmp.cmd('cont')
        self.goes_on(src, want)

    def test_pipe_and_socket_file(self):
        """Nothing that can not be seeked is a snapshot."""
        src, _ = self.stopped(self.raw())
        self.begin(src, 'exec:cat > guest.file')
        self.assertIsNone(self.end(src))


class Messages(SnapshotTest):
    """The section of a file, byte by byte"""

    disk = 1

    def test_its_size(self):
        src = self.source(self.raw(), caps={'mapped_ram': True})
        pages = self.fill(src)
        src.qmp.cmd('stop')
        self.begin(src, 'file:guest.file')
        stats = self.end(src)
        self.assertLess(stats['wire-bytes'], len(pages) * 30 + 4096)
        with open(self.work.path('guest.file'), 'rb') as f:
            data = f.read()
        # No page of the disk is anywhere in it.
        for n in range(0, len(self.content), 16 * PAGE):
            self.assertEqual(data.find(self.content[n:n + 64]), -1)
        self.assertTrue(re.search(rb'\x08page-map', data))


if __name__ == '__main__':
    main()
