# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines from a pipe or a socket, as events."""
import re
import threading
import time


class Timeout(Exception):
    pass


class Lines:
    """Reads fileobj in a thread; waiters are woken for each line.

    The guest's reports pass through here, so a line counts as reported once
    it has left QEMU, whatever happens to QEMU afterwards.
    """

    def __init__(self, fileobj, log=None, name='console'):
        self.lines = []
        self.ended = False
        self.name = name
        self.cond = threading.Condition()
        self.thread = threading.Thread(target=self._run, args=(fileobj, log),
                                       daemon=True)
        self.thread.start()

    def _run(self, fileobj, log):
        out = open(log, 'ab', buffering=0) if log else None
        pending = b''
        while True:
            try:
                data = fileobj.read1(65536) if hasattr(fileobj, 'read1') \
                    else fileobj.recv(65536)
            except OSError:
                data = b''
            if not data:
                break
            if out:
                out.write(data)
            pending += data
            *whole, pending = pending.split(b'\n')
            if whole:
                with self.cond:
                    self.lines += [l.decode(errors='replace').rstrip('\r')
                                   for l in whole]
                    self.cond.notify_all()
        with self.cond:
            self.ended = True
            self.cond.notify_all()

    def wait(self, pattern, timeout=60, start=0):
        """First line from index start on that matches; (match, index)."""
        regex = re.compile(pattern)
        deadline = time.monotonic() + timeout
        at = start
        with self.cond:
            while True:
                while at < len(self.lines):
                    match = regex.search(self.lines[at])
                    if match:
                        return match, at
                    at += 1
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    raise Timeout('%s: no line matches %r (%s); last lines: %r'
                                  % (self.name, pattern, 'end' if self.ended
                                     else '%g s' % timeout, self.lines[-5:]))
                self.cond.wait(left)

    def wait_count(self, pattern, count, timeout=60):
        """Until count lines match."""
        at = -1
        deadline = time.monotonic() + timeout
        for _ in range(count):
            at = self.wait(pattern, max(0.01, deadline - time.monotonic()),
                           at + 1)[1]

    def finish(self, timeout=20):
        """All lines, after the other side has ended."""
        self.thread.join(timeout)
        with self.cond:
            return list(self.lines)
