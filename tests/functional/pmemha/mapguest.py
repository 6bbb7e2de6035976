# SPDX-License-Identifier: GPL-2.0-or-later
"""
A bare-metal guest that has read its disks, and its migration with the page
map: images, both QEMUs, the comparison of all memory, and what the guest
itself finds.
"""

import functools
import hashlib
import os
import re
import subprocess

from .baremetal import BareMetal
from .migrate import set_caps, set_params  # noqa: F401
from .nbdviews import NbdServer
from .paths import program, scaled
from .testcase import TestCase

MIB = 1 << 20
PAGE = 4096
_MASK = (1 << 64) - 1
_SAVE = 32 * MIB


# The content of pages: tests/baremetal/disk-load.c has the same rules.

def _mix(x):
    x &= _MASK
    x ^= x >> 30
    x = x * 0xbf58476d1ce4e5b9 & _MASK
    x ^= x >> 27
    x = x * 0x94d049bb133111eb & _MASK
    return x ^ x >> 31


_BASE = int.from_bytes(b''.join(
    (_mix(i + 1) if i else 0).to_bytes(8, 'little')
    for i in range(PAGE // 8)), 'little')
_REPEAT = sum(1 << 64 * i for i in range(1, PAGE // 8))


def page_content(number, generation=0, salt=0):
    head = number << 32 | generation
    key = _mix(head ^ _mix(salt + 1))
    return (_BASE ^ key * _REPEAT | head).to_bytes(PAGE, 'little')


@functools.lru_cache(maxsize=4)
def disk_content(mib, salt=0, disk=0, disks=1, chunk=32):
    """What disk `disk` of `disks` holds before the guest writes to it"""
    unit = chunk * disks
    per_disk = (mib * MIB // PAGE) // unit * chunk
    return b''.join(page_content(p // chunk * unit + disk * chunk + p % chunk,
                                 salt=salt) for p in range(per_disk))


class Disk:
    """
    An image and how QEMU opens it.  `options` are of the node; those of the
    destination may differ.
    """

    def __init__(self, options, secret=None):
        self.options = options
        self.secret = secret

    def add_to(self, q, n=0, props='', name='disk'):
        if self.secret:
            q.add('-object', f'secret,id=secret{n},data={self.secret}')
        q.add('-blockdev', self.options.format(node=f'node{n}',
                                               secret=f'secret{n}'))
        q.add('-device', f'virtio-blk-pci,id={name}{n},drive=node{n},'
                         f'addr={8 + n:#x},disable-legacy=off{props}')


def qemu_img(work, *args):
    subprocess.run([program('QEMU_IMG'), *args], cwd=work.dir, check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   timeout=scaled(60))


def make_disk(work, content, fmt='raw', name='disk'):
    """An image of that format with that content; its Disk"""
    raw = f'{name}.raw'
    work.write(raw, content)
    if fmt == 'raw':
        return file_disk(raw)
    path = f'{name}.{fmt}.img'
    if fmt == 'qcow2':
        qemu_img(work, 'convert', '-f', 'raw', '-O', 'qcow2', raw, path)
        return file_disk(path, 'qcow2')
    if fmt == 'backing':
        # The second half was written after the snapshot.
        half = len(content) // 2
        work.write(raw, content[:half] + bytes(len(content) - half))
        work.write(f'{name}.full', content)
        qemu_img(work, 'convert', '-f', 'raw', '-O', 'qcow2', '-B', raw, '-F',
                 'raw', f'{name}.full', path)
        return file_disk(path, 'qcow2')
    if fmt == 'luks':
        secret = 'correct-horse'
        qemu_img(work, 'convert', '--object',
                 f'secret,id=s,data={secret}', '-f', 'raw', '-O', 'luks',
                 '-o', 'key-secret=s,iter-time=10', raw, path)
        return Disk(f'driver=luks,node-name={{node}},key-secret={{secret}},'
                    f'file.driver=file,file.filename={path}', secret)
    raise ValueError(fmt)


def file_disk(path, fmt='raw', extra=''):
    return Disk(f'driver={fmt},node-name={{node}},file.driver=file,'
                f'file.filename={path}{extra}')


def nbd_disk(path, export):
    return Disk(f'driver=nbd,node-name={{node}},server.type=unix,'
                f'server.path={path},export={export}')


class DiskTalk:
    """
    What a guest with the workload disk says and is told: channels `out`, and
    `ctl`, its serial port
    """

    def filled(self):
        """It has read its disks; number of pages"""
        return int(self.out.wait_seen(r'^FILLED pages=(\d+)', 60)[1])

    def phase(self, name):
        self.ctl.send(name[0])
        self.out.wait_for(rf'^PHASE {name}$', 60)

    def goes_on(self, phase, steps=2):
        """It reports that many steps more."""
        self.out.skip()
        for _ in range(steps):
            self.out.wait_for(rf'^D {phase} ', 60)

    def verify(self):
        """Ask the guest whether each page is what it must be: BAD lines"""
        self.ctl.send('v')
        m = self.out.wait_for(r'^CHECK \d+ pages=(\d+) bad=(\d+) '
                              r'unknown=(\d+)', 120)
        bad = [t for t in self.out.text_lines() if re.match('BAD|ERROR', t)]
        if bad or int(m[2]):
            raise AssertionError(f'{self.name}: {m[0]}: {bad[:8]}')
        return {'pages': int(m[1]), 'unknown': int(m[3])}


class DiskGuest(DiskTalk, BareMetal):
    """The bare-metal guest with the workload disk"""

    def __init__(self, work, cmd, disks, name, ram, props='',
                 device='disk', **kw):
        self.ram = ram
        self.first = 0                  # of what is compared, up to `ram`
        super().__init__(work, f'workload=disk disks={len(disks)} {cmd}',
                         name=name, machine=kw.pop('machine', 'q35'),
                         memory=f'{self.ram // MIB}M', **kw)
        self.ctl = self.serial('ctl')
        for n, disk in enumerate(disks):
            disk.add_to(self, n, props, device)


class PageMapTest(TestCase):
    """
    `content` is what the disk holds.  Without the capability, or with
    PAGE_MAP=0 in the environment, the tests migrate as stock does: that tells
    whether the map is to blame for a failure.
    """

    timeout = 120
    mib = 32                    # that are filled, of twice as much
    link = 32 * MIB             # bytes/s
    map_on = os.environ.get('PAGE_MAP', '1') != '0'

    def setUp(self):
        self.content = disk_content(self.mib)
        self.server = None

    def nbd(self, content=None):
        """The test's server: exports src and dst of one store"""
        path = os.path.relpath(self.work.path('nbd'))
        self.server = NbdServer(path, content or self.content)
        self.addCleanup(self.server.close)
        return self.server

    def image(self, fmt='raw', content=None, name='disk'):
        return make_disk(self.work, content or self.content, fmt, name)

    def guest(self, name, disks, cmd='', *extra, has_map=True, **kw):
        """has_map: or the further properties of the object"""
        g = DiskGuest(self.work, f'fill={self.mib} {cmd}', disks, name,
                      kw.pop('ram', 2 * self.mib * MIB), **kw)
        if has_map and self.map_on:
            g.add('-object', 'page-map,id=map0' +
                  (has_map if isinstance(has_map, str) else ''))
        g.add(*extra)
        return self.adopt(g)

    def source(self, disks, cmd='', *extra, **kw):
        """Started, and its memory filled"""
        g = self.guest('src', disks, cmd, *extra, **kw).start()
        g.filled()
        return g

    def destination(self, disks, *extra, uri='unix:mig', has_map=False,
                    name='dst', **kw):
        """It waits for a migration; uri=defer: for being told of one"""
        return self.guest(name, disks, '', '-incoming', uri, '-S', *extra,
                          has_map=has_map, **kw).start()

    def turn_on(self, *qemus, **caps):
        """The capability, and others, at both ends"""
        if self.map_on:
            caps['x_page_map'] = True
        for q in qemus:
            if caps:
                set_caps(q, **caps)

    def start_migration(self, src, uri='unix:mig', **params):
        """
        The link is slow: so most pages take the way of the map, however
        fast the machine is.
        """
        set_params(src, **{'max_bandwidth': self.link, **params})
        src.qmp.cmd('migrate', uri=uri)

    def ended(self, g, want, timeout=60):
        """want: the states it may end in, separated by a bar"""
        info = g.qmp.poll('query-migrate', lambda i: i.get('status') in
                          ('completed', 'failed', 'cancelled'),
                          scaled(timeout))
        self.assertIn(info['status'], want.split('|'),
                      f'{info}\n{g.output()[-2000:]}')
        return info

    def link_has(self, info):
        """Bytes that are to be sent still, but for those that are held"""
        held = info.get('page-map', {}).get('held-pages', 0)
        return info['ram']['remaining'] - held * PAGE

    def stats(self, src):
        """The figures of the page map; zeroes if it was off"""
        info = src.qmp.cmd('query-migrate').get('page-map') or {}
        return {k: info.get(k, 0) for k in (
            'mapped-pages', 'mapped-bytes', 'stale', 'nacked', 'fetched-bytes',
            'fetch-requests', 'wire-bytes', 'wire-bytes-saved')}

    def memory(self, g):
        """Files with all RAM, by pieces; nothing runs."""
        found = []
        for at in range(g.first, g.ram, _SAVE):
            name = f'{g.name}.{at:x}.ram'
            g.qmp.cmd('pmemsave', timeout=30, val=at,
                      size=min(_SAVE, g.ram - at), filename=name)
            found.append(self.work.path(name))
        return found

    def assert_same_memory(self, src, dst):
        """SHA-256 of all RAM; both stand still."""
        for a, b in zip(self.memory(src), self.memory(dst)):
            with open(a, 'rb') as f, open(b, 'rb') as g:
                one, two = f.read(), g.read()
            if hashlib.sha256(one).digest() != hashlib.sha256(two).digest():
                base = int(a.split('.')[-2], 16)
                pages = [base + i for i in range(0, len(one), PAGE)
                         if one[i:i + PAGE] != two[i:i + PAGE]]
                self.fail(f'{len(pages)} pages differ, at '
                          f'{[hex(p) for p in pages[:8]]}')
            os.unlink(a)
            os.unlink(b)

    def arrived(self, src, dst, phase='idle'):
        """
        Both ends have completed: memory is the same, and the guest finds the
        same when it runs on.
        """
        self.ended(src, 'completed')
        self.ended(dst, 'completed')
        self.assert_same_memory(src, dst)
        src.kill()
        return self.runs_on(dst, phase)

    def runs_on(self, g, phase='idle'):
        g.qmp.cmd('cont')
        if phase != 'idle':
            g.goes_on(phase)
        return g.verify()

    def move(self, src, dst, phase='idle', uri='unix:mig', caps=None,
             params=None):
        """Migrate with the map, and check all that was promised."""
        self.turn_on(src, dst, **(caps or {}))
        self.start_migration(src, uri, **(params or {}))
        return self.complete(src, dst, phase)

    def complete(self, src, dst, phase='idle'):
        """The figures of a migration that goes on, once it has arrived"""
        self.ended(src, 'completed')
        stats = self.stats(src)
        self.diag(' '.join(f'{k}={v}' for k, v in stats.items() if v))
        self.arrived(src, dst, phase)
        return stats

    def pages(self):
        return self.mib * MIB // PAGE

    def assert_mapped(self, stats, least):
        """At least that part of the filled pages came from the disk."""
        if self.map_on:
            self.assertGreaterEqual(stats['mapped-pages'],
                                    least * self.pages(), stats)

    def assert_nothing_mapped(self, stats):
        self.assertEqual((stats['mapped-pages'], stats['nacked']), (0, 0))
