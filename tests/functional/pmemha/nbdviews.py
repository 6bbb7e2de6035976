# SPDX-License-Identifier: GPL-2.0-or-later
"""
An NBD server whose exports are views of one store, as hosts with caches of
their own have it, and which fails as it is told.

What a client writes to an export is seen by that export at once, and by the
others after a flush.  Faults are set while QEMU runs::

  server = NbdServer(path, content)         # exports 'src' and 'dst'
  server.export('dst').freeze()             # sees nothing that is new
  server.export('dst').fault = eio_every(3)
  server.export('dst').hold()               # reads wait; wait_held(), release()

Own code, because a server of the distribution would need its faults as plug-ins
in another process, and could not be asked what it holds.
"""

import socket
import struct
import threading
import time

from .paths import scaled

BLOCK = 4096

_OPT_MAGIC = b'IHAVEOPT'
_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_INFO, _OPT_GO = 1, 2, 6, 7
_REP_MAGIC = 0x3e889045565a9
_REP_ACK, _REP_INFO = 1, 3
_REP_ERR_UNSUP, _REP_ERR_UNKNOWN = 0x80000001, 0x80000006
_NO_ZEROES = 2
_EXPORT_FLAGS = 1 | 4 | 8 | 256     # has flags, flush, FUA, multi-conn

_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
_FUA = 1
_EIO, _EINVAL = 5, 22
_MAX_LENGTH = 32 << 20

# What a fault function may answer
EIO, DROP = 'eio', 'drop'


def eio_every(n):
    """Each nth read fails."""
    return lambda op, number, offset, length: \
        EIO if op == READ and number % n == 0 else None


def eio_range(start, end):
    """Reads that touch these bytes fail."""
    return lambda op, number, offset, length: \
        EIO if op == READ and offset < end and offset + length > start \
        else None


def drop_at(n):
    """The connection ends in the middle of the reply to the nth read."""
    return lambda op, number, offset, length: \
        DROP if op == READ and number >= n else None


class _Gone(Exception):
    """The client closed the connection"""


class Export:
    """
    A view of the store.  `reads`, `read_bytes`, `writes`, `flushes` count;
    `fault(op, number of the read, offset, length)` is asked for each
    request, and `alter(number, offset, data)` makes what a read returns.
    """

    def __init__(self, server, name, size):
        self.server = server
        self.name = name
        self.size = size
        self.content = server.store
        self.cache = {}                 # written and not flushed, by block
        self.fault = None
        self.alter = None
        self.reads = self.read_bytes = self.writes = self.flushes = 0
        self._hold_from = None          # number of the first read that waits
        self._held = []

    # by tests

    def freeze(self):
        """It sees nothing that others write from now on."""
        with self.server.cond:
            self.content = bytearray(self.server.store)

    def thaw(self):
        with self.server.cond:
            self.content = self.server.store

    def replace(self, content):
        """It sees another disk."""
        with self.server.cond:
            self.content = bytearray(content)
            self.size = len(content)

    def overwrite(self, offset, data):
        """As another client would: at once, for all that look at the store"""
        with self.server.cond:
            self.content[offset:offset + len(data)] = data

    def reset_counts(self):
        with self.server.cond:
            self.writes = self.flushes = 0
            self.reads = self.read_bytes = 0

    def hold(self, after=0):
        """Reads, but for the next `after`, get no answer until release()."""
        with self.server.cond:
            self._hold_from = self.reads + after + 1

    def wait_held(self, n=1, timeout=20):
        """At least n reads wait."""
        end = time.monotonic() + scaled(timeout)
        with self.server.cond:
            while len(self._held) < n:
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f'{len(self._held)} reads of {self.name} wait, '
                        f'not {n}')
                self.server.cond.wait(left)

    def held(self):
        with self.server.cond:
            return len(self._held)

    def release(self):
        with self.server.cond:
            self._hold_from = None
            held, self._held = self._held, []
        for answer in held:
            answer()

    # by connections; the server's lock is held

    def _blocks(self, offset, length):
        return range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)

    def waits(self):
        return self._hold_from is not None and self.reads >= self._hold_from

    def read(self, offset, length):
        data = bytearray(self.content[offset:offset + length])
        if self.cache:
            for b in self._blocks(offset, length):
                cached = self.cache.get(b)
                if cached is None:
                    continue
                at = b * BLOCK - offset
                lo, hi = max(at, 0), min(at + BLOCK, length)
                data[lo:hi] = cached[lo - at:hi - at]
        return data

    def write(self, offset, data):
        for b in self._blocks(offset, len(data)):
            at = b * BLOCK
            block = self.cache.get(b)
            if block is None:
                block = self.cache[b] = bytearray(
                    self.content[at:at + BLOCK])
            lo, hi = max(offset, at), min(offset + len(data), at + BLOCK)
            block[lo - at:hi - at] = data[lo - offset:hi - offset]

    def flush(self):
        for b, block in self.cache.items():
            at = b * BLOCK
            size = min(BLOCK, len(self.content) - at)
            self.content[at:at + size] = block[:size]
        self.cache = {}


class _Connection(threading.Thread):
    def __init__(self, server, sock):
        super().__init__(name='nbd', daemon=True)
        self.server = server
        self.sock = sock
        self.out = threading.Lock()
        self.export = None

    def take(self, n):
        data = bytearray()
        while len(data) < n:
            got = self.sock.recv(min(n - len(data), 1 << 20))
            if not got:
                raise _Gone
            data += got
        return bytes(data)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def run(self):
        try:
            if self.handshake():
                while self.request():
                    pass
        except (_Gone, OSError):
            pass
        self.close()
        self.sock.close()

    def reply_option(self, option, kind, data=b''):
        self.sock.sendall(struct.pack('>QIII', _REP_MAGIC, option, kind,
                                      len(data)) + data)

    def handshake(self):
        self.sock.sendall(b'NBDMAGIC' + _OPT_MAGIC + struct.pack('>H', 3))
        flags, = struct.unpack('>I', self.take(4))
        while True:
            magic, option, length = struct.unpack('>8sII', self.take(16))
            if magic != _OPT_MAGIC or length > 1 << 16:
                return False
            data = self.take(length)
            if option == _OPT_ABORT:
                self.reply_option(option, _REP_ACK)
                return False
            if option == _OPT_EXPORT_NAME:
                self.export = self.server.exports.get(data.decode())
                if self.export:
                    self.sock.sendall(
                        struct.pack('>QH', self.export.size, _EXPORT_FLAGS) +
                        (b'' if flags & _NO_ZEROES else bytes(124)))
                return bool(self.export)
            if option not in (_OPT_INFO, _OPT_GO) or length < 6:
                self.reply_option(option, _REP_ERR_UNSUP)
                continue
            size, = struct.unpack_from('>I', data)
            export = self.server.exports.get(data[4:4 + size].decode())
            if not export:
                self.reply_option(option, _REP_ERR_UNKNOWN)
                continue
            self.reply_option(option, _REP_INFO,
                              struct.pack('>HQH', 0, export.size,
                                          _EXPORT_FLAGS))
            self.reply_option(option, _REP_ACK)
            if option == _OPT_GO:
                self.export = export
                return True

    def answer(self, handle, error, data=b''):
        with self.out:
            self.sock.sendall(struct.pack('>IIQ', _REPLY_MAGIC, error,
                                          handle) + data)

    def answer_late(self, handle, error, data):
        """Of a read that was held; the client may be gone by now."""
        try:
            self.answer(handle, error, data)
        except OSError:
            pass

    def request(self):
        """False when the connection shall end"""
        magic, flags, op, handle, offset, length = struct.unpack(
            '>IHHQQI', self.take(28))
        if magic != _REQUEST_MAGIC or length > _MAX_LENGTH or op == DISC:
            return False
        data = self.take(length) if op == WRITE else b''
        e = self.export
        with self.server.cond:
            if op in (READ, WRITE) and \
                    (not length or offset + length > e.size):
                error, data = _EINVAL, b''
            else:
                error, data = self.perform(e, op, flags, offset, length, data)
            if op == READ and e.waits():
                e._held.append(lambda: self.answer_late(handle, error, data))
                self.server.cond.notify_all()
                return True
        if error == DROP:
            with self.out:
                self.sock.sendall(struct.pack('>IIQ', _REPLY_MAGIC, 0,
                                              handle) +
                                  data[:len(data) // 2])
            return False
        self.answer(handle, error, data)
        return True

    def perform(self, e, op, flags, offset, length, data):
        """(error, what a read returns); under the server's lock"""
        if op == READ:
            e.reads += 1
            e.read_bytes += length
        fault = e.fault(op, e.reads, offset, length) if e.fault else None
        if fault == EIO:
            return _EIO, b''
        if op == READ:
            data = e.read(offset, length)
            if e.alter:
                data = e.alter(e.reads, offset, data)
            return DROP if fault == DROP else 0, data
        if op == WRITE:
            e.writes += 1
            e.write(offset, data)
            if flags & _FUA:
                e.flush()
        elif op == FLUSH:
            e.flushes += 1
            e.flush()
        else:
            return _EINVAL, b''
        return 0, b''


class NbdServer(threading.Thread):
    """Listens at a Unix socket; close() ends it and all connections."""

    def __init__(self, path, content, exports=('src', 'dst')):
        super().__init__(name='nbd-server', daemon=True)
        self.path = path
        self.store = bytearray(content)
        self.cond = threading.Condition(threading.RLock())
        self.exports = {name: Export(self, name, len(self.store))
                        for name in exports}
        self.connections = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(16)
        self.start()

    def export(self, name):
        return self.exports[name]

    def run(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            connection = _Connection(self, sock)
            self.connections.append(connection)
            connection.start()

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        for e in self.exports.values():
            e.release()
        for c in self.connections:
            c.close()
        for t in [self, *self.connections]:
            t.join(scaled(10))
