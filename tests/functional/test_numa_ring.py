#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The estimator dirty-ring: what each vCPU writes, by the rings of a KVM, and that
logging is on as long as it has to, beside others who want it.
"""

import hashlib
import os
import re
import time

from pmemha import main
from pmemha.numahost import Host
from pmemha.paths import scaled
from pmemha.twonodes import environment
import test_numa_sched as base

MIB = base.MIB
PAGES = 128                             # that the firmware writes to
LOG_MIGRATION, LOG_RATE, LOG_OURS = 1, 2, 8


def counting():
    """As base.writing(), but no two rounds leave the same"""
    move, inc = bytes.fromhex('2688260000'), bytes.fromhex('26fe060000')
    image = base.writing()
    assert image.count(move) == 1
    return image.replace(move, inc)


def flags(q):
    """Who wanted dirty logging, each time that it changed"""
    return [int(mask, 16) for mask in re.findall(
        r'global_dirty_changed bitmask 0x([0-9a-f]+)', q.output())]


class Ring(base.NumaSched):

    accel = 'kvm,dirty-ring-size=4096'

    def machine(self, *args, obj=None, **kw):
        kw.setdefault('firmware', counting)
        return super().machine(*args, '-trace', 'global_dirty_changed',
                               '-cpu', 'qemu64', obj=obj, accel=self.accel,
                               **kw)

    def setUp(self):
        super().setUp()
        cpus = sorted(os.sched_getaffinity(0))
        # Nodes smaller than the guest: its vCPUs are groups of their own.
        self.host = Host(self.work, [
            (0, cpus[:1], 1024, [10, 30]),
            (1, cpus[1:2] or [max(cpus) + 1], 1024, [30, 10])])

    def check_kvm(self):
        """Has this host a KVM with rings that says what this firmware wrote?"""
        try:
            os.close(os.open('/dev/kvm', os.O_RDWR))
        except OSError as e:
            self.skipTest(f'no KVM: {e}')
        try:
            q = self.machine('-trace', 'kvm_dirty_ring_page', name='check')
        except AssertionError as e:
            self.skipTest(f'KVM runs no machine: {e}')
        q.qmp.cmd('calc-dirty-rate', **{'calc-time': 2, 'mode': 'dirty-ring'})
        self.rate_is_known(q)
        seen = q.output().count('kvm_dirty_ring_page ')
        status = q.qmp.cmd('query-status')['status']
        q.kill()
        if status != 'running' or seen < PAGES:
            self.skipTest(f'KVM does not run this firmware ({status}), or has '
                          f'seen {seen} pages of it only')

    def rate_is_known(self, q):
        q.qmp.poll('query-dirty-rate', lambda r: r['status'] == 'measured',
                   scaled(30))

    def add(self, q, **props):
        q.qmp.cmd('object-add', **{
            'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
            'topology-root': self.host.dir, 'estimator': 'dirty-ring',
            'working-set': True, 'memory-intensity': 500, **props})

    def wait_flags(self, q, want):
        """The first after which it is true"""
        q.qmp.poll('query-status', lambda _: want(flags(q)), scaled(30))
        return flags(q)

    def beside(self, q, other):
        """
        What changed, with other() done while a window is open; again, if this
        host is so slow that it is over.
        """
        for _ in range(5):
            before = len(flags(q))
            self.add(q)
            self.wait_flags(q, lambda f: f[before:before + 1] == [LOG_OURS])
            other()
            seen = self.wait_flags(q, lambda f: len(f) > before + 1)[before:]
            if seen[1] & LOG_OURS:
                return before
            q.qmp.cmd('object-del', id='ns0')
            self.wait_flags(q, lambda f: f[-1:] == [0])
        self.fail('each window was over before')

    def measured(self, q):
        info = self.look(q, lambda i: all(g['measured'] for g in i['groups']))
        self.assertEqual(info['notes'], [])
        return info

    def pages(self, written):
        for w in written:
            self.assertEqual(w['bytes'] % 4096, 0)
        return {w['node']: w['bytes'] // 4096 for w in written}


class NumaRing(Ring):

    def setUp(self):
        super().setUp()
        self.check_kvm()

    def test_vcpus(self):
        """One of two writes; the other waits for a call that never comes."""
        q = self.machine(smp=2)
        self.add(q)
        self.wait_flags(q, lambda f: f[:1] == [LOG_OURS])
        one, two = sorted(self.measured(q)['groups'], key=lambda g: g['name'])
        self.assertEqual((one['name'], two['name']), ('vcpu0', 'vcpu1'))
        self.assertEqual(self.pages(one['working-set']), {0: PAGES})
        self.assertEqual(self.pages(two['working-set']), {})
        for index, group in enumerate((one, two)):
            self.assertEqual(group['resident'], 0)
            self.assertEqual(group['vcpus'], [
                {'index': index, 'written': group['working-set']}])
        self.wait_flags(q, lambda f: f[:2] == [LOG_OURS, 0])
        self.assertIn('what it wrote', q.hmp('info numa-sched'))
        # Whoever has nothing that could move is told so by no decision.
        for place in self.look(q)['plan']['places']:
            for option in place.get('options', []):
                self.assertEqual(option['memory'], 'stay')

    def test_own_memory(self):
        """A group that has memory: what is written of it, and a quarter"""
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-numa', 'node,nodeid=0,cpus=0-1,memdev=m0', smp=2)
        self.add(q)
        group, = self.measured(q)['groups']
        self.assertEqual(group['resident'], 64 * MIB)
        used = sum(w['bytes'] for w in group['working-set'])
        self.assertGreaterEqual(used, 16 * MIB)
        self.assertLess(used, 18 * MIB)
        self.assertEqual([(v['index'], self.pages(v['written']))
                          for v in group['vcpus']], [(0, {0: PAGES}), (1, {})])

    def test_memory_moves(self):
        """To a node that this host is said to have: what is hot is known."""
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-numa', 'node,nodeid=0,cpus=0-1,memdev=m0', smp=2, start=False)
        q.env = environment()
        q.start()
        # The rings are read once in a second, so a look sees something new.
        self.add(q, **{'working-set': False, 'interval-ms': 2000,
                       'max-migrate-bandwidth': 8 * MIB})
        self.look(q)
        q.qmp.cmd('numa-sched-move', id='ns0', node=0, target=1)
        while True:
            progress = q.qmp.wait_event('NUMA_MIGRATE_PROGRESS',
                                        scaled(30))['data']['progress']
            if progress['state'] not in ('waiting', 'running'):
                break
        self.diag(progress)
        # What is written, and nothing else, is worth it.
        self.assertEqual((progress['state'], progress['moved'],
                          progress['estimator']),
                         ('completed', PAGES * 4096, 'dirty-ring'))
        self.wait_flags(q, lambda f: f[:2] == [LOG_OURS, 0])
        self.assertEqual(self.look(q)['notes'], [])

    def test_off(self):
        """Without working-set nothing is logged, by whatever estimator."""
        q = self.machine(smp=2)
        for props in ({'working-set': False}, {'estimator': 'none'}):
            self.add(q, **props)
            group, *_ = self.look(q, after=10)['groups']
            self.assertNotIn('vcpus', group)
            q.qmp.cmd('object-del', id='ns0')
        self.assertEqual(flags(q), [])

    def test_comes_and_goes(self):
        """Deleted before and after logging began, and in between"""
        q = self.machine(smp=2)
        for n in range(20):
            self.add(q)
            if n % 2:
                self.look(q)
            q.qmp.cmd('object-del', id='ns0')
        self.add(q)
        self.wait_flags(q, lambda f: f[-1:] == [LOG_OURS])
        q.qmp.cmd('object-del', id='ns0')
        seen = self.wait_flags(q, lambda f: f[-1:] == [0])
        self.assertEqual(seen, [LOG_OURS, 0] * (len(seen) // 2))
        q.quit()

    def test_stopped_guest(self):
        """QEMU goes on logging until the guest does."""
        q = self.machine(smp=2)
        for again in (False, True):
            before = len(flags(q))
            self.add(q)
            self.wait_flags(q, lambda f: f[-1:] == [LOG_OURS])
            q.qmp.cmd('stop')
            q.qmp.cmd('object-del', id='ns0')
            if again:
                # It is on already, and so it stays.
                self.add(q)
                self.look(q)
            q.qmp.cmd('cont')
            # What is written then is not asked for: there are KVMs that say
            # nothing more of real mode after a guest was stopped.
            seen = self.wait_flags(q, lambda f: f[-1:] == [0])
            self.assertEqual(seen[before:before + 2], [LOG_OURS, 0])

    def test_dirty_rate(self):
        q = self.machine(smp=2)

        def rate():
            q.qmp.cmd('calc-dirty-rate', **{'calc-time': 1,
                                            'mode': 'dirty-ring'})
            self.rate_is_known(q)
        before = self.beside(q, rate)
        one, _ = sorted(self.measured(q)['groups'], key=lambda g: g['name'])
        self.assertEqual(self.pages(one['working-set']), {0: PAGES})
        seen = self.wait_flags(q, lambda f: f[-1:] == [0])[before:]
        self.assertEqual(seen[:2], [LOG_OURS, LOG_OURS | LOG_RATE])
        self.assertIn(seen[2:], ([LOG_OURS, 0], [LOG_RATE, 0]))

    def memory(self, q):
        """Of a guest that does not run"""
        name = f'{q.name}.ram'
        q.qmp.cmd('pmemsave', timeout=30, val=0, size=64 * MIB, filename=name)
        with open(self.work.path(name), 'rb') as f:
            return hashlib.sha256(f.read()).hexdigest()

    def no_longer_fresh(self, q, began):
        """Migrations are refused for 2 seconds."""
        q.qmp.poll('query-status', lambda _: time.monotonic() > began + 2.1,
                   scaled(30))

    def test_migration(self):
        """All arrives; then each end measures, or may."""
        src = self.machine(smp=2)
        dst = self.machine('-incoming', 'unix:dst.mig', '-S', smp=2,
                           name='dst')
        self.add(src)
        self.add(dst)
        self.wait_flags(src, lambda f: f[:1] == [LOG_OURS])
        began = time.monotonic()
        src.qmp.cmd('migrate', uri='file:early')
        info = src.qmp.poll('query-migrate', lambda m: m.get('status') in (
            'completed', 'failed'), scaled(60))
        self.assertEqual(info['status'], 'failed', info)
        self.assertIn('migrate again in 2 seconds', info['error-desc'])
        self.assertEqual(flags(src), [LOG_OURS])
        self.no_longer_fresh(src, began)
        src.qmp.cmd('migrate', uri='unix:dst.mig')
        info = src.qmp.poll('query-migrate', lambda m: m.get('status') in (
            'completed', 'failed'), scaled(60))
        self.assertEqual(info['status'], 'completed', info)
        # Devices are told by who begins first, which has to be migration.
        self.assertEqual(flags(src)[:3], [LOG_OURS, 0, LOG_MIGRATION])
        dst.qmp.poll('query-status', lambda s: s['status'] == 'paused' or
                     s['status'] == 'prelaunch', scaled(30))
        self.assertEqual(self.memory(src), self.memory(dst))
        dst.qmp.cmd('cont')
        one, _ = sorted(self.measured(dst)['groups'], key=lambda g: g['name'])
        self.assertEqual(self.pages(one['working-set']), {0: PAGES})
        dst.kill()
        src.qmp.cmd('object-del', id='ns0')
        src.qmp.cmd('cont')
        self.wait_flags(src, lambda f: f[-1:] == [0])

    def test_migration_is_cancelled(self):
        """Ours ends when it begins, and goes on when it ends."""
        q = self.machine(smp=2)
        q.qmp.cmd('migrate-set-parameters', **{'max-bandwidth': 20000})
        self.add(q)
        self.wait_flags(q, lambda f: f[:1] == [LOG_OURS])
        self.no_longer_fresh(q, time.monotonic())
        q.qmp.cmd('migrate', uri='file:slow')
        self.wait_flags(q, lambda f: f[-1] & LOG_MIGRATION)
        q.qmp.cmd('migrate_cancel')
        q.qmp.poll('query-migrate', lambda m: m['status'] == 'cancelled',
                   scaled(30))
        one, _ = sorted(self.measured(q)['groups'], key=lambda g: g['name'])
        self.assertEqual(self.pages(one['working-set']), {0: PAGES})
        seen = self.wait_flags(q, lambda f: f[-1:] == [0])
        self.assertEqual(seen[:4], [LOG_OURS, 0, LOG_MIGRATION, 0])
        # A window that took longer than this
        self.assertIn(seen[4:], ([], [LOG_OURS, 0]))


class Without(Ring):
    """No rings: refused, with what to do about it"""

    accel = 'tcg'

    def refusal(self):
        q = self.machine(smp=2)
        self.add(q)
        note, = self.look(q, lambda i: i['notes'])['notes']
        for said in ("'ns0'", "'dirty-ring'",
                     '-accel kvm,dirty-ring-size=4096'):
            self.assertIn(said, note)
        info = self.look(q, after=10)
        self.assertEqual((info['notes'], flags(q)), ([note], []))
        self.assertFalse(any(g['measured'] for g in info['groups']))
        self.assertEqual(q.output().count('are not measured'), 1)

    def test_tcg(self):
        self.refusal()


class WithoutRing(Without):

    accel = 'kvm'

    def test_kvm(self):
        self.accel = NumaRing.accel
        self.check_kvm()
        self.accel = 'kvm'
        self.refusal()


def only_own(*classes):
    """The tests of the base are those of another suite."""
    for cls in classes:
        for name in dir(cls):
            if name.startswith('test_') and name not in cls.__dict__:
                setattr(cls, name, None)


only_own(Ring, NumaRing, Without, WithoutRing)

if __name__ == '__main__':
    main()
