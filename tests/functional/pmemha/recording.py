# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a daemon did to its files and told its primary, and between which two
syncs: an Interval is what a loss of power there can leave, and what must be
kept then.

Within an interval, states only become more, and so do acknowledgements.  So
its end stands for each point of it: what a loss of power can leave earlier, it
can leave then, and more is asked of it.
"""

import os
import struct

from . import powerfs, strace, wire
from .powerfs import Change, Directory, Space

LOG_BASE = 16384
# In a directory of its own, as on a disk of its own
JOURNAL = 'log/journal'
WRITE_CALLS = ('write', 'writev', 'pwrite64', 'pwritev', 'pwritev2')
SYNC_CALLS = ('fsync', 'fdatasync')
SENDS = ('sendmsg', 'sendto')
RECEIVES = ('recvmsg', 'recvfrom', 'read')
NAME_CALLS = ('rename', 'unlink', 'renameat', 'unlinkat', 'renameat2')
# Calls that are of no account unless they are about the files
PLACES = ('truncate', 'link', 'linkat', 'symlink', 'symlinkat', 'mkdir',
          'mkdirat', 'rmdir', 'mknod', 'mknodat', 'creat', 'open', 'openat2')
HANDLES = ('dup', 'dup2', 'dup3', 'sync_file_range', 'syncfs',
           'copy_file_range', 'sendfile', 'splice')


class Interval:
    def __init__(self, recording, ends_with):
        self.run = recording.run
        self.phase = recording.phase_of(ends_with)
        self.ends_with = ends_with
        self.space = Space(recording.directory)
        self.floor = recording.floor
        self.sent = recording.sent
        self.answered = recording.answered
        self.dead = frozenset(recording.dead)
        self.generation = recording.generation
        self.number = len(recording.intervals)

    def __str__(self):
        return (f'interval {self.number} (run {self.run}, {self.phase}, until '
                f'{self.ends_with}; acknowledged {self.floor}, sent '
                f'{self.sent})')


class Messages:
    """A stream of the protocol, in one direction"""

    def __init__(self):
        self.data = b''

    def feed(self, data):
        self.data += data
        while len(self.data) >= 64 and self.data[:4] == b'PMHA':
            head = wire.HEADER.unpack(self.data[:64])
            size = 64 + head[4]
            if len(self.data) < size:
                return
            yield head[2], head[3], head[6], self.data[64:size]
            self.data = self.data[size:]


class Handle:
    """An open file descriptor: of a file, of the directory, or of neither"""

    def __init__(self):
        self.inode = None
        self.directory = None       # its name, '' for the uppermost one
        self.position = 0
        self.received = Messages()
        self.told = Messages()
        self.text = b''             # what went over it, for QMP


class Recording:
    """Runs of a daemon one after the other, on the files of one directory"""

    def __init__(self, path, after=None):
        """@after: the interval that the files are a state of"""
        self.path = os.path.realpath(path)
        self.directory = Directory()
        self.intervals = []
        self.applied = []           # at each acknowledgement with ack=applied
        self.run = 0
        # the last epochs that are acknowledged, and sent
        self.floor = after.floor if after else 0
        self.sent = after.sent if after else 0
        # that the promotion is complete
        self.answered = after.answered if after else False
        # (epoch, digest) of what was sent whole, and of what the primary was
        # told not to be there: it may give the number to other content
        self.commits = set()
        self.dead = set(after.dead) if after else set()
        # that a WELCOME named: no older one may come back
        self.generation = after.generation if after else 0
        self.level = wire.JOURNALED
        self.copies = set()         # epochs that complete a copy
        self.phase = ''
        for name in self.files():
            self.directory.found(name, self.content(name))

    def files(self):
        return sorted(
            os.path.relpath(os.path.join(top, name), self.path)
            for top, _, names in os.walk(self.path) for name in names)

    def content(self, name):
        with open(os.path.join(self.path, name), 'rb') as f:
            return f.read()

    # What the daemon is about, for the reader of the figures

    def phase_of(self, ends_with):
        if self.phase != 'epochs':
            return self.phase
        log = any(c.size is None and c.at >= LOG_BASE
                  for i in self.directory.inodes if i.label == JOURNAL
                  for c in i.changes)
        return 'epochs' if log and ends_with.endswith(JOURNAL) \
            else 'checkpoint'

    def add(self, trace, cwd, died=False):
        """The run that this trace is of; the files are as it left them."""
        self.run += 1
        self.cwd = os.path.realpath(cwd)
        self.handles = {}
        self.under_way = {}         # call -> what it is about to do
        self.phase = 'replay at start' if self.directory.now else 'creation'
        for stop, call in strace.stops(trace, died):
            if stop == 'begin':
                self.begin(call)
            else:
                self.end(call)
        self.settle()
        self.verify()

    def finish(self):
        self.intervals.append(Interval(self, 'the end'))
        return self.intervals

    def name(self, raw):
        """The name within the directory ('' for itself), or None"""
        path = os.path.join(self.cwd, os.fsdecode(raw))
        head, tail = os.path.split(os.path.normpath(path))
        path = os.path.join(os.path.realpath(head), tail)
        if path == self.path:
            return ''
        if not path.startswith(self.path + '/'):
            return None
        return os.path.relpath(path, self.path)

    def handle(self, call, n=0):
        fd = call.number(n)
        return self.handles.setdefault(fd, Handle())

    # Calls

    def begin(self, call):
        name = call.name
        if name in PLACES and any(self.name(s) for s in call.strings) or \
                name in HANDLES and self.handle(call).inode or \
                name == 'sync':
            raise strace.NotUnderstood(repr(call))
        if name == 'close':
            self.handles.pop(call.number(0), None)
        elif name == 'mmap':
            fd = call.number(4)
            if fd in self.handles and self.handles[fd].inode:
                raise strace.NotUnderstood(repr(call))
        elif name in WRITE_CALLS + ('ftruncate', 'fallocate'):
            h = self.handle(call)
            if h.inode:
                c = self.change_of(call, h)
                h.inode.changes.append(c)
                self.under_way[call] = (h.inode, c)
        elif name in SYNC_CALLS:
            h = self.handle(call)
            if h.inode:
                self.under_way[call] = (h.inode,
                                        powerfs.returned(h.inode.changes))
            elif h.directory is not None:
                self.under_way[call] = (self.directory, powerfs.returned(
                    self.directory.changes, h.directory))
        elif name in SENDS:
            self.told(self.handle(call), call)
        elif name in NAME_CALLS:
            self.names(call)

    def end(self, call):
        name = call.name
        if name == 'openat':
            self.opened(call)
        elif name in ('accept', 'accept4') and call.ret is not None and \
                not call.failed:
            self.handles[call.ret] = Handle()
            if self.phase in ('creation', 'replay at start'):
                self.phase = 'epochs'
        elif name in RECEIVES and call.ret and call.ret > 0:
            self.received(self.handle(call), b''.join(call.strings)[:call.ret])
        what = self.under_way.pop(call, None)
        if not what or call.ret is None:
            if what:
                self.under_way[call] = what
            return
        of, about = what
        if name in SYNC_CALLS:
            self.synced(call, of, about)
        elif call.failed and name not in NAME_CALLS:
            of.changes.remove(about)
        elif name in NAME_CALLS:
            if call.failed:
                raise strace.NotUnderstood(repr(call))
            about.done = True
        else:
            if name in WRITE_CALLS:
                about.data = about.data[:call.ret]
            about.apply(of.now)
            about.done = True

    def change_of(self, call, h):
        name = call.name
        if name == 'ftruncate':
            return Change(repr(call), size=call.number(1))
        if name == 'fallocate':
            mode = call.words[1]
            at, length = call.number(2), call.number(3)
            if mode == 'FALLOC_FL_ZERO_RANGE':
                return Change(repr(call), at, bytes(length))
            if mode == '0' and at == 0 and length <= len(h.inode.now):
                return Change(repr(call), 0, b'')   # blocks, no content
            raise strace.NotUnderstood(repr(call))
        data = b''.join(call.strings)
        if name.startswith('pwrite'):
            at = int(call.text.rstrip(')').rpartition(',')[2], 0)
        else:
            raise strace.NotUnderstood(repr(call))
        return Change(repr(call), at, data)

    def names(self, call):
        names = [self.name(s) for s in call.strings]
        if not any(names):
            return
        d = self.directory
        if call.name not in ('rename', 'unlink') or not all(names):
            raise strace.NotUnderstood(repr(call))
        if names[0] not in d.now:
            return                  # it fails
        new = {names[0]: None}
        if call.name == 'rename':
            new[names[1]] = d.now[names[0]]
        c = d.rename_to(new, f'{call.name} {" to ".join(names)}')
        self.under_way[call] = (d, c)

    def opened(self, call):
        if call.failed or call.ret is None:
            return
        h = self.handles[call.ret] = Handle()
        name = self.name(call.strings[0])
        if name is None:
            return
        if 'O_DIRECTORY' in call.text:
            h.directory = name
            return
        d = self.directory
        if name not in d.now:
            if 'O_CREAT' not in call.text:
                raise strace.NotUnderstood(f'{call!r}: no such file')
            h.inode = d.create(name)
            d.changes[-1].done = True
        else:
            h.inode = d.inodes[d.now[name]]
        if 'O_TRUNC' in call.text and h.inode.now:
            c = Change(repr(call), size=0)
            c.done = True
            d.write(h.inode, c)

    def synced(self, call, of, about):
        what = f'{call.name} of {getattr(of, "label", "the directory")}'
        if call.failed:
            if of is self.directory:
                raise strace.NotUnderstood(repr(call))
            powerfs.fail_to_sync_file(of, about)
            return
        self.intervals.append(Interval(self, what))
        if of is self.directory:
            powerfs.sync_directory(of, about)
        else:
            powerfs.sync_file(of, about)

    # Messages

    def told(self, h, call):
        data = b''.join(call.strings)
        for type_, _, epoch, payload in h.told.feed(data):
            if type_ == wire.WELCOME:
                self.generation = max(self.generation,
                                      struct.unpack_from('<Q', payload, 8)[0])
                self.dead |= {c for c in self.commits if c[0] > epoch}
            if type_ == wire.WELCOME and self.level != wire.RECEIVED and \
                    struct.unpack_from('<I', payload)[0]:
                self.acknowledged(epoch)
            elif type_ == wire.ACK and (self.level != wire.RECEIVED or
                                        epoch in self.copies):
                self.acknowledged(epoch)
        h.text += data if not data.startswith(b'PMHA') else b''
        if b'"command-line-text"' in h.text:
            self.answered = True

    def acknowledged(self, epoch):
        self.floor = max(self.floor, epoch)
        # A full copy is acknowledged before it has its name.
        if self.level == wire.APPLIED and epoch not in self.copies:
            self.applied.append(Interval(self, f'ACK of epoch {epoch}'))

    def received(self, h, data):
        for type_, flags, epoch, payload in h.received.feed(data):
            if type_ == wire.HELLO:
                self.level, = struct.unpack_from('<I', payload, 36)
                if struct.unpack_from('<I', payload, 68)[0] & wire.TAKE:
                    self.phase = 'handover'
            elif type_ == wire.COPY:
                self.phase = 'full copy'
            elif type_ == wire.BEGIN and not flags & wire.COMPLETES_COPY:
                self.phase = 'epochs'
            elif type_ == wire.COMMIT:
                self.sent = max(self.sent, epoch)
                self.commits.add((epoch, payload))
                if flags & wire.COMPLETES_COPY:
                    self.copies.add(epoch)
        if len(data) < 64:
            h.text += data
        if b'pmem-replica-promote' in h.text:
            self.phase = 'promotion'

    # The end of a run

    def settle(self):
        """
        A call under way when the program died was done, or in part, or not:
        the file says.
        """
        for call, (of, about) in self.under_way.items():
            if call.name in SYNC_CALLS:
                continue
            if of is self.directory:
                self.settle_names(about)
            else:
                self.settle_write(of, about)
        self.under_way = {}

    def settle_names(self, c):
        real = self.files()
        if all((name in real) == (n is not None)
               for name, n in c.names.items()):
            c.done = True
            return
        d = self.directory
        d.changes.remove(c)
        d.now = dict(d.durable)
        for other in d.changes:
            d.now.update(other.names)
        d.now = {k: v for k, v in d.now.items() if v is not None}

    def settle_write(self, inode, c):
        for name, n in self.directory.now.items():
            if self.directory.inodes[n] is inode:
                break
        else:
            return
        real = self.content(name)
        for part in [None] if c.size is not None else \
                range(len(c.data), -1, -1):
            tried = bytearray(inode.now)
            trial = Change(c.what, c.at, c.data[:part], c.size)
            trial.apply(tried)
            if tried == real:
                c.data = trial.data
                c.apply(inode.now)
                c.done = True
                return
        inode.changes.remove(c)

    def verify(self):
        """What was recorded is all that happened: the files say so."""
        real = self.files()
        if real != sorted(self.directory.now):
            raise AssertionError(f'files {real}, recorded '
                                 f'{sorted(self.directory.now)}')
        for name in real:
            if self.content(name) != self.directory.content(name):
                raise AssertionError(f'{name} is not what was recorded')
