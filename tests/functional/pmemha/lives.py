# SPDX-License-Identifier: GPL-2.0-or-later
"""
A life of qemu-pmem-replica that ends at a system call, and the judgement on
what it left: files of a state that was made once, what the primary knows, and
a second life on the same files.
"""

import copy
import os
import shutil

from . import wire
from .killat import KILLED, CountedDaemon
from .lines import ChannelClosed
from .primary import Daemon, SubDir, expect_fenced, hello
from .qmp import QmpError
from .wire import Closed


class Files:
    """
    Files of an export, the model of their content, and which epochs the
    primary knows: the last acknowledged and the last sent whole.  They are kept
    aside and put back where they were made, since a journal names the path of
    a state file.
    """

    def __init__(self, path, model, acked, sent=None):
        self.home = path
        self.model = model
        self.acked = acked
        self.sent = acked if sent is None else sent
        self.kept = f'{path}.kept'
        self.put(path, self.kept)

    @staticmethod
    def put(source, target):
        shutil.rmtree(target, ignore_errors=True)
        os.mkdir(target)
        for name in os.listdir(source):
            if name.startswith(('img', 'journal')):
                shutil.copy(os.path.join(source, name), target)

    def put_back(self, path=None):
        self.put(self.kept, path or self.home)
        return path or self.home


class Life:
    """
    One run of an operation.  Its act() is that of the primary and the user;
    it keeps `acked` and `sent` true at each moment.
    """

    def __init__(self, test, op, files, n, where):
        self.test = test
        self.op = op
        self.n = n
        self.where = where
        self.path = files.put_back(test.sub_dir() if op.side_by_side > 1
                                   else None)
        self.model = copy.deepcopy(files.model)
        self.acked = files.acked
        self.sent = files.sent
        self.client = None
        self.error = None
        self.calls = []
        test.count += 1
        start = ('journal', n, where) if op.from_start else ()
        self.d = test.adopt(CountedDaemon(SubDir(self.path), f'd{test.count}',
                                          journal_size=op.journal_size,
                                          start=start))
        self.d.start(negotiate=not op.from_start)

    def __str__(self):
        at = ':'.join(self.calls[-1]) if self.calls else '-'
        return f'{self.op.name}, {self.where} of call {self.n} ({at})'

    def connect(self, **kw):
        self.client = self.d.connect()
        hello(self.client, **kw)
        return self.client

    def begin(self):
        if not self.op.from_start:
            self.op.before(self)
            self.d.count.arm(self.n, self.where)
        try:
            self.op.act(self)
        except (Closed, ChannelClosed, OSError) as e:
            self.error = e              # to be expected of one that is killed

    def finish(self):
        """True when it was killed; what it left is in self.path then, too."""
        killed, self.calls = self.d.count.until(
            lambda calls: not self.error and self.op.done(calls),
            f'end of {self} ({self.error})')
        if self.client:
            if killed:
                self.read_acks()
            self.client.close()
        if killed:
            status = self.d.wait(20)
            assert status == KILLED, (status, self.d.output())
        else:
            self.d.kill()
        return killed

    def read_acks(self):
        """What had left before the daemon died counts."""
        try:
            got = self.client.drain()
        except OSError:
            return                      # closed by this side
        fenced = False
        for m in got:
            if m.type == wire.ACK:
                assert not fenced, f'epoch {m.epoch} acknowledged after FENCED'
                self.acked = max(self.acked, m.epoch)
            fenced |= m.type == wire.FENCED

    def judge(self):
        """AssertionError: a promise is broken."""
        self.look_at_files()
        d = self.test.adopt(Daemon(SubDir(self.path), 'after'))
        d.start()
        s = d.status()
        assert s['state'] not in ('damaged', 'copying'), s
        assert self.acked <= s['epoch'] <= self.sent, (self.acked, self.sent,
                                                       s)
        promoted = s['state'] == 'promoted'
        assert not promoted or self.op.promotes, s
        if s['state'] == 'empty':
            self.refuses_promotion(d)
        if promoted:
            with d.connect() as c:
                expect_fenced(lambda: hello(c), 2)
        elif s['state'] == 'empty' or self.n % 2:
            self.go_on(d, s)
        p = d.qmp.cmd('pmem-replica-promote')
        assert p['generation'] == 2, p
        self.test.check_promoted(d, p, self.model.images, self.acked,
                                 self.sent)
        again = d.qmp.cmd('pmem-replica-promote')
        assert again == p, (p, again)
        self.test.check_promoted(d, again, self.model.images, self.acked,
                                 self.sent)
        d.kill()

    def look_at_files(self):
        """A host where no daemon runs again goes by the marker."""
        img = os.path.join(self.path, 'img')
        if not os.path.exists(img) or os.path.exists(img + '.replica'):
            return
        with open(img, 'rb') as f:
            if not any(f.read()):
                return                  # nothing came yet
        assert self.op.promotes, 'the marker is gone'
        state = wire.read_state_file(img + '.state')
        assert state, 'the marker is gone, but there is no state yet'
        epoch = state['acked']
        assert self.acked <= epoch <= self.sent, (self.acked, epoch, self.sent)
        self.test.check_given_away(img, self.model.images[epoch], epoch,
                                   img + '.state')

    def refuses_promotion(self, d):
        try:
            d.qmp.cmd('pmem-replica-promote')
        except QmpError as e:
            assert 'no whole image' in e.desc, e
            return
        raise AssertionError('promoted without an image')

    def go_on(self, d, s):
        """The primary lives on: it learns what is held, and mirrors more."""
        with d.connect() as c:
            held = hello(c)
            empty = s['state'] == 'empty'
            assert held == ((False, 0, 0) if empty else
                            (True, 1, s['epoch'])), (held, s)
            epoch = self.sent + 1
            if empty:
                c.full_copy(bytes(self.model.image), epoch,
                            self.model.next(epoch))
            else:
                self.model.back_to(s['epoch'])
                epoch = s['epoch'] + 1
                c.epoch(epoch, self.model.next(epoch, 3))
            self.acked = self.sent = epoch
