#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-page-map-flatten: a file of a stopped guest without its page map is, byte
for byte, what QEMU writes without one; QEMU restores it.  Most of the files with
a page map come from pmemha.mappedram, which shares no code with the program;
the others from QEMU.

    test_page_map_flatten.py [--seed N] [--rounds N] [PATTERN]
"""

import hashlib
import os
import signal
import subprocess

from pmemha import NO_STOCK, main, program, skip_unless, stock_program
from pmemha.mappedram import Disk, MappedRam, with_page_map
from pmemha.migrate import set_caps
from pmemha.options import option
from pmemha.pagemap import MEMORY, MIB, OTHER, PAGE, SLOT, PageMapTest
from pmemha.paths import scaled

DIMM = 16                       # MiB
DIMM_AT = 4 << 30
# Pages that are pc.ram, whatever the firmware would have
RAM = range(MIB // PAGE, MEMORY * MIB // PAGE)
DONE, IO, USAGE, FORMAT, DISK = range(5)
# Of the test that draws damage
ROUNDS = option('rounds', 200)


class FlattenTest(PageMapTest):
    disk = 4

    def setUp(self):
        super().setUp()
        self.disks = {}
        self.records = {}
        self.work.write('disk0.img', self.content)
        # As QEMU names that of a virtio-blk-pci with id=disk0
        self.add_disk(0x107, '/machine/peripheral/disk0/virtio-backend',
                      self.content)

    def add_disk(self, number, name, content):
        d = self.disks[name] = Disk(number, name, content)
        return d

    def machine(self, name, *args, stock=False, **kw):
        """It has a DIMM, so two RAM blocks that records name."""
        q = self.qemu(name, machine='pc', accel='qtest',
                      memory=f'{MEMORY}M,slots=1,maxmem=1G',
                      binary=stock_program('QEMU') if stock else None)
        q.mem = q.qtest()
        q.add('-object', f'memory-backend-ram,id=m1,size={DIMM}M',
              '-device', 'pc-dimm,id=dimm1,memdev=m1',
              '-blockdev', 'driver=file,node-name=n0,locking=off,'
              'filename=disk0.img', '-device',
              'virtio-blk-pci,drive=n0,id=disk0', *args)
        q.start()
        set_caps(q, mapped_ram=True, events=True)
        return q

    def put(self, q, disk, offset, address):
        """A page has what a disk has; a record of it"""
        q.mem.write(address, disk.content[offset:offset + PAGE])
        block, page = ('m1', (address - DIMM_AT) // PAGE) \
            if address >= DIMM_AT else ('pc.ram', address // PAGE)
        self.records[block, page] = disk, offset

    def save(self, q, name='stock.mig'):
        q.qmp.cmd('stop')
        q.qmp.cmd('migrate', uri=f'file:{name}')
        self.end(q)
        return MappedRam(self.work.path(name))

    def sums(self, q):
        """Of all RAM that the guest sees"""
        found = []
        for at, size in ((0, MEMORY * MIB), (DIMM_AT, DIMM * MIB)):
            name = f'{q.name}.mem'
            q.qmp.cmd('pmemsave', timeout=30, val=at, size=size, filename=name)
            with open(self.work.path(name), 'rb') as f:
                found.append(hashlib.sha256(f.read()).hexdigest())
            os.unlink(self.work.path(name))
        return found

    def saved(self, pages=700):
        """A guest with pages of its disks; its file, and sums of its RAM"""
        q = self.machine('src')
        places = self.rng.sample(RAM, pages) + [
            (DIMM_AT // PAGE) + n
            for n in self.rng.sample(range(DIMM * MIB // PAGE), pages // 4)]
        self.rng.shuffle(places)
        per_disk = len(places) // len(self.disks)
        for disk in self.disks.values():
            # In order, but for gaps; and places that are no multiple of 4096
            offset = 0
            for _ in range(per_disk):
                if offset > len(disk.content) - PAGE:
                    break
                self.put(q, disk, offset, places.pop() * PAGE)
                offset += self.rng.choice((PAGE, PAGE, PAGE, PAGE, 2 * PAGE,
                                           9 * PAGE, PAGE + 512))
        # Others that are content
        for n in self.rng.sample(RAM, 300):
            if ('pc.ram', n) not in self.records:
                self.store(q, n * PAGE)
        stock = self.save(q)
        self.diag(f'{len(self.records)} pages on {len(self.disks)} disks')
        return stock, self.sums(q)

    def flatten(self, *args, status=DONE):
        """What it said"""
        done = subprocess.run(
            [program('PAGE_MAP_FLATTEN'), *args], cwd=self.work.dir,
            check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=scaled(60))
        text = done.stdout.decode(errors='replace')
        self.assertEqual(done.returncode, status, text)
        return text

    def read(self, name):
        with open(self.work.path(name), 'rb') as f:
            return f.read()

    def assert_gone(self, name):
        """There is no such file, and no part of it"""
        self.assertEqual([n for n in os.listdir(self.work.dir)
                          if n.startswith(name)], [])

    def restored(self, name, **kw):
        q = self.machine('stock' if kw else 'dst', '-S', '-incoming', 'defer',
                         **kw)
        q.qmp.cmd('migrate-incoming', uri=f'file:{name}')
        self.arrived(q)
        return self.sums(q)


class Flatten(FlattenTest):
    def whole(self, *disks):
        stock, sums = self.saved()
        with_page_map(stock, self.work.path('map.mig'), self.records)
        text = self.flatten(*disks, 'map.mig', 'flat.mig')
        self.assertIn(f'{len(self.records)} pages from', text)
        # What is at offsets that depend on the page map is as it was, too.
        self.assertTrue(self.read('flat.mig') == stock.data)
        return sums

    def other_disk(self):
        content = self.rng.randbytes(3 * MIB)
        self.work.write('disk1.img', content)
        self.add_disk(0x2001, '/machine/peripheral-anon/device[3]', content)

    def test_restored(self):
        self.other_disk()
        sums = self.whole('--disk', 'disk0=disk0.img', '--disk',
                          '/machine/peripheral-anon/device[3]=json:'
                          '{"driver": "raw", "file": {"driver": "file", '
                          '"filename": "disk1.img"}}')
        self.assertEqual(self.restored('flat.mig'), sums)

    @skip_unless(lambda: stock_program('QEMU') is not None, NO_STOCK)
    def test_stock_restores(self):
        sums = self.whole('--disk', 'disk0=driver=raw,file.driver=file,'
                          'file.filename=disk0.img')
        self.assertEqual(self.restored('flat.mig', stock=True), sums)

    def test_qcow2(self):
        self.image('convert', '-O', 'qcow2', 'disk0.img', 'disk0.qcow2')
        self.whole('--disk', 'disk0=disk0.qcow2')

    def test_luks(self):
        secret, options = self.luks('disk0.img')
        self.whole('--object', secret, '--disk', f'disk0={options}')

    def test_holes(self):
        """The result is as sparse as the file and the pages on disks"""
        stock, _ = self.saved(64)
        with_page_map(stock, self.work.path('map.mig'), self.records)
        self.flatten('--disk', 'disk0=disk0.img', 'map.mig', 'flat.mig')
        flat, whole = (os.stat(self.work.path(n))
                       for n in ('flat.mig', 'stock.mig'))
        self.assertEqual(flat.st_size, whole.st_size)
        self.diag(f'{flat.st_blocks * 512} of {flat.st_size} bytes; '
                  f'QEMU: {whole.st_blocks * 512}')
        self.assertLess(flat.st_blocks * 512, flat.st_size // 4)
        self.assertLessEqual(flat.st_blocks, whole.st_blocks + 64)

    def test_no_records(self):
        """A page map that has found nothing"""
        self.records = {}
        q = self.machine('src')
        self.store(q, 0x800000)
        stock = self.save(q)
        with_page_map(stock, self.work.path('map.mig'), {})
        self.flatten('map.mig', 'flat.mig')
        self.assertTrue(self.read('flat.mig') == stock.data)


class Refused(FlattenTest):
    """Errors name what is wrong; nothing is left of what was begun."""

    def setUp(self):
        super().setUp()
        self.stock, _ = self.saved(200)
        with_page_map(self.stock, self.work.path('map.mig'), self.records)
        self.good = ('--disk', 'disk0=disk0.img')

    def refused(self, status, *texts, args=(), name='map.mig'):
        text = self.flatten(*(args or self.good), name, 'flat.mig',
                            status=status)
        self.assert_gone('flat.mig')
        for t in texts:
            self.assertIn(t, text)
        return text

    def test_disk(self):
        """It is missing, too long, another one, or has changed in one place"""
        self.refused(DISK, "map.mig: ", "'disk0'", '--disk disk0=',
                     args=('-q',))
        self.refused(DISK, "'disk0' (none.img)", 'No such file',
                     args=('--disk', 'disk0=none.img'))
        self.work.write('long.img', self.content + bytes(512))
        self.refused(DISK, "'disk0' (long.img)", '0x400200 bytes', '0x400000',
                     args=('--disk', 'disk0=long.img'))
        self.work.write('other.img', self.rng.randbytes(len(self.content)))
        self.refused(DISK, 'another disk', '0 of 16 places',
                     args=('--disk', 'disk0=other.img'))
        block, page, offset = self.change('disk1.img')
        self.refused(DISK, "'disk0' (disk1.img)", f'offset {offset:#x}',
                     f"page {page} of RAM block '{block}'", 'as it was then',
                     args=('--disk', 'disk0=disk1.img'))

    def change(self, name):
        """One bit of a page that is no probe; its place"""
        # Probes are every nth place, from the first one on.
        places = sorted((o, block, page) for (block, page), (_, o)
                        in self.records.items())
        offset, block, page = places[1]
        content = bytearray(self.content)
        content[offset + PAGE - 1] ^= 1
        self.work.write(name, content)
        return block, page, offset

    def test_check(self):
        text = self.flatten(*self.good, '--check', 'map.mig')
        self.assertIn(f'{len(self.records)} pages of 1 disk', text)
        _, page, offset = self.change('disk1.img')
        text = self.flatten('--disk', 'disk0=disk1.img', '--check', 'map.mig',
                            status=DISK)
        self.assertIn(f'offset {offset:#x}', text)
        self.assertIn(f'page {page} ', text)
        self.assertIn(f'1 of {len(self.records)} pages', text)
        self.assertEqual(sorted(os.listdir(self.work.dir)), sorted(
            ['disk0.img', 'disk1.img', 'map.mig', 'stock.mig'] +
            [n for n in os.listdir(self.work.dir) if n.startswith('src')]))

    def test_read_error(self):
        """One sector that can not be read, between others that can"""
        offset, block, page = sorted(
            (o, block, page) for (block, page), (_, o)
            in self.records.items())[1]
        spec = ('disk0=driver=raw,file.driver=blkdebug,file.image.driver=file,'
                'file.image.filename=disk0.img,file.inject-error.0.event=none,'
                'file.inject-error.0.iotype=read,'
                f'file.inject-error.0.sector={(offset + 512) // 512}')
        texts = (f'offset {offset:#x}', f"page {page} of RAM block '{block}'",
                 'Input/output error')
        self.refused(DISK, *texts, args=('--disk', spec))
        text = self.flatten('--disk', spec, '--check', 'map.mig', status=DISK)
        for t in texts:
            self.assertIn(t, text)
        # Pages that overlap the sector, and no other one
        hit = sum(o <= offset + 512 < o + PAGE
                  for _, o in self.records.values())
        self.assertIn(f'{hit} of {len(self.records)} pages', text)

    def test_output(self):
        self.work.write('flat.mig', b'precious')
        text = self.flatten(*self.good, 'map.mig', 'flat.mig', status=IO)
        self.assertIn('--force', text)
        self.assertEqual(self.read('flat.mig'), b'precious')
        self.flatten(*self.good, '--force', '-q', 'map.mig', 'flat.mig')
        self.assertTrue(self.read('flat.mig') == self.stock.data)
        text = self.flatten(*self.good, 'map.mig', 'no/flat.mig', status=IO)
        self.assertIn("'no/flat.mig.", text)
        self.flatten(*self.good, '--force', 'none.mig', 'flat.mig', status=IO)
        self.assertTrue(self.read('flat.mig') == self.stock.data)

    def test_usage(self):
        self.flatten(status=USAGE)
        self.flatten('--check', 'map.mig', 'flat.mig', status=USAGE)
        self.flatten('--nonsense', 'map.mig', 'flat.mig', status=USAGE)
        self.refused(DISK, 'ID=SPEC', args=('--disk', 'disk0'))
        self.refused(DISK, 'given twice', args=self.good * 2)
        self.assertIn('Exit status', self.flatten('--help'))
        self.assertIn('version', self.flatten('--version'))
        text = self.flatten(*self.good, '--disk', 'more=disk0.img', 'map.mig',
                            'flat.mig')
        self.assertIn("no page of disk 'more'", text)

    def test_format(self):
        self.refused(FORMAT, 'stock.mig: ', 'no page map', name='stock.mig')
        self.refused(FORMAT, 'this is not a file', name='disk0.img')
        path = self.work.path('bad.mig')
        with_page_map(self.stock, path, self.records, version=1)
        self.refused(FORMAT, 'version 1', name='bad.mig')
        (block, page), (disk, offset) = next(iter(self.records.items()))
        with_page_map(self.stock, path, self.records, keep=(page,))
        self.refused(FORMAT, f'page {page} of', 'has come before',
                     name='bad.mig')
        row = (block, page, disk, offset,
               disk.content[offset:offset + PAGE])
        with_page_map(self.stock, path, self.records, again=[row])
        for args in (('bad.mig', 'flat.mig'), ('--check', 'bad.mig')):
            text = self.flatten(*self.good, *args, status=FORMAT)
            self.assertIn('has come before', text)
        self.assert_gone('flat.mig')

    def test_ended(self):
        """A signal in the middle leaves nothing"""
        # It reads a disk from a server that holds its reads.
        server = self.nbd()
        view = server.views['dst']
        view.hold()
        p = self.process('flatten', [
            program('PAGE_MAP_FLATTEN'), '--disk',
            'disk0=driver=nbd,export=dst,server.type=unix,server.path=' +
            server.path, 'map.mig', 'flat.mig'])
        p.start()
        view.wait_held()
        self.assertTrue([n for n in os.listdir(self.work.dir)
                         if n.startswith('flat.mig.')])
        p.signal(signal.SIGTERM)
        self.assertEqual(p.wait(20), -signal.SIGTERM)
        self.assert_gone('flat.mig')

    def patch(self, places, value):
        with open(self.work.path('map.mig'), 'r+b') as f:
            for at in places:
                f.seek(at)
                f.write(bytes([value(at)]))

    def test_damaged(self):
        """Drawn damage: a reason and nothing left, or the whole result"""
        data = self.read('map.mig')
        n = 0
        # In front of the first page, and behind the last one
        head = min(b.at for b in self.stock.blocks.values()) + 200
        tail = data.index(b'/machine/peripheral/disk0', head) - 40
        for _ in range(ROUNDS):
            places = [self.rng.choice((self.rng.randrange(head),
                                       self.rng.randrange(tail, len(data))))
                      for _ in range(self.rng.randrange(1, 4))]
            self.patch(places, lambda at: self.rng.choice(
                (0, 255, data[at] ^ 1, self.rng.randrange(256))))
            done = subprocess.run(
                [program('PAGE_MAP_FLATTEN'), '--disk', 'disk0=disk0.img',
                 '--check', 'map.mig'], cwd=self.work.dir, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=scaled(30))
            text = done.stdout.decode(errors='replace')
            self.assertIn(done.returncode, (DONE, FORMAT, DISK), text)
            self.assertIn('map.mig: ', text)
            n += done.returncode != DONE
            self.patch(places, lambda at: data[at])
        self.diag(f'{n} of {ROUNDS} refused')
        self.assertGreater(n, 0)


class Written(PageMapTest):
    """Files that QEMU writes by itself"""

    flatten, read = FlattenTest.flatten, FlattenTest.read

    def restore(self, disk, name, stock=False, multifd=False):
        """By a QEMU that does not use the page map; its memory"""
        q = self.qemu(name, machine='pc', accel='qtest', memory=f'{MEMORY}M',
                      binary=stock_program('QEMU') if stock else None)
        q.qtest()
        q.add(*disk, '-device', 'virtio-blk-pci,drive=n0,id=disk0,'
              f'share-rw=on,disable-legacy=on,addr={SLOT:#x}',
              '-S', '-incoming', 'defer')
        q.start()
        set_caps(q, mapped_ram=True, events=True, multifd=multifd)
        q.qmp.cmd('migrate-incoming', uri='file:flat.mig')
        self.arrived(q)
        found = self.digest(q)
        q.kill()
        return found

    def whole(self, disk, *spec, multifd=False):
        src = self.source(disk, caps={'mapped_ram': True, 'multifd': multifd})
        pages = self.fill(src)
        for n in range(200):
            self.store(src, OTHER + n * PAGE)
        src.qmp.cmd('stop')
        want = self.digest(src)
        self.begin(src, 'file:map.mig')
        stats = self.end(src)
        self.assertEqual(stats['mapped-pages'], len(pages))
        text = self.flatten(*spec, '--check', 'map.mig')
        self.assertIn(f'{len(pages)} pages of 1 disk', text)
        self.flatten(*spec, 'map.mig', 'flat.mig')
        # The same without a page map: header, blocks and pages are equal.
        self.resume(src)
        src.qmp.cmd('stop')
        set_caps(src, x_page_map=False)
        self.begin(src, 'file:stock.mig')
        self.end(src)
        flat, stock = (MappedRam(self.work.path(n))
                       for n in ('flat.mig', 'stock.mig'))
        self.assertTrue(flat.data[:flat.after_blocks] ==
                        stock.data[:stock.after_blocks])
        self.assertEqual(self.restore(disk, 'dst', multifd=multifd), want)
        if stock_program('QEMU'):
            self.assertEqual(self.restore(disk, 'stock', True, multifd), want)
        else:
            self.diag(NO_STOCK)
        src.kill()

    def test_raw(self):
        for multifd in (False, True):
            with self.subTest(multifd=multifd):
                self.whole(self.raw(), '--disk', 'disk0=disk.img', '--force',
                           multifd=multifd)

    def test_qcow2_backing(self):
        self.raw()
        self.image('create', '-f', 'qcow2', '-b', 'disk.img', '-F', 'raw',
                   'disk.qcow2')
        self.whole(('-blockdev', 'driver=qcow2,node-name=n0,file.driver=file,'
                    'file.locking=off,file.filename=disk.qcow2'),
                   '--disk', 'disk0=disk.qcow2')

    def test_luks(self):
        self.raw()
        secret, options = self.luks()
        self.whole(('-object', secret, '-blockdev',
                    f'node-name=n0,{options}'),
                   '--object', secret, '--disk', f'disk0={options}')


if __name__ == '__main__':
    main()
