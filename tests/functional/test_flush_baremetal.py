#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The promise, with vCPUs that really store and flush: the primary is killed at
any moment, its files are destroyed, and an oracle that shares no code with
QEMU judges the promoted image.

    test_flush_baremetal.py [--seed N] [--kills N] [PATTERN]
"""

import os
import random
import time

from pmemha import TestCase, main
from pmemha.baremetal import BareMetal, HINT_STRIDE, HINT
from pmemha.options import option

SIZE = 8 << 20
KILLS = option('kills', 204)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))


class Chain(TestCase):
    """A bare-metal guest on pmem-ha, and its replicas"""

    def replicas(self, n, count):
        return [self.replica(f'rep{n}-{i}', export=f'pm{i}', size=SIZE,
                             image=f'rep{n}-{i}.img').start()
                for i in range(count)]

    def guest(self, n, cmd, replicas, smp=1, props='', size=SIZE,
              synced=False, **kw):
        """With `synced` its first instruction comes after the full copy."""
        g = self.adopt(BareMetal(self.work, cmd, name=f'guest{n}', smp=smp,
                                 **kw))
        for i, r in enumerate(replicas):
            self.work.sparse(f'p{n}-{i}.img', size)
            g.add('-object', f'memory-backend-file,id=mem{i},size={size},'
                  f'mem-path=p{n}-{i}.img,share=on',
                  '-object', r.object(f'r{i}'),
                  '-device', f'pmem-ha,id=pm{i},memdev=mem{i},replica=r{i},'
                  f'state-file=p{n}-{i}.state{props}')
        if not synced:
            return g.start()
        g.add('-S').start()
        g.qmp.poll('query-pmem-ha', lambda infos: all(
            i['state'] == 'in-sync' for i in infos), 30)
        g.qmp.cmd('cont')
        return g

    def destroy(self, n, g, replicas):
        """Kill the primary, destroy what it had, promote: the images"""
        g.kill()
        images = []
        for i, r in enumerate(replicas):
            os.unlink(self.work.path(f'p{n}-{i}.img'))
            os.unlink(self.work.path(f'p{n}-{i}.state'))
            images.append(r.qmp.cmd('pmem-replica-promote')['mem-path'])
        return images

    def judge(self, n, g, replicas, what, **kw):
        images = self.destroy(n, g, replicas)
        verdict = g.judge(images, **kw)
        self.assertTrue(verdict.ok, f'{what}: {verdict}')
        for r, image in zip(replicas, images):
            r.kill()
            os.unlink(image)
        return verdict


class Kill(Chain):

    timeout = 4 * KILLS + 60

    def test_primary_kills(self):
        """Every report that left QEMU before the kill is in the image."""
        self.diag(f'seed {SEED}, {KILLS} kills')
        started = time.monotonic()
        acked = 0
        for n in range(KILLS):
            rng = random.Random(SEED + n)
            smp = (1, 2, 4)[n % 3]
            devices = 2 if n % 5 == 4 else 1
            cmd = f'workload=records seed={n} width=0'
            if devices == 2:
                cmd += (f' devs=2 base=0x100000000,{0x100000000 + SIZE:#x}'
                        f' hint={HINT:#x},{HINT + HINT_STRIDE:#x}')
            # Not spread=1: order between devices holds at flushes only, and
            # the oracle would want it of every store.
            if n % 4 == 3:
                cmd += ' every=3'
            replicas = self.replicas(n, devices)
            g = self.guest(n, cmd, replicas, smp)
            g.out.wait_for(rf'^A {rng.randrange(smp)} \d+$', 60)
            if devices == 2:
                # One that nothing was flushed to may still be without an
                # image, and has promised nothing.
                g.qmp.poll('query-pmem-ha', lambda infos: all(
                    i['epoch-acked'] for i in infos), 60)
            for _ in range(int(rng.expovariate(1 / 20))):
                g.out.wait_for(r'^A \d+ \d+$', 60)
            # Not only when a report was just read: what a flush takes.
            time.sleep(rng.random() / 500)
            self.judge(n, g, replicas, f'kill {n} of seed {SEED} (smp {smp})')
            acked += sum(g.acks().values())
        self.diag(f'{KILLS} kills, {acked} acknowledged records, 0 lost, '
                  f'0 torn, {time.monotonic() - started:.0f} s')


class Order(Chain):

    timeout = 300

    def check_litmus(self, smp, rounds, pairs):
        for n in range(rounds):
            replicas = self.replicas(n, 1)
            g = self.guest(n, f'workload=litmus pairs={pairs} every=5 '
                           f'seed={n}', replicas, smp)
            g.out.wait_for(rf'^F {smp - 1} {50 + 5 * n}$', 60)
            self.judge(n, g, replicas, f'litmus {n}')

    def test_litmus(self):
        """Unflushed stores A then B: no image has B without A."""
        self.check_litmus(3, 8, 1)

    def test_litmus_chain(self):
        self.check_litmus(4, 6, 8)


class Sources(Chain):

    def test_device_dma(self):
        """What fw_cfg writes by DMA and the guest then flushes"""
        replicas = self.replicas(0, 1)
        g = self.guest(0, 'workload=dma records=40', replicas, 2, synced=True)
        g.out.wait_for('^END', 60)
        self.judge(0, g, replicas, 'dma')

    def test_labels(self):
        """
        A label write is its own epoch: the guest does not flush.  (What it
        writes before the full copy is complete, the copy would bring.)
        """
        replicas = self.replicas(0, 1)
        g = self.guest(0, 'workload=label records=20 length=128', replicas,
                       props=',label-size=128K', synced=True)
        g.out.wait_for('^END', 60)
        self.judge(0, g, replicas, 'labels', label_size=128 << 10)

    def test_epoch_beyond_staging(self):
        """The vCPUs are held while content goes straight from memory."""
        replicas = self.replicas(0, 1)
        g = self.guest(0, 'workload=litmus area=32 pairs=16 every=5', replicas, 4,
                       props=',staging-size=4K')
        g.out.wait_for('^F 3 800$', 60)
        # Content that changed after its checksum was made breaks the link.
        info = g.qmp.cmd('query-pmem-ha')[0]
        self.assertEqual(info['reconnects'], 0, info.get('last-error'))
        self.judge(0, g, replicas, 'staging')


class Many(Chain):

    def test_every_flush_returns(self):
        """A vCPU about to sleep does not miss that its flush is over."""
        replicas = self.replicas(0, 1)
        g = self.guest(0, 'workload=records records=20000 pages=1 words=1 '
                       'area=4', replicas, 1, props=',ack=received')
        for n in range(100, 20001, 100):
            g.out.wait_for(rf'^A 0 {n}$', 60)
        g.out.wait_for('^END', 60)
        info = g.qmp.cmd('query-pmem-ha')[0]
        self.assertEqual(info['flush-latency-us']['count'], info['flushes'])
        self.judge(0, g, replicas, 'many')


class Idle(Chain):

    def test_no_epoch_without_a_flush(self):
        """After the copy's own epoch, an idle guest causes none."""
        replicas = self.replicas(0, 1)
        g = self.guest(0, 'workload=idle', replicas, 2)
        g.out.wait_for('^END', 60)
        g.qmp.poll('query-pmem-ha',
                   lambda infos: infos[0]['state'] == 'in-sync', 30)
        before = g.qmp.cmd('query-pmem-ha')[0]
        self.assertEqual(before['flushes'], 0)
        self.assertEqual(before['epoch-captured'], 1)


if __name__ == '__main__':
    main()
