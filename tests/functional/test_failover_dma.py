#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A disk writes into the mirrored memory of a Debian guest: O_DIRECT reads of a
virtio-blk device into a DAX mapping, by the main loop, by an iothread and by
another process (vhost-user-blk).  Those stores pass no vCPU.  What was flushed
after them is in the promoted image.

    test_failover_dma.py [--seed N] [PATTERN]
"""

import hashlib
import random

from pmemha import TestCase, main
from pmemha.failover import Failover
from pmemha.linux import guest_dir
from pmemha.options import option
from pmemha.vhostuser import backend

PAGE = 4096
BLOCK = 64 << 10
BLOCKS = 256
SEED = option('seed', random.SystemRandom().randrange(1 << 32))


def setUpModule():
    guest_dir()                         # not within the time of a test


class Dma(TestCase):

    timeout = 240

    def emulated(self, n, device=''):
        return ['-drive', f'if=none,id=d{n},file=disk{n}.img,format=raw',
                '-device', f'virtio-blk-pci,drive=d{n}{device}']

    def vhost_user(self, n, _):
        backend(self.work, f'vhost{n}', f'disk{n}.img', self.adopt)
        return ['-chardev', f'socket,id=v{n},path=vhost{n}.sock',
                '-device', f'vhost-user-blk-pci,chardev=v{n}']

    def check(self, flags='', device='', objects=(), disks=None):
        """Kill amid the transfers; directread's ACK n: blocks 1 to n"""
        disks = disks or self.emulated
        self.diag(f'seed {SEED}')
        rng = random.Random(SEED)
        disk = rng.randbytes(BLOCK * BLOCKS)
        self.work.write('disk0.img', rng.randbytes(BLOCK * BLOCKS))
        self.work.write('disk1.img', disk)
        host = Failover(self.work, self.adopt)
        g = host.boot_primary(
            [*objects, *disks(0, device), *disks(1, device)])
        g.sh('pmem-setup /mnt', 120)
        host.wait_in_sync()
        # The kernel fills new blocks with zeroes, which a vCPU stores: the
        # transfers that count go to blocks that are there already.
        g.sh(f'directread {flags} -n {BLOCKS} -s {BLOCK} /dev/vda /mnt/copy '
             '>/dev/null', 120)
        epochs = host.query()['epoch-acked']
        g.begin(f'directread {flags} -n {BLOCKS - 1} -s {BLOCK} /dev/vdb '
                '/mnt/copy')
        # Not the last ones: it is to die in the middle.
        g.shell.wait_for(f'^ACK {rng.randrange(30, BLOCKS - 30)}$', 90)
        epochs = host.query()['epoch-acked'] - epochs
        acked = host.kill_and_destroy().records
        self.assertGreaterEqual(epochs, 30)
        self.assertLess(acked, BLOCKS)

        arguments = host.promote()
        want = disk[BLOCK:BLOCK * (acked + 1)]
        with open(self.work.path(host.replica.image), 'rb') as f:
            image = f.read()
        there = {image[at:at + PAGE] for at in range(0, len(image), PAGE)}
        lost = [at for at in range(0, len(want), PAGE)
                if want[at:at + PAGE] not in there]
        self.assertEqual(lost, [], 'pages that the image does not hold')

        g = host.boot_second(arguments)
        g.sh('mount -o dax,noatime /dev/pmem0 /mnt')
        found = g.sh(f'dd if=/mnt/copy bs={BLOCK} skip=1 count={acked} '
                     '2>/dev/null | md5sum')[0].split()[0]
        self.assertEqual(found, hashlib.md5(want).hexdigest())
        g.sh('umount /mnt')
        g.sh('e2fsck -fn /dev/pmem0', 120)
        self.assertEqual(g.poweroff(), 0)
        self.diag(f'{acked} blocks of {BLOCK >> 10} KiB flushed before the '
                  f'kill, {epochs} epochs, 0 lost')

    def test_main_loop_fsync(self):
        self.check()

    def test_iothread_msync(self):
        self.check('-m', ',iothread=io0', ('-object', 'iothread,id=io0'))

    def test_vhost_user_fsync(self):
        self.check(disks=self.vhost_user, objects=(
            '-object', 'memory-backend-memfd,id=ram,size=512M,share=on',
            '-machine', 'memory-backend=ram'))


if __name__ == '__main__':
    main()
