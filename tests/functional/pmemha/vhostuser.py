# SPDX-License-Identifier: GPL-2.0-or-later
"""
The other end of a vhost-user-blk: QEMU's example program, or a thread that
answers what realize asks and lacks what a test says.
"""

import os
import socket
import struct
import threading

from .paths import program, scaled
from .process import Process

# Requests and features of docs/interop/vhost-user.rst
GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG = 1, 15, 17, 24
SET_LOG_BASE, GET_VRING_BASE = 6, 11
VERSION, REPLY, NEED_REPLY = 1, 4, 8
F_LOG_ALL, F_PROTOCOL_FEATURES, F_VERSION_1 = 26, 30, 32
P_LOG_SHMFD, P_REPLY_ACK, P_CONFIG = 1, 3, 9


def backend(work, name, disk, adopt):
    """QEMU's vhost-user-blk on `disk`; it serves one connection, then ends."""
    p = adopt(Process(work, name, [program('VHOST_USER_BLK'),
                                   f'--blk-file={disk}']))
    path = work.path(f'{name}.sock')
    if os.path.exists(path):
        os.unlink(path)
    p.argv += ['--fd', p.listener(f'{name}.sock')]
    return p.start()


class MuteBackend(threading.Thread):
    """Serves one connection after the other, and moves no data."""

    def __init__(self, work, name, features=(F_LOG_ALL,),
                 protocol=(P_LOG_SHMFD,)):
        super().__init__(name=name, daemon=True)
        self.answers = {
            GET_FEATURES: self._bits((F_PROTOCOL_FEATURES, F_VERSION_1,
                                      *features)),
            GET_PROTOCOL_FEATURES: self._bits((P_CONFIG, P_REPLY_ACK,
                                               *protocol)),
            GET_QUEUE_NUM: 1,
        }
        self.current = None
        self.connections = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.path = work.path(f'{name}.sock')
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener.bind(os.path.relpath(self.path))
        self.listener.listen()
        self.start()

    @staticmethod
    def _bits(numbers):
        return sum(1 << n for n in set(numbers))

    def run(self):
        while True:
            try:
                self.current, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with self.current:
                try:
                    while self._answer(self.current):
                        pass
                except OSError:
                    pass                # QEMU gave up

    def _receive(self, sock, size):
        data = b''
        while len(data) < size:
            part, fds, _, _ = socket.recv_fds(sock, size - len(data), 16)
            for fd in fds:
                os.close(fd)
            if not part:
                return None
            data += part
        return data

    def _answer(self, sock):
        head = self._receive(sock, 12)
        if head is None:
            return False
        request, flags, size = struct.unpack('<III', head)
        payload = self._receive(sock, size) if size else b''
        if request == GET_CONFIG:
            # offset, size and flags; 2,048 sectors
            reply = payload[:12] + struct.pack('<Q', 2048).ljust(
                len(payload) - 12, b'\0')
        elif request == GET_VRING_BASE:
            reply = payload
        elif request in self.answers:
            reply = struct.pack('<Q', self.answers[request])
        elif flags & NEED_REPLY or request == SET_LOG_BASE:
            reply = struct.pack('<Q', 0)
        else:
            return True
        sock.sendall(struct.pack('<III', request, VERSION | REPLY,
                                 len(reply)) + reply)
        return True

    def kill(self):
        """As of a process, for TestCase.adopt()"""
        for sock in (self.listener, self.current):
            try:
                if sock:
                    sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass                    # the other end was first
        self.join(scaled(10))
        self.listener.close()
