# SPDX-License-Identifier: GPL-2.0-or-later
"""
DIMMs that come and go while a machine runs.  The guest's part, which is to let
one go by ACPI's registers, is done by the qtest protocol.
"""

from .paths import scaled

# Slot; flags
SELECT, FLAGS = 0xa00, 0xa14
ENABLED, REMOVING, EJECT = 1, 4, 8
SIZE = 128 << 20


def ram_addr(q, backend):
    """Where the memory of a backend is among all RAM of the machine"""
    for words in map(str.split, q.hmp('info ramblock').splitlines()):
        if words and words[0].split('/')[-1] == backend:
            return int(next(w for w in words if w.startswith('0x')), 16)
    raise AssertionError(f'no RAM block {backend}')


class Dimm:
    """Device dimm<n> in a slot, on the backend ram<n>"""

    def __init__(self, q, n=0, slot=3, size=SIZE, backend='memory-backend-ram',
                 **props):
        self.q = q
        self.slot = slot
        self.device, self.memory = f'dimm{n}', f'ram{n}'
        q.qmp.raw_cmd('object-add', {'qom-type': backend, 'size': size,
                                     'id': self.memory, **props})
        q.qmp.cmd('device_add', driver='pc-dimm', id=self.device,
                  memdev=self.memory, slot=slot)
        self.ram_addr = ram_addr(q, self.memory)
        self.address = slot_address(q, slot)

    def eject(self):
        """QEMU asks, and the guest's ACPI lets it go."""
        q = self.q
        q.qmp.cmd('device_del', id=self.device)
        q.mem.outl(SELECT, self.slot)
        flags = q.mem.inl(FLAGS)
        assert flags & (ENABLED | REMOVING) == ENABLED | REMOVING, flags
        q.mem.outb(FLAGS, EJECT)
        q.qmp.wait_event('DEVICE_DELETED', 20,
                         lambda data: data.get('device') == self.device)
        q.qmp.cmd('object-del', id=self.memory)
        # Its range is free when nobody can be looking at it any more.
        q.qmp.poll('human-monitor-command',
                   lambda text: f'{self.ram_addr:#018x}' not in text.split(),
                   scaled(20), {'command-line': 'info ramblock'})


def slot_address(q, slot):
    """The guest's address of what is in a slot for DIMMs"""
    return next(d['data']['addr'] for d in q.qmp.cmd('query-memory-devices')
                if d['data'].get('slot') == slot)
