# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest protocol: guest physical memory without a guest.

A store through it is one without a vCPU: a flush starts an epoch and waits
for nothing, so tests wait until query-pmem-ha says that it is acknowledged.
"""
from .process import Qemu

PMEM_BASE = 0x100000000
HINT = 0xfed50000
BASE_ARGS = ['-machine', 'q35,nvdimm=on', '-m', '64M,slots=4,maxmem=4G', '-S']


class QtestQemu(Qemu):
    """A stopped machine; its NVDIMMs start at 4 GiB."""

    def __init__(self, work, args, name='qemu', machine=None, **kw):
        super().__init__(work, (machine or BASE_ARGS) + list(args), name=name,
                         consoles={'qtest': ['-qtest', 'chardev:qtest',
                                             '-qtest-log', 'none']}, **kw)
        self.replies = 0

    def command(self, text, timeout=30):
        self.send('qtest', text + '\n')
        match, self.replies = self.consoles['qtest'].wait(
            '^(OK|FAIL|ERR)(.*)', timeout, self.replies)
        self.replies += 1
        if match.group(1) != 'OK':
            raise RuntimeError('qtest: %s: %s' % (text, match.group(0)))
        return match.group(2).strip()

    def writeq(self, addr, value):
        self.command('writeq 0x%x 0x%x' % (addr, value))

    def readq(self, addr):
        return int(self.command('readq 0x%x' % addr), 0)

    def write(self, addr, data):
        self.command('write 0x%x 0x%x 0x%s' % (addr, len(data), data.hex()))

    def flush(self, slot=0):
        """A flush; returns when the replica has acknowledged it."""
        before = self.query('pm%d' % slot)['flushes']
        self.writeq(HINT + 64 * slot, 1)
        info = self.query('pm%d' % slot)
        assert info['flushes'] == before + 1
        self.settle('pm%d' % slot)

    def settle(self, name='pm0', timeout=30):
        """Until nothing is under way; each query is a round trip."""
        for _ in range(timeout * 1000):
            info = self.query(name)
            if info['epoch-captured'] == info['epoch-acked'] and \
                    info['state'] == 'in-sync':
                return info
        raise AssertionError('does not settle: %r' % info)
