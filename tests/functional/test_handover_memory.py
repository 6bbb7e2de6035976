#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Memory that another QEMU, a file or a snapshot brings: the replica gets what it
lacks, all of it, and no more where that is known.
"""

import signal
import subprocess

from pmemha import main, program, scaled
from pmemha.device import HINT, PMEM_BASE
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.migrate import MigrationTest

DISK = ('-blockdev', 'qcow2,node-name=disk,file.driver=file,'
        'file.filename=disk.qcow2')


def make_disk(work):
    subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                    'disk.qcow2', '1G'], cwd=work.dir, check=True,
                   timeout=scaled(20))


class Snapshot(DeviceTest):
    """savevm gives nothing away, and the replica gets the same instant."""

    def test_epoch(self):
        make_disk(self.work)
        q = self.machine().add(*DISK).start()
        q.settle()
        before = q.query()['epoch-acked']
        q.writeq(PMEM_BASE, 77)         # no flush
        self.assertEqual(q.hmp('savevm one', 30), '')
        info = q.settle()
        self.assertEqual(info['epoch-acked'], before + 1)
        self.assertEqual((info['role'], info['generation']), ('primary', 1))
        q.kill()
        self.assertEqual(int.from_bytes(self.promoted()[:8], 'little'), 77)

    def test_of_a_mirrored_device_alone(self):
        """After a promotion, an older snapshot can still be loaded."""
        make_disk(self.work)
        q = self.machine().add(*DISK).start()
        q.settle()
        q.writeq(PMEM_BASE, 1)
        self.assertEqual(q.hmp('savevm one', 30), '')
        q.kill()
        q = self.machine('alone', back='q.img', replica=None,
                         state=None).add(*DISK).start()
        self.assertEqual(q.hmp('loadvm one', 30), '')
        self.assertEqual(q.mem.readq(PMEM_BASE), 1)


class Pages(DeviceTest):
    """What the replica lacks is known at the destination."""

    def move(self, q):
        dst = self.machine('dst', back='dst.img', state='dst.state')
        dst.add('-incoming', 'unix:dst.mig').start()
        q.qmp.cmd('migrate', uri='unix:dst.mig')
        for g in (q, dst):
            g.qmp.poll('query-migrate', lambda i: i.get('status') ==
                       'completed', scaled(30))
        q.kill()
        return dst

    def check(self, dst):
        """One flush brings it all, and it is no copy of all."""
        dst.qmp.cmd('cont')
        dst.settle()
        dst.writeq(PMEM_BASE + 2 * PAGE, 2)
        dst.flush()
        wire = dst.query()['wire-bytes']
        dst.kill()
        self.assertTrue(self.promoted() == self.content('dst.img'))
        self.assertLess(wire, 64 << 10)

    def test_not_flushed(self):
        q = self.primary()
        for page in (0, 5, 63, 64, 1000, SIZE // PAGE - 1):
            q.writeq(PMEM_BASE + page * PAGE, page + 1)
        self.check(self.move(q))

    def test_epoch_under_way(self):
        """It was captured, and the replica ended without it."""
        q = self.primary()
        self.r.signal(signal.SIGSTOP)
        q.writeq(PMEM_BASE + 7 * PAGE, 7)
        q.writeq(HINT, 1)
        q.qmp.poll('query-pmem-ha', lambda i: i[0]['lag-bytes'], scaled(20))
        q.writeq(PMEM_BASE + 9 * PAGE, 9)
        # The destination looks for a replica before it starts.
        self.r.kill()
        self.r = self.replica('r2', size=SIZE, listen=self.r.address)
        q.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'connecting',
                   scaled(20))
        q.qmp.cmd('migrate', uri='file:guest.file')
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        q.kill()
        self.r.start()
        dst = self.machine('dst', back='dst.img', state='dst.state')
        dst.add('-incoming', 'file:guest.file').start()
        dst.qmp.poll('query-migrate', lambda i: i.get('status') ==
                     'completed', scaled(30))
        self.check(dst)


class RunningSnapshot(MigrationTest):

    def test_there_and_back(self):
        make_disk(self.work)
        g = self.source(*DISK)
        self.assertEqual(g.hmp('savevm one', 30), '')
        saved = g.acks()[0]
        self.runs(g)
        self.assertEqual(self.pmem_ha(g)['generation'], 1)
        self.assertEqual(g.hmp('loadvm one', 30), '')
        back = int(g.out.wait_for('^A 0 ([0-9]+)$', 30)[1])
        while back > saved + 2:         # lines from before
            back = int(g.out.wait_for('^A 0 ([0-9]+)$', 30)[1])
        self.runs(g)
        self.assertEqual(g.quit(), 0)
        with open(self.work.path('src.img'), 'rb') as f:
            memory = f.read()
        with open(self.r.ctl('promote')['mem-path'], 'rb') as f:
            self.assertTrue(f.read() == memory)

    def test_pending_flush(self):
        """The snapshot has it, and it waits again after loadvm."""
        make_disk(self.work)
        g = self.source(*DISK)
        self.r.signal(signal.SIGSTOP)
        self.wait_info(g, state='stalled')
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 2,
                   scaled(20))
        acks = g.acks()
        self.assertEqual(g.hmp('savevm one', 30), '')
        self.r.signal(signal.SIGCONT)
        self.runs(g)
        self.r.signal(signal.SIGSTOP)
        self.wait_info(g, state='stalled')
        self.assertEqual(g.hmp('loadvm one', 30), '')
        self.assertEqual(self.pmem_ha(g)['flushes-waiting'], 2)
        lines = len(g.out.text_lines())
        self.r.signal(signal.SIGCONT)
        g.qmp.poll('query-pmem-ha', lambda i: not i[0]['flushes-waiting'],
                   scaled(30))
        if not g.qmp.cmd('query-status')['running']:
            g.qmp.cmd('cont')
        self.runs(g)
        self.assertIn(f'A 0 {acks[0] + 1}', g.out.text_lines()[lines:])
        self.assertEqual(g.quit(), 0)
        with open(self.work.path('src.img'), 'rb') as f:
            memory = f.read()
        with open(self.r.ctl('promote')['mem-path'], 'rb') as f:
            self.assertTrue(f.read() == memory)


if __name__ == '__main__':
    main()
