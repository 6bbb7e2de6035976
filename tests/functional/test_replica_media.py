#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
qemu-pmem-replica on media that fail, with files that rot, and with peers that
ask for too much.
"""

import os
import shutil
import socket
import time

from pmemha import main, program, scaled, skip_unless, wire
from pmemha.primary import (PAGE, SIZE, Daemon, Page,
                            ReplicaTestCase, expect_fenced, expect_refused,
                            hello)

STRACE = shutil.which('strace')


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


class MediaTestCase(ReplicaTestCase):

    def path(self, name):
        return os.path.join(self.work.dir, name)

    def content(self, name):
        with open(self.path(name), 'rb') as f:
            return f.read()

    def argv(self, calls, inject, path):
        return [STRACE, '-f', '-qq', '-y', '-e', f'trace={calls}',
                '-P', self.path(path), '-e', f'inject={inject}',
                '-o', self.path('trace')]

    def attach(self, d, *what):
        """From now on; strace counts 'when' for each thread on its own."""
        self.process('strace', self.argv(*what) + ['-p', str(d.pid)]).start()
        for task in os.listdir(f'/proc/{d.pid}/task'):
            end = time.monotonic() + scaled(20)
            while 'TracerPid:\t0\n' in read(f'/proc/{d.pid}/task/{task}/status'):
                self.assertLess(time.monotonic(), end, 'strace is not there')


class Failing(MediaTestCase):
    """System calls that fail"""

    @skip_unless(STRACE, 'strace is not installed')
    def test_image_sync_fails_once(self):
        """What a failed fdatasync may have dropped is written again."""
        with self.daemon() as d:
            c, model = self.seeded(d, 2)
            d.wait_status(journal_bytes=0, epoch=2)
            self.attach(d, 'pwrite64,fallocate,fdatasync',
                        'fdatasync:error=EIO:when=1', 'img')
            c.epoch(3, model.next(3, 3))
            d.wait_status(journal_bytes=0, epoch=3)
            self.assertEqual(d.content(), model.images[3])
        trace = read(self.path('trace')).splitlines()
        failed = [n for n, line in enumerate(trace) if 'EIO' in line]
        self.assertEqual(len(failed), 1, trace)
        again = next(n for n, line in enumerate(trace)
                     if n > failed[0] and 'fdatasync' in line)
        self.assertTrue(any('pwrite64' in line or 'fallocate' in line
                            for line in trace[failed[0]:again]), trace)

    @skip_unless(STRACE, 'strace is not installed')
    def test_applied_is_not_acknowledged_by_a_greeting(self):
        """ack=applied: an epoch that is in the journal only is not enough."""
        with self.daemon() as d:
            c, model = self.seeded(d, 2, ack=wire.APPLIED)
            self.attach(d, 'fdatasync', 'fdatasync:error=EIO', 'img')
            c.send(*c.epoch_messages(3, model.next(3, 3)))
            expect_refused(c.recv, wire.R_IO, 'img', 'stable storage',
                           kind=wire.FAIL)
            d.wait_status(state='disconnected', epoch=3)
            with d.connect() as c:
                expect_refused(lambda: hello(c, ack=wire.APPLIED), wire.R_IO,
                               'img', 'stable storage')
            with d.connect() as c:
                self.assertEqual(hello(c), (True, 1, 3))

    @skip_unless(STRACE, 'strace is not installed')
    def test_slow_promotion_lets_others_in(self):
        args = ['--export', 'name=pm1,size=64K,mem-path=' + self.path('img1') +
                ',journal=' + self.path('journal1')]
        with self.daemon(args=args) as d:
            c, model = self.seeded(d, 2)
            c.epoch(3, model.next(3, 3))
            self.attach(d, 'fdatasync', 'fdatasync:delay_enter=5000000', 'img')
            promote = self.process('promote', [
                program('PMEMCTL'), 'promote', '--export', 'pm0', '--socket',
                d.ctl_socket]).start()
            expect_fenced(c.recv)
            with d.connect() as c2:
                hello(c2, name='pm1')
                c2.full_copy(bytes(SIZE), 1)
            self.assertTrue(promote.alive, 'the promotion is still under way')
            self.assertEqual(promote.wait(30), 0)

    @skip_unless(STRACE, 'strace is not installed')
    def test_unreadable_log_is_not_discarded(self):
        """An I/O error says nothing about what was acknowledged."""
        self.log_up_to(5)
        before = self.content('journal')
        d = self.adopt(Daemon(self.work, 'unreadable'))
        d.argv = self.argv('pread64', 'pread64:error=EIO:when=6',
                           'journal') + d.argv
        d.start(negotiate=False)
        self.assertEqual(d.wait(20), 1, d.output())
        self.assertIn('Input/output error', d.output())
        self.assertEqual(self.content('journal'), before)
        with self.daemon() as d:
            self.assertEqual(d.status()['epoch'], 5)


class Rotten(MediaTestCase):
    """A log that is not what was written"""

    def test_damage_leaves_the_image_alone(self):
        model = self.log_up_to(5)
        # All were applied before; the log is what a checkpoint left.
        with open(self.path('img'), 'r+b') as f:
            f.write(model.images[5])
        self.rot(1)
        with self.daemon() as d:
            self.assertEqual(d.status()['state'], 'damaged')
            self.assertEqual(d.content(), model.images[5])

    def test_damage_after_the_decision(self):
        d = self.daemon(env={'PMEM_HA_CRASH_AT': 'promote-decided'})
        c, model = self.seeded(d, 2)
        d.wait_status(journal_bytes=0, epoch=2)
        for e in range(3, 6):
            c.epoch(e, model.next(e, 3))
        d.pmemctl('promote')
        self.assertEqual(d.wait(20), 99)
        self.rot(1)
        with self.daemon() as d:
            out = d.pmemctl('promote')
            self.assertEqual(out.returncode, 1)
            self.assertIn('epoch 4 ', out.stderr)
            self.assertIn('force', out.stderr)
            p = d.promote('--force')
            self.assertEqual(p['epoch'], 3)
            # It must not claim what is not there.
            state = wire.read_state_file(p['state-file'])
            self.assertEqual(state['history'][0], (1, 3))

    @skip_unless(STRACE, 'strace is not installed')
    def test_damage_before_the_decision(self):
        """The log rots under a daemon that runs: the primary keeps its role."""
        with self.daemon() as d:
            c, model = self.seeded(d, 2)
            d.wait_status(journal_bytes=0, epoch=2)
            # So that the epochs stay in the log
            self.attach(d, 'pwrite64,fallocate', 'pwrite64,fallocate:error=EIO',
                        'img')
            for e in range(3, 6):
                c.epoch(e, model.next(e, 3))
            self.rot(1)
            out = d.pmemctl('promote')
            self.assertEqual(out.returncode, 1)
            self.assertIn('epoch 4 ', out.stderr)
            s = d.status()
            self.assertEqual(s['state'], 'damaged')
            self.assertEqual(s['generation'], 1)


class Greedy(MediaTestCase):
    """Peers that ask for too much"""

    def test_epoch_beyond_the_region(self):
        with self.daemon() as d:
            c, model = self.seeded(d, 2)
            page = Page(0, bytes(SIZE))
            c.send(*c.epoch_messages(3, [page, page]))
            expect_refused(c.recv, wire.R_PROTOCOL, 'more than', str(SIZE),
                           kind=wire.FAIL)
            d.wait_status(state='disconnected', epoch=2)
            self.assertEqual(d.promote()['epoch'], 2)
            self.assertEqual(d.content(), model.images[2])

    def test_number_that_no_device_reaches(self):
        with self.daemon() as d:
            for kw in ({'generation': (1 << 62) + 1},
                       {'generation': (1 << 64) - 1}):
                with d.connect() as c:
                    expect_refused(lambda: hello(c, **kw), wire.R_PROTOCOL,
                                   str(kw['generation']))
            with d.connect() as c:
                hello(c)
                c.send(*c.copy_messages(bytes(SIZE)))
                c.send(*c.epoch_messages((1 << 64) - 1, [], completes=True))
                expect_refused(c.recv, wire.R_PROTOCOL, str((1 << 64) - 1),
                               kind=wire.FAIL)
            self.assertEqual(d.status()['state'], 'empty')

    def test_strangers_do_not_keep_a_primary_out(self):
        with self.daemon() as d:
            strangers = [d.connect() for _ in range(100)]
            with d.connect() as c:
                hello(c)
                c.full_copy(bytes(SIZE), 1)
            for s in strangers:
                s.close()

    def test_promotion_meets_a_full_log(self):
        """BEGIN of an epoch that needs room, at the moment of promotion"""
        for _ in range(20):
            path = self.sub_dir()
            with self.daemon_in(path, journal_size=1 << 20) as d:
                c, model = self.seeded(d, 2)
                epoch = 2
                while d.status()['journal-bytes'] < (1 << 20):
                    epoch += 1
                    c.epoch(epoch, [Page(0, os.urandom(SIZE))])
                c.send(*c.epoch_messages(epoch + 1, model.next(epoch + 1)))
                p = d.promote()
                self.assertIn(p['epoch'], (epoch, epoch + 1))
                self.assertEqual(d.status()['state'], 'promoted')


class Files(MediaTestCase):
    """One file for two purposes; two daemons on one socket"""

    def test_journal_is_a_file_of_the_image(self):
        for suffix in ('', '.copy', '.replica', '.state'):
            with self.subTest(suffix):
                d = self.daemon(expect_failure=True,
                                journal=self.path('img' + suffix))
                self.assertIn("belongs to mem-path", d.output())
                self.assertIn(self.path('img' + suffix), d.output())

    def test_files_of_two_exports(self):
        args = ['--export', 'name=other,size=64K,journal=' +
                self.path('other.journal') + ',mem-path=' +
                self.path('img.copy')]
        d = self.daemon(expect_failure=True, args=args)
        self.assertIn("belongs to export 'pm0'", d.output())

    def test_second_daemon_leaves_the_socket_alone(self):
        with self.daemon() as d:
            # As a start of the service by mistake: the same options again.
            e = self.process('again', list(d.argv))
            i = e.argv.index('--listen')
            e.argv[i:i + 2] = []
            e.argv[1:1] = ['--listen', d.address]
            j = [n for n, a in enumerate(e.argv) if a.startswith('socket,id=q')]
            for n in reversed(j):
                e.argv[n - 1:n + 3] = []
            e.start()
            self.assertEqual(e.wait(20), 1)
            self.assertIn('lock journal', e.output())
            with d.connect() as c:
                hello(c)
            self.assertEqual(d.pmemctl('status').returncode, 0)

    def test_stale_socket(self):
        path = self.path('stale.sock')
        with socket.socket(socket.AF_UNIX) as s:
            fd = os.open(self.work.dir, os.O_RDONLY | os.O_DIRECTORY)
            s.bind(f'/proc/self/fd/{fd}/stale.sock')
            os.close(fd)
        self.assertTrue(os.path.exists(path))
        with self.daemon(listen='addr.type=unix,addr.path=stale.sock'):
            pass


if __name__ == '__main__':
    main()
