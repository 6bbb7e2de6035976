#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Snapshots with a page map of machines in unusual states, and at bad moments.

    test_page_map_snapshot_states.py [--seed N] [PATTERN]
"""

from pmemha import main
from pmemha.disks import VirtioBlkDisk
from pmemha.migrate import set_caps
from pmemha.pagemap import CANCELLED, MIB, OTHER, PAGE, RINGS, SLOT
from pmemha.snapshots import SnapshotTest
from pmemha.virtio import CONFIG_DATA, config_select

# Of the PIIX4's power management, as firmware would choose it
PM_SLOT, PM_FUNCTION = 1, 3
PM_BASE = 0x600


class Machine(SnapshotTest):
    """What the guest is and has"""

    disk = 8

    def pm(self, q, offset, value):
        config_select(q.mem, PM_SLOT, PM_FUNCTION << 8 | offset)
        q.mem.outl(CONFIG_DATA, value)

    def test_sleeping(self):
        """Its devices go on, and it may wake: it is not stopped."""
        src = self.source(self.raw())
        self.fill(src)
        self.pm(src, 0x40, PM_BASE | 1)
        self.pm(src, 0x80, 1)
        src.mem.ask(f'outw {PM_BASE + 4:#x} {1 << 13 | 1 << 10:#x}')
        src.qmp.poll('query-status', lambda s: s['status'] == 'suspended', 20)
        self.save(src, 'failed')
        self.assertIn("needs a stopped guest", self.info(src)['error-desc'])
        # Stopped, it still sleeps.
        src.qmp.cmd('stop')
        self.assertGreater(self.save(src)['mapped-pages'], 0)
        dst = self.restored(self.raw())
        self.same(src, dst)

    def test_memory_that_was_given_back(self):
        """What virtio-mem does not have must not be read, even if the disk
        has it."""
        src = self.source(
            self.raw(), '-m', 'size=64M,maxmem=1G', '-object',
            'memory-backend-ram,id=mem1,size=128M', '-device',
            'virtio-mem-pci,id=vm0,memdev=mem1,addr=7')
        at = src.qmp.cmd('qom-get', path='/machine/peripheral/vm0',
                         property='memaddr')
        pages = 256
        for n in range(0, pages, 32):
            src.blk.transfer(False, n * PAGE, [
                (at + k * PAGE, PAGE) for k in range(n, n + 32)])
        self.assertEqual(src.qmp.cmd('query-page-map')['mapped-pages'], pages)
        src.qmp.cmd('stop')
        stats = self.save(src)
        self.assertEqual((stats['mapped-pages'], stats['fetched-bytes']),
                         (0, 0))

    def test_layer_on_a_temporary_disk(self):
        """The top of the disk is a file that stays, what is below is not."""
        self.raw()
        src = self.qemu('src', machine='pc', accel='qtest', memory='64M')
        src.mem = src.qtest()
        src.add('-object', 'page-map,id=map0', '-drive',
                'if=none,id=d0,format=raw,snapshot=on,file=disk.img',
                '-device', f'virtio-blk-pci,drive=d0,id=disk0,'
                f'disable-legacy=on,addr={SLOT:#x}').start()
        set_caps(src, x_page_map=True, events=True)
        self.image('create', '-f', 'qcow2', 'over.qcow2',
                   str(len(self.content)))
        src.qmp.cmd('blockdev-add', driver='qcow2', backing=None,
                    file={'driver': 'file', 'filename': 'over.qcow2'},
                    **{'node-name': 'over'})
        src.qmp.cmd('blockdev-snapshot', node='d0', overlay='over')
        src.blk = VirtioBlkDisk(src.mem, SLOT, ring=RINGS).start()
        self.fill(src)
        src.qmp.cmd('stop')
        self.assertEqual(self.save(src)['mapped-pages'], 0)

    def test_two_disks(self):
        """The second one is opened while the first one's pages are read."""
        first, self.content = self.content, self.rng.randbytes(
            len(self.content))
        self.work.write('second.img', self.content)
        self.work.write('disk.img', first)
        disks = (*self.raw(), '-blockdev', 'driver=file,node-name=n1,'
                 'locking=off,filename=second.img', '-device',
                 'virtio-blk-pci,drive=n1,id=disk1,disable-legacy=on,'
                 'share-rw=on,addr=6')
        for caps in self.WAYS:
            with self.subTest(caps=caps):
                src = self.source(disks, caps=caps)
                half = len(self.content) // PAGE // 2
                # No page twice, so none of them is read over
                places = self.rng.sample(range(OTHER, OTHER + 8 * MIB, PAGE),
                                         2 * half)
                second = VirtioBlkDisk(src.mem, 6, ring=0x200000).start()
                for blk, mine in ((src.blk, places[:half]),
                                  (second, places[half:])):
                    for n in range(0, half, 32):
                        blk.transfer(False, n * PAGE, [
                            (a, PAGE) for a in mine[n:n + 32]])
                src.qmp.cmd('stop')
                self.assertEqual(self.save(src)['mapped-pages'], 2 * half)
                dst = self.restored(disks, caps)
                self.same(src, dst)
                for q in (src, dst):
                    q.kill()
                self.remove()


class Moments(SnapshotTest):

    disk = 16

    def test_cancel_leaves_reads_out(self):
        """At most those that are under way are waited for: 8 of 1 MiB"""
        server, src, _ = self.held({})
        want = self.digest(src)
        view = server.views['src']
        src.qmp.cmd('migrate_cancel')
        before = view.reads
        view.release()
        self.end(src, CANCELLED)
        self.assertLess(view.reads - before, 8)
        # What was not compared is still noted.
        src.qmp.cmd('cont')
        self.goes_on(src, want)
        src.qmp.cmd('stop')
        self.assertEqual(self.save(src)['mapped-pages'],
                         len(self.content) // PAGE)

    def test_reads_that_fail_are_not_forgotten(self):
        server = self.nbd()
        src, pages = self.stopped(server.blockdev('src', 'n0'))
        view = server.views['src']
        view.fails = lambda offset, size: True
        self.assertEqual(self.save(src)['mapped-pages'], 0)
        view.fails = lambda offset, size: False
        self.resume(src)
        src.qmp.cmd('stop')
        self.remove()
        self.assertEqual(self.save(src)['mapped-pages'], len(pages))

    def test_loadvm_after_an_incoming_migration(self):
        """One that fails does not keep the next one from working."""
        src, _ = self.stopped(self.qcow2())
        self.assertEqual(src.hmp('savevm a'), '')
        self.save(src)
        want = self.digest(src)
        src.quit()
        q = self.restored(self.qcow2(make=False))
        self.arrived(q)
        q.qmp.cmd('cont')
        set_caps(q, x_page_map=False)
        self.assertIn("'x-page-map', which is off here", q.hmp('loadvm a'))
        set_caps(q, x_page_map=True)
        self.assertEqual(q.hmp('loadvm a'), '')
        self.assertEqual(self.digest(q), want)


if __name__ == '__main__':
    main()
