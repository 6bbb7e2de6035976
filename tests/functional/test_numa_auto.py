#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The numa-sched object acts: threads are really bound, to CPUs of this host that a
made-up tree gives to two nodes.  Memory has nowhere to go here: what happens when
it can is tested in a guest with nodes.
"""

import os

from pmemha import main
from pmemha.paths import scaled
from pmemha.qmp import QmpError
import test_numa_sched as base


class NumaAuto(base.NumaSched):

    def machine(self, *args, obj='', **kw):
        if obj is not None:
            obj += f',runtime-dir={self.work.dir}'
        return super().machine(*args, obj=obj, **kw)

    def add(self, q, host, **props):
        q.qmp.cmd('object-add', **{
            'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
            'topology-root': host.dir, 'mode': 'auto',
            'memory-intensity': 500,
            'runtime-dir': self.work.dir, **props})

    def on_one_cpu(self, cpu, host, **props):
        return super().on_one_cpu(cpu, host, **{
            'runtime-dir': self.work.dir, **props})

    def decision(self, q):
        data = q.qmp.wait_event('NUMA_SCHED_DECISION', scaled(30))['data']
        return data['decision']

    def bound(self, tid, cpus):
        self.assertEqual(os.sched_getaffinity(tid), set(cpus))

    def error(self, q, command, **args):
        with self.assertRaises(QmpError) as e:
            q.qmp.cmd(command, **args)
        return str(e.exception)

    def test_binds_and_lets_go(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host, mode='auto')
        decision = self.decision(q)
        self.assertTrue(decision['applied'])
        self.bound(q.tid, other)
        info = self.look(q, lambda i: i['groups'][0].get('home') == 0)
        info = self.look(q, after=info['periods'] + 12)
        self.assertNotIn('decision', info)
        self.assertEqual((info['decisions'], info['notes']), (1, []))
        q.qmp.cmd('object-del', id='ns0')
        self.bound(q.tid, [here])

    def test_again_while_it_runs(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host, mode='auto')
        self.decision(q)
        for _ in range(3):
            q.qmp.cmd('object-del', id='ns0')
            self.bound(q.tid, [here])
            self.add(q, host)
            self.assertTrue(self.decision(q)['applied'])
            self.bound(q.tid, other)

    def test_one_node(self):
        """Nothing to choose: nothing is bound, nothing is decided."""
        cpus = sorted(os.sched_getaffinity(0))
        host = base.Host(self.work, [(0, cpus, 1024, [10])])
        q = self.on_one_cpu(cpus[0], host, mode='auto')
        os.sched_setaffinity(q.tid, cpus)
        info = self.look(q, after=10)
        self.assertEqual(info['decisions'], 0)
        self.bound(q.tid, cpus)

    def test_new_threads(self):
        """A vCPU that is plugged in later"""
        host, here, other = self.split_host()
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-numa', 'node,nodeid=0,cpus=0-1,memdev=m0', obj=None,
            smp='1,maxcpus=2')
        tid = q.qmp.cmd('query-cpus-fast')[0]['thread-id']
        os.sched_setaffinity(tid, {here})
        self.add(q, host)
        self.decision(q)
        slot = next(c for c in q.qmp.cmd('query-hotpluggable-cpus')
                    if 'qom-path' not in c)
        q.qmp.cmd('device_add', driver=slot['type'], id='cpu1',
                  **slot['props'])
        both = self.look(q, lambda i: len(i['groups'][0]['threads']) == 2 and
                         all(t['bound'] for t in i['groups'][0]['threads']))
        for t in both['groups'][0]['threads']:
            self.bound(t['thread-id'], other)

    def test_iothreads(self):
        """They go where the guest goes."""
        host, here, other = self.split_host()
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-machine', 'memory-backend=m0', '-object', 'iothread,id=io0',
            obj=None)
        io, = q.qmp.cmd('query-iothreads')
        tids = {io['thread-id'], q.qmp.cmd('query-cpus-fast')[0]['thread-id']}
        for tid in tids:
            os.sched_setaffinity(tid, {here})
        self.add(q, host)
        move, = self.decision(q)['moves']
        self.assertEqual(set(move['thread-ids']), tids)
        for tid in tids:
            self.bound(tid, other)
        group, = self.look(q)['groups']
        self.assertEqual({t['thread-id']: t['vcpus']
                          for t in group['threads']}[io['thread-id']], [])

    def test_not_permitted(self):
        """It advises from then on, and says so once; the guest runs."""
        host, here, _ = self.split_host()
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-machine', 'memory-backend=m0', '-sandbox',
            'on,resourcecontrol=deny', obj=None)
        tid = q.qmp.cmd('query-cpus-fast')[0]['thread-id']
        os.sched_setaffinity(tid, {here})
        self.add(q, host)
        self.assertFalse(self.decision(q)['applied'])
        info = self.look(q, lambda i: i['mode'] == 'advise')
        note, = info['notes']
        for said in (str(tid), "'guest'", 'not permitted', 'advise'):
            self.assertIn(said, note)
        self.look(q, after=info['periods'] + 12)
        self.assertEqual(q.output().count('can not be bound'), 1)
        self.bound(tid, [here])
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')

    def test_move(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host)
        self.look(q, lambda i: i['groups'][0]['threads'][0]['cpu'] > 500)
        args = {'id': 'ns0', 'vcpu': 0, 'target': 0}
        would = q.qmp.cmd('numa-sched-move', **args, **{'dry-run': True})
        self.assertEqual((would['from']['node'], would['to']['node']), (1, 0))
        self.assertEqual((would['to']['memory'], would['bytes']), ('stay', 0))
        self.assertEqual(would['gain'], sum(
            would['from'][term] - would['to'][term]
            for term in ('run', 'copy', 'cold')))
        self.assertGreater(would['gain'], 0)
        self.bound(q.tid, [here])
        q.qmp.cmd('numa-sched-move', **args)
        self.bound(q.tid, other)
        q.qmp.cmd('numa-sched-move', id='ns0', vcpu=0, target=1)
        self.bound(q.tid, [here])

    def test_move_memory(self):
        """To a node that this host does not have: an end with a reason"""
        host, here, _ = self.split_host()
        q = self.on_one_cpu(here, host)
        self.look(q)
        would = q.qmp.cmd('numa-sched-move', id='ns0', node=0, target=1,
                          **{'dry-run': True})
        self.assertEqual((would['to']['memory'], would['bytes'],
                          would['seconds']), ('follow', 64 * base.MIB, 1))
        q.qmp.cmd('numa-sched-move', id='ns0', node=0, target=1)
        while True:
            data = q.qmp.wait_event('NUMA_MIGRATE_PROGRESS',
                                    scaled(30))['data']
            if data['progress']['state'] == 'failed':
                break
        self.assertEqual(data['id'], 'ns0')
        progress = data['progress']
        self.assertEqual((progress['group'], progress['target'],
                          progress['moved']), ('guest', 1, 0))
        self.assertIn('1', progress['reason'])
        info = self.look(q, lambda i: i['notes'])
        self.assertEqual(info['moving']['state'], 'failed')
        q.qmp.cmd('numa-sched-cancel', id='ns0')
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')

    def test_move_refused(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host)
        self.look(q)
        for args, said in (
                ({'id': 'ns9', 'vcpu': 0, 'target': 0}, "'ns9'"),
                ({'id': 'ns0', 'target': 0}, "'vcpu', or 'node'"),
                ({'id': 'ns0', 'vcpu': 0, 'node': 0, 'target': 0},
                 "'vcpu', or 'node'"),
                ({'id': 'ns0', 'vcpu': 7, 'target': 0}, 'vCPU 7'),
                ({'id': 'ns0', 'node': 3, 'target': 0}, 'node 3'),
                ({'id': 'ns0', 'vcpu': 0, 'target': 5}, 'node 5'),
                ({'id': 'ns0', 'vcpu': 0, 'target': 5, 'dry-run': True},
                 'node 5')):
            self.assertIn(said, self.error(q, 'numa-sched-move', **args))
        self.assertIn("'ns9'", self.error(q, 'numa-sched-cancel', id='ns9'))
        self.bound(q.tid, [here])

    def test_two(self):
        """
        One of two goes to the only free CPU.  That it does nothing there yet,
        being stopped, changes nothing; that it is killed does.
        """
        host, here, other = self.split_host()
        cpu, *_ = other
        host = base.Host(self.work, [(0, [cpu], 1024, [10, 30]),
                                     (1, [here], 1024, [30, 10])], 'two')
        # Memory takes too long to follow.
        props = {'mode': 'auto', 'horizon': 1, 'max-migrate-bandwidth': 1 << 20}
        first = self.on_one_cpu(here, host, name='first', **props)
        self.decision(first)
        first.freeze()
        second = self.on_one_cpu(here, host, name='second', **props)
        info = self.look(second, after=40)
        self.assertEqual(info['decisions'], 0)
        # What it took when it decided, and nothing else runs there
        there = next(n for n in info['plan']['nodes'] if n['id'] == 0)
        self.assertGreater(there['cpu'], 100)
        self.bound(second.tid, [here])
        first.kill()
        self.assertTrue(self.decision(second)['applied'])
        self.bound(second.tid, [cpu])

    def test_no_table(self):
        """It says so, and goes on alone."""
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host, mode='auto',
                            **{'runtime-dir': self.work.path('nowhere')})
        self.assertTrue(self.decision(q)['applied'])
        note, = self.look(q)['notes']
        self.assertIn('nowhere', note)

    def test_estimators(self):
        q = self.machine(obj=',estimator=none,mode=auto')
        self.assertEqual(self.look(q)['mode'], 'auto')
        q.kill()
        self.refused(',estimator=guess', 'guess')


class NumaKvm(NumaAuto):
    """The same with KVM's threads, where the host has a KVM that runs code"""

    def machine(self, *args, **kw):
        return super().machine(*args, '-cpu', 'qemu64', accel='kvm', **kw)

    def setUp(self):
        super().setUp()
        try:
            os.close(os.open('/dev/kvm', os.O_RDWR))
        except OSError as e:
            self.skipTest(f'no KVM: {e}')
        try:
            q = self.machine(obj=None, name='kvm')
        except AssertionError as e:
            self.skipTest(f'KVM runs no machine: {e}')
        if q.qmp.cmd('query-status')['status'] != 'running':
            self.skipTest('KVM does not run this firmware')
        q.kill()


def only(cls, names):
    """The tests of its bases are those of other suites."""
    for name in dir(cls):
        if name.startswith('test_') and name not in names:
            setattr(cls, name, None)


only(NumaAuto, NumaAuto.__dict__)
only(NumaKvm, ('test_again_while_it_runs', 'test_binds_and_lets_go',
               'test_iothreads', 'test_move', 'test_new_threads',
               'test_not_permitted'))

if __name__ == '__main__':
    main()
