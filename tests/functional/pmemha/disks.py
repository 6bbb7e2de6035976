# SPDX-License-Identifier: GPL-2.0-or-later
"""
Drivers of disks, by the qtest protocol: a test decides where each buffer is.
transfer(write, offset, buffers) moves bytes between the disk from `offset` on
and the buffers, (address, size) each, in their order; DiskError if the disk
says that it failed.
"""

import struct
import time

from .paths import scaled
from .virtio import (CONFIG_ADDRESS, CONFIG_DATA, MMIO, RINGS, SECTOR,
                     VirtioBlk, config_select, map_bar)


class DiskError(AssertionError):
    """The disk reported that a transfer failed"""


def total(buffers):
    return sum(size for _, size in buffers)


def until(condition, what, timeout=20):
    limit = time.monotonic() + scaled(timeout)
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError(f'{what} does not answer')


class VirtioBlkDisk(VirtioBlk):
    """virtio-blk-pci"""

    scattered = True            # each buffer has an address of its own

    def transfer(self, write, offset, buffers):
        self.transfers(write, (offset, buffers))

    def transfers(self, write, *requests):
        """(offset, buffers) of each; the device sees them at once"""
        chains = []
        for n, (offset, buffers) in enumerate(requests):
            header = self.header + n * 32
            self.q.write(header, struct.pack('<IIQ', int(write), 0,
                                             offset // SECTOR) + b'\xff')
            chains.append([(header, 16, False),
                           *((a, n, not write) for a, n in buffers),
                           (header + 16, 1, True)])
        self.begin(*chains)
        self.wait_used()
        for n in range(len(requests)):
            if self.q.readb(self.header + n * 32 + 16):
                raise DiskError('virtio-blk: status is not 0')


class VirtioScsiDisk(VirtioBlk):
    """A disk of virtio-scsi-pci; target of its first bus"""

    scattered = True
    queue = 2
    block = SECTOR

    def __init__(self, qtest, slot, target=0):
        super().__init__(qtest, slot)
        self.target = target

    def start(self, platform=False):
        super().start(platform)
        self.ready()
        return self

    def command(self, cdb, data_out=(), data_in=()):
        """The SCSI status"""
        q = self.q
        q.write(self.header, struct.pack(
            '<8sQBBB32s', bytes([1, self.target, 0x40, 0]), self.sent, 0, 0, 0,
            cdb) + b'\xff' * 108)
        self.begin([(self.header, 51, False),
                    *((a, n, False) for a, n in data_out),
                    (self.header + 51, 108, True),
                    *((a, n, True) for a, n in data_in)])
        self.wait_used()
        response = q.read(self.header + 51, 12)
        if response[11]:
            raise DiskError(f'virtio-scsi: response {response[11]}')
        return response[10]

    def ready(self):
        """What has changed is told once for each change."""
        until(lambda: self.command(bytes(6)) == 0, 'virtio-scsi')

    def transfer(self, write, offset, buffers):
        cdb = struct.pack('>BBQIBB', 0x8a if write else 0x88, 0,
                          offset // self.block,
                          total(buffers) // self.block, 0, 0)
        if self.block != SECTOR:                # CDs have no READ(16)
            cdb = struct.pack('>BBIBHB', 0x28, 0, offset // self.block, 0,
                              total(buffers) // self.block, 0)
        status = self.command(cdb, **{'data_out' if write else
                                      'data_in': buffers})
        if status:
            raise DiskError(f'virtio-scsi: status {status}')


class IdeDisk:
    """The first disk of piix3-ide in machine pc"""

    scattered = True
    COMMAND, BUS_MASTER, PRD = 0x1f0, 0xc000, RINGS

    def __init__(self, qtest):
        self.q = qtest

    def start(self):
        for offset, value in ((0x20, self.BUS_MASTER | 1), (4, 5)):
            self.q.outl(CONFIG_ADDRESS, 1 << 31 | 1 << 11 | 1 << 8 | offset)
            self.q.outl(CONFIG_DATA, value)
        return self

    def _command(self, command, sector, count):
        for n, value in enumerate((count & 0xff, sector & 0xff,
                                   sector >> 8 & 0xff, sector >> 16 & 0xff,
                                   0xe0 | sector >> 24, command), 2):
            self.q.outb(self.COMMAND + n, value)

    def transfer(self, write, offset, buffers):
        q = self.q
        q.write(self.PRD, b''.join(
            struct.pack('<IHH', a, n, 0x8000 if last else 0)
            for last, (a, n) in ((i == len(buffers), b)
                                 for i, b in enumerate(buffers, 1))))
        q.outb(self.BUS_MASTER, 0)
        q.outb(self.BUS_MASTER + 2, 6)
        q.outl(self.BUS_MASTER + 4, self.PRD)
        self._command(0xca if write else 0xc8, offset // SECTOR,
                      total(buffers) // SECTOR)
        q.outb(self.BUS_MASTER, 1 if write else 9)
        until(lambda: not q.inb(self.COMMAND + 7) & 0x88 and
              not q.inb(self.BUS_MASTER + 2) & 1, 'the IDE disk')
        q.outb(self.BUS_MASTER, 0)
        if q.inb(self.COMMAND + 7) & 0x21 or q.inb(self.BUS_MASTER + 2) & 2:
            raise DiskError('the IDE disk reports an error')

    def read_pio(self, offset):
        """A sector through the data register"""
        self._command(0x20, offset // SECTOR, 1)
        until(lambda: self.q.inb(self.COMMAND + 7) & 0x88 == 8,
              'the IDE disk')
        return b''.join(struct.pack('<H', self.q.inw(self.COMMAND))
                        for _ in range(SECTOR // 2))


class AhciDisk:
    """The disk at the first port of an ich9-ahci"""

    scattered = True
    LIST, FIS, TABLE = (RINGS + n * 4096 for n in range(3))

    def __init__(self, qtest, slot):
        self.q, self.slot = qtest, slot
        self.base = MMIO + (slot << 20)
        self.port = self.base + 0x100

    def start(self):
        q = self.q
        for offset, value in ((0x24, self.base), (4, 6)):
            config_select(q, self.slot, offset)
            q.outl(CONFIG_DATA, value)
        q.writel(self.base + 4, 1 << 31)
        q.memset(self.LIST, 3 * 4096, 0)
        for offset, value in ((0, self.LIST), (4, 0), (8, self.FIS), (12, 0),
                              (0x18, 0x10), (0x18, 0x11)):
            q.writel(self.port + offset, value)
        return self

    def transfer(self, write, offset, buffers):
        q = self.q
        sector, count = offset // SECTOR, total(buffers) // SECTOR
        lba = sector.to_bytes(6, 'little')
        fis = bytes([0x27, 0x80, 0x35 if write else 0x25, 0, *lba[:3], 0x40,
                     *lba[3:], 0, count & 0xff, count >> 8, 0, 0])
        q.write(self.TABLE, fis.ljust(0x80, b'\0') + b''.join(
            struct.pack('<QII', a, 0, n - 1) for a, n in buffers))
        q.write(self.LIST, struct.pack(
            '<IIQ', 5 | (64 if write else 0) | len(buffers) << 16, 0,
            self.TABLE))
        q.writel(self.port + 0x10, 0xffffffff)
        q.writel(self.port + 0x38, 1)
        until(lambda: not q.readl(self.port + 0x38) & 1, 'the AHCI disk')
        if q.readl(self.port + 0x20) & 0x21:
            raise DiskError('the AHCI disk reports an error')


class NvmeDisk:
    """
    Namespace 1 of an nvme.  Its pages are 4 KiB: a buffer begins anywhere in
    the first of them, and goes on with whole ones.
    """

    scattered = False
    ADMIN_SQ, ADMIN_CQ, SQ, CQ, LIST = (RINGS + n * 4096 for n in range(5))
    ENTRIES = 16

    def __init__(self, qtest, slot):
        self.q, self.slot = qtest, slot
        self.base = MMIO + (slot << 20)
        self.sent = [0, 0]

    def start(self):
        q = self.q
        map_bar(q, self.slot, 0, self.base)
        q.memset(self.ADMIN_SQ, 5 * 4096, 0)
        last = self.ENTRIES - 1
        for offset, value in ((0x24, last << 16 | last),
                              (0x28, self.ADMIN_SQ), (0x2c, 0),
                              (0x30, self.ADMIN_CQ), (0x34, 0),
                              (0x14, 6 << 16 | 4 << 20 | 1)):
            q.writel(self.base + offset, value)
        until(lambda: q.readl(self.base + 0x1c) & 1, 'nvme')
        self._command(0, 5, self.CQ, cdw10=last << 16 | 1, cdw11=1)
        self._command(0, 1, self.SQ, cdw10=last << 16 | 1, cdw11=1 << 16 | 1)
        return self

    def _command(self, queue, opcode, prp1, prp2=0, nsid=0, cdw10=0, cdw11=0,
                 cdw12=0):
        q = self.q
        sq, cq = ((self.ADMIN_SQ, self.ADMIN_CQ), (self.SQ, self.CQ))[queue]
        at, lap = self.sent[queue] % self.ENTRIES, \
            self.sent[queue] // self.ENTRIES
        q.write(sq + at * 64, struct.pack(
            '<BBHI16xQQIIIIII', opcode, 0, at, nsid, prp1, prp2, cdw10, cdw11,
            cdw12, 0, 0, 0))
        self.sent[queue] += 1
        tail = self.sent[queue] % self.ENTRIES
        q.writel(self.base + 0x1000 + queue * 8, tail)
        until(lambda: q.readw(cq + at * 16 + 14) & 1 != lap & 1, 'nvme')
        status = q.readw(cq + at * 16 + 14) >> 1
        q.writel(self.base + 0x1000 + queue * 8 + 4, tail)
        if status:
            raise DiskError(f'nvme: status {status:#x}')

    def transfer(self, write, offset, buffers):
        pages = []
        for address, size in buffers:
            pages.append(address)
            pages += range(address // 4096 * 4096 + 4096, address + size, 4096)
        prp2 = 0
        if len(pages) > 2:
            prp2 = self.LIST
            self.q.write(self.LIST, struct.pack(f'<{len(pages) - 1}Q',
                                                *pages[1:]))
        elif len(pages) == 2:
            prp2 = pages[1]
        self._command(1, 1 if write else 2, pages[0], prp2, nsid=1,
                      cdw10=offset // SECTOR & 0xffffffff,
                      cdw11=offset // SECTOR >> 32,
                      cdw12=total(buffers) // SECTOR - 1)
