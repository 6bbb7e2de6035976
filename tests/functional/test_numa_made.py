#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-numa-plan on hosts that nobody has recorded, and workloads that it refuses.

    test_numa_made.py [--seed N] [PATTERN]
"""

import json
import subprocess

from pmemha import main, program
from pmemha.numaplan import BAD, DONE, MAX, Draw, PlanTest, tree
from pmemha.paths import scaled

GIB = 1 << 30


class Odd(PlanTest):
    """Hosts that nobody has recorded"""

    def drawn(self, root, count=20):
        plan = self.host_plan(root)
        draw = Draw(plan, self.rng)
        workloads = [draw.workload() for _ in range(count)]
        for w, plan in zip(workloads, self.plans(root, workloads)):
            r, sure = self.regret(plan, w, root)
            self.assertTrue(not sure or r <= MAX)
            self.assertTrue(not plan['exact'] or not sure or r == 0)
        return plan

    def far(self, ids, near=10, other=20):
        return {(i, j): near if i == j else other for i in ids for j in ids}

    def test_no_cpus(self):
        """Memory without CPUs is no target; not even where all is there"""
        root = self.tree('h', {0: (range(4), GIB, GIB), 3: ((), GIB, GIB),
                               7: (range(4, 8), GIB, GIB)},
                         self.far((0, 3, 7)))
        plan = self.drawn(root)
        self.assertEqual({e['from'] for e in plan['latency']}, {0, 7})
        self.assertEqual({e['to'] for e in plan['latency']}, {0, 3, 7})
        use = [{'node': 3, 'bytes': GIB // 4}]
        w = {'groups': [{'name': 'a', 'working-set': use},
                        {'name': 'b', 'working-set': use, 'nodes': [3]}]}
        a, b = self.plans(root, [w])[0]['places']
        self.assertIn(a['choice']['node'], (0, 7))
        self.assertNotIn('choice', b)

    def test_no_memory(self):
        root = self.tree('h', {0: (range(4), GIB, GIB),
                               1: (range(4, 8), 0, 0)}, self.far((0, 1)))
        plan = self.drawn(root)
        self.assertEqual({e['to'] for e in plan['latency']}, {0})

    def test_offline(self):
        """CPUs that are offline do not count; a node of them has none"""
        root = self.tree('h', {0: (range(4), GIB, GIB),
                               1: (range(4, 8), GIB, GIB),
                               2: (range(8, 12), GIB, GIB)},
                         self.far(range(3)), cores=[(0, 1), (2, 3)],
                         offline={1, 4, 5, 6, 7, 8})
        plan = self.drawn(root)
        self.assertEqual([(n['cpus'], n['cores']) for n in plan['nodes']],
                         [(3, 2), (0, 0), (3, 3)])

    def test_distances(self):
        """Of which none, or some, can be"""
        ids = (0, 1, 2)
        nodes = {i: (range(4 * i, 4 * i + 4), GIB, GIB) for i in ids}
        for k, (slit, source) in enumerate((
                (self.far(ids, 0, 0), 'flat'), (self.far(ids, 10, 10), 'flat'),
                (self.far(ids, 10, 255), 'flat'),
                (self.far(ids, 10, 1000), 'flat'), ({}, 'flat'),
                ({p: d for p, d in self.far(ids).items() if p != (1, 2)},
                 'flat'),
                (self.far(ids, 10, 254), 'slit'),
                (self.far(ids, 20, 10), 'slit'))):
            plan = self.drawn(self.tree(f'h{k}', nodes, slit), 5)
            ratios = {e['ratio'] for e in plan['latency']}
            self.assertEqual(len(ratios) == 1, source == 'flat', slit)
            if source == 'slit':
                self.assertEqual({e['source'] for e in plan['latency']},
                                 {'slit'})

    def test_access(self):
        """Latencies of the best initiators, and what is scaled"""
        ids = (0, 1, 2)
        nodes = {0: (range(4), GIB, GIB), 1: (range(4, 8), GIB, GIB),
                 2: ((), GIB, GIB)}
        slit = self.far(ids, 10, 21)
        slit[1, 2] = 14
        access = {0: ([0], 80), 1: ([1], 90), 2: ([1], 250)}
        root = self.tree('h', nodes, slit, access=access)
        plan = self.drawn(root)
        self.assertEqual(
            {(e['from'], e['to']): e['value'] for e in plan['latency']},
            {(0, 0): 80, (0, 1): 189, (0, 2): 375,
             (1, 0): 168, (1, 1): 90, (1, 2): 250})
        self.assertEqual({e['source'] for e in plan['latency']}, {'access'})
        # One that is not known takes all of them out.
        for k, bad in enumerate((0, 65536, 10 ** 12)):
            access[2] = [1], bad
            plan = self.host_plan(self.tree(f'bad{k}', nodes, slit,
                                            access=access))
            self.assertEqual({e['source'] for e in plan['latency']},
                             {'slit'}, bad)


def plain(text):
    return text.lower().replace('-', ' ')


class Refused(PlanTest):
    """Workloads that can not be"""

    def setUp(self):
        super().setUp()
        self.root = tree(
            self.work.path('h'), {0: (range(4), GIB, GIB),
                                  2: (range(4, 8), GIB, GIB)},
            {(0, 0): 10, (0, 2): 20, (2, 0): 20, (2, 2): 10})

    def refused(self, content, *texts):
        self.work.write('bad.json', content)
        out, said = self.plan('--topology-root', self.root, '--workload',
                              'bad.json', '--output', 'json', status=BAD)
        self.assertEqual(out, '', content[:200])
        self.assertLess(len(said), 4000)
        for t in ('bad.json', *texts):
            # As in the file, or in words
            self.assertIn(plain(t), plain(said), content[:200])

    def group(self, field, value, *texts, **more):
        g = {'name': 'a', field: value, **more}
        self.refused(json.dumps({'groups': [g]}), *(texts or [field]))

    def whole(self, field, value, *texts):
        w = {'groups': [{'name': 'a'}], field: value}
        self.refused(json.dumps(w), *(texts or [field]))

    def test_types(self):
        for field in ('name', 'cpu', 'intensity', 'home', 'working-set',
                      'pinned', 'nodes'):
            for value in ({}, None, 1.5 if field != 'name' else 1):
                self.group(field, value)
        for field in ('cpu', 'intensity', 'home', 'pinned', 'nodes'):
            self.group(field, 'text')
        for field in ('groups', 'nodes', 'bandwidth', 'horizon'):
            for value in ('text', {}, None):
                self.whole(field, value)
        self.group('working-set', [{'node': 0, 'bytes': 'x'}], 'bytes')
        self.group('working-set', [{'node': 0}], 'bytes')
        self.group('working-set', [7], 'working-set')
        self.refused('{"groups": [{}]}', 'name')
        self.refused('{}', 'groups')
        self.group('nonsense', 1)
        self.whole('nonsense', 1)

    def test_range(self):
        for value in (-1, 1000001, 1 << 32, 1 << 64, 10 ** 30):
            self.group('cpu', value)
        for value in (-1, 1001, 1 << 32):
            self.group('intensity', value)
        for value in (-1, (1 << 50) + 1, 1 << 64):
            self.group('working-set', [{'node': 0, 'bytes': value}], 'bytes'
                       if value == 1 << 64 else 'working-set')
        self.group('working-set', [{'node': 0, 'bytes': 1 << 50},
                                   {'node': 2, 'bytes': 1 << 50}])
        for value in (-1, 0, (1 << 20) - 1, (1 << 40) + 1, 1 << 64):
            self.whole('bandwidth', value)
        for value in (-1, 0, 3601, 1 << 32):
            self.whole('horizon', value)
        self.whole('groups', [{'name': f'{i}'} for i in range(4097)])
        self.whole('nodes', [{'node': 0, 'cpu': -1}], 'cpu')

    def test_nodes(self):
        """That the host has not"""
        for value in (1, 3, 4096, (1 << 32) - 1):
            self.group('home', value, 'home', str(value))
            self.group('nodes', [0, value], 'nodes', str(value))
            self.group('working-set', [{'node': value, 'bytes': 1}],
                       'working-set', str(value))
            self.whole('nodes', [{'node': value}], 'nodes', str(value))

    def test_twice(self):
        self.refused('{"groups": [{"name": "a"}, {"name": "a"}]}', 'name')
        self.refused('{"groups": [], "groups": []}', 'duplicate')
        self.whole('nodes', [{'node': 0}, {'node': 0}])
        self.group('working-set', [{'node': 0, 'bytes': 1},
                                   {'node': 0, 'bytes': 2}])

    def test_text(self):
        good = json.dumps({'groups': [
            {'name': 'a', 'cpu': 1000, 'nodes': [0, 2]}]})
        for n in range(0, len(good)):
            self.refused(good[:n])
        self.refused(good + ' x')
        self.refused('[' * 10 ** 6)
        self.refused('{"groups":' * 10 ** 6)
        self.refused('{"groups": ' + '[' * 10 ** 6 + ']' * 10 ** 6 + '}')
        self.refused(b'\0' * 100)
        self.refused(good.encode()[:20] + b'\0' + good.encode()[20:])
        self.refused(b'\xff\xfe\x80')
        self.refused('[1]')
        self.refused('"groups"')

    def test_draw(self):
        """A byte changed: a plan, or a refusal"""
        good = json.dumps({
            'groups': [{'name': 'a', 'cpu': 1000, 'nodes': [0, 2],
                        'working-set': [{'node': 2, 'bytes': 65536}]}],
            'nodes': [{'node': 0, 'cpu': 10}], 'horizon': 60}).encode()
        for _ in range(150):
            bad = bytearray(good)
            for _ in range(self.rng.randint(1, 3)):
                bad[self.rng.randrange(len(bad))] = self.rng.randrange(256)
            self.work.write('bad.json', bytes(bad))
            done = subprocess.run(
                [program('NUMA_PLAN'), '--topology-root', self.root,
                 '--workload', 'bad.json', '--output', 'json'],
                cwd=self.work.dir, check=False, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                timeout=scaled(20))
            self.assertIn(done.returncode, (DONE, BAD), bytes(bad))
            if done.returncode == DONE:
                json.loads(done.stdout)
            else:
                self.assertIn(b'bad.json', done.stderr, bytes(bad))

    def test_usage(self):
        self.plan('--nonsense', status=2)
        self.plan('--output', 'xml', status=2)
        _, said = self.plan('--topology-root', 'none', status=BAD)
        self.assertIn('none', said)
        _, said = self.plan('--topology-root', self.root, '--workload',
                            'none.json', status=BAD)
        self.assertIn('none.json', said)


if __name__ == '__main__':
    main()
