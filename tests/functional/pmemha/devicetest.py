# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of one device with one replica share"""

import os

from .device import PmemMachine
from .qmp import QmpError
from .testcase import TestCase

SIZE = 16 << 20
PAGE = 4096


class DeviceTest(TestCase):
    """One replica, r; primaries on p.img and p.state"""

    def setUp(self):
        self.r = self.replica(size=SIZE).start()

    def path(self, name):
        return self.work.path(name)

    def content(self, name):
        with open(self.path(name), 'rb') as f:
            return f.read()

    def promoted(self):
        answer = self.r.qmp.cmd('pmem-replica-promote')
        return self.content(answer['mem-path'])

    def machine(self, name='qemu', back='p.img', size=SIZE, replica=True,
                state='p.state', machine='q35,nvdimm=on', **kw):
        if not os.path.exists(self.path(back)):
            self.work.sparse(back, size)
        q = self.adopt(PmemMachine(self.work, name, machine=machine))
        return q.pmem_ha(back, size, 0, self.r if replica is True else replica,
                         state, **kw)

    def primary(self, name='qemu', **kw):
        q = self.machine(name, **kw).start()
        q.settle()
        return q

    def refused(self, q, *texts):
        said = q.expect_refusal()
        for text in texts:
            self.assertIn(text, said)

    def bare(self, name='qemu', machine='q35,nvdimm=on', extra=()):
        """A machine that has no device yet"""
        return self.adopt(PmemMachine(self.work, name,
                                      machine=machine)).add(*extra)

    def plug(self, q, n=0, back='p.img', size=SIZE, replica=True, mem=None,
             r=None, **device):
        """
        Device pm<n> by QMP, as machine() gives it on the command line; `mem`
        and `r` are further properties of its objects.
        """
        if not os.path.exists(self.path(back)):
            self.work.sparse(back, size)
        q.qmp.raw_cmd('object-add', {
            'qom-type': 'memory-backend-file', 'id': f'mem{n}', 'size': size,
            'mem-path': back, 'share': True, **(mem or {})})
        if replica:
            q.qmp.raw_cmd('object-add', {
                'qom-type': 'pmem-replica', 'id': f'r{n}', 'export': 'pm0',
                'addr': {'type': 'unix', 'path': self.r.socket}, **(r or {})})
            device = {'replica': f'r{n}', 'state-file': 'p.state', **device}
        q.qmp.raw_cmd('device_add', {'driver': 'pmem-ha', 'id': f'pm{n}',
                                     'memdev': f'mem{n}', **device})

    def qmp_refuses(self, function, *texts):
        """The error that a command, called in function(), must end with"""
        with self.assertRaises(QmpError) as e:
            function()
        for text in texts:
            self.assertIn(text, e.exception.desc)
        return e.exception.desc
