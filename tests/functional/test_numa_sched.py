#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The numa-sched object beside a guest that spins: what it sees of this host and of
one that is made up, and what it advises.
"""

import os
import re

from pmemha import TestCase, main
from pmemha.numahost import Host
from pmemha.paths import scaled
from pmemha.qmp import QmpError

GIB = 1 << 30
MIB = 1 << 20

KERNEL = tuple(int(n) for n in re.findall(r'\d+', os.uname().release)[:2])


def spinning():
    """Firmware of which the first instruction is a jump to itself"""
    image = bytearray(64 * 1024)
    image[0xfff0:0xfff2] = b'\xeb\xfe'
    return bytes(image)


def writing():
    """Firmware that writes to 128 of the guest's pages, again and again"""
    image = bytearray(64 * 1024)
    code = bytes.fromhex('b80010'       # mov $0x1000, %ax
                         '8ec0'         # 1: mov %ax, %es
                         '2688260000'   # mov %ah, %es:0, which is not 0
                         '050001'       # add $0x100, %ax
                         '3d0090'       # cmp $0x9000, %ax
                         '75f1ebec')    # jne 1b; jmp to the first
    image[0xff00:0xff00 + len(code)] = code
    image[0xfff0:0xfff3] = b'\xe9\x0d\xff'
    return bytes(image)


def ranges(cpus):
    """As the kernel writes them: 1-3,7"""
    parts = []
    for c in cpus:
        if parts and c == parts[-1][1] + 1:
            parts[-1][1] = c
        else:
            parts.append([c, c])
    return ','.join(str(a) if a == b else f'{a}-{b}' for a, b in parts)


class NumaSched(TestCase):

    def machine(self, *args, name='qemu', obj='', start=True, smp=1,
                firmware=spinning, **kw):
        self.work.write('spin.bin', firmware())
        q = self.qemu(name, machine='pc', smp=smp, memory='64M', **kw)
        q.add('-bios', 'spin.bin')
        if obj is not None:
            q.add('-object', 'numa-sched,id=ns0,interval-ms=100,'
                  f'memory-intensity=500{obj}')
        q.add(*args)
        return q.start() if start else q

    def look(self, q, want=lambda info: True, after=0):
        """The first look that it is true for"""
        infos = q.qmp.poll('query-numa-sched', lambda l: (
            l and l[0]['periods'] > after and want(l[0])), scaled(30))
        return infos[0]

    def split_host(self):
        """
        One of our CPUs is node 1; the others are node 0, where our memory is.
        """
        here, *other = sorted(os.sched_getaffinity(0))
        self.assertTrue(other, 'this needs two CPUs')
        return Host(self.work, [(0, other, 1024, [10, 30]),
                                (1, [here], 1024, [30, 10])]), here, other

    def on_one_cpu(self, cpu, host, name='qemu', firmware=spinning, **props):
        """
        A guest with memory, whose vCPU is bound; then the object, which asks
        this host's perf for nothing unless memory-intensity is None
        """
        props = {'memory-intensity': 500, **props}
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-machine', 'memory-backend=m0', obj=None, name=name,
            firmware=firmware)
        q.tid = q.qmp.cmd('query-cpus-fast')[0]['thread-id']
        os.sched_setaffinity(q.tid, {cpu})
        q.qmp.cmd('object-add', **{
            'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
            'topology-root': host.dir,
            **{k: v for k, v in props.items() if v is not None}})
        return q

    def refused(self, options, *said):
        q = self.machine('-object', 'numa-sched,id=ns1' + options, obj=None,
                         start=False)
        q.start(negotiate=False)
        self.assertEqual(q.wait(30), 1)
        for text in said:
            self.assertIn(text, q.output())

    def test_this_host(self):
        q = self.machine(smp=2)
        # The firmware of the second one waits to be called.
        info = self.look(q, lambda i: any(
            t['cpu'] for t in i['groups'][0]['threads'] if 0 in t['vcpus']))
        self.assertEqual((info['id'], info['mode'], info['estimator']),
                         ('ns0', 'observe', 'none'))
        group, = info['groups']
        tids = {c['thread-id']: c['cpu-index']
                for c in q.qmp.cmd('query-cpus-fast')}
        self.assertEqual({t['thread-id']: t['vcpus'] for t in group['threads']},
                         {tid: [index] for tid, index in tids.items()})
        self.assertEqual(group['name'], 'guest')
        self.assertNotIn('guest-node', group)
        memory = sum(w['bytes'] for w in group['working-set'])
        self.assertEqual(memory + group['absent'], 64 * MIB)
        self.assertLess(memory, 64 * MIB)
        nodes = {n['id']: n for n in info['plan']['nodes']}
        self.assertIn(group['home'], nodes)
        self.assertEqual(sum(n['cpus'] for n in nodes.values()),
                         os.sysconf('SC_NPROCESSORS_ONLN'))
        if len(nodes) == 1:
            self.assertNotIn('decision', info)
            self.assertEqual(info['decisions'], 0)

    def test_memory_is_seen(self):
        q = self.machine('-object',
                         'memory-backend-ram,id=m0,size=64M,prealloc=on',
                         '-machine', 'memory-backend=m0')
        group, = self.look(q)['groups']
        self.assertEqual(sum(w['bytes'] for w in group['working-set']),
                         64 * MIB)
        self.assertEqual(group['absent'], 0)

    def test_guest_nodes(self):
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=16M,prealloc=on',
            '-object', 'memory-backend-ram,id=m1,size=48M',
            '-numa', 'node,nodeid=0,cpus=0-1,memdev=m0',
            '-numa', 'node,nodeid=1,cpus=2,memdev=m1', smp=3)
        zero, one = sorted(self.look(q)['groups'], key=lambda g: g['name'])
        self.assertEqual((zero['name'], zero['guest-node']), ('node0', 0))
        self.assertEqual([t['vcpus'] for t in zero['threads']], [[0], [1]])
        self.assertEqual([t['vcpus'] for t in one['threads']], [[2]])
        self.assertEqual(sum(w['bytes'] for w in zero['working-set']),
                         16 * MIB)
        self.assertGreater(one['absent'], 40 * MIB)

    def test_one_thread_for_all(self):
        """Guest nodes or not: what shares a thread cannot be apart."""
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=32M',
            '-object', 'memory-backend-ram,id=m1,size=32M',
            '-numa', 'node,nodeid=0,cpus=0,memdev=m0',
            '-numa', 'node,nodeid=1,cpus=1,memdev=m1', smp=2,
            accel='tcg,thread=single')
        group, = self.look(q)['groups']
        thread, = group['threads']
        self.assertEqual(thread['vcpus'], [0, 1])
        self.assertEqual(sum(w['bytes'] for w in group['working-set']) +
                         group['absent'], 64 * MIB)

    def test_hotplug(self):
        q = self.machine(smp='1,maxcpus=2')
        group, = self.look(q)['groups']
        self.assertEqual(len(group['threads']), 1)
        slot = next(c for c in q.qmp.cmd('query-hotpluggable-cpus')
                    if 'qom-path' not in c)
        q.qmp.cmd('device_add', driver=slot['type'], id='cpu1',
                  **slot['props'])
        self.look(q, lambda i: len(i['groups'][0]['threads']) == 2)

    def test_advice(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host, mode='advise')
        data = q.qmp.wait_event('NUMA_SCHED_DECISION', scaled(30))['data']
        self.assertEqual(data['id'], 'ns0')
        move, = data['decision']['moves']
        self.assertEqual(move['name'], 'guest')
        self.assertEqual(move['thread-ids'], [q.tid])
        self.assertEqual(move['cpus'], ranges(other))
        self.assertEqual((move['from']['node'], move['to']['node']), (1, 0))
        self.assertEqual(move['to']['memory'], 'stay')
        self.assertGreater(data['decision']['gain'],
                           data['decision']['cost'] // 10)
        # It is the same advice as long as nobody does anything about it.
        info = self.look(q)
        info = self.look(q, after=info['periods'] + 5)
        self.assertEqual(info['decision']['moves'][0]['to']['node'], 0)
        self.assertEqual(info['decisions'], 1)
        self.assertEqual(len([e for e in q.qmp.events
                              if e['event'] == 'NUMA_SCHED_DECISION']), 1)
        self.assertEqual(info['plan']['places'][0]['choice']['node'], 0)
        # Who follows it is left in peace.
        os.sched_setaffinity(q.tid, other)
        info = self.look(q, lambda i: i['groups'][0].get('home') == 0)
        self.assertNotIn('decision', self.look(q, after=info['periods'] + 3))

    def test_observing_is_silent(self):
        host, here, _ = self.split_host()
        q = self.on_one_cpu(here, host)
        info = self.look(q, lambda i: 'decision' in i)
        self.look(q, after=info['periods'] + 2)
        self.assertFalse([e for e in q.qmp.events
                          if e['event'] == 'NUMA_SCHED_DECISION'])

    def test_pinned_by_a_manager(self):
        """On fewer CPUs than the node has: only its memory may move."""
        cpus = sorted(os.sched_getaffinity(0))
        host = Host(self.work, [(0, [max(cpus) + 1], 1024, [10, 30]),
                                (1, cpus, 1024, [30, 10])])
        q = self.on_one_cpu(cpus[0], host)
        info = self.look(q, lambda i: 'decision' in i)
        group, = info['groups']
        self.assertTrue(group['fixed'])
        self.assertTrue(group['threads'][0]['bound'])
        to = info['decision']['moves'][0]['to']
        self.assertEqual((to['node'], to['memory']), (1, 'follow'))

    def test_cpuset(self):
        """A node of which not all CPUs are allowed is no target."""
        here, *other = sorted(os.sched_getaffinity(0))
        host = Host(self.work, [
            (0, [max(other) + 1], 1024, [10, 30, 30]),
            (1, [here], 1024, [30, 10, 30]),
            (2, other, 1024, [30, 30, 10])])
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-machine', 'memory-backend=m0',
            obj=f',topology-root={host.dir}')
        info = self.look(q, lambda i: 'decision' in i)
        self.assertFalse(info['groups'][0]['fixed'])
        self.assertEqual({o['node'] for o in info['plan']['places'][0]
                          ['options']}, {1, 2})
        self.assertNotEqual(info['decision']['moves'][0]['to']['node'], 0)

    def test_without_vcpus(self):
        q = self.qemu(machine='none', memory='64M')
        q.add('-object', 'numa-sched,id=ns0,interval-ms=100').start()
        self.assertEqual(self.look(q, after=1)['groups'], [])

    def test_sparse_ids(self):
        """Memory is on nodes of this host, which are not there."""
        cpus = sorted(os.sched_getaffinity(0))
        host = Host(self.work, [(903, cpus, 1024, [10, 20]),
                                (909, [max(cpus) + 1], 1024, [20, 10])])
        q = self.machine(
            '-object', 'memory-backend-ram,id=m0,size=64M,prealloc=on',
            '-machine', 'memory-backend=m0',
            obj=f',topology-root={host.dir}')
        group, = self.look(q)['groups']
        self.assertEqual((group['home'], group['working-set'],
                          group['absent']), (903, [], 64 * MIB))

    def test_latency_file(self):
        host, _, _ = self.split_host()
        self.work.write('ns.txt', '0 0 80\n0 1 140\n1 0 150\n1 1 81 # far\n')
        q = self.machine(obj=f',topology-root={host.dir},latency=ns.txt')
        found = {(l['from'], l['to']): (l['value'], l['source'])
                 for l in self.look(q)['plan']['latency']}
        self.assertEqual(found, {
            (0, 0): (80, 'operator'), (0, 1): (140, 'operator'),
            (1, 0): (150, 'operator'), (1, 1): (81, 'operator')})

    def absent_host(self, first=0):
        """One of our CPUs, and memory that is nowhere, are node 909."""
        here, *other = sorted(os.sched_getaffinity(0))
        self.assertTrue(other, 'this needs two CPUs')
        return Host(self.work, [(first, other, 1024, [10, 30]),
                                (909, [here], 1024, [30, 10])])

    def sources(self, info):
        return {l['source'] for l in info['plan']['latency']}

    def not_measured(self, q, *said):
        """One note, one warning, and the next source"""
        info = self.look(q, lambda i: i['notes'])
        note, = info['notes']
        for other in ('caches of', 'to spare', 'cgroup'):
            if other in note and not any(other in text for text in said):
                self.skipTest(f'this host can not be measured: {note}')
        for text in ("'ns0'", "'measure-latency'", *said):
            self.assertIn(text, note)
        info = self.look(q, after=info['periods'] + 2)
        self.assertEqual((info['notes'], self.sources(info)),
                         ([note], {'slit'}))
        self.assertEqual(q.output().count('are not measured'), 1)
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')

    def test_measure_this_host(self):
        q = self.machine(obj=',measure-latency=on')
        without = self.machine(name='without')
        info = self.look(q, after=3)
        if len(info['plan']['nodes']) == 1:
            # There is nothing to measure.
            self.assertEqual(info['plan']['latency'],
                             self.look(without)['plan']['latency'])
            self.assertEqual(info['notes'], [])
        else:
            info = self.look(q, lambda i: i['notes'] or
                             self.sources(i) <= {'measured', 'hmat'})
        self.assertIs(q.qmp.cmd('qom-get', path='/objects/ns0',
                                property='measure-latency'), True)
        self.assertIs(without.qmp.cmd('qom-get', path='/objects/ns0',
                                      property='measure-latency'), False)
        self.assertNotIn('measured', self.sources(self.look(without)))

    def test_measure_absent_node(self):
        """Node 0 is measured before."""
        host = self.absent_host()
        q = self.machine(obj=f',topology-root={host.dir},measure-latency=on')
        self.not_measured(q, 'node 909 is not online', 'qemu-numa-plan')

    def test_measure_to_the_end(self):
        """CPUs of one node are said to be two: there is no difference, if any"""
        here, *other = sorted(os.sched_getaffinity(0))
        self.assertTrue(other, 'this needs two CPUs')
        host = Host(self.work, [(0, other, 1024, [10, 30]),
                                (909, [here], 0, [30, 10])])
        q = self.machine(obj=f',topology-root={host.dir},measure-latency=on')
        info = self.look(q, lambda i: i['notes'] or
                         self.sources(i) == {'measured'})
        self.diag(f"{info['plan']['latency']} {info['notes']}")
        self.assertEqual(len(info['plan']['latency']), 2)
        for note in info['notes']:
            self.assertRegex(note, 'all memory is as far|which is noise|would be '
                             'nearer|of CPU time|to spare|caches of|cgroup|'
                             'that should be on node')
            self.assertEqual(self.sources(info), {'slit'})

    def test_measure_not_permitted(self):
        host = self.absent_host()
        q = self.machine('-sandbox', 'on,resourcecontrol=deny', obj=(
            f',topology-root={host.dir},measure-latency=on'))
        self.not_measured(q, 'it can not run on node 0', 'not permitted')

    def test_measure_after_better_sources(self):
        # It would fail at once.
        host = self.absent_host(first=903)
        self.work.write('ns.txt', '903 903 80\n903 909 140\n'
                        '909 903 150\n909 909 81\n')
        q = self.machine(obj=f',topology-root={host.dir},latency=ns.txt,'
                         'measure-latency=on')
        info = self.look(q, after=3)
        self.assertEqual((self.sources(info), info['notes']),
                         ({'operator'}, []))

    def test_measure_is_given_up(self):
        """Whenever the object goes, or all of QEMU"""
        host = self.absent_host()
        q = self.machine(obj=None)
        props = {'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
                 'topology-root': host.dir, 'measure-latency': True}
        for _ in range(20):
            q.qmp.cmd('object-add', **props)
            q.qmp.cmd('object-del', id='ns0')
        q.qmp.cmd('object-add', **props)
        q.quit()

    def test_comes_and_goes(self):
        q = self.machine(obj=None)
        self.assertEqual(q.qmp.cmd('query-numa-sched'), [])
        for _ in range(20):
            q.qmp.cmd('object-add', **{'qom-type': 'numa-sched', 'id': 'ns0',
                                       'interval-ms': 100})
            q.qmp.cmd('object-del', id='ns0')
        q.qmp.cmd('object-add', **{'qom-type': 'numa-sched', 'id': 'ns0',
                                   'interval-ms': 100})
        self.look(q, after=2)
        with self.assertRaises(QmpError) as e:
            q.qmp.cmd('object-add', **{'qom-type': 'numa-sched', 'id': 'ns1'})
        self.assertIn("there is 'ns0'", str(e.exception))
        with self.assertRaises(QmpError) as e:
            q.qmp.cmd('qom-set', path='/objects/ns0', property='horizon',
                      value=5)
        self.assertIn("give it when the object is created", str(e.exception))
        q.qmp.cmd('object-del', id='ns0')
        self.assertEqual(q.qmp.cmd('query-numa-sched'), [])
        q.quit()

    def test_monitor(self):
        host, here, other = self.split_host()
        q = self.on_one_cpu(here, host)
        self.look(q, lambda i: 'decision' in i)
        text = q.hmp('info numa-sched')
        for said in ('ns0', 'observe', 'guest', '64 MiB', 'to node 0',
                     f'CPUs {ranges(other)}'):
            self.assertIn(said, text)

    def test_memory_intensity(self):
        host, here, _ = self.split_host()

        def said(**props):
            q = self.on_one_cpu(here, host, **props)
            info = self.look(q, lambda i: i['groups'][0]['threads'][0]['cpu'])
            group, = info['groups']
            # Without it, perf may have been refused.
            self.assertTrue(info['notes'] == [] or
                            props['memory-intensity'] is None)
            text = q.hmp('info numa-sched')
            q.quit()
            place, = info['plan']['places']
            runs = {o['run'] for o in place['options']
                    if o['memory'] == 'stay'}
            return group, runs, text

        group, runs, text = said(**{'memory-intensity': 0})
        self.assertEqual((group['intensity'], group['intensity-source']),
                         (0, 'operator'))
        self.assertIn('waits 0.0 % (operator)', text)
        # Who never waits is as well off anywhere.
        self.assertEqual(len(runs), 1)
        group, runs, text = said(**{'memory-intensity': 1000})
        self.assertEqual((group['intensity'], group['intensity-source']),
                         (1000, 'operator'))
        self.assertIn('waits 100.0 % (operator)', text)
        # All is three times as long.
        self.assertAlmostEqual(max(runs) / min(runs), 3, 3)
        group, runs, text = said(**{'memory-intensity': None})
        self.assertEqual(len(runs), 2)
        self.assertIn(group['intensity-source'], ('perf', 'default'))
        if group['intensity-source'] == 'default':
            self.assertEqual(group['intensity'], 500)
            self.assertIn('waits 50.0 % (default)', text)

    def measured(self, q):
        """(group, bytes of its working set), once that was measured"""
        def done(info):
            for note in info['notes']:
                if 'pagemap-scan' in note and KERNEL < (6, 7):
                    self.skipTest(note)
                self.assertNotIn('not measured', note)
            return info['groups'][0]['measured']
        group, = self.look(q, done)['groups']
        return group, sum(w['bytes'] for w in group['working-set'])

    def test_working_set_of_samples(self):
        host, here, _ = self.split_host()
        q = self.on_one_cpu(here, host, estimator='perf',
                            **{'working-set': True})
        info = self.look(q, lambda i: any("'perf' samples" in n
                                          for n in i['notes']))
        self.assertFalse(info['groups'][0]['measured'])

    def test_working_set(self):
        """All of the memory is far; a hundredth of it is used."""
        host, here, _ = self.split_host()
        q = self.on_one_cpu(here, host, firmware=writing,
                            **{'working-set': True})
        group, used = self.measured(q)
        self.assertEqual(group['resident'], 64 * MIB)
        # Estimators that see no reads let the rest count a quarter.
        self.assertGreater(used, 16 * MIB)
        self.assertLess(used, 18 * MIB)
        self.assertEqual([w['node'] for w in group['working-set']], [0])
        self.assertIn('% at home; what is used of 64 MiB',
                      q.qmp.cmd('human-monitor-command',
                                **{'command-line': 'info numa-sched'}))
        # Off, all counts.
        q.qmp.cmd('object-del', id='ns0')
        q.qmp.cmd('object-add', **{
            'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
            'topology-root': host.dir})
        group, = self.look(q, after=3)['groups']
        self.assertFalse(group['measured'])
        self.assertEqual(sum(w['bytes'] for w in group['working-set']),
                         group['resident'])

    def test_what_is_near_is_not_watched(self):
        host, _, other = self.split_host()
        q = self.on_one_cpu(other[0], host, firmware=writing,
                            **{'working-set': True})
        # Three times as long as a measurement takes
        info = self.look(q, lambda i: i['groups'][0]['local'] == 1000, after=9)
        self.assertFalse(info['groups'][0]['measured'])
        self.assertEqual(info['notes'], [])

    def test_working_set_and_snapshot(self):
        """Both watch writes: a snapshot that begins goes first."""
        host, here, _ = self.split_host()
        q = self.on_one_cpu(here, host, firmware=writing)
        q.qmp.cmd('object-del', id='ns0')
        # QEMU tries whether it can watch, which it can not while we do.
        q.qmp.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'background-snapshot', 'state': True}])
        for attempt in range(10):
            q.qmp.cmd('object-add', **{
                'qom-type': 'numa-sched', 'id': 'ns0', 'interval-ms': 100,
                'topology-root': host.dir, 'working-set': True})
            # It is measured since the first look.
            self.look(q)
            q.qmp.cmd('migrate', uri=f'file:snapshot{attempt}')
            info = q.qmp.poll('query-migrate', lambda m: m.get('status') in (
                'completed', 'failed'), scaled(30))
            self.assertEqual(info['status'], 'completed', info)
            info = self.look(q, after=self.look(q)['periods'] + 1)
            self.assertEqual(info['notes'], [])
            if not info['groups'][0]['measured']:
                return                  # the snapshot has ended it
            q.qmp.cmd('object-del', id='ns0')
        self.fail('each was over before its snapshot began')

    def test_refused(self):
        self.refused(',interval-ms=99', "'interval-ms'", '99', '100')
        self.refused(',hysteresis=101', "'hysteresis'", '101')
        self.refused(',horizon=0', "'horizon'", '1 to 3600')
        self.refused(',memory-intensity=1001', "'memory-intensity'", '1001',
                     '0 to 1000')
        self.refused(',max-migrate-bandwidth=1k', 'max-migrate-bandwidth')
        self.refused(',latency=none.txt', 'none.txt')
        self.refused(',topology-root=nowhere', 'nowhere')
        os.mkfifo(self.work.path('fifo'))
        self.refused(',latency=fifo', 'fifo', 'not a file')
        self.refused(',latency=/dev/zero', 'not a file')
        self.work.sparse('large.txt', 2 * MIB)
        self.refused(',latency=large.txt', 'large.txt', '1048576')
        self.work.write('bad.txt', '0 0 ten\n')
        self.refused(',latency=bad.txt', 'bad.txt')

    def test_help(self):
        q = self.machine('-object', 'numa-sched,help', obj=None, start=False)
        q.start(negotiate=False)
        self.assertEqual(q.wait(30), 0)
        for name in ('mode', 'interval-ms', 'hysteresis', 'horizon',
                     'max-migrate-bandwidth', 'latency', 'topology-root',
                     'estimator', 'runtime-dir', 'measure-latency',
                     'memory-intensity'):
            line = next(l for l in q.output().splitlines()
                        if l.strip().startswith(name + '='))
            self.assertIn(' - ', line)


if __name__ == '__main__':
    main()
