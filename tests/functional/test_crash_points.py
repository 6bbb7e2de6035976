#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The primary ends at each of its numbered points, alone and together with the
daemon at each of its own; what was reported as flushed is in the image that is
promoted then, and a primary that is started again goes on.

    test_crash_points.py [--seed N] [--pairs N] [--passages N] [--case N]

--pairs: of all pairs of points, so many that are drawn (0: all of them, and
more passages of the primary's points);
--passages: how many of the first passages of any point; --case: only that pair.
"""

import glob
import itertools
import os
import random
import re
import time
from collections import Counter

from pmemha import ROOT, ChannelClosed, TestCase, main
from pmemha.options import option
from pmemha.pair import (COPY, END, EPOCH, EQUAL, FLUSH, IDLE, LOSS,
                         PROMOTE, REFUSAL, START, Pair, first_dead)

SEED = option('seed', random.SystemRandom().randrange(1 << 32))
PAIRS = option('pairs', 40)
PASSAGES = option('passages', 10)
CASE = option('case', -1)
DEPTH = 200                     # passages of any point, of which some are drawn

PRIMARY = {**START, **FLUSH, **END, **IDLE, **dict.fromkeys(LOSS, 1),
           REFUSAL: 1}
DAEMON = {**COPY, **EPOCH, **PROMOTE}
# Only a migration passes this one: the test that ends the daemon there is here.
ELSEWHERE = {'taken': 'test_handover.py'}


def possible(primary, daemon):
    """A promoted replica says nothing but that, and no other does."""
    if daemon in PROMOTE:
        return primary not in LOSS or primary == 'link-lost'
    return primary != REFUSAL


# In the order that --case counts in
ALL_PAIRS = [pair for pair in itertools.product(PRIMARY, DAEMON)
             if possible(*pair)]


class Listed(TestCase):
    """The list of points in the documentation"""

    @staticmethod
    def in_sources(*patterns):
        found = set()
        for pattern in patterns:
            for path in glob.glob(os.path.join(ROOT, pattern)):
                with open(path, encoding='utf-8') as f:
                    found |= set(re.findall(
                        r'pmem_ha_crash_point\("([a-z-]+)"\)', f.read()))
        return found

    def test_list(self):
        """Each point is documented, on its side, and is used here."""
        with open(os.path.join(ROOT, 'docs', 'specs', 'pmem-ha-media.rst'),
                  encoding='utf-8') as f:
            text = f.read()
        text = text[text.index('\nCrash points\n'):]
        names = [re.findall(r'^``([a-z-]+)`` ', part, re.M)
                 for part in text.split('\nOf the primary:\n')]
        daemon, primary = map(set, names)
        self.assertEqual(len(names[0]) + len(names[1]),
                         len(daemon | primary), 'a name stands twice')
        self.assertEqual(daemon, self.in_sources(
            'tools/qemu-pmem-replica/*.c'))
        self.assertEqual(daemon, set(DAEMON) | set(ELSEWHERE))
        for name, path in ELSEWHERE.items():
            with open(os.path.join(os.path.dirname(__file__), path),
                      encoding='utf-8') as f:
                self.assertIn(f"PMEM_HA_CRASH_AT='{name}'", f.read())
        self.assertEqual(primary, self.in_sources('hw/mem/pmem-ha/*.c'))
        self.assertEqual(primary, set(PRIMARY))


class Cases(TestCase):

    count = 0

    def pair(self, rng, what, **kw):
        self.count += 1
        smp = kw.pop('smp', None) or rng.choice((1, 2, 4))
        return Pair(self, self.count, rng, smp,
                    f'{what}, seed {SEED}, smp {smp}', **kw)

    def go_on(self, p, daemon_too=False):
        """The same primary again: greeted, in sync, at work, then lost."""
        if daemon_too or not p.replica.alive:
            p.replica.kill()
            p.daemon()
        g = p.primary()
        g.qmp.poll('query-pmem-ha',
                   lambda infos: infos[0]['state'] == 'in-sync', 60)
        p.progress(3)
        found = p.verdicts()
        p.check(len(found) == 1, f'greeted {found}')
        return found[0]


class Primary(Cases):
    """The primary alone"""

    timeout = 600

    def one(self, name, nth, end, found):
        rng = random.Random(f'{SEED} {name} {nth} {end}')
        point = f'{name}:{nth}'
        p = self.pair(rng, f'{end} after {point}',
                      records=20 if name in IDLE else 0)
        p.daemon(f'{LOSS[name]}:{rng.randint(2, 10)}' if name in LOSS
                 else None)
        g = p.primary(point)
        if name in END:
            g.qmp.negotiate()
            p.progress(rng.randint(1, 20))
            g.qmp.start_cmd('quit')
        elif name in LOSS:
            p.crashed(p.replica)
            p.daemon()
        p.crashed(g)
        verdict = None
        if end == 'restart':
            verdict = self.go_on(p)
            found['equal' if verdict == EQUAL else 'copy'] += 1
            if name == 'finish-marked':
                p.check(verdict == EQUAL, 'a copy after an orderly end')
        p.destroy()
        found['records'] += p.judge()
        found['crashes'] += 1
        p.end()

    def check(self, points, ends=('promote', 'restart')):
        started = time.monotonic()
        found = Counter()
        for name in points:
            for end in ends:
                rng = random.Random(f'{SEED} {name} {end}')
                nths = {rng.randint(1, PRIMARY[name])}
                if not PAIRS:
                    nths |= {1, 2, PRIMARY[name]}
                for nth in sorted(n for n in nths if n <= PRIMARY[name]):
                    self.one(name, nth, end, found)
        self.diag(f'seed {SEED}: {found["crashes"]} crashes at '
                  f'{len(points)} points; started again: {found["equal"]} '
                  f'equal, {found["copy"]} full copies; {found["records"]} '
                  'records acknowledged, 0 lost, 0 torn; '
                  f'{time.monotonic() - started:.0f} s')

    def test_start_and_copy(self):
        self.check(START)

    def test_flush(self):
        self.check(FLUSH)

    def test_end(self):
        self.check(END)

    def test_idle(self):
        self.check(IDLE)

    def test_link_loss(self):
        self.check(LOSS)

    def test_refusal(self):
        """Promoted while it ran; started again, it is fenced."""
        p = self.pair(random.Random(SEED), REFUSAL)
        p.daemon()
        g = p.primary(REFUSAL)
        p.progress(5)
        image = p.promote()
        p.crashed(g)
        again = self.adopt(type(g)(self.work, g.cmd, name='again', smp=p.smp))
        again.argv += g.argv[g.argv.index('-object'):]
        said = again.expect_refusal()
        self.assertIn('promoted to generation 2', said)
        verdict = g.judge([image], baseline=[p.baseline])
        self.assertTrue(verdict.ok, verdict)

    def test_any_passage(self):
        """The Nth passage of any point, whichever that is"""
        found = Counter()
        drawn = random.Random(SEED).sample(range(1, DEPTH + 1),
                                           min(PASSAGES, DEPTH))
        for n in sorted(drawn):
            rng = random.Random(f'{SEED} {n}')
            p = self.pair(rng, f'passage {n}')
            p.daemon()
            p.crashed(p.primary(str(n)))
            if rng.randrange(2):
                self.go_on(p)
                found['started again'] += 1
            p.destroy()
            found['records'] += p.judge()
            p.end()
        self.diag(f'seed {SEED}: {len(drawn)} of the first {DEPTH} passages, '
                  f'{dict(found)}, 0 lost, 0 torn')


class Both(Cases):
    """Primary and daemon; one after the other, in either order"""

    timeout = 3600

    def daemon_first(self, p, primary, rng):
        """What becomes of the primary when its replica has ended"""
        p.crashed(p.replica)
        if not p.guest.alive:
            return 'both at once'
        if rng.randrange(4) == 0:
            return 'daemon, then the primary was killed'
        p.daemon()
        if primary in END:
            p.guest.qmp.negotiate()
            p.progress()
            p.guest.qmp.start_cmd('quit')
        if primary in LOSS:
            try:
                p.progress(3)
                return 'daemon, then the primary was killed'
            except ChannelClosed:
                pass
        p.crashed(p.guest)
        return 'daemon, then primary'

    def promotion_first(self, p, primary):
        """The daemon ends in a promotion that the primary learns of."""
        p.progress()
        p.check(not p.promote_may_die(), 'promoted without passing the point')
        if primary == REFUSAL:
            p.daemon()
        p.crashed(p.guest)
        return 'daemon in a promotion, then primary'

    def primary_first(self, p, daemon, rng):
        p.crashed(p.guest)
        if not p.replica.alive:
            return 'both at once'
        if daemon in PROMOTE or rng.randrange(3) == 0:
            if p.promote_may_die() or p.replica.alive:
                return 'primary, then a promotion'
            return 'primary, then daemon in a promotion'
        if rng.randrange(4) == 0:
            return 'primary, then the daemon was killed'
        p.primary(negotiate=False)
        if first_dead([p.guest, p.replica], 60) == [p.guest]:
            # It did not find the daemon that ended at its point.
            p.check(p.guest.wait(1) == 1, p.guest.output())
        p.crashed(p.replica)
        return 'primary, then daemon'

    def one(self, index):
        rng = random.Random(f'{SEED} {index}')
        primary, daemon = ALL_PAIRS[index]
        points = [f'{name}:{rng.randint(1, of[name])}'
                  for name, of in ((primary, PRIMARY), (daemon, DAEMON))]
        p = self.pair(rng, f'case {index}: primary {points[0]}, daemon '
                      f'{points[1]}', records=20 if primary in IDLE else 0)
        p.daemon(points[1])
        p.primary(points[0])
        if daemon in PROMOTE and (primary in LOSS or primary == REFUSAL):
            what = self.promotion_first(p, primary)
        else:
            if daemon in PROMOTE and primary in END:
                p.guest.qmp.negotiate()
                p.progress(rng.randint(1, 5))
                p.guest.qmp.start_cmd('quit')
            dead = first_dead([p.guest, p.replica], 60)
            p.check(dead, 'neither ended')
            what = self.daemon_first(p, primary, rng) if p.replica in dead \
                else self.primary_first(p, daemon, rng)
        p.replica.kill()
        p.destroy()
        p.daemon()
        acked = p.judge()
        p.end()
        return what, acked

    def test_pairs(self):
        started = time.monotonic()
        if CASE >= 0:
            cases = [CASE]
        elif PAIRS and PAIRS < len(ALL_PAIRS):
            cases = random.Random(SEED).sample(range(len(ALL_PAIRS)), PAIRS)
        else:
            cases = range(len(ALL_PAIRS))
        self.diag(f'seed {SEED}, {len(cases)} of {len(ALL_PAIRS)} pairs of '
                  'points')
        found, acked = Counter(), 0
        for index in cases:
            what, n = self.one(index)
            found[what] += 1
            acked += n
        for what, n in sorted(found.items()):
            self.diag(f'{n:5} {what}')
        self.diag(f'{acked} records acknowledged, 0 lost, 0 torn; '
                  f'{time.monotonic() - started:.0f} s')
        if CASE < 0:
            for what in ('daemon, then primary', 'primary, then daemon',
                         'primary, then daemon in a promotion'):
                self.assertGreater(found[what], 0, f'never: {what}')


if __name__ == '__main__':
    main()
