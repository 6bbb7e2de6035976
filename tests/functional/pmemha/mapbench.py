# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests/bench/page-map measures: one guest, migrated again and again.  The
destination is killed after each migration and the source goes on, so that each
peer and each round finds the same guest.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import time

from .compare import cpu_ms
from .linux import LinuxGuest
from .netlab import Link, Namespace
from .paths import program_path, scaled, stock_program
from .process import Process
from .qmp import QmpError

MIB = 1 << 20
RAM = 1536 * MIB
FILE = 64 * MIB
PORT = 4444
NBD_PORT = 10809
ENDED = ('completed', 'failed', 'cancelled')
# More than any link here: the link is what limits.
NO_LIMIT = 100 << 30


class Peer:
    """
    One way to migrate.  `source` says which guest it needs: 'stock' (QEMU as
    released), 'ours' (with a map), 'sample' (a map with digests).
    """

    def __init__(self, name, source='stock', caps=(), params=None, before=None,
                 why_not=None):
        self.name = name
        self.source = source
        self.caps = list(caps)
        self.params = params or {}
        self.before = before            # command in the guest, in the time
        self.why_not = why_not          # it cannot be measured here

    @property
    def mapped(self):
        return 'x-page-map' in self.caps


DROP = 'sync; echo 3 > /proc/sys/vm/drop_caches'

PEERS = {p.name: p for p in (
    Peer('stock'),
    Peer('stock again'),
    Peer('multifd', caps=['multifd']),
    Peer('multifd+zstd', caps=['multifd'],
         params={'multifd-compression': 'zstd'}),
    Peer('xbzrle', caps=['xbzrle']),
    Peer('drop caches', before=DROP),
    Peer('drop caches+hint', source='hint', before=DROP),
    Peer('free-page-hint', source='hint'),
    Peer('ours, off', source='ours'),
    Peer('ours', source='ours', caps=['x-page-map']),
    Peer('ours+multifd', source='ours', caps=['x-page-map', 'multifd']),
    Peer('ours, sample', source='sample', caps=['x-page-map']),
)}


def make_disk(work, name, mib, seed):
    """ext4 with files that nothing compresses; made without mounting it"""
    files = work.path(f'{name}.files')
    os.mkdir(files)
    rng = random.Random(seed)
    for i in range(mib * MIB // FILE):
        with open(os.path.join(files, f'f{i:03}'), 'wb') as f:
            f.write(rng.randbytes(FILE))
    image = work.sparse(name, (mib + mib // 16 + 32) * MIB)
    subprocess.run(['mke2fs', '-q', '-t', 'ext4', '-m', '0', '-d', files,
                    image], check=True, stdin=subprocess.DEVNULL)
    shutil.rmtree(files)
    return image


def digest(q):
    """
    {block: SHA-256} of the memory of a QEMU whose guest is stopped, as the
    host has it: also what no address of the guest leads to.
    """
    found = {}
    with open(f'/proc/{q.pid}/mem', 'rb', buffering=0) as mem:
        for line in q.hmp('info ramblock').splitlines():
            m = re.match(r'\s*(\S+)\s+\d+ KiB\s+0x\w+\s+(0x\w+)\s+0x\w+'
                         r'\s+(0x\w+)', line)
            if not m:
                continue
            h = hashlib.sha256()
            mem.seek(int(m[3], 16))
            left = int(m[2], 16)
            while left:
                data = mem.read(min(left, 4 * MIB))
                h.update(data)
                left -= len(data)
            found[m[1]] = h.hexdigest()
    return found


def same_memory(one, other):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        a, b = pool.map(digest, (one, other))
    if not a:
        raise AssertionError('"info ramblock" names no memory')
    return a == b


class Lab:
    """Two hosts, the link between them, their storage, and the guests"""

    def __init__(self, work, storage='local', link=10 ** 9, disk_link=0,
                 accel='tcg', mib=1024, seed=1, prealloc=True):
        self.work = work
        self.storage = storage
        self.accel = accel
        # What a virtual machine that runs this takes to get memory from its
        # own host, 3 s for 1.5 GiB, says nothing of QEMU.
        self.prealloc = prealloc
        self.sources = {}
        self.n = 0
        self.src, self.dst = (Namespace(work, n) for n in ('src', 'dst'))
        self.link = Link('mig', 1, self.src, self.dst, link)
        self.image = make_disk(work, 'set.img', mib, seed)
        self.disk_link = None
        if storage == 'nbd':
            self._serve(disk_link)

    def _serve(self, rate):
        self.san = Namespace(self.work, 'san')
        # The source fills its cache by a link that is not limited: what is
        # measured is the destination's way to the storage.
        self.src_disk_link = Link('san1', 2, self.src, self.san, 0)
        self.disk_link = Link('san2', 3, self.dst, self.san, rate)
        # Beside the QEMU that build/bin links to
        nbd = os.path.join(os.path.dirname(os.path.realpath(
            program_path('QEMU'))), 'qemu-nbd')
        ready = self.work.path('nbd.pid')
        server = self.san.put(Process(self.work, 'nbd', [
            nbd, '--persistent', '--shared=8', '-f', 'raw', '-x', 'set',
            '-b', '0.0.0.0', '-p', str(NBD_PORT), f'--pid-file={ready}',
            self.image]))
        server.start()
        end = time.monotonic() + scaled(20)
        # It writes this when it listens.
        while not os.path.exists(ready):
            server.check_alive()
            if time.monotonic() > end:
                raise AssertionError(f'qemu-nbd does not listen: {server.log}')
            time.sleep(0.01)

    def _disk(self, at_source):
        if self.storage == 'local':
            return ('driver=raw,node-name=d0,file.driver=file,'
                    f'file.filename={self.image}')
        link = self.src_disk_link if at_source else self.disk_link
        return ('driver=nbd,node-name=d0,export=set,server.type=inet,'
                f'server.host={link.addresses[1]},server.port={NBD_PORT}')

    def _guest(self, name, kind, at_source):
        binary = stock_program('QEMU') if kind in ('stock', 'hint') else None
        g = LinuxGuest(self.work, name, binary=binary, machine='q35',
                       memory=f'{RAM // MIB}M', accel=self.accel)
        if kind in ('ours', 'sample'):
            g.add('-object', 'page-map,id=map0' +
                  (',sample=on' if kind == 'sample' else ''))
        # Shared: the guests of all sources have it, and mount it read-only.
        g.add('-blockdev', self._disk(at_source), '-device',
              'virtio-blk-pci,drive=d0,id=disk0,share-rw=on')
        if kind == 'hint':
            g.add('-object', 'iothread,id=io0', '-device',
                  'virtio-balloon-pci,iothread=io0,free-page-hint=on')
        return (self.src if at_source else self.dst).put(g)

    def source(self, kind):
        """The guest of that kind; the others are stopped"""
        for other, g in self.sources.items():
            if other != kind and g.qmp.cmd('query-status')['running']:
                g.qmp.cmd('stop')
        g = self.sources.get(kind)
        if not g:
            g = self._guest(f'src-{kind}', kind, True).boot()
            g.sh('mount -o ro,noload /dev/vda /mnt')
            if kind == 'hint':
                g.sh('load balloon')
            self.sources[kind] = g
        elif not g.qmp.cmd('query-status')['running']:
            g.qmp.cmd('cont')
        return g

    def destination(self, kind):
        self.n += 1
        g = self._guest(f'dst{self.n}', kind, False)
        if self.prealloc:
            g.add('-mem-prealloc')
        return g.add('-S', '-incoming', 'defer').start()

    def _settings(self, q, peer):
        q.qmp.cmd('migrate-set-capabilities', capabilities=[
            {'capability': c, 'state': c in peer.caps} for c in
            ('multifd', 'xbzrle')] + [
            {'capability': c, 'state': True} for c in peer.caps
            if c not in ('multifd', 'xbzrle')] +
            ([{'capability': 'x-page-map', 'state': False}]
             if peer.source in ('ours', 'sample') and not peer.mapped else []))
        q.qmp.raw_cmd('migrate-set-parameters',
                      {'max-bandwidth': NO_LIMIT,
                       'multifd-compression': 'none', **peer.params})

    def refused(self, peer):
        """Why this build cannot do it, None if it can"""
        if peer.source in ('stock', 'hint') and not stock_program('QEMU'):
            return 'no QEMU as released: run scripts/build --stock'
        try:
            self._settings(self.source(peer.source), peer)
        except QmpError as e:
            return e.desc
        return None

    def migrate(self, peer, limit, reread=False):
        """
        One migration of the running guest; {figure: value}.  One that has not
        ended after `limit` seconds is cancelled.
        """
        src, dst = self.source(peer.source), self.destination(peer.source)
        try:
            for q in (src, dst):
                self._settings(q, peer)
            uri = f'tcp:{self.link.addresses[1]}:{PORT}'
            dst.qmp.cmd('migrate-incoming', uri=uri)
            figures = self._timed(src, dst, peer, uri, limit)
            if figures['finished']:
                dst.qmp.poll('query-migrate', lambda i: i.get('status') in
                             ENDED, scaled(30))
                figures['same-memory'] = same_memory(src, dst)
                if reread:
                    figures['reread-s'] = self._reread(dst)
        finally:
            dst.kill()
        return figures

    def _timed(self, src, dst, peer, uri, limit):
        before = (self.link.bytes(), cpu_ms(src), cpu_ms(dst),
                  self.disk_link.bytes() if self.disk_link else 0)
        started = time.monotonic()
        if peer.before:
            src.sh(peer.before)
        prepared = time.monotonic() - started
        src.qmp.cmd('migrate', uri=uri)
        with contextlib.suppress(AssertionError):
            src.qmp.poll('query-migrate',
                         lambda i: i['status'] in ENDED, limit)
        took = time.monotonic() - started
        info = src.qmp.cmd('query-migrate')
        if info['status'] not in ENDED:
            src.qmp.cmd('migrate_cancel')
            src.qmp.poll('query-migrate', lambda i: i['status'] in ENDED,
                         scaled(30))
        elif info['status'] != 'completed':
            raise AssertionError(f'{peer.name}: {info}\n{dst.output()}')
        figures = {
            'finished': info['status'] == 'completed',
            'seconds': took,
            'prepare-seconds': prepared,
            'link-bytes': self.link.bytes() - before[0],
            'cpu-ms-source': cpu_ms(src) - before[1],
            'cpu-ms-destination': cpu_ms(dst) - before[2],
            'total-time-ms': info['total-time'] + round(prepared * 1000),
            'info': info,
        }
        for key in ('downtime', 'setup-time'):
            if key in info:
                figures[f'{key}-ms'] = info[key]
        if self.disk_link:
            figures['storage-bytes'] = self.disk_link.bytes() - before[3]
        elif 'page-map' in info:
            figures['storage-bytes'] = info['page-map']['fetched-bytes']
        return figures

    @staticmethod
    def _reread(g):
        g.qmp.cmd('cont')
        started = time.monotonic()
        g.sh('cat /mnt/f* > /dev/null', 300)
        return time.monotonic() - started
