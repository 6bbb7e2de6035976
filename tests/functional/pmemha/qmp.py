# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP client: replies and events, each wait bounded."""
import json
import socket
import time

from .lines import Timeout


class QmpError(Exception):
    pass


class Qmp:
    def __init__(self, path, timeout=30, alive=lambda: True):
        deadline = time.monotonic() + timeout
        self.events = []
        self.pending = b''
        self.sock = socket.socket(socket.AF_UNIX)
        # The server's socket appears when it listens; there is no event for
        # that outside of it, so this is the one place that polls.
        while True:
            try:
                self.sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if not alive() or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._message(timeout)
        self.cmd('qmp_capabilities')

    def _message(self, timeout):
        deadline = time.monotonic() + timeout
        while b'\n' not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Timeout('QMP: nothing within %g s' % timeout)
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                continue
            if not data:
                raise EOFError('QMP: connection closed')
            self.pending += data
        line, self.pending = self.pending.split(b'\n', 1)
        return json.loads(line)

    def cmd(self, name, timeout=30, **args):
        """Arguments with '-' in their names: write '_'."""
        message = {'execute': name}
        if args:
            message['arguments'] = {k.replace('_', '-'): v
                                    for k, v in args.items()}
        self.sock.sendall(json.dumps(message).encode() + b'\n')
        deadline = time.monotonic() + timeout
        while True:
            reply = self._message(deadline - time.monotonic())
            if 'return' in reply:
                return reply['return']
            if 'error' in reply:
                raise QmpError(reply['error']['desc'])
            self.events.append(reply)

    def hmp(self, line, timeout=30):
        return self.cmd('human-monitor-command', timeout, command_line=line)

    def wait_event(self, name, timeout=30, **data):
        """The next event of that name whose data has these members."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for i in range(seen, len(self.events)):
                event = self.events[i]
                have = event.get('data', {})
                if event.get('event') == name and all(
                        have.get(k) == v for k, v in data.items()):
                    del self.events[:i + 1]
                    return event
            seen = len(self.events)
            left = deadline - time.monotonic()
            if left <= 0:
                raise Timeout('QMP: no event %s %r; have %r'
                              % (name, data, self.events))
            self.events.append(self._message(left))

    def close(self):
        self.sock.close()
