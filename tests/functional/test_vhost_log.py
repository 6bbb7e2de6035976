#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
vhost-user-blk beside a device with a replica: what the backend, another
process, writes into mirrored memory is in the promoted image.  A backend that
can not log what it writes is refused.

    test_vhost_log.py [--seed N] [PATTERN]
"""

import random

from pmemha import main
from pmemha.baremetal import BareMetal
from pmemha.device import PMEM_BASE, PmemDevices
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.dimm import Dimm
from pmemha.options import option
from pmemha.paths import scaled
from pmemha.vhostuser import (F_LOG_ALL, P_LOG_SHMFD, MuteBackend, backend)
from pmemha.virtio import SECTOR, VirtioBlk, map_bar

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
RAM = '64M'
SHARED = ['-object', f'memory-backend-memfd,id=ram,size={RAM},share=on',
          '-machine', 'memory-backend=ram']
DISK = 1 << 20
SLOT = 5


class Machine(PmemDevices, BareMetal):
    """One that runs, as vhost devices do nothing before; its vCPU is idle"""

    def __init__(self, work, name):
        super().__init__(work, 'workload=idle', name, machine='pc,nvdimm=on',
                         memory=f'{RAM},slots=4,maxmem=4G')
        self.mem = self.qtest()
        self.add('-qtest-log', 'none', *SHARED)


class Running(DeviceTest):

    def setUp(self):
        super().setUp()
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)
        self.work.sparse('p.img', SIZE)
        self.disk = self.rng.randbytes(DISK)
        self.work.write('disk.img', self.disk)
        self.want = bytearray(SIZE)
        self.marks = 0

    def guest(self, name='qemu'):
        return self.adopt(Machine(self.work, name))

    def vhost(self, q, options='', name='vhost0'):
        """A disk for the command line; its backend"""
        b = backend(self.work, name, 'disk.img', self.adopt)
        q.add('-chardev', f'socket,id=v0,path={name}.sock{options}',
              '-device', 'vhost-user-blk-pci,id=disk0,chardev=v0,'
              f'addr={SLOT:#x}')
        return b

    def vhost_plug(self, q, n):
        backend(self.work, f'vhost{n}', 'disk.img', self.adopt)
        q.qmp.raw_cmd('chardev-add', {'id': f'v{n}', 'backend': {
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': f'vhost{n}.sock'}}}}})
        q.qmp.raw_cmd('device_add', {
            'driver': 'vhost-user-blk-pci', 'id': f'disk{n}',
            'chardev': f'v{n}', 'addr': f'{SLOT + n:#x}'})

    def pmem(self, q):
        return q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state')

    def read(self, blk):
        """Pages of the disk to pages of the device, drawn"""
        size = self.rng.randrange(1, 4) * PAGE
        sector = self.rng.randrange((DISK - size) // SECTOR)
        page = self.rng.randrange(1, (SIZE - size) // PAGE)
        blk.read(sector, PMEM_BASE + page * PAGE, size)
        self.want[page * PAGE:page * PAGE + size] = \
            self.disk[sector * SECTOR:sector * SECTOR + size]

    def flush(self, q):
        """With a store of a vCPU's kind, so that an epoch comes of it"""
        self.marks += 1
        q.writeq(PMEM_BASE, self.marks)
        self.want[:8] = self.marks.to_bytes(8, 'little')
        q.flush()

    def check(self, q):
        """The host dies; all that was flushed is in the promoted image."""
        q.kill()
        image = self.promoted()
        lost = [at // PAGE for at in range(0, SIZE, PAGE)
                if image[at:at + PAGE] != self.want[at:at + PAGE]]
        self.assertEqual(lost, [], 'pages that the image does not hold')

    def test_flushed_writes_are_there(self):
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        for _ in range(20):
            for _ in range(self.rng.randrange(1, 4)):
                self.read(blk)
            self.flush(q)
        self.check(q)

    def test_devices_of_a_group(self):
        """One behind the other in the guest's memory, too"""
        def group(q):
            q.add('-object', self.r.object('r0'))
            for n in range(2):
                q.add('-object', f'memory-backend-file,id=mem{n},share=on,'
                      f'mem-path=p.img,size={SIZE // 2},'
                      f'offset={n * SIZE // 2}',
                      '-device', f'pmem-ha,id=pm{n},memdev=mem{n},replica=r0,'
                      'consistency-group=g0,state-file=p.state')
            return q
        self.pmem = group
        self.test_flushed_writes_are_there()

    def test_device_that_stops_before_the_flush(self):
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT)
        for _ in range(3):
            blk.start()
            self.read(blk)
            blk.reset()
            self.flush(q)
        self.check(q)

    def test_paused_guest(self):
        """Its devices stop, and start again with a log."""
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        q.qmp.cmd('stop')
        q.qmp.cmd('cont')
        self.flush(q)
        self.read(blk)
        self.flush(q)
        self.check(q)

    def test_log_of_a_running_device(self):
        """The replica comes later, behind what the log would hold."""
        q = self.guest()
        self.vhost(q)
        q.start()
        q.out.wait_for('^BOOT', 20)
        blk = VirtioBlk(q.mem, SLOT).start()
        blk.read(0, 0x3000000, PAGE)
        self.assertEqual(q.mem.read(0x3000000, PAGE), self.disk[:PAGE])
        self.plug(q)
        q.settle()
        for _ in range(5):
            self.read(blk)
            self.flush(q)
        self.check(q)

    def test_memory_is_plugged_and_another_disk(self):
        """The logs are not of one size then."""
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        # Behind the device, and more than a log is made longer by
        q.qmp.raw_cmd('object-add', {
            'qom-type': 'memory-backend-memfd', 'id': 'more',
            'size': 1 << 30, 'share': True})
        q.qmp.raw_cmd('device_add', {'driver': 'pc-dimm', 'id': 'dimm',
                                     'memdev': 'more'})
        self.read(blk)
        self.flush(q)
        for n in (1, 2):
            self.vhost_plug(q, n)
        second, third = (VirtioBlk(q.mem, SLOT + n).start() for n in (1, 2))
        for _ in range(3):
            for disk in (blk, second, third):
                self.read(disk)
            self.flush(q)
        # The first one in the list is the one that reads a common log.
        blk.reset()
        for disk in (third, second):
            self.read(disk)
        second.reset()
        self.flush(q)
        self.read(third)
        self.flush(q)
        self.check(q)

    def test_memory_is_unplugged(self):
        """The log becomes shorter, and holds what was not fetched yet."""
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        for n in range(3):
            dimm = Dimm(q, n, size=1 << 30, backend='memory-backend-memfd',
                        share=True)
            # The last page of all that the log is for
            blk.read(0, dimm.address + (1 << 30) - PAGE, PAGE)
            self.read(blk)
            dimm.eject()
            self.read(blk)
            self.flush(q)
        self.check(q)

    def test_ring_outside_of_all_regions(self):
        """
        In memory of a device, which vhost has no part of: neither has the
        log, and who looks at all that was logged must find nothing there.
        """
        q = self.guest()
        self.adopt(MuteBackend(self.work, 'vhost0'))
        q.add('-chardev', 'socket,id=v0,path=vhost0.sock', '-device',
              f'vhost-user-blk-pci,id=disk0,chardev=v0,addr={SLOT:#x}',
              '-object', 'memory-backend-ram,id=bar,size=1M',
              '-device', f'ivshmem-plain,memdev=bar,addr={SLOT + 1:#x}')
        self.pmem(q).start()
        q.settle()
        map_bar(q.mem, SLOT + 1, 2, 1 << 38)
        q.mem.writeq(1 << 38, 0x1234)
        self.assertEqual(q.mem.readq(1 << 38), 0x1234)
        blk = VirtioBlk(q.mem, SLOT)
        blk.used = 1 << 38
        blk.start()
        self.dirty_rate(q)
        self.flush(q)
        self.check(q)

    def dirty_rate(self, q, meanwhile=lambda: None):
        q.qmp.raw_cmd('calc-dirty-rate', {'calc-time': 1,
                                          'mode': 'dirty-bitmap'})
        q.qmp.poll('query-dirty-rate', lambda r: r['status'] == 'measuring',
                   scaled(20))
        meanwhile()
        q.qmp.poll('query-dirty-rate', lambda r: r['status'] == 'measured',
                   scaled(30))

    def test_migration(self):
        """
        Nothing is flushed before it, and the log serves both meanwhile; and it
        is on at the other end.
        """
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        self.flush(q)
        for _ in range(3):
            self.read(blk)
        dst = self.guest('dst').add('-incoming', 'unix:dst.mig')
        self.vhost(dst, name='vhost9')
        self.work.sparse('dst.img', SIZE)
        dst.pmem_ha('dst.img', SIZE, 0, self.r, 'dst.state').start()
        # Slow enough for reads amid it
        q.qmp.cmd('migrate-set-parameters', **{'max-bandwidth': 4 << 20})
        q.qmp.cmd('migrate', uri='unix:dst.mig')
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'active',
                   scaled(20))
        for _ in range(3):
            self.read(blk)
        q.qmp.cmd('migrate-set-parameters', **{'max-bandwidth': 1 << 30})
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(30))
        dst.wait_state('in-sync')
        blk.q = dst.mem
        q.kill()
        self.flush(dst)
        self.read(blk)
        self.flush(dst)
        self.check(dst)

    def test_another_user_of_the_log(self):
        """
        It starts and ends logging, and looks at what was logged, as live
        migration does.
        """
        q = self.guest()
        self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        self.dirty_rate(q, lambda: self.read(blk))
        self.flush(q)
        self.read(blk)
        self.flush(q)
        self.check(q)

    def wait_chardev(self, q, connected):
        q.qmp.poll('query-chardev', lambda chardevs: next(
            not c['filename'].startswith('disconnected') for c in chardevs
            if c['label'] == 'v0') == connected, scaled(20))

    def test_backend_that_comes_back(self):
        """
        After one that can not log, which must not take its place: the guest
        waits for its disk meanwhile.
        """
        q = self.guest()
        b = self.vhost(q, ',reconnect-ms=50')
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        self.flush(q)
        b.kill()
        mute = self.adopt(MuteBackend(self.work, 'vhost0', protocol=()))
        q.qmp.poll('query-status', lambda _: (
            'guest memory is mirrored, and vhost can not log: Migration '
            'disabled: vhost-user backend lacks') in q.output(), scaled(20))
        mute.kill()
        backend(self.work, 'vhost0', 'disk.img', self.adopt)
        self.wait_chardev(q, True)
        for _ in range(3):
            self.read(blk)
            self.flush(q)
        self.check(q)

    def test_backend_that_dies(self):
        """What it wrote last is in no log."""
        q = self.guest()
        b = self.vhost(q)
        self.pmem(q).start()
        q.settle()
        blk = VirtioBlk(q.mem, SLOT).start()
        self.read(blk)
        # Another process that has the file mapped, as the backend has
        with open(self.path('p.img'), 'r+b') as f:
            f.seek(SIZE - PAGE)
            f.write(self.disk[:PAGE])
        self.want[SIZE - PAGE:] = self.disk[:PAGE]
        b.kill()
        self.wait_chardev(q, False)
        self.flush(q)
        self.check(q)


class Refusals(DeviceTest):
    """A backend that can not log"""

    TEXTS = ('can not', 'log what it writes', 'Migration disabled: ')

    def mute(self, name, **kw):
        self.adopt(MuteBackend(self.work, name, **kw))
        return ['-chardev', f'socket,id=v0,path={name}.sock']

    def machine_with(self, name, *extra):
        return self.bare(name, 'pc,nvdimm=on', [*SHARED, *extra])

    def check(self, *texts, **kw):
        disk = ['-device', 'vhost-user-blk-pci,id=other,chardev=v0']
        self.work.sparse('p.img', SIZE)
        texts = (*self.TEXTS, *texts)
        first = ("pmem-ha device 'pm0' has a replica", *texts)
        mirror = ('p.img', SIZE, 0, self.r, 'p.state')
        self.refused(self.machine_with(
            'cold-first', *self.mute('a', **kw), *disk).pmem_ha(*mirror),
            *first)
        self.refused(self.machine_with(
            'cold-second', *self.mute('b', **kw)).pmem_ha(*mirror).add(*disk),
            'guest memory is mirrored', *texts)
        q = self.machine_with('hot-first', *self.mute('c', **kw),
                              *disk).start()
        self.qmp_refuses(lambda: self.plug(q), *first)
        q.kill()
        q = self.machine_with('hot-second', *self.mute('d', **kw)).pmem_ha(
            *mirror).start()
        q.settle()
        self.qmp_refuses(lambda: q.qmp.cmd(
            'device_add', driver='vhost-user-blk-pci', id='other',
            chardev='v0'), 'guest memory is mirrored', *texts)
        self.assertEqual(q.query()['state'], 'in-sync')
        self.assertNotIn('other', q.hmp('info qtree'))

    def test_no_shared_log(self):
        self.check('VHOST_USER_PROTOCOL_F_LOG_SHMFD', protocol=())

    def test_no_log(self):
        self.check('VHOST_F_LOG_ALL', features=())

    def test_a_device_that_failed_leaves_no_log(self):
        q = self.machine_with('hot', *self.mute('a', protocol=())).start()
        self.qmp_refuses(lambda: self.plug(q, **{'state-file': '/'}), 'pm0')
        q.qmp.cmd('device_add', driver='vhost-user-blk-pci', id='other',
                  chardev='v0')

    def test_those_that_can(self):
        """By the same answers, but for what the others lack"""
        q = self.machine_with('qemu', *self.mute(
            'a', features=(F_LOG_ALL,), protocol=(P_LOG_SHMFD,)), '-device',
            'vhost-user-blk-pci,id=other,chardev=v0')
        self.work.sparse('p.img', SIZE)
        q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state').start()
        q.settle()


if __name__ == '__main__':
    main()
