#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Judge the image of an NVDIMM on which the bare-metal guest worked.

Given the guest's parameters, what it reported as flushed, and an image found
after a failure: is the image the state after some number of stores of each
CPU, and does it hold all that was reported?  The rules are those of
workloads.c and nothing here looks at QEMU: what a device did is judged by
its result only.

    oracle.py --cmd 'workload=records ...' --cpus 2 --acks LOG --image FILE
"""

import argparse
import mmap
import os
import re
import struct
import sys

PAGE = 4096
WORDS = PAGE // 8
MASK = (1 << 64) - 1
INDEX_MASK = (1 << 48) - 1
MAX_ERRORS = 8


class Params:
    """The parameters of a run, parsed as the guest parses them."""

    LISTS = {'base': 2, 'hint': 2, 'first': 16}

    def __init__(self, cmd, cpus):
        self.workload = 'idle'
        self.records = 0
        self.pages = 4
        self.words = 8
        self.area = 16
        self.stride = 1
        self.spread = 0
        self.devs = 1
        self.offset = 0
        self.seed = 0
        self.every = 1
        self.pairs = 1
        self.length = PAGE
        self.cpus = cpus
        self.first = []
        for item in cmd.split():
            name, value = item.split('=')
            if name in ('workload', 'phase'):
                setattr(self, name, value)
            elif name in self.LISTS:
                setattr(self, name, [int(v, 0) for v in value.split(',')])
            else:
                setattr(self, name, int(value, 0))
        self.first += [0] * (cpus - len(self.first))
        self.per_record = self.pages * self.words
        self.slots = self.area * WORDS

    def place(self, cpu, page):
        """(device, offset in its image) of a page of a CPU's area"""
        if self.spread:
            dev = page % self.devs
            in_dev = cpu * self.area + page // self.devs
        else:
            dev = cpu % self.devs
            in_dev = cpu * self.area + page
        return dev, self.offset + in_dev * self.stride * PAGE

    def slot(self, t):
        """(page, word) that store t of a round writes"""
        r = t % self.per_record
        groups = self.area // self.pages
        page = t // self.per_record % groups * self.pages + r % self.pages
        word = (t // (self.per_record * groups) * self.words
                + r // self.pages)
        return page, word

    def name(self, s):
        """A store in words"""
        page, word = self.slot(s % self.slots)
        return (f'store {s} (record {s // self.per_record + 1}, '
                f'page {page}, word {word})')


def value_of(seed, cpu, index):
    x = ((cpu + 1) << 48 | index) ^ seed
    x ^= x >> 30
    x = x * 0xbf58476d1ce4e5b9 & MASK
    x ^= x >> 27
    x = x * 0x94d049bb133111eb & MASK
    return x ^ x >> 31


# Inverses modulo 2^64 of the two factors
_I1 = pow(0xbf58476d1ce4e5b9, -1, 1 << 64)
_I2 = pow(0x94d049bb133111eb, -1, 1 << 64)


def origin_of(seed, value):
    """(cpu, index) of the store that wrote a value; nonsense for others"""
    x = value ^ value >> 31 ^ value >> 62
    x = x * _I2 & MASK
    x ^= x >> 27 ^ x >> 54
    x = x * _I1 & MASK
    x ^= x >> 30 ^ x >> 60
    x ^= seed
    return (x >> 48) - 1, x & INDEX_MASK


class Verdict:
    """kind: 'ok', 'lost' (acknowledged data is missing), 'torn' (no state of
    the guest's memory looks so) or 'ahead' (holds what was never stored)."""

    RANK = ['ok', 'ahead', 'torn', 'lost']

    def __init__(self):
        self.kind = 'ok'
        self.errors = []
        self.state = {}

    @property
    def ok(self):
        return self.kind == 'ok'

    def fail(self, kind, text):
        if self.RANK.index(kind) > self.RANK.index(self.kind):
            self.kind = kind
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(f'{kind}: {text}')

    def __str__(self):
        head = ', '.join(f'cpu {c}: {t}' for c, t in sorted(self.state.items()))
        return '\n'.join([f'{self.kind}: {head}'] + self.errors)


class Image:
    """Read access to an image: a path, or bytes"""

    def __init__(self, source):
        self.fd = -1
        if isinstance(source, (bytes, bytearray)):
            self.data, self.size = source, len(source)
            self.what = 'image'
            return
        self.fd = os.open(source, os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size
        self.what = os.path.basename(source)
        self.data = mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ)

    def page(self, offset):
        return struct.unpack_from(f'<{WORDS}Q', self.data, offset)

    def extents(self):
        """(start, end) of what is not a hole"""
        if self.fd < 0:
            yield 0, self.size
            return
        at = 0
        while at < self.size:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, at

    def close(self):
        if self.fd >= 0:
            self.data.close()
            os.close(self.fd)


def acknowledged(lines):
    """Highest record that each CPU reported: {cpu: n}.  A last line that was
    cut off does not count."""
    acks = {}
    for line in lines:
        m = re.fullmatch(r'A (\d+) (\d+)\n?', line)
        if m:
            cpu, n = int(m[1]), int(m[2])
            if n <= acks.get(cpu, 0):
                raise ValueError(f'reports of cpu {cpu} go from {acks[cpu]} '
                                 f'to {n}: two runs in one log?')
            acks[cpu] = n
    return acks


def complete_lines(text):
    """The lines of a log of which a kill may have cut off the last one"""
    return text[:text.rfind('\n') + 1].splitlines()


def _check_records_cpu(p, cpu, images, acked, out):
    found = [-1] * p.slots
    pages = {}
    for t in range(p.slots):
        page, word = p.slot(t)
        if page not in pages:
            dev, offset = p.place(cpu, page)
            pages[page] = images[dev].page(offset)
        value = pages[page][word]
        if not value:
            continue
        writer, s = origin_of(p.seed, value)
        if writer != cpu or s % p.slots != t:
            at = p.place(cpu, page)[1] + word * 8
            if 0 <= writer < p.cpus and s < 1 << 40:
                what = (f'what cpu {writer} stored elsewhere: '
                        f'{p.name(s)}')
            else:
                what = f'{value:#x}, which no store wrote'
            out.fail('torn', f'cpu {cpu}: offset {at:#x} holds {what}')
            continue
        found[t] = s
    count = max(found) + 1
    required = acked * p.per_record
    for t, s in enumerate(found):
        # the last store before @count to this place
        expected = count - 1 - (count - 1 - t) % p.slots
        if s < expected:
            kind = 'lost' if expected < required else 'torn'
            out.fail(kind, f'cpu {cpu}: {p.name(expected)} is missing, but '
                           f'{p.name(count - 1)} is there')
    if count < required:
        out.fail('lost', f'cpu {cpu}: record {acked} was acknowledged, the '
                         f'image ends after {count} stores '
                         f'({count // p.per_record} records)')
    # Since its last report, or since it began
    limit = (max(acked, p.first[cpu] // p.per_record) + p.every) * p.per_record
    if p.records:
        limit = min(limit, p.records * p.per_record)
    if count > limit:
        out.fail('ahead', f'cpu {cpu}: {count} stores, but it cannot have '
                          f'done more than {limit}')
    out.state[cpu] = (f'{count} stores ({count // p.per_record} records, '
                      f'{acked} acknowledged)')
    return count


def _check_outside(p, images, owned, baseline, out, label_size):
    """What no CPU owns must be as before the run."""
    for dev, image in enumerate(images):
        base = baseline[dev] if baseline else None
        if base and base.size != image.size:
            out.fail('torn', f'{image.what} has another size than its '
                             f'baseline')
            continue
        end_all = image.size - label_size
        chunk = 1 << 20
        zeros = bytes(chunk)
        spans = [(0, image.size)] if base else image.extents()
        for start, end in spans:
            for at in range(start, min(end, end_all), chunk):
                n = min(chunk, end - at, end_all - at)
                have = image.data[at:at + n]
                want = base.data[at:at + n] if base else zeros[:n]
                if have == want:
                    continue
                for o in range(0, n, PAGE):
                    if ((at + o) & ~(PAGE - 1)) in owned[dev]:
                        continue
                    if have[o:o + PAGE] != want[o:o + PAGE]:
                        out.fail('torn', f'{image.what}: page {at + o:#x} '
                                         f'changed, but no CPU owns it')


def _owned(p):
    owned = [set() for _ in range(p.devs)]
    for cpu in range(p.cpus):
        for page in range(p.area):
            dev, offset = p.place(cpu, page)
            owned[dev].add(offset)
    return owned


def _open(sources):
    if not isinstance(sources, (list, tuple)):
        sources = [sources]
    return [Image(s) for s in sources]


def check_records(p, images, acks, baseline=None, label_size=0):
    """Each CPU's area is the state after s stores, s >= acknowledged."""
    out = Verdict()
    images = _open(images)
    base = _open(baseline) if baseline else None
    for cpu in range(p.cpus):
        _check_records_cpu(p, cpu, images, acks.get(cpu, 0), out)
    _check_outside(p, images, _owned(p), base, out, label_size)
    for i in images + (base or []):
        i.close()
    return out


def check_litmus(p, images):
    """Each writer stores n to its chain in order, so along the chain values
    never grow, and the first is at most one ahead of the last."""
    out = Verdict()
    images = _open(images)
    chain = 2 * p.pairs
    for cpu in range(max(p.cpus - 1, 1)):
        values = []
        for i in range(chain):
            page = chain - 1 - i // 2 if i % 2 else i // 2
            dev, offset = p.place(cpu, page)
            values.append(images[dev].page(offset)[0])
        for i in range(1, chain):
            if values[i] > values[i - 1]:
                out.fail('torn', f'cpu {cpu}: step {i} of the chain is '
                                 f'{values[i]}, the step before {values[i-1]}')
        if values[0] > values[-1] + 1:
            out.fail('torn', f'cpu {cpu}: the chain starts with {values[0]} '
                             f'and ends with {values[-1]}')
        out.state[cpu] = f'n = {values[0]}'
    for i in images:
        i.close()
    return out


def make_pattern(seed=1, size=65536):
    """Content for the fw_cfg file opt/org.pmem-ha/pattern"""
    return struct.pack(f'<{size // 8}Q',
                       *(value_of(seed, 0, i) for i in range(size // 8)))


def _match_count(acked, every, limit, expected, actual):
    """The number of operations, of those possible, that explains actual"""
    last = acked + every
    if limit:
        last = min(last, limit)
    for n in range(acked, last + 1):
        if expected(n) == actual:
            return n
    return None


def check_dma(p, images, acks, pattern):
    """Each CPU's area is the state after n transfers, n >= acknowledged."""
    out = Verdict()
    images = _open(images)
    for cpu in range(p.cpus):
        def piece(n):
            skip = (n * 264 + cpu * 8) % (len(pattern) - PAGE) & ~7
            return pattern[skip:skip + p.length].ljust(PAGE, b'\0')

        def state(n):
            pages = []
            for page in range(p.area):
                last = n - (n - 1 - page) % p.area if n else 0
                pages.append(piece(last) if last > 0 else bytes(PAGE))
            return pages

        actual = []
        for page in range(p.area):
            dev, offset = p.place(cpu, page)
            actual.append(bytes(images[dev].data[offset:offset + PAGE]))
        acked = acks.get(cpu, 0)
        n = _match_count(acked, p.every, p.records, state, actual)
        if n is None:
            bad = [i for i, (a, b) in enumerate(zip(actual, state(acked)))
                   if a != b]
            out.fail('lost', f'cpu {cpu}: no state after {acked} to '
                             f'{acked + p.every} transfers; after {acked}, '
                             f'pages {bad} would differ')
        out.state[cpu] = f'{n} transfers ({acked} acknowledged)'
    for i in images:
        i.close()
    return out


def check_label(p, images, acks, label_size):
    """The label area (the end of the image) after n writes"""
    out = Verdict()
    image = _open(images)[0]
    words = p.length // 8

    def state(n):
        parts = []
        for i in range(p.area):
            last = n - (n - 1 - i) % p.area if n else 0
            parts.append(struct.pack(
                f'<{words}Q', *(value_of(p.seed, 0, last * 64 + w)
                                for w in range(words)))
                if last > 0 else bytes(p.length))
        return b''.join(parts)

    start = image.size - label_size
    actual = bytes(image.data[start:start + p.area * p.length])
    acked = acks.get(0, 0)
    n = _match_count(acked, 1, p.records, state, actual)
    if n is None:
        out.fail('lost', f'the label area is not as after {acked} or '
                         f'{acked + 1} writes')
    out.state[0] = f'{n} label writes ({acked} acknowledged)'
    image.close()
    return out


def guest_sum(data):
    """What the workload 'sum' reports for this content"""
    total = 0
    for i, (v,) in enumerate(struct.iter_unpack('<Q', data)):
        total = ((total ^ v) * 0x100000001b3 + i) & MASK
    return total


def make_image(p, stores, size):
    """The images after stores[cpu] stores of each CPU, as bytearrays"""
    images = [bytearray(size) for _ in range(p.devs)]
    for cpu in range(p.cpus):
        count = stores[cpu]
        for s in range(max(0, count - p.slots), count):
            page, word = p.slot(s % p.slots)
            dev, offset = p.place(cpu, page)
            struct.pack_into('<Q', images[dev], offset + word * 8,
                             value_of(p.seed, cpu, s))
    return images


def check(p, images, acks, baseline=None, label_size=0, pattern=None):
    """Judge by the rules of the workload that the parameters name."""
    if p.workload == 'records':
        return check_records(p, images, acks, baseline, label_size)
    if p.workload == 'litmus':
        return check_litmus(p, images)
    if p.workload == 'dma':
        return check_dma(p, images, acks, pattern or make_pattern())
    if p.workload == 'label':
        return check_label(p, images, acks, label_size)
    raise ValueError(f'no rules for workload {p.workload}')


def main():
    a = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    a.add_argument('--cmd', required=True, help="the guest's parameters")
    a.add_argument('--cpus', type=int, required=True)
    a.add_argument('--acks', required=True, help="log of the guest's reports")
    a.add_argument('--image', action='append', required=True,
                   help='image of a device; once per device')
    a.add_argument('--baseline', action='append',
                   help='image before the run (default: zeros)')
    a.add_argument('--label-size', type=lambda v: int(v, 0), default=0)
    a.add_argument('--pattern', help='content of the fw_cfg pattern file')
    args = a.parse_args()

    with open(args.acks, encoding='ascii', errors='replace') as f:
        acks = acknowledged(complete_lines(f.read()))
    pattern = None
    if args.pattern:
        with open(args.pattern, 'rb') as f:
            pattern = f.read()
    verdict = check(Params(args.cmd, args.cpus), args.image, acks,
                    args.baseline, args.label_size, pattern)
    print(verdict)
    return 0 if verdict.ok else 1


if __name__ == '__main__':
    sys.exit(main())
