# SPDX-License-Identifier: GPL-2.0-or-later
"""
The daemon's code on what a loss of power left, state by state, and the verdict
on each: the program tests/unit/pmem-ha/pmem-ha-power-check does the first.
"""

import copy
import os
import struct
import subprocess

from . import wire
from .paths import ROOT
from .powerfs import SECTOR
from .recording import JOURNAL

NAMES = (JOURNAL, 'img', 'img.copy', 'img.replica', 'img.state')
MODEL, BASE, STATE = 1, 2, 3


def program():
    obj = os.environ.get('PMEM_HA_OBJ') or \
        os.path.join(ROOT, 'build', '10.0', 'obj')
    path = os.path.join(obj, 'tests/unit/pmem-ha/pmem-ha-power-check')
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f'{path} is missing: run scripts/build '
                                'tests/unit/pmem-ha/pmem-ha-power-check')
    return path


class Image:
    """What the region is after an epoch; the same number may come anew."""

    def __init__(self, generation, epoch, data, pages):
        self.generation = generation
        self.epoch = epoch
        self.data = data
        digest = wire.digest_of([p.msg(generation, epoch) for p in pages])
        self.name = (epoch, struct.pack('<I', digest))

    def of(self, generation):
        """The same, by one that took the role without a copy"""
        other = copy.copy(self)
        other.generation = generation
        return other


class Outcome:
    def __init__(self, line):
        words = line.split(' ', 6)
        self.what = words[0]        # ok, start, damage, promote or state
        self.generation, self.epoch, self.before, self.after, held = map(
            int, words[1:6])
        self.held = bool(held)
        self.text = words[6].strip()

    def __str__(self):
        return (f'{self.what}: generation {self.generation}, epoch '
                f'{self.epoch}, image before {self.before}, after '
                f'{self.after}, held {self.held}: {self.text}')


def judge(outcome, interval, images):
    """What is wrong with it, or ''"""
    o = outcome
    if interval.answered:
        # The second host may run: it reads the image, whatever happens here.
        if o.held:
            return 'the image is held again after a promotion was answered'
        if o.before < 0 or images[o.before].epoch < interval.floor:
            return 'promoted image is not whole without the daemon'
    if o.what == 'promote' and 'holds no whole image' in o.text:
        return '' if not interval.floor else 'the image is lost'
    if o.what != 'ok':
        # Nothing that was synchronised is lost here: nothing may look so.
        return o.what
    if o.after < 0:
        return f'image is not that of epoch {o.epoch}'
    if not interval.floor <= o.epoch <= interval.sent:
        return (f'epoch {o.epoch} is not within {interval.floor} and '
                f'{interval.sent}')
    if o.generation <= interval.generation:
        return f'generation {interval.generation} was taken back'
    if images[o.after].name in interval.dead:
        return (f'epoch {o.epoch} is one that the primary was told not to be '
                'there')
    # Content that was put back and sent anew, with another acknowledged since
    newest = max(n for n, i in enumerate(images) if i.epoch == o.epoch)
    if o.epoch <= interval.floor and \
            images[o.after].data != images[newest].data:
        return f'epoch {o.epoch} is not the content that was acknowledged'
    return ''


def judge_applied(interval, images):
    """
    ack=applied: what is acknowledged is in the image itself at that moment
    (later, a replay may bring older content for a while: the log covers it).
    What is wrong with a sector, or ''; each stands for itself.
    """
    space = interval.space
    inodes = {space.names.get('img')} | {
        names['img'] for names in space.name_changes if 'img' in names}
    for n in (space.index[i] for i in inodes if i is not None):
        found = [(sector, data) for i, sector, data in space.pieces if i == n]
        base = space.bases[n]
        found += [(at // SECTOR, base[at:at + SECTOR])
                  for at in range(0, len(base), SECTOR)]
        for sector, data in found:
            at = sector * SECTOR
            if not any(data == i.data[at:at + SECTOR] for i in images
                       if interval.floor <= i.epoch <= interval.sent):
                return (f'sector {sector} of the image may be older than '
                        f'epoch {interval.floor}')
    return ''


class Checker:
    """The program, for recordings of exports of one size"""

    def __init__(self, path, size, log):
        self.log = log
        os.makedirs(path, exist_ok=True)
        with open(log, 'wb') as err:
            self.popen = subprocess.Popen(
                [program(), path, str(size), *NAMES], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=err)

    def close(self):
        self.popen.stdin.close()
        status = self.popen.wait()
        self.popen.stdout.close()
        return status

    def send(self, kind, data):
        self.popen.stdin.write(struct.pack('<II', kind, len(data)) + data)

    def models(self, images):
        for i in images:
            self.send(MODEL, struct.pack('<QQ', i.generation, i.epoch) +
                      i.data)

    def base(self, space):
        out = [struct.pack('<II', len(space.bases), len(space.pieces))]
        for b in space.bases:
            out += [struct.pack('<I', len(b)), b]
        for inode, sector, data in space.pieces:
            out += [struct.pack('<II', inode, sector), data]
        self.send(BASE, b''.join(out))

    def state(self, space, choice):
        names, sizes, pieces = space.state(choice)
        self.send(STATE, struct.pack(
            f'<II{2 * len(names)}I{len(sizes)}Q{len(pieces)}I', len(names),
            len(pieces), *(x for k, v in names.items()
                           for x in (NAMES.index(k), v)), *sizes, *pieces))

    def outcomes(self, space, choices, window=32):
        """
        (choice, outcome).  Two windows are under way at a time: their answers
        fit into a pipe, so that neither side waits for the other for ever.
        """
        self.base(space)
        before, sent = [], []
        for choice in choices:
            self.state(space, choice)
            sent.append(choice)
            if len(sent) == window:
                self.popen.stdin.flush()
                yield from self.answers(before)
                before, sent = sent, []
        self.popen.stdin.flush()
        yield from self.answers(before + sent)

    def answers(self, sent):
        for choice in sent:
            line = self.popen.stdout.readline().decode(errors='replace')
            if not line:
                self.popen.wait()
                with open(self.log, encoding='utf-8', errors='replace') as f:
                    raise AssertionError(
                        f'{program()} ended with status '
                        f'{self.popen.returncode} in state {choice}: '
                        f'{f.read()[-2000:]}')
            yield choice, Outcome(line)
