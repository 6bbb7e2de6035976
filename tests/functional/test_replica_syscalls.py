#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-pmem-replica is killed at every system call of what it does: before the
call, after it, and between two pages of a write.  What is left must be an image of
the last epoch that was acknowledged, or of a later one that was sent whole.

    test_replica_syscalls.py [--every K] [PATTERN]

With --every K, each Kth of the calls other than recvmsg, in one of the three
ways in turn.  SEED=N gives the content and the places where a primary is cut
off.

A kill is the death of the process: what was written stays in the page cache.
Threads run side by side, so the order of calls may differ from one life to the
next; each life is counted in its own order.
"""

import os
import random
import shutil
import socket
import struct

from pmemha import Process, main, wire
from pmemha.killat import KILLED, WHERE, WRITES, Count, summary
from pmemha.lives import Files, Life
from pmemha.options import option
from pmemha.primary import (PAGE, SIZE, Fenced, Model, Page, Refused,
                            ReplicaTestCase, hello)

EVERY = option('every', 1)
SIDE_BY_SIDE = 8                # lives, of an operation that waits for a second
ENOUGH = 3                      # violations
CUTS = ('whole', 'in-first', 'in-data', 'before-commit', 'in-commit')


def image_writes(calls):
    return sum(name in (*WRITES, 'fallocate') and target == 'img'
               for name, target in calls)


def after(calls, call):
    """The calls after the first such one"""
    return calls[calls.index(call) + 1:] if call in calls else []


class Operation:
    from_start = False          # the count starts when the journal is opened
    promotes = False
    side_by_side = 1
    journal_size = None
    files = 'held'
    pages = 3

    def __init__(self, name):
        self.name = name

    def before(self, life):
        """Not counted"""

    def act(self, life):
        pass

    def done(self, calls):
        return True


class Epoch(Operation):
    """Until the epoch is in the image"""

    def __init__(self, name, ack):
        super().__init__(name)
        self.ack = ack

    def before(self, life):
        life.connect(ack=self.ack)

    def act(self, life):
        pages = life.model.next(3, self.pages)
        life.sent = 3
        life.client.epoch(3, pages)
        life.acked = 3

    def done(self, calls):
        return image_writes(calls) >= self.pages


class Idle(Epoch):
    """Until the log is empty, a second later"""

    side_by_side = SIDE_BY_SIDE

    def done(self, calls):
        synced = after(calls, ('fdatasync', 'img'))
        return ('fdatasync', 'journal') in synced


class Start(Operation):
    from_start = True

    def __init__(self, files, writes=0, promotes=False):
        super().__init__(f'start-{files}')
        self.files = files
        self.writes = writes
        self.promotes = promotes

    def done(self, calls):
        ready = any(name == 'write' and target.endswith('.log')
                    for name, target in after(calls, ('listen', 'socket')))
        return ready and image_writes(calls) >= self.writes


class Copy(Operation):
    """Until the copy has the name of the image"""

    def __init__(self, files):
        super().__init__(f'copy-over-{files}')
        self.files = files

    def before(self, life):
        life.connect()

    def messages(self, life, epoch):
        c = life.client
        return (c.copy_messages(bytes(life.model.image), 4 * PAGE) +
                c.epoch_messages(epoch, life.model.next(epoch, self.pages),
                                 completes=True))

    def act(self, life):
        messages = self.messages(life, 8)
        life.sent = 8
        life.client.send(*messages)
        life.client.wait_ack(8)
        life.acked = 8

    def done(self, calls):
        renamed = after(calls, ('rename', 'img.copy'))
        return ('fdatasync', 'journal') in renamed


class Promote(Operation):
    """While a primary sends: the second host must not miss what it is told"""

    promotes = True

    def before(self, life):
        life.connect()

    def under_way(self, life):
        """Epoch 3 acknowledged, 4 whole, 5 begun"""
        c, model = life.client, life.model
        pages = model.next(3, self.pages)
        life.sent = 3
        c.epoch(3, pages)
        life.acked = 3
        pages = c.epoch_messages(4, model.next(4, self.pages))
        life.sent = 4
        c.send(*pages, *c.epoch_messages(5, model.next(5, 2))[:2])

    def act(self, life):
        self.under_way(life)
        p = life.d.qmp.cmd('pmem-replica-promote')
        assert life.acked <= p['epoch'] <= life.sent, p
        life.read_acks()
        # R10: no ACK of what the second host does not have
        assert life.acked <= p['epoch'], (life.acked, p)


class PromoteCopying(Promote):
    def under_way(self, life):
        c = life.client
        c.send(*c.copy_messages(bytes(SIZE), 4 * PAGE)[:3])


class MakeRoom(Operation):
    """An epoch that comes when the log is longer than it should be"""

    journal_size = 1 << 20

    def before(self, life):
        c = life.connect()
        image = life.model.rng.randbytes(SIZE)
        page = Page(0, image)
        # With the headers, these are a little more than the log may hold.
        for _ in range(self.journal_size // SIZE):
            life.sent += 1
            c.epoch(life.sent, [page])
            life.acked += 1
            life.model.images[life.sent] = image
        life.model.image = bytearray(image)

    def act(self, life):
        pages = life.model.next(life.sent + 1, self.pages)
        life.sent += 1
        life.client.epoch(life.sent, pages)
        life.acked += 1

    def done(self, calls):
        acked = after(calls, ('sendmsg', 'socket'))
        return image_writes(acked) >= self.pages


class PromoteAgain(Operation):
    promotes = True
    files = 'decided'

    def act(self, life):
        life.d.qmp.cmd('pmem-replica-promote')


class CutOff(Copy):
    """
    Both sides die at once: the stream of the primary ends at any byte.  Nobody
    reads what it is told, or a peer that dies a moment later does.
    """

    def __init__(self, copied, cut):
        super().__init__('held')
        self.name = f"both-{'copy' if copied else 'epochs'}-{cut}"
        self.copied = copied
        self.cut = cut

    def before(self, life):
        life.connect()
        model, c = life.model, life.client
        if self.copied:
            self.whole = [(8, self.messages(life, 8))]
        else:
            self.whole = [(e, c.epoch_messages(e, model.next(e, self.pages)))
                          for e in (3, 4)]

    def act(self, life):
        c = life.client
        rng = random.Random(f'{life.test.seed} {self.name}')
        raw = []
        for _, messages in self.whole:
            raw.append([m.encode(c.tx_seq + n)
                        for n, m in enumerate(messages)])
            c.tx_seq += len(messages)
        *sent, last = raw
        epochs = [e for e, _ in self.whole]
        if self.cut == 'whole':
            sent.append(last)
        elif self.cut == 'before-commit':
            sent.append(last[:-1])
        else:
            n = {'in-first': 0, 'in-data': rng.randrange(1, len(last) - 1),
                 'in-commit': len(last) - 1}[self.cut]
            sent.append(last[:n] + [last[n][:rng.randrange(1, len(last[n]))]])
        if self.cut != 'whole':
            epochs.pop()
        life.sent = max([life.sent, *epochs])
        c.sock.sendall(b''.join(b''.join(part) for part in sent))
        if life.n % 2:
            c.close()
        else:
            c.sock.shutdown(socket.SHUT_WR)
            life.read_acks()

    def done(self, calls):
        return ('close', 'socket') in calls


class States:
    """The files that operations start from; each is made once"""

    def __init__(self, test):
        self.test = test
        self.model = Model(test.seed)
        self.made = {}

    def get(self, name):
        if name not in self.made:
            self.made[name] = getattr(self, name)(self.test.sub_dir())
        return self.made[name]

    def daemon(self, path, crash=None, **kw):
        return self.test.daemon_in(
            path, env={'PMEM_HA_CRASH_AT': crash} if crash else None, **kw)

    def new(self, path):
        return Files(path, self.model, 0)

    def held(self, path):
        """Epoch 2 in the image; the log is empty"""
        d = self.daemon(path)
        with d.connect() as c:
            hello(c)
            c.full_copy(bytes(self.model.image), 1, self.model.next(1))
            c.epoch(2, self.model.next(2))
        d.wait_status(journal_bytes=0, epoch=2)
        d.kill()
        return Files(path, self.model, 2)

    def on(self, path):
        """Files of `held` and their model"""
        files = self.get('held')
        files.put_back(path)
        model = Model(self.test.seed + 1)
        model.images = dict(files.model.images)
        model.image = bytearray(files.model.image)
        return model

    def with_log(self, path, crash=None):
        """A daemon, a client and a model, with epochs 3 to 5 in the log"""
        model = self.on(path)
        d = self.daemon(path, crash)
        c = d.connect()
        hello(c)
        for epoch in range(3, 6):
            c.epoch(epoch, model.next(epoch, 3))
        return d, c, model

    def not_applied(self, path):
        """
        Give back the image as it was, as if the daemon had been slow; but not
        when it was so slow that the log was emptied.
        """
        with open(os.path.join(path, 'journal'), 'rb') as f:
            supers = [f.read(4096) for _ in range(2)]
        # number of the superblock, and what is applied
        newest = max(struct.unpack_from('<Q', b, 16) +
                     struct.unpack_from('<Q', b, 72) for b in supers)
        assert newest[1] == 2, 'the daemon was idle for a second'
        shutil.copy(os.path.join(self.get('held').kept, 'img'), path)

    def log(self, path):
        """Epochs 3 to 5 in the log, the image as it was; 6 is torn"""
        d, c, model = self.with_log(path)
        c.send(*c.epoch_messages(6, model.next(6, 3))[:-1])
        c.send(wire.Msg(wire.PING, generation=c.generation))
        assert c.recv_raw().type == wire.PONG
        d.kill()
        c.close()
        self.not_applied(path)
        return Files(path, model, 5)

    def copied(self, path, point):
        """Ended while epoch 8 completes a copy"""
        model = self.on(path)
        d = self.daemon(path, point)
        image = bytes(model.image)
        with d.connect() as c:
            hello(c)
            try:
                c.full_copy(image, 8, model.next(8))
            except wire.Closed:
                pass
        assert d.wait(20) == KILLED, d.output()
        return model

    def unfinished(self, path):
        """A copy that was not decided, beside the image"""
        return Files(path, self.copied(path, 'copy-synced'), 2)

    def switched(self, path):
        """A copy that was decided and not renamed"""
        return Files(path, self.copied(path, 'copy-decided'), 8)

    def decided(self, path):
        """A promotion of which nothing but the decision was made"""
        d, c, model = self.with_log(path, 'promote-decided')
        d.qmp.start_cmd('pmem-replica-promote')
        assert d.wait(20) == KILLED, d.output()
        c.close()
        self.not_applied(path)
        return Files(path, model, 5)

    def promoted(self, path):
        d, c, model = self.with_log(path)
        d.qmp.cmd('pmem-replica-promote')
        d.kill()
        c.close()
        return Files(path, model, 5)


class Syscalls(ReplicaTestCase):
    timeout = 900

    def setUp(self):
        super().setUp()
        self.seed = self.rng.randrange(1 << 32)

    def states(self):
        return States(self)

    def plan(self, calls):
        """(N, where) for each kill, when this many calls are expected"""
        if EVERY > 1:
            rest = [n for n, (name, _) in enumerate(calls, 1)
                    if name != 'recvmsg']
            for i, n in enumerate(rest[::EVERY]):
                yield n, WHERE[i % len(WHERE)]
            return
        for where in WHERE:
            for n, (name, _) in enumerate(calls, 1):
                if where != 'part' or name in WRITES:
                    yield n, where

    def live(self, op, files, ends):
        """Lives side by side, to their end: those that were killed"""
        lives = [Life(self, op, files, n, where) for n, where in ends]
        for life in lives:
            life.begin()
        return [(life, life.finish()) for life in lives]

    def judge(self, life):
        """False: what it left breaks a promise."""
        try:
            life.judge()
        except (AssertionError, Refused, Fenced, KeyError, OSError) as e:
            kept = f'{self.sub_dir()}/files'
            os.rename(life.path, kept)
            self.diag(f'VIOLATION: {life}: {type(e).__name__}: {e}; {kept}')
            return False
        shutil.rmtree(life.path)
        return True

    def sweep(self, op, states):
        files = states.get(op.files)
        [(life, _)] = self.live(op, files, [(0, 'entry')])
        calls = life.calls
        self.assertIsNone(life.error)
        self.assertGreater(len(calls), 0)
        violations = int(not self.judge(life))
        kills = 0
        todo = list(self.plan(calls))
        n = len(calls)
        while todo and violations < ENOUGH:
            part, todo = todo[:op.side_by_side], todo[op.side_by_side:]
            for life, killed in self.live(op, files, part):
                kills += killed
                violations += not self.judge(life)
                # Another order of threads may make more calls than the first.
                if killed and life.n == n and EVERY == 1:
                    n += 1
                    todo.append((n, 'entry'))
        self.diag(f'{op.name}: {len(calls)} calls, {kills} kills, '
                  f'{violations} violations: {summary(calls)}')
        self.assertEqual(violations, 0, op.name)

    def run_all(self, *ops):
        states = self.states()
        for op in ops:
            self.sweep(op, states)

    def test_epoch(self):
        self.run_all(Epoch('epoch-received', wire.RECEIVED),
                     Epoch('epoch-journaled', wire.JOURNALED),
                     Epoch('epoch-applied', wire.APPLIED))

    def test_make_room(self):
        self.run_all(MakeRoom('make-room'))

    def test_idle(self):
        self.run_all(Idle('epoch-and-checkpoint', wire.JOURNALED))

    def test_start(self):
        self.run_all(Start('new'), Start('log', 9), Start('unfinished'),
                     Start('switched'), Start('decided', 9, promotes=True),
                     Start('promoted', promotes=True))

    def test_copy(self):
        self.run_all(Copy('new'), Copy('held'))

    def test_promote(self):
        self.run_all(Promote('promote'), PromoteCopying('promote-copying'),
                     PromoteAgain('promote-again'))

    def test_both_sides(self):
        self.run_all(*(CutOff(False, cut) for cut in CUTS),
                     *(CutOff(True, cut) for cut in CUTS))


class Tool(ReplicaTestCase):
    """What the sweep rests on: where a kill leaves a call"""

    def life(self, name, n, where):
        """A program that writes two pages at once and removes a file"""
        path = self.work.path(name)
        self.work.write(name, 'x')
        self.work.write(f'{name}.gone', '')
        code = ('import os\n'
                f'fd = os.open({path!r}, os.O_RDWR | os.O_CREAT)\n'
                'os.pwrite(fd, bytes(8192), 0)\n'
                'os.fdatasync(fd)\n'
                f'os.unlink({path!r} + ".gone")\n')
        p = self.adopt(Process(self.work, f'{name}-python',
                               ['/usr/bin/python3', '-c', code]))
        count = Count(p, (name, n, where))
        p.start()
        status = p.wait(20)
        return (status, os.path.getsize(path),
                os.path.exists(f'{path}.gone'), count.calls())

    def test_where(self):
        status, size, there, calls = self.life('all', 0, 'entry')
        self.assertEqual((status, size, there), (0, 8192, False))
        self.assertEqual([c for c, _ in calls[:4]],
                         ['openat', 'pwrite64', 'fdatasync', 'unlink'])
        for n, where, size, there in ((2, 'entry', 1, True),
                                      (2, 'part', 4096, True),
                                      (2, 'exit', 8192, True),
                                      (4, 'entry', 8192, True),
                                      (4, 'exit', 8192, False)):
            got = self.life(f'{where}{n}', n, where)
            self.assertEqual(got[:3], (KILLED, size, there), (n, where))
            self.assertEqual(len(got[3]), n)


if __name__ == '__main__':
    main()
