#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The programs are led through each transition of the model in tests/model, and
must be seen to make it.  A transition that STEP() names there, and that no
test here walks, is a failure: see docs/devel/pmem-ha-model.rst.
"""

import os
import re
import threading

from pmemha import ROOT, TestCase, main, wire
from pmemha.primary import (Daemon, Fenced, Model, ReplicaTestCase,
                            expect_fenced, expect_refused, hello)
from pmemha.walk import Path, events, steps, strace, walk, walked
from pmemha.walkprimary import Primary

__all__ = ('Primary', 'Replica', 'Walked')

TRACE = ('--trace', 'pmem_replica_*')

# A loss of power is not made here.  What it can leave of the daemon's files is
# enumerated by:
ELSEWHERE = {
    'r_power': 'tests/functional/test_power_loss.py',
}
# Still to be led through.  An entry that a test walks is a failure, too.
NOT_WALKED_YET = set()


class Replica(ReplicaTestCase):
    """The daemon; the primary is scripted."""

    timeout = 60

    def prepared(self, **kw):
        """A daemon that is not started yet"""
        self.count += 1
        return self.adopt(Daemon(self.work, f'd{self.count}', args=TRACE,
                                 **kw))

    def traced(self):
        """A daemon whose system calls are recorded"""
        d = self.prepared()
        d.calls = self.work.path(f'{d.name}.calls')
        d.argv = strace(d.calls) + d.argv
        return d.start()

    def started(self, **kw):
        return self.prepared(**kw).start()

    def path(self, d):
        return Path(self, events(d.calls, 'journal', 'img'))

    def marked(self):
        return os.path.exists(self.work.path('img.replica'))

    def said_after(self, d, regex):
        """What the daemon said after the last such line"""
        lines = d.output().splitlines()
        at = [n for n, line in enumerate(lines) if re.search(regex, line)]
        self.assertTrue(at, (regex, lines))
        return lines[at[-1] + 1:]

    def test_way_of_an_export(self):
        """First contact, epochs, a checkpoint, promotion"""
        d = self.traced()
        model = Model(1)
        c = d.connect()
        hello(c)
        c.full_copy(bytes(model.image), 1, model.next(1))
        for e in (2, 3):
            c.epoch(e, model.next(e, 2))
        d.wait_status(applied_epoch=3, journal_bytes=0)
        c.epoch(4, model.next(4, 2))
        c.close()
        d.wait_status(state='disconnected')
        d.promote()
        d.stop()

        p = self.path(d)
        p.step('r_open', ('sync', 'journal'), up=(0, 1))
        p.find('super')
        p.find('says', '^ready:')
        p.step('r_hello', ('says', 'pmem_replica_recv .*HELLO'))
        p.step('r_welcome', ('send', 'WELCOME'), sent=(0, 'WELCOME'))
        p.step('r_copy', ('says', 'pmem_replica_recv .*: COPY'),
               ('create', 'img.copy'), has_copy=(0, 1))
        p.step('r_copy_data', ('says', 'pmem_replica_recv .*: DATA epoch 0'),
               ('write', 'img.copy'))
        p.step('r_begin_copy', ('says', 'recv .*: BEGIN epoch 1'),
               log=(0, 0), v_have_image=(0, 0))
        p.step('r_commit_copy', ('says', 'recv .*: COMMIT epoch 1'),
               ('sync', 'img.copy'), copy_d=(0, 1), v_have_image=(0, 0))
        p.step('r_copy_super', ('super', None), v_have_image=(0, 1),
               v_image_is_copy=(0, 1), v_generation=(1, 1),
               v_applied=(0, 1), d_have_image=(0, 0))
        p.step('r_copy_decided', ('sync', 'journal'), d_have_image=(0, 1),
               d_image_is_copy=(0, 1), d_applied=(0, 1), acked=(0, 0))
        p.step('r_copy_ack', ('mark', 1), ('send', 'ACK'), acked=(0, 1),
               has_copy=(1, 1))
        p.step('r_copy_renamed', ('rename', None), has_copy=(1, 0),
               v_image_is_copy=(1, 1))
        p.step('r_copy_named', ('super', None), v_image_is_copy=(1, 0),
               d_image_is_copy=(1, 1))
        p.step('r_copy_done', ('sync', 'journal'), d_image_is_copy=(1, 0))

        p.step('r_begin', ('BEGIN', 2), log=(0, 0))
        p.step('r_commit', ('COMMIT', 2), log=(0, 2), log_d=(0, 0),
               acked=(1, 1))
        p.step('r_commit_synced', ('sync', 'journal'), ('mark', 2),
               log_d=(0, 2), mark=(1, 2), acked=(1, 1))
        p.step('r_ack', ('send', 'ACK'), acked=(1, 2))
        img = p.export.var['img']
        p.step('r_apply', ('write', 'img'), img=(img, img + 1))
        p.find('says', 'pmem_replica_apply .* epoch 3')
        img = p.export.var['img']
        p.step('r_checkpoint', ('sync', 'img'), img=(img, img),
               v_applied=(1, 1))
        p.step('r_checkpoint_super', ('super', None), v_applied=(1, 3),
               d_applied=(1, 1), img_d=(img, img))
        p.step('r_checkpoint_done', ('sync', 'journal'), d_applied=(1, 3))

        p.find('mark', 4)
        p.step('r_detach', ('says', 'pmem_replica_closed .*closed'),
               ('says', 'is disconnected'))
        p.step('r_promote', ('super', None), v_promoted=(0, 1),
               v_generation=(1, 2), d_promoted=(0, 0))
        p.step('r_promote_decided', ('sync', 'journal'), d_promoted=(0, 1),
               d_generation=(1, 2))
        p.find('sync', 'journal')               # of the second slot
        p.step('r_promote_image', ('sync', 'img'), v_applied=(3, 3),
               unmarked=(0, 0))
        p.step('r_promote_super', ('super', None), v_applied=(3, 4),
               d_applied=(3, 3))
        p.step('r_promote_applied', ('sync', 'journal'), d_applied=(3, 4),
               state=(0, 0))
        p.step('r_promote_state', ('write', 'img.state'),
               ('sync', 'img.state'), state=(0, 1), unmarked=(0, 0))
        p.step('r_promote_unmarked', ('unlink', 'img.replica'),
               unmarked=(0, 1))


    def test_killed(self):
        d = self.started()
        c, _ = self.seeded(d)
        d.kill()
        with self.assertRaises(wire.Closed):
            c.recv()
        before = os.stat(self.work.path('journal')).st_size
        walk(self, 'r_kill', 'SIGKILL: up 2 -> 0, journal and image stay')

        d = self.prepared(env={'PMEM_HA_CRASH_AT': 'apply-record'})
        d.start(negotiate=False)
        self.assertEqual(d.wait(20), 99)
        self.assertFalse(d.ready)
        self.assertEqual(os.stat(self.work.path('journal')).st_size, before)

        d = self.traced()
        self.assertEqual(d.status()['applied-epoch'], 3)
        d.stop()
        p = self.path(d)
        p.find('sync', 'journal')
        p.step('r_ready', ('write', 'img'), ('sync', 'img'), ('super', None),
               ('says', '^ready:'), up=(1, 2))
        self.assertEqual(p.export.var['d_applied'], 3)

    def test_fenced(self):
        d = self.started()
        c, _ = self.seeded(d)
        d.promote()
        with self.assertRaises(Fenced):
            c.recv()
        d.wait_status(state='promoted')
        said = '\n'.join(self.said_after(d, 'is promoted: '))
        self.assertIn('pmem_replica_fenced', said)
        self.assertRegex(said, 'pmem_replica_closed .*ended by this side')
        walk(self, 'r_kicked', 'promoted: FENCED without a message from it')

        expect_fenced(lambda: hello(d.connect()), 2)
        walk(self, 'r_hello_fenced', 'HELLO of generation 1: FENCED by 2')

        self.assertFalse(self.marked())
        d.stop()
        d = self.started()
        self.assertEqual(d.status()['state'], 'promoted')
        self.assertFalse(self.marked())
        self.assertNotIn('pmem_replica_apply', d.output())
        walk(self, 'r_open_given_away',
             'started again without the marker: serves, image not opened')

    def test_message_is_fenced(self):
        """A primary that does not stop sending is told at its next message."""
        d = self.started()
        c, model = self.seeded(d)
        data = b''.join(
            m.encode(n + c.tx_seq) for n, m in enumerate(
                m for e in range(4, 1504) for m in c.epoch_messages(
                    e, model.next(e, 1))))

        def send():
            try:
                c.sock.sendall(data)
            except OSError:
                pass                    # fenced, and closed

        got = []
        threads = [threading.Thread(target=send, daemon=True),
                   threading.Thread(target=lambda: got.extend(c.drain()),
                                    daemon=True)]
        for t in threads:
            t.start()
        d.qmp.poll('query-pmem-replica', lambda i: i[0]['epoch'] > 10, 20)
        d.promote()
        for t in threads:
            t.join(20)
        self.assertEqual(got[-1].type, wire.FENCED)
        last = d.status()['epoch']
        self.assertLess(last, 1503)
        self.assertEqual(max(m.epoch for m in got if m.type == wire.ACK), last)
        # Not "by this side": the answer to what came last.
        self.assertRegex(d.output(), "pmem_replica_closed .*'pm0' is promoted")
        walk(self, 'r_message_fenced',
             f'what came after epoch {last} and the promotion: FENCED')

    def test_two_connections(self):
        d = self.started()
        first, _ = self.seeded(d, instance=7)
        expect_refused(lambda: hello(d.connect(), instance=8), wire.R_BUSY)
        self.assertEqual(d.status()['state'], 'in-sync')
        walk(self, 'r_busy', 'HELLO beside the one that is served: busy')
        second = d.connect()
        self.assertEqual(hello(second, instance=7), (True, 1, 3))
        self.assertEqual(first.drain(), [])
        self.assertRegex(d.output(), 'pmem_replica_closed .*by this side')
        walk(self, 'r_break', 'the daemon ends a connection first')

    def test_promotion_is_repeated(self):
        d = self.started(env={'PMEM_HA_CRASH_AT': 'promote-decided'})
        self.seeded(d)
        self.assertNotEqual(d.pmemctl('promote').returncode, 0)
        self.assertEqual(d.wait(20), 99)
        d = self.started()
        self.assertEqual(d.status()['state'], 'promoted')
        self.assertTrue(self.marked())
        d.promote()
        self.assertFalse(self.marked())
        walk(self, 'r_promote_again',
             'promote of what was decided: unmarked 0 -> 1')

    def test_checkpoint_is_put_off(self):
        """An epoch begins while the image is synchronised."""
        d = self.started()
        self.seeded(d)
        d.wait_status(journal_bytes=0)
        d.stop()
        d = self.prepared()
        log = self.work.path('delays')
        d.argv = ['strace', '-f', '-o', log, '-P', self.work.path('img'),
                  '-e', 'trace=fdatasync',
                  '-e', 'inject=fdatasync:delay_exit=700000'] + d.argv
        d.start()

        def syncs():
            with open(log, encoding='ascii', errors='replace') as f:
                return f.read().count('DELAYED')

        c = d.connect()
        hello(c)
        before = syncs()
        model = Model(2)
        c.epoch(4, model.next(4, 1))
        d.qmp.poll('query-pmem-replica', lambda _: syncs() > before, 20)
        messages = c.epoch_messages(5, model.next(5, 1))
        c.send(*messages[:-1])
        d.qmp.poll('query-pmem-replica',
                   lambda _: 'BEGIN epoch 5' in d.output(), 20)
        self.assertNotIn('checkpoint', ''.join(self.said_after(d, 'ready:')))
        c.send(messages[-1])
        c.wait_ack(5)
        d.wait_status(journal_bytes=0)
        self.assertEqual(re.findall('pmem_replica_checkpoint .* epoch (\\d+)',
                                    d.output().split('ready:')[1]), ['5'])
        walk(self, 'r_checkpoint_put_off',
             'img_d 3 -> 4, epoch 5 open: applied stays 3')

    def test_take(self):
        d = self.traced()
        served, _ = self.seeded(d)
        taker = d.connect()
        self.assertEqual(hello(taker, take=True, captured=4, acked=3,
                               instance=9), (True, 2, 3))
        self.assertEqual(served.drain(), [])
        again = d.connect()
        self.assertEqual(hello(again, take=True, captured=4, acked=3,
                               instance=9), (True, 2, 3))
        expect_fenced(lambda: hello(d.connect(), take=True, captured=4,
                                    acked=3, instance=10), 2)
        again.close()
        d.wait_status(state='disconnected')
        expect_refused(lambda: hello(d.connect(), generation=2, take=True,
                                     captured=2, acked=2, instance=11),
                       wire.R_WENT_ON, 'epoch 3 of generation 2')
        self.assertEqual(d.status()['generation'], 2)
        d.stop()

        p = self.path(d)
        p.find('mark', 3)
        p.step('r_replaced', ('says', 'recv .*: HELLO'),
               ('says', 'pmem_replica_closed .*by this side'),
               v_generation=(1, 1))
        p.step('r_take', ('super', None), v_generation=(1, 2),
               v_taker=(0, 9), d_generation=(1, 1))
        p.step('r_taken', ('sync', 'journal'), d_generation=(1, 2),
               d_taker=(0, 9), sent=('ACK', 'ACK'))
        p.find('send', 'WELCOME')
        p.step('r_take_again', ('says', 'recv .*: HELLO'),
               ('send', 'WELCOME'), v_generation=(2, 2), v_taker=(9, 9))
        p.step('r_take_fenced', ('says', 'recv .*: HELLO'),
               ('send', 'FENCED'), v_generation=(2, 2), v_taker=(9, 9))
        p.step('r_take_refused', ('says', 'recv .*: HELLO'),
               ('send', 'REFUSE'), v_generation=(2, 2), v_taker=(9, 9))


class Walked(TestCase):

    def test_each_step(self):
        """Comes last: all of the model's transitions, and no others"""
        missing = steps() - set(walked) - set(ELSEWHERE) - NOT_WALKED_YET
        stale = (set(ELSEWHERE) | NOT_WALKED_YET) & set(walked) | \
            (set(ELSEWHERE) | NOT_WALKED_YET) - steps()
        self.diag(f'{len(walked)} of {len(steps())} walked here')
        for name, where in ELSEWHERE.items():
            self.assertTrue(os.path.exists(os.path.join(ROOT, where)), name)
        self.assertFalse(missing, 'not walked: ' + ' '.join(sorted(missing)))
        self.assertFalse(stale, 'listed as not walked: ' +
                         ' '.join(sorted(stale)))


if __name__ == '__main__':
    main()
