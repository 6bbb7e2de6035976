#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A destination that gets damaged streams, or files, with a page map: it refuses
them, or takes them, and neither crashes nor waits for ever.  One is recorded;
each round changes some bytes of the section, and gives it to a new QEMU.

    test_page_map_stream.py [--seed N] [--rounds N] [PATTERN]
"""

import os
import socket
import struct
import threading

from pmemha import main
from pmemha.options import option
from pmemha.pagemap import PageMapTest
from pmemha.paths import scaled

ROUNDS = option('rounds', 40)
START, PART, END = 1, 2, 3
HEADER = struct.Struct('>HI')
HELLO, DEVICE, BLOCK, RUN, COMMIT, FINISH, SNAPSHOT = range(1, 8)


class Recorder(threading.Thread):
    """Passes a stream on, both ways, and keeps what goes forward."""

    def __init__(self, work, name, to):
        super().__init__(daemon=True)
        self.data = bytearray()
        self.path = os.path.relpath(work.path(name))
        self.to = os.path.relpath(work.path(to))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.start()

    def run(self):
        source, _ = self.listener.accept()
        target = socket.socket(socket.AF_UNIX)
        target.connect(self.to)

        def back():
            while True:
                data = target.recv(65536)
                if not data:
                    return
                source.sendall(data)
        threading.Thread(target=back, daemon=True).start()
        while True:
            data = source.recv(65536)
            if not data:
                break
            self.data += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Answers(threading.Thread):
    """Reads the return path, and counts the messages of the page map."""

    PAGE_MAP = 8

    def __init__(self, s):
        super().__init__(daemon=True)
        self.s = s
        self.n = 0
        self.ended = False
        self.cond = threading.Condition()
        self.start()

    def run(self):
        with self.s.makefile('rb') as f:
            while True:
                try:
                    head = f.read(4)
                    if len(head) < 4:
                        break
                    kind, length = struct.unpack('>HH', head)
                    f.read(length)
                except OSError:
                    break
                with self.cond:
                    self.n += kind == self.PAGE_MAP
                    self.cond.notify_all()
        with self.cond:
            self.ended = True
            self.cond.notify_all()

    def wait(self, count, timeout=20):
        with self.cond:
            self.cond.wait_for(lambda: self.n >= count or self.ended,
                               scaled(timeout))


def messages(stream, at):
    """(offset of the body, type, length) of a part that begins there"""
    while True:
        kind, length = HEADER.unpack_from(stream, at)
        at += HEADER.size
        if not kind:
            return
        yield at, kind, length
        at += length


def parts(stream, which=PART):
    """Offsets of the messages of each part; the first one is the start"""
    name = b'\x08page-map'
    at = stream.index(name)
    section = bytes(stream[at - 4:at])
    yield at + len(name) + 8            # instance and version
    at = stream.find(bytes([which]) + section, at)
    while at >= 0:
        yield at + 5
        at = stream.find(bytes([which]) + section, at + 5)


class Damaged(PageMapTest):

    disk = 2
    timeout = 3600

    def record(self):
        disk = self.raw()
        src = self.source(disk)
        self.fill(src)
        dst = self.destination(disk)
        recorder = Recorder(self.work, 'rec.mig', 'dst.mig')
        self.begin(src, 'unix:rec.mig')
        stats = self.end(src)
        self.assertEqual(stats['nacked'], 0)
        self.same(src, dst)
        for q in (src, dst):
            q.kill()
        return bytes(recorder.data)

    def places(self, stream):
        found = []
        for at in parts(stream):
            try:
                found += list(messages(stream, at))
            except struct.error:
                pass
        return [m for m in found if m[1] in range(1, 8)]

    def play(self, stream, n, stops=(), timeout=20):
        """
        To a new destination, which is given the time for its answers: at the
        offsets of `stops` as many have come as their order says.  Its exit
        status, None if it took it all; its output
        """
        dst = self.destination(self.raw(), name=f'd{n}')
        s = socket.socket(socket.AF_UNIX)
        s.connect(os.path.relpath(self.work.path(f'd{n}.mig')))
        answers = Answers(s)
        try:
            sent = 0
            for count, stop in enumerate(sorted(stops), 1):
                s.sendall(stream[sent:stop])
                sent = max(sent, stop)
                answers.wait(count, timeout)
            s.sendall(stream[sent:])
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass                        # it has closed the connection
        answers.wait(1 << 30)
        answers.join()
        s.close()
        try:
            dst.qmp.poll('query-migrate', lambda i: i.get('status') in
                         ('completed', 'failed'), scaled(30))
            status = None
        except (AssertionError, OSError):
            status = dst.wait(30)
        text = dst.output()
        dst.kill()
        return status, text

    def stops(self, stream):
        """Where the destination has to have answered: device, then batches"""
        places = self.places(stream)
        first = next(at for at, kind, _ in places if kind == BLOCK)
        # FINISH waits for all batches, each of which answers once.
        last = len(stream)
        for at in parts(stream, END):
            last = at
        commits = sum(kind == COMMIT for _, kind, _ in places)
        return [first - 6] + [last] * commits

    def changed(self, stream, *changes):
        stream = bytearray(stream)
        for at, data in changes:
            stream[at:at + len(data)] = data
        return bytes(stream)

    def test_fields(self):
        """Each check of a field, by name"""
        stream = self.record()
        where = {}
        for at, kind, length in self.places(stream):
            where.setdefault(kind, (at, length))
        hello, device, block, run, commit, = (
            where[k][0] for k in (HELLO, DEVICE, BLOCK, RUN, COMMIT))
        record = run + 16
        cases = (
            ('version', 'version', (hello, b'\0\0\0\2')),
            ('type', 'unknown|type', (hello - 6, b'\0\x63')),
            ('a long message', 'bytes|long', (hello - 4, b'\0\1\0\0')),
            ('number of the device', 'not a device that was accepted',
             (device, b'\x3f\xff')),
            ('a block that does not exist', 'is not migrated here',
             (block + 3, b'XX')),
            ('device of a run', 'not a device that was accepted',
             (run + 4, b'\x12\x34')),
            ('beyond the disk', 'beyond its end',
             (run + 6, struct.pack('>Q', len(self.content)))),
            ('a page beyond the block', 'which has',
             (record + 2, b'\xff\xff\xff\xfe')),
            ('a block without a name', 'which has 0',
             (record, b'\xff\xfe')),
            ('a batch that is not whole', 'came|of which',
             (commit + 4, b'\0\7')),
        )
        stops = self.stops(stream)
        status, output = self.play(stream, 'whole', stops)
        self.assertIsNone(status, output)
        for n, (name, text, change) in enumerate(cases):
            with self.subTest(name):
                status, output = self.play(self.changed(stream, change),
                                           f'f{n}', stops)
                self.assertEqual(status, 1, output)
                self.assertRegex(output, text)

    def test_twice(self):
        """The section's beginning comes a second time."""
        stream = self.record()
        at, _, length = next(m for m in self.places(stream) if m[1] == BLOCK)
        hello = next(m for m in self.places(stream) if m[1] == HELLO)
        again = stream[hello[0] - 6:hello[0] + hello[2]]
        status, output = self.play(
            stream[:at + length] + again + stream[at + length:], 't')
        self.assertEqual(status, 1, output)
        self.assertIn('begins twice', output)

    def draw_changes(self, stream, places):
        changes = []
        for _ in range(self.rng.randrange(1, 4)):
            at, _, length = self.rng.choice(places)
            # Rather the header and the first fields than tags
            offset = self.rng.choice((
                -self.rng.randrange(1, 7),
                self.rng.randrange(max(min(length, 24), 1)),
                self.rng.randrange(max(length, 1))))
            changes.append((at + offset, self.rng.choice((
                bytes([self.rng.randrange(256)]), b'\xff\xff', b'\0\0',
                bytes([stream[at + offset] ^ 1 << self.rng.randrange(8)])
            ))))
        return changes

    def test_draw(self):
        stream = self.record()
        places = self.places(stream)
        stops = self.stops(stream)
        refused = 0
        for n in range(ROUNDS):
            changes = self.draw_changes(stream, places)
            damaged = self.changed(stream, *changes)
            # Damage may make it wait for more instead of for an answer; what
            # is sent too early is refused for another reason.
            if self.rng.random() < 0.1:
                damaged = damaged[:self.rng.randrange(places[0][0],
                                                      places[-1][0])]
            status, output = self.play(damaged, n, stops, 0.3)
            self.assertIn(status, (None, 1), f'{changes}: {output}')
            refused += status == 1
        self.diag(f'{ROUNDS} streams, {refused} refused')
        self.assertGreater(refused, 0)


class DamagedFile(Damaged):
    """A snapshot, which has nobody to ask: what is taken is whole"""

    # Not those of the base class
    test_fields = test_twice = None

    def record_file(self, caps):
        src = self.source(self.raw(), caps=caps)
        self.fill(src)
        src.qmp.cmd('stop')
        self.begin(src, 'file:guest.file')
        self.end(src)
        digest = self.digest(src)
        src.kill()
        with open(self.work.path('guest.file'), 'rb') as f:
            return f.read(), digest

    def restore(self, data, n, caps):
        """Exit status, None if it took it all; the output; memory's digest"""
        self.work.write(f'f{n}.file', data)
        dst = self.destination(self.raw(), name=f'd{n}', uri='defer',
                               caps=caps)
        dst.qmp.cmd('migrate-incoming', uri=f'file:f{n}.file')
        digest = status = None
        try:
            info = dst.qmp.poll('query-migrate', lambda i: i.get('status') in
                                ('completed', 'failed'), scaled(30))
            if info['status'] == 'completed':
                digest = self.digest(dst)
            else:
                status = dst.wait(30)
        except (AssertionError, OSError):
            status = dst.wait(30)
        text = dst.output()
        dst.kill()
        os.unlink(self.work.path(f'f{n}.file'))
        return status, text, digest

    def test_draw(self):
        for caps in ({}, {'mapped_ram': True}):
            stream, want = self.record_file(caps)
            places = self.places(stream)
            refused = other = 0
            for n in range(ROUNDS // 2):
                changes = self.draw_changes(stream, places)
                damaged = self.changed(stream, *changes)
                status, text, digest = self.restore(damaged, n, caps)
                self.assertIn(status, (None, 1), f'{changes}: {text}')
                refused += status == 1
                # Another page's number, with the content that its tag names,
                # can not be told from a snapshot that has it there.
                other += status is None and digest != want
            self.diag(f'{caps}: {ROUNDS // 2} files, {refused} refused,'
                      f' {other} with other memory')
            self.assertGreater(refused, ROUNDS // 8)
            os.unlink(self.work.path('guest.file'))

    def test_without_the_mark(self):
        """Without SNAPSHOT nobody would see that a page is missing."""
        stream, _ = self.record_file({})
        at, kind, _ = self.places(stream)[1]
        self.assertEqual(kind, SNAPSHOT)
        status, text, _ = self.restore(
            stream[:at - 6] + stream[at:], 'm', {})
        self.assertEqual(status, 1, text)

    def test_late_mark(self):
        """SNAPSHOT after the first device, and twice"""
        stream, _ = self.record_file({})
        mark = struct.pack('>HI', SNAPSHOT, 0)
        at = next(at for at, kind, _ in self.places(stream) if kind == BLOCK)
        status, text, _ = self.restore(
            stream[:at - 6] + mark + stream[at - 6:], 'l', {})
        self.assertEqual(status, 1, text)
        self.assertIn('SNAPSHOT is not the second message', text)


if __name__ == '__main__':
    main()
