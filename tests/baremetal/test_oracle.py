#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The oracle must see what is wrong: each test breaks a good image in one way.
"""

import os
import struct
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, '..', 'functional'))

import oracle  # noqa: E402
from pmemha.tap import main  # noqa: E402

SIZE = 1 << 20
CMD = 'workload=records pages=4 words=8 area=16 seed=0x1234567'


class Records(unittest.TestCase):

    def setUp(self):
        self.p = oracle.Params(CMD, 2)
        self.acks = {0: 40, 1: 700}
        # CPU 0 stopped within a record, CPU 1 went round its area
        self.stores = [40 * 32 + 7, 700 * 32 + 32]
        self.image = oracle.make_image(self.p, self.stores, SIZE)[0]

    def judge(self, acks=None, **kw):
        return oracle.check_records(self.p, bytes(self.image),
                                    acks or self.acks, **kw)

    def at(self, cpu, s):
        page, word = self.p.slot(s % self.p.slots)
        return self.p.place(cpu, page)[1] + word * 8

    def put(self, cpu, s, value):
        struct.pack_into('<Q', self.image, self.at(cpu, s), value)

    def test_good(self):
        v = self.judge()
        self.assertTrue(v.ok, v)
        self.assertIn('1287 stores', v.state[0])

    def test_every_store_count(self):
        """Each prefix is accepted and its length is found."""
        p = oracle.Params('workload=records pages=2 words=4 area=4', 1)
        for s in range(0, 3 * p.slots, 37):
            image = oracle.make_image(p, [s], 1 << 16)[0]
            v = oracle.check_records(p, bytes(image), {0: s // 8})
            self.assertTrue(v.ok, v)
            self.assertIn(f'{s} stores', v.state[0])

    def test_positions_are_a_permutation(self):
        self.assertEqual(len({self.p.slot(t) for t in range(self.p.slots)}),
                         self.p.slots)

    def test_origin(self):
        for cpu, s in ((0, 0), (3, 12345), (15, (1 << 40) - 1)):
            v = oracle.value_of(0xabcdef, cpu, s)
            self.assertEqual(oracle.origin_of(0xabcdef, v), (cpu, s))

    def test_dropped_unflushed_store(self):
        self.put(0, 40 * 32 + 3, 0)
        v = self.judge()
        self.assertEqual(v.kind, 'torn', v)

    def test_dropped_acknowledged_store(self):
        self.put(0, 39 * 32 + 3, 0)
        v = self.judge()
        self.assertEqual(v.kind, 'lost', v)

    def test_older_value(self):
        """A page that was not sent again keeps the value of a round ago."""
        s = 700 * 32 + 5
        self.put(1, s, oracle.value_of(self.p.seed, 1, s - self.p.slots))
        self.assertEqual(self.judge().kind, 'torn')

    def test_lost_record(self):
        self.acks[0] = 41
        v = self.judge()
        self.assertEqual(v.kind, 'lost', v)
        self.assertIn('record 41 was acknowledged', v.errors[0])

    def test_ahead(self):
        v = self.judge({0: 38, 1: 700})
        self.assertEqual(v.kind, 'ahead', v)

    def test_ahead_of_a_second_run(self):
        """One that began with what was there may do one record more."""
        for begun, kind in ((39 * 32 + 9, 'ahead'), (40 * 32, 'ok')):
            p = oracle.Params(CMD + f' first={begun},{700 * 32}', 2)
            v = oracle.check_records(p, bytes(self.image), {})
            self.assertEqual(v.kind, kind, v)

    def test_swapped_pages(self):
        a, b = self.p.place(0, 1)[1], self.p.place(0, 2)[1]
        pa, pb = self.image[a:a + 4096], self.image[b:b + 4096]
        self.image[a:a + 4096], self.image[b:b + 4096] = pb, pa
        self.assertFalse(self.judge().ok)

    def test_swapped_cpus(self):
        a, b = self.p.place(0, 0)[1], self.p.place(1, 0)[1]
        pa, pb = self.image[a:a + 4096], self.image[b:b + 4096]
        self.image[a:a + 4096], self.image[b:b + 4096] = pb, pa
        self.assertFalse(self.judge().ok)

    def test_bit_flip(self):
        self.image[self.at(0, 77) + 2] ^= 0x10
        self.assertFalse(self.judge().ok)

    def test_half_a_store(self):
        at = self.at(1, 700 * 32 + 31)
        self.image[at + 4:at + 8] = bytes(4)
        self.assertFalse(self.judge().ok)

    def test_page_of_zeros(self):
        a = self.p.place(1, 5)[1]
        self.image[a:a + 4096] = bytes(4096)
        self.assertEqual(self.judge().kind, 'lost')

    def test_outside(self):
        self.image[SIZE - 5000] = 1
        v = self.judge()
        self.assertEqual(v.kind, 'torn', v)
        self.assertIn('no CPU owns', v.errors[0])

    def test_label_area_is_not_judged(self):
        self.image[SIZE - 100] = 1
        self.assertTrue(self.judge(label_size=128).ok)

    def test_baseline(self):
        self.image[SIZE - 5000] = 1
        base = bytearray(SIZE)
        base[SIZE - 5000] = 1
        self.assertTrue(self.judge(baseline=bytes(base)).ok)

    def test_empty(self):
        v = oracle.check_records(self.p, bytes(SIZE), {})
        self.assertTrue(v.ok, v)
        v = oracle.check_records(self.p, bytes(SIZE), {0: 1})
        self.assertEqual(v.kind, 'lost')

    def test_two_devices(self):
        """An image of another moment on the second device is torn."""
        p = oracle.Params(CMD + ' spread=1 devs=2', 1)
        now = oracle.make_image(p, [50 * 32 + 8], SIZE)
        then = oracle.make_image(p, [50 * 32], SIZE)
        acks = {0: 50}
        self.assertTrue(oracle.check_records(
            p, [bytes(i) for i in now], acks).ok)
        self.assertEqual(oracle.check_records(
            p, [bytes(now[0]), bytes(then[1])], acks).kind, 'torn')


class Others(unittest.TestCase):

    def test_reports(self):
        text = 'BOOT\nA 0 1\nA 1 1\nA 0 2\nF 1 9\nA 1 2'
        self.assertEqual(
            oracle.acknowledged(oracle.complete_lines(text)), {0: 2, 1: 1})
        with self.assertRaises(ValueError):
            oracle.acknowledged(['A 0 2', 'A 0 1'])

    def litmus(self, values):
        p = oracle.Params('workload=litmus pairs=2', 2)
        image = bytearray(SIZE)
        for i, v in enumerate(values):
            page = 3 - i // 2 if i % 2 else i // 2
            struct.pack_into('<Q', image, p.place(0, page)[1], v)
        return oracle.check_litmus(p, bytes(image)).kind

    def test_litmus(self):
        self.assertEqual(self.litmus([5, 5, 4, 4]), 'ok')
        self.assertEqual(self.litmus([5, 5, 5, 5]), 'ok')
        self.assertEqual(self.litmus([4, 5, 5, 5]), 'torn')
        self.assertEqual(self.litmus([5, 4, 5, 4]), 'torn')
        self.assertEqual(self.litmus([6, 5, 5, 4]), 'torn')

    def test_dma(self):
        p = oracle.Params('workload=dma area=4', 1)
        pattern = oracle.make_pattern()
        image = bytearray(SIZE)

        def transfer(n):
            skip = n * 264 % (65536 - 4096)
            at = (n - 1) % 4 * 4096
            image[at:at + 4096] = pattern[skip:skip + 4096]

        for n in range(1, 8):
            transfer(n)
            self.assertTrue(oracle.check_dma(
                p, bytes(image), {0: n}, pattern).ok)
        self.assertTrue(oracle.check_dma(
            p, bytes(image), {0: 6}, pattern).ok)
        self.assertEqual(oracle.check_dma(
            p, bytes(image), {0: 8}, pattern).kind, 'lost')
        image[0] ^= 1
        self.assertEqual(oracle.check_dma(
            p, bytes(image), {0: 7}, pattern).kind, 'lost')

    def test_label(self):
        p = oracle.Params('workload=label area=4 length=128', 1)
        image = bytearray(SIZE)
        for n in range(1, 7):
            at = SIZE - 65536 + (n - 1) % 4 * 128
            struct.pack_into('<16Q', image, at,
                             *(oracle.value_of(0, 0, n * 64 + i)
                               for i in range(16)))
        check = oracle.check_label
        self.assertTrue(check(p, bytes(image), {0: 6}, 65536).ok)
        self.assertTrue(check(p, bytes(image), {0: 5}, 65536).ok)
        self.assertEqual(check(p, bytes(image), {0: 7}, 65536).kind, 'lost')


if __name__ == '__main__':
    main()
