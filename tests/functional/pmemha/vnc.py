# SPDX-License-Identifier: GPL-2.0-or-later
"""A VNC client that asks for the whole screen again and again"""

import os
import socket
import struct
import threading
import time

from .paths import scaled

RAW = 0
DESKTOP_SIZE = -223


def connect_unix(work, name, timeout=10):
    """
    A socket of the work directory, whose path may be too long for the
    address of a socket.
    """
    fd = os.open(work.dir, os.O_RDONLY | os.O_DIRECTORY)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(scaled(timeout))
    try:
        sock.connect(f'/proc/self/fd/{fd}/{name}')
    except OSError:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def receive(sock, size):
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError('the other end is gone')
        data += part
    return bytes(data)


class VncClient(threading.Thread):
    """
    Counts complete updates.  The dirty log of the screen makes QEMU run work
    on each vCPU with its big lock held: a vCPU that does not serve its queue
    hangs everything, and only with a client attached.
    """

    def __init__(self, work, name='vnc.sock', timeout=60):
        super().__init__(name='vnc', daemon=True)
        self.sock = connect_unix(work, name, timeout)
        self.cond = threading.Condition()
        self.updates = 0
        self.error = None
        self.size = self._handshake()
        self.start()

    def _handshake(self):
        s = self.sock
        version = receive(s, 12)
        assert version.startswith(b'RFB 003.'), version
        s.sendall(b'RFB 003.008\n')
        types = receive(s, receive(s, 1)[0])
        assert 1 in types, types                # no authentication
        s.sendall(b'\1')
        assert receive(s, 4) == bytes(4)
        s.sendall(b'\1')                        # shared
        width, height = struct.unpack('>HH', receive(s, 4))
        self.pixel = receive(s, 16)[0] // 8
        receive(s, struct.unpack('>I', receive(s, 4))[0])
        s.sendall(struct.pack('>BxHii', 2, 2, RAW, DESKTOP_SIZE))
        return width, height

    def run(self):
        try:
            while True:
                width, height = self.size
                self.sock.sendall(struct.pack('>BBHHHH', 3, 0, 0, 0, width,
                                              height))
                self._update()
                with self.cond:
                    self.updates += 1
                    self.cond.notify_all()
        except (OSError, ConnectionError, AssertionError) as e:
            with self.cond:
                self.error = e
                self.cond.notify_all()

    def _update(self):
        s = self.sock
        while True:
            kind = receive(s, 1)[0]
            if kind == 0:
                break
            assert kind in (2, 3), kind         # bell, clipboard
            if kind == 3:
                _, length = struct.unpack('>3sI', receive(s, 7))
                receive(s, length)
        for _ in range(struct.unpack('>xH', receive(s, 3))[0]):
            _, _, w, h, encoding = struct.unpack('>HHHHi', receive(s, 12))
            if encoding == DESKTOP_SIZE:
                self.size = w, h
            else:
                assert encoding == RAW, encoding
                receive(s, w * h * self.pixel)

    def wait_updates(self, count, timeout):
        """Until so many more updates have arrived"""
        end = time.monotonic() + scaled(timeout)
        with self.cond:
            target = self.updates + count
            while self.updates < target:
                left = end - time.monotonic()
                assert not self.error, f'VNC: {self.error}'
                assert left > 0, (f'VNC: no update within {scaled(timeout):g}'
                                  f' s, {self.updates} before')
                self.cond.wait(left)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.join(scaled(10))
        self.sock.close()
