#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The replica is silent or gone, and each vCPU waits in a flush: whatever an
operator does is answered within five seconds, and the guest goes on when the
replica is back.

    test_link_down.py [--count ROUNDS] [--seed N] [PATTERN]
"""

import collections
import itertools
import random
import signal
import time

from pmemha import TestCase, main, scaled
from pmemha.baremetal import BASE, HINT, HINT_STRIDE, BareMetal
from pmemha.gdb import Gdb
from pmemha.options import option
from pmemha.vnc import VncClient

SIZE = 8 << 20
COUNT = option('count', 50)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))

ANSWER = 5              # seconds
SCREEN = (160, 120)
CONFIGS = list(itertools.product((1, 2, 4), (1, 2), ('stop', 'kill')))


class Outage:
    """One guest, its replicas, and what is done while they are away"""

    def __init__(self, test, n, smp, devices, how, rng):
        self.test = test
        self.smp = smp
        self.devices = devices
        self.how = how
        self.rng = rng
        self.slowest = collections.Counter()
        self.name = f'{n}: smp {smp}, {devices} device(s), replica {how}'
        self.rep = [test.replica(f'rep{n}-{i}', export=f'pm{i}', size=SIZE,
                                 image=f'rep{n}-{i}.img').start()
                    for i in range(devices)]
        self.g = self.guest(n)
        self.g.start()
        # The guest's reset is one of the things tried.
        self.g.qmp.cmd('set-action', reboot='reset')
        self.screen()
        self.vnc = VncClient(test.work, f'vnc{n}.sock')
        test.addCleanup(self.vnc.close)
        self.gdb_socket = f'gdb{n}.sock'
        self.wait_progress()

    def guest(self, n):
        bases = ','.join(f'{BASE + SIZE * i:#x}' for i in range(self.devices))
        hints = ','.join(f'{HINT + HINT_STRIDE * i:#x}'
                         for i in range(self.devices))
        work = self.test.work
        g = self.test.adopt(BareMetal(
            work, f'workload=stalltest think=20000 devs={self.devices} '
            f'base={bases} hint={hints}', name=f'guest{n}', smp=self.smp))
        self.qtest = g.qtest()
        g.add('-qtest-log', 'none', '-device', 'VGA,romfile=',
              '-device', 'qemu-xhci,id=xhci',
              '-vnc', f'unix:vnc{n}.sock',
              '-gdb', f'unix:gdb{n}.sock,server=on,wait=off')
        for i, r in enumerate(self.rep):
            work.sparse(f'p{n}-{i}.img', SIZE)
            g.add('-object', f'memory-backend-file,id=mem{i},size={SIZE},'
                  f'mem-path=p{n}-{i}.img,share=on',
                  '-object', r.object(f'r{i}'),
                  '-device', f'pmem-ha,id=pm{i},memdev=mem{i},replica=r{i},'
                  f'state-file=p{n}-{i}.state')
        return g

    def screen(self):
        """
        A graphics mode: in text mode a refresh does not read the dirty log.
        The guest has no driver, so its ports are written from outside.
        """
        for index, value in ((4, 0), (1, SCREEN[0]), (2, SCREEN[1]), (3, 32),
                             (4, 0x41)):
            self.qtest.ask(f'outw 0x1ce {index:#x}')
            self.qtest.ask(f'outw 0x1cf {value:#x}')
        self.qtest.ask('inb 0x3da')
        self.qtest.outb(0x3c0, 0x20)

    # what is waited for

    def infos(self):
        return self.g.qmp.cmd('query-pmem-ha')

    def status(self):
        return self.g.qmp.cmd('query-status')['status']

    def mark(self):
        """Events and lines from here on"""
        return len(self.g.qmp.events), len(self.g.out.lines)

    def wait_event(self, mark, what, match=lambda data: True):
        qmp = self.g.qmp

        def look():
            return next((e for e in qmp.events[mark[0]:] if e['event'] == what
                         and match(e.get('data', {}))), None)

        return qmp.wait(look, ANSWER, f'event {what}')

    def wait_progress(self, mark=(0, 0), timeout=20):
        """Each vCPU finished another flush, or two with two devices."""
        def look():
            seen = collections.Counter(
                text.split()[1] for _, text in self.g.out.lines[mark[1]:]
                if text.startswith('T '))
            return len(seen) == self.smp and \
                min(seen.values()) > self.devices or None
        self.g.out.wait(look, timeout, 'flush of each vCPU')

    def wait_blocked(self):
        self.g.qmp.poll('query-pmem-ha', lambda infos: sum(
            i['flushes-waiting'] for i in infos) == self.smp, scaled(20))

    def wait_stalled(self, mark):
        """Event, run state and device agree."""
        event = self.wait_event(mark, 'PMEM_HA_STATE',
                                lambda d: d['state'] == 'stalled')
        self.g.qmp.poll('query-status',
                        lambda s: s['status'] == 'io-error', scaled(ANSWER))
        self.test.assertIn('stalled', [i['state'] for i in self.infos()])
        return event

    # the link

    def down(self, which):
        for i in which:
            if self.how == 'stop':
                self.rep[i].signal(signal.SIGSTOP)
            else:
                self.rep[i].kill()

    def up(self, which):
        for i in which:
            if self.how == 'stop':
                self.rep[i].signal(signal.SIGCONT)
            else:
                old = self.rep[i]
                self.rep[i] = self.test.replica(
                    old.name, export=old.export, size=SIZE,
                    image=old.image).start()

    # what an operator does

    def timed(self, name, function, *args, **kw):
        start = time.monotonic()
        function(*args, **kw)
        took = time.monotonic() - start
        self.slowest[name] = max(self.slowest[name], took)
        self.test.assertLess(took, scaled(ANSWER), name)

    def queries(self):
        for command in ('query-pmem-ha', 'query-status', 'query-cpus-fast',
                        'query-memory-devices', 'query-block', 'query-vnc',
                        'query-hotpluggable-cpus'):
            self.g.qmp.raw_cmd(command, timeout=ANSWER)
        for command in ('info pmem-ha', 'info mtree -f', 'info pic'):
            self.g.hmp(command, ANSWER)

    def registers(self):
        text = self.g.hmp('info registers -a', ANSWER)
        self.test.assertEqual(text.count('RIP='), self.smp)

    def plug(self):
        mark = self.mark()
        self.g.qmp.cmd('device_add', ANSWER, driver='usb-mouse', id='mouse',
                       bus='xhci.0')
        self.g.qmp.cmd('device_del', ANSWER, id='mouse')
        self.wait_event(mark, 'DEVICE_DELETED',
                        lambda d: d.get('device') == 'mouse')

    def debugger(self):
        """Halts and continues a guest that runs or is paused"""
        gdb = Gdb(self.test.work, self.gdb_socket, ANSWER)
        try:
            self.test.assertIn(gdb.ask('?')[0], 'TS')
            self.test.assertGreater(len(gdb.ask('g')), 16 * 16)
            self.test.assertEqual(len(gdb.ask(f'm{BASE:x},8')), 16)
            gdb.send('c')
            # It may have stalled before the interrupt arrives.
            gdb.interrupt()
            self.test.assertGreater(len(gdb.ask('g')), 16 * 16)
            gdb.detach()
        finally:
            gdb.close()

    def redraw(self):
        # A screen that changes is refreshed every 30 ms, else every 3 s.
        self.qtest.writel(0xa0000, self.rng.getrandbits(32))
        self.vnc.wait_updates(2, ANSWER)

    def stop_cont(self):
        self.timed('stop', self.g.qmp.cmd, 'stop', ANSWER)
        self.test.assertNotEqual(self.status(), 'running')
        self.timed('cont', self.g.qmp.cmd, 'cont', ANSWER)

    def poke(self):
        """Everything but reset and quit, in any order"""
        todo = [
            ('info registers', self.registers),
            ('inject-nmi', lambda: self.g.qmp.cmd('inject-nmi', ANSWER)),
            ('query-*', self.queries),
            ('device_add/del', self.plug),
            ('gdb', self.debugger),
            ('vnc', self.redraw),
            ('stop, cont', self.stop_cont),
        ]
        self.rng.shuffle(todo)
        for name, function in todo:
            self.timed(name, function)

    def reset(self):
        mark = self.mark()

        def command():
            self.g.qmp.cmd('system_reset', ANSWER)
            self.wait_event(mark, 'RESET')
        self.timed('system_reset', command)
        if self.status() == 'prelaunch':        # it was paused
            self.g.qmp.cmd('cont', ANSWER)
        self.screen()
        self.g.out.wait(lambda: any(
            text.startswith('BOOT') for _, text in
            self.g.out.lines[mark[1]:]) or None, ANSWER, 'BOOT')
        self.wait_blocked()

    # a round

    def choose(self, n):
        """Both devices, or one of them"""
        if self.devices == 2 and n % 3:
            return [n % 3 - 1]
        return list(range(self.devices))

    def round(self, n):
        which = self.choose(n)
        mark = self.mark()
        self.down(which)
        self.wait_blocked()
        blocked = time.monotonic()
        quiet = n % 2 == 0
        if not quiet:
            self.poke()                         # the guest counts as running
            if n % 4 == 1:
                self.reset()
        event = self.wait_stalled(mark)
        if quiet:
            waited = event['arrived'] - blocked
            self.test.assertGreater(waited, 0.5, 'paused too early')
            self.slowest['stall'] = max(self.slowest['stall'], waited)
        self.poke()                             # the guest is paused
        if n % 4 == 2:
            self.reset()
        flushes = sum(i['flushes'] for i in self.infos())
        mark = self.mark()
        self.up(which)
        self.g.qmp.poll('query-pmem-ha', lambda infos: all(
            i['state'] == 'in-sync' for i in infos), scaled(20))
        self.g.qmp.poll('query-status',
                        lambda s: s['status'] == 'running', scaled(20))
        self.wait_progress(mark)
        self.g.qmp.poll('query-pmem-ha', lambda infos: sum(
            i['flushes'] for i in infos) > flushes + self.smp, scaled(20))

    def finish(self, stalled):
        """quit is answered too."""
        which = list(range(self.devices))
        mark = self.mark()
        self.down(which)
        self.wait_blocked()
        if stalled:
            self.wait_stalled(mark)
        self.test.assertEqual(self.g.out.count('^(ERROR|EXCEPTION)'), 0)

        def quit_():
            self.test.assertEqual(self.g.quit(ANSWER), 0)
        self.timed('quit', quit_)
        for r in self.rep:
            r.kill()


class LinkDown(TestCase):

    timeout = 60 + 12 * COUNT

    def test_operator(self):
        """Rounds are shared out to the configurations."""
        self.diag(f'--seed {SEED}, {COUNT} rounds')
        rng = random.Random(SEED)
        configs = CONFIGS[:]
        rng.shuffle(configs)
        slowest = collections.Counter()
        done = 0
        for n, config in enumerate(configs):
            rounds = COUNT * (n + 1) // len(configs) - done
            if not rounds:
                continue
            o = Outage(self, n, *config, rng)
            for i in range(rounds):
                try:
                    o.round(i)
                except AssertionError:
                    self.diag(f'round {i} of configuration {o.name}')
                    raise
            o.finish(stalled=n % 2 == 0)
            done += rounds
            slowest |= o.slowest
        self.assertEqual(done, COUNT)
        self.diag('slowest answer in ms: ' + ', '.join(
            f'{name} {took * 1000:.0f}' for name, took in
            sorted(slowest.items())))


if __name__ == '__main__':
    main()
