#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A guest that flushes moves to another QEMU, by each way that there is, and its
mirror goes with it: docs/devel/pmem-ha-handover.rst.

    test_handover.py [--seed N] [--rounds N] [PATTERN]
"""

import os
import random
import signal
import socket
import threading
from collections import Counter

from pmemha import ChannelClosed, main, scaled
from pmemha.options import option
from pmemha.migrate import CMD, SIZE, MigrationTest, set_caps, set_params

ROUNDS = option('rounds', 16)
SEED = option('seed', random.SystemRandom().randrange(1 << 32))


class Matrix(MigrationTest):
    """Each way: same memory, no copy, nothing lost"""

    def move(self, src, dst, uri='unix:dst.mig'):
        self.migrate(src, uri)
        self.wait_migration(dst)
        self.assertEqual(self.pmem_ha(src)['role'], 'handed-over')
        self.assertEqual(self.pmem_ha(dst)['role'], 'incoming')
        self.assertEqual(self.digest(src), self.digest(dst))
        before = self.pmem_ha(dst)['wire-bytes']
        dst.qmp.cmd('cont')
        info = self.wait_info(dst, role='primary', state='in-sync')
        self.assertEqual(info['generation'], 2)
        self.runs(dst)
        self.assertEqual(self.verdicts(dst), ['0'])
        # Less than a copy, even with what the guest flushed since.
        self.assertLess(self.pmem_ha(dst)['wire-bytes'] - before, 8 << 20)
        self.assertEqual(self.judge()['generation'], 3)

    def test_precopy(self):
        src, dst = self.source(), self.destination()
        self.move(src, dst)

    def test_multifd(self):
        src, dst = self.source(), self.destination(uri='defer')
        for g in (src, dst):
            set_caps(g, multifd=True)
            set_params(g, multifd_channels=2)
        dst.qmp.cmd('migrate-incoming', uri='tcp:127.0.0.1:0')
        address = dst.qmp.poll('query-migrate',
                               lambda i: i.get('socket-address'), 20)
        port = address['socket-address'][0]['port']
        self.move(src, dst, f'tcp:127.0.0.1:{port}')

    def file(self, **caps):
        src = self.source()
        set_caps(src, **caps)
        self.migrate(src, 'file:guest.file')
        dst = self.destination(uri='defer')
        set_caps(dst, **caps)
        dst.qmp.cmd('migrate-incoming', uri='file:guest.file')
        self.wait_migration(dst)
        self.assertEqual(self.digest(src), self.digest(dst))
        return src, dst

    def test_mapped_ram(self):
        _, dst = self.file(mapped_ram=True)
        dst.qmp.cmd('cont')
        self.runs(dst)
        self.assertEqual(self.verdicts(dst), ['0'])
        self.judge()

    def test_mapped_ram_multifd(self):
        _, dst = self.file(mapped_ram=True, multifd=True)
        dst.qmp.cmd('cont')
        self.runs(dst)
        self.judge()

    def test_file_of_a_guest_that_went_on(self):
        """It must not replace what was flushed since."""
        src, dst = self.file()
        acks = src.acks()
        src.qmp.cmd('cont')
        self.runs(src)
        dst.qmp.cmd('cont')
        self.wait_info(dst, state='fenced')
        dst.qmp.poll('query-status', lambda s: not s['running'], scaled(20))
        self.runs(src)
        self.says_nothing_new(dst, acks)
        self.judge()

    def test_file_twice(self):
        src, dst = self.file()
        dst.qmp.cmd('cont')
        self.runs(dst)
        again = self.destination(uri='file:guest.file', name='again',
                                 paused=False)
        self.wait_info(again, state='fenced')
        self.runs(dst)
        self.says_nothing_new(again, src.acks())
        self.judge()

    def test_there_and_back(self):
        """Each hop is a generation; the history stays right."""
        g = self.source()
        for n in range(12):
            nxt = self.destination(name=f'hop{n}', paused=False)
            self.migrate(g, f'unix:hop{n}.mig')
            self.runs(nxt, 3)
            self.assertEqual(self.pmem_ha(nxt)['generation'], n + 2)
            self.assertEqual(g.quit(), 0)
            g = nxt
        self.assertEqual(self.judge()['generation'], 14)

    def test_async(self):
        src = self.source(props=',mode=async')
        dst = self.destination(props=',mode=async', paused=False)
        self.migrate(src)
        self.runs(dst)
        # An end in order takes all to the replica.
        self.assertEqual(dst.quit(), 0)
        self.judge()

    def test_after_a_copy(self):
        """The destination's own backing holds what the guest stored."""
        src, dst = self.source(), self.destination(paused=False)
        self.migrate(src)
        self.runs(dst)
        self.assertEqual(dst.quit(), 0)
        again = self.guest('dst2')
        os.rename(self.work.path('dst.img'), self.work.path('dst2.img'))
        os.rename(self.work.path('dst.state'), self.work.path('dst2.state'))
        again.add('-S').start()
        self.wait_info(again, state='in-sync')
        self.assertEqual(self.verdicts(again), ['0'])
        again.kill()
        self.judge()


class Role(MigrationTest):
    """Cancelled, failed and killed at each phase: who has the role then"""

    def test_cancel_while_active(self):
        src = self.source()
        set_params(src, max_bandwidth=1 << 20)
        dst = self.destination()
        src.qmp.cmd('migrate', uri='unix:dst.mig')
        src.qmp.poll('query-migrate', lambda i: i.get('status') == 'active',
                     scaled(20))
        src.qmp.cmd('migrate_cancel')
        self.wait_migration(src, 'cancelled')
        self.runs(src)
        self.assertEqual(self.pmem_ha(src)['generation'], 1)
        dst.kill()
        self.judge()

    def test_cancel_before_switchover(self):
        src = self.source()
        set_caps(src, pause_before_switchover=True)
        self.destination()
        src.qmp.cmd('migrate', uri='unix:dst.mig')
        src.qmp.poll('query-migrate', lambda i: i.get('status') ==
                     'pre-switchover', scaled(30))
        src.qmp.cmd('migrate_cancel')
        self.wait_migration(src, 'cancelled')
        self.runs(src)
        self.assertEqual(self.pmem_ha(src)['generation'], 1)
        self.judge()

    def sink(self, name, size):
        """A destination that takes in so much, and is lost"""
        s = socket.socket(socket.AF_UNIX)
        s.bind(f'{self.work.dir}/{name}')
        s.listen(1)
        got = []
        end = threading.Event()

        def run():
            c, _ = s.accept()
            c.settimeout(0.1)
            while (size is None or sum(got) < size) and not end.is_set():
                try:
                    n = len(c.recv(1 << 16))
                except TimeoutError:
                    continue
                got.append(n)
                if not n:
                    break
            c.close()

        t = threading.Thread(target=run, daemon=True)
        t.start()
        self.addCleanup(s.close)
        return t, got, end

    def test_destination_lost_at_each_part(self):
        """
        The stream is cut at drawn places, up to its end: with a return path
        the source goes on by itself.
        """
        src = self.source()
        set_caps(src, return_path=True)
        t, got, end = self.sink('probe', None)
        src.qmp.cmd('migrate', uri='unix:probe')
        # It waits for an answer that never comes, with all that it had said.
        src.qmp.poll('query-migrate', lambda i: i.get('status') == 'device',
                     scaled(60))
        self.wait_info(src, role='handed-over')
        # Not by migrate_cancel: QEMU shuts the return path down before it says
        # that it cancels, so the migration may as well have failed.
        end.set()
        self.wait_migration(src, 'failed')
        t.join(scaled(20))
        self.runs(src)
        generation = self.pmem_ha(src)['generation']
        self.assertEqual(generation, 2)
        whole = sum(got)
        gave = 0
        for n, part in enumerate((0.0, 0.3, 0.9, 0.99, 0.999, 0.9999, 0.99999,
                                  1.0)):
            _, _, end = self.sink(f'cut{n}', int(whole * part))
            src.qmp.cmd('migrate', uri=f'unix:cut{n}')
            # This stream may be shorter: then it is cut behind its end.
            info = src.qmp.poll(
                'query-migrate', lambda i: i.get('status') == 'failed' or
                (i.get('status') == 'device' and
                 self.pmem_ha(src)['role'] == 'handed-over'), scaled(30))
            end.set()
            self.wait_migration(src, 'failed')
            self.assertIn(info['status'], ('failed', 'device'))
            src.qmp.poll('query-status', lambda s: s['running'], scaled(20))
            self.runs(src, 5)
            now = self.pmem_ha(src)['generation']
            self.assertIn(now - generation, (0, 1))
            gave += now - generation
            generation = now
        self.diag(f'stream of {whole} bytes cut at 8 places: the role was '
                  f'handed over and came back {gave} times')
        self.judge()

    def test_destination_killed_before_it_runs(self):
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        dst.kill()
        self.assertEqual(self.pmem_ha(src)['role'], 'handed-over')
        src.qmp.cmd('cont')
        self.runs(src)
        self.assertEqual(self.pmem_ha(src)['generation'], 2)
        self.judge()

    def test_both_go_on(self):
        """The first has the role; the other acknowledges nothing."""
        for first in (0, 1):
            with self.subTest(first):
                self.anew(first)
                src, dst = self.source(), self.destination()
                self.migrate(src)
                self.wait_migration(dst)
                pair = (src, dst) if first == 0 else (dst, src)
                pair[0].qmp.cmd('cont')
                self.runs(pair[0])
                pair[1].qmp.cmd('cont')
                self.wait_info(pair[1], state='fenced')
                pair[1].qmp.poll('query-status', lambda s: not s['running'],
                                 scaled(20))
                acks = pair[1].acks()
                self.runs(pair[0])
                self.assertEqual(pair[1].acks(), acks)
                self.judge()

    def test_source_killed(self):
        """Before the section: the replica has all; after it: go on there."""
        src, dst = self.source(), self.destination()
        set_params(src, max_bandwidth=1 << 20)
        src.qmp.cmd('migrate', uri='unix:dst.mig')
        src.qmp.poll('query-migrate', lambda i: i.get('status') == 'active',
                     scaled(20))
        self.runs(src, 5)
        src.kill()
        self.judge()
        del dst

    def test_source_killed_after(self):
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        src.kill()
        dst.qmp.cmd('cont')
        self.runs(dst)
        self.judge()

    def test_source_quits(self):
        """It sends no last epoch: the role is not its own any more."""
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        self.assertEqual(src.quit(), 0)
        self.assertNotIn('does not have', src.output())
        dst.qmp.cmd('cont')
        self.runs(dst)
        # Its files are those of an ended generation.
        again = self.guest('src2')
        os.rename(self.work.path('src.img'), self.work.path('src2.img'))
        os.rename(self.work.path('src.state'), self.work.path('src2.state'))
        said = again.expect_refusal()
        self.assertIn('was promoted to generation 2', said)
        self.judge()

    def test_source_started_again(self):
        """By an operator, from its files, as if there was no migration"""
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        src.kill()
        again = self.guest('again', cmd=f'{CMD} area=32')
        for what in ('img', 'state'):
            os.rename(self.work.path(f'src.{what}'),
                      self.work.path(f'again.{what}'))
        self.touch('again')
        again.start()
        again.out.wait_for('^A 0 20$', 60)
        self.guests.remove(src)
        self.guests.remove(again)
        dst.qmp.cmd('cont')
        self.wait_info(dst, state='failed')
        self.assertIn('what was handed over is epoch',
                      self.pmem_ha(dst)['last-error'])
        again.out.wait_for('^A 0 ', 60)
        self.assertEqual(self.pmem_ha(again)['state'], 'in-sync')

    def touch(self, name):
        """A renamed file has changed; the state file says when for sure."""
        os.utime(self.work.path(f'{name}.state'))

    def test_welcome_lost(self):
        """The replica ends after it gave the role, before it says so."""
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        self.r.kill()
        self.r = self.replica('back', size=SIZE, listen=self.r.address)
        self.r.env = dict(os.environ, PMEM_HA_CRASH_AT='taken')
        self.r.start()
        dst.qmp.cmd('cont')
        self.assertEqual(self.r.wait(20), 99)
        self.r = self.replica('back2', size=SIZE, listen=self.r.address)
        self.r.start()
        self.runs(dst)
        self.assertEqual(self.pmem_ha(dst)['generation'], 2)
        src.qmp.cmd('cont')
        self.wait_info(src, state='fenced')
        self.judge()

    def test_promoted_meanwhile(self):
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        self.r.ctl('promote')
        for g in (dst, src):
            g.qmp.cmd('cont')
            self.wait_info(g, state='fenced')
        self.judge()

    def test_replica_away_when_it_runs(self):
        src, dst = self.source(), self.destination()
        self.migrate(src)
        self.wait_migration(dst)
        self.r.kill()
        dst.qmp.cmd('cont')
        self.wait_info(dst, state='stalled')
        self.r = self.replica('back', size=SIZE, listen=self.r.address)
        self.r.start()
        self.runs(dst)
        self.judge()


class Kill(MigrationTest):
    """
    Either end is killed when so many bytes of the stream have passed: of all
    of it, or after the head of the section of our device.
    """

    timeout = 900

    def proxy(self, name, to, size, victim, mark=b''):
        """
        Pass on what comes up to `mark`, and `size` bytes more; then kill.
        Returns the thread and [bytes that were passed].
        """
        s = socket.socket(socket.AF_UNIX)
        s.bind(f'{self.work.dir}/{name}')
        s.listen(1)
        self.addCleanup(s.close)
        passed = [0]

        def back(src, dst):
            try:
                while data := src.recv(1 << 16):
                    dst.sendall(data)
            except OSError:
                pass

        def run():
            a, _ = s.accept()
            b = socket.socket(socket.AF_UNIX)
            b.connect(f'{self.work.dir}/{to}')
            threading.Thread(target=back, args=(b, a), daemon=True).start()
            left = None if mark else size
            seen = b''
            try:
                while left != 0:
                    # In small steps: the mark may be anywhere in them.
                    data = a.recv(min(512, left or 512))
                    if not data:
                        break
                    b.sendall(data)
                    passed[0] += len(data)
                    if left is not None:
                        left -= len(data)
                        continue
                    seen = seen[-len(mark):] + data
                    if mark in seen:
                        left = size
            except OSError:
                pass
            if victim and left == 0:
                victim.signal(signal.SIGKILL)
            for end in (a, b):
                try:
                    # close() alone waits for the thread that reads.
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()

        t = threading.Thread(target=run, daemon=True)
        t.start()
        return t, passed

    def go(self, n, size, kill_source, mark=b''):
        """One migration; (who went on, bytes that passed)"""
        src = self.source()
        # An end that is lost is noticed by both.
        set_caps(src, return_path=True)
        dst = self.destination(name=f'dst{n}', paused=False)
        victim = None if size is None else src if kill_source else dst
        t, passed = self.proxy(f'p{n}', f'dst{n}.mig', size or 1 << 40,
                               victim, mark)
        src.qmp.cmd('migrate', uri=f'unix:p{n}')
        t.join(scaled(60))
        self.assertFalse(t.is_alive())
        if victim is src:
            src.kill()
            try:
                dst.out.wait_seen('^A ', 60)
                heir = dst
            except ChannelClosed:
                heir = None
        elif victim is dst:
            dst.kill()
            info = src.qmp.poll('query-migrate', lambda i: i.get('status') in
                                ('completed', 'failed'), scaled(60))
            if info['status'] == 'completed':
                src.qmp.cmd('cont')
            heir = src
        else:
            heir = dst
        if heir:
            self.runs(heir, 5)
        self.judge()
        self.anew(n)
        return 'nobody' if not heir else 'source' if heir is src else \
            'destination', passed[0]

    def test_kill_at_a_byte(self):
        self.diag(f'seed {SEED}, {ROUNDS} rounds')
        _, whole = self.go('all', None, False)
        who = Counter()
        for n in range(ROUNDS):
            rng = random.Random(SEED + n)
            # What comes after our section is as long as that of a small guest.
            mark, size = (b'', rng.randrange(1, whole * 3 // 4)) \
                if n % 4 == 0 else (b'\x07pmem-ha', 1 + rng.randrange(
                    250 if n % 4 < 3 else 20000))
            with self.subTest(f'kill {n} of seed {SEED}, {size} bytes after '
                              f'{mark or "the start"}'):
                who[self.go(n, size, n // 2 % 2, mark)[0]] += 1
        self.diag(f'{ROUNDS} kills in streams of {whole} bytes, 0 lost; the '
                  f'guest went on at: {dict(who)}')


class Flush(MigrationTest):
    """A flush that waits goes along."""

    def test_pending_flush(self):
        """
        The replica sleeps, both vCPUs wait, the guest is paused: it goes on
        at the other end, by itself, when the replica is back.
        """
        src, dst = self.source(), self.destination(paused=False)
        self.r.signal(signal.SIGSTOP)
        self.wait_info(src, state='stalled')
        src.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 2,
                     scaled(20))
        acks = src.acks()
        self.migrate(src)
        self.wait_migration(dst)
        info = self.pmem_ha(dst)
        self.assertEqual(info['flushes-waiting'], 2)
        self.assertEqual(self.digest(src), self.digest(dst))
        self.assertFalse(dst.acks())
        self.r.signal(signal.SIGCONT)
        self.runs(dst)
        self.assertEqual(src.acks(), acks)
        self.assertGreaterEqual(min(dst.acks().values()),
                                min(acks.values()))
        self.judge()

    def test_pending_flush_and_reset(self):
        """A reset at the destination ends it without an acknowledgement."""
        src = self.source()
        dst = self.destination('-action', 'reboot=reset')
        self.r.signal(signal.SIGSTOP)
        self.wait_info(src, state='stalled')
        self.migrate(src)
        self.wait_migration(dst)
        self.assertGreater(self.pmem_ha(dst)['flushes-waiting'], 0)
        dst.qmp.cmd('system_reset')
        dst.qmp.poll('query-pmem-ha', lambda i: not i[0]['flushes-waiting'],
                     scaled(20))
        self.r.signal(signal.SIGCONT)


if __name__ == '__main__':
    main()
