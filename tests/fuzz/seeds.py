#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write seed inputs for the fuzzers: seeds.py DIR"""

import os
import struct
import sys
import tempfile
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'functional'))
from pmemha import mappedram, wire    # noqa: E402


def save(directory, name, data):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), 'wb') as f:
        f.write(data)


class Recorder(wire.Client):
    """Keeps what a client would send."""

    def __init__(self):
        self.data = b''
        self.tx_seq = 0
        self.generation = 1

    def send(self, *messages):
        for m in messages:
            self.data += m.encode(self.tx_seq)
            self.tx_seq += 1


def wire_seeds(directory):
    page = wire.Page(0, b'\x11' * wire.PAGE)
    zero = wire.Page(wire.PAGE, bytes(wire.PAGE))
    for kind in range(1, 14):
        payload = {wire.WELCOME: struct.pack('<IIQQ', 1, 0, 2, 3),
                   wire.COMMIT: b'abcd', wire.FAIL: b'text',
                   wire.REFUSE: b'text'}.get(kind, b'')
        m = wire.Msg(kind, 0, 1, 7, payload=payload)
        save(directory, wire.NAMES[kind], b'\x10\x00' + m.encode(0))
    r = Recorder()
    try:
        r.hello(size=16 * wire.PAGE, uuid=uuid.UUID(int=5))
    except AttributeError:
        pass        # there is no answer
    save(directory, 'hello', b'\x10\x00' + r.data)
    g = Recorder()
    try:
        g.hello(size=16 * wire.PAGE, uuid=uuid.UUID(int=5), name='x' * 255,
                more=[(uuid.UUID(int=n), wire.PAGE, 0, n) for n in range(7)])
    except AttributeError:
        pass
    save(directory, 'hello-group', b'\x10\x01' + g.data)
    r.send(*r.copy_messages(bytes(wire.PAGE) * 2))
    r.send(*r.epoch_messages(2, [page, zero], completes=True))
    r.send(*r.epoch_messages(3, [page, zero]))
    save(directory, 'session', b'\x10\x00' + r.data)
    save(directory, 'session-repaired', b'\x10\x01' + r.data)


def record(kind, epoch, flags=0, arg0=0, arg1=0, payload=b''):
    head = struct.pack('<IHHQQQQQIIII', 0x524a4850, kind, flags, 0, 1, epoch,
                       arg0, arg1, 0, 0, 0, 0)
    return head + payload


def journal_seeds(directory):
    def epoch(n, *data):
        out = record(1, n)
        total = 0
        for offset, content in data:
            zero = content is None
            length = wire.PAGE if zero else len(content)
            out += record(2, n, 1 if zero else 0, offset, length,
                          b'' if zero else content)
            total += length
        return out + record(3, n, 0, len(data), total)

    page = b'\x22' * wire.PAGE
    one = epoch(1, (0, page), (wire.PAGE, None))
    log = one + epoch(2, (wire.PAGE, page)) + epoch(3)
    for mode in (1, 2, 3, 6, 7):
        save(directory, 'log-%d' % mode, bytes([mode]) + log)
        save(directory, 'torn-%d' % mode, bytes([mode]) + log[:len(one) + 99])
    save(directory, 'empty', b'\x00')
    save(directory, 'zeroes', bytes(20000))
    sup = bytearray(4096)
    sup[:8] = b'PMHAJRNL'
    struct.pack_into('<IIQ', sup, 8, 1, 3, 1)
    struct.pack_into('<Q', sup, 40, 16 * wire.PAGE)
    struct.pack_into('<QQQ', sup, 64, 1, 0, 77)
    struct.pack_into('<Q', sup, 1248, 1)
    struct.pack_into('<I', sup, 4092, wire.crc32c(sup[:4092]))
    save(directory, 'super', b'\x00' + bytes(sup) + bytes(12288) + log)


def page_map_seeds(directory):
    """One message of each type, smallest and largest, and all in a row"""
    def message(kind, body=b''):
        return struct.pack('>HI', kind, len(body)) + body

    def device(name, probes):
        return message(2, struct.pack('>HQH', 1, 1 << 30, len(name)) + name +
                       struct.pack('>H', len(probes)) +
                       b''.join(struct.pack('>Q', p) + bytes(16)
                                for p in probes))

    def run(offset, pages):
        return message(4, struct.pack('>IHQH', 1, 1, offset, pages) +
                       b''.join(struct.pack('>HI', 0, p) + b'\x33' * 16
                                for p in range(pages)))

    messages = {
        'end': message(0),
        'hello': message(1, struct.pack('>II', 1, 4096) + b'\x44' * 16),
        'device': device(b'vda', []),
        'device-large': device(b'v' * 1024, range(0, 32 * 512, 512)),
        'block': message(3, struct.pack('>HB', 0, 6) + b'pc.ram'),
        'run': run(4096, 1),
        'run-large': run((1 << 63) - (1 << 20) - 512, 256),
        'commit': message(5, struct.pack('>IH', 1, 257)),
        'finish': message(6),
        'snapshot': message(7),
    }
    for name, data in messages.items():
        for mode in (0, 1):
            save(directory, '%s-%d' % (name, mode), bytes([mode]) + data)
    save(directory, 'section', b'\x00' + b''.join(
        messages[m] for m in ('hello', 'device', 'device-large', 'end',
                              'block', 'run', 'run-large', 'commit', 'finish',
                              'end')))
    save(directory, 'rp-devices', b'\x02\x00' + struct.pack('>H', 2) +
         struct.pack('>HBHB', 1, 0, 2, 5))
    save(directory, 'rp-devices-large', b'\x02\x00' + struct.pack('>H', 64) +
         b''.join(struct.pack('>HB', n, n % 6) for n in range(64)))
    for pages in (1, 7, 8, 9, 2048):
        save(directory, 'rp-batch-%d' % pages, b'\x02\x01' +
             struct.pack('>IHIHI', 1, pages, pages * 4096, 1, 1000) +
             bytes([(1 << (pages - 1) % 8)]) * ((pages + 7) // 8))


def mapped_ram(configuration, blocks):
    """A file as stock QEMU writes it, but for the distance of its pages"""
    def section(kind, head, body):
        return (bytes([kind]) + struct.pack('>I', 2) + head + body +
                b'\x7e' + struct.pack('>I', 2))

    def name(text):
        return bytes([len(text)]) + text

    out = struct.pack('>II', 0x5145564d, 3) + configuration
    ram = struct.pack('>Q', sum(blocks.values()) * wire.PAGE | 4)
    base = len(out) + 5 + 4 + 8
    for block, pages in blocks.items():
        ram += name(block) + struct.pack('>Q', pages * wire.PAGE)
        bitmap = base + len(ram) + 28
        at = (bitmap + 8 + wire.PAGE - 1) // wire.PAGE * wire.PAGE
        ram += struct.pack('>IQQQ', 1, wire.PAGE, bitmap, at)
        ram += struct.pack('<Q', (1 << pages) - 1)
        ram += bytes(at - base - len(ram)) + b'\x21' * (pages * wire.PAGE)
    eos = struct.pack('>Q', 0x10)
    out += section(1, name(b'ram') + struct.pack('>II', 0, 4), ram + eos)
    out += section(2, b'', eos) + b'\x08\0\x0b\0\0'
    return out + section(3, b'', eos) + b'rest'


def layout_seeds(directory):
    caps = (b'\x05\x1aconfiguration/capabilities' +
            struct.pack('>II', 1, 1) + b'\x0amapped-ram')
    full = b'\x07' + struct.pack('>I', 2) + b'pc' + caps
    disk = mappedram.Disk(7, 'disk0', b'\x21' * (64 * wire.PAGE))
    os.makedirs(directory, exist_ok=True)
    with tempfile.NamedTemporaryFile() as f:
        for configuration in (b'', full):
            f.seek(0)
            f.truncate()
            f.write(mapped_ram(configuration, {b'pc.ram': 2, b'm1': 1}))
            f.flush()
            stock = mappedram.MappedRam(f.name)
            records = {('pc.ram', 0): (disk, 512), ('m1', 0): (disk, 0),
                       ('pc.ram', 1): (disk, 512 + wire.PAGE)}
            for n in range(4):
                mappedram.with_page_map(
                    stock, os.path.join(directory, '%d-%d' % (
                        bool(configuration), n)),
                    dict(list(records.items())[:n]))


def numa_topology_seeds(directory):
    """One file for the parsers, or files of a host by their number"""
    def host(*files):
        return b'\x01' + b''.join(
            bytes([n]) + struct.pack('<H', len(text)) + text
            for n, text in files)

    for n, text in enumerate((b'0-3,8,10-11\n', b'00000000,0000000f\n',
                              b'7\n\0', b'10 21 254\n', b'0-99999999999\n',
                              b'Node 0 MemTotal: 8 kB\nNode 0 MemFree: 4 kB\n')):
        save(directory, 'parse-%d' % n, b'\x00' + text)
    memory = b'Node 0 MemTotal: 8192 kB\nNode 0 MemFree: 4096 kB\n'
    two = [(0, b'0-3\n'), (3, b'0-1\n'), (4, b'00000003\n'), (5, b'0-1\n'),
           (6, b'0\n'), (7, b'1\n'), (8, b'0,5\n'), (9, b'3\n'),
           (11, b'10 21\n'), (12, memory), (13, b'80\n'), (14, b''),
           (15, b'c\n'), (17, b'21 10\n'), (18, memory), (19, b'0\n'),
           (20, b'')]
    save(directory, 'two', host(*two))
    save(directory, 'same', host(*two, (15, b'3\n'), (21, b'9\n')))
    save(directory, 'old', host(*two[3:], (1, b'1\n'), (2, b'0\n')))
    save(directory, 'one', host((0, b'0\n'), (22, memory[7:])))


def numa_table_seeds(directory):
    """A header, and slots whose sums the fuzzer puts right"""
    def slot(*nodes, sequence=1, term=1000):
        head = struct.pack('<IIQIIQ', 0, len(nodes), sequence, 4711, term, 0)
        return (head + b''.join(struct.pack('<IIIIQQ', *n)
                                for n in nodes)).ljust(1024, b'\0')

    header = (b'QNUMATBL' + struct.pack('<III', 1, 256, 1024)).ljust(
        1020, b'\0')
    full = [(33 * n, 1000, 0, 0, 1 << 30, n) for n in range(31)]
    save(directory, 'header', b'\x03' + header)
    save(directory, 'unused', b'\x00' + bytes(1024))
    save(directory, 'nothing', b'\x02' + slot(term=0))
    save(directory, 'one', b'\x02' + slot((3, 2000, 0, 0, 5 << 30, 0)))
    save(directory, 'full', b'\x02' + slot(*full))
    save(directory, 'two', b'\x02' + slot(*full[:3]) + slot(*full[2:9]))
    save(directory, 'short', b'\x02' + slot(*full)[:500])


if __name__ == '__main__':
    numa_table_seeds(os.path.join(sys.argv[1], 'numa-table'))
    numa_topology_seeds(os.path.join(sys.argv[1], 'numa-topology'))
    layout_seeds(os.path.join(sys.argv[1], 'page-map-layout'))
    page_map_seeds(os.path.join(sys.argv[1], 'page-map-wire'))
    wire_seeds(os.path.join(sys.argv[1], 'pmem-ha-wire'))
    journal_seeds(os.path.join(sys.argv[1], 'pmem-ha-journal'))
