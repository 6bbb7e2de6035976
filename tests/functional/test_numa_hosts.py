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

from pmemha import ROOT, TestCase, main, program, skip_unless
from pmemha.numaoracle import NOWHERE, Host, Problem
from pmemha.options import option
from pmemha.paths import cache_dir, scaled

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
# For each host
DRAWS = option('draws', 30)
ONLY = option('host', '', str)
MIB, GIB = 1 << 20, 1 << 30
DONE, BAD = 0, 1
MEAN, MAX = 0.01, 0.05
# Of the search for a bound, for many groups
STEPS = 400
# At most so many groups, where there are many nodes
GROUPS = 64


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


class Draw:
    """Workloads for the nodes of a plan"""

    def __init__(self, plan, rng):
        self.rng = rng
        self.nodes = plan['nodes']
        self.run = [n['id'] for n in self.nodes if n['cpus']]
        self.cpus = {n['id']: n['cpus'] for n in self.nodes}
        self.mem = sorted({e['to'] for e in plan['latency']})

    def working_set(self):
        rng = self.rng
        kind = rng.choice(('one', 'one', 'split', 'spread', 'none', 'tiny'))
        if kind == 'none' or not self.mem:
            return None
        size = int(2 ** rng.uniform(20, 37))
        if kind == 'tiny':
            size = rng.choice((0, 1, 4095, 4096, 40960))
        parts = {'one': 1, 'split': 2, 'tiny': 2}.get(kind, len(self.mem))
        places = rng.sample(self.mem, min(parts, len(self.mem)))
        weights = [rng.random() ** 2 + 1e-3 for _ in places]
        return [{'node': j, 'bytes': int(size * w / sum(weights))}
                for j, w in zip(places, weights)]

    def count(self):
        if self.rng.random() < 0.85:
            return self.rng.randint(1, 6)
        most = min(3 * len(self.nodes), GROUPS)
        return self.rng.randint(1, max(7, most))

    def workload(self):
        rng = self.rng
        if not self.run:
            return {'groups': [{'name': 'g0'}]}
        count = self.count()
        whole = 1000 * sum(self.cpus.values())
        # From idle to what just fits
        load = whole * rng.choice((0.01, 0.2, 0.5, 0.8, 1)) * rng.random()
        groups = []
        for k in range(count):
            g = {'name': f'g{k}', 'cpu': min(
                1000000, int(load / count * rng.choice((0, 0.5, 1, 1, 1.5))))}
            if rng.random() < 0.2:
                g['cpu'] = rng.choice((0, 1, 999, 1000, 2000))
            if rng.random() < 0.8:
                g['intensity'] = rng.choice((0, 100, 300, 700, 1000))
            if rng.random() < 0.15:
                g['pinned'] = True
            near = self.run
            if rng.random() < 0.2:
                near = g['nodes'] = rng.sample(
                    self.run, rng.randint(1, len(self.run)))
            if rng.random() < 0.6:
                g['home'] = rng.choice(near)
                if rng.random() < 0.1:
                    g['home'] = rng.choice(self.run)
            use = self.working_set()
            if use is not None:
                g['working-set'] = use
            groups.append(g)
        w = {'groups': groups}
        uses = []
        tight = rng.random() < 0.4
        for n in self.nodes:
            use = {'node': n['id']}
            if n['cpus'] and rng.random() < 0.4:
                use['cpu'] = int(1000 * n['cpus'] * rng.random() *
                                 rng.choice((0.3, 0.3, 0.8)))
            # What was free when it was recorded says little.
            if n['size']:
                use['free'] = min(n['size'], int(2 ** rng.uniform(12, 32)) if
                                  tight else rng.choice((n['size'],
                                                         n['free'])))
            uses.append(use)
        w['nodes'] = uses
        if rng.random() < 0.5:
            w['bandwidth'] = int(2 ** rng.uniform(20, 40))
        if rng.random() < 0.5:
            w['horizon'] = rng.choice((1, 10, 60, 600, 3600))
        return w


def write(root, name, text):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)


def mask(cpus, words=8):
    value = sum(1 << c for c in cpus)
    return ','.join(f'{value >> 32 * k & 0xffffffff:08x}'
                    for k in reversed(range(words)))


def numbers(cpus):
    return ','.join(str(c) for c in sorted(cpus))


def tree(root, nodes, slit, cores=(), offline=(), access=None):
    """
    A host: nodes {id: (CPUs, size, free)}, slit {(i, j): distance}, cores as
    sets of CPUs that are threads of one, access {id: (initiators, ns)}
    """
    system, ids = 'sys/devices/system/', sorted(nodes)
    present = sorted(set().union(*(n[0] for n in nodes.values())))
    online = [c for c in present if c not in offline]
    write(root, system + 'node/online', numbers(ids) + '\n')
    write(root, system + 'node/possible', numbers(ids) + '\n')
    write(root, system + 'cpu/online', numbers(online) + '\n')
    write(root, system + 'cpu/possible', numbers(present) + '\n')
    write(root, system + 'cpu/present', numbers(present) + '\n')
    for c in present:
        at = f'{system}cpu/cpu{c}/'
        write(root, at + 'online', f'{int(c not in offline)}\n')
        if c in offline:
            continue
        core = [s for s in cores if c in s]
        threads = (set(core[0]) if core else {c}) - set(offline)
        for name in ('core_cpus', 'thread_siblings'):
            write(root, f'{at}topology/{name}', mask(threads) + '\n')
            write(root, f'{at}topology/{name}_list',
                  numbers(threads) + '\n')
        write(root, f'{at}topology/core_id', f'{min(threads)}\n')
        write(root, f'{at}topology/physical_package_id', '0\n')
    for i, (cpus, size, free) in nodes.items():
        at = f'{system}node/node{i}/'
        cpus = set(cpus) - set(offline)
        write(root, at + 'cpumap', mask(cpus) + '\n')
        write(root, at + 'cpulist', numbers(cpus) + '\n')
        write(root, at + 'meminfo',
              f'Node {i} MemTotal: {size // 1024:>12} kB\n'
              f'Node {i} MemFree:  {free // 1024:>12} kB\n')
        row = [slit[i, j] for j in ids if (i, j) in slit]
        if row:
            write(root, at + 'distance',
                  ' '.join(f'{d}' for d in row) + '\n')
        for best, ns in [access[i]] if access and i in access else ():
            where = f'{at}access0/initiators/'
            write(root, where + 'read_latency', f'{ns}\n')
            for b in best:
                os.symlink(f'../../../node{b}',
                           os.path.join(root, where, f'node{b}'))
    total = sum(n[1] for n in nodes.values()) // 1024
    write(root, 'proc/meminfo', f'MemTotal: {total} kB\n'
          f'MemFree: {sum(n[2] for n in nodes.values()) // 1024} kB\n')
    return root


class PlanTest(TestCase):
    timeout = 300

    def setUp(self):
        super().setUp()
        self.rng = random.Random(f'{SEED} {self.id()}')
        self.diag(f'--seed {SEED}')

    def plan(self, *args, status=DONE, text=None):
        """(what it printed, what it said of errors)"""
        done = subprocess.run(
            [program('NUMA_PLAN'), *args], cwd=self.work.dir, check=False,
            input=(text or '').encode(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=scaled(250))
        said = done.stderr.decode(errors='replace')
        self.assertEqual(done.returncode, status, said[-2000:])
        return done.stdout.decode(errors='replace'), said

    def plans(self, root, workloads, *args):
        out, _ = self.plan(
            '--topology-root', root, '--workload', '-', '--output', 'json',
            *args, text=''.join(json.dumps(w) + '\n' for w in workloads))
        found = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(found), len(workloads))
        return found

    def host_plan(self, root, *args):
        """Its nodes and latencies; nothing is placed"""
        return self.plans(root, [{'groups': []}], *args)[0]

    def tree(self, name, *args, **kw):
        return tree(self.work.path(name), *args, **kw)

    def checked(self, plan, w, say=''):
        """(the problem, choices, groups without one) of a sound plan"""
        p = Problem(plan['nodes'], plan['latency'], w)
        say = f'{say}: {json.dumps(w)}'
        choices = []
        self.assertEqual([x['name'] for x in plan['places']],
                         [g['name'] for g in w['groups']], say)
        for g, options, place in zip(w['groups'], p.options,
                                     plan['places']):
            self.assertEqual(place.get('home'), g.get('home'), say)
            self.assertTrue(place['reason'], say)
            if 'options' in place:
                self.options_are(options, place['options'], say)
            choice = place.get('choice')
            if choice is None:
                choices.append(None)
                continue
            same = [o for o in options if o.printed() == choice]
            self.assertTrue(same, f'{choice} of {g["name"]} is none of '
                            f'{[o.printed() for o in options]}: {say}')
            choices.append(same[0])
        self.assertIsNone(p.wrong(choices), say)
        self.assertEqual(plan['total'], p.total(choices), say)
        self.assertEqual(plan.get('before'), p.before(), say)
        for n in plan['nodes']:
            load = p.loads(choices)[n['id']]
            self.assertEqual(
                (n['cpu'], n['load'], n['share'], n['free']),
                (p.others[n['id']], load, p.lost(n['id'], load),
                 p.free[n['id']]), f'node {n["id"]}: {say}')
        return p, choices, choices.count(None)

    def options_are(self, mine, printed, say):
        costs = [o['run'] + o['copy'] + o['cold'] for o in printed]
        self.assertEqual(costs, sorted(costs), say)

        def key(o):
            return sorted(o.items())
        self.assertEqual(sorted((o.printed() for o in mine), key=key),
                         sorted(printed, key=key), say)

    def regret(self, plan, w, say=''):
        """
        (what could be saved at most, as a part of the cheapest; is it
        certain), of a plan that is checked
        """
        p, choices, nowhere = self.checked(plan, w, say)
        known = plan['total'] + nowhere * NOWHERE
        steps = None if len(w['groups']) <= 6 and len(p.ids) <= 17 else STEPS
        if len(w['groups']) * len(p.ids) > 500:
            steps = 20
        s = p.search(known=known, steps=steps)
        if not s.exact:
            s = p.search(known=known, steps=steps, descents=300)
            # A bound is not all: what is known to be too much?
            if len(w['groups']) * len(p.ids) <= 1000:
                less = p.improved(choices)
                self.assertLessEqual(plan['total'], less * (1 + MAX), say)
        better = s.choices is not None and s.best < known
        say = f'{say}: {json.dumps(w)}'
        if better:
            self.assertIsNone(p.wrong(s.choices), say)
            self.assertFalse(plan['exact'], f'{s.best} is less than {known}'
                             f': {say}')
            self.assertEqual(s.choices.count(None), nowhere,
                             f'more could be placed: {say}')
        if s.bound // NOWHERE < nowhere:
            # Perhaps more can be placed; the bound does not tell.
            return 0, False
        bound = s.bound - nowhere * NOWHERE
        saved = plan['total'] - bound
        self.assertGreaterEqual(saved, 0, say)
        return saved / bound if bound else float(saved > 0), s.exact


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
