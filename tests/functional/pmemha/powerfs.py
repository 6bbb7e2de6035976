# SPDX-License-Identifier: GPL-2.0-or-later
"""
A directory as its disk may hold it when power is lost.

What is assumed, and nothing else:

* fdatasync() or fsync() of a file makes durable all of its content and its
  size as of the calls that had returned before it began; not its name.
* fsync() of a directory does so for creations, renames and removals in it.
* A sector of 512 bytes is atomic.  What was not synchronised arrives in any
  order: each sector independently is as it was durable, or as it was after any
  of the calls since that changed it; so is the size of a file.
* Each creation, rename and removal since is there or not, whatever is with
  the others and with the files' content.
* After a sync that failed, what it was about counts as written back for the
  kernel: it is there or not, and no later sync changes that, unless its page
  was written to again.
* rename() is atomic and never leaves neither name (ext4, xfs; POSIX demands it
  of a system that runs).  What was never written reads as zeroes (ext4 with
  data=ordered, xfs), also where a file grew.

Real file systems leave fewer states: they do not write back a file that was
truncated with what it held before, and keep the order of their metadata.
"""

import itertools
import os

SECTOR = 512
PAGE = 4096


_order = itertools.count(1)


class Change:
    """What a call did: to a file (at, data; or its size), or to names"""

    def __init__(self, what, at=0, data=b'', size=None, names=None):
        self.what = what
        self.order = next(_order)   # in which the calls began
        self.at = at
        self.data = data
        self.size = size            # ftruncate: the new size
        self.names = names          # name -> inode or None
        self.done = False           # the call has returned
        self.lost = False           # a sync of it has failed

    @property
    def pages(self):
        if self.size is not None or not self.data:
            return set()
        return set(range(self.at // PAGE,
                         (self.at + len(self.data) - 1) // PAGE + 1))

    def split(self):
        """The same, page by page"""
        if not self.pages:
            return [self]
        out = []
        for n in sorted(self.pages):
            start = max(self.at, n * PAGE)
            end = min(self.at + len(self.data), (n + 1) * PAGE)
            c = Change(self.what, start,
                       self.data[start - self.at:end - self.at])
            c.done = c.lost = True
            c.order = self.order
            out.append(c)
        return out

    def apply(self, content):
        """Change a bytearray; returns the range of bytes that it touched."""
        old = len(content)
        if self.size is not None:
            if self.size < old:
                del content[self.size:]
            else:
                content.extend(bytes(self.size - old))
            return min(old, self.size), max(old, self.size)
        end = self.at + len(self.data)
        if end > old:
            content.extend(bytes(end - old))
        content[self.at:end] = self.data
        return min(self.at, old), max(end, self.at)


class Inode:
    def __init__(self, number, label):
        self.number = number
        self.label = label          # the name that it was created with
        self.durable = bytearray()
        self.now = bytearray()      # as a program that runs sees it
        self.changes = []           # since the last sync

    def versions(self):
        """
        {sector: Versions} of contents, and the Versions of the size.  Those
        of one value are left out.
        """
        content = bytearray(self.durable)
        sectors = {}
        sizes = Versions(len(content))
        for c in self.changes:
            start, end = c.apply(content)
            for n in range(start // SECTOR, (end + SECTOR - 1) // SECTOR):
                if n not in sectors:
                    sectors[n] = Versions(sector_of(self.durable, n))
                sectors[n].add(c.order, sector_of(content, n))
            sizes.add(c.order, len(content))
        return {n: v for n, v in sectors.items() if len(v.values) > 1}, sizes


def sector_of(content, n):
    data = bytes(content[n * SECTOR:(n + 1) * SECTOR])
    return data + bytes(SECTOR - len(data))


class Versions:
    """Different values of one thing, the durable one first, and when"""

    def __init__(self, first):
        self.values = [first]
        self.times = []             # (order of the change, index of the value)

    def add(self, order, value):
        if value not in self.values:
            self.values.append(value)
        self.times.append((order, self.values.index(value)))

    def at(self, order):
        """Index of the value after that change"""
        index = 0
        for when, n in self.times:
            if when > order:
                break
            index = n
        return index


class Directory:
    """
    Files by name; a name with a slash is in a directory of its own, which is
    synchronised on its own.
    """

    def __init__(self):
        self.inodes = []
        self.durable = {}
        self.now = {}
        self.changes = []

    def create(self, name):
        inode = Inode(len(self.inodes), name)
        self.inodes.append(inode)
        self.rename_to({name: inode.number}, f'create {name}')
        return inode

    def found(self, name, content):
        """A file that was there, on stable storage, before all else"""
        inode = Inode(len(self.inodes), name)
        inode.durable, inode.now = bytearray(content), bytearray(content)
        self.inodes.append(inode)
        self.durable[name] = self.now[name] = inode.number

    def rename_to(self, names, what):
        c = Change(what, names=names)
        self.changes.append(c)
        self.now = {k: v for k, v in {**self.now, **names}.items()
                    if v is not None}
        return c

    def write(self, inode, change):
        change.apply(inode.now)
        inode.changes.append(change)

    def content(self, name):
        n = self.now.get(name)
        return None if n is None else bytes(self.inodes[n].now)


def returned(changes, directory=None):
    """What a sync (of a file, or of that directory) that begins now is about"""
    return [c for c in changes if c.done and (
        directory is None or
        directory in {os.path.dirname(n) for n in c.names})]


def fail_to_sync_file(inode, about):
    inode.changes = [part for c in inode.changes
                     for part in (c.split() if c in about else [c])]


def sync_file(inode, about):
    rest = []
    dirty = set()
    cut = []
    for c in about:
        if not c.lost:
            dirty |= c.pages
            cut += [c.size // PAGE] if c.size is not None else []
    for c in inode.changes:
        # What lay behind a new end is given back, whether it was written or
        # not, and zeroes before the end are a write to that page.
        if c in about and (not c.lost or c.pages & dirty or
                           any(min(c.pages) >= n for n in cut)):
            c.apply(inode.durable)
        else:
            rest.append(c)
    inode.changes = rest


def sync_directory(directory, about):
    rest = []
    for c in directory.changes:
        if c in about:
            directory.durable.update(c.names)
        else:
            rest.append(c)
    directory.durable = {k: v for k, v in directory.durable.items()
                         if v is not None}
    directory.changes = rest


class Space:
    """
    Every state that a loss of power now can leave.  A state is a choice of one
    value for each dimension; 0 is the durable one.
    """

    def __init__(self, directory):
        self.names = dict(directory.durable)
        self.name_changes = [c.names for c in directory.changes]
        self.what = [c.what for c in directory.changes]
        reachable = set(self.names.values())
        for names in self.name_changes:
            reachable |= {v for v in names.values() if v is not None}
        self.inodes = [directory.inodes[n] for n in sorted(reachable)]
        self.index = {i.number: n for n, i in enumerate(self.inodes)}
        self.bases = [bytes(i.durable) for i in self.inodes]
        self.pieces = []            # (index of inode, sector, content)
        self.sizes = []             # for each inode
        self.dims = [2] * len(self.name_changes)
        self.kinds = [('name', n) for n in range(len(self.name_changes))]
        self.times = []
        for c in directory.changes:
            v = Versions(0)
            v.add(c.order, 1)
            self.times.append(v)
        for n, inode in enumerate(self.inodes):
            sectors, sizes = inode.versions()
            self.sizes.append(sizes.values)
            if len(sizes.values) > 1:
                self.add('size', n, sizes)
            for sector in sorted(sectors):
                self.add('sector', len(self.pieces), sectors[sector])
                self.pieces += [(n, sector, data)
                                for data in sectors[sector].values[1:]]
        self.count = 1
        for d in self.dims:
            self.count *= d

    def add(self, kind, n, versions):
        self.kinds.append((kind, n))
        self.dims.append(len(versions.values))
        self.times.append(versions)

    def all(self):
        return itertools.product(*map(range, self.dims))

    def cuts(self):
        """All that was done up to some moment arrived, and nothing later."""
        orders = {0} | {when for v in self.times for when, _ in v.times}
        return [tuple(v.at(order) for v in self.times)
                for order in sorted(orders)]

    def draw(self, rng, limit):
        """
        `limit` distinct states, or fewer: those that follow the order of the
        calls; those with one exception; then any.
        """
        cuts = self.cuts()
        seen = set(rng.sample(cuts, min(len(cuts), max(2, limit // 2))))
        seen |= {cuts[0], cuts[-1]}
        single = [cut[:n] + (v,) + cut[n + 1:]
                  for cut in (cuts[0], cuts[-1], rng.choice(cuts))
                  for n, d in enumerate(self.dims) for v in range(d)]
        rng.shuffle(single)
        for s in single:
            if len(seen) >= limit * 3 // 4:
                break
            seen.add(s)
        for _ in range(8 * limit):
            if len(seen) >= limit:
                break
            cut = rng.choice(cuts + cuts[-1:] * len(cuts))
            other = rng.choice((cuts[0], cuts[-1], None, None))
            # Few that are otherwise, half of them, or any
            p = rng.choice((.02, .1, .5, 1))
            seen.add(tuple(
                c if rng.random() > p else
                rng.randrange(d) if other is None else other[n]
                for n, (c, d) in enumerate(zip(cut, self.dims))))
        return sorted(seen)

    def state(self, choice):
        """(names -> index of inode, size of each inode, pieces)"""
        names = dict(self.names)
        sizes = [s[0] for s in self.sizes]
        pieces = []
        for (kind, n), value in zip(self.kinds, choice):
            if not value:
                continue
            if kind == 'name':
                names.update(self.name_changes[n])
            elif kind == 'size':
                sizes[n] = self.sizes[n][value]
            else:
                pieces.append(n + value - 1)
        return ({k: self.index[v] for k, v in names.items() if v is not None},
                sizes, pieces)

    def label(self, name):
        """Index of the inode that was created with that name, or None"""
        return next((n for n, i in enumerate(self.inodes)
                     if i.label == name), None)

    def describe(self, choice):
        """For a reader: what arrived of what was not synchronised"""
        out, sectors = [], {}
        for (kind, n), value in zip(self.kinds, choice):
            if kind == 'name':
                out.append(f'{self.what[n]}: {"yes" if value else "no"}')
            elif kind == 'size':
                out.append(f'size of {self.inodes[n].label}: '
                           f'{self.sizes[n][value]}')
            else:
                i, sector, _ = self.pieces[n]
                sectors.setdefault(self.inodes[i].label, []).append(
                    f'{sector}:{value}')
        return out + [f'versions of sectors of {label}: ' + ' '.join(found)
                      for label, found in sectors.items()]

    def files(self, choice):
        """{name: content}"""
        names, sizes, pieces = self.state(choice)
        out = {}
        for name, n in names.items():
            content = bytearray(self.bases[n])
            for i, sector, data in (self.pieces[p] for p in pieces):
                if i == n:
                    end = (sector + 1) * SECTOR
                    content.extend(bytes(max(0, end - len(content))))
                    content[end - SECTOR:end] = data
            del content[sizes[n]:]
            out[name] = bytes(content) + bytes(sizes[n] - len(content))
        return out
