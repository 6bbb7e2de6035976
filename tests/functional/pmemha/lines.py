# SPDX-License-Identifier: GPL-2.0-or-later
"""
Lines that arrive from a guest or a program, as events with a time.

One thread reads all channels of the harness, so that no writer ever blocks
on a full socket because a test looks elsewhere.
"""

import contextlib
import os
import re
import select
import selectors
import socket
import threading
import time

from .paths import scaled


class ChannelTimeout(AssertionError):
    """What was waited for did not arrive in time"""


class ChannelClosed(AssertionError):
    """The other end is gone, and what was waited for never arrived"""


class _Reader(threading.Thread):
    def __init__(self):
        super().__init__(name='reader', daemon=True)
        self.selector = selectors.DefaultSelector()
        self.wake_r, self.wake_w = os.pipe()
        self.selector.register(self.wake_r, selectors.EVENT_READ, None)
        self.pending = []
        self.mutex = threading.Lock()
        self.start()

    def add(self, channel):
        with self.mutex:
            self.pending.append(channel)
        os.write(self.wake_w, b'x')

    def run(self):
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    os.read(self.wake_r, 4096)
                    with self.mutex:
                        new, self.pending = self.pending, []
                    for channel in new:
                        self.selector.register(channel.fd,
                                               selectors.EVENT_READ, channel)
                    continue
                try:
                    data = os.read(key.fd, 1 << 16)
                except OSError:
                    data = b''
                if not data:
                    self.selector.unregister(key.fd)
                key.data.feed(data)


_reader = None


def _get_reader():
    global _reader
    if _reader is None or not _reader.is_alive():
        _reader = _Reader()
    return _reader


class Channel:
    """Bytes of a socket, cut into lines, also written to a log file."""

    def __init__(self, sock, name, log=None):
        self.sock = sock
        self.fd = sock.fileno()
        self.name = name
        self.log = open(log, 'ab', buffering=0) if log else None
        self.cond = threading.Condition()
        self.lines = []         # (time, text)
        self.partial = b''
        self.eof = False
        self.cursor = 0         # first line that no wait_for() has consumed
        _get_reader().add(self)

    # called by the reader

    def feed(self, data):
        now = time.monotonic()
        if self.log and data:
            self.log.write(data)
        with self.cond:
            if not data:
                self.eof = True
                self.sock.close()
                if self.log:
                    self.log.close()
            parts = (self.partial + data).split(b'\n')
            self.partial = parts.pop()
            for p in parts:
                self.line(now, p.decode('utf-8', 'replace').rstrip('\r'))
            self.cond.notify_all()

    def line(self, now, text):
        self.lines.append((now, text))

    # called by tests

    def send(self, text, timeout=60):
        """The other end must take it within the time."""
        data = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + scaled(timeout)
        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        while data:
            if not room.poll(max(0, end - time.monotonic()) * 1000):
                raise ChannelTimeout(f'{self.name}: nothing is taken within '
                                     f'{scaled(timeout):g} s')
            # The socket stays one that blocks: its reader counts on that.
            with contextlib.suppress(BlockingIOError):
                data = data[self.sock.send(data, socket.MSG_DONTWAIT):]

    def wait(self, predicate, timeout, what):
        """Wait until predicate() (run under the lock) is not None."""
        end = time.monotonic() + scaled(timeout)
        with self.cond:
            while True:
                got = predicate()
                if got is not None:
                    return got
                if self.eof:
                    raise ChannelClosed(f'{self.name}: closed before {what}; '
                                        f'{self.tail()}')
                left = end - time.monotonic()
                if left <= 0:
                    raise ChannelTimeout(f'{self.name}: no {what} within '
                                         f'{scaled(timeout):g} s; '
                                         f'{self.tail()}')
                self.cond.wait(left)

    def skip(self):
        """What has arrived is consumed."""
        with self.cond:
            self.cursor = len(self.lines)

    def wait_for(self, regex, timeout):
        """
        The match of the first line after the last consumed one that matches.
        wait_line() tells the time of arrival as well, and wait_seen() looks
        at all lines and consumes none: for programs that write at once.
        """
        return self.wait_line(regex, timeout)[1]

    def wait_line(self, regex, timeout):
        """(arrival time, match), else as wait_for()"""
        pattern = re.compile(regex)

        def look():
            while self.cursor < len(self.lines):
                when, text = self.lines[self.cursor]
                self.cursor += 1
                m = pattern.search(text)
                if m:
                    return when, m
            return None

        return self.wait(look, timeout, f'line that matches {regex!r}')

    def wait_seen(self, regex, timeout):
        """The match of the first of all lines that matches"""
        pattern = re.compile(regex)
        at = 0

        def look():
            nonlocal at
            while at < len(self.lines):
                m = pattern.search(self.lines[at][1])
                at += 1
                if m:
                    return m
            return None

        return self.wait(look, timeout, f'line that matches {regex!r}')

    def wait_eof(self, timeout):
        """All that the other end wrote has been read."""
        end = time.monotonic() + scaled(timeout)
        with self.cond:
            while not self.eof:
                left = end - time.monotonic()
                if left <= 0:
                    raise ChannelTimeout(f'{self.name}: still open')
                self.cond.wait(left)

    def text_lines(self):
        """All complete lines until now"""
        with self.cond:
            return [text for _, text in self.lines]

    def count(self, regex):
        pattern = re.compile(regex)
        return sum(1 for t in self.text_lines() if pattern.search(t))

    def tail(self, n=5):
        last = [t for _, t in self.lines[-n:]]
        if self.partial:
            last.append(self.partial.decode('utf-8', 'replace'))
        return 'last lines: ' + ' | '.join(last) if last else 'nothing arrived'
