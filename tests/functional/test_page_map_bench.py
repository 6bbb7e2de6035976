#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests/bench/page-map says of its figures: made-up ones, so that each bar is
missed once, and only that one.
"""

import copy
import os
import subprocess
import sys

from pmemha import ROOT, TestCase, main
from pmemha.mapbars import cell, move_bars, noise, save_bars
from pmemha.mapplan import Clock, full, own, quick
from pmemha.mappeers import OWN, PEERS
from pmemha.maptable import losses, table
from pmemha.mapwork import WORKLOADS
from pmemha.netlab import bits, rate_name

MOVED = {'finished': True, 'same-memory': True, 'link-bytes': 1000 * 10 ** 6,
         'storage-bytes': 0, 'total-time-ms': 10000, 'downtime-ms': 300,
         'setup-time-ms': 2, 'cpu-ms-source': 700, 'cpu-ms-destination': 900,
         'reread-s': 1.0, 'info': {}}
SAVED = {'finished': True, 'same-memory': True, 'allocated-bytes': 10 ** 9,
         'save-s': 2.0, 'restore-s': 1.0, 'pause-ms': 2000, 'info': {},
         'save-written-bytes': 10 ** 9, 'save-read-bytes': 0,
         'save-cpu-ms': 900, 'restore-read-bytes': 10 ** 9,
         'restore-cpu-ms': 800}
ENDLESS = {**MOVED, 'finished': False}
OURS = {'link-bytes': 100 * 10 ** 6, 'storage-bytes': 900 * 10 ** 6,
        'total-time-ms': 2000, 'downtime-ms': 40}


def moves(**ours):
    """Two rounds of stock, of it again (10 and 8 % apart), and of ours"""
    runs = {
        'stock': [dict(MOVED), dict(MOVED)],
        'stock again': [{**MOVED, 'total-time-ms': 11000},
                        {**MOVED, 'total-time-ms': 9200}],
        'multifd': [{**MOVED, 'total-time-ms': 8000} for _ in range(2)],
        'ours': [{**MOVED, **OURS, **ours}, {**MOVED, **OURS, **ours}],
    }
    return copy.deepcopy(runs)


def saves(**ours):
    runs = {'savevm': [dict(SAVED), {**SAVED, 'save-s': 2.2}],
            'ours, savevm': [{**SAVED, 'allocated-bytes': 10 ** 8, **ours}] * 2}
    return copy.deepcopy(runs)


def missed(bars):
    return [b.short.split(' ')[0] for b in bars if not b.met]


class Bars(TestCase):

    timeout = 10

    def check(self, want, found, claims=True):
        self.assertEqual(missed(move_bars('ours', found, claims)), want)

    def test_all_met(self):
        bars = move_bars('ours', moves(), True)
        self.assertEqual(len(bars), 4)
        self.assertEqual(cell(bars), 'met')

    def test_noise_is_the_worst_round(self):
        """The maximum either way, not the median, and no bound below 1"""
        self.assertAlmostEqual(noise(moves()), 1.1)
        found = moves()
        found['stock again'][0]['total-time-ms'] = 5000
        self.assertAlmostEqual(noise(found), 2)
        del found['stock again']
        self.assertEqual(noise(found), 1)

    def test_slower(self):
        self.check([], moves(**{'total-time-ms': 11190}), False)
        self.check(['time'], moves(**{'total-time-ms': 11210}), False)

    def test_downtime(self):
        self.check([], moves(**{'downtime-ms': 305}))
        self.check(['downtime,'], moves(**{'downtime-ms': 306}))

    def test_link(self):
        self.check([], moves(**{'link-bytes': 150 * 10 ** 6}))
        self.check(['link'], moves(**{'link-bytes': 151 * 10 ** 6}))
        self.check([], moves(**{'link-bytes': 151 * 10 ** 6}), False)

    def test_best_peer(self):
        """0.35 of the fastest peer, not of stock"""
        self.check([], moves(**{'total-time-ms': 2800}))
        self.check(['time'], moves(**{'total-time-ms': 2810}))
        self.check([], moves(**{'total-time-ms': 2810}), False)

    def test_best_peer_keeps_the_cache(self):
        found = moves()
        found['drop caches'] = [{**MOVED, 'total-time-ms': 100}] * 2
        self.check([], found)

    def test_memory(self):
        found = moves()
        found['ours'][1]['same-memory'] = False
        self.check(['memory'], found)

    def test_endless(self):
        """Stock that does not finish is no excuse for ours"""
        found = moves()
        found['stock'] = found['stock again'] = [dict(ENDLESS)] * 2
        self.check([], found)
        self.assertEqual(cell(move_bars('ours', found)), 'met')
        found['ours'][0] = dict(ENDLESS)
        self.check(['does'], found)

    def test_failed(self):
        found = moves()
        found['ours'][0] = {'finished': False, 'error': 'no such device'}
        self.check(['failed'], found)

    def test_peers_are_not_judged(self):
        self.assertEqual(move_bars('multifd', moves(), True), [])

    def test_saved(self):
        self.assertEqual(missed(save_bars('ours, savevm', saves(), True)), [])
        for key, good, bad, name in (
                ('allocated-bytes', 2 * 10 ** 8, 201 * 10 ** 6, 'allocated'),
                ('save-s', 2.3, 2.4, 'save'), ('restore-s', 1.02, 1.03,
                                               'restore'),
                ('same-memory', True, False, 'memory')):
            for value, want in ((good, []), (bad, [name])):
                self.assertEqual(missed(save_bars(
                    'ours, savevm', saves(**{key: value}), True)), want, key)


class Table(TestCase):

    timeout = 10

    def text(self, found, refused=(), saved=False):
        args = self.load, found, dict(refused), 'part', True, saved
        return '\n'.join(table(*args)), '\n'.join(
            losses(self.load, found, 'part', True, saved))

    def setUp(self):
        self.load = WORKLOADS['W1'](128)

    def test_rows(self):
        text, lost = self.text(moves(), {'xbzrle': 'refused: no'})
        self.assertIn('| ours | 100 (100 to 100) | 900 (900 to 900) | 0.100 ',
                      text)
        self.assertIn('| 0.70 (0.70 to 0.70) | 0.90 (0.90 to 0.90) |', text)
        self.assertIn('| xbzrle | refused: no | -', text)
        self.assertIn('A/A of stock: time x 1.010 (0.920 to 1.100)', text)
        self.assertIn('is equal by SHA-256 in each of 8', text)
        self.assertEqual(lost, '')
        self.assertEqual(len({line.count('|') for line in text.splitlines()
                              if line.startswith('|')}), 1)

    def test_losses_are_said(self):
        text, lost = self.text(moves(**{'total-time-ms': 12000}))
        self.assertIn('loses: time x 1.200 > 1.120', text)
        self.assertIn('W1, part, ours: total time, x stock', lost)

    def test_wrong_memory_is_said(self):
        found = moves()
        found['multifd'][0]['same-memory'] = False
        text, _ = self.text(found)
        self.assertIn('1 DIFFER (multifd)', text)

    def test_unfinished(self):
        found = moves()
        found['stock'] = [dict(ENDLESS), dict(ENDLESS)]
        text, _ = self.text(found)
        self.assertIn('2 of 2 did not finish in 120 s', text)
        # its bytes were on the link, and its row has them
        self.assertIn('| stock | 1000 (1000 to 1000) |', text)

    def test_saved(self):
        text, lost = self.text(saves(**{'allocated-bytes': 10 ** 9}), {
            'ours, mapped-ram': "refused: no map in it"}, True)
        self.assertIn('loses: allocated x 1.000 > 0.200', text)
        self.assertIn('| ours, mapped-ram | refused: no map in it', text)
        self.assertIn('allocated bytes, x stock: 1.000', lost)

    def test_nothing_measured(self):
        text, lost = self.text({}, {'stock': 'not measured: no time'})
        self.assertIn('| stock | not measured: no time', text)
        self.assertEqual(lost, '')


class Plan(TestCase):

    timeout = 60

    def test_names(self):
        for part in full() + quick():
            for name in part.workloads:
                names = part.names(WORKLOADS[name](1024))
                self.assertFalse(set(names) - set(PEERS), part.name)
                self.assertTrue(set(names) & set(OWN), part.name)
                self.assertGreaterEqual(part.times(WORKLOADS[name](1024)), 1)
                if not part.saved:
                    self.assertEqual(names[:2], ['stock', 'stock again'])

    def test_compared_with(self):
        """What a row is compared with is measured, too"""
        [part] = own('1g', 'unlimited', ['W1'], ['ours, savevm'], None)
        self.assertEqual(part.names(WORKLOADS['W1'](128)),
                         ['savevm', 'ours, savevm'])
        [part] = own('250m', 'unlimited', ['W1'], ['ours'], None)
        self.assertEqual(part.names(WORKLOADS['W1'](128)), ['stock', 'ours'])
        self.assertFalse(part.claims)

    def test_rates(self):
        self.assertEqual([bits(t) for t in ('250m', '1g', '5g', 'unlimited')],
                         [250 * 10 ** 6, 10 ** 9, 5 * 10 ** 9, 0])
        self.assertEqual(rate_name(bits('250m')), '250 Mb/s')

    def test_clock(self):
        self.assertFalse(Clock(0).over())
        self.assertFalse(Clock(90).over())
        self.assertTrue(Clock(-1).over())

    def test_options(self):
        bench = os.path.join(ROOT, 'tests', 'bench', 'page-map')

        def run(*args):
            return subprocess.run([sys.executable, bench, *args], text=True,
                                  capture_output=True, check=False, timeout=30)

        self.assertIn('ours, mapped-ram, savevm, ours, savevm',
                      run('--list').stdout)
        listed = run('--list', '--workloads', 'W3', '--peers',
                     'stock again,ours, sample,ours').stdout
        self.assertTrue(listed.endswith(
            'of stock, stock again, ours, sample, ours\n'), listed)
        for args in (['--peers', 'nobody'], ['--workloads', 'W99'],
                     ['--parts', 'none'], ['--mib', '64']):
            self.assertNotEqual(run(*args).returncode, 0, args)


if __name__ == '__main__':
    main()
