#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Live migration of a TCG guest with a plain nvdimm, no pmem-ha in sight.

QEMU as released passes a block-relative address where a ram_addr_t is wanted
when it synchronises the dirty bitmap (patches/060-*).  So the TLBs of the
first block are reset, which is the NVDIMM's backend, whatever block was
synchronised: with an NVDIMM smaller than the guest's RAM it aborts, and with
a larger one stores of the guest to its RAM may be missed.

And it resets none when all that was dirty in a block was still waiting to be
sent: stores that follow are missed, too.
"""

import hashlib
import json
import os
import unittest

from pmemha import (NO_STOCK, ChannelClosed, QmpError, TestCase, main, scaled,
                    stock_program)
from pmemha.baremetal import BASE, BareMetal

RAM = 64 << 20
LARGE = 160 << 20
SMALL = 8 << 20
BALLAST = os.urandom(4 << 20)


class NvdimmTest(TestCase):

    timeout = 120

    def guest(self, name, size, smp, binary):
        """It stores to a few pages of its NVDIMM as fast as it can."""
        self.work.sparse(f'{name}.img', size)
        # Content that is sent in full keeps the migration live for a while.
        with open(self.work.path(f'{name}.img'), 'r+b') as f:
            f.seek(size - len(BALLAST))
            f.write(BALLAST if name.startswith('src') else b'')
        g = self.adopt(BareMetal(
            self.work, 'workload=records pages=2 area=8 every=200', name=name,
            smp=smp, binary=binary))
        return g.pmem_file(f'{name}.img', size)

    def memory(self, g, what, addr, size):
        name = f'{g.name}.{what}'
        g.qmp.cmd('pmemsave', timeout=30, val=addr, size=size, filename=name)
        with open(self.work.path(name), 'rb') as f:
            data = f.read()
        os.unlink(self.work.path(name))
        return data

    def differing(self, src, dst, what, addr, size):
        """How many pages are not the same at both ends"""
        a, b = (self.memory(g, what, addr, size) for g in (src, dst))
        return sum(a[i:i + 4096] != b[i:i + 4096]
                   for i in range(0, size, 4096))


class Migration(NvdimmTest):

    def migrate(self, size, smp=2, binary=None):
        """
        (source, destination), both stopped, after a live migration; None if
        the source aborted
        """
        kind = 'stock' if binary else 'ours'
        src = self.guest(f'src-{kind}', size, smp, binary).start()
        dst = self.guest(f'dst-{kind}', size, smp, binary)
        dst.add('-S', '-incoming', f'unix:{kind}.mig')
        dst.start()
        for cpu in range(smp):
            src.out.wait_for(rf'^A {cpu} ', 30)
        before = src.out.count('^A ')
        try:
            src.qmp.cmd('migrate-set-parameters', max_bandwidth=8 << 20)
            src.qmp.cmd('migrate', uri=f'unix:{kind}.mig')
            info = src.qmp.poll(
                'query-migrate', lambda i: i.get('status') in
                ('completed', 'failed'), scaled(60))
        except (ChannelClosed, OSError):
            src.wait(20)
            dst.kill()
            return None
        self.assertEqual(info['status'], 'completed', json.dumps(info))
        dst.qmp.poll('query-migrate',
                     lambda i: i.get('status') == 'completed', scaled(30))
        self.assertGreaterEqual(info['ram']['dirty-sync-count'], 2)
        self.assertGreater(src.out.count('^A '), before,
                           'the guest did not run while it migrated')
        return src, dst

    def check(self, size, smp):
        pair = self.migrate(size, smp)
        self.assertIsNotNone(pair, 'the source aborted')
        src, dst = pair
        for what, addr, length in (('ram', 0, RAM), ('nv', BASE, size)):
            a, b = (hashlib.sha256(self.memory(g, what, addr, length))
                    for g in (src, dst))
            self.assertEqual(a.hexdigest(), b.hexdigest(), what)
        # The image must be a state that the guest's stores can have.
        with open(self.work.path('dst-ours.img'), 'rb') as f:
            image = f.read()
        self.assertEqual(image[-len(BALLAST):], BALLAST)
        verdict = src.judge([image[:-len(BALLAST)]])
        self.assertTrue(verdict.ok, verdict)
        dst.qmp.cmd('cont')
        for cpu in range(smp):
            dst.out.wait_for(rf'^A {cpu} ', 30)

    def test_nvdimm_larger_than_ram(self):
        self.check(LARGE, 1)

    def test_nvdimm_smaller_than_ram(self):
        self.check(SMALL, 2)

    def test_stock_needs_the_patch(self):
        """For the record only: a later release may have mended it."""
        binary = stock_program('QEMU')
        if not binary:
            raise unittest.SkipTest(NO_STOCK)
        for size in (SMALL, LARGE):
            what = f'stock, NVDIMM of {size >> 20} MiB:'
            try:
                pair = self.migrate(size, 1, binary)
            except (AssertionError, QmpError) as e:
                self.diag(f'{what} {e}')
                continue
            if not pair:
                self.diag(f'{what} aborts as expected')
                continue
            self.diag(f"{what} completes, pages lost: RAM "
                      f"{self.differing(*pair, 'ram', 0, RAM)}, NVDIMM "
                      f"{self.differing(*pair, 'nv', BASE, size)}")
            for g in pair:
                g.kill()


class Waiting(NvdimmTest):
    """
    The bitmap is read while all that the guest has stored to in its NVDIMM
    waits to be sent, and then again not before it stops.

    The order of things: RAM, as the larger block, is sent first.  When there
    is less than LEFT, the bitmap is read.  A part of RAM that had been sent by
    then was written to meanwhile, so that the migration goes on: with the
    NVDIMM, and then with that part.
    """

    LEFT = 40 << 20
    # Written to before and after it was sent; behind what the guest uses
    PART, END = 8 << 20, 28 << 20

    def lost(self):
        """Pages of (RAM, NVDIMM) that differ at the end"""
        src = self.guest('src', SMALL, 1, None)
        ram = src.qtest()
        src.start()
        dst = self.guest('dst', SMALL, 1, None)
        dst.add('-S', '-incoming', 'unix:mig')
        dst.start()
        src.out.wait_for('^A 0 ', 30)
        # No page of zeroes: each takes its time
        ram.memset(self.PART, RAM - self.PART, 0xa5)

        self.params(src, self.LEFT, rate=4096)
        src.qmp.cmd('migrate', uri='unix:mig')
        self.wait(src, lambda r: r.get('dirty-sync-count') == 1)
        ram.memset(self.PART, self.END - self.PART, 0x5a)
        self.stores(src)
        self.params(src, self.LEFT, rate=8 << 20)
        self.wait(src, lambda r: r['dirty-sync-count'] == 2)
        self.params(src, 0, rate=8 << 20)

        left = self.wait(src, lambda r: r['remaining'] < self.END - self.PART)
        self.assertEqual(left['dirty-sync-count'], 2, left)
        self.stores(src)
        self.params(src, self.LEFT, rate=1 << 30)
        for q in (src, dst):
            q.qmp.poll('query-migrate',
                       lambda i: i.get('status') == 'completed', scaled(30))
        return (self.differing(src, dst, 'ram', 0, RAM),
                self.differing(src, dst, 'nv', BASE, SMALL))

    @staticmethod
    def params(g, left, rate):
        """It reads the bitmap when there is less than `left` to send."""
        g.qmp.raw_cmd('migrate-set-parameters', {
            'downtime-limit': 1000, 'max-bandwidth': rate,
            'avail-switchover-bandwidth': max(left, 1)})

    @staticmethod
    def stores(g):
        """It has stored to all pages that it does store to."""
        g.out.skip()
        for _ in range(10):
            g.out.wait_for('^A 0 ', 30)

    def wait(self, g, condition):
        """The figures of RAM, once they are so; it has not ended."""
        info = g.qmp.poll('query-migrate', lambda i: i['status'] not in
                          ('setup', 'active') or condition(i.get('ram', {})),
                          scaled(60))
        self.assertEqual(info['status'], 'active', info)
        return info['ram']

    def test_later_stores(self):
        self.assertEqual(self.lost(), (0, 0))


if __name__ == '__main__':
    main()
