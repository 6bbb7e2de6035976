#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
QEMU as released and ours migrate to each other, with and without a page-map
object, while the capability is off; and say why not while it is on.  The guest
reads, writes and stores meanwhile and verifies each page; all memory is
compared.  test_off.py compares the streams.
"""

from pmemha import NO_STOCK, main, skip_unless, stock_program
from pmemha.mapguest import MIB, PageMapTest, qemu_img
from pmemha.migrate import set_caps, set_params

BUSY = 'every=8 phase=mix think=20000 check=1'


def have_stock():
    return stock_program('QEMU') is not None


class StockTest(PageMapTest):
    mib = 16

    def setUp(self):
        super().setUp()
        self.disk = self.image()
        self.n = 0

    def first(self, kind, **kw):
        """A guest that runs; kind: stock, plain (ours) or mapped"""
        g = self.source([self.disk], BUSY, **self.kind(kind), **kw)
        g.goes_on('mix')
        return g

    @staticmethod
    def kind(kind):
        return {'has_map': kind == 'mapped',
                'binary': stock_program('QEMU') if kind == 'stock' else None}

    def next(self, kind):
        """A destination, and its address"""
        self.n += 1
        g = self.destination([self.disk], name=f'dst{self.n}', uri='defer',
                             **self.kind(kind))
        return g, f'unix:mig{self.n}'

    def hop(self, src, kind, caps=None):
        """The guest moves on; it runs there."""
        dst, uri = self.next(kind)
        for q in (src, dst):
            set_caps(q, **(caps or {}))
        dst.qmp.cmd('migrate-incoming', uri=uri)
        self.start_migration(src, uri, downtime_limit=300)
        self.ended(src, 'completed')
        self.assertNotIn('page-map', src.qmp.cmd('query-migrate'))
        self.arrived(src, dst, 'mix')
        return dst


class Both(StockTest):
    """Each hop is one way; a guest goes there and back."""

    @skip_unless(have_stock, NO_STOCK)
    def test_plain(self):
        g = self.hop(self.first('stock'), 'plain')
        self.hop(g, 'stock')

    @skip_unless(have_stock, NO_STOCK)
    def test_object(self):
        g = self.hop(self.first('stock'), 'mapped')
        self.hop(g, 'stock')

    @skip_unless(have_stock, NO_STOCK)
    def test_object_first(self):
        """Most of its memory has an entry; of no interest to stock"""
        src = self.first('mapped')
        info = src.qmp.cmd('query-page-map')
        self.assertGreater(info['mapped-pages'], self.pages() // 4, info)
        g = self.hop(src, 'stock')
        self.hop(g, 'mapped')

    @skip_unless(have_stock, NO_STOCK)
    def test_multifd(self):
        g = self.hop(self.first('mapped'), 'stock', {'multifd': True})
        self.hop(g, 'mapped', {'multifd': True})

    @skip_unless(have_stock, NO_STOCK)
    def test_no_longer_on(self):
        """The section stays registered, and is not in the stream."""
        src = self.first('mapped')
        set_caps(src, x_page_map=True)
        set_caps(src, x_page_map=False)
        self.hop(src, 'stock')

    @skip_unless(have_stock, NO_STOCK)
    def test_after_one_that_failed(self):
        """On, then cancelled, then off"""
        src = self.first('mapped')
        set_caps(src, x_page_map=True)
        dst, uri = self.next('mapped')
        set_caps(dst, x_page_map=True)
        dst.qmp.cmd('migrate-incoming', uri=uri)
        self.start_migration(src, uri, max_bandwidth=MIB)
        src.qmp.poll('query-migrate', lambda i: i['status'] == 'active', 20)
        src.qmp.cmd('migrate_cancel')
        self.ended(src, 'cancelled|failed')
        dst.kill()
        set_caps(src, x_page_map=False)
        self.hop(src, 'stock')


class On(StockTest):
    @skip_unless(have_stock, NO_STOCK)
    def test_to_stock(self):
        """It does not know the section, and names it; the guest goes on."""
        src = self.first('mapped')
        set_caps(src, x_page_map=True)
        dst, uri = self.next('stock')
        dst.qmp.cmd('migrate-incoming', uri=uri)
        self.start_migration(src, uri)
        self.ended(src, 'failed')
        self.assertNotEqual(dst.wait(20), 0)
        self.assertIn("section or instance 'page-map'", dst.output())
        self.runs_on(src, 'mix')
        # Without it, the same guest gets there.
        set_caps(src, x_page_map=False)
        self.hop(src, 'stock')

    @skip_unless(have_stock, NO_STOCK)
    def test_from_stock(self):
        """A destination that could take a map takes a stream without one."""
        src = self.first('stock')
        dst, uri = self.next('mapped')
        set_caps(dst, x_page_map=True)
        dst.qmp.cmd('migrate-incoming', uri=uri)
        set_params(src, downtime_limit=300)
        self.start_migration(src, uri)
        self.arrived(src, dst, 'mix')


class Off(PageMapTest):
    def test_corrupt(self):
        """
        Metadata that looks corrupt while the map reads may only be old.  At
        other times QEMU says so of an inactive image, too.
        """
        qemu_img(self.work, 'create', '-f', 'qcow2', 'disk.qcow2', '64M')
        with open(self.work.path('disk.qcow2'), 'r+b') as f:
            f.seek(40)
            f.seek(int.from_bytes(f.read(8), 'big'))
            f.write((0x2a2a2a2a).to_bytes(8, 'big'))
        q = self.qemu(machine='none', accel='qtest')
        q.add('-object', 'page-map,id=map0', '-incoming', 'defer',
              '-blockdev', 'driver=qcow2,node-name=node0,file.driver=file,'
              'file.filename=disk.qcow2').start()
        set_caps(q, x_page_map=True)
        q.hmp('qemu-io node0 "read 0 512"')
        event = q.qmp.wait_event('BLOCK_IMAGE_CORRUPTED', 10)
        self.assertFalse(event['data']['fatal'])


if __name__ == '__main__':
    main()
