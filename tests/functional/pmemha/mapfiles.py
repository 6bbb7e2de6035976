# SPDX-License-Identifier: GPL-2.0-or-later
"""
A Linux guest with a file system on one disk: its files in the page cache, and
what of them a migration with the page map leaves there.
"""

import os
import random
import struct

from .linux import LinuxGuest
from .mapbench import same_memory
from .mapguest import qemu_img
from .migrate import set_caps, set_params
from .paths import scaled
from .qmp import QmpError
from .testcase import TestCase

MIB = 1 << 20
PAGE = 4096
SECTOR = 512
DISK = 320 * MIB                # mkfs.xfs takes no less than 300
# Of a partition: beyond what 32 bits name, and no multiple of a page
START = (5 << 30) + 63 * SECTOR
FILES = 16
FILE = 4                        # MiB
SET = FILES * FILE * MIB
RAM = 384 * MIB
SECRET = 'correct-horse'

# Of the files' pages, those that come from the destination's disk at least.
# The rest went by the link: what RAM's scan met before the destination had
# answered that it has the disk.
PLACED = 0.8
# What the guest may read from the disk when it reads the files again: nothing
# of them.  Tables of the file system that were not read before are at most a
# read-ahead.
REREAD = 128 << 10


class Controller:
    """How a disk is plugged in, and what it is called in the guest"""

    def __init__(self, options, disk, modules='', machine='q35'):
        self.options = options.split()
        self.disk = f'/dev/{disk}'
        self.modules = modules
        self.machine = machine


CONTROLLERS = {
    'virtio-blk': Controller(
        '-device virtio-blk-pci,drive=node0,id=disk0', 'vda'),
    'virtio-scsi': Controller(
        '-device virtio-scsi-pci,id=hba0 '
        '-device scsi-hd,bus=hba0.0,drive=node0,id=disk0', 'sda', 'scsi'),
    # SeaBIOS before 1.16.3 waits 32 s for a disk of AHCI to be a CD-ROM; the
    # one that is built for microvm does not look.
    'ahci': Controller(
        '-bios bios-microvm.bin '
        '-device ide-hd,bus=ide.0,drive=node0,id=disk0', 'sda', 'ata'),
    'ide': Controller(
        '-device ide-hd,bus=ide.0,drive=node0,id=disk0', 'sda', 'ata', 'pc'),
    'nvme': Controller(
        '-device nvme,serial=nvme0,drive=node0,id=disk0', 'nvme0n1', 'nvme'),
}


class FileSetTest(TestCase):
    """
    PAGE_MAP=0 in the environment migrates as stock does: that tells whether
    the map is to blame for a failure.
    """

    timeout = 180
    link = 32 * MIB             # bytes/s: less than any storage here gives
    map_on = os.environ.get('PAGE_MAP', '1') != '0'

    def image(self, fmt, partition):
        """Options of its node, and those of objects that it needs"""
        if fmt == 'luks':
            secret = f'secret,id=secret0,data={SECRET}'
            qemu_img(self.work, 'create', '-f', 'luks', '--object', secret,
                     '-o', 'key-secret=secret0,iter-time=10', 'disk.img',
                     str(DISK))
            return ('driver=luks,key-secret=secret0,file.driver=file,'
                    'file.filename=disk.img', ['-object', secret])
        self.work.sparse('disk.img', DISK + (START if partition else 0))
        if partition:
            with open(self.work.path('disk.img'), 'r+b') as f:
                f.seek(446)
                f.write(struct.pack('<8xII', START // SECTOR, DISK // SECTOR))
                f.seek(450)
                f.write(b'\x83')        # Linux
                f.seek(510)
                f.write(b'\x55\xaa')
        return 'driver=raw,file.driver=file,file.filename=disk.img', []

    def guest(self, name, *extra):
        c = self.controller
        g = self.adopt(LinuxGuest(self.work, name, machine=c.machine,
                                  memory=f'{RAM // MIB}M'))
        if self.map_on:
            g.add('-object', 'page-map,id=map0')
        return g.add(*self.objects, '-blockdev',
                     f'node-name=node0,{self.node}', *c.options, *extra)

    def disk_reads(self, g):
        """Bytes that the guest has read from its disk, as QEMU counts them"""
        [disk] = [d for d in g.qmp.cmd('query-blockstats')
                  if 'disk0' in d.get('qdev', '')]
        return disk['stats']['rd_bytes']

    def entries(self, g):
        """Pages that the map has of the disk"""
        if not self.map_on:
            return 0
        [disk] = g.qmp.cmd('query-page-map')['devices']
        return disk['entries']

    def sums(self, g):
        """{file: SHA-256}, as the guest reads them"""
        found = dict(reversed(line.split()) for line in
                     g.sh('cd /mnt && sha256sum f*', 120))
        self.assertEqual(len(found), FILES)
        return found

    def write(self, g, first, last):
        g.sh(f'for i in $(seq {first} {last}); do dd if=/dev/urandom '
             f'of=/mnt/f$i bs=1M count={FILE} 2>/dev/null || exit; done; '
             'sync', 120)

    def make_files(self, g, fmt, fs):
        """For an image with backing, half of them are in each."""
        if fs == 'xfs':
            g.sh('load xfs')
        quick = {'ext4': '-E lazy_itable_init=0,lazy_journal_init=0',
                 'xfs': ''}[fs]
        disk = self.disk
        g.sh(f'mkfs.{fs} -q {quick} {disk} && mount -t {fs} {disk} /mnt', 120)
        self.write(g, 1, FILES // 2)
        if fmt == 'qcow2':
            g.qmp.cmd('blockdev-snapshot-sync', node_name='node0',
                      snapshot_file='top.qcow2', format='qcow2',
                      snapshot_node_name='top')
            # What another QEMU opens from now on
            self.node = ('driver=qcow2,file.driver=file,'
                         'file.filename=top.qcow2')
        self.write(g, FILES // 2 + 1, FILES)

    def boot(self, controller, fmt, fs, partition):
        """A guest that has read its files from the disk; their sums"""
        self.controller = CONTROLLERS[controller]
        self.node, self.objects = self.image(fmt, partition)
        self.disk = disk = self.controller.disk + ('1' if partition else '')
        g = self.guest('src').boot()
        if self.controller.modules:
            g.sh(f'load {self.controller.modules}')
        # A driver looks for its disks in the background.
        g.sh(f'until [ -b {disk} ]; do usleep 10000; done', 30)
        self.make_files(g, fmt, fs)
        before = self.disk_reads(g)
        g.sh(f'umount /mnt && mount -t {fs} {disk} /mnt')
        sums = self.sums(g)
        self.assertGreaterEqual(self.disk_reads(g) - before, SET)
        return g, sums

    def move(self, src, dst):
        """Migrate, and compare all memory; the figures of the map"""
        if self.map_on:
            for q in (src, dst):
                set_caps(q, x_page_map=True)
        set_params(src, max_bandwidth=self.link)
        src.qmp.cmd('migrate', uri='unix:mig')
        for q in (src, dst):
            info = q.qmp.poll('query-migrate', lambda i: i.get('status') in
                              ('completed', 'failed'), scaled(90))
            self.assertEqual(info['status'], 'completed',
                             f'{info}\n{q.output()[-2000:]}')
        self.assertTrue(same_memory(src, dst), 'memory differs')
        stats = src.qmp.cmd('query-migrate').get('page-map') or {}
        self.diag(' '.join(f'{k}={v}' for k, v in stats.items() if v))
        return stats

    def check(self, controller='virtio-blk', fmt='raw', fs='ext4',
              partition=False):
        src, sums = self.boot(controller, fmt, fs, partition)
        others = self.entries(src) - SET // PAGE
        dst = self.guest('dst', '-incoming', 'unix:mig', '-S').start()
        stats = self.move(src, dst)
        if self.map_on:
            placed = stats['mapped-pages'] - max(others, 0)
            self.diag(f'{placed} of {SET // PAGE} pages of files placed, '
                      f'{others} others have an entry')
            self.assertGreaterEqual(placed, PLACED * SET // PAGE)
        src.kill()
        dst.qmp.cmd('cont')
        before = self.disk_reads(dst)
        self.assertEqual(self.sums(dst), sums)
        reads = self.disk_reads(dst) - before
        self.diag(f're-read: {reads} bytes from the disk')
        self.assertLessEqual(reads, REREAD)
        # That they were not read was no mistake of the counter.
        dst.sh('echo 3 > /proc/sys/vm/drop_caches')
        self.assertEqual(self.sums(dst), sums)
        self.assertGreaterEqual(self.disk_reads(dst) - before, SET)

    def check_learnt(self, g, seed, drawn=2000):
        """
        Without a migration, of an image that is raw: pages with an entry have
        what is there.  Some entries may be of before.
        """
        g.qmp.cmd('stop')               # and the disk has all writes
        g.qmp.cmd('pmemsave', timeout=60, val=0, size=RAM, filename='ram')
        noted = right = 0
        with open(self.work.path('ram'), 'rb') as ram, \
                open(self.work.path('disk.img'), 'rb') as disk:
            for page in random.Random(seed).sample(range(RAM // PAGE), drawn):
                for entry in self.entry(g, page * PAGE):
                    noted += 1
                    ram.seek(page * PAGE)
                    disk.seek(entry['offset'])
                    right += ram.read(PAGE) == disk.read(PAGE)
        self.diag(f'seed={seed}: {noted} of {drawn} pages have an entry, '
                  f'{right} have its content')
        self.assertGreaterEqual(noted, PLACED * drawn * SET // RAM // 2)
        self.assertGreaterEqual(right, PLACED * noted)

    @staticmethod
    def entry(g, address):
        try:
            return g.qmp.cmd('x-query-page-map-entry', address=address)
        except QmpError as e:
            if 'no RAM' not in e.desc:
                raise
            return []                   # below 1 MiB
