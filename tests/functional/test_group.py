#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Devices of a consistency group are captured in one epoch: the image at the
replica is of one instant of all of them.  docs/devel/pmem-ha-group.rst

    test_group.py [--seed N] [--rounds N] [PATTERN]
"""

import os
import random
import re
import signal
import subprocess

from pmemha import main, scaled
from pmemha.baremetal import BASE, BareMetal
from pmemha.groups import (BASES, DEVICES, GROUP, SIZE, SLICE, SPREAD,
                           GroupTest, add_slices)
from pmemha.options import option
from pmemha.paths import program
from pmemha.qemu import Qemu

ROUNDS = option('rounds', 6)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))
LABELS = 128 << 10


class Instant(GroupTest):
    """Kills: what one device holds is not ahead of what another one holds."""

    def setUp(self):
        super().setUp()
        self.diag(f'seed {SEED}, {ROUNDS} rounds')
        self.rng = random.Random(SEED)

    def rounds(self, cmd, report, **kw):
        total = 0
        for n in range(ROUNDS):
            if n:
                self.anew(n)
            # Epochs that are copied, and such that are sent from memory
            staging = self.rng.choice((4 << 10, 64 << 10, 64 << 20))
            g = self.guest(f'g{n}', cmd=cmd,
                           props=f',staging-size={staging}', **kw).start()
            for _ in range(self.rng.randrange(3, 30)):
                g.out.wait_for(report, 60)
            g.kill()
            answer = self.r.ctl('promote')
            verdict = self.judged(g, answer['mem-path'])
            total += sum(g.acks().values())
            self.assertTrue(verdict.ok)
        self.diag(f'{total} records acknowledged')

    def anew(self, n):
        for g in self.guests:
            g.kill()
        self.guests = []
        self.r.kill()
        self.r = self.replica(f'r{n}', image=f'r{n}.img', size=SIZE).start()

    def test_order_between_devices(self):
        """Stores along a chain that alternates between them; no flush"""
        self.rounds(f'workload=litmus pairs=12 {SPREAD}', r'^F \d+ \d+$')

    def test_flush_of_any_device(self):
        self.rounds(f'workload=records {SPREAD}', r'^A 0 ')

    def test_device_of_each_cpu(self):
        """CPU c writes to, and flushes, device c only."""
        self.rounds(f'workload=records devs={DEVICES} {BASES}', r'^A 1 ')

    def test_dma(self):
        self.rounds(f'workload=dma {SPREAD}', r'^A 0 ')


class Life(GroupTest):

    def test_second_host(self):
        """The printed arguments, as they are; then the way back"""
        src = self.source(cmd=f'workload=records {SPREAD}')
        info = src.qmp.cmd('query-pmem-ha')
        self.assertEqual([(i['consistency-group'], i['offset'], i['state'])
                          for i in info],
                         [('g0', n * SLICE, 'in-sync')
                          for n in range(DEVICES)])
        self.assertEqual(len({i['epoch-acked'] for i in info}), 1)
        self.assertIn('consistency group g0, at offset 0x800000',
                      src.hmp('info pmem-ha'))
        self.assertEqual(self.r.qmp.cmd('query-pmem-replica')[0]['devices'],
                         DEVICES)
        src.kill()
        answer = self.r.ctl('promote')
        verdict = self.judged(src, answer['mem-path'])
        self.r.signal(signal.SIGTERM)
        self.r.wait(10)
        first = ','.join(verdict.state[c].split()[0]
                         for c in range(self.smp))
        second = self.adopt(BareMetal(
            self.work, f'workload=records first={first} {SPREAD}',
            name='second', smp=self.smp))
        args = answer['command-line']
        self.assertEqual(args.count('-device'), DEVICES)
        second.add(*args).start()
        self.assertEqual([i['state'] for i in
                          second.qmp.cmd('query-pmem-ha')],
                         ['standalone'] * DEVICES)
        second.out.wait_for('^A 0 ', 60)
        second.quit()
        self.judged(second, answer['mem-path'])
        self.r = self.replica('back', image='back.img', size=SIZE).start()
        third = self.adopt(Qemu(self.work, 'third', machine='q35,nvdimm=on',
                                memory='64M,slots=4,maxmem=4G'))
        third.add('-S', '-object', self.r.object())
        for arg in args:
            third.add(arg + ',replica=r0' if 'pmem-ha,' in arg else arg)
        third.start()
        self.wait_info(third, state='in-sync', timeout=60)
        third.kill()
        answer = self.r.ctl('promote')
        self.assertEqual(answer['generation'], 3)
        self.judged(second, answer['mem-path'])

    def test_restarts(self):
        """After an end in order nothing is copied, after a kill all is."""
        src = self.source()
        src.quit()
        again = self.guest('src', cmd='workload=idle').start()
        self.wait_info(again, state='in-sync')
        self.assertEqual(self.verdicts(again)[-1], '0')
        again.kill()
        third = self.guest('src', cmd='workload=idle').start()
        self.wait_info(third, state='in-sync')
        self.assertEqual(self.verdicts(third)[-1], '1')
        third.kill()
        self.judged(src, self.r.ctl('promote')['mem-path'])

    def test_migration(self):
        """One section hands all devices over; nothing is copied again."""
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        dst.qmp.cmd('cont')
        self.assertEqual(self.wait_info(dst, role='primary',
                                        state='in-sync')['generation'], 2)
        self.runs(dst)
        self.assertEqual(self.verdicts(dst), ['0'])
        for g in (src, dst):
            g.kill()
        answer = self.r.ctl('promote')
        acks = {**src.acks(), **dst.acks()}
        dst.acks = lambda: acks
        self.judged(dst, answer['mem-path'])

    def test_flush_of_two_devices_by_one_instruction(self):
        """It waits once, and that passes to another QEMU."""
        cmd = (f'workload=records think=200 width=10 {SPREAD} '
               'hint=0xfed5003c,0xfed5003c')
        src = self.source(cmd=cmd)
        dst = self.destination(cmd=cmd, paused=False)
        self.r.signal(signal.SIGSTOP)
        self.wait_info(src, state='stalled', flushes_waiting=self.smp)
        self.migrate(src)
        self.wait_migration(dst)
        self.assertEqual(self.pmem_ha(dst)['flushes-waiting'], self.smp)
        self.r.signal(signal.SIGCONT)
        self.runs(dst)
        for g in (src, dst):
            g.kill()
        acks = {**src.acks(), **dst.acks()}
        dst.acks = lambda: acks
        self.judged(dst, self.r.ctl('promote')['mem-path'])

    def test_snapshot(self):
        """loadvm: all devices count as changed."""
        g = self.guest('g', cmd=f'workload=records think=200 {SPREAD}')
        subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                        'vm.qcow2', '16M'], cwd=self.work.dir, check=True)
        g.add('-drive', 'if=none,id=vm,file=vm.qcow2,format=qcow2')
        g.start()
        g.out.wait_seen('^A 0 5$', 60)
        self.assertEqual(g.hmp('savevm one', 60), '')
        self.runs(g, 5)
        self.assertEqual(g.hmp('loadvm one', 60), '')
        self.runs(g, 5)
        g.qmp.cmd('stop')
        seen = self.content(g)
        g.quit()
        answer = self.r.ctl('promote')
        with open(answer['mem-path'], 'rb') as f:
            self.assertTrue(f.read() == seen, 'memory and replica differ')

    def content(self, g):
        g.qmp.cmd('pmemsave', timeout=30, val=1 << 32, size=SIZE,
                  filename='seen')
        with open(self.work.path('seen'), 'rb') as f:
            return f.read()

    def test_labels(self):
        """A label write to the second device is at its place."""
        g = self.adopt(BareMetal(self.work, 'workload=label slot=1 '
                                 f'records=3 length=128 {BASES}', smp=1))
        self.work.sparse('g.img', SIZE)
        g.add('-object', self.r.object('r0'))
        add_slices(g, 'g.img', ',replica=r0,state-file=g.state,'
                   f'label-size={LABELS}')
        g.start()
        g.out.wait_for('^A 0 3$', 60)
        g.kill()
        answer = self.r.ctl('promote')
        for path in (self.work.path('g.img'), answer['mem-path']):
            with open(path, 'rb') as f:
                first, second = f.read(SLICE), f.read(SLICE)
            self.assertEqual(first[-LABELS:], bytes(LABELS))
            self.assertNotEqual(second[-LABELS:], bytes(LABELS))
        with open(self.work.path('g.img'), 'rb') as f:
            f.seek(SLICE)
            self.assertEqual(f.read(), second)

    def test_replica_away(self):
        """The guest is paused, whichever device it flushes."""
        g = self.source()
        self.r.kill()
        g.qmp.poll('query-status', lambda s: not s['running'], scaled(30))
        self.assertEqual({i['state'] for i in g.qmp.cmd('query-pmem-ha')},
                         {'stalled'})
        self.comes_back()
        g.qmp.poll('query-status', lambda s: s['running'], scaled(30))
        self.runs(g)
        g.kill()
        self.judged(g, self.r.ctl('promote')['mem-path'])

    def comes_back(self):
        self.r = self.replica('r2', image='replica.img', size=SIZE)
        self.r.argv = [a.replace('r2.sock', 'replica.sock')
                       for a in self.r.argv]
        self.r.start()

    def test_epoch_is_lost(self):
        """What it held of each device goes into the next one."""
        g = self.source(cmd=f'workload=records every=8 area=1024 pages=1 think=5000 {SPREAD}', acks=80)
        self.r.signal(signal.SIGSTOP)
        self.wait_info(g, state='stalled', flushes_waiting=self.smp)
        self.r.kill()
        self.comes_back()
        self.runs(g, 2)
        self.assertEqual(self.verdicts(g), ['1', '0'])
        g.kill()
        self.judged(g, self.r.ctl('promote')['mem-path'])

    def test_migration_without_replica(self):
        """The section names the pages of each device that it does not have."""
        cmd = f'workload=records every=8 area=1024 pages=1 think=5000 {SPREAD}'
        src = self.source(cmd=cmd, acks=80)
        dst = self.destination(cmd=cmd, paused=False)
        self.r.kill()
        self.wait_info(src, state='stalled', flushes_waiting=self.smp)
        self.migrate(src)
        self.wait_migration(dst)
        self.comes_back()
        self.runs(dst, 2)
        self.assertEqual(self.verdicts(dst), ['0'])
        for g in (src, dst):
            g.kill()
        acks = {**src.acks(), **dst.acks()}
        dst.acks = lambda: acks
        self.judged(dst, self.r.ctl('promote')['mem-path'])

    def test_migration_to_another_slot(self):
        """The guest would write to a flush hint that nobody looks at."""
        src = self.source()
        dst = self.destination(slots=(0, 2))
        # Without a return path the source sees it only while it sends.
        self.migrate(src, want='completed|failed')
        self.assertEqual(dst.wait(20), 1)
        self.assertIn("device 2 of the consistency-group is in slot 1",
                      dst.output())
        src.qmp.cmd('cont')
        self.wait_info(src, state='in-sync')
        self.runs(src)

    def test_end_without_replica(self):
        """What only the second device has counts as missing."""
        self.smp = 1
        g = self.source(cmd=f'workload=records base={BASE + SLICE:#x} '
                        'hint=0xfed50040')
        self.r.kill()
        self.wait_info(g, state='stalled')
        g.quit()
        self.assertRegex(g.output(), r'data that replica .* \d+ bytes')
        self.r = self.replica('r2', image='replica.img', size=SIZE).start()
        again = self.guest('src', cmd='workload=idle').start()
        self.wait_info(again, state='in-sync')
        self.assertEqual(self.verdicts(again)[-1], '1')

    def test_three_devices(self):
        """The second host gets each at its place."""
        self.r = self.replica('r3', image='r3.img', size=3 * SLICE).start()
        self.work.sparse('three.img', 3 * SLICE)
        q = self.adopt(Qemu(self.work, 'three', machine='q35,nvdimm=on',
                            memory='64M,slots=4,maxmem=4G'))
        q.add('-S', '-object', self.r.object('r0'))
        add_slices(q, 'three.img', ',replica=r0,state-file=three.state', 3)
        q.start()
        self.wait_info(q, state='in-sync')
        q.qmp.cmd('qom-set', path='/objects/mem2', property='discard-data',
                  value=True)
        q.quit()
        self.assertIn('discard-data=on has emptied', q.output())
        answer = self.r.ctl('promote')
        self.assertEqual(re.findall(r'offset=(\d+),size=(\d+)',
                                    ' '.join(answer['command-line'])),
                         [(str(n * SLICE), str(SLICE)) for n in (1, 2)])


class Refused(GroupTest):

    def refused(self, q, *texts):
        q.start(negotiate=False)
        self.assertEqual(q.wait(20), 1, q.output())
        for text in texts:
            self.assertIn(text, q.output())

    def machine(self, name='q', img='g.img'):
        if not os.path.exists(self.work.path(img)):
            self.work.sparse(img, SIZE)
        return self.adopt(Qemu(self.work, name, machine='q35,nvdimm=on',
                               memory='64M,slots=16,maxmem=4G')).add('-S')

    def pair(self, props=('', ''), offsets=(0, SLICE), img=('g.img', 'g.img')):
        q = self.machine().add('-object', self.r.object('r0'))
        for n in range(2):
            q.pmem_file(img[n], SLICE, n, device='pmem-ha',
                        backend=f'offset={offsets[n]}',
                        props=f'{GROUP},replica=r0,state-file=g.state'
                              f'{props[n]}')
        return q

    def test_not_alike(self):
        for n, (a, b) in enumerate((
                ('mode', 'async'), ('ack', 'received'), ('max-lag', '1M'),
                ('on-link-loss', 'stop'), ('staging-size', '1M'),
                ('state-file', 'h.state'))):
            q = self.pair(props=('', f',{a}={b}'))
            q.name = f'q{n}'
            self.refused(q, f"'{a}'", 'consistency-group=g0')

    def test_gap(self):
        self.work.sparse('g.img', 2 * SIZE)
        self.refused(self.pair(offsets=(0, 2 * SLICE)), 'offset=16777216',
                     'ends at 8388608')

    def test_beginning(self):
        self.work.sparse('g.img', 2 * SIZE)
        self.refused(self.pair(offsets=(SLICE, 2 * SLICE)),
                     'begin at 0')

    def test_same_slice(self):
        self.refused(self.pair(offsets=(0, 0)), 'offset=0', 'ends at 8388608')

    def test_other_file(self):
        self.work.sparse('h.img', SIZE)
        self.refused(self.pair(img=('g.img', 'h.img')), "'nv1'", 'mem-path')

    def test_short_file(self):
        self.work.sparse('g.img', SLICE)
        self.refused(self.pair(), 'mem1', 'too small')

    def test_no_file(self):
        q = self.machine()
        q.add('-object', f'memory-backend-ram,id=m,size={SLICE}', '-device',
              f'pmem-ha,id=nv0,memdev=m,{GROUP}')
        self.refused(q, 'memory-backend-file')

    def test_start_fails(self):
        """With the name of the device, and what helps"""
        q = self.machine().add('-object', self.r.object('r0'))
        os.mkdir(self.work.path('dir'))
        add_slices(q, 'g.img', ',replica=r0,state-file=dir')
        self.refused(q, "pmem-ha device 'nv0': ", 'dir')
        self.pair().start()
        again = self.pair()
        again.name = 'again'
        self.refused(again, 'in use by another QEMU', 'Stop the other user')

    def test_no_name(self):
        q = self.machine()
        q.pmem_file('g.img', SLICE, device='pmem-ha',
                    props='consistency-group=')
        self.refused(q, 'no name')

    def test_too_many(self):
        self.work.sparse('g.img', 9 * SLICE)
        q = self.machine().add('-object', self.r.object('r0'))
        add_slices(q, 'g.img', ',replica=r0,state-file=g.state', 9)
        self.refused(q, 'more than 8')

    def test_hot_plug(self):
        q = self.pair().start()
        self.work.sparse('h.img', SLICE)
        q.qmp.raw_cmd('object-add', {
            'qom-type': 'memory-backend-file', 'id': 'late', 'size': SLICE,
            'mem-path': 'h.img', 'share': True})
        with self.assertRaisesRegex(AssertionError, 'was complete when'):
            q.qmp.raw_cmd('device_add', {
                'driver': 'pmem-ha', 'id': 'nv2', 'memdev': 'late',
                'consistency-group': 'g0'})
        self.assertEqual(len(q.qmp.cmd('query-pmem-ha')), 2)

    def test_other_devices_than_the_replica_has(self):
        g = self.guest('src', cmd='workload=idle').start()
        self.wait_info(g, state='in-sync')
        g.quit()
        # The same file and the same slots, one device
        q = self.machine('one', 'src.img').add('-object', self.r.object('r0'))
        q.pmem_file('src.img', SIZE, device='pmem-ha',
                    props='replica=r0,state-file=src.state')
        self.refused(q, 'holds 2 devices', 'the primary has 1')
        q = self.machine('sizes', 'src.img')
        q.add('-object', self.r.object('r0'))
        for n, (at, size) in enumerate(((0, SLICE // 2),
                                        (SLICE // 2, SIZE - SLICE // 2))):
            q.pmem_file('src.img', size, n, device='pmem-ha',
                        backend=f'offset={at}',
                        props=f'{GROUP},replica=r0,state-file=src.state')
        self.refused(q, 'device 2 of the consistency-group has 8388608 bytes',
                     "the primary's has 12582912")
        again = self.guest('src', cmd='workload=idle').start()
        self.wait_info(again, state='in-sync')
        self.assertEqual(self.verdicts(again)[-1], '0')


if __name__ == '__main__':
    main()
