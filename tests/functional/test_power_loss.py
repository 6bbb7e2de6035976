#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Loss of power at the replica's host, by enumeration.

A daemon runs under strace.  From what it wrote, synchronised and told its
primary follows each state that its files can have after a loss of power
(pmemha/powerfs.py says what is assumed), between each two syncs.  The daemon's
own code then starts on each of them and promotes, and the image must be that
of one epoch, not older than what was acknowledged.

    test_power_loss.py [--seed N] [--draw N] [--real N] [--disk 1] [PATTERN]

--draw: all states of an interval when there are at most so many, else so many
that are drawn.  --real: so many of all states are given to the daemon itself,
under strace again: power is lost a second time, while it recovers.
--disk 1: in the work directory, where the daemon may find other calls than in
/dev/shm to zero a range with.  What a sync takes away is known from the calls
alone, wherever the files are.
"""

import os
import random
import shutil
import tempfile
from collections import Counter, defaultdict

from pmemha import TestCase, main, strace, wire
from pmemha.options import option
from pmemha.powercheck import Checker, Image, judge, judge_applied
from pmemha.primary import PAGES, SIZE, Daemon, Model, hello
from pmemha.recording import JOURNAL, Recording

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
DRAW = option('draw', 64)
REAL = option('real', 1)        # for each recording
DISK = option('disk', 0)
# Of the states after a second loss of power, for each interval
DRAW_AGAIN = max(32, DRAW // 64)


TOTAL = defaultdict(Counter)


def figures(phase, n):
    return (f'{phase}: {n["intervals"]} intervals ({n["exhaustive"]} '
            f'exhaustive), {n["enumerated"]} states enumerated, {n["drawn"]} '
            f'drawn, {n["violations"]} violations' +
            (f', {n["daemons"]} daemons' if n['daemons'] else ''))


def fast_dir():
    shm = '/dev/shm'
    return shm if not DISK and os.access(shm, os.W_OK) else None


class PowerLoss(TestCase):

    timeout = 30 + DRAW

    def setUp(self):
        if not strace.STRACE:
            self.skipTest('strace is not installed')
        self.rng = random.Random(f'{SEED} {self.id()}')
        self.model = Model(self.rng.random())
        self.images = []
        self.files = tempfile.mkdtemp(prefix='pmem-ha-power-',
                                      dir=fast_dir() or self.work.dir)
        self.addCleanup(shutil.rmtree, self.files, ignore_errors=True)
        os.mkdir(os.path.dirname(os.path.join(self.files, JOURNAL)))
        self.recording = Recording(self.files)
        self.runs = 0

    # Running the daemon

    def start(self, crash=None, lives=True, inject=None, journal_size=None):
        """
        lives=False: it comes to its crash point before it serves.  inject:
        what strace makes fail; it counts for each thread on its own.
        """
        self.runs += 1
        self.trace = self.work.path(f'trace{self.runs}')
        d = self.adopt(Daemon(
            self.work, f'd{self.runs}',
            mem_path=os.path.join(self.files, 'img'),
            journal=os.path.join(self.files, JOURNAL),
            journal_size=journal_size,
            env={'PMEM_HA_CRASH_AT': crash} if crash else None))
        d.argv = strace.command(self.trace) + \
            (['-e', f'inject={inject}'] if inject else []) + d.argv
        return d.start(negotiate=lives)

    def end(self, d, status=0):
        """The run is over: by QMP, by a crash point, or by SIGKILL."""
        if status == 0:
            d.qmp.cmd('quit')
        elif status < 0:
            # Not strace, which must see it
            children = f'/proc/{d.pid}/task/{d.pid}/children'
            with open(children, encoding='ascii') as f:
                os.kill(int(f.read().split()[0]), -status)
        self.assertEqual(d.wait(20), status, d.output())
        self.recording.add(self.trace, self.work.dir, status != 0)

    # The primary

    def connect(self, d, **kw):
        """Returns the client, and the epoch that the replica has."""
        c = d.connect()
        have, _, epoch = hello(c, **kw)
        self.client = c
        self.generation = c.generation
        return epoch if have else 0

    def pages(self, epoch, count=3):
        """Content for an epoch, and what the image is with it"""
        pages = self.model.next(epoch, count)
        self.images.append(Image(self.generation, epoch,
                                 self.model.images[epoch], pages))
        return pages

    def epochs(self, *numbers, count=3):
        for e in numbers:
            self.client.epoch(e, self.pages(e, count))

    def copy(self, epoch, then=None):
        """A full copy; `then` is called before its last epoch."""
        base = bytes(self.model.image)
        self.client.send(*self.client.copy_messages(base, 4 * wire.PAGE))
        if then:
            then()
        self.client.epoch(epoch, self.pages(epoch), completes=True)

    def dies(self, d, what, *args, status=99):
        """It ends at its crash point while this is under way."""
        try:
            what(*args)
        except (wire.Closed, OSError):
            pass
        self.end(d, status)

    # The states

    def check(self, from_epoch=0, again=()):
        """again: further (interval, state) for the daemon itself"""
        intervals = [i for i in self.recording.finish()
                     if i.sent >= from_epoch]
        # Each of them is a sync that the daemon relies on.
        self.assertGreater(len(intervals), 10)
        self.assertTrue(self.recording.answered, 'no promotion was recorded')
        count = defaultdict(Counter)
        bad, sample = [], []
        # In their place: the journal names the state file by its path.
        checker = Checker(self.files, SIZE, self.work.path('checker.log'))
        self.addCleanup(checker.popen.kill)
        checker.models(self.images)
        for i in intervals:
            space = i.space
            whole = space.count <= DRAW
            choices = list(space.all()) if whole else \
                space.draw(self.rng, DRAW)
            n = count[i.phase]
            n['intervals'] += 1
            n['enumerated' if whole else 'drawn'] += len(choices)
            n['exhaustive'] += whole
            for choice, o in checker.outcomes(space, choices):
                wrong = judge(o, i, self.images)
                if wrong:
                    n['violations'] += 1
                    bad.append((i, choice, f'{wrong} ({o})'))
            sample.append((i, self.rng.choice(choices)))
        for i in self.recording.applied:
            wrong = judge_applied(i, self.images)
            count[i.phase]['violations'] += bool(wrong)
            if wrong:
                bad.append((i, (), wrong))
        for i, choice in [*again, *self.rng.sample(sample, min(REAL, len(
                sample)))]:
            self.real(checker, i, choice, count['lost again'], bad)
        self.assertEqual(checker.close(), 0)
        for phase, n in count.items():
            TOTAL[phase].update(n)
        self.report(count, bad)

    def real(self, checker, i, choice, n, bad):
        """
        The daemon itself, on one state; and power is lost again, before it has
        recovered.
        """
        for name in self.recording.files():
            os.unlink(os.path.join(self.files, name))
        for name, content in i.space.files(choice).items():
            with open(os.path.join(self.files, name), 'wb') as f:
                f.write(content)
        again = Recording(self.files, after=i)
        d = self.start()
        out = d.pmemctl('promote')
        d.qmp.cmd('quit')
        self.assertEqual(d.wait(20), 0, d.output())
        again.add(self.trace, self.work.dir)
        n['daemons'] += 1
        if out.returncode and (i.floor or 'no whole image' not in out.stderr):
            n['violations'] += 1
            bad.append((i, choice, f'the daemon: {out.stderr}'))
        for j in again.finish():
            whole = j.space.count <= DRAW_AGAIN
            choices = list(j.space.all()) if whole else \
                j.space.draw(self.rng, DRAW_AGAIN)
            n['intervals'] += 1
            n['exhaustive'] += whole
            n['enumerated' if whole else 'drawn'] += len(choices)
            for second, o in checker.outcomes(j.space, choices):
                wrong = judge(o, j, self.images)
                if wrong:
                    n['violations'] += 1
                    bad.append((i, choice, f'at first, and then {j}:'))
                    bad.append((j, second, f'{wrong} ({o})'))

    def report(self, count, bad):
        self.diag(f'seed {SEED}, {DRAW} states at most for each interval')
        for phase, n in count.items():
            self.diag(figures(phase, n))
        for i, choice, wrong in bad[:4]:
            self.diag(f'{i}: {wrong}')
            for line in i.space.describe(choice):
                self.diag('    ' + line)
        if bad:
            self.fail(f'{len(bad)} states; the first: {bad[0][0]}: '
                      f'{bad[0][2]}')


class Epochs(PowerLoss):
    """From nothing to a promotion: the first copy, epochs, a checkpoint"""

    def life(self, ack):
        d = self.start()
        self.connect(d, ack=ack)
        self.copy(1)
        self.epochs(2, 3, 4)
        d.wait_status(journal_bytes=0, epoch=4)     # the idle checkpoint
        self.epochs(5, 6, count=4)
        d.promote()
        self.end(d)
        if ack == wire.APPLIED:
            self.assertGreater(len(self.recording.applied), 4)
        self.check()

    def test_received(self):
        self.life(wire.RECEIVED)

    def test_journaled(self):
        self.life(wire.JOURNALED)

    def test_applied(self):
        self.life(wire.APPLIED)


class FirstRecords(PowerLoss):
    """
    A file whose first record was torn, and then again: what is left of the
    two together must not look like one that rots.
    """

    def torn(self, name):
        """States in which some of that record's sectors arrived, not all"""
        i = next(i for i in self.recording.intervals
                 if i.ends_with.endswith(' of ' + name) and
                 any(piece[0] == i.space.label(name)
                     for piece in i.space.pieces))
        found = {}
        for choice in i.space.all():
            content = i.space.files(choice).get(name, b'')
            found[content] = (i, choice)
        whole = max(found, key=lambda f: (len(f), len(f) - f.count(0)))
        return [found[f] for f in found if any(f) and f != whole and
                len(f) == len(whole)]

    def test_torn_twice(self):
        d = self.start()
        self.connect(d)
        self.copy(1)
        self.epochs(2)
        d.wait_status(journal_bytes=0, epoch=2)     # nothing but it is open
        d.promote()
        self.end(d)
        journal, state = self.torn(JOURNAL), self.torn('img.state')
        self.assertEqual((len(journal), len(state)), (6, 2))
        self.check(again=journal + state)


class FullLog(PowerLoss):

    def test_full_log(self):
        """The log is shortened when it is too long for the next epoch."""
        d = self.start(journal_size=1 << 20)
        self.connect(d)
        self.copy(1)
        epoch = 1
        while d.status()['journal-bytes'] <= 1 << 20:
            epoch += 1
            self.epochs(epoch, count=PAGES)
        self.epochs(epoch + 1, epoch + 2)
        d.promote()
        self.end(d)
        # Large states: those before say nothing that other tests do not.
        self.check(from_epoch=epoch)


class Restarts(PowerLoss):
    """A daemon that was killed leaves the page cache to the next one."""

    def test_replay(self):
        d = self.start('journal-committed:3')
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3)
        self.dies(d, self.epochs, 4)
        # It dies while it replays, and before the superblock of that
        for crash in ('apply-record:2', 'super-write:1'):
            self.dies(self.start(crash, lives=False), lambda: None)
        d = self.start()
        epoch = self.connect(d)
        self.assertEqual(epoch, 4, 'what was written whole is kept')
        self.epochs(5, 6)
        self.end(d, -9)
        d = self.start()
        d.promote()
        self.end(d)
        self.check()

    def test_put_back(self):
        """An epoch that was cut off comes anew, with other content."""
        d = self.start()
        self.connect(d)
        self.copy(1)
        self.epochs(2)
        for _ in range(2):
            self.client.send(
                *self.client.epoch_messages(3, self.pages(3, 4))[:-1])
            self.client.close()
            self.model.back_to(2)
            self.assertEqual(self.connect(d), 2)
        self.epochs(3, 4)
        # Again, by the end of the daemon
        self.client.send(
            *self.client.epoch_messages(5, self.pages(5, 4))[:-1])
        self.end(d, -9)
        self.model.back_to(4)
        d = self.start()
        self.assertEqual(self.connect(d), 4)
        self.epochs(5, 6)
        d.promote()
        self.end(d)
        self.check()


class Copies(PowerLoss):
    """A full copy beside an image that counts until it is complete"""

    def seeded(self, crash=None):
        d = self.start(crash)
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3)
        return d

    def test_beside_the_old_image(self):
        d = self.seeded()
        # One that is given up, and one that is not, of another generation
        self.client.send(*self.client.copy_messages(
            bytes(self.model.image))[:3])
        self.client.close()
        self.connect(d)
        self.epochs(4)
        self.client.close()
        self.connect(d, generation=3)
        self.copy(9)
        self.epochs(10, 11)
        d.promote()
        self.end(d)
        self.check()

    def test_cut_short(self):
        for n, (crash, first) in enumerate(
                (('copy-synced:1', True), ('copy-synced:1', False),
                 ('copy-decided:1', False), ('copy-renamed:1', False))):
            d = self.start(crash)
            epoch = self.connect(d)
            if not first and not epoch:
                self.fail('the image is lost')
            self.dies(d, self.copy, 10 + 10 * n)
            if n < 2:
                # Not decided: the content is made anew, under a new number
                if first:
                    d = self.seeded()
                    self.end(d, -9)
                else:
                    self.model.back_to(3)
        d = self.start()
        self.assertEqual(self.connect(d), 40)
        self.epochs(41)
        d.promote()
        self.end(d)
        self.check()


class Handovers(PowerLoss):

    def take(self, d, epoch):
        """Another primary takes the role, without a copy."""
        have = self.connect(d, take=True, instance=2, captured=epoch,
                            acked=epoch)
        self.assertEqual(have, epoch)
        self.assertEqual(self.generation, 2)

    def test_taken(self):
        d = self.start('taken')
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3)
        # Until it is known who has it, the image is that of either
        self.images += [i.of(2) for i in self.images]
        self.dies(d, self.take, d, 3)
        d = self.start()
        self.take(d, 3)
        self.epochs(4, 5)
        d.wait_status(journal_bytes=0, epoch=5)
        self.epochs(6)
        self.assertEqual(d.promote()['generation'], 3)
        self.end(d)
        self.check()


class Failures(PowerLoss):
    """Syncs that fail: what they were about is not written back later."""

    def fails(self, epoch):
        pages = self.pages(epoch, 4)
        with self.assertRaises(wire.Refused) as r:
            self.client.epoch(epoch, pages)
        self.assertEqual(r.exception.code, wire.R_IO)

    def test_of_the_journal(self):
        # At a start from nothing there are six in the main thread, and three
        # for the first copy in the connection's.
        d = self.start(inject='fdatasync:error=EIO:when=7')
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3, 4)
        self.fails(5)
        self.model.back_to(4)
        self.assertEqual(self.connect(d), 4)
        self.epochs(5, 6)
        d.promote()
        self.end(d)
        self.check()

    def test_of_the_image(self):
        d = self.start()
        self.connect(d)
        self.copy(1)
        self.epochs(2)
        self.end(d)
        # Here, one for HELLO and two for each epoch; five at a start
        d = self.start(inject='fdatasync:error=EIO:when=7')
        self.connect(d, ack=wire.APPLIED)
        self.epochs(3, 4)
        self.fails(5)
        self.assertEqual(self.connect(d, ack=wire.APPLIED), 5)
        self.epochs(6)
        d.promote()
        self.end(d)
        self.check()


class Promotions(PowerLoss):

    def test_cut_short(self):
        """It ends at each of its steps, and the next one completes it."""
        points = ('promote-decided', 'promote-applied', 'promote-state',
                  'promote-unmarked')
        d = self.start(points[0])
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3, 4)
        self.dies(d, d.pmemctl, 'promote')
        for point in points[1:]:
            d = self.start(point)
            self.dies(d, d.pmemctl, 'promote')
        d = self.start()
        d.promote()
        self.end(d)
        self.check()

    def test_under_a_copy(self):
        """The primary is within a full copy when its replica takes over."""
        d = self.start()
        self.connect(d)
        self.copy(1)
        self.epochs(2, 3)
        self.client.send(*self.client.copy_messages(
            bytes(self.model.image))[:3])
        d.wait_status(state='copying')
        d.promote()
        self.end(d)
        self.check()


if __name__ == '__main__':
    try:
        main()
    finally:
        for what, numbers in TOTAL.items():
            print('# in all,', figures(what, numbers))
