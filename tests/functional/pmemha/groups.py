# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices of one consistency group: slices of one file, and one replica"""

import os

from .baremetal import BASE, BareMetal
from .migrate import MigrationTest

SLICE = 8 << 20
DEVICES = 2
SIZE = SLICE * DEVICES
BASES = 'base=' + ','.join(hex(BASE + n * SLICE) for n in range(DEVICES))
SPREAD = f'devs={DEVICES} spread=1 {BASES}'
GROUP = 'consistency-group=g0'


def add_slices(q, path, props, devices=DEVICES, size=SLICE, slots=None):
    """Devices nv0, nv1, ... of one file"""
    for n in range(devices):
        q.pmem_file(path, size, n, device='pmem-ha',
                    backend=f'offset={n * size}',
                    props=f'{GROUP}{props}' +
                    (f',slot={slots[n]}' if slots else ''))
    return q


class GroupTest(MigrationTest):
    """As MigrationTest; each QEMU has the devices of a group"""

    def setUp(self):
        self.r = self.replica(size=SIZE).start()
        self.guests = []

    def guest(self, name, *extra, cmd=f'workload=records {SPREAD}', props='',
              slots=None, **kw):
        g = self.adopt(BareMetal(self.work, cmd, name=name, smp=self.smp,
                                 **kw))
        if not os.path.exists(self.work.path(f'{name}.img')):
            self.work.sparse(f'{name}.img', SIZE)
        g.add('-object', self.r.object('r0'))
        add_slices(g, f'{name}.img',
                   f',replica=r0,state-file={name}.state{props}',
                   slots=slots)
        g.add('-trace', 'pmem_ha_verdict', *extra)
        self.guests.append(g)
        return g

    def slices(self, path):
        """The content of each device, in files"""
        out = []
        with open(path, 'rb') as f:
            for n in range(DEVICES):
                out.append(self.work.write(f'slice{n}', f.read(SLICE)))
        return out

    def judged(self, g, path):
        verdict = g.judge(self.slices(path))
        self.assertTrue(verdict.ok, verdict)
        return verdict
