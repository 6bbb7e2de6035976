# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests/bench/page-map runs on: two hosts, the link between them, their
storage, and the disks in it.
"""

import concurrent.futures
import hashlib
import os
import random
import re
import shutil
import subprocess
import time

from .linux import LinuxGuest
from .netlab import Link, Namespace
from .paths import program_path, scaled, stock_program
from .process import Process

MIB = 1 << 20
RAM = 1536 * MIB
FILE = 64 * MIB
NBD_PORT = 10809


def mke2fs(image, *args):
    subprocess.run(['mke2fs', '-q', '-t', 'ext4', '-m', '0', '-E',
                    'lazy_itable_init=0,lazy_journal_init=0', *args, image],
                   check=True, stdin=subprocess.DEVNULL, timeout=scaled(300))


def make_disk(work, name, mib, seed):
    """ext4 with files that nothing compresses; made without mounting it"""
    files = work.path(f'{name}.files')
    os.mkdir(files)
    rng = random.Random(seed)
    for i in range(mib * MIB // FILE):
        with open(os.path.join(files, f'f{i:03}'), 'wb') as f:
            f.write(rng.randbytes(FILE))
    image = work.sparse(name, (mib + mib // 16 + 32) * MIB)
    mke2fs(image, '-d', files)
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
                if not data:
                    raise AssertionError(f'{q.name}: {m[1]} ends early')
                h.update(data)
                left -= len(data)
            found[m[1]] = h.hexdigest()
    if not found:
        raise AssertionError('"info ramblock" names no memory')
    return found


def same_memory(one, other):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        a, b = pool.map(digest, (one, other))
    return a == b


def linux(work, name, kind, accel):
    """A guest of that kind (pmemha.mappeers) without its disks"""
    binary = stock_program('QEMU') if kind in ('stock', 'hint') else None
    g = LinuxGuest(work, name, binary=binary, machine='q35',
                   memory=f'{RAM // MIB}M', accel=accel)
    if kind in ('ours', 'sample'):
        g.add('-object', 'page-map,id=map0' +
              (',sample=on' if kind == 'sample' else ''))
    if kind == 'hint':
        g.add('-object', 'iothread,id=io0', '-device',
              'virtio-balloon-pci,iothread=io0,free-page-hint=on')
    return g


def started(g):
    """A guest that may have to get all its memory before it answers"""
    g.start(negotiate=False)
    g.qmp.negotiate(120)
    return g


class Hosts:
    """
    Two namespaces with a link.  storage: 'local', both have the same files;
    'nbd', a third one serves them, by a link of its own to each.
    """

    def __init__(self, work, storage, mib, seed):
        self.work = work
        self.storage = storage
        self.mib = mib
        self.exports = {}               # image: port of its server
        self.src, self.dst = (Namespace(work, n) for n in ('src', 'dst'))
        self.link = Link('mig', 1, self.src, self.dst, 0)
        self.disk_link = self.src_disk_link = None
        if storage == 'nbd':
            self.san = Namespace(work, 'san')
            # The source fills its cache by a link that is not limited: what
            # is measured is the destination's way to the storage.
            self.src_disk_link = Link('san1', 2, self.src, self.san, 0)
            self.disk_link = Link('san2', 3, self.dst, self.san, 0)
        self.image = make_disk(work, 'set.img', mib, seed)

    def scratch(self, kind):
        """An empty disk of the guests of one kind, which they write to"""
        image = self.work.path(f'scratch-{kind}.img')
        if not os.path.exists(image):
            self.work.sparse(os.path.basename(image), (self.mib + 64) * MIB)
            mke2fs(image)
        return image

    def disk(self, node, image, at_source):
        """Arguments for a block node of that name"""
        if self.storage == 'local':
            return ['-blockdev', f'driver=raw,node-name={node},'
                    f'file.driver=file,file.filename={image}']
        link = self.src_disk_link if at_source else self.disk_link
        return ['-blockdev', f'driver=nbd,node-name={node},export=set,'
                f'server.type=inet,server.host={link.addresses[1]},'
                f'server.port={self._port(image)}']

    def _port(self, image):
        """Of the server of that image, which is started when it is new"""
        if image not in self.exports:
            n = len(self.exports)
            self.exports[image] = NBD_PORT + n
            self._serve(image, NBD_PORT + n, f'nbd{n}')
        return self.exports[image]

    def _serve(self, image, port, name):
        # Beside the QEMU that build/bin links to
        nbd = os.path.join(os.path.dirname(os.path.realpath(
            program_path('QEMU'))), 'qemu-nbd')
        ready = self.work.path(f'{name}.pid')
        server = self.san.put(Process(self.work, name, [
            nbd, '--persistent', '--shared=8', '-f', 'raw', '-x', 'set',
            '-b', '0.0.0.0', '-p', str(port), f'--pid-file={ready}', image]))
        server.start()
        end = time.monotonic() + scaled(20)
        # It writes this when it listens.
        while not os.path.exists(ready):
            server.check_alive()
            if time.monotonic() > end:
                raise AssertionError(f'qemu-nbd does not listen: {server.log}')
            time.sleep(0.01)

    def set_rates(self, link, disk_link):
        """Bits per second, 0: unlimited"""
        self.link.set_rate(link)
        if self.disk_link:
            self.disk_link.set_rate(disk_link)
