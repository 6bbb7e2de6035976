#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qemu-pmem-replica: bad files, full disks, crashes at every point"""

import os
import shlex
import shutil
import socket
import struct
import subprocess
import threading

from pmemha import main, program, wire
from pmemha.primary import (PAGE, SIZE, Closed, Model, ReplicaTestCase,
                            expect_fenced, expect_refused, hello)


def fill_up(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError:
        pass
    finally:
        os.close(fd)


CRASH_POINTS = (
    'journal-begin', 'journal-data', 'journal-commit', 'journal-committed',
    'journal-synced', 'journal-marked', 'ack-sent', 'apply-record',
    'apply-synced', 'super-write', 'super-synced', 'copy-start', 'copy-data',
    'copy-synced', 'copy-decided', 'copy-renamed', 'promote-decided',
    'promote-applied', 'promote-state', 'promote-unmarked', 'state-write',
    'state-written', 'state-synced',
)


KILLS = int(os.environ.get('REPLICA_KILLS', '200'))


def started(d):
    """False: it ended before it served"""
    try:
        d.qmp.negotiate()
        return True
    except (AssertionError, OSError):
        return False


class ReplicaFaultTest(ReplicaTestCase):
    timeout = 300

    def test_damage(self):
        model = self.log_up_to(6)
        self.rot(1)
        with self.daemon() as d:
            s = d.status()
            assert s['state'] == 'damaged', s
            assert 'epoch 4 ' in s['damage'], s
            with d.connect() as c:
                expect_refused(lambda: hello(c), wire.R_DAMAGED, 'epoch 4 ',
                               'force')
            out = d.pmemctl('promote')
            assert out.returncode == 1 and 'epoch 4 ' in out.stderr, out
            p = d.promote('--force')
            assert p['epoch'] == 3
            # nothing older than epoch 3; parts of later epochs may be there
            image = d.content()
            for n in range(0, SIZE, PAGE):
                assert image[n:n + PAGE] in [model.images[e][n:n + PAGE]
                                             for e in range(3, 7)], n

    def test_damage_amid_adoption(self):
        """Decided, and then the log rots: the image is not given."""
        def adopt(d, c):
            return hello(c, take=True, captured=6, acked=6, instance=7,
                         adopt=d.img)

        with self.daemon(env={'PMEM_HA_CRASH_AT': 'promote-decided'}) as d:
            c, model = self.seeded(d, 2)
            for e in range(3, 7):
                c.epoch(e, model.next(e, 3))
            with self.assertRaises((Closed, OSError)), d.connect() as c2:
                adopt(d, c2)
            assert d.wait(20) == 99
            c.close()
        self.rot(-2)
        with self.daemon() as d:
            for _ in range(2):
                with d.connect() as c:
                    expect_refused(lambda: adopt(d, c), wire.R_DAMAGED,
                                   'epoch 5 ')
            assert os.path.exists(d.img + '.replica')
            assert d.promote('--force')['epoch'] == 4
            with d.connect() as c:
                expect_fenced(lambda: adopt(d, c))

    def test_startup_errors(self):
        img = os.path.join(self.work.dir, 'img')
        with open(img, 'wb') as f:
            f.truncate(SIZE * 2)
        d = self.daemon(expect_failure=True)
        assert str(SIZE * 2) in d.output(), d.output()
        assert str(SIZE) in d.output(), d.output()
        assert img in d.output()
        assert not os.path.exists(img + '.replica')
        os.unlink(img)
        d = self.daemon(expect_failure=True, size=4097)
        assert 'multiple of 4096' in d.output(), d.output()
        d = self.daemon(expect_failure=True,
                     mem_path=os.path.join(self.work.dir, 'no', 'dir'))
        assert 'no/dir' in d.output(), d.output()
        d = self.daemon(expect_failure=True,
                     listen='addr.type=inet,addr.host=0.0.0.0,addr.port=0')
        assert '--allow-plaintext' in d.output(), d.output()
        d = self.daemon(expect_failure=True,
                     listen='addr.type=inet,addr.host=127.0.0.1,addr.port=0,'
                     'tls-creds=none')
        assert 'tls-creds=none' in d.output(), d.output()
        with self.daemon(listen='addr.type=inet,addr.host=0.0.0.0,addr.port=0',
                      args=['--allow-plaintext']):
            pass
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            s.listen()
            port = s.getsockname()[1]
            d = self.daemon(expect_failure=True,
                            listen='addr.type=inet,addr.host='
                         '127.0.0.1,addr.port=%d' % port)
            assert 'in use' in d.output(), d.output()
            assert str(port) in d.output(), d.output()
        with self.daemon() as d:
            other = self.sub_dir()
            e = self.daemon_in(other, expect_failure=True,
                               journal=d.journal_path)
            assert 'lock journal' in e.output(), e.output()
            e = self.daemon_in(other, expect_failure=True, mem_path=d.img)
            assert 'lock image' in e.output(), e.output()
            c, model = self.seeded(d)
            c.close()
        # an image that went away is not made anew
        os.rename(img, img + '.away')
        d = self.daemon(expect_failure=True)
        assert 'is missing' in d.output(), d.output()
        os.rename(img + '.away', img)
        # a newer journal
        with open(os.path.join(self.work.dir, 'journal'), 'r+b') as f:
            for slot in range(2):
                f.seek(slot * 4096)
                data = bytearray(f.read(4096))
                if data[:8] != b'PMHAJRNL':
                    continue
                data[8] = 2
                # where version 1 has the number of devices and a device
                data[1264:1328] = b'\xff' * 64
                data[4092:] = struct.pack('<I', wire.crc32c(data[:4092]))
                f.seek(slot * 4096)
                f.write(data)
        d = self.daemon(expect_failure=True)
        assert 'version 2' in d.output(), d.output()
        # not a journal
        with open(os.path.join(self.work.dir, 'journal'), 'wb') as f:
            f.write(b'hello')
        d = self.daemon(expect_failure=True)
        assert 'not a journal' in d.output(), d.output()

    def test_image_that_lost_its_content(self):
        """The journal knows of an image: an empty file is not it."""
        with self.daemon() as d:
            c, _ = self.seeded(d)
            c.close()
        os.truncate(d.img, 0)
        d = self.daemon(expect_failure=True)
        assert '0 bytes' in d.output() and d.img in d.output(), d.output()
        assert os.path.getsize(d.img) == 0
        os.unlink(d.img)
        d = self.daemon(expect_failure=True)
        assert 'is missing' in d.output(), d.output()

    def test_read_only_image(self):
        path = self.tmpfs(4 << 20)
        with open(os.path.join(path, 'img'), 'wb') as f:
            f.truncate(SIZE)
        subprocess.run(['mount', '-o', 'remount,ro', path], check=True)
        d = self.daemon(expect_failure=True,
                        mem_path=os.path.join(path, 'img'))
        assert 'Read-only' in d.output() and path in d.output(), d.output()

    def test_unreadable_image(self):
        if os.getuid():
            self.skipTest('needs root to become another user')
        os.chmod(self.work.dir, 0o777)
        img = os.path.join(self.work.dir, 'img')
        with open(img, 'wb') as f:
            f.truncate(SIZE)
        os.chmod(img, 0)
        wrapper = os.path.join(self.work.dir, 'bin')
        os.mkdir(wrapper)
        real = program('PMEM_REPLICA')
        if not shutil.which('setpriv'):
            self.skipTest('setpriv is missing')
        with open(os.path.join(wrapper, 'qemu-pmem-replica'), 'w',
                  encoding='utf-8') as f:
            f.write('#!/bin/sh\nexec setpriv --bounding-set=-dac_override,'
                    '-dac_read_search --inh-caps=-dac_override,'
                    '-dac_read_search %s "$@"\n' % shlex.quote(real))
        os.chmod(f.name, 0o755)
        d = self.daemon(expect_failure=True,
                        binary=os.path.join(wrapper, 'qemu-pmem-replica'))
        assert 'Permission denied' in d.output(), d.output()
        assert img in d.output(), d.output()

    def test_journal_disk_full(self):
        path = self.tmpfs(256 << 10)
        filler = os.path.join(path, 'filler')
        with self.daemon(journal=os.path.join(path, 'j')) as d:
            c, model = self.seeded(d)
            fill_up(filler)
            e = 4

            def until_full():
                nonlocal e
                while True:
                    c.epoch(e, model.next(e, 4))
                    e += 1

            expect_refused(until_full, wire.R_NO_SPACE,
                           os.path.join(path, 'j'), 'No space left',
                           kind=wire.FAIL)
            s = d.wait_status(state='disconnected', epoch=e - 1)
            assert 'No space left' in s['last-error'], s
            want = model.images[e - 1]
            os.unlink(filler)
            model.back_to(e - 1)
            with d.connect() as c2:
                assert hello(c2) == (True, 1, e - 1)
                c2.epoch(e, model.next(e, 4))
                want = model.images[e]
            p = d.promote()
            assert p['epoch'] == e
            assert d.content() == want

    def test_journal_created_on_full_disk(self):
        path = self.tmpfs(64 << 10)
        fill_up(os.path.join(path, 'filler'))
        d = self.daemon(expect_failure=True, journal=os.path.join(path, 'j'))
        assert 'No space left' in d.output() and path in d.output(), d.output()

    def test_copy_without_space(self):
        path = self.tmpfs(SIZE + SIZE // 2)
        with self.daemon(mem_path=os.path.join(path, 'img')) as d:
            c, model = self.seeded(d)
            c.send(*c.copy_messages(os.urandom(SIZE)))
            expect_refused(c.recv, wire.R_NO_SPACE, 'full copy',
                           kind=wire.FAIL)
            d.wait_status(state='disconnected', epoch=3)
            p = d.promote()
            assert p['epoch'] == 3
            assert d.content() == model.images[3]

    def crash_once(self, spec, ack):
        """All that a replica goes through, ended at @spec; then the truth."""
        tmp = self.sub_dir()
        model = Model(1)
        acked = begun = 0
        reached = True
        d = self.daemon_in(tmp, wait=False, env={'PMEM_HA_CRASH_AT': spec})
        try:
            if started(d):
                with d.connect() as c:
                    hello(c, ack=ack)
                    begun = 1
                    c.full_copy(bytes(model.image), 1, model.next(1))
                    acked = 1
                    for e in range(2, 6):
                        begun = e
                        c.epoch(e, model.next(e, 3))
                        acked = e
                    begun = 8
                    c.full_copy(bytes(model.image), 8, model.next(8))
                    acked = 8
                    begun = 9
                    c.epoch(9, model.next(9, 3))
                    acked = 9
                    reached = d.pmemctl('promote').returncode != 0
        except (Closed, ConnectionError):
            pass
        if reached:
            code = d.wait(20)
            assert code == 99, (spec, code, d.output())
        else:
            d.kill()
        promoted = spec.startswith('promote') or not reached

        with self.daemon_in(tmp) as d2:
            s = d2.status()
            assert s['state'] not in ('damaged', 'copying'), s
            if s['state'] == 'promoted':
                assert acked == 9, (spec, s)
            else:
                assert not promoted, (spec, s)
            assert acked <= s['epoch'] <= begun, (spec, acked, begun, s)
            if s['state'] == 'empty':
                return reached
            p = d2.promote()
            assert p['generation'] == 2, p
            self.check_promoted(d2, p, model.images, acked, begun)
        return reached

    def test_crash_points(self):
        done = 0
        for name in CRASH_POINTS:
            for ack in (wire.JOURNALED, wire.APPLIED):
                nth = 1
                while nth <= 3 and self.crash_once(f'{name}:{nth}', ack):
                    nth += 1
                assert nth > 1, name + ' is never reached'
                done += nth - 1
        self.diag(f'{done} crashes at {len(CRASH_POINTS)} points')

    def test_kill_loop(self):
        """SIGKILL at random points while epochs stream."""
        model = Model(self.rng.random())
        acked = 0
        begun = 0
        want_copy = True
        kills = KILLS
        epochs = 0
        copies = 0
        for n in range(kills + 1):
            with self.daemon(journal_size=1 << 20) as d:
                s = d.status()
                assert s['state'] in ('empty', 'disconnected'), s
                assert acked <= s['epoch'] <= begun, (n, acked, begun, s)
                held = s['epoch']
                if held:
                    assert d.content() == model.images[held], (n, held)
                    model.back_to(held)
                    acked = held
                if held and n % 20 == 0:
                    self.promote_copy(d, model.images[held], held)
                if n == kills:
                    break
                c = d.connect()
                hello(c, ack=self.rng.randrange(3))
                delay = self.rng.random() * (0.06 if n % 2 else 0.015)
                timer = threading.Timer(delay, d.popen.kill)
                timer.start()
                e = held + 1
                got = []
                try:
                    if want_copy or not held or n % 10 == 0:
                        copies += 1
                        e += 1
                        begun = e
                        c.full_copy(bytes(model.image), e, model.next(e))
                        acked = e
                        e += 1
                        want_copy = False
                    while True:
                        pages = model.next(e)
                        begun = e
                        c.send(*c.epoch_messages(e, pages))
                        c.wait_ack(e)
                        acked = e
                        epochs += 1
                        e += 1
                except (Closed, ConnectionError, socket.timeout):
                    pass
                try:
                    got = c.drain()
                except (ConnectionError, socket.timeout):
                    pass
                for m in got:
                    if m.type == wire.ACK:
                        acked = max(acked, m.epoch)
                c.close()
                timer.join()
                d.kill()
        self.diag('%d kills, %d epochs acknowledged, %d full copies begun'
                  % (kills, epochs, copies))

    def promote_copy(self, d, want, epoch):
        tmp = self.sub_dir()
        for name in ('img', 'journal'):
            shutil.copy(os.path.join(self.work.dir, name), tmp)
        with self.daemon_in(tmp) as d2:
            p = d2.promote()
            assert p['epoch'] == epoch, p
            assert d2.content() == want
        shutil.rmtree(tmp)


if __name__ == '__main__':
    main()
