# SPDX-License-Identifier: GPL-2.0-or-later
"""
Files of a stopped guest in the format mapped-ram: what is in one, and one with
a page map, made from one that has none.

Written from docs/devel/migration/page-map.rst alone: it shares nothing with
what QEMU and qemu-page-map-flatten make of it.
"""

import hashlib
import struct

PAGE = 4096
START, PART, END = 1, 2, 3
(MSG_END, HELLO, DEVICE, BLOCK, RUN, COMMIT, FINISH, SNAPSHOT) = range(8)
MAPPED = struct.Struct('>IQQQ')         # version, page size, bitmap, pages
KEY = bytes(range(0x40, 0x50))
SECTION = 0x7357                        # a number that no other section has


class Block:
    """`at`: where its header is in the file"""

    def __init__(self, name, length, at, header):
        self.name, self.length, self.at = name, length, at
        self.version, self.page_size, self.bitmap, self.pages = header

    def bits(self, data):
        """The set of the pages that the file has"""
        size = (self.length // PAGE + 63) // 64 * 8
        bits = int.from_bytes(data[self.bitmap:self.bitmap + size], 'little')
        text = bin(bits)[:1:-1]
        return {n for n in range(self.length // PAGE) if text[n:n + 1] == '1'}

    def page(self, data, n):
        return data[self.pages + n * PAGE:self.pages + (n + 1) * PAGE]


def start_of(name):
    return bytes([len(name)]) + name


class MappedRam:
    """A file that stock QEMU has written, or could have"""

    def __init__(self, path):
        with open(path, 'rb') as f:
            self.data = f.read()
        at = self.data.index(start_of(b'ram'))
        self.start = at - 5             # type and number of the section
        self.section = self.data[at - 4:at]
        at += 4 + 8                     # name, instance and version
        total, = struct.unpack_from('>Q', self.data, at)
        self.first = at + 8             # the first block's name
        total -= total % PAGE
        at = self.first
        self.blocks = {}
        while total:
            length = self.data[at]
            name = self.data[at + 1:at + 1 + length].decode()
            at += 1 + length
            size, = struct.unpack_from('>Q', self.data, at)
            at += 8
            b = Block(name, size, at, MAPPED.unpack_from(self.data, at))
            self.blocks[name] = b
            at = b.pages + size
            total -= size
        self.after_blocks = at

    def parts(self, kind):
        """Where RAM's parts of this kind begin"""
        mark = bytes([kind]) + self.section
        at = self.data.find(mark, self.after_blocks)
        while at >= 0:
            if self.data[at + 5:at + 13] == struct.pack('>Q', 0x10):
                yield at
            at = self.data.find(mark, at + 1)


def tag(page):
    return hashlib.sha256(KEY + page).digest()[:16]


def message(kind, body=b''):
    return struct.pack('>HI', kind, len(body)) + body


def footer():
    return b'\x7e' + struct.pack('>I', SECTION)


class Disk:
    def __init__(self, number, name, content):
        self.number, self.name, self.content = number, name, content

    def device(self, offsets):
        name = self.name.encode()
        return message(DEVICE, struct.pack(
            '>HQH', self.number, len(self.content), len(name)) + name +
            struct.pack('>H', len(offsets)) + b''.join(
                struct.pack('>Q', o) + tag(self.content[o:o + PAGE])
                for o in offsets))


def runs(records, numbers):
    """RUN and COMMIT for (block, page, disk, offset, content) records"""
    out, batch, n = b'', 1, 0
    while records:
        run = records[:1]
        while len(run) < min(len(records), 256, 2048 - n):
            _, _, disk, offset, _ = records[len(run)]
            if disk is not run[0][2] or offset != run[-1][3] + PAGE:
                break
            run.append(records[len(run)])
        records = records[len(run):]
        out += message(RUN, struct.pack(
            '>IHQH', batch, run[0][2].number, run[0][3], len(run)) + b''.join(
                struct.pack('>HI', numbers[block], page) + tag(content)
                for block, page, _, _, content in run))
        n += len(run)
        if not records or n == 2048:
            out += message(COMMIT, struct.pack('>IH', batch, n))
            batch, n = batch + 1, 0
    return out


def with_page_map(stock, path, records, gap=3 * PAGE, **change):
    """
    Write to `path` the file `stock` (MappedRam) with a page map.

    records: {(name of a block, page): (Disk, offset)}, pages that are left out
    gap: bytes between a bitmap and the pages: another one than stock's
    change: see the code
    """
    numbers = {name: 7 * n + 2 for n, name in enumerate(stock.blocks)}
    disks = {d.number: d for d, _ in records.values()}
    out = bytearray(stock.data[:stock.start])
    out += bytes([START]) + struct.pack('>I', SECTION) + start_of(b'page-map')
    out += struct.pack('>II', 0, 1)
    out += message(HELLO, struct.pack('>II', 1, PAGE) + KEY)
    out += message(SNAPSHOT) + message(MSG_END) + footer()
    out += stock.data[stock.start:stock.first]
    for name, b in stock.blocks.items():
        out += start_of(name.encode()) + struct.pack('>Q', b.length)
        size = (b.length // PAGE + 63) // 64 * 8
        bitmap = len(out) + MAPPED.size
        pages = (bitmap + size + gap + PAGE - 1) // PAGE * PAGE
        bits = b.bits(stock.data)
        for block, page in records:
            if block == name:
                assert page in bits, f'page {page} of {name} is all zeroes'
                if page not in change.get('keep', ()):
                    bits.remove(page)
        out += MAPPED.pack(change.get('version', 2), PAGE, bitmap, pages)
        out += sum(1 << n for n in bits).to_bytes(size, 'little')
        out += bytes(pages + b.length - len(out))
        for n in bits:
            out[pages + n * PAGE:pages + (n + 1) * PAGE] = b.page(stock.data, n)
    first = min(stock.parts(PART))
    last = max(stock.parts(END))
    out += stock.data[stock.after_blocks:first]
    out += bytes([PART]) + struct.pack('>I', SECTION)
    for d in disks.values():
        places = sorted(o for x, o in records.values() if x is d)
        out += d.device(places[::max(len(places) // 16, 1)][:16])
    for name, number in numbers.items():
        out += message(BLOCK, struct.pack('>HB', number, len(name)) +
                       name.encode())
    rows = sorted((
        (block, page, d, offset,
         stock.blocks[block].page(stock.data, page))
        for (block, page), (d, offset) in records.items()),
        key=lambda r: (r[2].number, r[3]))
    out += runs(rows + change.get('again', []), numbers)
    out += message(MSG_END) + footer()
    out += stock.data[first:last]
    out += bytes([END]) + struct.pack('>I', SECTION)
    out += message(FINISH) + message(MSG_END) + footer()
    out += stock.data[last:]
    with open(path, 'wb') as f:
        # Holes stay holes.
        for at in range(0, len(out), 1 << 16):
            piece = out[at:at + (1 << 16)]
            if any(piece):
                f.seek(at)
                f.write(piece)
        f.truncate(len(out))
