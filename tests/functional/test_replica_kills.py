#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The replica is killed again and again while the guest goes on, at any moment:
during the full copy, with an epoch under way, between its journal and the
acknowledgement.  In the end the primary is lost as well, and an oracle judges
the image that was promoted.

    test_replica_kills.py [--seed N] [--kills N] [PATTERN]
"""

import os
import random
import re
from collections import Counter

from pmemha import TestCase, main, scaled
from pmemha.baremetal import BareMetal
from pmemha.options import option

SIZE = 8 << 20
# What the vCPUs own, and what is only copied
AREA = 1 << 20
# The least that is allowed: the log restarts often.
JOURNAL = 1 << 20

KILLS = option('kills', 240)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))
ROUND = 10                      # kills of a replica before its primary's

# Points of the daemon (docs/specs/pmem-ha-media.rst), and how many passages
# there are within the time of a test.
COPY_POINTS = {'copy-start': 1, 'copy-data': 6, 'copy-synced': 1,
               'copy-decided': 1, 'copy-renamed': 1}
EPOCH_POINTS = {'journal-begin': 30, 'journal-data': 90, 'journal-commit': 30,
                'journal-committed': 30, 'journal-synced': 30,
                'journal-marked': 30, 'ack-sent': 30, 'apply-record': 90,
                'apply-synced': 1, 'super-write': 2, 'super-synced': 2}

EQUAL, COPY = range(2)          # verdicts, of hw/mem/pmem-ha/internal.h


def reconnects(lines):
    """
    What became of the epoch that was under way when a replica was lost, from
    the trace of QEMU: a Counter of 'copy', 'lost ack' (the replica has that
    epoch), 'put back' (it has not), 'idle' (there was none).
    """
    found = Counter()
    captured = acked = 0
    for line in lines:
        m = re.search(r'pmem_ha_(capture|acked) pm0: epoch (\d+)', line)
        if m and m[1] == 'capture':
            captured = int(m[2])
        elif m:
            acked = int(m[2])
        m = re.search(r'pmem_ha_verdict pm0: verdict (\d+), generation (\d+) '
                      r'captured (\d+) acked (\d+), replica has generation '
                      r'(\d+) epoch (\d+)', line)
        if not m:
            continue
        verdict, _, now_captured, now_acked, _, epoch = map(int, m.groups())
        if verdict == COPY:
            found['copy'] += 1
        elif verdict != EQUAL or now_acked != epoch:
            raise AssertionError(f'verdict: {line}')
        elif captured > acked and now_acked == captured:
            found['lost ack'] += 1
        elif captured > acked and now_captured == acked:
            found['put back'] += 1
        else:
            found['idle'] += 1
        captured, acked = now_captured, now_acked
    return found


class Round:
    """A guest, and the replica that is killed under it"""

    def __init__(self, test, n, rng):
        self.test = test
        self.n = n
        self.rng = rng
        self.kills = Counter()
        self.smp = (1, 2, 4)[n % 3]
        self.replica = None
        self.name = f'round {n} of seed {SEED} (smp {self.smp})'

    def daemon(self, point=None):
        """The replica, on the same files; it may end at a crash point."""
        r = self.test.replica(f'rep{self.n}', export='pm0', size=SIZE,
                              image=f'rep{self.n}.img',
                              journal=f'rep{self.n}.journal,'
                                      f'journal-size={JOURNAL}')
        if point:
            r.env = dict(os.environ, PMEM_HA_CRASH_AT=point)
        # One with a crash point may end before it answers.
        self.replica = r.start(negotiate=not point)
        return r

    def point(self, points):
        name = self.rng.choice(list(points))
        return f'{name}:{self.rng.randint(1, points[name])}'

    def guest(self):
        """Data behind the vCPUs' areas is what the copies are about."""
        work = self.test.work
        self.image = f'p{self.n}.img'
        self.baseline = bytes(AREA) + self.rng.randbytes(SIZE - AREA)
        work.write(self.image, self.baseline)
        cmd = f'workload=records seed={self.n} width=0'
        if self.n % 4 == 3:
            cmd += ' every=3'
        g = self.test.adopt(BareMetal(work, cmd, name=f'guest{self.n}',
                                      smp=self.smp))
        g.add('-object', f'memory-backend-file,id=mem0,size={SIZE},'
              f'mem-path={self.image},share=on',
              '-object', self.replica.object('r0'),
              '-device', 'pmem-ha,id=pm0,memdev=mem0,replica=r0,'
              f'state-file=p{self.n}.state',
              '-trace', 'pmem_ha_capture', '-trace', 'pmem_ha_acked',
              '-trace', 'pmem_ha_verdict')
        self.g = g.start()

    def state(self, *names):
        """Until the device has come to one of these states"""
        self.g.qmp.poll('query-pmem-ha',
                        lambda infos: infos[0]['state'] in names, scaled(60))

    def progress(self):
        """One more report of any vCPU, of those still to come"""
        with self.g.out.cond:
            self.g.out.cursor = len(self.g.out.lines)
        self.g.out.wait_for(r'^A \d+ \d+$', 60)

    def gone(self, kind):
        self.kills[kind] += 1
        self.state('connecting', 'stalled')

    def crash(self, kind):
        status = self.replica.wait(60)
        self.test.assertEqual(status, 99, self.replica.output())
        self.gone(kind)

    def kill(self, kind):
        self.replica.kill()
        self.gone(kind)

    def during_copy(self):
        """No record is acknowledged yet, and none is before the copy is."""
        self.daemon(self.point(COPY_POINTS))
        self.guest()
        self.crash('copy')
        self.daemon()
        self.state('resync', 'in-sync', 'lagging')
        self.kill('copy or first epoch')

    def at_work(self, n):
        """After some reports, or at a point of the daemon's work"""
        if n % 2:
            self.daemon(self.point(EPOCH_POINTS))
            self.crash('point')
            return
        self.daemon()
        self.progress()
        for _ in range(int(self.rng.expovariate(1 / 10))):
            self.g.out.wait_for(r'^A \d+ \d+$', 60)
        self.kill('report')

    def run(self, kills):
        first = 0
        if self.n % 2:
            self.during_copy()
            first = 2
        else:
            self.daemon()
            self.guest()
            self.progress()
            self.kill('report')
            first = 1
        for n in range(first, kills):
            self.at_work(n)
        self.daemon()
        self.state('in-sync')
        self.progress()
        return self.end()

    def end(self):
        """Lose the primary as well; the oracle's verdict on the replica"""
        test, g, work = self.test, self.g, self.test.work
        g.kill()
        os.unlink(work.path(self.image))
        os.unlink(work.path(f'p{self.n}.state'))
        image = self.replica.qmp.cmd('pmem-replica-promote')['mem-path']
        verdict = g.judge([image], baseline=[self.baseline])
        test.assertTrue(verdict.ok, f'{self.name}: {verdict}')
        test.assertEqual(g.out.count('^(ERROR|EXCEPTION)'), 0, self.name)
        self.replica.kill()
        os.unlink(image)
        return reconnects(g.output().splitlines())


class Kills(TestCase):

    timeout = 3 * KILLS + 60

    def test_replica_kills(self):
        """Nothing that was reported is lost, however often."""
        self.diag(f'seed {SEED}, {KILLS} kills')
        found, kills, acked = Counter(), Counter(), 0
        for n in range((KILLS + ROUND - 1) // ROUND):
            r = Round(self, n, random.Random(SEED + n))
            try:
                found += r.run(ROUND)
            except AssertionError:
                self.diag(r.name)
                raise
            kills += r.kills
            acked += sum(r.g.acks().values())
        self.diag(', '.join(f'{v} {k}' for k, v in sorted(kills.items())) +
                  f': {sum(kills.values())} kills, {acked} records '
                  'acknowledged, 0 lost')
        self.diag('reconnects: ' + ', '.join(
            f'{v} {k}' for k, v in sorted(found.items())))
        # The cases of pmem_ha_judge_locked() that the kills are for
        for case in ('lost ack', 'put back', 'copy'):
            self.assertGreater(found[case], 0, f'{case} did not occur')


if __name__ == '__main__':
    main()
