#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What happens to guest memory, or near to it, and is no store of a vCPU: a
reset that gives poisoned pages back.

    test_memory_paths.py [--seed N] [PATTERN]
"""

import os
import random
import unittest

from pmemha import callin, main
from pmemha.device import PMEM_BASE, PmemMachine
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.options import option

SEED = option('seed', random.SystemRandom().randrange(1 << 32))


def ram_addr(q, backend):
    """Where the memory of a backend is among all RAM of the machine"""
    for words in map(str.split, q.hmp('info ramblock').splitlines()):
        if words and words[0].split('/')[-1] == backend:
            return int(next(w for w in words if w.startswith('0x')), 16)
    raise AssertionError(f'no RAM block {backend}')


class Poison(DeviceTest):
    """
    At a reset KVM exchanges the pages that a memory error has hit: it calls
    qemu_ram_remap(), which punches a hole into a file.
    """

    def emptied(self, q, back, reset):
        """Is page 5 after it?  All others must be as they were."""
        before = self.content(back)
        self.assertNotEqual(before[5 * PAGE:6 * PAGE], bytes(PAGE))
        reset(ram_addr(q, 'mem0') + 5 * PAGE + 8)
        after = self.content(back)
        changed = {at // PAGE for at in range(0, SIZE, PAGE)
                   if before[at:at + PAGE] != after[at:at + PAGE]}
        self.assertLessEqual(changed, {5})
        if changed:
            self.assertEqual(after[5 * PAGE:6 * PAGE], bytes(PAGE))
        return bool(changed)

    def fill(self, back='p.img'):
        self.work.write(back, random.Random(SEED).randbytes(SIZE))

    def remap(self, q):
        """What KVM calls; it says whether the page was exchanged."""
        def reset(at):
            self.done = callin.call(q.pid, 'qemu_ram_remap', at) & 0xff
        return reset

    def plain(self, **kw):
        q = self.adopt(PmemMachine(self.work, 'plain', **kw))
        return q.add('-object', 'memory-backend-file,id=mem0,mem-path=p.img,'
                     f'size={SIZE},share=on', '-device',
                     'nvdimm,id=nv0,memdev=mem0')

    def test_plain_nvdimm(self):
        """What the other tests rely on: the call empties pages."""
        self.fill()
        q = self.plain().start()
        self.assertTrue(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 1)

    def test_standalone(self):
        self.fill()
        q = self.machine(replica=None).start()
        self.assertFalse(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 0)

    def test_with_replica(self):
        self.fill()
        q = self.primary()
        self.assertFalse(self.emptied(q, 'p.img', self.remap(q)))
        self.assertEqual(self.done, 0)
        q.writeq(PMEM_BASE + 5 * PAGE, 1)
        q.flush()
        q.kill()
        self.assertTrue(self.promoted() == self.content('p.img'))

    def test_reset_under_kvm(self):
        """All of KVM's way, from the list of pages to the migration"""
        try:
            os.close(os.open('/dev/kvm', os.O_RDWR))
        except OSError as e:
            raise unittest.SkipTest(f'no KVM: {e}') from None

        def reset(at):
            callin.call(q.pid, 'kvm_hwpoison_page_add', at)
            q.qmp.cmd('system_reset')
            q.qmp.wait_event('RESET', 20)

        def migrate():
            q.qmp.cmd('migrate', uri='exec:cat >/dev/null')

        self.fill()
        q = self.plain(accel='kvm').start()
        self.assertTrue(self.emptied(q, 'p.img', reset))
        migrate()
        q.kill()
        self.fill()
        q = self.adopt(PmemMachine(self.work, 'kvm', accel='kvm'))
        q.pmem_ha('p.img', SIZE).start()
        for _ in range(2):
            self.assertFalse(self.emptied(q, 'p.img', reset))
            self.qmp_refuses(migrate, 'hardware poisoned memory')


if __name__ == '__main__':
    main()
