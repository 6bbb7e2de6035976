#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qemu-pmem-replica against a primary that shares no code with it"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
import time
import uuid

from pmemha import main, wire
from pmemha.primary import (PAGE, SIZE, UUID, Closed, Client, Fenced, Model,
                            Page, ReplicaTestCase, expect_fenced,
                            expect_refused, hello)


class ReplicaTest(ReplicaTestCase):
    timeout = 120

    def test_handshake(self):
        with self.daemon() as d:
            with d.connect() as c:
                assert hello(c) == (False, 0, 0)
                c.send(wire.Msg(wire.PING, 0, 1, arg0=77))
                m = c.recv()
                assert m.type == wire.PONG and m.arg0 == 77
                assert d.status()['state'] == 'empty'
                c.send(wire.Msg(wire.CLEAN, 0, 1))
                assert c.drain() == []
            s = d.status()
            assert 'peer' not in s and 'uuid' not in s, s
            assert d.ready.startswith('ready: unix:'), d.ready

    def test_refusals(self):
        with self.daemon() as d:
            c, _ = self.seeded(d, label_size=2 * PAGE)
            c.close()
            d.wait_status(state='disconnected')
            good = dict(label_size=2 * PAGE)

            def attempt(**kw):
                def run():
                    with d.connect() as c2:
                        hello(c2, **dict(good, **kw))
                return run

            expect_refused(attempt(size=2 * SIZE), wire.R_SIZE,
                           str(SIZE), str(2 * SIZE))
            expect_refused(attempt(slot=5), wire.R_SLOT, 'slot 1', 'slot 5')
            other = uuid.UUID(int=99)
            expect_refused(attempt(uuid=other), wire.R_UUID, str(UUID),
                           str(other))
            expect_refused(attempt(label_size=0), wire.R_LABEL_SIZE,
                           'label-size %d' % (2 * PAGE), 'has 0')
            expect_refused(attempt(name='nope'), wire.R_NO_EXPORT, "'nope'")
            with d.connect() as c1:
                assert hello(c1, **good) == (True, 1, 3)
                expect_refused(attempt(instance=2), wire.R_BUSY, 'in use')
                # the same run of the same primary replaces its connection
                with d.connect() as c2:
                    assert hello(c2, **good) == (True, 1, 3)
                    assert c1.drain() == []
                    s = d.status()
                    assert s['state'] == 'in-sync', s

    def test_malformed(self):
        """Bytes that are no protocol are answered and change nothing."""
        with self.daemon() as d:
            c, model = self.seeded(d)
            c.close()
            d.wait_status(state='disconnected')

            def raw(data, code=wire.R_PROTOCOL, text='protocol'):
                with d.connect() as c2:
                    c2.sock.sendall(data)
                    c2.sock.shutdown(socket.SHUT_WR)
                    expect_refused(c2.recv, code, text)

            raw(b'GET / HTTP/1.1\r\nHost: replica\r\n' + b'\r\n' * 20)
            raw(os.urandom(64))
            raw(bytes(64))
            m = wire.Msg(wire.HELLO, payload=b'x' * 80)
            newer = bytearray(m.encode(0))
            newer[4] = 2
            raw(bytes(newer), text='version 2')
            raw(wire.Msg(wire.PING).encode(0), text='HELLO must be first')
            raw(wire.Msg(wire.HELLO, payload=b'x' * 80).encode(0))
            raw(wire.Msg(wire.HELLO, payload=b'x' * 80, crc=1).encode(0),
                text='checksum')

            def after_hello(text, *messages):
                with d.connect() as c2:
                    hello(c2)
                    c2.send(*messages)
                    expect_refused(c2.recv, wire.R_PROTOCOL, text,
                                   kind=wire.FAIL)
                d.wait_status(state='disconnected', epoch=3)

            page = Page(0, b'z' * PAGE)
            after_hello('outside of an epoch', page.msg(1, 4))
            after_hello('where 4 must follow', wire.Msg(wire.BEGIN, 0, 1, 5))
            after_hello('where 4 must follow', wire.Msg(wire.BEGIN, 0, 1, 3))
            after_hello('not begun', wire.Msg(wire.BEGIN, 2, 1, 4))
            after_hello('without its BEGIN',
                        wire.Msg(wire.COMMIT, 0, 1, 4, payload=b'0123'))
            after_hello('generation 7', wire.Msg(wire.PING, 0, 7))
            after_hello('outside of the region',
                        wire.Msg(wire.BEGIN, 0, 1, 4),
                        Page(SIZE, b'z' * PAGE).msg(1, 4))
            after_hello('digest',
                        wire.Msg(wire.BEGIN, 0, 1, 4), page.msg(1, 4),
                        wire.Msg(wire.COMMIT, 0, 1, 4, 1, PAGE, b'0123'))
            after_hello('COPY of', wire.Msg(wire.COPY, 0, 1, arg0=SIZE * 2))
            after_hello('of which', wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                        wire.Msg(wire.BEGIN, 2, 1, 4))
            after_hello('goes on at', wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                        Page(PAGE, b'z' * PAGE).msg(1, 0))
            after_hello('within a full copy',
                        wire.Msg(wire.COPY, 0, 1, arg0=SIZE),
                        wire.Msg(wire.BEGIN, 0, 1, 4))
            after_hello('ACK from a primary', wire.Msg(wire.ACK, 0, 1, 4))
            with d.connect() as c2:
                hello(c2)
                c2.epoch(4, model.next(4))
            d.wait_status(state='disconnected', epoch=4)

    def test_half_message(self):
        """A connection that ends within an epoch leaves nothing of it."""
        with self.daemon() as d:
            c, model = self.seeded(d)
            before = model.images[3]
            data = b''.join(m.encode(c.tx_seq + i) for i, m in enumerate(
                c.epoch_messages(4, model.next(4, 3))))
            c.sock.sendall(data[:-30])
            c.close()
            d.wait_status(state='disconnected', epoch=3)
            with d.connect() as c2:
                assert hello(c2, instance=2) == (True, 1, 3)
            d.wait_status(state='disconnected')
            p = d.promote()
            assert p['epoch'] == 3
            assert d.content() == before

    def kill_and_promote(self, ack):
        with self.daemon() as d:
            c, model = self.seeded(d, 30, ack=ack)
            d.kill()
            if ack != wire.APPLIED:
                # What is only in the page cache goes with its host.
                with open(d.img, 'r+b') as f:
                    f.write(model.images[1])
            assert [m.type for m in c.drain()] == []
            with self.daemon() as d2:
                s = d2.status()
                assert s['epoch'] == 30 and s['state'] == 'disconnected', s
                p = d2.promote()
                assert p['epoch'] == 30 and p['generation'] == 2, p
                assert d2.content() == model.images[30]

    def test_kill_promote_received(self):
        self.kill_and_promote(wire.RECEIVED)

    def test_kill_promote_journaled(self):
        self.kill_and_promote(wire.JOURNALED)

    def test_kill_promote_applied(self):
        self.kill_and_promote(wire.APPLIED)

    def test_applied_means_image(self):
        with self.daemon() as d:
            c, model = self.seeded(d, 2, ack=wire.APPLIED)
            for e in range(3, 8):
                c.epoch(e, model.next(e))
                assert d.content() == model.images[e]
            c.close()

    def test_copy_keeps_old_image(self):
        with self.daemon() as d:
            c, model = self.seeded(d)
            old = model.images[3]
            c.close()
            d.wait_status(state='disconnected')
            # an unfinished copy, then promote
            with d.connect() as c2:
                hello(c2)
                c2.send(*c2.copy_messages(os.urandom(SIZE))[:-1])
                c2.send(wire.Msg(wire.PING, 0, 1))
                while c2.recv().type != wire.PONG:
                    pass
            d.wait_status(state='disconnected')
            assert not os.path.exists(d.img + '.copy')
            with d.connect() as c2:
                hello(c2)
                c2.send(*c2.copy_messages(os.urandom(SIZE)))
                c2.send(*c2.epoch_messages(9, [Page(0, b'x' * PAGE)],
                                           completes=True)[:-1])
                c2.send(wire.Msg(wire.PING, 0, 1))
                while c2.recv().type != wire.PONG:
                    pass
                s = d.status()
                assert s['state'] == 'copying' and s['copied-bytes'] == SIZE, s
                d.kill()
            with self.daemon() as d2:
                assert not os.path.exists(d2.img + '.copy')
                with d2.connect() as c3:
                    assert hello(c3) == (True, 1, 3)
                    c3.send(*c3.copy_messages(os.urandom(SIZE)))
                    c3.send(wire.Msg(wire.PING, 0, 1))
                    assert c3.recv().type == wire.PONG
                    p = d2.promote()
                    assert p['epoch'] == 3
                    assert d2.content() == old
                    expect_fenced(c3.recv, 2)

    def test_copy_replaces(self):
        """A complete copy of a later generation takes the image's place."""
        with self.daemon() as d:
            c, model = self.seeded(d)
            c.close()
            d.wait_status(state='disconnected')
            with d.connect() as c2:
                assert hello(c2, generation=5) == (True, 1, 3)
                c2.send(wire.Msg(wire.BEGIN, 0, 5, 4))
                expect_refused(c2.recv, wire.R_PROTOCOL, 'without a full copy',
                               kind=wire.FAIL)
            d.wait_status(state='disconnected')
            with d.connect() as c2:
                hello(c2, generation=5)
                c2.full_copy(bytes(model.image), 9, model.next(9))
                c2.epoch(10, model.next(10))
                s = d.wait_status(state='in-sync', epoch=10)
                assert s['generation'] == 5
            with d.connect() as c2:
                expect_fenced(lambda: hello(c2, generation=4), 5)
            d.kill()
            with self.daemon() as d2:
                assert d2.content() == model.images[10]
                assert d2.status()['epoch'] == 10

    def test_promote(self):
        with self.daemon() as d:
            c, model = self.seeded(d, 5)
            # an epoch that is not committed is not part of what is promoted
            c.send(*c.epoch_messages(6, model.next(6))[:-1])
            out = d.pmemctl('promote')
            assert out.returncode == 0, out.stderr
            lines = out.stdout.splitlines()
            assert 'generation: 2' in lines and 'epoch: 5' in lines, lines
            argv = shlex.split(lines[-1])
            assert argv[0] == '-object' and argv[2] == '-device', argv
            assert argv[1] == (
                'memory-backend-file,id=mem0,mem-path=%s,size=%d,share=on'
                % (d.img, SIZE)), argv
            assert argv[3] == ('pmem-ha,id=pm0,memdev=mem0,slot=1,uuid=%s,'
                               'state-file=%s.state' % (UUID, d.img)), argv
            # the connected primary is told; nothing else ever arrives
            kinds = [m.type for m in c.drain()]
            assert kinds == [wire.FENCED], kinds
            with d.connect() as c2:
                expect_fenced(lambda: hello(c2, generation=1), 2)
            with d.connect() as c2:
                expect_fenced(lambda: hello(c2, generation=3), 2)
            assert d.content() == model.images[5]
            s = wire.read_state_file(d.img + '.state')
            assert [s[k] for k in ('generation', 'captured', 'acked',
                                   'clean')] == [2, 5, 5, True], s
            assert s['digest'] == hashlib.sha256(d.content()).digest()
            assert s['history'] == [(1, 5)] and s['uuid'] == UUID, s
            assert not os.path.exists(d.img + '.replica')
            # a second promotion answers the same and touches nothing
            with open(d.img, 'r+b') as f:
                f.write(b'written by the second host')
            again = d.promote('--state-file', self.work.path('elsewhere'))
            assert again['epoch'] == 5 and again['generation'] == 2, again
            assert again['state-file'] == d.img + '.state', again
            assert not os.path.exists(os.path.join(self.work.dir, 'elsewhere'))
            assert d.content().startswith(b'written by')
        with self.daemon() as d:
            assert d.status()['state'] == 'promoted'
            assert d.content().startswith(b'written by')
            assert not os.path.exists(d.img + '.replica')
            with d.connect() as c:
                expect_fenced(lambda: hello(c), 2)
            # the image is free for the second host
            with open(d.img, 'r+b') as f:
                fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_promote_refusals(self):
        with self.daemon() as d:
            out = d.pmemctl('promote')
            assert out.returncode == 1 and 'no whole image' in out.stderr, out
            out = d.pmemctl('promote', '--export', 'nope')
            assert out.returncode == 1 and "'nope'" in out.stderr, out
            c, _ = self.seeded(d)
            out = d.pmemctl('promote', '--state-file', '/nonexistent/state')
            assert out.returncode == 1, out
            assert '/nonexistent/state' in out.stderr, out
            c.epoch(4, [Page(0, b'a' * PAGE)])
            c.close()
            for verb in ('verify', 'power-fail', 'recover',
                         'metrics'):
                out = d.pmemctl(verb)
                assert out.returncode == 4, out
                assert 'not available yet' in out.stderr, out
            assert d.pmemctl('nonsense').returncode == 2
            assert d.pmemctl('status', socket='absent').returncode == 3

    def test_no_ack_after_promote(self):
        """While a client streams, promotion draws a line: no ACK beyond it."""
        for _ in range(5):
            tmp = self.sub_dir()
            with self.daemon_in(tmp) as d:
                c, model = self.seeded(d)
                acked = []
                ended = []

                # All at once, so that the daemon always finds a next message.
                data = [m for e in range(4, 600)
                        for m in c.epoch_messages(e, model.next(e, 1))]

                def stream():
                    try:
                        c.send(*data)
                    except ConnectionError:
                        pass
                    try:
                        while True:
                            acked.append(c.recv().epoch)
                    except (Fenced, Closed) as x:
                        ended.append(x)

                thread = threading.Thread(target=stream)
                thread.start()
                time.sleep(self.rng.random() * 0.05)
                p = d.promote()
                thread.join(20)
                assert not thread.is_alive()
                assert not acked or acked[-1] <= p['epoch'], (acked, p)
                # The line was drawn where the decision says, not later.
                st = wire.read_state_file(p['state-file'])
                assert st['history'][0] == (1, p['epoch']), (st, p)
                assert [type(x) for x in ended] == [Fenced], ended
                assert d.content() == model.images[p['epoch']]
                c.close()

    def test_big_epoch(self):
        """An epoch beyond journal-size; the journal shrinks again."""
        size = 8 << 20
        with self.daemon(size=size, journal_size=1 << 20) as d:
            with d.connect() as c:
                hello(c, size=size)
                block = b'\x5a' * (1 << 20)
                page = Page(0, block)
                c.send(wire.Msg(wire.COPY, 0, 1, arg0=size),
                       wire.Msg(wire.DATA, wire.ZERO, 1, 0, 0, size))
                c.epoch(1, [], completes=True)
                pages = []
                for i in range(6):
                    p = Page(0, bytes(PAGE))
                    p.offset, p.data, p.zero, p.crc = (i << 20, block, False,
                                                       page.crc)
                    pages.append(p)
                for e in range(2, 5):
                    c.epoch(e, pages)
                assert os.path.getsize(d.journal_path) > 6 << 20
            d.wait_status(journal_bytes=0, epoch=4)
            assert os.path.getsize(d.journal_path) <= (1 << 20) + 16384
            with open(d.img, 'rb') as f:
                assert f.read() == block * 6 + bytes(2 << 20)

    def test_tls(self):
        """Only a primary with a certificate that authz knows gets in."""
        if not shutil.which('openssl'):
            self.skipTest('openssl is missing')

        def run(*cmd):
            subprocess.run(cmd, check=True, capture_output=True,
                           cwd=self.work.dir)

        run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
            '-days',
            '2', '-subj', '/CN=test-ca', '-keyout', 'ca.key', '-out',
            'ca-cert.pem')
        for name in ('server', 'client', 'other'):
            with open(os.path.join(self.work.dir, name + '.ext'), 'w',
                      encoding='utf-8') as f:
                f.write('subjectAltName=DNS:localhost,IP:127.0.0.1\n'
                        'basicConstraints=CA:FALSE\n'
                        'keyUsage=digitalSignature,keyEncipherment\n'
                        'extendedKeyUsage=serverAuth,clientAuth\n')
            run('openssl', 'req', '-newkey', 'rsa:2048', '-nodes', '-subj',
                '/CN=' + name, '-keyout', name + '-key.pem', '-out',
                name + '.csr')
            run('openssl', 'x509', '-req', '-in', name + '.csr', '-CA',
                'ca-cert.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days',
                '2', '-extfile', name + '.ext', '-out', name + '-cert.pem')
        extra = ['--object', 'tls-creds-x509,id=tls0,endpoint=server,'
                 'verify-peer=on,dir=' + self.work.dir,
                 '--object', 'authz-simple,id=az0,identity=CN=client',
                 '--listen', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0,'
                 'tls-creds=tls0,tls-authz=az0']
        with self.daemon(args=extra) as d:
            port = int(re.search(r'127\.0\.0\.1:(\d+)', d.ready).group(1))

            def connect(name):
                ctx = ssl.create_default_context(
                    cafile=os.path.join(self.work.dir, 'ca-cert.pem'))
                if name:
                    ctx.load_cert_chain(
                        os.path.join(self.work.dir, name + '-cert.pem'),
                        os.path.join(self.work.dir, name + '-key.pem'))
                c = Client(('127.0.0.1', port))
                c.sock = ctx.wrap_socket(c.sock, server_hostname='localhost')
                return c

            model = Model()
            with connect('client') as c:
                hello(c)
                c.full_copy(bytes(model.image), 1, model.next(1))
                for e in range(2, 20):
                    c.epoch(e, model.next(e))
            d.wait_status(state='disconnected', epoch=19)
            for name in ('other', None):
                try:
                    with connect(name) as c:
                        hello(c)
                    raise AssertionError('let in: %s' % name)
                except (ssl.SSLError, Closed, ConnectionError):
                    pass
            with Client(('127.0.0.1', port)) as c:
                try:
                    hello(c)
                    raise AssertionError('plaintext let in')
                except (Closed, ConnectionError, AssertionError) as x:
                    assert 'let in' not in str(x)


if __name__ == '__main__':
    main()
