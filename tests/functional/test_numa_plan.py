#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-numa-plan as a user has it: a host that was copied, workloads, and input that
is wrong.  The figures that a plan is made of are unit tests; what is here is
calculated by hand from docs/devel/numa-sched.rst.
"""

import json
import os
import random
import subprocess

from pmemha import TestCase, main
from pmemha.numahost import Host
from pmemha.paths import build_dir, program, scaled

GIB = 1 << 30


# What breaks parsers, and programs that believe them
PIECES = [b'{', b'}', b'[', b']', b',', b':', b'"', b'\\', b'\\u0000',
          b'\\ud800', b'\xff', b'\xc0\x80', b'\0', b'\n', b'-', b'.', b'e999',
          b'1e99', b'-1', b'0', b'4294967296', b'18446744073709551615',
          b'18446744073709551616', b'9' * 400, b'null', b'true', b'"0"',
          b'[' * 2000, b'{"groups":' * 500, b'"node"', b'"bytes"', b'%s%n']


def broken(r, text):
    """A workload, or a file of latencies, with some faults"""
    for _ in range(r.randint(1, 4)):
        at = r.randrange(len(text) + 1)
        length = r.choice((0, 0, 1, 1, 5, 40))
        more = r.choice((b'', r.choice(PIECES), r.choice(PIECES),
                         r.randbytes(3), text[at:at + 60]))
        text = text[:at] + more + text[at + length:]
    return text


class NumaPlan(TestCase):
    def setUp(self):
        self.host = Host(self.work, [
            (0, [0, 1, 2, 3], 64 * 1024, [10, 20, 40]),
            (5, [4, 5, 6, 7], 64 * 1024, [20, 10, 40]),
            (9, [], 256 * 1024, [40, 40, 10])])

    def run_plan(self, *args, stdin=''):
        done = subprocess.run(
            [program('NUMA_PLAN'), '--topology-root', self.host.dir, *args],
            input=stdin, capture_output=True, text=True, check=False,
            timeout=scaled(60), cwd=self.work.dir)
        return done.returncode, done.stdout, done.stderr

    def plan(self, workload, *args):
        self.work.write('w.json', json.dumps(workload).encode())
        status, out, err = self.run_plan('--workload', 'w.json', '--output',
                                         'json', *args)
        self.assertEqual((status, err), (0, ''))
        return json.loads(out)

    def refused(self, *args, stdin='', status=1):
        code, out, err = self.run_plan(*args, stdin=stdin)
        self.assertEqual((code, out), (status, ''), err)
        return err

    def test_host(self):
        status, out, _ = self.run_plan()
        self.assertEqual(status, 0)
        lines = [line.split() for line in out.splitlines()]
        self.assertIn(['5', '4', '4', '64', 'GiB', '64', 'GiB'], lines)
        self.assertIn(['9', '0', '0', '256', 'GiB', '256', 'GiB'], lines)
        # A node without CPUs has no row.
        self.assertIn(['5', '20', '10', '40'], lines)
        self.assertNotIn(['9', '40', '40', '10'], lines)

    def test_costs(self):
        """N1; each figure as the formulas have it"""
        plan = self.plan({'groups': [{
            'name': 'a', 'cpu': 2000, 'intensity': 500, 'home': 0,
            'working-set': [{'node': 5, 'bytes': GIB},
                            {'node': 9, 'bytes': GIB}]}]}, '--explain')
        place, = plan['places']
        options = {(o['node'], o['memory']): o for o in place['options']}
        self.assertEqual(sorted(options), [
            (0, 'follow'), (0, 'stay'), (5, 'follow'), (5, 'stay')])
        # Half of the accesses at 2 and half at 4 times the local latency
        self.assertEqual(options[0, 'stay']['run'],
                         2000 * (500 * 1000 + 500 * 3000000 // 1000))
        self.assertEqual(options[0, 'follow']['bytes'], 2 * GIB)
        self.assertEqual(options[0, 'follow']['copy'],
                         2 * GIB // 4096 * 1500 // 60)
        self.assertEqual(options[0, 'stay']['cold'], 0)
        self.assertEqual(options[5, 'stay']['cold'], 5000 * 2000 // 60)
        self.assertEqual(options[5, 'follow']['bytes'], GIB)
        self.assertEqual(place['choice'], options[5, 'follow'])
        self.assertEqual(plan['total'], sum(
            place['choice'][k] for k in ('run', 'copy', 'cold')))
        self.assertEqual(plan['before'], options[0, 'stay']['run'])
        self.assertTrue(plan['exact'])

    def test_firmware_table(self):
        """What firmware has for Linux, here QEMU's: all pairs, not the best"""
        host = Host(self.work, [
            (0, [0], 1024, [10, 20, 20]), (1, [1], 1024, [20, 10, 20]),
            (2, [], 1024, [20, 20, 10])], 'qemu')
        tables = build_dir('10.0', 'src/tests/data/acpi/x86/q35')
        for name in ('HMAT', 'SRAT'):
            with open(f'{tables}/{name}.acpihmat-noinitiator', 'rb') as f:
                host.table(name, f.read())
        self.host = host
        found = {(l['from'], l['to']): (l['value'], l['source'])
                 for l in self.plan({'groups': []})['latency']}
        # As tests/qtest/bios-tables-test.c has them on its command line
        self.assertEqual(found, {
            (i, j): (ns, 'hmat') for i, row in enumerate(
                [[10, 20, 30], [20, 10, 30]]) for j, ns in enumerate(row)})

    def test_capacity(self):
        """What others take counts, and what does not fit has a reason."""
        groups = [{'name': f'g{n}', 'cpu': 3000} for n in range(3)]
        plan = self.plan({'groups': groups,
                          'nodes': [{'node': 0, 'cpu': 500}]})
        chosen = [p['choice']['node'] for p in plan['places']
                  if 'choice' in p]
        self.assertEqual(sorted(chosen), [0, 5])
        lost, = (p for p in plan['places'] if 'choice' not in p)
        self.assertIn('room', lost['reason'])
        self.assertNotIn('before', plan)

    def test_measure(self):
        """What was measured is what --latency takes."""
        self.assertIn('no other option', self.refused('--measure', status=2))
        done = subprocess.run([program('NUMA_PLAN'), '--measure'],
                              capture_output=True, text=True, check=False,
                              timeout=scaled(120))
        if done.returncode == 0:
            self.work.write('ns', done.stdout.encode())
            subprocess.run([program('NUMA_PLAN'), '--latency',
                            self.work.path('ns')], check=True,
                           capture_output=True, timeout=scaled(60))
        else:
            self.assertEqual((done.returncode, done.stdout), (1, ''))
            self.assertIn('--measure: ', done.stderr)
        if not os.path.exists('/sys/devices/system/node/node1'):
            self.assertIn('one node', done.stderr)

    def test_latency_file(self):
        """It is believed more than the firmware."""
        self.work.write('lat', b'0 0 80\n0 5 90\n0 9 400\n'
                               b'5 0 90\n5 5 80\n5 9 100\n')
        plan = self.plan({'groups': [{
            'name': 'a', 'pinned': True,
            'working-set': [{'node': 9, 'bytes': GIB}]}]},
            '--latency', 'lat')
        self.assertEqual({e['source'] for e in plan['latency']},
                         {'operator'})
        self.assertEqual(plan['places'][0]['choice']['node'], 5)
        self.work.write('lat', b'0 0 80\n0 5 90\n')
        self.assertIn('lat: the latency from node 0 to node 9 is missing',
                      self.refused('--latency', 'lat'))

    def test_many(self):
        """A workload in each line, an answer in each line"""
        lines = [json.dumps({'groups': [{'name': 'a', 'home': n}]})
                 for n in (0, 5)]
        status, out, err = self.run_plan('--workload', '-', '--output',
                                         'json', stdin='\n'.join(lines))
        self.assertEqual((status, err), (0, ''))
        self.assertEqual([json.loads(line)['places'][0]['choice']['node']
                          for line in out.splitlines()], [0, 5])

    def test_text(self):
        self.work.write('w.json', json.dumps({'groups': [{
            'name': 'db', 'home': 0, 'working-set': [
                {'node': 5, 'bytes': 60 * GIB}]}]}).encode())
        status, out, _ = self.run_plan('--workload', 'w.json', '--explain')
        self.assertEqual(status, 0)
        self.assertRegex(out, r'db: node 0 -> node 5: 0\.\d+ CPU less than on '
                              'node 0')
        self.assertRegex(out, r'\* node 5 +stay ')

    def test_bad_workloads(self):
        group = {'name': 'a'}
        bad = [
            ('', 'w.json'), ('{', 'w.json'), ('[' * 100000, 'w.json'),
            ('{}', "'groups'"), ('[]', 'w.json'), ('{"groups": 1}', 'groups'),
            ('{"groups": [], "more": 1}', 'more'),
            (json.dumps({'groups': [dict(group, cpu=-1)]}), "Group 'a': cpu is"),
            (json.dumps({'groups': [dict(group, cpu=1000001)]}),
             "Group 'a': cpu is 1000001"),
            (json.dumps({'groups': [dict(group, cpu=1 << 40)]}),
             'cpu is 1099511627776'),
            (json.dumps({'groups': [dict(group, cpu=1 << 70)]}),
             'groups[0].cpu'),
            (json.dumps({'groups': [dict(group, intensity=1001)]}),
             'intensity is 1001'),
            (json.dumps({'groups': [dict(group, home=1)]}), 'no node 1'),
            (json.dumps({'groups': [dict(group, nodes=[0, 7])]}),
             'no node 7'),
            (json.dumps({'groups': [group, group]}), 'another one'),
            (json.dumps({'groups': [{}]}), 'groups[0].name'),
            (json.dumps({'groups': [dict(group, **{'working-set': [
                {'node': 0, 'bytes': 1}, {'node': 0, 'bytes': 1}]})]}),
             'twice'),
            (json.dumps({'groups': [dict(group, **{'working-set': [
                {'node': 0, 'bytes': (1 << 50) + 1}]})]}), 'working set is'),
            (json.dumps({'groups': [], 'horizon': 0}), 'horizon is 0'),
            (json.dumps({'groups': [], 'bandwidth': 1}), 'bandwidth is 1'),
            (json.dumps({'groups': [], 'nodes': [
                {'node': 0, 'free': 65 * GIB}]}), 'free of node 0'),
            (json.dumps({'groups': [{'name': str(n)}
                                    for n in range(4097)]}), '4097 groups'),
            ('{"groups": []}\0', 'NUL'),
        ]
        for text, says in bad:
            with self.subTest(text=text[:60]):
                self.work.write('w.json', text.encode())
                err = self.refused('--workload', 'w.json')
                self.assertIn('w.json: ', err)
                self.assertIn(says, err)

    def test_bad_files(self):
        self.assertIn('absent', self.refused('--workload', 'absent'))
        self.assertIn('not a file', self.refused('--workload', '.'))
        self.assertIn('line 2', self.run_plan(
            '--workload', '-', stdin='{"groups": []}\n{\n')[2])
        self.host.dir = self.work.path('nowhere')
        self.assertIn('nowhere', self.refused())

    def fuzz(self, text, option, *others):
        """One answer or one clear error, whatever is in the file"""
        seed = random.SystemRandom().randrange(1 << 32)
        self.diag(f'seed {seed}')
        r = random.Random(seed)
        taken = 0
        for n in range(400):
            data = broken(r, text)
            self.work.write('fuzz', data)
            done = subprocess.run(
                [program('NUMA_PLAN'), '--topology-root', self.host.dir,
                 '--output', 'json', option, 'fuzz', *others],
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
                timeout=scaled(60), cwd=self.work.dir)
            with self.subTest(seed=seed, n=n, data=data[:300]):
                if done.returncode == 0:
                    taken += 1
                    self.assertEqual(done.stderr, b'')
                    json.loads(done.stdout)
                else:
                    self.assertEqual((done.returncode, done.stdout), (1, b''))
                    self.assertRegex(done.stderr, b'\\bfuzz:')
                    self.assertEqual(done.stderr.count(b'\n'), 1, done.stderr)
        self.diag(f'{taken} of 400 taken')

    def test_fuzzed_workloads(self):
        self.fuzz(json.dumps({
            'horizon': 60, 'bandwidth': 1 << 28,
            'nodes': [{'node': 0, 'cpu': 500, 'free': GIB}],
            'groups': [
                {'name': 'a', 'cpu': 2000, 'intensity': 500, 'home': 0,
                 'working-set': [{'node': 5, 'bytes': GIB},
                                 {'node': 9, 'bytes': 3 * GIB}]},
                {'name': 'b', 'pinned': True, 'nodes': [0, 5], 'working-set': [
                    {'node': 0, 'bytes': GIB}]},
                {'name': 'c'}]}).encode(), '--workload')

    def test_fuzzed_latencies(self):
        self.fuzz(b'# ns\n0 0 80\n0 5 140\n0 9 300\n5 0 150\n5 5 81 # x\n'
                  b'5 9 310\n', '--latency')

    def test_usage(self):
        for args in (['--output', 'xml'], ['more'], ['--none'],
                     ['--workload']):
            self.refused(*args, status=2)
        self.assertEqual(self.run_plan('--help')[0], 0)


if __name__ == '__main__':
    main()
