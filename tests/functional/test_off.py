#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Off means off: a machine without our options is, for its guest and for a
migration stream, the machine of QEMU as released.  And a pmem-ha adds exactly
one structure to what its nvdimm would show.
"""

import difflib
import itertools
import re

from pmemha import (NO_STOCK, TestCase, main, program, scaled, skip_unless,
                    stock_program)
from pmemha.device import HINT
from pmemha.firmware import (FLUSH_HINT, fit_by_dsm, fw_cfg_files, handles,
                             hints, nfit)
from pmemha.qemu import Qemu
from pmemha.stream import canonical

SIZE = 16 << 20
UUID = '12345678-9abc-4def-8123-456789abcdef'

# Bytes per second: RAM goes in several sections, with the bitmap read between.
SLOW = 200000

# (name, machine, NVDIMMs as properties)
MACHINES = [(f'{m}-{n}', f'{m},nvdimm={"off" if n == "none" else "on"}',
             nvdimms)
            for m in ('pc', 'q35')
            for n, nvdimms in (('none', []), ('empty', []), ('one', ['']),
                               ('two', ['', 'label-size=128K,slot=2']))]


def have_stock():
    return stock_program('QEMU') is not None


class OffCase(TestCase):

    def machine(self, name, machine, nvdimms=(), binary=None):
        """
        Stopped, with nothing in it that differs from run to run; `nvdimms`
        are properties, with another driver in front where it is not nvdimm
        """
        q = self.adopt(Qemu(self.work, name, machine=machine, binary=binary,
                            memory='64M,slots=4,maxmem=4G'))
        q.argv[q.argv.index('-name') + 1] = 'guest'
        self.mem = q.qtest()
        q.add('-qtest-log', 'none', '-S', '-uuid', UUID,
              '-rtc', 'base=2026-01-01T00:00:00,clock=vm')
        for i, props in enumerate(nvdimms):
            driver = 'nvdimm'
            if props.startswith('pmem-ha'):
                driver, _, props = props.partition(',')
            self.work.sparse(f'{name}-{i}.img', SIZE)
            q.pmem_file(f'{name}-{i}.img', SIZE, i, driver, props=props)
        return q


class Same(OffCase):
    """Ours against stock, and stock against itself to know the noise"""

    timeout = 120

    def both(self, name, machine, nvdimms):
        for kind in ('stock', 'ours'):
            binary = program('QEMU') if kind == 'ours' \
                else stock_program('QEMU')
            yield self.machine(f'{kind}-{name}', machine, nvdimms,
                               binary).start()

    @skip_unless(have_stock, NO_STOCK)
    def test_firmware_tables(self):
        """Every file of fw_cfg, the ACPI tables among them"""
        compared = 0
        for name, machine, nvdimms in MACHINES:
            seen = []
            for q in self.both(name, machine, nvdimms):
                seen.append(fw_cfg_files(self.mem))
                q.kill()
            stock, ours = seen
            self.assertIn('etc/acpi/tables', stock)
            self.assertEqual(b'NFIT' in stock['etc/acpi/tables'],
                             bool(nvdimms), name)
            self.assertEqual(sorted(stock), sorted(ours), name)
            for file, content in stock.items():
                self.assertEqual(content, ours[file], f'{name}: {file}')
                compared += len(content)
        self.diag(f'{len(MACHINES)} machines, {compared} bytes equal')

    @skip_unless(have_stock, NO_STOCK)
    def test_address_space_and_devices(self):
        for name, machine, nvdimms in MACHINES:
            seen = []
            for q in self.both(name, machine, nvdimms):
                # Hash tables give their order, and the numbers of views.
                text = '\n\n'.join(sorted(
                    q.hmp('info mtree').split('\r\n\r\n')))
                text += '\n'.join(sorted(re.sub(
                    'FlatView #[0-9]+', 'FlatView',
                    q.hmp('info mtree -f')).splitlines()))
                text += q.hmp('info qtree') + q.hmp('info qom-tree')
                seen.append(text.replace(q.name, 'NAME'))
                q.kill()
            if seen[0] != seen[1]:
                self.fail(f'{name}:\n' + '\n'.join(difflib.unified_diff(
                    *(s.splitlines() for s in seen), 'stock', 'ours', n=1)))

    def stream(self, kind, number, name, machine, nvdimms, bandwidth=0):
        binary = program('QEMU') if kind == 'ours' else stock_program('QEMU')
        q = self.machine(f'{kind}{number}-{name}', machine, nvdimms,
                         binary).start()
        file = f'{q.name}.stream'
        q.qmp.cmd('migrate-set-parameters', **{'max-bandwidth': bandwidth})
        q.qmp.cmd('migrate', uri=f'file:{file}')
        info = q.qmp.poll('query-migrate', lambda i: i.get('status') in
                          ('completed', 'failed'), scaled(30))
        self.assertEqual(info['status'], 'completed', info)
        q.kill()
        with open(self.work.path(file), 'rb') as f:
            return canonical(f.read())

    @skip_unless(have_stock, NO_STOCK)
    def test_migration_stream(self):
        total = 0
        for name, machine, nvdimms in MACHINES:
            one, two = (self.stream('stock', n, name, machine, nvdimms, rate)
                        for n, rate in ((1, 0), (2, SLOW)))
            ours = self.stream('ours', 1, name, machine, nvdimms)
            self.assertEqual(len(one), len(two), f'{name}: stock alone')
            self.assertEqual(len(one), len(ours), name)
            noise = differing(one, two)
            if noise:
                self.diag(f'{name}: two runs of stock differ at '
                          f'{ranges(noise)}: not compared')
            self.assertLess(len(noise), 64, f'{name}: stock alone')
            bad = [i for i in differing(one, ours) if i not in noise]
            self.assertFalse(bad, f'{name}: ours differs at {ranges(bad)}')
            total += len(one) - len(noise)
        self.diag(f'{len(MACHINES)} streams, {total} bytes equal')


def differing(a, b):
    """Offsets of the bytes that are not the same"""
    if a == b:
        return []
    block = 4096
    return [i for at in range(0, len(a), block)
            if a[at:at + block] != b[at:at + block]
            for i in range(at, min(at + block, len(a))) if a[i] != b[i]]


def ranges(offsets):
    text = []
    for _, group in itertools.groupby(enumerate(offsets),
                                      lambda p: p[1] - p[0]):
        group = [offset for _, offset in group]
        text.append(f'{group[0]:#x}+{len(group)}')
    return ', '.join(text[:20])


class Added(OffCase):
    """What one pmem-ha adds, beside the same machine with nvdimm"""

    def found(self, name, machine, nvdimms):
        q = self.machine(name, machine, nvdimms).start()
        static, dynamic = nfit(self.mem), fit_by_dsm(self.mem)
        self.assertEqual(static, dynamic, 'NFIT and _FIT')
        q.kill()
        return static

    def check(self, plain, ours, slots):
        """One hint for each slot, and otherwise what nvdimm has"""
        self.assertEqual([s for s in ours if s.type != FLUSH_HINT], plain)
        self.assertEqual(len(ours), len(plain) + len(slots))
        for s in ours:
            if s.type == FLUSH_HINT:
                self.assertEqual(len(s.data), 24)
                self.assertEqual(s.data[10:16], bytes(6), 'reserved')
        by_handle = {h.handle: h.addresses for h in hints(ours)}
        # QEMU's handle of a device is its slot + 1.
        self.assertEqual(by_handle, {slot + 1: [HINT + 64 * slot]
                                     for slot in slots})
        self.assertLessEqual(set(by_handle), set(handles(ours)))

    def test_cold_plugged(self):
        for m in ('pc', 'q35'):
            plain = self.found(f'{m}-plain', f'{m},nvdimm=on', [''])
            ours = self.found(f'{m}-ours', f'{m},nvdimm=on', ['pmem-ha'])
            self.assertEqual(hints(plain), [])
            self.check(plain, ours, [0])

    def test_mixed_with_nvdimm(self):
        """Only a pmem-ha has a hint, in whatever slot it is."""
        props = ['slot=3', 'slot=0', 'slot=2']
        plain = self.found('plain', 'q35,nvdimm=on', props)
        ours = self.found('ours', 'q35,nvdimm=on',
                          ['pmem-ha,' + props[0], props[1],
                           'pmem-ha,' + props[2]])
        self.check(plain, ours, [3, 2])

    def test_hot_plugged(self):
        """It shows up in _FIT; the static table is made at the next boot."""
        for m in ('pc', 'q35'):
            fits = []
            for driver in ('nvdimm', 'pmem-ha'):
                q = self.machine(f'{m}-{driver}', f'{m},nvdimm=on',
                                 ['']).start()
                before = fit_by_dsm(self.mem)
                self.assertEqual(hints(before), [])
                self.work.sparse('hot.img', SIZE)
                q.qmp.cmd('object-add', qom_type='memory-backend-file',
                          id='hot', mem_path='hot.img', size=SIZE, share=True)
                q.qmp.cmd('device_add', driver=driver, id='hot0',
                          memdev='hot')
                fits.append(fit_by_dsm(self.mem))
                self.assertGreater(len(fits[-1]), len(before))
                q.kill()
            self.check(*fits, [1])


if __name__ == '__main__':
    main()
