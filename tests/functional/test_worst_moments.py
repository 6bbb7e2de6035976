#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Promotion at the worst moment, a primary that slept through it, full disks
under a guest that flushes, and memory that comes while it does.
"""

import errno
import os
import signal
import subprocess
import threading
import time

from pmemha import main, scaled
from pmemha.baremetal import BareMetal
from pmemha.device import HINT, PMEM_BASE
from pmemha.devicetest import SIZE, DeviceTest
from pmemha.disks import until
from pmemha.primary import ReplicaTestCase
from pmemha.replica import Replica

GUEST = 8 << 20
# What one flush carries is more than the log keeps space for when it is empty,
# so a daemon on a full disk can not help itself by a checkpoint.
WORKLOAD = 'workload=records pages=512 area=512 think=2000'
LOG = 1 << 20


class Fencing(DeviceTest):
    """Who may write, when everything happens at once"""

    def test_primary_that_slept(self):
        """SIGSTOP, promotion, SIGCONT: it is fenced and acknowledges nothing."""
        q = self.primary()
        q.writeq(PMEM_BASE, 1)
        q.flush()
        q.signal(signal.SIGSTOP)
        answer = self.r.qmp.cmd('pmem-replica-promote')
        q.signal(signal.SIGCONT)
        q.wait_state('fenced')
        acked = q.query()['epoch-acked']
        q.writeq(PMEM_BASE, 2)
        q.writeq(HINT, 1)
        self.assertEqual(q.query()['epoch-acked'], acked)
        self.assertLessEqual(acked, answer['epoch'])
        self.assertEqual(int.from_bytes(
            self.content(answer['mem-path'])[:8], 'little'), 1)
        q.qmp.cmd('cont')
        q.qmp.poll('query-status', lambda s: s['status'] != 'running',
                   scaled(10))

    def test_second_promotion_meanwhile(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 7)
        q.flush()
        answers = []

        def promote():
            answers.append(self.r.ctl('promote'))

        threads = [threading.Thread(target=promote) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(answers), 4)
        for a in answers:
            self.assertEqual(a, answers[0])
        self.assertEqual(answers[0]['generation'], 2)
        q.wait_state('fenced')

    def test_promotion_meets_a_reconnection(self):
        """Whatever was acknowledged before is in the image, nothing after."""
        for n in range(12):
            with self.subTest(n):
                self.r.kill()
                self.r = self.replica(f'r{n}', image=f'r{n}.img',
                                      size=SIZE).start()
                q = self.primary(f'q{n}', back=f'p{n}.img',
                                 state=f'p{n}.state')
                q.writeq(PMEM_BASE, n + 1)
                q.flush()
                self.r.kill()
                q.wait_state('connecting')
                q.writeq(PMEM_BASE + 8, n + 1)
                q.writeq(HINT, 1)
                # Both want to be first when the daemon is back.
                self.r = self.replica(f'r{n}', image=f'r{n}.img',
                                      size=SIZE).start()
                answer = self.r.qmp.cmd('pmem-replica-promote')
                q.wait_state('fenced')
                self.assertLessEqual(q.query()['epoch-acked'],
                                     answer['epoch'])
                image = self.content(answer['mem-path'])
                self.assertEqual(int.from_bytes(image[:8], 'little'), n + 1)
                self.assertIn(int.from_bytes(image[8:16], 'little'),
                              (0, n + 1))
                q.kill()

    def test_empty_replica_where_the_promoted_one_was(self):
        """The old primary slept through it all: only an operator knows."""
        q = self.primary()
        q.writeq(PMEM_BASE, 1)
        q.flush()
        acked = q.query()['epoch-acked']
        q.signal(signal.SIGSTOP)
        self.r.qmp.cmd('pmem-replica-promote')
        self.r.kill()
        self.r = self.replica('new', image='new.img', size=SIZE,
                              listen=self.r.address).start()
        q.signal(signal.SIGCONT)
        q.qmp.poll('query-pmem-ha', lambda i: 'another one acknowledged epoch '
                   f'{acked}: if that one was not promoted' in
                   i[0].get('last-error', ''), scaled(30))
        q.writeq(PMEM_BASE, 2)
        q.writeq(HINT, 1)
        self.assertEqual(q.query()['epoch-acked'], acked)
        self.assertEqual(q.query()['state'], 'connecting')
        self.assertFalse(os.path.exists(self.path('new.img.copy')))
        # The operator may say so.
        self.qmp_refuses(lambda: q.qmp.cmd('pmem-ha-resync', id='other'),
                         "no pmem-ha device has the id 'other'")
        q.qmp.cmd('pmem-ha-resync', id='pm0')
        q.settle()
        self.assertGreater(q.query()['epoch-acked'], acked)
        q.kill()
        self.assertEqual(int.from_bytes(self.promoted()[:8], 'little'), 2)

    def test_image_by_another_name(self):
        """A hard link or a symbolic link leads to the same lock."""
        self.primary()
        # The first full copy takes the image's name a while after its last
        # byte was acknowledged; the file that had it has no lock then.
        until(lambda: not os.path.exists(self.path('replica.img.copy')),
              'the daemon')
        os.link(self.path('replica.img'), self.path('hard.img'))
        os.symlink('replica.img', self.path('soft.img'))
        for n, name in enumerate(('hard.img', 'soft.img')):
            d = self.adopt(Replica(self.work, f'd{n}', image=name, size=SIZE,
                                   journal=f'{name}.journal'))
            d.start(negotiate=False)
            self.assertEqual(d.wait(20), 1)
            self.assertRegex(d.output(), 'lock image|lock journal')
            self.refused(self.machine(f'q{n}', back=name, replica=None,
                                      state=None), 'replica')


class FullDisk(ReplicaTestCase):
    """The guest waits while the replica has no space, and loses nothing."""

    def fill_until(self, disk, reached):
        """The daemon frees space when it is idle; it is taken again."""
        filler = os.path.join(disk, 'filler')
        deadline = time.monotonic() + scaled(60)
        while not reached():
            self.assertLess(time.monotonic(), deadline, 'the disk is not full')
            with open(filler, 'ab', buffering=0) as f:
                try:
                    while True:
                        f.write(bytes(4096))
                except OSError as e:
                    self.assertEqual(e.errno, errno.ENOSPC)
        return filler

    def guest(self, policy, **kw):
        self.r = self.replica('r', size=GUEST, **kw).start()
        g = self.adopt(BareMetal(self.work, WORKLOAD, smp=2))
        g.add('-object', self.r.object('r0'))
        g.pmem_file('p.img', GUEST, device='pmem-ha',
                    props=f'replica=r0,state-file=p.state,on-link-loss={policy}')
        return g.start()

    def goes_on(self, g):
        """More is acknowledged than before, and all of it is promoted."""
        seen = g.acks().get(0, 0)
        g.out.wait_for(f'^A 0 {seen + 20}$', timeout=60)
        g.kill()
        answer = self.r.ctl('promote')
        verdict = g.judge([answer['mem-path']])
        self.assertTrue(verdict.ok, verdict)

    def full_journal(self, policy):
        """The guest on a full disk, which has space again then"""
        disk = self.tmpfs(16 << 20)
        g = self.guest(policy, image='d.img',
                       journal=os.path.join(disk, 'journal'),
                       props=f',journal-size={LOG}')
        g.out.wait_for('^A 0 20$', timeout=60)

        def waits():
            return not g.qmp.cmd('query-status')['running']

        filler = self.fill_until(disk, waits)
        # last-error is cleared when the daemon has freed space and the link
        # is back, which may be before the question: the event stays.
        g.qmp.wait_event('PMEM_HA_STATE', scaled(20), lambda data:
                         'No space left' in data.get('reason', ''))
        os.unlink(filler)
        return g

    def test_journal(self):
        g = self.full_journal('stall')
        g.qmp.poll('query-status', lambda s: s['running'], scaled(60))
        self.goes_on(g)

    def test_journal_and_stop(self):
        g = self.full_journal('stop')
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync',
                   scaled(60))
        self.assertFalse(g.qmp.cmd('query-status')['running'])
        g.qmp.cmd('cont')
        self.goes_on(g)

    def test_image(self):
        """No space for the full copy: no flush returns before there is."""
        disk = self.tmpfs(GUEST // 2)
        g = self.guest('stall', image=os.path.join(disk, 'd.img'))
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'stalled' and
                   'No space left' in i[0].get('last-error', ''), scaled(60))
        self.assertEqual(g.acks(), {})
        subprocess.run(['mount', '-o', f'remount,size={3 * GUEST}', disk],
                       check=True)
        g.qmp.poll('query-status', lambda s: s['status'] == 'running',
                   scaled(60))
        self.goes_on(g)


class Memory(DeviceTest):
    """Memory that comes and goes beside the device"""

    def test_hot_plug_of_other_memory(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 1)
        q.flush()
        q.qmp.raw_cmd('object-add', {'qom-type': 'memory-backend-ram',
                                     'id': 'other', 'size': 128 << 20})
        q.qmp.cmd('device_add', driver='pc-dimm', id='dimm', memdev='other')
        q.writeq(PMEM_BASE + 8, 2)
        q.flush()
        self.work.sparse('plain.img', SIZE)
        q.qmp.raw_cmd('object-add', {
            'qom-type': 'memory-backend-file', 'id': 'plain', 'size': SIZE,
            'mem-path': 'plain.img', 'share': True})
        q.qmp.cmd('device_add', driver='nvdimm', id='nv', memdev='plain')
        q.writeq(PMEM_BASE + 16, 3)
        q.flush()
        q.kill()
        image = self.promoted()
        self.assertEqual([int.from_bytes(image[n:n + 8], 'little')
                          for n in (0, 8, 16)], [1, 2, 3])


if __name__ == '__main__':
    main()
