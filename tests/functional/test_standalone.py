#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A pmem-ha without a replica costs a guest nothing but its flush hints: in a
running guest that flushes, no epoch is begun and no vCPU is ever held.  The
same command line with a replica shows that both would be seen.
"""

from collections import Counter

from pmemha import TestCase, main
from pmemha.baremetal import BareMetal

SIZE = 8 << 20
RECORDS = 200

# An epoch; the work that runs while no vCPU is in guest code (the capture of
# an epoch, and the begin of a full copy, which shows as a state); a vCPU that
# waits for an epoch; the hint itself, which both kinds of device have.
EPOCH = 'pmem_ha_capture'
EXCLUSIVE = 'pmem_ha_capture_begin'
WAIT = 'pmem_ha_flush'
STATE = 'pmem_ha_state'
HINT = 'pmem_ha_hint'


class Standalone(TestCase):

    timeout = 120

    def traced(self, smp, replica=None):
        """Run the guest to its end: events by name, and what QMP told"""
        name = f'{"mirrored" if replica else "alone"}{smp}'
        self.work.sparse(f'{name}.img', SIZE)
        g = self.adopt(BareMetal(
            self.work, f'workload=records records={RECORDS}', name=name,
            smp=smp))
        g.add('-object', f'memory-backend-file,id=mem0,size={SIZE},'
              f'mem-path={name}.img,share=on')
        device = f'pmem-ha,id=pm0,memdev=mem0,state-file={name}.state'
        if replica:
            g.add('-object', replica.object('r0'))
            device += ',replica=r0'
        g.add('-device', device)
        for event in (EPOCH, EXCLUSIVE, WAIT, STATE, HINT):
            g.add('-trace', event)
        g.start()
        g.out.wait_for('^END', 60)
        info = g.qmp.cmd('query-pmem-ha')[0]
        self.assertEqual(g.acks(), {cpu: RECORDS for cpu in range(smp)})
        g.kill()
        verdict = g.judge([self.work.path(f'{name}.img')])
        self.assertTrue(verdict.ok, verdict)
        words = (line.split() for line in g.output().splitlines())
        return Counter(w[0] for w in words if w), info

    def check(self, smp):
        found, info = self.traced(smp)
        self.assertEqual(info['state'], 'standalone')
        self.assertEqual(info['flushes'], RECORDS * smp)
        self.assertEqual(found[HINT], info['flushes'])
        self.assertEqual([found[e] for e in (EPOCH, EXCLUSIVE, WAIT, STATE)],
                         [0, 0, 0, 0])

        r = self.replica(f'rep{smp}', size=SIZE, image=f'rep{smp}.img')
        control, info = self.traced(smp, r.start())
        r.kill()
        self.assertEqual(info['flushes'], RECORDS * smp)
        self.assertEqual(control[HINT], info['flushes'])
        self.assertEqual(control[WAIT], info['flushes'])
        for event in (EPOCH, EXCLUSIVE, STATE):
            self.assertGreater(control[event], 0, event)
        self.assertEqual(control[EPOCH], info['epoch-captured'])
        self.diag(f'smp {smp}: {found[HINT]} flushes: {found[EPOCH]} epochs, '
                  f'{found[EXCLUSIVE]} exclusive sections; with a replica '
                  f'{control[HINT]}: {control[EPOCH]}, {control[EXCLUSIVE]}')

    def test_one_vcpu(self):
        self.check(1)

    def test_two_vcpus(self):
        self.check(2)

    def test_four_vcpus(self):
        self.check(4)


if __name__ == '__main__':
    main()
