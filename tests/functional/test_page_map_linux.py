#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Debian's kernel with its page cache full of files, migrated with the page map:
all memory is the same, most pages of the files came from the destination's
disk, and when they are read again the disk is not needed.
"""

import os

from pmemha import QmpError, main
from pmemha.mapfiles import FileSetTest
from pmemha.options import option

SEED = option('seed', int.from_bytes(os.urandom(4), 'little'))


class Few(FileSetTest):
    """Each format, both file systems, three controllers"""

    def test_ext4_on_raw(self):
        self.check()

    def test_xfs_on_qcow2(self):
        self.check('virtio-scsi', 'qcow2', 'xfs')

    def test_ext4_on_luks(self):
        self.check('ahci', 'luks')


class Each(FileSetTest):
    """What differs from ext4 on a raw image of virtio-blk in one thing"""

    def test_xfs(self):
        self.check(fs='xfs')

    def test_qcow2(self):
        self.check(fmt='qcow2')

    def test_luks(self):
        self.check(fmt='luks')

    def test_partition(self):
        self.check(partition=True)

    def test_virtio_scsi(self):
        self.check('virtio-scsi')

    def test_ide(self):
        self.check('ide')

    def test_ahci(self):
        self.check('ahci')

    def test_nvme(self):
        """QEMU does not migrate this device: what it learns is right."""
        if not self.map_on:
            self.skipTest('PAGE_MAP=0')
        src, sums = self.boot('nvme', 'raw', 'ext4', False)
        with self.assertRaisesRegex(QmpError, 'nvme'):
            src.qmp.cmd('migrate', uri='unix:mig')
        self.assertEqual(self.sums(src), sums)
        self.check_learnt(src, SEED)


if __name__ == '__main__':
    main()
