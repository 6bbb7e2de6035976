# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU, led through the transitions of the model: for test_model_walk.py"""

import os
import queue
import re
import shutil
import struct
import threading

from . import wire
from .device import HINT, PMEM_BASE, PmemMachine
from .devicetest import PAGE, SIZE, DeviceTest
from .paths import scaled
from .scripted import ScriptedReplica
from .walk import walk


def welcome(c, epoch, generation=1, have=1):
    c.send(wire.Msg(wire.WELCOME, 0, generation, epoch,
                    payload=struct.pack('<IIQQ', have, 0, generation, epoch)))


class Scripted(ScriptedReplica):
    """One function for each connection, from a queue"""

    def __init__(self, work):
        self.todo = queue.Queue()
        self.seen = queue.Queue()       # what the functions report
        super().__init__(work, self.next)

    def next(self, c):
        self.todo.get(timeout=scaled(30))(c)

    def report(self, value):
        self.seen.put(value)

    def wait(self, timeout=30):
        return self.seen.get(timeout=scaled(timeout))


class Primary(DeviceTest):
    """QEMU; stores and flushes come by qtest."""

    def setUp(self):
        self.r = None

    def record(self, name='p.state'):
        return wire.read_state_file(self.path(name))

    def qemu_for(self, name, replica, env=None, **kw):
        q = self.machine(name, replica=replica, **kw)
        q.add('-trace', 'pmem_ha_*')
        if env:
            q.env = dict(os.environ, **env)
        return q

    def verdict(self, q, n=-1):
        """(verdict, captured, acked, generation and epoch of the replica)"""
        return tuple(int(v) for v in re.findall(
            r'pmem_ha_verdict .* verdict (\d), generation \d+ captured (\d+) '
            r'acked (\d+), replica has generation (\d+) epoch (\d+)',
            q.output())[n])

    def shows(self, q, regex, timeout=30):
        q.qmp.poll('query-pmem-ha',
                   lambda _: re.search(regex, q.output()), timeout)

    def hint(self, q, value):
        q.writeq(PMEM_BASE, value)
        q.writeq(HINT, 1)

    def test_link(self):
        """All that comes by the link, from a replica that is scripted"""
        r = self.adopt(Scripted(self.work))
        self.work.write('p.state', b'')

        def first(conn):
            hello_ = conn.recv_raw()
            r.report((hello_, self.record()))
            conn.generation = hello_.generation
            welcome(conn, 0, 0, have=0)
            r.report((conn.recv_raw(), self.record()))
            size, m = 0, conn.recv_raw()
            while m.type == wire.DATA and not m.epoch:
                size += m.arg1
                m = conn.recv_raw()
            r.report((size, m))
            m = conn.commit()
            r.report((m.epoch, self.record()))
            conn.ack(m.epoch)
            m = conn.commit()
            r.report(m)
            gate.wait(scaled(30))
            conn.ack(m.epoch)
            r.report(conn.commit())     # and no ACK

        def again(epoch, then=None):
            def script(conn):
                conn.generation = conn.recv_raw().generation
                welcome(conn, epoch)
                if then:
                    then(conn)
            return script

        gate = threading.Event()
        r.todo.put(first)
        q = self.qemu_for('qemu', r.object())
        q.start()
        hello_, file = r.wait()
        self.assertEqual((hello_.type, hello_.generation), (wire.HELLO, 1))
        self.assertEqual(hello_.payload[40:56], bytes(16))
        self.assertIsNone(file)
        walk(self, 'p_prove_new', 'no record: HELLO of generation 1, epoch 0')
        walk(self, 'p_start', 'HELLO with no record in the state file')
        walk(self, 'p_dial', 'con 0 -> 1: HELLO')
        m, file = r.wait()
        self.assertEqual(m.type, wire.COPY)
        self.assertEqual((file['generation'], file['clean']), (1, False))
        walk(self, 'p_begin', 'after WELCOME: a record, not clean')
        self.assertEqual(self.verdict(q), (1, 0, 0, 0, 0))
        walk(self, 'p_verdict_copy_empty', 'VERDICT_COPY, no image there')
        walk(self, 'p_copy', 'COPY')
        size, m = r.wait()
        self.assertEqual((size, m.type, m.epoch), (SIZE, wire.BEGIN, 1))
        walk(self, 'p_copy_sent', f'{size} bytes of DATA, then BEGIN')
        epoch, file = r.wait()
        self.assertEqual((epoch, file['captured'], file['acked']), (1, 1, 0))
        q.settle()
        self.assertRegex(q.output(), 'connecting -> resync')
        self.assertRegex(q.output(), 'resync -> in-sync')
        walk(self, 'p_ack_copy', 'ACK 1: resync -> in-sync')

        before = self.content('p.img')[0]
        q.writeq(PMEM_BASE, 5)
        self.assertEqual((before, self.content('p.img')[0]), (0, 5))
        walk(self, 'p_store', 'mem 0 -> 5, in the backing file')
        q.writeq(HINT, 1)
        self.assertEqual(r.wait().epoch, 2)
        info = q.query()
        self.assertEqual((info['epoch-captured'], info['epoch-acked']), (2, 1))
        walk(self, 'p_capture', 'captured 1 -> 2, acked 1')
        gate.set()
        q.settle()
        self.assertEqual(q.query()['epoch-acked'], 2)
        walk(self, 'p_ack', 'ACK 2: acked 1 -> 2')

        # Lost with epoch 3: it is there, or it is not.
        def lose(conn):
            r.report(conn.commit())

        self.hint(q, 6)
        self.assertEqual(r.wait().epoch, 3)
        self.shows(q, 'in-sync -> connecting')
        walk(self, 'p_link_lost', 'in-sync -> connecting')
        r.todo.put(again(3, lose))
        q.settle()
        self.assertEqual(self.verdict(q), (0, 3, 3, 1, 3))
        walk(self, 'p_lost_ack', 'epoch 3 is there: acked 2 -> 3')
        walk(self, 'p_verdict_equal_synced', 'VERDICT_EQUAL')
        self.hint(q, 7)
        self.assertEqual(r.wait().epoch, 4)

        def keep(conn):
            r.report(conn.commit())
            conn.ack(4)
            conn.sock.sendall(bytes(64))        # no message of the protocol
            try:
                while True:
                    conn.recv_raw()
            except wire.Closed:
                r.report('closed')

        r.todo.put(again(3, keep))
        self.assertEqual(r.wait().epoch, 4)
        self.assertEqual(self.verdict(q), (0, 3, 3, 1, 3))
        walk(self, 'p_put_back', 'epoch 4 is not there: captured 4 -> 3, '
             'and captured again')
        self.hint(q, 8)                         # it reads what came
        self.assertEqual(r.wait(), 'closed')
        walk(self, 'p_break', 'the primary closes first')

        def fence(conn):
            conn.recv_raw()
            conn.send(wire.Msg(wire.FENCED, 0, 2))
            r.report('fenced')

        r.todo.put(fence)
        self.assertEqual(r.wait(), 'fenced')
        q.wait_state('fenced')
        walk(self, 'p_fenced', 'connecting -> fenced')

    def new_replica(self, name='replica'):
        self.r = self.replica(name, size=SIZE).start()

    def test_order_of_an_epoch(self):
        """Capture, state file, COMMIT: the process ends in between."""
        found = []
        for n, point in enumerate(('captured:2', 'state-written:3',
                                   'commit-sent:2')):
            self.new_replica(f'r{n}')
            q = self.qemu_for(f'q{n}', self.r, back=f'p{n}.img',
                              state=f'p{n}.state',
                              env={'PMEM_HA_CRASH_PRIMARY': point})
            q.start()
            q.settle()
            self.hint(q, 1)
            self.assertEqual(q.wait(20), 99)
            self.r.qmp.poll('query-pmem-replica',
                            lambda i: 'peer' not in i[0], 20)
            found.append((self.record(f'p{n}.state')['captured'],
                          self.r.qmp.cmd('query-pmem-replica')[0]['epoch']))
            self.r.kill()
            os.unlink(self.path('replica.img'))
            os.unlink(self.path('replica.img.journal'))
        self.assertEqual(found, [(1, 1), (2, 1), (2, 2)])
        walk(self, 'p_record', 'v.captured 1 -> 2 before COMMIT')
        walk(self, 'p_commit', 'COMMIT 2: last 1 -> 2')

    def test_starts(self):
        self.new_replica()
        q = self.qemu_for('new', self.r).start()
        q.settle()
        self.hint(q, 1)
        q.settle()
        self.assertFalse(self.record()['clean'])
        shutil.copy(self.path('p.img'), self.path('old.img'))
        self.assertEqual(q.quit(), 0)
        rec = self.record()
        self.assertEqual((rec['clean'], rec['captured'], rec['acked']),
                         (True, 2, 2))
        walk(self, 'p_end', 'clean 0 -> 1, captured and acked 2')

        self.r.kill()
        q = self.qemu_for('alone', self.r,
                          replica_options=',connect-timeout-ms=0').start()
        self.assertEqual(q.query()['state'], 'connecting')
        self.assertFalse(self.record()['clean'])
        walk(self, 'p_start_unconnected', 'clean 1 -> 0 without a replica')
        self.new_replica()
        q.settle()
        self.assertEqual(self.verdict(q, 0), (0, 2, 2, 1, 2))
        walk(self, 'p_prove_clean', 'record 2 and its digest')
        walk(self, 'p_verdict_equal_proved', 'VERDICT_EQUAL at first contact')

        q.writeq(PMEM_BASE + PAGE, 9)           # no flush
        q.kill()
        self.assertEqual(self.record()['clean'], False)
        walk(self, 'p_kill', 'SIGKILL: not clean, mem stays')
        q = self.qemu_for('killed', self.r).start()
        q.settle()
        self.assertEqual(self.verdict(q, 0), (1, 2, 2, 1, 2))
        walk(self, 'p_prove_unclean', 'record 2, not clean, this boot')
        walk(self, 'p_verdict_copy_held', 'VERDICT_COPY: record holds epoch 2')
        q.kill()

        # Another boot wrote the record: what a loss of power leaves
        shutil.copy(self.path('p.state'), self.path('kept.state'))
        with open(self.path('p.state'), 'r+b') as f:
            for slot in (0, 4096):
                f.seek(slot)
                data = bytearray(f.read(4092))
                if data[:8] == b'PMHASTAT':
                    data[112:128] = bytes(range(16))
                    f.seek(slot)
                    f.write(data + struct.pack('<I', wire.crc32c(data)))
        self.refused(self.qemu_for('power', self.r), 'host was restarted',
                     'nothing was overwritten')
        walk(self, 'p_power', 'boot 1 -> 2 (written by the test): refused')

    def restored(self, name, *texts, replica_options=''):
        self.refused(self.qemu_for(name, self.r,
                                   replica_options=replica_options), *texts)

    def test_restores(self):
        self.new_replica()
        q = self.qemu_for('one', self.r).start()
        q.settle()
        self.hint(q, 1)
        q.settle()
        self.assertEqual(q.quit(), 0)
        for name in ('img', 'state'):
            shutil.copy(self.path(f'p.{name}'), self.path(f'old.{name}'))
        q = self.qemu_for('two', self.r).start()
        q.settle()
        self.hint(q, 2)
        q.settle()
        self.assertEqual(q.quit(), 0)
        shutil.copy(self.path('old.img'), self.path('p.img'))
        self.restored('backing', 'does not hold what it recorded',
                      'nothing was overwritten')
        walk(self, 'p_restore_backing', 'mem 2 -> 1: refused')
        walk(self, 'p_verdict_refuse', 'VERDICT_REFUSE')
        self.restored('unconnected', 'does not hold what state-file',
                      replica_options=',connect-timeout-ms=0')
        walk(self, 'p_start_failed', 'refused before a connection')
        self.work.sparse('p.img', SIZE)
        self.restored('first', 'does not hold what it recorded')
        walk(self, 'p_restore_first', 'mem 2 -> 0: refused')
        for name in ('img', 'state'):
            shutil.copy(self.path(f'old.{name}'), self.path(f'p.{name}'))
        self.restored('both', 'holds epoch 3 of generation 1',
                      'epoch 2 of generation 1')
        walk(self, 'p_restore_both', 'mem and record of epoch 2: refused')

    def test_other_replica(self):
        """The old primary gets the address of the promoted one's replica."""
        self.new_replica()
        q = self.qemu_for('old', self.r).start()
        q.settle()
        q.kill()
        line = self.r.ctl('promote')['command-line']
        self.r.kill()
        self.r = self.replica('other', image='other.img', size=SIZE).start()
        line[line.index('-device') + 1] += ',replica=r0'
        second = self.adopt(PmemMachine(self.work, 'second'))
        second.add('-object', self.r.object(), *line).start()
        second.settle()
        self.assertEqual(self.r.qmp.cmd('query-pmem-replica')[0]['generation'],
                         2)
        self.refused(self.qemu_for('lost', self.r),
                     'was promoted to generation 2')
        walk(self, 'p_dial_other', 'generation 1 to a replica at 2: fenced')

    def pair(self, name):
        """A source in sync, and a destination that has its section"""
        self.new_replica()
        src = self.qemu_for(f'src-{name}', self.r, back=f'src-{name}.img',
                            state=f'src-{name}.state').start()
        src.settle()
        self.hint(src, 1)
        src.settle()
        dst = self.qemu_for(f'dst-{name}', self.r, back=f'dst-{name}.img',
                            state=f'dst-{name}.state')
        dst.add('-incoming', f'unix:{name}.mig').start()
        src.qmp.cmd('migrate', uri=f'unix:{name}.mig')
        src.qmp.poll('query-migrate',
                     lambda i: i.get('status') == 'completed', scaled(30))
        return src, dst

    def test_handover(self):
        src, dst = self.pair('over')
        self.assertEqual(src.query()['role'], 'handed-over')
        self.shows(src, 'pmem_ha_saved .* generation 1 captured 2 acked 2')
        rec = self.record('src-over.state')
        self.assertEqual((rec['generation'], rec['captured']), (1, 2))
        walk(self, 'p_save', 'primary -> handed-over, v.captured 2')
        self.assertEqual(dst.query()['role'], 'incoming')
        self.shows(dst, 'pmem_ha_loaded .* incoming, generation 1 captured 2')
        self.assertEqual(dst.mem.readq(PMEM_BASE), 1)
        walk(self, 'p_load', 'the section, in role incoming')
        dst.qmp.cmd('cont')
        dst.settle()
        self.shows(dst, 'pmem_ha_role .* primary, generation 1')
        walk(self, 'p_take_over', 'incoming -> primary')
        self.shows(dst, 'pmem_ha_taken .* generation 2 after epoch 2')
        self.assertEqual(self.record('dst-over.state')['generation'], 2)
        walk(self, 'p_taken_over', 'generation 1 -> 2, in the state file')

    def test_section_names_what_is_recorded(self):
        """
        An epoch that was captured, while the state file does not know of it
        yet: the source, started again, must not end up within the section.
        """
        r = self.adopt(Scripted(self.work))
        over = threading.Event()
        self.addCleanup(over.set)

        def stuck(conn):
            conn.welcome()
            conn.ack(conn.commit().epoch)
            over.wait(scaled(60))               # and takes in nothing

        r.todo.put(stuck)
        src = self.qemu_for('src', r.object()).start()
        src.settle()
        # More ranges than one batch of messages takes, and more bytes than
        # the socket does: what precedes COMMIT, the record, has to wait.
        for n in range(64):
            src.mem.memset(PMEM_BASE + n * 16 * PAGE, 8 * PAGE, 0x5a)
        src.writeq(HINT, 1)
        src.qmp.poll('query-pmem-ha', lambda i: i[0]['epoch-captured'] == 2,
                     scaled(30))
        self.assertEqual(self.record()['captured'], 1)
        src.qmp.cmd('migrate', uri='file:section')
        src.qmp.poll('query-migrate',
                     lambda i: i.get('status') == 'completed', scaled(30))
        self.shows(src, 'pmem_ha_saved .* captured 2 acked 1')
        self.assertEqual(self.record()['captured'], 2)

    def test_handover_taken_back(self):
        src, _ = self.pair('back')
        src.qmp.cmd('cont')
        src.settle()
        self.shows(src, 'pmem_ha_role .* primary, generation 1')
        walk(self, 'p_take_back', 'handed-over -> primary')
        self.shows(src, 'pmem_ha_taken .* generation 2 after epoch 2')
        self.assertEqual(self.record('src-back.state')['generation'], 2)
        walk(self, 'p_taken_back', 'generation 1 -> 2, in the state file')

    def test_handover_went_on(self):
        src, dst = self.pair('went')
        src.kill()
        again = self.qemu_for('again', self.r, back='src-went.img',
                              state='src-went.state').start()
        again.settle()
        dst.qmp.cmd('cont')
        dst.wait_state('failed')
        self.assertIn('what was handed over is epoch',
                      dst.query()['last-error'])
        walk(self, 'p_went_on', 'REFUSE of TAKE: connecting -> failed')
