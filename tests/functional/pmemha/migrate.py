# SPDX-License-Identifier: GPL-2.0-or-later
"""
Two QEMUs with one replica: a guest that flushes, its migration, and the
oracle's verdict over what it reported at either end.
"""

import hashlib
import os
import re

from .baremetal import BASE, BareMetal, oracle
from .paths import scaled
from .testcase import TestCase

SIZE = 8 << 20
RAM = 64 << 20
CMD = 'workload=records think=200'


def set_caps(q, **caps):
    q.qmp.raw_cmd('migrate-set-capabilities', {'capabilities': [
        {'capability': k.replace('_', '-'), 'state': v}
        for k, v in caps.items()]})


def set_params(q, **params):
    q.qmp.cmd('migrate-set-parameters', **params)


class MigrationTest(TestCase):
    """One replica, `r`; each QEMU has a backing and a state file of its own"""

    timeout = 180
    smp = 2

    def setUp(self):
        self.r = self.replica(size=SIZE).start()
        self.guests = []

    def anew(self, n):
        """Other processes and another replica, for a further round"""
        for g in self.guests:
            g.kill()
        self.guests = []
        self.r.kill()
        self.r = self.replica(f'r{n}', image=f'r{n}.img', size=SIZE).start()

    def guest(self, name, *extra, cmd=CMD, size=SIZE, props='', replica=None,
              **kw):
        g = self.adopt(BareMetal(self.work, cmd, name=name, smp=self.smp,
                                 **kw))
        self.work.sparse(f'{name}.img', size)
        g.add('-object', (replica or self.r).object('r0'))
        g.pmem_file(f'{name}.img', size, device='pmem-ha',
                    props=f'replica=r0,state-file={name}.state{props}')
        g.add('-trace', 'pmem_ha_verdict', '-trace', 'pmem_ha_role',
              '-trace', 'pmem_ha_taken', *extra)
        self.guests.append(g)
        return g

    def source(self, *extra, acks=5, **kw):
        g = self.guest('src', *extra, **kw).start()
        for cpu in range(self.smp if acks else 0):
            g.out.wait_seen(rf'^A {cpu} {acks}$', 60)
        return g

    def destination(self, *extra, name='dst', uri=None, paused=True, **kw):
        g = self.guest(name, '-incoming', uri or f'unix:{name}.mig',
                       *(['-S'] if paused else []), *extra, **kw)
        return g.start()

    def migrate(self, src, uri='unix:dst.mig', want='completed'):
        src.qmp.cmd('migrate', uri=uri)
        return self.wait_migration(src, want)

    def wait_migration(self, g, want='completed', timeout=60):
        """want: the states that it may end in, separated by a bar"""
        info = g.qmp.poll('query-migrate', lambda i: i.get('status') in
                          ('completed', 'failed', 'cancelled'),
                          scaled(timeout))
        self.assertIn(info['status'], want.split('|'), info)
        return info

    def pmem_ha(self, g):
        return g.qmp.cmd('query-pmem-ha')[0]

    def wait_info(self, g, timeout=30, **want):
        want = {k.replace('_', '-'): v for k, v in want.items()}
        return g.qmp.poll('query-pmem-ha', lambda infos: all(
            infos[0].get(k) == v for k, v in want.items()), scaled(timeout))[0]

    def digest(self, g):
        """Of all memory; nothing runs meanwhile"""
        found = []
        for what, addr, size in (('ram', 0, RAM), ('nv', BASE, SIZE)):
            name = f'{g.name}.{what}'
            g.qmp.cmd('pmemsave', timeout=30, val=addr, size=size,
                      filename=name)
            with open(self.work.path(name), 'rb') as f:
                found.append(hashlib.sha256(f.read()).hexdigest())
            os.unlink(self.work.path(name))
        return found

    def runs(self, g, records=20):
        """It flushes on: that many more reports of each CPU"""
        g.out.skip()
        for cpu in range(self.smp):
            for _ in range(records + 1):
                g.out.wait_for(rf'^A {cpu} ', 60)

    def says_nothing_new(self, g, before):
        """What it reports was flushed before the memory was saved."""
        for cpu, n in g.acks().items():
            self.assertLessEqual(n, before[cpu] + 1)

    def judge(self, replica=None, **kw):
        """Kill all, destroy what they had, promote, and ask the oracle."""
        for g in self.guests:
            g.kill()
            for path in (f'{g.name}.img', f'{g.name}.state'):
                if os.path.exists(self.work.path(path)):
                    os.unlink(self.work.path(path))
        answer = (replica or self.r).ctl('promote')
        acks = {}
        for g in self.guests:
            for cpu, n in g.acks().items():
                acks[cpu] = max(n, acks.get(cpu, 0))
        self.assertTrue(acks)
        verdict = oracle.check(self.guests[0].params, [answer['mem-path']],
                               acks, **kw)
        self.assertTrue(verdict.ok, verdict)
        return answer

    def verdicts(self, g):
        """Of its handshakes: 0 equal, 1 full copy, 2 refused"""
        return re.findall(r'^pmem_ha_verdict.* verdict (\d)', g.output(), re.M)
