# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a guest's driver of intel-iommu does, by the qtest protocol: devices of
the first bus see addresses that a table of three levels leads elsewhere.
"""

REGISTERS = 0xfed90000
GCMD, GSTS, RTADDR, CCMD, IOTLB = 0x18, 0x1c, 0x20, 0x28, 0xf8
ROOT_TABLE, TRANSLATION = 1 << 30, 1 << 31
PRESENT, READ_WRITE = 1, 3
WIDTH_39 = 1                    # of a context: three levels
PAGE = 4096
# RAM that no guest of ours uses, nor pmemha.virtio
TABLES = 0x2800000


class IntelIommu:
    """One table for a device in slot `slot` of the first bus"""

    OPTIONS = ('-device', 'intel-iommu,intremap=off,aw-bits=39')

    def __init__(self, qtest, slot, tables=TABLES):
        self.q = qtest
        self.free = tables
        root, context, self.top = (self._page() for _ in range(3))
        self._entry(root, context | PRESENT)
        # 16 bytes for each function; domain 1
        self._entry(context + (slot << 3) * 16, self.top | PRESENT)
        self._entry(context + (slot << 3) * 16 + 8, 1 << 8 | WIDTH_39)
        self.q.writeq(REGISTERS + RTADDR, root)
        self._command(ROOT_TABLE)

    def _page(self):
        at, self.free = self.free, self.free + PAGE
        self.q.memset(at, PAGE, 0)
        return at

    def _entry(self, at, value):
        self.q.writeq(at, value)

    def _command(self, bit):
        self.q.writel(REGISTERS + GCMD, bit)
        assert self.q.readl(REGISTERS + GSTS) & bit

    def enable(self):
        self._command(TRANSLATION)

    def map(self, iova, address):
        """A page, in place of what was there"""
        table = self.top
        for shift in (30, 21):
            at = table + (iova >> shift & 511) * 8
            entry = self.q.readq(at)
            if not entry:
                entry = self._page() | READ_WRITE
                self._entry(at, entry)
            table = entry & ~(PAGE - 1)
        self._entry(table + (iova >> 12 & 511) * 8, address | READ_WRITE)

    def invalidate(self):
        """All that it has cached is forgotten."""
        self.q.writeq(REGISTERS + CCMD, 1 << 63 | 1 << 61)
        self.q.writeq(REGISTERS + IOTLB, 1 << 63 | 1 << 60)
