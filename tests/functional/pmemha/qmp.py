# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP over a connected socket: commands, errors and events"""

import itertools
import json
import socket
import time

from .lines import Channel


class QmpError(AssertionError):
    """An error that the other side reported"""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['desc']}")
        self.desc = error['desc']
        self.error_class = error['class']


class QmpChannel(Channel):
    """Lines are JSON: replies go to their command, events to a list."""

    def __init__(self, sock, name, log=None):
        self.greeting = None
        self.replies = {}
        self.events = []
        self.event_cursor = 0
        self.ids = itertools.count(1)
        super().__init__(sock, name, log)

    def line(self, now, text):
        super().line(now, text)
        if not text.strip():
            return
        msg = json.loads(text)
        if 'QMP' in msg:
            self.greeting = msg['QMP']
        elif 'event' in msg:
            msg['arrived'] = now
            self.events.append(msg)
        else:
            self.replies[msg.get('id')] = msg

    def negotiate(self, timeout=20):
        self.wait(lambda: self.greeting, timeout, 'QMP greeting')
        self.cmd('qmp_capabilities', timeout)

    def start_cmd(self, command, arguments=None, oob=False, fds=()):
        """Send a command and return its id for finish_cmd()."""
        n = next(self.ids)
        msg = {'exec-oob' if oob else 'execute': command, 'id': n}
        if arguments:
            msg['arguments'] = arguments
        data = (json.dumps(msg) + '\n').encode()
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.send(data)
        return n, command

    def finish_cmd(self, started, timeout=10):
        n, command = started
        reply = self.wait(lambda: self.replies.pop(n, None), timeout,
                          f'reply to {command}')
        if 'error' in reply:
            raise QmpError(command, reply['error'])
        return reply['return']

    def cmd(self, command, timeout=10, **arguments):
        """
        Run a command.  In argument names '_' stands for '-'; use raw_cmd()
        for others.
        """
        return self.raw_cmd(command, {k.replace('_', '-'): v
                                      for k, v in arguments.items()}, timeout)

    def raw_cmd(self, command, arguments=None, timeout=10):
        return self.finish_cmd(self.start_cmd(command, arguments), timeout)

    def wait_event(self, name, timeout, match=None):
        """The first event of that name after the last one returned"""
        def look():
            while self.event_cursor < len(self.events):
                event = self.events[self.event_cursor]
                self.event_cursor += 1
                if event['event'] == name and \
                        (match is None or match(event.get('data', {}))):
                    return event
            return None

        return self.wait(look, timeout, f'event {name}')

    def poll(self, command, condition, timeout, arguments=None):
        """
        Ask until condition(reply) holds, for states that have no event.
        Waits for events in between, at most 20 ms, never longer than timeout.
        """
        end = time.monotonic() + timeout
        while True:
            reply = self.raw_cmd(command, arguments)
            if condition(reply):
                return reply
            if time.monotonic() > end:
                raise AssertionError(f'{command} still answers {reply}')
            with self.cond:
                self.cond.wait(0.02)
