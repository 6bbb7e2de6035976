# SPDX-License-Identifier: GPL-2.0-or-later
"""A replica that answers what a test wants, also what no replica should"""

import os
import socket
import struct
import threading

from . import wire
from .paths import scaled
from .wire import Closed, Msg


class Connection(wire.Client):
    """The replica's end of a connection"""

    def __init__(self, sock):       # not that of Client, which connects
        self.sock = sock
        self.sock.settimeout(scaled(30))
        self.tx_seq = 0
        self.rx_seq = 0
        self.generation = 0

    def welcome(self):
        """Without an image, so that a full copy comes"""
        hello = self.recv_raw()
        assert hello.type == wire.HELLO, wire.NAMES[hello.type]
        self.generation = hello.generation
        self.send(Msg(wire.WELCOME, 0, self.generation,
                      payload=struct.pack('<IIQQ', 0, 0, 0, 0)))
        return hello

    def commit(self):
        """Take in all up to the next COMMIT; each PING is answered."""
        while True:
            m = self.recv_raw()
            if m.type == wire.PING:
                self.send(Msg(wire.PONG, 0, self.generation, arg0=m.arg0))
            elif m.type == wire.COMMIT:
                return m

    def ack(self, epoch):
        self.send(Msg(wire.ACK, 0, self.generation, epoch))


def honest(c):
    """What a replica should do, but for keeping the data"""
    c.welcome()
    while True:
        c.ack(c.commit().epoch)


def silent(c):
    """Takes everything and answers nothing"""
    while c.sock.recv(1 << 16):
        pass


class ScriptedReplica(threading.Thread):
    """
    Runs `script` with one connection after the other; assign another function
    to change the answers from the next connection on.
    """

    def __init__(self, work, script, name='peer.sock'):
        super().__init__(name=name, daemon=True)
        self.socket = name
        self.script = script
        self.error = None
        self.current = None
        self.mutex = threading.Lock()
        self.over = False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.relpath(work.path(name)))
        self.listener.listen()
        self.start()

    def object(self, ident='r0'):
        return (f'pmem-replica,id={ident},addr.type=unix,'
                f'addr.path={self.socket},export=pm0')

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.mutex:
                if self.over:
                    sock.close()
                    return
                self.current = sock
            try:
                self.script(Connection(sock))
            except (Closed, OSError):
                pass                    # the primary gave up
            except AssertionError as e:
                self.error = e
            with self.mutex:
                self.current = None
                sock.close()

    def kill(self):
        """As of a process, for TestCase.adopt()"""
        with self.mutex:
            self.over = True
            for sock in (self.listener, self.current):
                try:
                    if sock:
                        sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass                # the other end was first
        self.join(scaled(10))
        self.listener.close()
        if self.error:
            raise self.error
