#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-pmem-replica against a primary that shares no code with it.

Usage: test_replica.py [--bin DIR] [--seed N] [--kills N] [-v] [PATTERN...]
"""

import argparse
import fnmatch
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pmemha import wire    # noqa: E402
from pmemha.wire import PAGE, Client, Closed, Fenced, Page, Refused  # noqa

HERE = os.path.dirname(os.path.abspath(__file__))
PAGES = 16
SIZE = PAGES * PAGE
UUID = uuid.UUID('00000000-0000-4000-8000-0000000000a1')


class Skip(Exception):
    pass


class Model:
    """What each epoch holds, and the image after each of them."""

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.image = bytearray(SIZE)
        self.images = {}
        self.base()

    def base(self):
        for n in range(PAGES):
            self.image[n * PAGE:(n + 1) * PAGE] = self.content(0, n)

    def content(self, epoch, n):
        if self.rng.random() < 0.2:
            return bytes(PAGE)
        return struct.pack('<QQ', epoch, n * 1000 + self.rng.randrange(999)) \
            * (PAGE // 16)

    def next(self, epoch, count=None):
        """Content for @epoch; the same number may be made anew."""
        count = count or self.rng.randrange(1, 5)
        pages = []
        for n in self.rng.sample(range(PAGES), count):
            data = self.content(epoch, n)
            self.image[n * PAGE:(n + 1) * PAGE] = data
            pages.append(Page(n * PAGE, data))
        self.images[epoch] = bytes(self.image)
        return pages


class Daemon:
    def __init__(self, bindir, tmp, size=SIZE, name='pm0', env=None,
                 expect_failure=False, journal=None, mem_path=None,
                 listen=None, journal_size=None, extra=()):
        self.bindir = bindir
        self.tmp = tmp
        self.img = mem_path or os.path.join(tmp, 'img')
        self.journal = journal or os.path.join(tmp, 'journal')
        self.sock = os.path.join(tmp, 's')
        self.qmp_path = os.path.join(tmp, 'q')
        for path in (self.sock, self.qmp_path):
            if os.path.exists(path):
                os.unlink(path)
        self.err = open(os.path.join(tmp, 'stderr'), 'ab+')
        export = 'name=%s,mem-path=%s,size=%d,journal=%s' % (
            name, self.img, size, self.journal)
        if journal_size:
            export += ',journal-size=%d' % journal_size
        args = [os.path.join(bindir, 'qemu-pmem-replica'),
                '--export', export,
                '--listen', listen or 'addr.type=unix,addr.path=' + self.sock,
                '--chardev', 'socket,id=m,path=%s,server=on,wait=off'
                % self.qmp_path,
                '--monitor', 'm'] + list(extra)
        env = dict(os.environ, **(env or {}))
        self.start = self.err.seek(0, os.SEEK_END)
        self.proc = subprocess.Popen(args, stdout=subprocess.PIPE,
                                     stderr=self.err, env=env, text=True)
        self.ready = self.proc.stdout.readline()
        if expect_failure:
            assert not self.ready, self.ready
            assert self.proc.wait(20) == 1, self.proc.returncode
        elif not self.ready.startswith('ready:') and not env.get(
                'PMEM_HA_CRASH_AT'):
            raise AssertionError('daemon did not start: ' + self.stderr())

    def stderr(self):
        self.err.flush()
        with open(self.err.name, encoding='utf-8') as f:
            f.seek(self.start)
            return f.read()

    def kill(self):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        self.err.close()

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        assert self.proc.wait(20) == 0, self.proc.returncode
        self.proc.stdout.close()
        self.err.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if self.proc.poll() is None:
            if kind:
                self.kill()
            else:
                self.stop()

    def connect(self):
        return Client(self.sock)

    def ctl(self, *args):
        return subprocess.run(
            [os.path.join(self.bindir, 'qemu-pmemctl')] + list(args) +
            ['--socket', self.qmp_path], capture_output=True, text=True,
            timeout=60, check=False)

    def status(self):
        out = self.ctl('status', '--output', 'json')
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)[0]

    def wait_status(self, **want):
        end = time.monotonic() + 20
        while True:
            s = self.status()
            if all(s.get(k.replace('_', '-')) == v for k, v in want.items()):
                return s
            assert time.monotonic() < end, (want, s)

    def promote(self, *args):
        out = self.ctl('promote', '--output', 'json', *args)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def image(self):
        with open(self.img, 'rb') as f:
            return f.read()


def hello(c, **kw):
    kw.setdefault('size', SIZE)
    kw.setdefault('uuid', UUID)
    kw.setdefault('slot', 1)
    return c.hello(**kw)


def expect_refused(func, code, *texts, kind=wire.REFUSE):
    try:
        func()
    except Refused as r:
        assert r.code == code and r.kind == kind, r
        for text in texts:
            assert text in r.text, (text, r.text)
        return r.text
    raise AssertionError('was not refused')


def expect_fenced(func, generation=None):
    try:
        func()
    except Fenced as f:
        assert generation is None or f.generation == generation, f
        return
    raise AssertionError('was not fenced')


class Context:
    def __init__(self, args, tmp):
        self.args = args
        self.bindir = args.bin
        self.tmp = tmp
        self.rng = random.Random(args.seed)
        self.mounts = []

    def daemon(self, **kw):
        return Daemon(self.bindir, self.tmp, **kw)

    def tmpfs(self, size, ro=False):
        path = tempfile.mkdtemp(dir=self.tmp)
        cmd = ['mount', '-t', 'tmpfs', '-o', 'size=%d' % size, 'none', path]
        if os.getuid() or subprocess.run(cmd, check=False,
                                         capture_output=True).returncode:
            raise Skip('a small tmpfs can not be mounted (needs root)')
        self.mounts.append(path)
        return path

    def cleanup(self):
        for path in self.mounts:
            subprocess.run(['umount', '-l', path], check=False)

    def seeded(self, d, epochs=3, **kw):
        """An export that holds a few epochs; returns client and model."""
        model = Model(self.rng.random())
        c = d.connect()
        hello(c, **kw)
        c.full_copy(bytes(model.image), 1, model.next(1))
        for e in range(2, epochs + 1):
            c.epoch(e, model.next(e))
        return c, model


# --- tests -----------------------------------------------------------------

def test_handshake(t):
    with t.daemon() as d:
        with d.connect() as c:
            assert hello(c) == (False, 0, 0)
            c.send(wire.Msg(wire.PING, 0, 1, arg0=77))
            m = c.recv()
            assert m.type == wire.PONG and m.arg0 == 77
            assert d.status()['state'] == 'empty'
            c.send(wire.Msg(wire.CLEAN, 0, 1))
            assert c.drain() == []
        s = d.status()
        assert 'peer' not in s and 'uuid' not in s, s
        assert d.ready.startswith('ready: unix:'), d.ready


def test_refusals(t):
    with t.daemon() as d:
        c, _ = t.seeded(d, label_size=2 * PAGE)
        c.close()
        d.wait_status(state='disconnected')
        good = dict(label_size=2 * PAGE)

        def attempt(**kw):
            def run():
                with d.connect() as c2:
                    hello(c2, **dict(good, **kw))
            return run

        expect_refused(attempt(size=2 * SIZE), wire.R_SIZE,
                       str(SIZE), str(2 * SIZE))
        expect_refused(attempt(slot=5), wire.R_SLOT, 'slot 1', 'slot 5')
        other = uuid.UUID(int=99)
        expect_refused(attempt(uuid=other), wire.R_UUID, str(UUID),
                       str(other))
        expect_refused(attempt(label_size=0), wire.R_LABEL_SIZE,
                       'label-size %d' % (2 * PAGE), 'has 0')
        expect_refused(attempt(name='nope'), wire.R_NO_EXPORT, "'nope'")
        with d.connect() as c1:
            assert hello(c1, **good) == (True, 1, 3)
            expect_refused(attempt(instance=2), wire.R_BUSY, 'in use')
            # the same run of the same primary replaces its connection
            with d.connect() as c2:
                assert hello(c2, **good) == (True, 1, 3)
                assert c1.drain() == []
                s = d.status()
                assert s['state'] == 'in-sync', s


def test_malformed(t):
    """Bytes that are no protocol are answered and change nothing."""
    with t.daemon() as d:
        c, model = t.seeded(d)
        c.close()
        d.wait_status(state='disconnected')

        def raw(data, code=wire.R_PROTOCOL, text='protocol'):
            with d.connect() as c2:
                c2.sock.sendall(data)
                c2.sock.shutdown(socket.SHUT_WR)
                expect_refused(c2.recv, code, text)

        raw(b'GET / HTTP/1.1\r\nHost: replica\r\n' + b'\r\n' * 20)
        raw(os.urandom(64))
        raw(bytes(64))
        newer = bytearray(wire.Msg(wire.HELLO, payload=b'x' * 80).encode(0))
        newer[4] = 2
        raw(bytes(newer), text='version 2')
        raw(wire.Msg(wire.PING).encode(0), text='HELLO must be first')
        raw(wire.Msg(wire.HELLO, payload=b'x' * 80).encode(0))
        raw(wire.Msg(wire.HELLO, payload=b'x' * 80, crc=1).encode(0),
            text='checksum')

        def after_hello(text, *messages):
            with d.connect() as c2:
                hello(c2)
                c2.send(*messages)
                expect_refused(c2.recv, wire.R_PROTOCOL, text,
                               kind=wire.FAIL)
            d.wait_status(state='disconnected', epoch=3)

        page = Page(0, b'z' * PAGE)
        after_hello('outside of an epoch', page.msg(1, 4))
        after_hello('where 4 must follow', wire.Msg(wire.BEGIN, 0, 1, 5))
        after_hello('where 4 must follow', wire.Msg(wire.BEGIN, 0, 1, 3))
        after_hello('not begun', wire.Msg(wire.BEGIN, 2, 1, 4))
        after_hello('without its BEGIN',
                    wire.Msg(wire.COMMIT, 0, 1, 4, payload=b'0123'))
        after_hello('generation 7', wire.Msg(wire.PING, 0, 7))
        after_hello('outside of the region',
                    wire.Msg(wire.BEGIN, 0, 1, 4),
                    Page(SIZE, b'z' * PAGE).msg(1, 4))
        after_hello('digest',
                    wire.Msg(wire.BEGIN, 0, 1, 4), page.msg(1, 4),
                    wire.Msg(wire.COMMIT, 0, 1, 4, 1, PAGE, b'0123'))
        after_hello('COPY of', wire.Msg(wire.COPY, 0, 1, arg0=SIZE * 2))
        after_hello('of which', wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                    wire.Msg(wire.BEGIN, 2, 1, 4))
        after_hello('goes on at', wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                    Page(PAGE, b'z' * PAGE).msg(1, 0))
        after_hello('within a full copy',
                    wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                    wire.Msg(wire.BEGIN, 0, 1, 4))
        after_hello('ACK from a primary', wire.Msg(wire.ACK, 0, 1, 4))
        with d.connect() as c2:
            hello(c2)
            c2.epoch(4, model.next(4))
        d.wait_status(state='disconnected', epoch=4)


def test_half_message(t):
    """A connection that ends within an epoch leaves nothing of it."""
    with t.daemon() as d:
        c, model = t.seeded(d)
        before = model.images[3]
        data = b''.join(m.encode(c.tx_seq + i) for i, m in enumerate(
            c.epoch_messages(4, model.next(4, 3))))
        c.sock.sendall(data[:-30])
        c.close()
        d.wait_status(state='disconnected', epoch=3)
        with d.connect() as c2:
            assert hello(c2, instance=2) == (True, 1, 3)
        d.wait_status(state='disconnected')
        p = d.promote()
        assert p['epoch'] == 3
        assert d.image() == before


def kill_and_promote(t, ack):
    with t.daemon() as d:
        c, model = t.seeded(d, 30, ack=ack)
        d.kill()
        assert [m.type for m in c.drain()] == []
        with t.daemon() as d2:
            s = d2.status()
            assert s['epoch'] == 30 and s['state'] == 'disconnected', s
            p = d2.promote()
            assert p['epoch'] == 30 and p['generation'] == 2, p
            assert d2.image() == model.images[30]


def test_kill_promote_received(t):
    kill_and_promote(t, wire.RECEIVED)


def test_kill_promote_journaled(t):
    kill_and_promote(t, wire.JOURNALED)


def test_kill_promote_applied(t):
    kill_and_promote(t, wire.APPLIED)


def test_applied_means_image(t):
    with t.daemon() as d:
        c, model = t.seeded(d, 2, ack=wire.APPLIED)
        for e in range(3, 8):
            c.epoch(e, model.next(e))
            assert d.image() == model.images[e]
        c.close()


def test_copy_keeps_old_image(t):
    with t.daemon() as d:
        c, model = t.seeded(d)
        old = model.images[3]
        c.close()
        d.wait_status(state='disconnected')
        # an unfinished copy, then promote
        with d.connect() as c2:
            hello(c2)
            c2.send(*c2.copy_messages(os.urandom(SIZE))[:-1])
            c2.send(wire.Msg(wire.PING, 0, 1))
            while c2.recv().type != wire.PONG:
                pass
        d.wait_status(state='disconnected')
        assert not os.path.exists(d.img + '.copy')
        with d.connect() as c2:
            hello(c2)
            c2.send(*c2.copy_messages(os.urandom(SIZE)))
            c2.send(*c2.epoch_messages(9, [Page(0, b'x' * PAGE)],
                                       completes=True)[:-1])
            c2.send(wire.Msg(wire.PING, 0, 1))
            while c2.recv().type != wire.PONG:
                pass
            s = d.status()
            assert s['state'] == 'copying' and s['copied-bytes'] == SIZE, s
            d.kill()
        with t.daemon() as d2:
            assert not os.path.exists(d2.img + '.copy')
            with d2.connect() as c3:
                assert hello(c3) == (True, 1, 3)
                c3.send(*c3.copy_messages(os.urandom(SIZE)))
                c3.send(wire.Msg(wire.PING, 0, 1))
                assert c3.recv().type == wire.PONG
                p = d2.promote()
                assert p['epoch'] == 3
                assert d2.image() == old
                expect_fenced(c3.recv, 2)


def test_copy_replaces(t):
    """A complete copy of a later generation takes the image's place."""
    with t.daemon() as d:
        c, model = t.seeded(d)
        c.close()
        d.wait_status(state='disconnected')
        with d.connect() as c2:
            assert hello(c2, generation=5) == (True, 1, 3)
            c2.send(wire.Msg(wire.BEGIN, 0, 5, 4))
            expect_refused(c2.recv, wire.R_PROTOCOL, 'without a full copy',
                           kind=wire.FAIL)
        d.wait_status(state='disconnected')
        with d.connect() as c2:
            hello(c2, generation=5)
            c2.full_copy(bytes(model.image), 9, model.next(9))
            c2.epoch(10, model.next(10))
            s = d.wait_status(state='in-sync', epoch=10)
            assert s['generation'] == 5
        with d.connect() as c2:
            expect_fenced(lambda: hello(c2, generation=4), 5)
        d.kill()
        with t.daemon() as d2:
            assert d2.image() == model.images[10]
            assert d2.status()['epoch'] == 10


def test_promote(t):
    with t.daemon() as d:
        c, model = t.seeded(d, 5)
        # an epoch that is not committed is not part of what is promoted
        c.send(*c.epoch_messages(6, model.next(6))[:-1])
        out = d.ctl('promote')
        assert out.returncode == 0, out.stderr
        lines = out.stdout.splitlines()
        assert 'generation: 2' in lines and 'epoch: 5' in lines, lines
        argv = shlex.split(lines[-1])
        assert argv[0] == '-object' and argv[2] == '-device', argv
        assert argv[1] == ('memory-backend-file,id=mem0,mem-path=%s,size=%d,'
                           'share=on' % (d.img, SIZE)), argv
        assert argv[3] == ('pmem-ha,id=pm0,memdev=mem0,slot=1,uuid=%s,'
                           'state-file=%s.state' % (UUID, d.img)), argv
        # the connected primary is told; nothing else ever arrives
        kinds = [m.type for m in c.drain()]
        assert kinds == [wire.FENCED], kinds
        with d.connect() as c2:
            expect_fenced(lambda: hello(c2, generation=1), 2)
        with d.connect() as c2:
            expect_fenced(lambda: hello(c2, generation=3), 2)
        assert d.image() == model.images[5]
        s = wire.read_state_file(d.img + '.state')
        assert (s['generation'], s['captured'], s['acked'], s['clean']) == \
            (2, 5, 5, True), s
        assert s['digest'] == hashlib.sha256(d.image()).digest()
        assert s['history'] == [(1, 5)] and s['uuid'] == UUID, s
        assert not os.path.exists(d.img + '.replica')
        # a second promotion answers the same and touches nothing
        with open(d.img, 'r+b') as f:
            f.write(b'written by the second host')
        again = d.promote('--state-file', os.path.join(t.tmp, 'elsewhere'))
        assert again['epoch'] == 5 and again['generation'] == 2, again
        assert again['state-file'] == d.img + '.state', again
        assert not os.path.exists(os.path.join(t.tmp, 'elsewhere'))
        assert d.image().startswith(b'written by')
    with t.daemon() as d:
        assert d.status()['state'] == 'promoted'
        assert d.image().startswith(b'written by')
        assert not os.path.exists(d.img + '.replica')
        with d.connect() as c:
            expect_fenced(lambda: hello(c), 2)
        # the image is free for the second host
        import fcntl
        with open(d.img, 'r+b') as f:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_promote_refusals(t):
    with t.daemon() as d:
        out = d.ctl('promote')
        assert out.returncode == 1 and 'no whole image' in out.stderr, out
        out = d.ctl('promote', '--export', 'nope')
        assert out.returncode == 1 and "'nope'" in out.stderr, out
        c, _ = t.seeded(d)
        out = d.ctl('promote', '--state-file', '/nonexistent/state')
        assert out.returncode == 1 and '/nonexistent/state' in out.stderr, out
        c.epoch(4, [Page(0, b'a' * PAGE)])
        c.close()
        for verb in ('verify', 'resync', 'power-fail', 'recover', 'metrics'):
            out = d.ctl(verb)
            assert out.returncode == 4, out
            assert 'not available yet' in out.stderr, out
        assert d.ctl('nonsense').returncode == 2
        d.qmp_path = os.path.join(t.tmp, 'absent')
        assert d.ctl('status').returncode == 3


def test_no_ack_after_promote(t):
    """While a client streams, promotion draws a line: no ACK beyond it."""
    for _ in range(15):
        tmp = tempfile.mkdtemp(dir=t.tmp)
        with Daemon(t.bindir, tmp) as d:
            c, model = t.seeded(d)
            acked = []
            ended = []

            def stream():
                e = 4
                try:
                    while True:
                        c.epoch(e, model.next(e))
                        acked.append((time.monotonic(), e))
                        e += 1
                except (Fenced, Closed, ConnectionError) as x:
                    ended.append(x)

            thread = threading.Thread(target=stream)
            thread.start()
            time.sleep(t.rng.random() * 0.05)
            p = d.promote()
            thread.join(20)
            assert not thread.is_alive()
            assert not acked or acked[-1][1] <= p['epoch'], (acked[-1], p)
            assert d.image() == model.images[p['epoch']]
            c.close()


def test_damage(t):
    with t.daemon() as d:
        c, model = t.seeded(d, 2)
        c.close()
        d.wait_status(journal_bytes=0, epoch=2)
        with d.connect() as c:
            hello(c)
            for e in range(3, 7):
                c.epoch(e, model.next(e, 3))
            d.kill()
    with open(os.path.join(t.tmp, 'journal'), 'r+b') as f:
        data = f.read()
        # the second epoch of the log
        at = [m.start() for m in re.finditer(
            re.escape(struct.pack('<IH', 0x524a4850, 1)), data)][1]
        f.seek(at + 100)
        f.write(bytes([data[at + 100] ^ 0xff]))
    with t.daemon() as d:
        s = d.status()
        assert s['state'] == 'damaged', s
        assert 'epoch 4 ' in s['damage'], s
        with d.connect() as c:
            expect_refused(lambda: hello(c), wire.R_DAMAGED, 'epoch 4 ',
                           'force')
        out = d.ctl('promote')
        assert out.returncode == 1 and 'epoch 4 ' in out.stderr, out
        p = d.promote('--force')
        assert p['epoch'] == 3
        # nothing older than epoch 3; parts of later epochs may be there
        image = d.image()
        for n in range(0, SIZE, PAGE):
            assert image[n:n + PAGE] in [model.images[e][n:n + PAGE]
                                         for e in range(3, 7)], n


def test_startup_errors(t):
    img = os.path.join(t.tmp, 'img')
    with open(img, 'wb') as f:
        f.truncate(SIZE * 2)
    d = t.daemon(expect_failure=True)
    assert str(SIZE * 2) in d.stderr() and str(SIZE) in d.stderr(), d.stderr()
    assert img in d.stderr()
    assert not os.path.exists(img + '.replica')
    os.unlink(img)
    d = t.daemon(expect_failure=True, size=4097)
    assert 'multiple of 4096' in d.stderr(), d.stderr()
    d = t.daemon(expect_failure=True,
                 mem_path=os.path.join(t.tmp, 'no', 'dir'))
    assert 'no/dir' in d.stderr(), d.stderr()
    d = t.daemon(expect_failure=True,
                 listen='addr.type=inet,addr.host=0.0.0.0,addr.port=0')
    assert '--allow-plaintext' in d.stderr(), d.stderr()
    d = t.daemon(expect_failure=True,
                 listen='addr.type=inet,addr.host=127.0.0.1,addr.port=0,'
                 'tls-creds=none')
    assert 'tls-creds=none' in d.stderr(), d.stderr()
    with t.daemon(listen='addr.type=inet,addr.host=0.0.0.0,addr.port=0',
                  extra=['--allow-plaintext']):
        pass
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        port = s.getsockname()[1]
        d = t.daemon(expect_failure=True, listen='addr.type=inet,addr.host='
                     '127.0.0.1,addr.port=%d' % port)
        assert 'in use' in d.stderr() and str(port) in d.stderr(), d.stderr()
    with t.daemon() as d:
        other = tempfile.mkdtemp(dir=t.tmp)
        e = Daemon(t.bindir, other, expect_failure=True, journal=d.journal)
        assert 'lock journal' in e.stderr(), e.stderr()
        e = Daemon(t.bindir, other, expect_failure=True, mem_path=d.img)
        assert 'lock image' in e.stderr(), e.stderr()
        c, model = t.seeded(d)
        c.close()
    # an image that went away is not made anew
    os.rename(img, img + '.away')
    d = t.daemon(expect_failure=True)
    assert 'is missing' in d.stderr(), d.stderr()
    os.rename(img + '.away', img)
    # a newer journal
    with open(os.path.join(t.tmp, 'journal'), 'r+b') as f:
        for slot in range(2):
            f.seek(slot * 4096)
            data = bytearray(f.read(4096))
            if data[:8] != b'PMHAJRNL':
                continue
            data[8] = 2
            data[4092:] = struct.pack('<I', wire.crc32c(data[:4092]))
            f.seek(slot * 4096)
            f.write(data)
    d = t.daemon(expect_failure=True)
    assert 'version 2' in d.stderr(), d.stderr()
    # not a journal
    with open(os.path.join(t.tmp, 'journal'), 'wb') as f:
        f.write(b'hello')
    d = t.daemon(expect_failure=True)
    assert 'not a journal' in d.stderr(), d.stderr()


def test_read_only_image(t):
    path = t.tmpfs(4 << 20)
    with open(os.path.join(path, 'img'), 'wb') as f:
        f.truncate(SIZE)
    subprocess.run(['mount', '-o', 'remount,ro', path], check=True)
    d = t.daemon(expect_failure=True, mem_path=os.path.join(path, 'img'))
    assert 'Read-only' in d.stderr() and path in d.stderr(), d.stderr()


def test_unreadable_image(t):
    if os.getuid():
        raise Skip('needs root to become another user')
    os.chmod(t.tmp, 0o777)
    img = os.path.join(t.tmp, 'img')
    with open(img, 'wb') as f:
        f.truncate(SIZE)
    os.chmod(img, 0)
    wrapper = os.path.join(t.tmp, 'bin')
    os.mkdir(wrapper)
    real = os.path.join(t.bindir, 'qemu-pmem-replica')
    if not shutil.which('setpriv'):
        raise Skip('setpriv is missing')
    with open(os.path.join(wrapper, 'qemu-pmem-replica'), 'w',
              encoding='utf-8') as f:
        f.write('#!/bin/sh\nexec setpriv --bounding-set=-dac_override,'
                '-dac_read_search --inh-caps=-dac_override,'
                '-dac_read_search %s "$@"\n' % shlex.quote(real))
    os.chmod(f.name, 0o755)
    d = Daemon(wrapper, t.tmp, expect_failure=True)
    assert 'Permission denied' in d.stderr() and img in d.stderr(), d.stderr()


def fill_up(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError:
        pass
    finally:
        os.close(fd)


def test_journal_disk_full(t):
    path = t.tmpfs(256 << 10)
    filler = os.path.join(path, 'filler')
    with t.daemon(journal=os.path.join(path, 'j')) as d:
        c, model = t.seeded(d)
        fill_up(filler)
        e = 4

        def until_full():
            nonlocal e
            while True:
                c.epoch(e, model.next(e, 4))
                e += 1

        expect_refused(until_full, wire.R_NO_SPACE, os.path.join(path, 'j'),
                       'No space left', kind=wire.FAIL)
        s = d.wait_status(state='disconnected', epoch=e - 1)
        assert 'No space left' in s['last-error'], s
        want = model.images[e - 1]
        os.unlink(filler)
        model.image = bytearray(want)
        with d.connect() as c2:
            assert hello(c2) == (True, 1, e - 1)
            c2.epoch(e, model.next(e, 4))
            want = model.images[e]
        p = d.promote()
        assert p['epoch'] == e
        assert d.image() == want


def test_journal_created_on_full_disk(t):
    path = t.tmpfs(64 << 10)
    fill_up(os.path.join(path, 'filler'))
    d = t.daemon(expect_failure=True, journal=os.path.join(path, 'j'))
    assert 'No space left' in d.stderr() and path in d.stderr(), d.stderr()


def test_copy_without_space(t):
    path = t.tmpfs(SIZE + SIZE // 2)
    with t.daemon(mem_path=os.path.join(path, 'img')) as d:
        c, model = t.seeded(d)
        c.send(*c.copy_messages(os.urandom(SIZE)))
        expect_refused(c.recv, wire.R_NO_SPACE, 'full copy', kind=wire.FAIL)
        d.wait_status(state='disconnected', epoch=3)
        p = d.promote()
        assert p['epoch'] == 3
        assert d.image() == model.images[3]


def test_big_epoch(t):
    """An epoch beyond journal-size; the journal shrinks again."""
    size = 8 << 20
    with t.daemon(size=size, journal_size=1 << 20) as d:
        with d.connect() as c:
            hello(c, size=size)
            block = b'\x5a' * (1 << 20)
            page = Page(0, block)
            c.send(wire.Msg(wire.COPY, 0, 1, arg0=size),
                   wire.Msg(wire.DATA, wire.ZERO, 1, 0, 0, size))
            c.epoch(1, [], completes=True)
            pages = []
            for i in range(6):
                p = Page(0, bytes(PAGE))
                p.offset, p.data, p.zero, p.crc = (i << 20, block, False,
                                                   page.crc)
                pages.append(p)
            for e in range(2, 5):
                c.epoch(e, pages)
            assert os.path.getsize(d.journal) > 6 << 20
        d.wait_status(journal_bytes=0, epoch=4)
        assert os.path.getsize(d.journal) <= (1 << 20) + 16384
        with open(d.img, 'rb') as f:
            assert f.read() == block * 6 + bytes(2 << 20)


CRASH_POINTS = (
    'journal-begin', 'journal-data', 'journal-commit', 'journal-committed',
    'journal-synced', 'journal-marked', 'ack-sent', 'apply-record',
    'apply-synced', 'super-write', 'super-synced', 'copy-start', 'copy-data',
    'copy-synced', 'copy-decided', 'copy-renamed', 'promote-decided',
    'promote-applied', 'promote-state', 'promote-unmarked',
)


def crash_once(t, spec, ack):
    """All that a replica goes through, ended at @spec; then the truth."""
    tmp = tempfile.mkdtemp(dir=t.tmp)
    model = Model(1)
    acked = begun = 0
    d = Daemon(t.bindir, tmp, env={'PMEM_HA_CRASH_AT': spec})
    try:
        if d.ready:
            with d.connect() as c:
                hello(c, ack=ack)
                begun = 1
                c.full_copy(bytes(model.image), 1, model.next(1))
                acked = 1
                for e in range(2, 6):
                    begun = e
                    c.epoch(e, model.next(e, 3))
                    acked = e
                begun = 8
                c.full_copy(bytes(model.image), 8, model.next(8))
                acked = 8
                begun = 9
                c.epoch(9, model.next(9, 3))
                acked = 9
                d.ctl('promote')
    except (Closed, ConnectionError):
        pass
    d.proc.wait(20)
    code = d.proc.returncode
    assert code == 99, (spec, code, d.stderr())
    promoted = spec.startswith('promote')

    with Daemon(t.bindir, tmp) as d2:
        s = d2.status()
        assert s['state'] not in ('damaged', 'copying'), s
        if s['state'] == 'promoted':
            assert acked == 9, (spec, s)
        else:
            assert not promoted, (spec, s)
        assert acked <= s['epoch'] <= begun, (spec, acked, begun, s)
        if s['state'] == 'empty':
            return
        p = d2.promote()
        assert acked <= p['epoch'] <= begun, (spec, acked, p)
        assert p['generation'] == 2, p
        assert d2.image() == model.images[p['epoch']], spec
        st = wire.read_state_file(p['state-file'])
        assert st['digest'] == hashlib.sha256(d2.image()).digest()
        assert st['acked'] == p['epoch'], st
        assert not os.path.exists(d2.img + '.replica')
        assert not os.path.exists(d2.img + '.copy')


def test_crash_points(t):
    for name in CRASH_POINTS:
        for nth in (1, 2, 3):
            if nth > 1 and (name.startswith('promote') or name.startswith(
                    'copy-') and name != 'copy-data' and nth > 2):
                continue
            for ack in (wire.JOURNALED, wire.APPLIED):
                try:
                    crash_once(t, '%s:%d' % (name, nth), ack)
                except subprocess.TimeoutExpired:
                    if nth == 1:
                        raise AssertionError(name + ' is never reached')


def test_kill_loop(t):
    """SIGKILL at random points while epochs stream."""
    model = Model(t.rng.random())
    acked = 0
    begun = 0
    want_copy = True
    kills = t.args.kills
    epochs = 0
    copies = 0
    for n in range(kills + 1):
        with t.daemon(journal_size=1 << 20) as d:
            s = d.status()
            assert s['state'] in ('empty', 'disconnected'), s
            assert acked <= s['epoch'] <= begun, (n, acked, begun, s)
            held = s['epoch']
            if held:
                assert d.image() == model.images[held], (n, held)
                model.image = bytearray(model.images[held])
                acked = held
            if held and n % 20 == 0:
                promote_copy(t, d, model.images[held], held)
            if n == kills:
                break
            c = d.connect()
            hello(c, ack=t.rng.randrange(3))
            delay = t.rng.random() * (0.06 if n % 2 else 0.015)
            timer = threading.Timer(delay, d.proc.kill)
            timer.start()
            e = held + 1
            got = []
            try:
                if want_copy or not held or n % 10 == 0:
                    copies += 1
                    e += 1
                    begun = e
                    c.full_copy(bytes(model.image), e, model.next(e))
                    acked = e
                    e += 1
                    want_copy = False
                while True:
                    pages = model.next(e)
                    begun = e
                    c.send(*c.epoch_messages(e, pages))
                    c.wait_ack(e)
                    acked = e
                    epochs += 1
                    e += 1
            except (Closed, ConnectionError, socket.timeout):
                pass
            try:
                got = c.drain()
            except (ConnectionError, socket.timeout):
                pass
            for m in got:
                if m.type == wire.ACK:
                    acked = max(acked, m.epoch)
            c.close()
            timer.join()
            d.kill()
    print('# %d kills, %d epochs acknowledged, %d full copies begun'
          % (kills, epochs, copies))


def promote_copy(t, d, want, epoch):
    tmp = tempfile.mkdtemp(dir=t.tmp)
    for name in ('img', 'journal'):
        shutil.copy(os.path.join(t.tmp, name), tmp)
    with Daemon(t.bindir, tmp) as d2:
        p = d2.promote()
        assert p['epoch'] == epoch, p
        assert d2.image() == want
    shutil.rmtree(tmp)


def test_tls(t):
    """Only a primary with a certificate that authz knows gets in."""
    import ssl
    if not shutil.which('openssl'):
        raise Skip('openssl is missing')

    def run(*cmd):
        subprocess.run(cmd, check=True, capture_output=True, cwd=t.tmp)

    run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days',
        '2', '-subj', '/CN=test-ca', '-keyout', 'ca.key', '-out',
        'ca-cert.pem')
    for name in ('server', 'client', 'other'):
        with open(os.path.join(t.tmp, name + '.ext'), 'w',
                  encoding='utf-8') as f:
            f.write('subjectAltName=DNS:localhost,IP:127.0.0.1\n'
                    'basicConstraints=CA:FALSE\n'
                    'keyUsage=digitalSignature,keyEncipherment\n'
                    'extendedKeyUsage=serverAuth,clientAuth\n')
        run('openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-subj',
            '/CN=' + name, '-keyout', name + '-key.pem', '-out',
            name + '.csr')
        run('openssl', 'x509', '-req', '-in', name + '.csr', '-CA',
            'ca-cert.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days',
            '2', '-extfile', name + '.ext', '-out', name + '-cert.pem')
    extra = ['--object', 'tls-creds-x509,id=tls0,endpoint=server,'
             'verify-peer=on,dir=' + t.tmp,
             '--object', 'authz-simple,id=az0,identity=CN=client',
             '--listen', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0,'
             'tls-creds=tls0,tls-authz=az0']
    with t.daemon(extra=extra) as d:
        port = int(re.search(r'127\.0\.0\.1:(\d+)', d.ready).group(1))

        def connect(name):
            ctx = ssl.create_default_context(
                cafile=os.path.join(t.tmp, 'ca-cert.pem'))
            if name:
                ctx.load_cert_chain(
                    os.path.join(t.tmp, name + '-cert.pem'),
                    os.path.join(t.tmp, name + '-key.pem'))
            c = Client(('127.0.0.1', port))
            c.sock = ctx.wrap_socket(c.sock, server_hostname='localhost')
            return c

        model = Model()
        with connect('client') as c:
            hello(c)
            c.full_copy(bytes(model.image), 1, model.next(1))
            for e in range(2, 20):
                c.epoch(e, model.next(e))
        d.wait_status(state='disconnected', epoch=19)
        for name in ('other', None):
            try:
                with connect(name) as c:
                    hello(c)
                raise AssertionError('let in: %s' % name)
            except (ssl.SSLError, Closed, ConnectionError):
                pass
        with Client(('127.0.0.1', port)) as c:
            try:
                hello(c)
                raise AssertionError('plaintext let in')
            except (Closed, ConnectionError, AssertionError) as x:
                assert 'let in' not in str(x)


def main():
    tests = {name[5:]: func for name, func in globals().items()
             if name.startswith('test_') and callable(func)}
    parser = argparse.ArgumentParser(description=__doc__)
    top = os.path.abspath(os.path.join(HERE, '..', '..'))
    parser.add_argument('--bin', default=os.environ.get(
        'PMEM_HA_BIN', os.path.join(top, 'build', 'bin')))
    parser.add_argument('--seed', type=int,
                        default=int(time.time()) % 1000000)
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('-v', '--verbose', action='store_true')
    parser.add_argument('pattern', nargs='*')
    args = parser.parse_args()
    names = [n for n in tests if not args.pattern or
             any(fnmatch.fnmatch(n, p) for p in args.pattern)]
    print('TAP version 13\n1..%d\n# seed %d' % (len(names), args.seed))
    failed = 0
    for number, name in enumerate(names, 1):
        tmp = tempfile.mkdtemp(prefix='pmem-replica-')
        ctx = Context(args, tmp)
        start = time.monotonic()
        try:
            tests[name](ctx)
            result = 'ok %d - %s' % (number, name)
        except Skip as s:
            result = 'ok %d - %s # SKIP %s' % (number, name, s)
        except Exception:
            failed += 1
            result = 'not ok %d - %s' % (number, name)
            print(''.join('# ' + line + '\n' for line in
                          traceback.format_exc().splitlines()), end='')
            print('# files kept in ' + tmp)
        ctx.cleanup()
        if not result.startswith('not') and not os.environ.get('KEEP'):
            shutil.rmtree(tmp, ignore_errors=True)
        print(result)
        if args.verbose:
            print('# %.1f s' % (time.monotonic() - start))
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
