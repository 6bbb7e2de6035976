#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The disk that test_power_loss.py assumes, by small examples: a model that left
states out would let that test pass.
"""

import random

from pmemha import TestCase, main
from pmemha.powerfs import (Change, Directory, Space, fail_to_sync_file,
                            returned, sync_directory, sync_file)


class Assumptions(TestCase):
    """The disk itself: which states follow from which calls"""

    def setUp(self):
        self.dir = Directory()
        self.inode = self.dir.create('f')
        self.dir.changes[-1].done = True

    def write(self, at, data):
        c = Change('write', at, data)
        self.dir.write(self.inode, c)
        c.done = True

    def cut(self, size):
        c = Change('ftruncate', size=size)
        self.dir.write(self.inode, c)
        c.done = True

    def sync(self):
        sync_directory(self.dir, returned(self.dir.changes, ''))
        sync_file(self.inode, returned(self.inode.changes))

    def states(self):
        space = Space(self.dir)
        return {tuple(sorted(space.files(c).items())) for c in space.all()}

    def contents(self):
        return {dict(s).get('f') for s in self.states()}

    def test_names(self):
        self.assertEqual(self.contents(), {None, b''})
        sync_file(self.inode, returned(self.inode.changes))
        self.assertEqual(self.contents(), {None, b''}, 'not by a file sync')
        self.sync()
        self.dir.rename_to({'f': None, 'g': self.inode.number}, 'rename')
        self.assertEqual(self.states(), {(('f', b''),), (('g', b''),)})

    def test_sectors(self):
        a, b, c = (bytes([n]) * 512 for n in (1, 2, 3))
        self.write(0, a + a)
        self.sync()
        self.assertEqual(self.contents(), {a + a})
        self.write(0, b)
        self.write(256, c)          # of both sectors
        mixed = b[:256] + c[:256]
        self.assertEqual(self.contents(), {
            x + y for x in (a, b, mixed) for y in (a, c[:256] + a[:256])})

    def test_sizes(self):
        a, b = b'a' * 512, b'b' * 512
        self.write(0, a + a)
        self.sync()
        self.cut(512)
        self.write(512, b)
        self.assertEqual(self.contents(),
                         {a, a + a, a + b, a + bytes(512)})

    def test_call_under_way(self):
        self.sync()
        self.dir.write(self.inode, Change('write', 0, b'a' * 512))
        self.sync()                 # began before that call returned
        self.assertIn(b'', self.contents())

    def test_failed_sync(self):
        a, b = b'a' * 4096, b'b' * 4096
        self.write(0, a + a)
        self.sync()
        self.write(0, b + b)
        fail_to_sync_file(self.inode, returned(self.inode.changes))
        self.write(4096 + 100, b'c')
        self.sync()
        found = self.contents()
        self.assertEqual(len(found), 256, 'the first page is as it was, '
                         'or not, and the second was written again')
        self.assertEqual({f[4096:] for f in found},
                         {b[:100] + b'c' + b[101:]})

    def test_draw(self):
        self.sync()
        for n in range(40):
            self.write(n * 512, b'x' * 512)
        space = Space(self.dir)
        drawn = space.draw(random.Random(1), 300)
        self.assertEqual(len(set(drawn)), 300)
        self.assertTrue(all(len(c) == len(space.dims) for c in drawn))
        self.assertIn(tuple(d - 1 for d in space.dims), drawn)


if __name__ == '__main__':
    main()
