#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the page map learns from each disk controller, and when it forgets.  A
driver by the qtest protocol draws transfers; after each the map must say what
was transferred, and the pages must equal the disk where it says so.

    test_page_map_learn.py [--seed N] [--rounds N] [PATTERN]
"""

import random

from pmemha import TestCase, main
from pmemha.dimm import Dimm
from pmemha.disks import (AhciDisk, DiskError, IdeDisk, NvmeDisk,
                          VirtioBlkDisk, VirtioScsiDisk, total)
from pmemha.linux import LinuxGuest
from pmemha.options import option
from pmemha.qmp import QmpError
from pmemha.virtio import CONFIG_DATA, MMIO, SECTOR, config_select

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
PAGE = 4096
# Transfers that are drawn for each controller
ROUNDS = option('rounds', 25)
DISK = 2 << 20
SLOT = 5
# Where the buffers are
WINDOW, PAGES = 0x1000000, 48


def blockdev(name, node='disk0', driver='raw', extra=''):
    return ('-blockdev', f'driver={driver},node-name={node},file.driver=file,'
            f'file.filename={name}{extra}')


def whole_pages(offset, buffers):
    """{page: offset, or None if it was touched and is not whole}"""
    sectors = {}                        # page -> [offset of each sector]
    order = []
    for address, size in buffers:
        for at in range(address, address + size, SECTOR):
            page = at // PAGE * PAGE
            if page not in sectors:
                sectors[page] = [None] * (PAGE // SECTOR)
                order.append(page)
            sectors[page][at % PAGE // SECTOR] = offset
            offset += SECTOR
    return {page: s[0] if all(o is not None and o == s[0] + n * SECTOR
                              for n, o in enumerate(s)) and
            s[0] is not None else None for page, s in sectors.items()}


class MapTest(TestCase):

    def setUp(self):
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)
        self.work.write('disk.img', self.rng.randbytes(DISK))
        self.want = {}                  # page -> (offset, written)

    def machine(self, *args, sample='off', memory='64M', name='qemu'):
        q = self.qemu(name, machine='pc', accel='qtest', memory=memory)
        q.mem = q.qtest()
        q.add('-object', f'page-map,id=map0,sample={sample}', *args)
        return q

    def virtio(self, *args, disk=blockdev('disk.img'), props='', **kw):
        """A machine with that disk at virtio-blk, and the driver"""
        device = f'virtio-blk-pci,id=disk,drive=disk0,addr={SLOT:#x}'
        q = self.machine(*disk, *args, '-device', device + (props and ',') +
                         props, **kw).start()
        return q, VirtioBlkDisk(q.mem, SLOT).start()

    def info(self, q):
        return q.qmp.cmd('query-page-map')

    def entry(self, q, address):
        """(offset, written) or None"""
        found = q.qmp.cmd('x-query-page-map-entry', address=address)
        return (found[0]['offset'], found[0]['written']) if found else None

    def on_disk(self, offset, size=PAGE, name='disk.img'):
        with open(self.work.path(name), 'rb') as f:
            f.seek(offset)
            return f.read(size)

    def step(self, q, disk, write, offset, buffers, failed=False):
        """A transfer, and what it means"""
        if write:
            for address, size in buffers:
                q.mem.write(address, self.rng.randbytes(size))
        if failed:
            with self.assertRaises(DiskError):
                disk.transfer(write, offset, buffers)
        else:
            disk.transfer(write, offset, buffers)
        where = f'{"write" if write else "read"} at {offset:#x}: ' + \
            ' '.join(f'{a:#x}+{n:#x}' for a, n in buffers)
        for page, at in whole_pages(offset, buffers).items():
            self.want.pop(page, None)
            if at is not None and not failed:
                self.want[page] = (at, write)
            got = self.entry(q, page)
            self.assertEqual(got, self.want.get(page), f'{page:#x} after ' +
                             where)
            if got:
                self.assertEqual(q.mem.read(page, PAGE),
                                 self.on_disk(got[0]),
                                 f'content of {page:#x} after {where}')
        self.assertEqual(self.info(q)['mapped-pages'], len(self.want), where)

    def check_all(self, q):
        for page in range(WINDOW, WINDOW + PAGES * PAGE, PAGE):
            self.assertEqual(self.entry(q, page), self.want.get(page),
                             f'{page:#x}')

    def draw(self, scattered):
        """Buffers that do not overlap, and a place on the disk"""
        rng = self.rng
        buffers, at = [], WINDOW + rng.randrange(12) * PAGE
        if rng.random() < 0.3:
            at += rng.randrange(8) * SECTOR
        for _ in range(rng.randrange(1, 7) if scattered else 1):
            size = rng.choice((PAGE, PAGE, 2 * PAGE, 3 * PAGE,
                               rng.randrange(1, 24) * SECTOR))
            buffers.append((at, size))
            at += size
            if rng.random() < 0.4:
                at += rng.randrange(1, 10) * SECTOR
            elif rng.random() < 0.7:
                at = -(-at // PAGE) * PAGE
        if scattered and rng.random() < 0.2:
            rng.shuffle(buffers)
        return rng.randrange((DISK - total(buffers)) // SECTOR) * SECTOR, \
            buffers

    def draw_steps(self, q, disk, n=ROUNDS):
        for _ in range(n):
            self.step(q, disk, self.rng.random() < 0.4,
                      *self.draw(disk.scattered))
        self.check_all(q)
        self.assertTrue(self.want)

    def one_device(self, q, name):
        """The map's only device with entries has this in its name."""
        used = [d for d in self.info(q)['devices'] if d['entries']]
        self.assertEqual(len(used), 1, used)
        self.assertIn(name, used[0]['device'])
        self.assertEqual(used[0]['node-name'], 'disk0')
        self.assertEqual(used[0]['entries'], len(self.want))
        self.assertEqual(used[0]['bytes'], len(self.want) * PAGE)
        return used[0]


class Controllers(MapTest):

    def drawn(self, name, driver, *args, **kw):
        q = self.machine(*blockdev('disk.img'), *args, **kw).start()
        self.draw_steps(q, driver(q.mem).start())
        self.one_device(q, name)

    def test_virtio_blk(self):
        self.drawn('disk', lambda m: VirtioBlkDisk(m, SLOT), '-device',
                   f'virtio-blk-pci,id=disk,drive=disk0,addr={SLOT:#x}')

    def test_virtio_blk_iothread(self):
        self.drawn('disk', lambda m: VirtioBlkDisk(m, SLOT),
                   '-object', 'iothread,id=io0', '-device',
                   'virtio-blk-pci,id=disk,drive=disk0,iothread=io0,'
                   f'addr={SLOT:#x}', sample='on')

    def test_virtio_scsi(self):
        self.drawn('disk', lambda m: VirtioScsiDisk(m, SLOT),
                   '-device', f'virtio-scsi-pci,id=hba,addr={SLOT:#x}',
                   '-device', 'scsi-hd,id=disk,drive=disk0,bus=hba.0')

    def test_ide(self):
        self.drawn('disk', IdeDisk,
                   '-device', 'ide-hd,id=disk,drive=disk0,bus=ide.0')

    def test_ahci(self):
        self.drawn('disk', lambda m: AhciDisk(m, SLOT),
                   '-device', f'ich9-ahci,id=hba,addr={SLOT:#x}',
                   '-device', 'ide-hd,id=disk,drive=disk0,bus=hba.0')

    def test_nvme(self):
        self.drawn('disk', lambda m: NvmeDisk(m, SLOT), '-device',
                   f'nvme,id=disk,serial=s0,drive=disk0,addr={SLOT:#x}')

    def test_qcow2_on_top(self):
        """A place is one of the device, wherever that is in the image."""
        q = self.machine(*blockdev('disk.img')).start()
        q.qmp.cmd('blockdev-add', driver='qcow2', **{
            'node-name': 'top', 'backing': 'disk0', 'file': self.overlay(q)})
        q.qmp.cmd('device_add', driver='virtio-blk-pci', id='disk',
                  drive='top', addr=f'{SLOT:#x}')
        disk = VirtioBlkDisk(q.mem, SLOT).start()
        for offset in (0, 63 * SECTOR, 1 << 20):
            self.step(q, disk, False, offset, [(WINDOW, 4 * PAGE)])
        disk.transfer(True, 63 * SECTOR, [(WINDOW + 8 * PAGE, PAGE)])
        self.assertEqual(self.entry(q, WINDOW + 8 * PAGE),
                         (63 * SECTOR, True))

    def test_merged_requests(self):
        """What virtio-blk sends as one request has buffers of several"""
        q, disk = self.virtio('-trace', 'page_map_io', '-D', 'trace.log')
        for write in (False, True):
            half = 3 * PAGE + 1024
            disk.transfers(write, (0, [(WINDOW, half)]),
                           (half, [(WINDOW + half, PAGE), (WINDOW + 40 * PAGE,
                                                           PAGE)]),
                           (half + 2 * PAGE, [(WINDOW + 20 * PAGE, PAGE)]))
            self.want = {WINDOW + n * PAGE: (n * PAGE, write)
                         for n in range(4)}
            self.want[WINDOW + 20 * PAGE] = (half + 2 * PAGE, write)
            self.want[WINDOW + 40 * PAGE] = (half + PAGE, write)
            self.check_all(q)
        q.quit()
        with open(self.work.path('trace.log'), encoding='utf-8') as f:
            seen = [line for line in f if 'page_map_io ' in line]
        self.assertEqual(len(seen), 2, seen)

    def overlay(self, q):
        """A new qcow2 image on disk.img; its file node"""
        self.work.write('top.qcow2', b'')
        q.qmp.raw_cmd('blockdev-add', {
            'driver': 'file', 'node-name': 'topfile',
            'filename': 'top.qcow2'})
        q.qmp.raw_cmd('blockdev-create', {'job-id': 'c0', 'options': {
            'driver': 'qcow2', 'file': 'topfile', 'size': DISK}})
        self.job_ends(q, 'c0')
        return 'topfile'

    def job_ends(self, q, name):
        q.qmp.wait_event('JOB_STATUS_CHANGE', 20,
                         lambda d: (d['id'], d['status']) ==
                         (name, 'concluded'))
        q.qmp.cmd('job-dismiss', id=name)


class Guest(MapTest):
    """Linux reads a disk through its page cache."""

    timeout = 150
    SIZE = 160 << 20
    MEMORY = 512 << 20

    def test_page_cache(self):
        with open(self.work.path('disk.img'), 'wb') as f:
            for _ in range(self.SIZE >> 20):
                f.write(self.rng.randbytes(1 << 20))
        q = self.adopt(LinuxGuest(self.work))
        mem = q.qtest()
        q.add('-object', 'page-map,id=map0,sample=on', *blockdev('disk.img'),
              '-device', 'virtio-blk-pci,id=disk,drive=disk0')
        q.boot()
        q.sh('cat /dev/vda > /dev/null')
        q.qmp.cmd('stop')
        info = self.info(q)
        self.assertGreaterEqual(info['devices'][0]['bytes'],
                                self.SIZE * 9 // 10)
        # All are in the cache: any page of memory tells
        seen = equal = 0
        for _ in range(1500):
            address = self.rng.randrange(self.MEMORY // PAGE) * PAGE
            entry = self.entry(q, address)
            if entry:
                seen += 1
                equal += mem.read(address, PAGE) == self.on_disk(entry[0])
        self.diag(f"{info['mapped-pages']} pages of {info['ram-pages']} are "
                  f'mapped; of {seen} that were drawn {equal} equal the disk')
        self.assertGreater(seen, 200)
        self.assertGreaterEqual(equal, seen * 0.95)


class NotLearnt(MapTest):

    def test_programmed_io(self):
        q = self.machine(*blockdev('disk.img'), '-device',
                         'ide-hd,id=disk,drive=disk0,bus=ide.0').start()
        disk = IdeDisk(q.mem).start()
        for offset in (0, 8 * SECTOR):
            self.assertEqual(disk.read_pio(offset),
                             self.on_disk(offset, SECTOR))
        self.assertEqual(self.info(q)['mapped-pages'], 0)
        self.step(q, disk, False, 0, [(WINDOW, PAGE)])

    def test_memory_of_a_device(self):
        """What is not RAM goes through a buffer of QEMU's."""
        q, disk = self.virtio('-device', 'edu,id=edu,addr=0x6')
        for offset, value in ((0x10, MMIO + (6 << 20)), (4, 6)):
            config_select(q.mem, 6, offset)
            q.mem.outl(CONFIG_DATA, value)
        disk.transfer(False, 0, [(WINDOW, PAGE)])
        self.want[WINDOW] = (0, False)
        disk.transfer(True, PAGE, [(MMIO + (6 << 20), PAGE)])
        self.assertEqual(self.info(q)['mapped-pages'], 1)
        self.check_all(q)

    def test_parts_of_pages(self):
        q, disk = self.virtio()
        for write in (False, True):
            for buffers in ([(WINDOW + 512, PAGE)],
                            [(WINDOW, 512)],
                            [(WINDOW + PAGE - 512, 1024)],
                            [(WINDOW + 2048, 2048), (WINDOW, 2048)]):
                self.step(q, disk, False, 0, [(WINDOW, 3 * PAGE)])
                self.step(q, disk, write, 64 * SECTOR, buffers)
        self.check_all(q)

    def test_failed_transfers(self):
        q, disk = self.virtio(disk=[
            '-blockdev', 'driver=blkdebug,node-name=disk0,image.driver=file,'
            'image.filename=disk.img,inject-error.0.event=none,'
            'inject-error.0.iotype=read,inject-error.0.sector=1024,'
            'inject-error.0.once=off'])
        self.step(q, disk, False, 0, [(WINDOW, 4 * PAGE)])
        self.step(q, disk, False, 1023 * SECTOR, [(WINDOW + PAGE, PAGE)],
                  failed=True)
        self.check_all(q)

    def test_block_jobs(self):
        """A copy of the whole disk, and requests by nobody's device"""
        q, disk = self.virtio()
        self.step(q, disk, False, 0, [(WINDOW, 2 * PAGE)])
        self.work.sparse('copy.img', DISK)
        q.qmp.raw_cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'copy',
            'file': {'driver': 'file', 'filename': 'copy.img'}})
        q.qmp.raw_cmd('blockdev-backup', {
            'job-id': 'b0', 'device': 'disk0', 'target': 'copy',
            'sync': 'full'})
        q.qmp.wait_event('BLOCK_JOB_COMPLETED', 20)
        self.assertEqual(self.on_disk(0, DISK, 'copy.img'),
                         self.on_disk(0, DISK))
        self.check_all(q)
        self.assertEqual(self.info(q)['mapped-pages'], 2)


class Changes(MapTest):

    def test_snapshot(self):
        """The graph below the device changes, the device's content not"""
        q, disk = self.virtio()
        self.draw_steps(q, disk, 5)
        number = self.one_device(q, 'disk')['number']
        q.qmp.raw_cmd('blockdev-snapshot-sync', {
            'node-name': 'disk0', 'snapshot-file': 'snap.qcow2',
            'snapshot-node-name': 'snap'})
        self.check_all(q)
        disk.transfer(False, 0, [(WINDOW, PAGE)])
        self.want[WINDOW] = (0, False)
        self.check_all(q)
        device = next(d for d in self.info(q)['devices'] if d['entries'])
        self.assertEqual(device['number'], number)
        self.assertEqual(device['node-name'], 'snap')

    def test_medium(self):
        self.work.write('other.img', self.rng.randbytes(DISK))
        q = self.machine('-device', f'virtio-scsi-pci,id=hba,addr={SLOT:#x}',
                         *blockdev('disk.img'), '-device',
                         'scsi-cd,id=cd,drive=disk0,bus=hba.0').start()
        disk = VirtioScsiDisk(q.mem, SLOT).start()
        disk.block = 2048
        self.step(q, disk, False, 2048, [(WINDOW, 3 * PAGE)])
        number = self.one_device(q, 'cd')['number']
        q.qmp.raw_cmd('blockdev-change-medium', {
            'id': 'cd', 'filename': 'other.img', 'format': 'raw',
            'force': True})
        info = self.info(q)
        self.assertEqual((info['mapped-pages'], info['orphaned-pages']),
                         (3, 3))
        found = q.qmp.cmd('x-query-page-map-entry', address=WINDOW)
        self.assertNotIn('device', found[0])
        disk.ready()
        disk.transfer(False, 2048, [(WINDOW, PAGE)])
        found = q.qmp.cmd('x-query-page-map-entry', address=WINDOW)
        self.assertIn('cd', found[0]['device'])
        self.assertGreater(found[0]['number'], number)
        self.assertEqual(q.mem.read(WINDOW, PAGE),
                         self.on_disk(2048, name='other.img'))
        self.assertEqual(self.info(q)['orphaned-pages'], 2)

    def test_unplugged_device(self):
        q = self.machine('-device', f'virtio-scsi-pci,id=hba,addr={SLOT:#x}',
                         *blockdev('disk.img'), '-device',
                         'scsi-hd,id=disk,drive=disk0,bus=hba.0').start()
        disk = VirtioScsiDisk(q.mem, SLOT).start()
        self.step(q, disk, False, 0, [(WINDOW, 2 * PAGE)])
        q.qmp.cmd('device_del', id='disk')
        q.qmp.wait_event('DEVICE_DELETED', 20)
        info = self.info(q)
        self.assertEqual(info['orphaned-pages'], 2)
        self.assertFalse([d for d in info['devices'] if d['entries']])
        q.qmp.cmd('device_add', driver='scsi-hd', id='disk', drive='disk0',
                  bus='hba.0')
        disk.ready()
        self.step(q, disk, False, 0, [(WINDOW, PAGE)])
        self.assertEqual(self.info(q)['orphaned-pages'], 1)

    def test_unplugged_memory(self):
        """Its addresses are another DIMM's soon, whose pages are new."""
        q, disk = self.virtio(memory='64M,slots=4,maxmem=4G')
        dimm = Dimm(q, 0)
        for at in (0, 100 * PAGE):
            disk.transfer(False, 0, [(dimm.address + at, 2 * PAGE)])
        self.assertEqual(self.info(q)['mapped-pages'], 4)
        disk.transfer(False, 0, [(WINDOW, PAGE)])
        first = dimm.ram_addr
        dimm.eject()
        dimm = Dimm(q, 1)
        self.assertEqual(dimm.ram_addr, first)
        self.assertEqual(self.info(q)['mapped-pages'], 1)
        self.assertEqual(self.entry(q, WINDOW), (0, False))
        self.assertIsNone(self.entry(q, dimm.address))

    def test_reset(self):
        q, disk = self.virtio()
        self.draw_steps(q, disk, 5)
        q.qmp.cmd('system_reset')
        q.qmp.wait_event('RESET', 20)
        self.assertEqual(self.info(q)['mapped-pages'], 0)
        self.want = {}
        disk.start()
        self.step(q, disk, False, 0, [(WINDOW, PAGE)])


class Object(MapTest):

    def test_one_only(self):
        q = self.machine('-object', 'page-map,id=map1')
        text = q.expect_refusal()
        for word in ('map0', 'map1', 'delete'):
            self.assertIn(word, text)

    def test_help(self):
        text = self.process('help', [self.qemu('x').argv[0], '-object',
                                     'page-map,help'])
        text.start()
        self.assertEqual(text.wait(20), 0)
        self.assertRegex(text.output(), r'sample=<bool> +- .*default: off')

    def test_refusals(self):
        q, _ = self.virtio()
        for path, value in (('/objects/map0', True),):
            with self.assertRaisesRegex(QmpError, "map0.*'sample'.*'on'"):
                q.qmp.raw_cmd('qom-set', {'path': path, 'property': 'sample',
                                          'value': value})
        with self.assertRaisesRegex(QmpError, "'address' is 0xf0000000"):
            q.qmp.cmd('x-query-page-map-entry', address=0xf0000000)
        q.qmp.cmd('object-del', id='map0')
        with self.assertRaisesRegex(QmpError, 'no page-map object'):
            q.qmp.cmd('x-query-page-map-entry', address=0)
        info = self.info(q)
        self.assertNotIn('id', info)
        self.assertEqual((info['mapped-pages'], info['memory'],
                          info['devices']), (0, 0, []))
        self.assertIn('no page-map object', q.hmp('info page-map'))

    def test_monitor(self):
        q, disk = self.virtio(sample='on')
        disk.transfer(False, 0, [(WINDOW, 3 * PAGE)])
        info = self.info(q)
        self.assertTrue(info['sample'])
        # The tables' heads, and a chunk of entries and one of digests
        self.assertEqual(info['memory'], 2 * (128 << 10) + (4 << 20))
        text = q.hmp('info page-map')
        self.assertRegex(text, r'map0: 3 of \d+ pages, 0 of them orphaned; '
                         r'sample on, 0 stale')
        self.assertRegex(text, r'disk.*\(disk0\): 3 pages, 12 KiB')

    def test_deleted_during_io(self):
        """Its memory goes while transfers end in another thread."""
        q, disk = self.virtio('-object', 'iothread,id=io1',
                              props='iothread=io1')
        self.assertEqual([t['id'] for t in q.qmp.cmd('query-iothreads')],
                         ['io1'])
        for n in range(60):
            disk.begin_read(0, WINDOW, 64 * PAGE)
            q.qmp.cmd('object-del', id='map0')
            if n % 2:
                disk.wait_used()
            q.qmp.raw_cmd('object-add', {'qom-type': 'page-map', 'id': 'map0',
                                         'sample': n % 3 == 0})
            disk.wait_used()
            self.assertLessEqual(self.info(q)['mapped-pages'], 64)
        disk.transfer(False, 0, [(WINDOW, 64 * PAGE)])
        self.assertEqual(self.info(q)['mapped-pages'], 64)

    def test_stale(self):
        """A page that changed where the digest looks is not looked up."""
        for sample in ('off', 'on'):
            q, disk = self.virtio(sample=sample, name=f'sample-{sample}')
            disk.transfer(False, 0, [(WINDOW, 2 * PAGE)])
            for page, at, found in ((0, 0, True), (1, 1344, sample == 'off')):
                address = WINDOW + page * PAGE
                q.mem.writeb(address + at, q.mem.readb(address + at) ^ 1)
                self.assertEqual(self.entry(q, address), (page * PAGE, False))
                for _ in range(2):
                    got = q.qmp.raw_cmd('x-query-page-map-entry', {
                        'address': address, 'filter': True})
                    self.assertEqual(bool(got), found, (sample, page))
            info = self.info(q)
            dropped = sample == 'on'
            self.assertEqual((info['stale'], info['mapped-pages']),
                             (dropped, 2 - dropped))
            q.quit()

    def test_late(self):
        """What was transferred before it was made is not in it."""
        q, disk = self.virtio()
        q.qmp.cmd('object-del', id='map0')
        disk.transfer(False, 0, [(WINDOW, PAGE)])
        q.qmp.raw_cmd('object-add', {'qom-type': 'page-map', 'id': 'late'})
        self.assertEqual(self.info(q)['mapped-pages'], 0)
        self.assertIsNone(self.entry(q, WINDOW))
        disk.transfer(False, 0, [(WINDOW, PAGE)])
        self.assertEqual(self.info(q)['mapped-pages'], 1)


if __name__ == '__main__':
    main()
