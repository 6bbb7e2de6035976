#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Migration by page map beside other capabilities and by each transport; and drawn
combinations of stores, transfers and faults of the disk.

    test_page_map_ways.py [--seed N] [--rounds N] [PATTERN]
"""

import os

from pmemha import main
from pmemha.disks import VirtioBlkDisk
from pmemha.migrate import set_caps
from pmemha.nbd import NbdServer
from pmemha.options import option
from pmemha.pagemap import MIB, OTHER, PAGE, RINGS, SLOT, PageMapTest
from pmemha.qmp import QmpError

# Of the test that draws everything
ROUNDS = option('rounds', 6)


class Ways(PageMapTest):
    """Channels and capabilities"""

    def go(self, uri='unix:dst.mig', dst_args=(), src_args=(), params=None,
           dst_params=None, **caps):
        disk = self.raw()
        src = self.source(disk, *src_args, caps=caps)
        n = len(self.fill(src))
        dst = self.destination(disk, *dst_args, uri='defer', caps=caps)
        if dst_params:
            dst.qmp.cmd('migrate-set-parameters', **dst_params)
        if uri.startswith('tcp:'):
            dst.qmp.cmd('migrate-incoming', uri='tcp:127.0.0.1:0')
            address = dst.qmp.cmd('query-migrate')['socket-address'][0]
            uri += address['port']
        else:
            dst.qmp.cmd('migrate-incoming', uri=uri)
        for address in self.rng.sample(range(OTHER, OTHER + 8 * MIB, PAGE),
                                       200):
            self.store(src, address)
        stats = self.moved(src, dst, uri, **(params or {}))
        self.assertEqual(stats['mapped-pages'], n)

    def test_tcp(self):
        self.go('tcp:127.0.0.1:')

    def test_multifd(self):
        self.go(multifd=True)

    def test_multifd_compressed(self):
        params = {'multifd-compression': 'zlib'}
        self.go(multifd=True, params=params, dst_params=params)

    def test_multifd_legacy_zero_pages(self):
        params = {'zero-page-detection': 'legacy'}
        self.go(multifd=True, params=params, dst_params=params)

    def test_auto_converge(self):
        self.go(auto_converge=True)

    def test_return_path(self):
        self.go(return_path=True)

    def test_tls(self):
        """It needs the capability return-path; see page-map.rst, Limits."""
        os.mkdir(self.work.path('psk'))
        self.work.write('psk/keys.psk', 'qemu:' + '5a' * 32 + '\n')
        params = {'tls-creds': 'tls0'}
        self.go('tcp:127.0.0.1:',
                src_args=('-object',
                          'tls-creds-psk,id=tls0,endpoint=client,dir=psk'),
                dst_args=('-object',
                          'tls-creds-psk,id=tls0,endpoint=server,dir=psk'),
                params=params, dst_params=params, return_path=True)

    def test_exec_without_an_answer(self):
        """Nobody answers, so nothing is mapped, and nothing breaks."""
        src = self.source(self.raw())
        self.fill(src)
        self.begin(src, 'exec:cat > guest.file')
        self.assertIsNone(self.end(src))

    def test_destination_without_the_capability(self):
        disk = self.raw()
        src = self.source(disk)
        self.fill(src)
        dst = self.destination(disk)
        set_caps(dst, x_page_map=False)
        before = self.digest(src)
        self.begin(src)
        self.assertEqual(dst.wait(30), 1)
        self.assertIn("'x-page-map', which is off here: set it",
                      dst.output())
        src.qmp.poll('query-migrate', lambda i: i['status'] in
                     ('failed', 'completed'), 30)
        if src.qmp.cmd('query-migrate')['status'] == 'failed':
            self.goes_on(src, before)

    def test_source_without_the_object(self):
        disk = self.raw()
        src = self.source(disk, page_map=False)
        self.fill(src)
        dst = self.destination(disk)
        self.assertIsNone(self.moved(src, dst))

    def test_destination_that_records(self):
        """Each read of a disk would have to be recorded."""
        disk = self.raw()
        src = self.source(disk)
        self.fill(src)
        dst = self.destination(
            disk, '-icount', 'shift=7,rr=record,rrfile=rr.bin', accel='tcg')
        before = self.digest(src)
        self.begin(src)
        self.assertEqual(dst.wait(30), 1)
        self.assertIn("start without '-icount rr='", dst.output())
        self.end(src, 'failed|completed')
        if src.qmp.cmd('query-migrate')['status'] == 'failed':
            self.goes_on(src, before)

    def test_refused(self):
        q = self.source(self.raw())
        for cap in ('xbzrle', 'background-snapshot',
                    'x-ignore-shared', 'rdma-pin-all', 'x-colo'):
            with self.assertRaises(QmpError) as e:
                set_caps(q, **{cap: True})
            self.assertIn(cap if cap != 'background-snapshot' else 'ackground',
                          str(e.exception))


class Draw(PageMapTest):
    """
    Stores, reads and writes of the guest during the migration, a disk that
    fails and is stale at the destination, several channels
    """

    timeout = max(120, 4 * ROUNDS)

    def round(self, n):
        server = self.nbd_named(n)
        view = server.views['dst']
        rng = self.rng
        caps = {'multifd': rng.random() < 0.5}
        server.follows = rng.random() < 0.7
        src = self.source_named(n, server, caps)
        pages = self.fill(src)
        bad = {rng.randrange(len(self.content) // MIB) for _ in range(2)}
        # Not the probes: too many that fail make it another disk.
        view.fails = lambda offset, size: size > PAGE and any(
            offset < (b + 1) * MIB and offset + size > b * MIB for b in bad)
        dst = self.destination(server.blockdev('dst', 'n0'), name=f'dst{n}',
                               uri='defer', caps=caps)
        dst.qmp.cmd('migrate-incoming', uri=f'unix:dst{n}.mig')
        # One read waits, so the guest runs until all is done (M6).
        kept = next(m for m in range(len(self.content) // MIB)
                    if m not in bad)
        view.hold(lambda offset, size: size > PAGE and
                  offset < (kept + 1) * MIB and offset + size > kept * MIB)
        self.begin(src, f'unix:dst{n}.mig',
                   max_bandwidth=rng.choice((4, 16, 64)) << 20)
        view.wait_held()
        for _ in range(rng.randrange(20, 120)):
            at = rng.randrange(0, len(pages) - 16)
            kind = rng.randrange(3)
            if kind == 0:
                self.store(src, rng.choice(pages))
            else:
                src.blk.transfer(kind == 1, at * PAGE, [
                    (a, PAGE) for a in rng.sample(pages, 16)])
        view.release()
        stats = self.end(src)
        self.same(src, dst)
        for q in (src, dst):
            q.kill()
        return stats

    def nbd_named(self, n):
        server = NbdServer(self.work, self.content, f'nbd{n}')
        self.addCleanup(server.close)
        return server

    def source_named(self, n, server, caps):
        src = self.machine(f'src{n}', server.blockdev('src', 'n0'),
                           sample=self.rng.random() < 0.5, caps=caps)
        src.blk = VirtioBlkDisk(src.mem, SLOT, ring=RINGS).start()
        return src

    def test_draw(self):
        mapped = nacked = 0
        for n in range(ROUNDS):
            stats = self.round(n)
            mapped += stats['mapped-pages']
            nacked += stats['nacked']
        self.diag(f'{ROUNDS} rounds, {mapped} pages placed, {nacked} refused')
        self.assertGreater(mapped, 0)
        self.assertGreater(nacked, 0)


if __name__ == '__main__':
    main()
