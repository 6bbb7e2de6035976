# SPDX-License-Identifier: GPL-2.0-or-later
"""
An NBD server with two views of one disk, as two hosts have them: what one
writes reaches the other after a flush only, or never; and reads of one can be
held, fail, or break off.

Fixed newstyle negotiation and simple replies (the NBD protocol's document
doc/proto.md); one thread per connection.
"""

import os
import socket
import struct
import threading

OPTION_MAGIC = 0x49484156454f5054
REPLY_MAGIC = 0x3e889045565a9
REQUEST, REPLY = 0x25609513, 0x67446698
EXPORT_NAME, ABORT, INFO, GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH = range(4)
# HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN
FLAGS = 1 | 4 | 256
EIO, EINVAL = 5, 22
LARGEST = 32 << 20


class View:
    """
    An export.  `own`: what it reads; None: what was written.  Attributes may
    be set at any time.
    """

    def __init__(self, server):
        self.server = server
        self.own = None
        self.fails = lambda offset, size: False     # a read gives EIO
        self.breaks = lambda offset, size: False    # ... or ends half way
        self.gate = threading.Event()               # cleared: reads wait
        self.gate.set()
        self.which = None
        self.cond = threading.Condition()
        self.waiting = 0
        self.reads = 0
        self.bytes = 0

    def hold(self, which=lambda offset, size: True):
        """Reads for which it is true wait for release()."""
        self.which = which
        self.gate.clear()

    def release(self):
        self.gate.set()

    def wait_held(self, timeout=30):
        """Until a read waits"""
        with self.cond:
            if not self.cond.wait_for(lambda: self.waiting, timeout):
                raise AssertionError('no read came')

    def read(self, offset, size):
        with self.cond:
            self.reads += 1
            self.bytes += size
        if not self.gate.is_set() and self.which(offset, size):
            with self.cond:
                self.waiting += 1
                self.cond.notify_all()
            self.gate.wait()
            with self.cond:
                self.waiting -= 1
        with self.server.lock:
            data = self.server.data if self.own is None else self.own
            return bytes(data[offset:offset + size])


class NbdServer:
    """
    Views by name: self.views['src'], self.views['dst'].  The first one sees
    each write at once; `dst` sees what was flushed, unless its `own` is set.
    """

    def __init__(self, work, data, name='nbd'):
        self.path = f'{name}.sock'
        self.lock = threading.Lock()
        self.data = bytearray(data)
        self.views = {'src': View(self), 'dst': View(self)}
        self.views['dst'].own = bytearray(data)
        self.follows = True             # `dst` after a flush
        self.flushes = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.relpath(work.path(self.path)))
        self.listener.listen(64)
        self.open = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def blockdev(self, view, node):
        return ('-blockdev', f'driver=nbd,node-name={node},server.type=unix,'
                f'server.path={self.path},export={view}')

    def close(self):
        for view in self.views.values():
            view.release()
        self.listener.close()
        for s in list(self.open):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,),
                             daemon=True).start()

    def _serve(self, s):
        self.open.add(s)
        try:
            view = self._negotiate(s)
            while view and self._request(s, view):
                pass
        except (OSError, EOFError):
            pass
        finally:
            self.open.discard(s)
            s.close()

    @staticmethod
    def _receive(s, n):
        data = b''
        while len(data) < n:
            more = s.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _negotiate(self, s):
        s.sendall(b'NBDMAGIC' + struct.pack('>QH', OPTION_MAGIC, 3))
        self._receive(s, 4)
        while True:
            _, option, length = struct.unpack('>QII', self._receive(s, 16))
            data = self._receive(s, length)

            def reply(kind, body=b'', option=option):
                s.sendall(struct.pack('>QIII', REPLY_MAGIC, option, kind,
                                      len(body)) + body)

            if option == ABORT:
                reply(REP_ACK)
                return None
            if option == EXPORT_NAME:
                s.sendall(struct.pack('>QH', len(self.data), FLAGS))
                return self.views[data.decode()]
            if option not in (INFO, GO):
                reply(REP_UNSUPPORTED)
                continue
            n, = struct.unpack('>I', data[:4])
            reply(REP_INFO, struct.pack('>HQH', 0, len(self.data), FLAGS))
            reply(REP_ACK)
            if option == GO:
                return self.views[data[4:4 + n].decode()]

    def _request(self, s, view):
        magic, _, kind, handle, offset, size = struct.unpack(
            '>IHHQQI', self._receive(s, 28))
        if magic != REQUEST or kind == DISCONNECT or size > LARGEST:
            return False
        error, data = 0, b''
        if kind == READ:
            data = view.read(offset, size)
            if view.breaks(offset, size):
                s.sendall(struct.pack('>IIQ', REPLY, 0, handle) +
                          data[:size // 2])
                return False
            if view.fails(offset, size):
                error, data = EIO, b''
        elif kind == WRITE:
            data = self._receive(s, size)
            with self.lock:
                self.data[offset:offset + size] = data
            data = b''
        elif kind == FLUSH:
            with self.lock:
                self.flushes += 1
                if self.follows:
                    self.views['dst'].own[:] = self.data
        else:
            error = EINVAL
        s.sendall(struct.pack('>IIQ', REPLY, error, handle) + data)
        return True
