#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Each peer and each workload of tests/bench/page-map once, on few files: that
they do what their names say.  Figures of time are not looked at.
"""

import json
import os
import subprocess
import sys

from pmemha import ROOT, NO_STOCK, TestCase, main, skip_unless, stock_program
from pmemha.linux import guest_dir
from pmemha.netlab import may_make
from pmemha.paths import scaled

MIB = 128
SET = MIB << 20


def able():
    return may_make() and os.geteuid() == 0


def setUpModule():
    guest_dir()                         # not within the time of a test


class Bench(TestCase):

    timeout = 500

    def bench(self, *args):
        """{workload: {peer: figures}}, {peer: why not}"""
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, 'tests', 'bench', 'page-map'),
             '--mib', str(MIB), '--rounds', '1', '--out', self.work.dir,
             *args], text=True, capture_output=True, check=False,
            timeout=scaled(self.timeout))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.work.path('page-map.json'), encoding='utf-8') as f:
            parts = json.load(f)['parts']
        found, refused = {}, {}
        for part in parts.values():
            for name, w in part.items():
                found[name] = {p: r[0] for p, r in w['found'].items()}
                refused.update(w['refused'])
                for peer, figures in found[name].items():
                    self.assertTrue(figures['same-memory'] if
                                    figures['finished'] else name == 'W3',
                                    f'{name}: {peer}: {figures}')
        return found, refused

    @skip_unless(able, 'needs root and network namespaces')
    @skip_unless(lambda: stock_program('QEMU'), NO_STOCK)
    def test_moves(self):
        found, refused = self.bench('--workloads', 'W1')
        self.assertEqual(refused, {})
        w = found['W1']
        full = w['stock']['link-bytes']
        self.assertGreater(full, SET)
        self.assertEqual(w['stock']['storage-bytes'] // SET, 0)
        for peer in ('ours', 'ours+multifd', 'ours, sample'):
            self.assertLess(w[peer]['link-bytes'], full - SET * 3 // 4, peer)
            self.assertGreater(w[peer]['storage-bytes'], SET * 3 // 4, peer)
        # Files that nothing compresses are not all of a guest.
        self.assertLess(w['multifd+zstd']['link-bytes'], full * 9 // 10)
        self.assertLess(w['drop caches+hint']['link-bytes'],
                        full - SET // 4)

    @skip_unless(able, 'needs root and network namespaces')
    @skip_unless(lambda: stock_program('QEMU'), NO_STOCK)
    def test_workloads(self):
        found, _ = self.bench('--peers', 'ours,postcopy')
        self.assertEqual(found['W3']['postcopy']['info']['status'],
                         'completed')
        for name in ('W1', 'W2', 'W3', 'W6', 'W8'):
            placed = found[name]['ours']['info']['page-map']['mapped-bytes']
            self.assertGreater(placed, SET // 4, name)
        self.assertGreater(found['W5']['ours']['info']['page-map']['nacked'],
                           0)

    @skip_unless(able, 'needs root and network namespaces')
    @skip_unless(lambda: stock_program('QEMU'), NO_STOCK)
    def test_saves(self):
        found, refused = self.bench('--parts', 'saved')
        for name in ('W1', 'W3', 'W5'):
            for peer in ('mapped-ram', 'savevm'):
                f = found[name][peer]
                self.assertGreater(f['allocated-bytes'], SET * 3 // 4)
                self.assertGreater(f['restore-read-bytes'], SET * 3 // 4)
            for peer in ('ours, mapped-ram', 'ours, savevm'):
                self.assertTrue(peer in found[name] or peer in refused)


if __name__ == '__main__':
    main()
