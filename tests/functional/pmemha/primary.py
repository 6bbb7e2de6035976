# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests of qemu-pmem-replica share: a primary in Python that knows what each
epoch holds, and the daemon that it talks to.
"""

import hashlib
import json
import os
import random
import re
import signal
import struct
import subprocess
import tempfile
import time
import uuid

from . import wire
from .paths import program, scaled
from .replica import Replica
from .testcase import TestCase
from .wire import PAGE, Client, Closed, Fenced, Page, Refused

PAGES = 16
SIZE = PAGES * PAGE
UUID = uuid.UUID('00000000-0000-4000-8000-0000000000a1')
LOG_BEGIN = re.compile(re.escape(struct.pack('<IH', 0x524a4850, 1)))

__all__ = ('PAGE', 'PAGES', 'SIZE', 'UUID', 'Client', 'Closed', 'Daemon',
           'Fenced', 'Model', 'Page', 'Refused', 'ReplicaTestCase',
           'expect_fenced', 'expect_refused', 'hello')


class Model:
    """What each epoch holds, and the image after each of them"""

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.image = bytearray(SIZE)
        self.images = {}
        for n in range(PAGES):
            self.image[n * PAGE:(n + 1) * PAGE] = self.content(0, n)

    def content(self, epoch, n):
        if self.rng.random() < 0.2:
            return bytes(PAGE)
        return struct.pack('<QQ', epoch, n * 1000 + self.rng.randrange(999)) \
            * (PAGE // 16)

    def next(self, epoch, count=None):
        """Content for an epoch; the same number may be made anew."""
        pages = []
        for n in self.rng.sample(range(PAGES),
                                 count or self.rng.randrange(1, 5)):
            data = self.content(epoch, n)
            self.image[n * PAGE:(n + 1) * PAGE] = data
            pages.append(Page(n * PAGE, data))
        self.images[epoch] = bytes(self.image)
        return pages

    def back_to(self, epoch):
        """What came after that epoch did not reach the replica."""
        self.image = bytearray(self.images[epoch])


class SubDir:
    """A directory within that of a test"""

    def __init__(self, path):
        self.dir = path

    def path(self, name):
        return os.path.join(self.dir, name)


class Daemon(Replica):
    """One export `pm0`; files `img` and `journal`, or as given"""

    def __init__(self, work, name, size=SIZE, mem_path=None, journal=None,
                 journal_size=None, listen=None, args=(), env=None,
                 binary=None):
        self.img = mem_path or work.path('img')
        self.journal_path = journal or work.path('journal')
        log = self.journal_path
        if journal_size:
            log += f',journal-size={journal_size}'
        super().__init__(work, name, image=self.img, size=size, journal=log,
                         listen=listen, args=args)
        if env:
            self.env = dict(os.environ, **env)
        if binary:
            self.argv[0] = binary

    def connect(self):
        # The path of a Unix socket is short; that of a checkout may not be.
        fd = os.open(self.work.dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return Client(f'/proc/self/fd/{fd}/{self.socket}')
        finally:
            os.close(fd)

    @property
    def ready(self):
        found = re.search(r'^ready:.*$', self.output(), re.M)
        return found.group(0) if found else ''

    def stop(self):
        self.signal(signal.SIGTERM)
        status = self.wait(20)
        assert status == 0, (status, self.output())

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if not self.alive:
            return
        if kind:
            self.kill()
        else:
            self.stop()

    def pmemctl(self, *args, socket=None):
        """As a user would call it: status, stdout, stderr"""
        return subprocess.run(
            [program('PMEMCTL'), *args, '--socket', socket or self.ctl_socket],
            cwd=self.work.dir, capture_output=True, text=True,
            timeout=scaled(60), check=False)

    def status(self):
        return self.qmp.cmd('query-pmem-replica')[0]

    def wait_status(self, **want):
        want = {k.replace('_', '-'): v for k, v in want.items()}
        end = time.monotonic() + scaled(20)
        while True:
            s = self.status()
            if all(s.get(k) == v for k, v in want.items()):
                return s
            assert time.monotonic() < end, (want, s)

    def promote(self, *args):
        out = self.pmemctl('promote', '--output', 'json', *args)
        assert out.returncode == 0, out.stderr
        return json.loads(out.stdout)

    def content(self):
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


class ReplicaTestCase(TestCase):
    count = 0

    def setUp(self):
        seed = int(os.environ.get('SEED', time.time_ns() % 1000000))
        self.rng = random.Random(seed)
        self.diag(f'SEED={seed}')

    def sub_dir(self):
        return tempfile.mkdtemp(dir=self.work.dir)

    def daemon_in(self, path, expect_failure=False, wait=True, **kw):
        self.count += 1
        work = SubDir(path) if path else self.work
        d = self.adopt(Daemon(work, f'd{self.count}', **kw))
        d.start(negotiate=wait and not expect_failure)
        if expect_failure:
            status = d.wait(20)
            assert status == 1 and not d.ready, (status, d.output())
        return d

    def daemon(self, **kw):
        return self.daemon_in(None, **kw)

    def seeded(self, d, epochs=3, **kw):
        """An export that holds a few epochs; a client and its model"""
        model = Model(self.rng.random())
        c = d.connect()
        hello(c, **kw)
        c.full_copy(bytes(model.image), 1, model.next(1))
        for e in range(2, epochs + 1):
            c.epoch(e, model.next(e))
        return c, model

    def log_up_to(self, last):
        """An image at epoch 2, and epochs 3 to `last` in the log; killed"""
        with self.daemon() as d:
            c, model = self.seeded(d, 2)
            c.close()
            d.wait_status(journal_bytes=0, epoch=2)
            with d.connect() as c:
                hello(c)
                for e in range(3, last + 1):
                    c.epoch(e, model.next(e, 3))
                d.kill()
        return model

    def rot(self, n):
        """Flip a byte of the nth epoch in the log."""
        with open(self.work.path('journal'), 'r+b') as f:
            data = f.read()
            at = [m.start() for m in LOG_BEGIN.finditer(data)][n] + 100
            f.seek(at)
            f.write(bytes([data[at] ^ 0xff]))

    def check_promoted(self, d, p, images, acked, sent):
        """
        What promotion gave: the image of an epoch that was sent, none older
        than what was acknowledged, and a state file that proves it.
        """
        assert acked <= p['epoch'] <= sent, (acked, sent, p)
        self.check_given_away(d.img, images[p['epoch']], p['epoch'],
                              p['state-file'])
        assert not os.path.exists(d.img + '.copy')

    def check_given_away(self, img, want, epoch, state_file):
        """An image without its marker: what the second host goes by"""
        with open(img, 'rb') as f:
            content = f.read()
        assert content == want, f'{img} is not that of epoch {epoch}'
        state = wire.read_state_file(state_file)
        assert state, f'{state_file} has no record'
        assert state['digest'] == hashlib.sha256(content).digest(), state
        assert state['acked'] == epoch and state['clean'], state
        assert not os.path.exists(img + '.replica')

    def tmpfs(self, size):
        """A small file system of its own"""
        path = self.sub_dir()
        if os.getuid() or subprocess.run(
                ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', path],
                check=False, capture_output=True).returncode:
            self.skipTest('mounting a small tmpfs needs root')
        self.addCleanup(subprocess.run, ['umount', '-l', path], check=False)
        return path
