# SPDX-License-Identifier: GPL-2.0-or-later
"""
A client of qemu-pmem-replica that shares no code with QEMU.

Written from docs/interop/pmem-ha-protocol.rst and
docs/specs/pmem-ha-media.rst.
"""

import os
import socket
import struct
import uuid as uuidlib

MAGIC = 0x41484d50
VERSION = 1
HEADER = struct.Struct('<IHHIIQQQQQII')
PAGE = 4096

(HELLO, WELCOME, REFUSE, COPY, DATA, BEGIN, COMMIT, ACK, FENCED, PING, PONG,
 CLEAN, FAIL) = range(1, 14)
NAMES = ('?', 'HELLO', 'WELCOME', 'REFUSE', 'COPY', 'DATA', 'BEGIN', 'COMMIT',
         'ACK', 'FENCED', 'PING', 'PONG', 'CLEAN', 'FAIL')

ZERO = 1
COMPLETES_COPY = 2
TAKE = 1                        # in the payload of HELLO
GROUP = 2                       # in the same field: further devices follow
ADOPT = 4

RECEIVED, JOURNALED, APPLIED = range(3)

(R_PROTOCOL, R_NO_EXPORT, R_SIZE, R_SLOT, R_LABEL_SIZE, R_UUID, R_BUSY,
 R_DAMAGED, R_NO_SPACE, R_IO, R_WENT_ON) = range(1, 12)


def _table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82f63b78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _table()


def crc32c(data):
    crc = 0xffffffff
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xff] ^ (crc >> 8)
    return crc ^ 0xffffffff


class Closed(Exception):
    """The other side closed the connection."""


class Refused(Exception):
    def __init__(self, kind, code, text):
        super().__init__('%s %d: %s' % (NAMES[kind], code, text))
        self.kind = kind
        self.code = code
        self.text = text


class Fenced(Exception):
    def __init__(self, generation):
        super().__init__('fenced by generation %d' % generation)
        self.generation = generation


class Msg:
    def __init__(self, type, flags=0, generation=0, epoch=0, arg0=0, arg1=0,
                 payload=b'', crc=None):
        self.type = type
        self.flags = flags
        self.generation = generation
        self.epoch = epoch
        self.arg0 = arg0
        self.arg1 = arg1
        self.payload = payload
        if crc is None:
            crc = crc32c(payload) if payload else 0
        self.crc = crc

    def encode(self, seq):
        head = HEADER.pack(MAGIC, VERSION, self.type, self.flags,
                           len(self.payload), self.generation, self.epoch,
                           self.arg0, self.arg1, seq, self.crc, 0)[:60]
        return head + struct.pack('<I', crc32c(head)) + self.payload


class Page:
    """Content of one range, with its checksum worked out once."""

    def __init__(self, offset, data):
        self.offset = offset
        self.data = data
        self.zero = not any(data)
        self.crc = 0 if self.zero else crc32c(data)

    def msg(self, generation, epoch):
        return Msg(DATA, ZERO if self.zero else 0, generation, epoch,
                   self.offset, len(self.data),
                   b'' if self.zero else self.data, self.crc)


def digest_of(messages):
    digest = 0
    for m in messages:
        digest = crc32c(struct.pack('<IQQII', digest, m.arg0, m.arg1, m.flags,
                                    m.crc))
    return digest


class Client:
    """One connection of a primary."""

    def __init__(self, address, timeout=20):
        family = socket.AF_UNIX if isinstance(address, str) \
            else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(address)
        self.tx_seq = 0
        self.rx_seq = 0
        self.generation = 0

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def send(self, *messages):
        data = []
        for m in messages:
            data.append(m.encode(self.tx_seq))
            self.tx_seq += 1
        self.sock.sendall(b''.join(data))

    def _read(self, n):
        data = b''
        while len(data) < n:
            try:
                part = self.sock.recv(n - len(data))
            except ConnectionError as e:
                raise Closed(str(e)) from e
            if not part:
                raise Closed('end of stream after %d of %d bytes'
                             % (len(data), n))
            data += part
        return data

    def recv_raw(self):
        head = self._read(64)
        (magic, version, type_, flags, length, generation, epoch, arg0, arg1,
         seq, crc, head_crc) = HEADER.unpack(head)
        assert magic == MAGIC and version == VERSION, head
        assert head_crc == crc32c(head[:60]), 'header checksum'
        assert seq == self.rx_seq, (seq, self.rx_seq)
        self.rx_seq += 1
        payload = self._read(length)
        assert crc == (crc32c(payload) if payload else 0), 'payload checksum'
        return Msg(type_, flags, generation, epoch, arg0, arg1, payload, crc)

    def recv(self):
        """The next message; what ends a connection is an exception."""
        m = self.recv_raw()
        if m.type in (REFUSE, FAIL):
            raise Refused(m.type, m.arg0, m.payload.decode())
        if m.type == FENCED:
            raise Fenced(m.generation)
        return m

    def hello(self, generation=1, name='pm0', uuid=None, size=0, label_size=0,
              slot=0, ack=JOURNALED, captured=0, acked=0, instance=1,
              take=False, adopt=None, more=()):
        """
        @adopt: path of the image to be adopted.
        Returns (have_image, generation, epoch) of the replica.
        """
        self.generation = generation
        raw = name.encode()
        uuid = uuid or uuidlib.UUID(int=0x1234)
        payload = uuid.bytes + struct.pack(
            '<QQIIQQQII', size, label_size, slot, ack, captured, acked,
            instance, len(raw),
            (TAKE if take else 0) | (GROUP if more else 0) |
            (ADOPT if adopt else 0)) + raw
        for device_uuid, *numbers in more:
            payload += device_uuid.bytes + struct.pack('<QQII', *numbers, 0)
        if adopt:
            with open('/proc/sys/kernel/random/boot_id',
                      encoding='ascii') as f:
                payload += uuidlib.UUID(f.read().strip()).bytes
            st = os.stat(adopt)
            payload += struct.pack('<QQ', st.st_dev, st.st_ino)
        self.send(Msg(HELLO, 0, generation, payload=payload))
        m = self.recv()
        assert m.type == WELCOME, m.type
        have, _, gen, epoch = struct.unpack('<IIQQ', m.payload)
        if take:
            self.generation = gen
        return bool(have), gen, epoch

    def copy_messages(self, image, chunk=16 * PAGE):
        out = [Msg(COPY, 0, self.generation, arg0=len(image))]
        for at in range(0, len(image), chunk):
            out.append(Page(at, image[at:at + chunk]).msg(self.generation, 0))
        return out

    def epoch_messages(self, epoch, pages, completes=False):
        flags = COMPLETES_COPY if completes else 0
        data = [p.msg(self.generation, epoch) for p in pages]
        commit = Msg(COMMIT, flags, self.generation, epoch, len(data),
                     sum(m.arg1 for m in data),
                     struct.pack('<I', digest_of(data)))
        return [Msg(BEGIN, flags, self.generation, epoch)] + data + [commit]

    def wait_ack(self, epoch):
        m = self.recv()
        assert m.type == ACK and m.epoch == epoch, (NAMES[m.type], m.epoch)

    def epoch(self, epoch, pages, completes=False):
        self.send(*self.epoch_messages(epoch, pages, completes))
        self.wait_ack(epoch)

    def full_copy(self, image, epoch, pages=()):
        self.send(*self.copy_messages(image))
        self.epoch(epoch, pages, completes=True)

    def drain(self):
        """All that still arrives until the connection ends."""
        got = []
        try:
            while True:
                got.append(self.recv_raw())
        except Closed:
            return got


def read_state_file(path):
    """The newest record of a primary's state file."""
    best = None
    with open(path, 'rb') as f:
        for _ in range(2):
            slot = f.read(4096)
            if len(slot) < 4096 or slot[:8] != b'PMHASTAT':
                continue
            if struct.unpack('<I', slot[4092:])[0] != crc32c(slot[:4092]):
                continue
            number = struct.unpack_from('<Q', slot, 16)[0]
            if best and best['number'] > number:
                continue
            size, generation, captured, acked, flags = struct.unpack_from(
                '<QQQQI', slot, 40)
            history = struct.unpack_from('<16Q', slot, 128)
            best = {
                'number': number,
                'uuid': uuidlib.UUID(bytes=slot[24:40]),
                'size': size, 'generation': generation,
                'captured': captured, 'acked': acked, 'clean': bool(flags & 1),
                'digest': slot[80:112],
                'history': [h for h in zip(history[::2], history[1::2])
                            if h[0]],
            }
    return best
