#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What happens to guest memory, or near to it, and is no store of a vCPU: a
reset that gives poisoned pages back, another DIMM that goes away, and DMA
behind an IOMMU.

    test_memory_paths.py [--seed N] [PATTERN]
"""

import os
import random
import unittest

from pmemha import callin, main, scaled
from pmemha.baremetal import BareMetal
from pmemha.device import HINT, PMEM_BASE, PmemDevices, PmemMachine
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.dimm import SIZE as DIMM, Dimm, ram_addr, slot_address
from pmemha.iommu import IntelIommu
from pmemha.options import option
from pmemha.process import ProcessDied
from pmemha.virtio import SECTOR, VirtioBlk

SEED = option('seed', random.SystemRandom().randrange(1 << 32))


class Idle(PmemDevices, BareMetal):
    """Its vCPU runs and does nothing; qtest writes as its devices do."""

    def __init__(self, work, name='qemu', cmd='workload=idle', **kw):
        super().__init__(work, cmd, name, **kw)
        self.mem = self.qtest()
        self.add('-qtest-log', 'none')


class Poison(DeviceTest):
    """
    At a reset KVM exchanges the pages that a memory error has hit: it calls
    qemu_ram_remap(), which punches a hole into a file.
    """

    def emptied(self, q, back, reset):
        """Is page 5 after it?  All others must be as they were."""
        before = self.content(back)
        self.assertNotEqual(before[5 * PAGE:6 * PAGE], bytes(PAGE))
        reset(ram_addr(q, 'mem0') + 5 * PAGE + 8)
        after = self.content(back)
        changed = {at // PAGE for at in range(0, SIZE, PAGE)
                   if before[at:at + PAGE] != after[at:at + PAGE]}
        self.assertLessEqual(changed, {5})
        if changed:
            self.assertEqual(after[5 * PAGE:6 * PAGE], bytes(PAGE))
        return bool(changed)

    def fill(self, back='p.img'):
        self.work.write(back, random.Random(SEED).randbytes(SIZE))

    def remap(self, q):
        """What KVM calls; it says whether the page was exchanged."""
        def reset(at):
            self.done = callin.call(q.pid, 'qemu_ram_remap', at) & 0xff
        return reset

    def plain(self, **kw):
        q = self.adopt(PmemMachine(self.work, 'plain', **kw))
        return q.add('-object', 'memory-backend-file,id=mem0,mem-path=p.img,'
                     f'size={SIZE},share=on', '-device',
                     'nvdimm,id=nv0,memdev=mem0')

    def test_plain_nvdimm(self):
        """What the other tests rely on: the call empties pages."""
        self.fill()
        q = self.plain().start()
        self.assertTrue(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 1)

    def test_standalone(self):
        self.fill()
        q = self.machine(replica=None).start()
        self.assertFalse(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 0)

    def test_with_replica(self):
        self.fill()
        q = self.primary()
        self.assertFalse(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 0)
        q.writeq(PMEM_BASE + 5 * PAGE, 1)
        q.flush()
        q.kill()
        self.assertTrue(self.promoted() == self.content('p.img'))

    def test_reset_under_kvm(self):
        """All of KVM's way, from the list of pages to the migration"""
        try:
            os.close(os.open('/dev/kvm', os.O_RDWR))
        except OSError as e:
            raise unittest.SkipTest(f'no KVM: {e}') from None

        def reset(at):
            callin.call(q.pid, 'kvm_hwpoison_page_add', at)
            q.qmp.cmd('system_reset')
            q.qmp.wait_event('RESET', 20)

        def migrate():
            q.qmp.cmd('migrate', uri='exec:cat >/dev/null')

        self.fill()
        try:
            q = self.plain(accel='kvm').start()
        except ProcessDied as e:
            raise unittest.SkipTest(f'KVM runs no machine: {e}') from None
        self.assertTrue(self.emptied(q, 'p.img', reset))
        migrate()
        q.kill()
        self.fill()
        q = self.adopt(PmemMachine(self.work, 'kvm', accel='kvm'))
        q.pmem_ha('p.img', SIZE).start()
        for _ in range(2):
            self.assertFalse(self.emptied(q, 'p.img', reset))
            self.qmp_refuses(migrate, 'hardware poisoned memory')


class Unplug(DeviceTest):
    """A DIMM beside the device goes away; another takes its addresses."""

    def setUp(self):
        super().setUp()
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)

    def wait_acked(self, q, epoch, name='pm0'):
        q.qmp.poll('query-pmem-ha', lambda infos: next(
            i for i in infos if i['id'] == name)['epoch-acked'] >= epoch,
            scaled(30))

    def test_epoch_under_way(self):
        """Pages that change before, while and after, on both sides"""
        q = self.primary(replica=self.r, replica_options=
                         ',link-timeout-ms=600000')
        dimm = Dimm(q)
        for n in range(8):
            for page in self.rng.sample(range(SIZE // PAGE), 20):
                q.writeq(PMEM_BASE + page * PAGE, self.rng.getrandbits(64))
            q.writeq(dimm.address, n)
            self.r.freeze()
            q.writeq(HINT, 1)
            q.qmp.poll('query-pmem-ha', lambda i: i[0]['epoch-captured'] ==
                       i[0]['epoch-acked'] + 1, scaled(20))
            q.writeq(PMEM_BASE + 8, n)
            dimm.eject()
            q.writeq(PMEM_BASE + SIZE - 8, n)
            at, dimm = dimm.ram_addr, Dimm(q, n + 1)
            self.assertEqual(dimm.ram_addr, at)
            q.writeq(PMEM_BASE + SIZE // 2, n)
            q.writeq(dimm.address, n)
            self.r.thaw()
            q.flush()
            q.settle()
        q.kill()
        self.assertTrue(self.promoted() == self.content('p.img'))

    def test_lost_epoch(self):
        """What is put back after the link is lost goes to its own bits."""
        q = self.primary()
        dimm = Dimm(q)
        self.r.kill()
        q.wait_state('connecting')
        for page in self.rng.sample(range(SIZE // PAGE), 20):
            q.writeq(PMEM_BASE + page * PAGE, self.rng.getrandbits(64))
        q.writeq(HINT, 1)
        dimm.eject()
        Dimm(q, 1)
        q.writeq(PMEM_BASE + SIZE - 8, 1)
        acked = q.query()['epoch-acked']
        self.r = self.replica(size=SIZE).start()
        self.wait_acked(q, acked + 1)
        q.kill()
        self.assertTrue(self.promoted() == self.content('p.img'))

    def test_mirrored_memory_where_the_dimm_was(self):
        """The bits that it finds there are another's; then its own are."""
        def replica():
            return self.replica('r1', export='pm1', image='r1.img',
                                size=DIMM).start()

        def changes():
            for page in self.rng.sample(range(DIMM // PAGE), 30):
                q.writeq(base + page * PAGE, self.rng.getrandbits(64))
                q.writeq(PMEM_BASE + page % (SIZE // PAGE) * PAGE, page)
            q.writeq(HINT, 1)
            q.writeq(HINT + 3 * 64, 1)

        r1 = replica()
        q = self.primary()
        dimm = Dimm(q)
        for page in range(0, DIMM // PAGE, 64):
            q.writeq(dimm.address + page * PAGE, page + 1)
        dimm.eject()
        self.plug(q, 1, back='p1.img', size=DIMM, r={
            'export': 'pm1', 'addr': {'type': 'unix', 'path': r1.socket},
            'link-timeout-ms': 600000},
            **{'state-file': 'p1.state', 'slot': 3})
        self.assertEqual(ram_addr(q, 'mem1'), dimm.ram_addr)
        base = slot_address(q, 3)
        q.settle('pm1')
        sent = q.query('pm1')['wire-bytes']
        changes()
        q.settle('pm1')
        self.assertLess(q.query('pm1')['wire-bytes'] - sent, 60 * PAGE)
        # An epoch that is lost with the link is put back.
        r1.freeze()
        changes()
        q.qmp.poll('query-pmem-ha', lambda infos: any(
            i['id'] == 'pm1' and i['epoch-captured'] > i['epoch-acked']
            for i in infos), scaled(20))
        lost = q.query('pm1')['epoch-captured']
        r1.kill()
        r1 = replica()
        self.wait_acked(q, lost, 'pm1')
        q.writeq(PMEM_BASE, 1)
        q.flush()
        q.kill()
        self.assertTrue(self.promoted() == self.content('p.img'))
        answer = r1.qmp.cmd('pmem-replica-promote')
        self.assertTrue(self.content(answer['mem-path']) ==
                        self.content('p1.img'))

    def running(self, cmd, smp=1, props=''):
        q = self.adopt(Idle(self.work, cmd=cmd, smp=smp))
        self.work.sparse('p.img', SIZE)
        q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state', replica_options=props)
        return q.start()

    def test_flush_waits(self):
        """The vCPU waits for its flush, then the whole guest does."""
        q = self.running('workload=stalltest', props=',link-timeout-ms=600000')
        q.out.wait_for('^T 0', 20)
        dimm = Dimm(q)
        self.r.freeze()
        q.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 1,
                   scaled(20))
        dimm.eject()
        q.qmp.poll('query-status', lambda s: s['status'] == 'io-error',
                   scaled(20))
        Dimm(q, 1).eject()
        self.assertEqual(q.query()['flushes-waiting'], 1)
        seen = len(q.out.lines)
        self.r.thaw()
        q.out.wait(lambda: len(q.out.lines) > seen + 2 or None, 20, 'flush')
        q.kill()
        reported = q.out.count('^T ')
        stored, mirrored = (int.from_bytes(image[:8], 'little') for image in
                            (self.content('p.img'), self.promoted()))
        self.assertLessEqual(reported, mirrored)
        self.assertLessEqual(mirrored, stored)

    def test_guest_that_flushes(self):
        q = self.running('workload=records', smp=2)
        places = set()
        for n in range(10):
            q.out.wait_for(f'^A 0 {n * 10 + 10}$', 30)
            dimm = Dimm(q, n)
            places.add(dimm.ram_addr)
            q.writeq(dimm.address, n)
            dimm.eject()
        self.assertEqual(len(places), 1)
        seen = q.acks()
        q.out.wait_for(f'^A 0 {seen[0] + 20}$', 30)
        q.kill()
        answer = self.r.ctl('promote')
        verdict = q.judge([answer['mem-path']])
        self.assertTrue(verdict.ok, verdict)


class Iommu(DeviceTest):
    """A disk whose addresses a table of the guest leads to the NVDIMM"""

    IOVA = 0x10000000
    DEVICE = 5

    def start(self, ring=None):
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)
        self.disk = self.rng.randbytes(1 << 20)
        self.work.write('disk.img', self.disk)
        self.work.sparse('p.img', SIZE)
        self.want = bytearray(SIZE)
        q = self.adopt(Idle(self.work))
        q.add(*IntelIommu.OPTIONS,
              '-drive', 'if=none,id=d0,file=disk.img,format=raw',
              '-device', 'virtio-blk-pci,drive=d0,disable-legacy=on,'
              f'iommu_platform=on,addr={self.DEVICE:#x}')
        q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state').start()
        q.settle()
        kw = {} if ring is None else {'ring': ring}
        self.blk = VirtioBlk(q.mem, self.DEVICE, **kw)
        self.iommu = IntelIommu(q.mem, self.DEVICE)
        for page in (self.blk.desc, self.blk.avail, self.blk.used,
                     self.blk.header):
            self.iommu.map(page, page)
        return q

    def read(self, pages):
        """Adjacent pages to the device, and to drawn ones of the NVDIMM"""
        for n, page in enumerate(pages):
            self.iommu.map(self.IOVA + n * PAGE, PMEM_BASE + page * PAGE)
        self.iommu.invalidate()
        size = len(pages) * PAGE
        sector = self.rng.randrange((len(self.disk) - size) // SECTOR)
        self.blk.read(sector, self.IOVA, size)
        for n, page in enumerate(pages):
            at = sector * SECTOR + n * PAGE
            self.want[page * PAGE:page * PAGE + PAGE] = \
                self.disk[at:at + PAGE]

    def test_payload(self):
        q = self.start()
        self.iommu.enable()
        self.blk.start(platform=True)
        epoch = q.query()['epoch-acked']
        for _ in range(10):
            self.read(self.rng.sample(range(SIZE // PAGE), 3))
            q.flush()
        self.assertEqual(q.query()['epoch-acked'], epoch + 10)
        q.kill()
        self.assertTrue(self.promoted() == self.want)

    def test_used_ring(self):
        """All that the device writes: payload, used ring and status"""
        q = self.start(ring=PMEM_BASE)
        self.iommu.enable()
        self.blk.start(platform=True)
        q.flush()
        for n in range(4):
            self.read(self.rng.sample(range(64, SIZE // PAGE), 2))
            q.flush()
            self.assertEqual(q.mem.readw(self.blk.used + 2), n + 1)
        q.kill()
        image = self.promoted()
        self.assertTrue(image == self.content('p.img'))
        self.assertTrue(image[64 * PAGE:] == self.want[64 * PAGE:])


if __name__ == '__main__':
    main()
