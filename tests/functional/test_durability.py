#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The order of system calls between a COMMIT and its ACK, seen by strace.

kill -9 does not show a missing fdatasync, since the page cache survives it:
here every write to a file since the last sync of that file must be synced
before the message that acknowledges it leaves.
"""

import re
import shutil

from pmemha import TestCase, main, skip_unless
from pmemha import wire

SIZE = 1 << 20
CALL = re.compile(r'^\d+ +(\w+)\((\d+)(?:<([^>]*)>)?(.*)$')
WRITES = ('pwrite64', 'pwritev', 'pwritev2', 'write', 'writev')
SENDS = ('sendmsg', 'sendto')


class Order(TestCase):

    def trace(self, ack):
        """Lines of strace while epochs 2 to 6 are sent"""
        r = self.replica(size=SIZE)
        r.argv = ['strace', '-f', '-y', '-e',
                  'trace=' + ','.join(WRITES + SENDS + (
                      'fdatasync', 'fsync', 'ftruncate')),
                  '-o', self.work.path('trace')] + r.argv
        r.start()
        with wire.Client(self.work.path(r.socket)) as c:
            c.hello(size=SIZE, ack=ack)
            c.full_copy(bytes(SIZE), 1)
            for epoch in range(2, 7):
                c.epoch(epoch, [wire.Page(epoch * wire.PAGE,
                                          bytes([epoch]) * wire.PAGE)])
        r.qmp.cmd('quit')
        r.wait(20)
        with open(self.work.path('trace'), encoding='utf-8',
                  errors='replace') as f:
            return f.read().splitlines()

    def acks_with_unsynced(self, lines, suffix):
        """For each message of 64 bytes to a socket: what is not synced then"""
        unsynced, out = set(), []
        for line in lines:
            m = CALL.match(line)
            if not m:
                continue
            name, _, path, rest = m.groups()
            path = path or ''
            if name in SENDS and 'socket' in path.lower() or \
                    name in SENDS and 'UNIX' in path:
                if wire_type(rest) == wire.ACK:
                    out.append(set(unsynced))
            elif not path.endswith(suffix):
                continue
            elif name in ('fdatasync', 'fsync'):
                unsynced.clear()
            elif name in WRITES and 'PMHAMARK' not in rest:
                unsynced.add(line)
        return out

    def check(self, ack, suffix):
        acks = self.acks_with_unsynced(self.trace(ack), suffix)
        self.assertGreaterEqual(len(acks), 6, 'acknowledgements seen')
        for unsynced in acks:
            self.assertFalse(unsynced, 'acknowledged before it was durable')

    @skip_unless(shutil.which('strace'), 'strace is not installed')
    def test_journaled(self):
        self.check(wire.JOURNALED, '.journal')

    @skip_unless(shutil.which('strace'), 'strace is not installed')
    def test_applied(self):
        self.check(wire.APPLIED, 'replica.img')


def wire_type(rest):
    """Message type in what strace shows of a header ("PMHA\\1\\0\\10\\0...)"""
    m = re.search(r'"PMHA\\1\\0((?:\\\d+|\\[a-z]|.))', rest)
    if not m:
        return None
    text = m[1]
    named = {'\\t': 9, '\\n': 10, '\\v': 11, '\\f': 12, '\\r': 13}
    if text in named:
        return named[text]
    return int(text[1:], 8) if text.startswith('\\') else ord(text)


if __name__ == '__main__':
    main()
