# SPDX-License-Identifier: GPL-2.0-or-later
"""
A driver of a virtio-blk device on a PCI bus, by the qtest protocol: no guest
takes part, so a test decides where each buffer is and what happens next.
"""

import struct
import time

from .paths import scaled

CONFIG_ADDRESS, CONFIG_DATA = 0xcf8, 0xcfc
COMMON, NOTIFY = 1, 2
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
DESC_NEXT, DESC_WRITE = 1, 2
SECTOR = 512
# Where the memory of PCI devices is, and RAM that no guest of ours uses
MMIO = 0xc0000000
RINGS = 0x2000000


def config_select(qtest, slot, offset):
    qtest.outl(CONFIG_ADDRESS, 1 << 31 | slot << 11 | offset & ~3)


def map_bar(qtest, slot, bar, address):
    """Let a device of the first bus have its 64-bit BAR at an address."""
    for offset, value in ((0x10 + bar * 4, address & 0xffffffff),
                          (0x14 + bar * 4, address >> 32), (4, 6)):
        config_select(qtest, slot, offset)
        qtest.outl(CONFIG_DATA, value)


class VirtioBlk:
    """Device in slot `slot` of the first bus, with one request at a time"""

    queue = 0

    def __init__(self, qtest, slot, ring=RINGS):
        self.q = qtest
        self.slot = slot
        # A page each: descriptors, available ring, used ring, header
        self.desc, self.avail, self.used, self.header = (
            ring + (slot * 4 + n) * 4096 for n in range(4))
        self.regions = {}
        self.sent = 0
        self.flushes = False    # set before start(): writes may be cached

    def _config(self, offset):
        config_select(self.q, self.slot, offset)

    def config_read(self, offset):
        self._config(offset)
        return self.q.inl(CONFIG_DATA) >> offset % 4 * 8

    def _map(self):
        base = MMIO + (self.slot << 20)
        map_bar(self.q, self.slot, 4, base)
        at = self.config_read(0x34) & 0xff
        while at:
            if self.config_read(at) & 0xff == 9:
                kind = self.config_read(at + 3) & 0xff
                assert kind > NOTIFY or self.config_read(at + 4) & 0xff == 4
                self.regions.setdefault(kind, (
                    base + self.config_read(at + 8), at))
            at = self.config_read(at + 1) & 0xff
        self.common = self.regions[COMMON][0]

    def reset(self):
        """The driver is done with the device, which stops."""
        self.q.writeb(self.common + 0x14, 0)
        self.sent = 0

    def start(self, platform=False):
        """
        Reset, negotiate, one queue; `platform`: its addresses go through an
        IOMMU (device property iommu_platform).
        """
        q = self.q
        self._map()
        self.reset()
        common = self.common
        q.writeb(common + 0x14, ACKNOWLEDGE | DRIVER)
        # VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM
        # VIRTIO_BLK_F_FLUSH
        for word, features in ((0, self.flushes << 9),
                               (1, 3 if platform else 1)):
            q.writel(common + 8, word)
            q.writel(common + 12, features)
        q.writeb(common + 0x14, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert q.readb(common + 0x14) & FEATURES_OK
        q.writew(common + 0x16, self.queue)             # queue_select
        # The used ring of more entries would not fit into its page.
        self.size = min(q.readw(common + 0x18), 256)
        q.writew(common + 0x18, self.size)
        for address in (self.desc, self.avail, self.used):
            q.memset(address, 4096, 0)
        for offset, address in ((0x20, self.desc), (0x28, self.avail),
                                (0x30, self.used)):
            q.writel(common + offset, address & 0xffffffff)
            q.writel(common + offset + 4, address >> 32)
        address, at = self.regions[NOTIFY]
        self.notify = address + (q.readw(common + 0x1e) *
                                 self.config_read(at + 16))
        q.writew(common + 0x1c, 1)                      # queue_enable
        q.writeb(common + 0x14,
                 ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return self

    def begin(self, *chains):
        """Requests: (address, size, device writes) of each buffer"""
        q, first = self.q, 0
        for chain in chains:
            q.write(self.desc + first * 16, b''.join(struct.pack(
                '<QIHH', address, size,
                (DESC_WRITE if writes else 0) |
                (DESC_NEXT if n < len(chain) else 0), first + n % len(chain))
                for n, (address, size, writes) in enumerate(chain, 1)))
            q.writew(self.avail + 4 + self.sent % self.size * 2, first)
            self.sent += 1
            first += len(chain)
        q.writew(self.avail + 2, self.sent & 0xffff)
        q.writew(self.notify, self.queue)

    def wait_used(self, timeout=20):
        """Until the device has reported that it is done"""
        limit = time.monotonic() + scaled(timeout)
        while self.q.readw(self.used + 2) != self.sent & 0xffff:
            if time.monotonic() > limit:
                raise AssertionError('the device does not answer')

    def begin_read(self, sector, address, size):
        """Have the device read sectors into guest memory."""
        self.q.write(self.header, struct.pack('<IIQ', 0, 0, sector) + b'\xff')
        self.begin([(self.header, 16, False), (address, size, True),
                    (self.header + 16, 1, True)])

    def read(self, sector, address, size, timeout=20):
        """Until the device has reported that it is done"""
        self.begin_read(sector, address, size)
        self.wait_used(timeout)
        status = self.q.readb(self.header + 16)
        if status:
            raise AssertionError(f'the device reports status {status}')
