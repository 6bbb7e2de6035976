#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-numa-plan on hosts that others recorded (scripts/fetch hosts) and on some
that were made up, against pmemha.numaoracle, which has the model from its
documentation.

    test_numa_hosts.py [--seed N] [--draws N] [--host NAME] [PATTERN]
"""

import collections
import functools
import json
import os
import random
import subprocess
import time

from pmemha import ROOT, main, skip_unless
from pmemha.numaoracle import Host
from pmemha.numaplan import MAX, SEED, Draw, PlanTest
from pmemha.options import option
from pmemha.paths import cache_dir, scaled

# For each host
DRAWS = option('draws', 30)
ONLY = option('host', '', str)
GIB = 1 << 30
MEAN = 0.01


@functools.cache
def hosts():
    """{name: Host} of those recorded that have more than one node"""
    place = cache_dir('hosts')
    if not os.path.isdir(place):
        subprocess.run([os.path.join(ROOT, 'scripts/fetch'), 'hosts'],
                       check=False, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, timeout=scaled(200))
    found = {}
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        if ONLY in name:
            host = Host(os.path.join(place, name))
            if len(host.nodes) > 1:
                found[name] = host
    return found


NO_HOSTS = 'no recorded hosts: run scripts/fetch hosts'


class HostsTest(PlanTest):
    @skip_unless(hosts, NO_HOSTS)
    def setUp(self):
        super().setUp()


class Recorded(HostsTest):
    def test_read(self):
        """Nodes and latencies are what the host's files say"""
        sources = collections.Counter()
        for name, host in hosts().items():
            plan = self.host_plan(host.root)
            kinds = sorted({e['source'] for e in plan['latency']})
            self.diag(f'{name}: {len(plan["nodes"])} nodes, '
                      f'{len(plan["latency"])} latencies of '
                      f'{", ".join(kinds) or "nothing"}')
            sources.update(kinds)
            self.assertLessEqual(len(kinds), 1, name)
            self.latencies_are(plan, host, name)
            if host.shared():
                self.assertLess(len(plan['nodes']), len(host.nodes), name)
                continue
            keys = ['id', 'size', 'free']
            if not host.overlap():
                # The model does not say whose such CPUs are.
                keys += ['cpus', 'cores']
            self.assertEqual(
                [[n[k] for k in keys] for n in plan['nodes']],
                [[n[k] for k in keys]
                 for _, n in sorted(host.nodes.items())], name)
            # Each pair, once
            self.assertEqual(
                sorted((e['from'], e['to']) for e in plan['latency']),
                sorted((a['id'], b['id']) for a in plan['nodes']
                       for b in plan['nodes'] if a['cpus'] and b['size']),
                name)
        self.diag(', '.join(f'{n} of {s}' for s, n in sources.items()))

    def latencies_are(self, plan, host, name):
        own = [e['value'] for e in plan['latency'] if e['from'] == e['to']]
        for e in plan['latency']:
            self.assertGreater(e['value'], 0, name)
            if own:
                self.assertEqual(
                    e['ratio'], min(10 ** 9, e['value'] * 10 ** 6 //
                                    min(own)), (name, e))
            if e['source'] == 'flat':
                self.assertEqual(e['ratio'], 10 ** 6, (name, e))
            elif not host.shared():
                self.assertIn(e['value'], host.values(
                    e['from'], e['to']).get(e['source'], ()), (name, e))

    def test_regret(self):
        """What plans cost above the cheapest"""
        table, all_of = [], []
        for name, host in hosts().items():
            began = time.monotonic()
            rng = random.Random(f'{SEED} {name}')
            draw = Draw(self.host_plan(host.root), rng)
            workloads = [draw.workload() for _ in range(DRAWS)]
            found, certain, exact, open_, loose = [], 0, 0, 0, 0
            for k, (w, plan) in enumerate(zip(
                    workloads, self.plans(host.root, workloads))):
                say = f'{name}, draw {k}, --seed {SEED}'
                r, sure = self.regret(plan, w, say)
                if r > MAX and not sure:
                    # The bound may be what is bad.
                    loose += 1
                else:
                    self.assertLessEqual(r, MAX, f'{say}: {json.dumps(w)}')
                if plan['exact'] and sure:
                    self.assertEqual(r, 0, f'{say}: {json.dumps(w)}')
                found.append(r)
                certain += sure
                exact += plan['exact']
                open_ += len([1 for x in plan['places']
                              if 'choice' not in x])
            all_of += found
            table.append(f'{name:36} {DRAWS:5} {exact:5} {certain:5} '
                         f'{loose:5} {open_:5} {sum(found) / len(found):8.4%} '
                         f'{max(found):8.4%} '
                         f'{time.monotonic() - began:6.1f}')
        self.diag(f'{"host":36} draws exact known loose  open     mean'
                  '      max   s')
        for line in table:
            self.diag(line)
        mean = sum(all_of) / len(all_of)
        self.diag(f'{len(all_of)} draws: mean {mean:.4%}, '
                  f'max {max(all_of):.4%}')
        self.assertLessEqual(mean, MEAN)

    def test_options(self):
        """--explain prints all options, and the same plan"""
        count = 0
        for host in hosts().values():
            draw = Draw(self.host_plan(host.root), self.rng)
            workloads = [draw.workload() for _ in range(3)]
            plain = self.plans(host.root, workloads)
            for w, a, b in zip(workloads, plain, self.plans(
                    host.root, workloads, '--explain')):
                self.checked(b, w, host.root)
                for place in b['places']:
                    count += len(place.pop('options'))
                self.assertEqual(a, b)
        self.diag(f'{count} options')

    def test_same_bytes(self):
        for host in hosts().values():
            draw = Draw(self.host_plan(host.root), self.rng)
            text = ''.join(json.dumps(draw.workload()) + '\n'
                           for _ in range(3))
            args = ('--topology-root', host.root, '--workload', '-',
                    '--output', 'json', '--explain')
            self.assertEqual(self.plan(*args, text=text),
                             self.plan(*args, text=text))

    def test_file(self):
        """A file, and the same from the standard input; for people, too"""
        host = next(iter(hosts().values()))
        w = Draw(self.host_plan(host.root), self.rng).workload()
        self.work.write('w.json', json.dumps(w, indent=2))
        args = '--topology-root', host.root, '--workload', 'w.json'
        out, _ = self.plan(*args, '--output', 'json')
        self.assertEqual(json.loads(out), self.plans(host.root, [w])[0])
        for g in w['groups']:
            self.assertIn(g['name'], self.plan(*args)[0])


def renumbered(w, ids):
    """The same workload where nodes are named by ids"""
    w = json.loads(json.dumps(w))
    for g in w['groups']:
        if 'home' in g:
            g['home'] = ids[g['home']]
        if 'nodes' in g:
            g['nodes'] = [ids[i] for i in g['nodes']]
        for e in g.get('working-set', ()):
            e['node'] = ids[e['node']]
    for e in w.get('nodes', ()):
        e['node'] = ids[e['node']]
    return w


class Invariants(HostsTest):
    def as_tree(self, host, name, ids=None, times=1):
        """A recorded host, made anew"""
        ids = ids or {i: i for i in host.nodes}
        nodes = {ids[i]: (host.own[i], n['size'], n['free'])
                 for i, n in host.nodes.items()}
        slit = {(ids[i], ids[j]): d * times
                for (i, j), d in host.slit.items()}
        access = {ids[i]: ([ids[b] for b in a[0]], a[1] * times)
                  for i, a in host.access.items() if a}
        cores = {host.core(c) for cpus in host.own.values() for c in cpus}
        return self.tree(name, nodes, slit, cores=cores, access=access)

    def some(self):
        """Hosts whose copies are the same to the model"""
        return [(name, host) for name, host in hosts().items()
                if not host.shared() and not host.overlap() and
                len(host.nodes) <= 17 and
                max(max(c, default=0) for c in host.own.values()) < 256]

    def only(self, p, choices, total):
        """Is this the only cheapest placement?"""
        for g, o in enumerate(choices):
            kept = p.options[g]
            p.options[g] = [x for x in kept if x is not o]
            s = p.search(known=total + 1)
            p.options[g] = kept
            if s.best <= total:
                return False
        return True

    def test_numbering(self):
        """N3; where one placement is the cheapest it is the same one"""
        same = count = 0
        for name, host in self.some():
            new = self.rng.sample(range(200), len(host.nodes))
            ids = dict(zip(host.nodes, new))
            a, b = (self.as_tree(host, f'{name}.{k}', x)
                    for k, x in enumerate((None, ids)))
            draw = Draw(self.host_plan(a), self.rng)
            workloads = [draw.workload() for _ in range(6)]
            others = [renumbered(w, ids) for w in workloads]
            for w in others:
                self.rng.shuffle(w['groups'])
                self.rng.shuffle(w['nodes'])
            for w, v, x, y in zip(workloads, others,
                                  self.plans(a, workloads),
                                  self.plans(b, others)):
                p, choices, nowhere = self.checked(x, w, name)
                self.checked(y, v, name)
                say = f'{name}, {ids}: {json.dumps(w)}'
                self.assertEqual(x['total'], y['total'], say)
                self.assertEqual(x['exact'], y['exact'], say)
                count += 1
                if not x['exact'] or nowhere or len(choices) > 6 or \
                        not self.only(p, choices, x['total']):
                    continue
                same += 1
                there = {g['name']: g.get('choice') for g in y['places']}
                for g in x['places']:
                    g['choice']['node'] = ids[g['choice']['node']]
                    self.assertEqual(g['choice'], there[g['name']], say)
        self.diag(f'{count} pairs of plans, {same} with one cheapest')
        self.assertGreater(same, 0)

    def test_scaled(self):
        """N4: distances, and the operator's table"""
        count = 0
        for name, host in self.some():
            plan = self.host_plan(host.root)
            if {e['source'] for e in plan['latency']} != {'slit'} or \
                    max(e['value'] for e in plan['latency']) > 127:
                continue
            count += 1
            draw = Draw(plan, self.rng)
            workloads = [draw.workload() for _ in range(4)]
            a = self.as_tree(host, f'{name}.1')
            twice = self.as_tree(host, f'{name}.2', times=2)
            self.work.write(f'{name}.txt', '# from to ns\n' + ''.join(
                f'{e["from"]} {e["to"]} {e["value"] * 7}\n'
                for e in plan['latency']))
            want = self.plans(a, workloads)
            for w, x, y, z in zip(workloads, want,
                                  self.plans(twice, workloads),
                                  self.plans(a, workloads, '--latency',
                                             f'{name}.txt')):
                # Which of equal placements it is does not matter.
                for v in (y, z):
                    self.checked(v, w, name)
                    self.assertEqual(v['total'], x['total'], name)
                    self.assertEqual([e['ratio'] for e in v['latency']],
                                     [e['ratio'] for e in x['latency']])
                self.assertEqual({e['source'] for e in z['latency']},
                                 {'operator'})
        self.diag(f'{count} hosts')
        self.assertGreater(count, 0)

    def flat(self, name, distance):
        """Three nodes that are equal"""
        nodes = {i: (range(4 * i, 4 * i + 4), GIB, GIB // 2)
                 for i in range(3)}
        slit = {(i, j): distance for i in nodes for j in nodes}
        return self.tree(name, nodes, slit if distance else {})

    def test_nothing_moves(self):
        """N2"""
        for distance in (10, 20, 0, 255):
            root = self.flat(f'flat{distance}', distance)
            plan = self.host_plan(root)
            self.assertEqual({e['ratio'] for e in plan['latency']},
                             {10 ** 6}, distance)
            workloads = []
            for _ in range(30):
                room, groups = {i: 4000 for i in range(3)}, []
                for k in range(self.rng.randint(1, 6)):
                    home = self.rng.randrange(3)
                    cpu = self.rng.randint(0, room[home])
                    room[home] -= cpu
                    groups.append({
                        'name': f'g{k}', 'home': home, 'cpu': cpu,
                        'intensity': self.rng.randint(0, 1000),
                        'working-set': [
                            {'node': j, 'bytes': self.rng.randrange(GIB)}
                            for j in range(3)]})
                workloads.append({'groups': groups})
            for w, plan in zip(workloads, self.plans(root, workloads)):
                self.checked(plan, w)
                self.assertTrue(plan['exact'])
                for g in plan['places']:
                    if next(x['cpu'] for x in w['groups']
                            if x['name'] == g['name']):
                        self.assertEqual(g['choice']['node'], g['home'])
                    self.assertEqual(g['choice']['memory'], 'stay')
                self.assertEqual(plan['total'], plan['before'])


if __name__ == '__main__':
    main()
