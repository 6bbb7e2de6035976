# SPDX-License-Identifier: GPL-2.0-or-later
"""A debugger at QEMU's gdbstub: just enough of the remote protocol"""

from .vnc import connect_unix


class Gdb:
    """Connecting stops the guest; detach() lets it run."""

    def __init__(self, work, name='gdb.sock', timeout=5):
        self.sock = connect_unix(work, name, timeout)
        self.data = b''

    def _byte(self):
        if not self.data:
            self.data = self.sock.recv(1 << 16)
            if not self.data:
                raise AssertionError('gdbstub closed the connection')
        byte, self.data = self.data[:1], self.data[1:]
        return byte

    def send(self, text):
        raw = text.encode()
        self.sock.sendall(b'$%s#%02x' % (raw, sum(raw) & 0xff))

    def packet(self):
        """The next packet; acknowledged"""
        while self._byte() != b'$':
            pass
        body = b''
        while True:
            byte = self._byte()
            if byte == b'#':
                break
            body += byte
        total = int(self._byte() + self._byte(), 16)
        assert total == sum(body) & 0xff, body
        self.sock.sendall(b'+')
        return body.decode()

    def ask(self, text):
        self.send(text)
        return self.packet()

    def wait_stop(self):
        """The guest stopped, for whatever reason"""
        while True:
            reply = self.packet()
            if reply[0] in 'TS':
                return reply

    def interrupt(self):
        self.sock.sendall(b'\3')
        return self.wait_stop()

    def detach(self):
        reply = self.ask('D')
        assert reply == 'OK', reply
        self.close()

    def close(self):
        self.sock.close()
