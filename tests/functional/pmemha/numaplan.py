# SPDX-License-Identifier: GPL-2.0-or-later
"""Workloads and hosts that are made up, and checks of the plans for them"""

import json
import os
import random
import subprocess

from . import TestCase, program
from .numaoracle import NOWHERE, Problem
from .options import option
from .paths import scaled

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
DONE, BAD = 0, 1
MAX = 0.05
# Of the search for a bound, for many groups
STEPS = 400
# At most so many groups, where there are many nodes
GROUPS = 64


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
