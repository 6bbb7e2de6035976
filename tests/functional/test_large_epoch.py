#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A flush of far more than staging-size: QEMU's own memory stays within
staging-size and a stated slack, and the replica gets all of it.

    test_large_epoch.py [--mib N] [--staging-mib N] [PATTERN]
"""

from pmemha import TestCase, main
from pmemha.epochs import SLACK, captures
from pmemha.options import option

DIRTY = option('mib', 256) << 20
STAGING = option('staging-mib', 1) << 20


class Memory(TestCase):

    timeout = 1500

    def check(self, what, dirty, stride):
        found = captures(self.work, self.adopt, 'large', dirty, 1, STAGING,
                         stride=stride)
        before, peak = found['qemu-anonymous']
        self.diag(f'{what}: {dirty >> 20} MiB, {before >> 20} MiB of anonymous '
                  f'memory before, {(peak - before) / (1 << 20):.1f} more at '
                  f'the peak (allowed: {STAGING >> 20} + {SLACK >> 20}), '
                  f"vCPUs held for {found['capture-us']['max'] / 1e6:.1f} s, "
                  f"links lost: {found['reconnects']}")
        self.assertEqual(found['acks'], {0: 1})
        self.assertGreaterEqual(found['wire-bytes'], dirty)
        self.assertLessEqual(peak - before, STAGING + SLACK)
        self.assertTrue(found['replica-equal'], 'the replica has not all')

    def test_contiguous(self):
        self.check('all pages', DIRTY, 1)

    def test_every_second_page(self):
        """One range for each page: the longest list of ranges"""
        self.check('every second page', DIRTY // 2, 2)


if __name__ == '__main__':
    main()
