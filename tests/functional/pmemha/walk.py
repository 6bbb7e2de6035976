# SPDX-License-Identifier: GPL-2.0-or-later
"""
The transitions of the model in tests/model, and the programs seen in its terms.

A transition is walked when a test has led a program through it and has seen
the model's variables change as the model says.  What the daemon has in its
files, in the page cache and on stable storage, is told by its system calls.
"""

import os
import re
import struct

from . import wire
from .paths import ROOT

MODEL = os.path.join(ROOT, 'tests', 'model')

# {name: how it was seen}, of this run
walked = {}


def steps():
    """Names of all transitions that STEP() marks in the model"""
    names = set()
    for name in os.listdir(MODEL):
        if name.endswith('.pml'):
            with open(os.path.join(MODEL, name), encoding='utf-8') as f:
                names.update(re.findall(r'\bSTEP\(([rp]_\w+)\)', f.read()))
    assert names
    return names


def walk(test, name, seen):
    assert name in steps(), f'{name} is no step of the model'
    walked[name] = seen
    test.diag(f'{name}: {seen}')


# System calls

CALLS = ('openat', 'pwrite64', 'pwritev', 'fdatasync', 'fsync', 'rename',
         'unlink', 'sendmsg', 'sendto', 'write')
LINE = re.compile(r'^(\d+) +(\w+)\((.*)$')
RESUMED = re.compile(r'^(\d+) +<\.\.\. (\w+) resumed>(.*)$')
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def strace(log, *options):
    return ['strace', '-f', '-y', '-xx', '-s', '1400', '-o', log,
            '-e', 'trace=' + ','.join(CALLS), *options]


def _calls(lines):
    """(name, rest of the line) of each call, in the order of their returns"""
    begun = {}
    for line in lines:
        m = RESUMED.match(line)
        if m:
            yield m[2], begun.pop((m[1], m[2]), '') + m[3]
            continue
        m = LINE.match(line)
        if m and line.endswith('<unfinished ...>'):
            begun[m[1], m[2]] = m[3][:-len('<unfinished ...>')]
        elif m:
            yield m[2], m[3]


def _super(data):
    flags, = struct.unpack_from('<I', data, 12)
    generation, applied = struct.unpack_from('<QQ', data, 64)
    taker, = struct.unpack_from('<Q', data, 1256)
    return {'have_image': flags & 1, 'promoted': flags >> 2 & 1,
            'image_is_copy': flags >> 3 & 1, 'generation': generation,
            'applied': applied, 'taker': taker}


def events(path, journal, image):
    """What a traced program did, as (kind, value)"""
    with open(path, encoding='ascii', errors='replace') as f:
        lines = f.read().splitlines()
    for name, rest in _calls(lines):
        data = b''.join(bytes.fromhex(t.replace('\\x', ''))
                        for t in TEXT.findall(rest))
        m = re.match(r'\d+<([^>]*)>', rest)
        file = bytes.fromhex(m[1].replace('\\x', '')).decode(
            errors='replace') if m and m[1].startswith('\\x') else \
            m[1] if m else ''
        base = os.path.basename(file)
        offset = re.search(r', (\d+) *\) += ', rest)
        offset = int(offset[1]) if offset else 0
        if name == 'write' and re.match(r'[12]<', rest):
            for text in data.decode(errors='replace').splitlines():
                yield 'says', text
        elif name in ('sendmsg', 'sendto'):
            if data[:6] == b'PMHA\1\0':
                yield 'send', wire.NAMES[data[6]]
        elif name == 'rename':
            yield 'rename', os.path.basename(data.decode(errors='replace'))
        elif name == 'unlink':
            yield 'unlink', os.path.basename(data.decode(errors='replace'))
        elif name == 'openat':
            if 'O_CREAT' in rest:
                yield 'create', os.path.basename(data.decode(
                    errors='replace'))
        elif name in ('fdatasync', 'fsync'):
            yield 'sync', base
        elif base == journal and offset < 8192:
            yield 'super', _super(data)
        elif base == journal and offset < 16384:
            yield 'mark', struct.unpack_from('<Q', data, 24)[0]
        elif base == journal:
            kind, = struct.unpack_from('<H', data, 4)
            yield ('BEGIN', 'DATA', 'COMMIT')[kind - 1], \
                struct.unpack_from('<Q', data, 24)[0]
        elif name != 'write' or base.startswith(image):
            yield 'write', base


class Export:
    """
    The model's Export, kept up to date by events: v_ is what the superblock
    says in the page cache, d_ what it says on stable storage.
    """

    FIELDS = ('have_image', 'promoted', 'image_is_copy', 'generation',
              'applied', 'taker')

    def __init__(self, journal, image):
        self.journal, self.image = journal, image
        self.var = dict.fromkeys(
            ('log', 'log_d', 'mark', 'has_copy', 'copy_d', 'img', 'img_d',
             'acked', 'state', 'unmarked', 'up', 'sent'), 0)
        for f in self.FIELDS:
            self.var['v_' + f] = self.var['d_' + f] = 0

    def feed(self, kind, value):
        var = self.var
        if kind == 'super':
            var.update(('v_' + k, v) for k, v in value.items())
        elif kind == 'COMMIT':
            var['log'] = value
        elif kind == 'mark':
            var['mark'] = value
        elif kind == 'create' and value == self.image + '.copy':
            var['has_copy'] = 1
        elif kind == 'write' and value == self.image:
            var['img'] += 1
        elif kind == 'rename':
            var['has_copy'] = 0
            var['img'] += 1
            var['img_d'] = var['img']
        elif kind == 'unlink' and value == self.image + '.replica':
            var['unmarked'] = 1
        elif kind == 'send':
            var['sent'] = value
            var['acked'] += value == 'ACK'
        elif kind == 'says' and value.startswith('ready:'):
            var['up'] = 2
        elif kind == 'sync' and value == self.journal:
            var['log_d'] = var['log']
            var.update(('d_' + f, var['v_' + f]) for f in self.FIELDS)
            var['up'] = var['up'] or 1
        elif kind == 'sync' and value == self.image:
            var['img_d'] = var['img']
        elif kind == 'sync' and value == self.image + '.copy':
            var['copy_d'] = 1
        elif kind == 'write' and value == self.image + '.state':
            var['state'] = 1


class Path:
    """Events in their order; each step takes those up to its last one."""

    def __init__(self, test, found, journal='journal', image='img'):
        self.test = test
        self.events = list(found)
        self.at = 0
        self.export = Export(journal, image)

    def find(self, kind, value=None):
        """Up to and with the next such event"""
        start = self.at
        while self.at < len(self.events):
            k, v = self.events[self.at]
            self.at += 1
            self.export.feed(k, v)
            if k == kind and (value is None or v == value or
                              kind == 'says' and re.search(value, v)):
                return v
        raise AssertionError(
            f'no {kind} {value or ""} after event {start}: ' +
            ' '.join(f'{k}:{v}' for k, v in self.events[start:start + 40]))

    def step(self, name, *what, **changes):
        """
        The step's events, one (kind, value) after the other; `changes` are
        variable=(before, after).
        """
        before = dict(self.export.var)
        for kind, value in what:
            self.find(kind, value)
        after = self.export.var
        for var, (old, new) in changes.items():
            self.test.assertEqual((before[var], after[var]), (old, new),
                                  f'{name}: {var}')
        walk(self.test, name, '; '.join(
            [f'{k} {v}' if v else k for k, v in what] +
            [f'{var} {old} -> {new}' for var, (old, new) in changes.items()]))
