# SPDX-License-Identifier: GPL-2.0-or-later
"""
A bare-metal guest and its replica, each of which may end at a numbered point
(docs/specs/pmem-ha-media.rst, "Crash points"); what is left of them is judged
by the guest's oracle.
"""

import os
import re
import select

from .baremetal import BareMetal, oracle
from .lines import ChannelClosed
from .paths import scaled
from .process import ProcessDied
from .qmp import QmpError

SIZE = 8 << 20
AREA = 1 << 20                  # what vCPUs own; the rest is only copied
JOURNAL = 1 << 20               # the least that is allowed: it restarts often
CRASHED = 99                    # exit status at a crash point
EQUAL = '0'                     # verdict, of hw/mem/pmem-ha/internal.h

# Points of the primary, and how many passages there are within a test's time.
START = {'hello-sent': 1, 'welcome-received': 1, 'verdict': 1,
         'resync-begun': 1, 'resync-cleared': 1, 'resync-announced': 1,
         'resync-data-sent': 8, 'resync-data-done': 1, 'state-synced': 1}
FLUSH = {'flush-queued': 20, 'capture-begun': 20, 'dirty-taken': 20,
         'captured': 20, 'begin-sent': 20, 'data-sent': 60, 'state-write': 20,
         'state-written': 20, 'commit-sent': 20, 'ack-received': 20,
         'ack-recorded': 20, 'waiter-released': 20}
END = {'finish-begun': 1, 'finish-drained': 1, 'finish-digest': 1,
       'finish-marked': 1}
IDLE = {'ping-sent': 1, 'pong-received': 1}
# Those that want a replica that dies, and where it has to
LOSS = {'link-lost': 'journal-committed', 'epoch-put-back': 'journal-commit',
        'lost-ack-recorded': 'journal-marked'}
REFUSAL = 'refusal-received'

# The same for the daemon
COPY = {'copy-start': 1, 'copy-data': 6, 'copy-synced': 1, 'copy-decided': 1,
        'copy-renamed': 1}
EPOCH = {'journal-begin': 20, 'journal-data': 60, 'journal-commit': 20,
         'journal-committed': 20, 'journal-synced': 20, 'journal-marked': 20,
         'ack-sent': 20, 'apply-record': 40, 'apply-synced': 1,
         'super-write': 2, 'super-synced': 2}
PROMOTE = {'promote-decided': 1, 'promote-applied': 1, 'promote-state': 1,
           'promote-unmarked': 1}


def first_dead(processes, timeout):
    """Those that have ended, once one has; [] when none did in time"""
    fds = {os.pidfd_open(p.pid): p for p in processes}
    try:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        return [fds[fd] for fd, _ in poll.poll(scaled(timeout) * 1000)]
    finally:
        for fd in fds:
            os.close(fd)


class Pair:
    """One case: `what` names it, for a person who has to repeat it."""

    def __init__(self, test, tag, rng, smp, what, records=0):
        self.test = test
        self.tag = tag
        self.rng = rng
        self.smp = smp
        self.what = what
        self.cmd = f'workload=records seed={tag} width=0'
        self.records = records
        if not records and rng.randrange(4) == 3:
            self.cmd += ' every=3'
        self.back, self.state = f'p{tag}.img', f'p{tag}.state'
        self.image = f'rep{tag}.img'
        self.baseline = bytes(AREA) + rng.randbytes(SIZE - AREA)
        test.work.write(self.back, self.baseline)
        self.replica = self.guest = None
        self.guests = []

    def check(self, condition, text):
        self.test.assertTrue(condition, f'{self.what}: {text}')

    # processes

    def daemon(self, point=None):
        """The replica on its files, whatever became of the one before"""
        r = self.test.replica(f'rep{self.tag}', export='pm0', size=SIZE,
                              image=self.image,
                              journal=f'{self.image}.journal,'
                                      f'journal-size={JOURNAL}')
        if point:
            r.env = dict(os.environ, PMEM_HA_CRASH_AT=point)
        # One with a crash point may end before it answers.
        self.replica = r.start(negotiate=not point)
        return r

    def primary(self, point=None, negotiate=True):
        """The guest; the second one goes on with what the first one left."""
        n = len(self.guests)
        cmd = self.cmd
        if self.records and not n:
            cmd += f' records={self.records}'
        if n:
            verdict = self.guest.judge([self.test.work.path(self.back)],
                                       baseline=[self.baseline])
            self.check(verdict.ok, f'the backing is {verdict}')
            cmd += ' first=' + ','.join(verdict.state[c].split()[0]
                                        for c in range(self.smp))
        g = self.test.adopt(BareMetal(self.test.work, cmd, smp=self.smp,
                                      name=f'guest{self.tag}-{n}'))
        g.add('-object', f'memory-backend-file,id=mem0,size={SIZE},'
              f'mem-path={self.back},share=on',
              '-object', self.replica.object('r0'),
              '-device', 'pmem-ha,id=pm0,memdev=mem0,replica=r0,'
              f'state-file={self.state}', '-trace', 'pmem_ha_verdict')
        if point:
            g.env = dict(os.environ, PMEM_HA_CRASH_PRIMARY=point)
        self.guest = g.start(negotiate=negotiate and not point)
        self.guests.append(g)
        return g

    def crashed(self, process):
        """It has ended, or does; at its point and not otherwise"""
        status = process.wait(60)
        self.check(status == CRASHED, f'{process.name} ended with status '
                   f'{status}: {process.output()}')

    def progress(self, reports=1):
        """So many reports that are still to come"""
        with self.guest.out.cond:
            self.guest.out.cursor = len(self.guest.out.lines)
        for _ in range(reports):
            self.guest.out.wait_for(r'^A \d+ \d+$', 60)

    def verdicts(self):
        """How the last guest was greeted"""
        return re.findall(r'pmem_ha_verdict pm0: verdict (\d)',
                          self.guest.output())

    # what is left

    def acks(self):
        """All that was reported as flushed by any run"""
        acks = {}
        for g in self.guests:
            for cpu, n in g.acks().items():
                acks[cpu] = max(acks.get(cpu, 0), n)
        return acks

    def destroy(self):
        self.guest.kill()
        for name in (self.back, self.state):
            path = self.test.work.path(name)
            if os.path.exists(path):
                os.unlink(path)

    def promote(self):
        """Path of the image; None when there never was one"""
        try:
            return self.replica.qmp.cmd('pmem-replica-promote')['mem-path']
        except QmpError as e:
            self.check('no whole image' in e.desc, e.desc)
            return None

    def promote_may_die(self):
        """Whether a promotion by an armed daemon came to its end"""
        try:
            self.replica.qmp.negotiate()
            return bool(self.promote())
        except (ChannelClosed, ProcessDied, OSError):
            self.crashed(self.replica)
            return False

    def judge(self):
        """Promote what the replica has: the number of records it must hold"""
        acks = self.acks()
        image = self.promote()
        if image is None:
            self.check(not acks, f'{acks} acknowledged, and no image')
            return 0
        verdict = oracle.check(self.guest.params,
                               [self.test.work.path(image)], acks,
                               [self.baseline])
        self.check(verdict.ok, verdict)
        return sum(acks.values())

    def end(self):
        """Remove what this case took, so that a thousand fit on the disk"""
        self.guest.kill()
        self.replica.kill()
        prefixes = (f'p{self.tag}.', f'rep{self.tag}.', f'rep{self.tag}-',
                    f'guest{self.tag}-')
        for name in os.listdir(self.test.work.dir):
            if name.startswith(prefixes):
                os.unlink(self.test.work.path(name))
