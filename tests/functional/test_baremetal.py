#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare-metal guest runs, and its oracle accepts what a file holds."""

from pmemha import TestCase, main
from pmemha.baremetal import BareMetal, oracle

SIZE = '8M'


class BareMetalGuest(TestCase):

    timeout = 30

    def guest(self, cmd, smp=1, devices=1, props='', **kw):
        g = self.adopt(BareMetal(self.work, cmd, smp=smp, **kw))
        for n in range(devices):
            g.pmem_file(f'nv{n}.img', SIZE, n, props=props)
        return g

    def run_to_end(self, cmd, **kw):
        # It may end before a monitor has answered.
        g = self.guest(cmd + ' exit=1 code=5', **kw).start(negotiate=False)
        g.out.wait_for('^END', 20)
        self.assertEqual(g.wait(10), 5 * 2 + 1)
        self.assertEqual(g.out.count('ERROR|EXCEPTION'), 0,
                         g.out.text_lines())
        return g

    def images(self, devices=1):
        return [self.work.path(f'nv{n}.img') for n in range(devices)]

    def accepted(self, g, devices=1, **kw):
        verdict = g.judge(self.images(devices), **kw)
        self.assertTrue(verdict.ok, verdict)
        return verdict

    def check_records(self, smp):
        g = self.run_to_end('workload=records records=200 seed=7 width=0',
                            smp=smp)
        self.assertEqual(g.acks(), {c: 200 for c in range(smp)})
        self.accepted(g)

    def test_records_smp1(self):
        self.check_records(1)

    def test_records_smp2(self):
        self.check_records(2)

    def test_records_smp4(self):
        self.check_records(4)

    def check_killed(self, smp):
        """SIGKILL at any moment: QEMU's page cache holds every store."""
        g = self.guest('workload=records seed=9', smp=smp).start()
        for cpu in range(smp):
            g.out.wait_seen(rf'^A {cpu} 300$', 20)
        g.kill()
        self.accepted(g)

    def test_killed_smp1(self):
        self.check_killed(1)

    def test_killed_smp4(self):
        self.check_killed(4)

    def test_oracle_sees_real_damage(self):
        """One word of the image of a real run is taken back."""
        g = self.run_to_end('workload=records records=50')
        path = self.images()[0]
        with open(path, 'r+b') as f:
            page, word = g.params.slot(40 * 32 + 3)
            f.seek(g.params.place(0, page)[1] + word * 8)
            f.write(bytes(8))
        self.assertEqual(g.judge([path]).kind, 'lost')

    def test_two_devices(self):
        g = self.guest('workload=records records=100 devs=2 spread=1 '
                       'base=0x100000000,0x100800000', smp=2,
                       devices=2).start()
        info = g.qmp.cmd('query-memory-devices')
        addrs = sorted(d['data']['addr'] for d in info)
        self.assertEqual(addrs, [0x100000000, 0x100800000])
        g.out.wait_for('^END', 20)
        g.kill()
        self.accepted(g, 2)

    def test_continue(self):
        """A second run goes on where the image of the first one ends."""
        self.run_to_end('workload=records records=100', smp=2)
        g = self.run_to_end('workload=records records=700 first=3200,3200',
                            smp=2)
        self.accepted(g)

    def test_litmus(self):
        g = self.guest('workload=litmus pairs=4 every=1000', smp=4).start()
        g.out.wait_for('^F 3 3000$', 20)
        g.qmp.cmd('stop')
        g.kill()
        self.accepted(g)

    def test_dma(self):
        g = self.run_to_end('workload=dma records=77', smp=2)
        self.accepted(g)

    def test_label(self):
        g = self.run_to_end('workload=label records=20 length=128',
                            props='label-size=128K')
        self.assertEqual(g.acks(), {0: 20})
        self.accepted(g, label_size=128 << 10)

    def test_flood_and_nmi(self):
        g = self.guest('workload=flood records=20000 every=1000',
                       smp=2).start()
        g.out.wait_for('^F 0 1000$', 20)
        g.qmp.cmd('inject-nmi')
        m = g.out.wait_for(r'^END nmi=(\d+)', 20)
        self.assertGreaterEqual(int(m[1]), 1)

    def test_once(self):
        self.run_to_end('workload=once records=3')

    def test_sum(self):
        self.run_to_end('workload=records records=20')
        g = self.run_to_end('workload=sum length=65536')
        with open(self.images()[0], 'rb') as f:
            want = oracle.guest_sum(f.read(65536))
        self.assertEqual(g.out.count(f'^SUM {want:x}$'), 1)

    def test_reset(self):
        """A guest that was reset starts afresh."""
        # Without a pause, vCPUs that do nothing but MMIO can keep the BQL from
        # the main loop for long on a loaded machine.
        g = self.guest('workload=flood every=1000 think=2000', smp=2)
        g.argv.remove('-no-reboot')
        g.start()
        g.out.wait_for('^F 1 1000$', 20)
        g.qmp.cmd('system_reset')
        g.out.wait_for('^BOOT', 20)
        g.out.wait_for('^F 1 1000$', 20)

    def test_bad_parameters(self):
        g = self.guest('workload=records', smp=1)
        i = next(i for i, a in enumerate(g.argv) if a.startswith('name=opt/'))
        g.argv[i] += ' nonsense=1'
        g.start()
        g.out.wait_for('^ERROR parameters not understood', 20)


if __name__ == '__main__':
    main()
