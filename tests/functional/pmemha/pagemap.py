# SPDX-License-Identifier: GPL-2.0-or-later
"""
Two QEMUs with one disk, and a migration between them whose pages come from the
disk.  No guest code runs: a driver by the qtest protocol reads and writes the
disk, and stores to memory, so a test decides what is in flight when.
"""

import hashlib
import os
import random
import subprocess

from .disks import VirtioBlkDisk
from .migrate import set_caps
from .nbd import NbdServer
from .options import option
from .paths import program, scaled
from .testcase import TestCase

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
PAGE = 4096
MIB = 1 << 20
MEMORY = 64                     # MiB
RINGS = 0x100000
# Memory that the disk's content is read to, and other memory
WINDOW = 0x1000000
OTHER = 0x3000000
SLOT = 5
# How QEMU may name the end of a migration that was cancelled: it closes the
# return path first, whose reader may be faster than the new state.
CANCELLED = 'cancelled|failed'
# Ends a migration can have
ENDS = ('completed', 'failed', 'cancelled')


class PageMapTest(TestCase):
    """`disk`: the size in MiB of the disk that setUp() fills at random"""

    disk = 8
    timeout = 60

    def setUp(self):
        self.diag(f'seed {SEED}')
        self.rng = random.Random(SEED)
        self.content = self.rng.randbytes(self.disk * MIB)

    def nbd(self):
        server = NbdServer(self.work, self.content)
        self.addCleanup(server.close)
        return server

    def machine(self, name, disk, *args, props='', sample=False, caps=None,
                page_map=True, accel='qtest'):
        """`disk`: options that make the node n0"""
        q = self.qemu(name, machine='pc', accel=accel, memory=f'{MEMORY}M')
        q.mem = q.qtest()
        if page_map:
            q.add('-object', 'page-map,id=map0,sample=' +
                  ('on' if sample else 'off'))
        q.add(*disk, '-device', 'virtio-blk-pci,drive=n0,id=disk0,'
              f'share-rw=on,disable-legacy=on,addr={SLOT:#x}{props}', *args)
        q.start()
        set_caps(q, x_page_map=True, events=True, **(caps or {}))
        return q

    def raw(self, name='disk.img'):
        if not os.path.exists(self.work.path(name)):
            self.work.write(name, self.content)
        return ('-blockdev', 'driver=file,node-name=n0,locking=off,'
                f'filename={name}')

    def image(self, *args):
        """qemu-img"""
        subprocess.run([program('QEMU_IMG'), *args], check=True,
                       cwd=self.work.dir, stdout=subprocess.DEVNULL)

    def luks(self, raw='disk.img'):
        """disk.luks with the content of `raw`: (its secret, its options)"""
        secret = 'secret,id=s0,data=abc123'
        self.image('create', '--object', secret, '-f', 'luks', '-o',
                   'key-secret=s0,iter-time=10', 'disk.luks',
                   str(len(self.content)))
        self.image('convert', '-n', '--object', secret, '-f', 'raw', raw,
                   '--target-image-opts',
                   'driver=luks,key-secret=s0,file.filename=disk.luks')
        return secret, ('driver=luks,key-secret=s0,file.driver=file,'
                        'file.locking=off,file.filename=disk.luks')

    def source(self, disk, *args, **kw):
        src = self.machine('src', disk, *args, **kw)
        src.blk = VirtioBlkDisk(src.mem, SLOT, ring=RINGS)
        src.blk.flushes = True      # the disk may keep writes in a cache
        src.blk.start()
        return src

    def destination(self, disk, *args, name='dst', uri=None, **kw):
        return self.machine(name, disk, '-S', '-incoming',
                            uri or f'unix:{name}.mig', *args, **kw)

    def fill(self, q, pages=None, offset=0, write=False):
        """
        Read the disk, from `offset` on, to drawn pages of the window; the
        addresses in the disk's order.
        """
        n = (len(self.content) - offset) // PAGE if pages is None else pages
        found = self.rng.sample(range(WINDOW, OTHER, PAGE), n)
        for first in range(0, n, 32):
            q.blk.transfer(write, offset + first * PAGE, [
                (a, PAGE) for a in found[first:first + 32]])
        return found

    def store(self, q, address, data=None):
        q.mem.write(address, data or self.rng.randbytes(PAGE))

    def begin(self, src, uri='unix:dst.mig', **params):
        # Within the usual limit all that there is could be sent: nothing would
        # be mapped if the destination answered late.
        src.qmp.cmd('migrate-set-parameters',
                    **{'max_bandwidth': 1 << 30, 'downtime_limit': 1,
                       **params})
        src.qmp.cmd('migrate', uri=uri)

    def end(self, src, want='completed', timeout=40):
        info = src.qmp.poll('query-migrate',
                            lambda i: i.get('status') in ENDS,
                            scaled(timeout))
        self.assertIn(info['status'], want.split('|'), info)
        return info.get('page-map')

    def resume(self, src):
        """After a migration that was completed"""
        src.qmp.poll('query-status', lambda s: s['status'] == 'postmigrate',
                     scaled(20))
        src.qmp.cmd('cont')

    def arrived(self, dst):
        dst.qmp.poll('query-migrate',
                     lambda i: i.get('status') == 'completed', scaled(20))

    def digest(self, q, rings=True):
        """Of all memory, or without the driver's; nothing runs meanwhile"""
        name = f'{q.name}.mem'
        q.qmp.cmd('pmemsave', timeout=30, val=0, size=MEMORY * MIB,
                  filename=name)
        with open(self.work.path(name), 'rb') as f:
            data = f.read()
        if not rings:
            data = data[:RINGS] + data[WINDOW:]
        found = hashlib.sha256(data).hexdigest()
        os.unlink(self.work.path(name))
        return found

    def same(self, src, dst, rings=True):
        """The guest's memory, bit by bit"""
        self.arrived(dst)
        self.assertEqual(self.digest(src, rings), self.digest(dst, rings))

    def moved(self, src, dst, uri='unix:dst.mig', **params):
        """Migrate, compare; the statistics"""
        self.begin(src, uri, **params)
        stats = self.end(src)
        self.same(src, dst)
        return stats

    def ram(self, q):
        return q.qmp.cmd('query-migrate')['ram']

    def goes_on(self, src, want):
        """After a migration that failed: it runs, with this memory"""
        self.assertEqual(src.qmp.cmd('query-status')['status'], 'running')
        self.assertEqual(self.digest(src), want)
