#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The numa-sched object on a host that is said to have a second node: memory goes
there by QEMU's own system calls, which fail as kernels do.  The guest never
stops, and no page is lost from the count.
"""

import errno
import os

from pmemha import main
from pmemha.numahost import Host
from pmemha.paths import scaled
from pmemha.twonodes import environment
import test_numa_auto
import test_numa_sched as base

MIB = base.MIB
# Batches that are busy make it slower, to a 64th.
FAST = {'max-migrate-bandwidth': 16 << 30}
ENDS = ('completed', 'full', 'cancelled', 'failed')


class NumaFaults(test_numa_auto.NumaAuto):

    faults = {}

    def machine(self, *args, **kw):
        q = super().machine(*args, start=False, **kw)
        q.env = environment(**self.faults)
        q.start()
        return q

    def begin(self, faults, **props):
        """A guest that spins on node 1, its memory on node 0, and observe"""
        self.faults = faults
        host, here, _ = self.split_host()
        self.made = host
        q = self.on_one_cpu(here, host, **{
            'max-migrate-bandwidth': 256 * MIB, **props})
        self.look(q, lambda i: self.where(i).get(0) == 64 * MIB)
        return q

    def where(self, info):
        """{node: bytes of the guest}, smoothed"""
        return {w['node']: w['bytes']
                for w in info['groups'][0]['working-set']}

    def follow(self, q):
        q.qmp.cmd('numa-sched-move', id='ns0', node=0, target=1)

    def end(self, q):
        """Of the move: what is said of it"""
        while True:
            progress = q.qmp.wait_event('NUMA_MIGRATE_PROGRESS',
                                        scaled(30))['data']['progress']
            if progress['state'] in ENDS:
                break
        self.diag(progress)
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')
        return progress

    def settled(self, q, **nodes):
        """Smoothing ends where all is where it is said to be."""
        want = {int(k[1:]): v * MIB for k, v in nodes.items()}
        self.look(q, lambda i: all(
            abs(self.where(i).get(n, 0) - b) < MIB for n, b in want.items()))

    def test_arrives(self):
        q = self.begin({})
        self.follow(q)
        p = self.end(q)
        self.assertEqual((p['state'], p['moved'], p['failed']),
                         ('completed', 64 * MIB, 0))
        self.settled(q, n0=0, n1=64)

    def test_hot_first(self):
        """
        8 pages are written all the time, 120 more once in seconds.  Looks are
        so far apart that by then all of them were written.
        """
        q = self.begin({}, firmware=hot_and_warm, **{'interval-ms': 100})
        q.qmp.cmd('object-del', id='ns0')
        self.add(q, self.made, mode='observe', **{'interval-ms': 20000})
        self.look(q)
        self.follow(q)
        p = self.end(q)
        if p['estimator'] == 'none':
            self.skipTest(f"no estimator: {self.look(q)['notes']}")
        self.assertEqual((p['state'], p['estimator']),
                         ('completed', 'pagemap-scan'))
        self.assertGreaterEqual(p['moved'], 8 * 4096)
        self.assertLess(p['moved'], 64 * 4096)

    def fails(self, number, state, *said):
        """After three calls: what moved stays counted, and QEMU goes on."""
        q = self.begin({'move': f'3 {number}'})
        self.follow(q)
        p = self.end(q)
        self.assertEqual(p['state'], state)
        self.assertGreater(p['moved'], 0)
        self.assertLess(p['moved'], 64 * MIB)
        for text in said:
            self.assertIn(text, p['reason'])
        self.settled(q, n1=p['moved'] // MIB)

    def test_eperm(self):
        self.fails(errno.EPERM, 'failed', 'not permitted')

    def test_enosys(self):
        self.fails(errno.ENOSYS, 'failed', 'not implemented')

    def test_enomem(self):
        self.fails(errno.ENOMEM, 'full')

    def test_busy(self):
        """Once each page: its turn comes again."""
        q = self.begin({'busy': 1}, **FAST)
        self.follow(q)
        p = self.end(q)
        self.assertEqual((p['state'], p['moved'], p['failed']),
                         ('completed', 64 * MIB, 0))

    def test_always_busy(self):
        q = self.begin({'busy': 1000}, **FAST)
        self.follow(q)
        p = self.end(q)
        self.assertEqual((p['state'], p['moved'], p['failed']),
                         ('completed', 0, 64 * MIB))
        self.settled(q, n0=64)

    def test_node_goes(self):
        """Offline while memory is on its way"""
        q = self.begin({'offline': 4}, **{'max-migrate-bandwidth': 16 * MIB})
        self.follow(q)
        p = self.end(q)
        self.assertEqual(p['state'], 'failed')
        self.assertIn('node 1', p['reason'])

    def test_cancel(self):
        q = self.begin({}, **{'max-migrate-bandwidth': 8 * MIB})
        self.follow(q)
        self.look(q, lambda i: i.get('moving', {}).get('moved', 0) > 0)
        q.qmp.cmd('numa-sched-cancel', id='ns0')
        p = self.end(q)
        self.assertEqual(p['state'], 'cancelled')
        self.settled(q, n0=64, n1=0)

    def test_cancel_before_it_begins(self):
        """It begins with the next look, which is seconds away."""
        q = self.begin({})
        q.qmp.cmd('object-del', id='ns0')
        self.add(q, self.made, mode='observe', **{'interval-ms': 10000})
        self.look(q)
        self.follow(q)
        q.qmp.cmd('numa-sched-cancel', id='ns0')
        self.assertNotIn('moving', self.look(q, after=1))
        # Nor when it would have begun after the object's end
        self.follow(q)
        q.qmp.cmd('object-del', id='ns0')
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')

    def test_auto(self):
        """The whole loop: nobody asks for anything."""
        here, *other = sorted(os.sched_getaffinity(0))
        self.faults = {}
        # The guest may not leave its CPU, so that its memory comes.
        host = Host(self.work, [(0, other, 1024, [10, 30]),
                                (1, [here, max(other) + 1], 1024, [30, 10])])
        q = self.on_one_cpu(here, host, mode='auto')
        decision = self.decision(q)
        self.assertEqual(decision['moves'][0]['to']['memory'], 'follow')
        self.assertEqual(self.end(q)['state'], 'completed')
        self.settled(q, n0=0, n1=64)
        info = self.look(q)
        info = self.look(q, lambda i: 'decision' not in i,
                         after=info['periods'] + 12)
        self.assertEqual(info['decisions'], 1)

    def test_exchange_is_all_or_nothing(self):
        """The second of two can not be bound: the first is let go."""
        # A move of memory binds, too, until the object is deleted.
        self.faults = {'bind': 4}
        host, here, other = self.split_host()
        there, *_ = other
        host = Host(self.work, [(0, [there], 1024, [10, 30]),
                                (1, [here], 1024, [30, 10])], 'two')
        args = []
        for n in range(2):
            args += ['-object', f'memory-backend-ram,id=m{n},size=32M,'
                     'prealloc=on', '-numa', f'node,nodeid={n},memdev=m{n}',
                     '-numa', f'cpu,node-id={n},socket-id={n}']
        q = self.machine('-smp', '2,sockets=2', *args, obj=None,
                         firmware=spinning_both)
        tids = [c['thread-id'] for c in q.qmp.cmd('query-cpus-fast')]
        # The memory of the guest's node 1 goes to node 1 ...
        self.add(q, host, mode='observe')
        self.look(q, lambda i: all(
            t['cpu'] > 200 for g in i['groups'] for t in g['threads']))
        q.qmp.cmd('numa-sched-move', id='ns0', node=1, target=1)
        self.assertEqual(self.end(q)['moved'], 32 * MIB)
        q.qmp.cmd('object-del', id='ns0')
        # ... which is full, as is node 0; all is where it should be, ...
        os.sched_setaffinity(tids[0], {there})
        os.sched_setaffinity(tids[1], {here})
        self.add(q, host, horizon=1, **{'max-migrate-bandwidth': 1 << 20})
        self.look(q, lambda i: [t['cpu'] > 900 for g in i['groups']
                                for t in g['threads']] == [True, True])
        # ... until somebody exchanges the vCPUs.
        os.sched_setaffinity(tids[0], {here})
        os.sched_setaffinity(tids[1], {there})
        info = self.look(q, lambda i: i['mode'] == 'advise')
        note = next(n for n in info['notes'] if 'can not be bound' in n)
        self.assertIn('not permitted', note)
        self.bound(tids[0], [here])
        self.bound(tids[1], [there])
        self.assertEqual(q.qmp.cmd('query-status')['status'], 'running')
        decision = self.decision(q)
        self.assertEqual([m['name'] for m in decision['moves']],
                         ['node0', 'node1'])
        self.assertFalse(decision['applied'])

    def test_slow_looks(self):
        """Longer than the interval: one at a time, and nothing waits for it."""
        q = self.begin({'slow': 300})
        info = self.look(q)
        info = self.look(q, after=info['periods'] + 3)
        self.assertEqual(info['notes'], [])
        q.qmp.cmd('object-del', id='ns0')
        self.assertEqual(q.qmp.cmd('query-numa-sched'), [])

    def test_group_without_threads(self):
        """A node of the guest whose vCPU is not plugged in yet"""
        self.faults = {}
        host, _, _ = self.split_host()
        q = self.machine('-smp', '1,maxcpus=2',
                         '-numa', 'node,nodeid=0,cpus=0,memdev=m0',
                         '-numa', 'node,nodeid=1,cpus=1,memdev=m1',
                         '-object', 'memory-backend-ram,id=m0,size=32M',
                         '-object', 'memory-backend-ram,id=m1,size=32M',
                         obj=f',topology-root={host.dir},mode=auto')
        info = self.look(q, after=3)
        self.assertEqual([g['name'] for g in info['groups']], ['node0'])
        error = self.error(q, 'numa-sched-move', id='ns0', node=1, target=0)
        self.assertIn('node 1', error)
        slot = next(c for c in q.qmp.cmd('query-hotpluggable-cpus')
                    if 'qom-path' not in c)
        q.qmp.cmd('device_add', id='cpu1', driver=slot['type'],
                  **slot['props'])
        info = self.look(q, lambda i: len(i['groups']) == 2)
        self.assertEqual([g['name'] for g in info['groups']],
                         ['node0', 'node1'])

    def test_measured(self):
        """What was measured is used, and says so."""
        here, *other = sorted(os.sched_getaffinity(0))
        self.faults = {'cpu': here}
        host = Host(self.work, [(0, other, 1024, [10, 30]),
                                (909, [here], 0, [30, 10])])
        q = self.machine(obj=f',topology-root={host.dir},measure-latency=on')
        info = self.look(q, lambda i: i['notes'] or
                         self.sources(i) == {'measured'})
        for note in info['notes']:
            self.skipTest(f'this host can not be measured: {note}')
        self.assertEqual({(l['from'], l['to']): l['value']
                          for l in info['plan']['latency']},
                         {(0, 0): 100, (909, 0): 200})


def hot_and_warm():
    """Firmware that writes 8 pages, and each 4 million times one of 120 others"""
    image = bytearray(64 * 1024)
    code = bytes.fromhex('bb0018'           # mov $0x1800, %bx
                         '66b900093d00'     # 1: mov $4000000, %ecx
                         'b80010'           # 2: mov $0x1000, %ax
                         '8ec0'             # 3: mov %ax, %es
                         '2688260000'       # mov %ah, %es:0
                         '050001'           # add $0x100, %ax
                         '3d0018'           # cmp $0x1800, %ax
                         '75f1'             # jne 3b
                         '6649'             # dec %ecx
                         '75ea'             # jnz 2b
                         '8ec3'             # mov %bx, %es
                         '26883e0000'       # mov %bh, %es:0
                         '81c30001'         # add $0x100, %bx
                         '81fb0090'         # cmp $0x9000, %bx
                         '75d3'             # jne 1b
                         'ebce')            # jmp to the first
    image[0xff00:0xff00 + len(code)] = code
    image[0xfff0:0xfff3] = b'\xe9\x0d\xff'
    return bytes(image)


def spinning_both():
    """Firmware whose first vCPU starts the second one; then both spin"""
    image = bytearray(base.spinning())
    image[0:2] = b'\xeb\xfe'            # where the second one begins: F000:0
    gdt = bytes(8) + bytes.fromhex('ffff0000009acf00' 'ffff00000092cf00')
    image[0xfe00:0xfe00 + len(gdt)] = gdt
    image[0xfe20:0xfe26] = bytes.fromhex('1700' '00fe0f00')     # for lgdt
    code = bytes.fromhex('fa'                   # cli
                         '662e0f011620fe'       # lgdtl %cs:0xfe20
                         '0f20c0'               # mov %cr0, %eax
                         '0c01'                 # or $1, %al
                         '0f22c0'               # mov %eax, %cr0
                         '66ea40ff0f000800')    # ljmpl $8, $0xfff40
    image[0xff00:0xff00 + len(code)] = code
    code = bytes.fromhex('66b81000'             # mov $16, %ax
                         '8ed8'                 # mov %ax, %ds
                         'c7050003e0fe00450c00' # INIT to all others
                         'c7050003e0fef0460c00' # they start at F000:0
                         'ebfe')                # jmp to itself
    image[0xff40:0xff40 + len(code)] = code
    image[0xfff0:0xfff3] = b'\xe9\x0d\xff'    # jmp 0xff00
    return bytes(image)


test_numa_auto.only(NumaFaults, NumaFaults.__dict__)

if __name__ == '__main__':
    main()
