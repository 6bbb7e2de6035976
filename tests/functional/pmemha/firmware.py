# SPDX-License-Identifier: GPL-2.0-or-later
"""What firmware and the guest's ACPI code see, read by the qtest protocol"""

import struct
import uuid
from collections import namedtuple

FW_CFG_SELECT = 0x510
FW_CFG_DMA = 0x514
FILE_DIR = 0x19

DSM_PORT = 0xa18
ROOT_UUID = uuid.UUID('648b9cf2-cda1-4312-8ad9-49c4af32bd62')
ROOT_HANDLE = 0x10000

# RAM that nobody uses in a machine that does not run
SCRATCH = 0x10000
BUFFER = 0x100000

# Structure types of the NFIT
SPA, REGION, CONTROL, FLUSH_HINT = 0, 1, 4, 6

Structure = namedtuple('Structure', 'type data')
Hint = namedtuple('Hint', 'handle addresses')


def _fw_cfg_read(qtest, key, size):
    """By DMA: a byte at a time takes minutes."""
    qtest.ask(f'outw {FW_CFG_SELECT:#x} {key:#x}')
    data = b''
    while len(data) < size:
        part = min(size - len(data), 0x40000)
        qtest.write(SCRATCH, struct.pack('>IIQ', 2, part, BUFFER))
        qtest.outl(FW_CFG_DMA, 0)
        qtest.outl(FW_CFG_DMA + 4,
                   struct.unpack('<I', struct.pack('>I', SCRATCH))[0])
        status = struct.unpack('>I', qtest.read(SCRATCH, 4))[0]
        assert status == 0, f'fw_cfg DMA: {status:#x}'
        data += qtest.read(BUFFER, part)
    return data


def fw_cfg_directory(qtest):
    """{name: (key, size)}"""
    count, = struct.unpack('>I', _fw_cfg_read(qtest, FILE_DIR, 4))
    raw = _fw_cfg_read(qtest, FILE_DIR, 4 + 64 * count)
    found = {}
    for i in range(count):
        size, key, _, name = struct.unpack_from('>IHH56s', raw, 4 + 64 * i)
        found[name.split(b'\0')[0].decode()] = key, size
    return found


def fw_cfg_files(qtest):
    """{name: content}"""
    # Tables are made when they are first selected, and may grow then.
    fw_cfg_files_once(qtest, ('etc/acpi/tables',))
    return fw_cfg_files_once(qtest)


def fw_cfg_files_once(qtest, names=None):
    return {name: _fw_cfg_read(qtest, key, size) for name, (key, size)
            in fw_cfg_directory(qtest).items() if not names or name in names}


def acpi_tables(qtest):
    """{signature: [table, ...]} of etc/acpi/tables"""
    blob = fw_cfg_files_once(qtest, ('etc/acpi/tables',))['etc/acpi/tables']
    found = {}
    at = 0
    while at + 36 <= len(blob):
        sig, length = struct.unpack_from('<4sI', blob, at)
        if not sig.isalnum() or not 36 <= length <= len(blob) - at:
            at += 4                 # padding
            continue
        found.setdefault(sig.decode(), []).append(blob[at:at + length])
        at += length
    return found


def structures(fit):
    """Structures of an NFIT without its header"""
    found = []
    while fit:
        kind, length = struct.unpack_from('<HH', fit)
        assert 4 <= length <= len(fit), (kind, length)
        found.append(Structure(kind, fit[:length]))
        fit = fit[length:]
    return found


def nfit(qtest):
    """Structures of the static table; empty without one"""
    tables = acpi_tables(qtest).get('NFIT', [])
    assert len(tables) <= 1
    return structures(tables[0][40:]) if tables else []


def fit_by_dsm(qtest):
    """
    Structures that _FIT returns, which is where a hot-plugged device shows
    up: read piece by piece, as the guest's ACPI code does it.
    """
    fit = b''
    for _ in range(1000):
        # handle, revision, function 1 (read FIT), offset
        qtest.write(SCRATCH, struct.pack('<IIII', ROOT_HANDLE, 1, 1,
                                         len(fit)).ljust(4096, b'\0'))
        qtest.outl(DSM_PORT, SCRATCH)
        length, status = struct.unpack('<II', qtest.read(SCRATCH, 8))
        if status == 0x100:         # it changed: once more
            fit = b''
            continue
        assert status == 0 and 8 <= length <= 4096, (length, status)
        if length == 8:
            return structures(fit)
        fit += qtest.read(SCRATCH + 8, length - 8)
    raise AssertionError('the FIT does not end')


def handles(found):
    """Handles of the devices that have a region, in order"""
    return [struct.unpack_from('<I', s.data, 4)[0] for s in found
            if s.type == REGION]


def hints(found):
    """Flush hint structures, decoded"""
    result = []
    for s in found:
        if s.type == FLUSH_HINT:
            handle, count = struct.unpack_from('<IH', s.data, 4)
            assert len(s.data) == 16 + 8 * count, s.data.hex()
            result.append(Hint(handle, list(
                struct.unpack_from(f'<{count}Q', s.data, 16))))
    return result
