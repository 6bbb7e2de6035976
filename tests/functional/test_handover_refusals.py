#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Migrations of a device with a replica that are refused, at either end: the
message names the device, the value and the remedy, and the mirror goes on.
"""

import signal

from pmemha import QmpError, main, scaled
from pmemha.devicetest import SIZE, DeviceTest

UUID = '00000000-0000-4000-8000-00000000000a'


class Refused(DeviceTest):
    """Ways to migrate that would lose something, by name"""

    CAPS = ('x-colo', 'postcopy-ram', 'x-ignore-shared')

    def set_cap(self, q, cap, on):
        q.qmp.raw_cmd('migrate-set-capabilities', {'capabilities': [
            {'capability': cap, 'state': on}]})

    def fails(self, q, uri, *texts):
        """At once, or as soon as it is set up"""
        try:
            q.qmp.cmd('migrate', uri=uri)
        except QmpError as e:
            said = e.desc
        else:
            said = q.qmp.poll(
                'query-migrate', lambda i: i.get('status') in
                ('failed', 'completed'), scaled(20)).get('error-desc', '')
        for text in texts:
            self.assertIn(text, said)
        self.assertEqual(q.query()['state'], 'in-sync')
        self.assertEqual(q.query()['role'], 'primary')

    def test_capabilities(self):
        q = self.primary()
        for cap in self.CAPS:
            with self.subTest(cap):
                self.set_cap(q, cap, True)
                self.fails(q, 'exec:cat >/dev/null', "pmem-ha device 'pm0'",
                           f'migration capability {cap} ', 'switch it off')
                self.set_cap(q, cap, False)

    def test_background_snapshot(self):
        """QEMU itself refuses it with memory in a file."""
        q = self.primary()
        self.qmp_refuses(
            lambda: self.set_cap(q, 'background-snapshot', True),
            'not compatible with guest memory configuration')

    def test_capabilities_of_the_destination(self):
        """A source of another make did not refuse: this end does."""
        q = self.primary()
        q.qmp.cmd('migrate', uri='file:guest.file')
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        for n, cap in enumerate(('x-colo', 'x-ignore-shared')):
            d = self.machine(f'd{n}', back=f'd{n}.img', state=f'd{n}.state')
            d.add('-incoming', 'defer').start()
            self.set_cap(d, cap, True)
            d.qmp.start_cmd('migrate-incoming', {'uri': 'file:guest.file'})
            self.assertEqual(d.wait(20), 1)
            self.assertIn('capability', d.output())

    def test_cpr(self):
        q = self.primary()
        q.qmp.cmd('migrate-set-parameters', mode='cpr-reboot')
        self.fails(q, 'exec:cat >/dev/null', "pmem-ha device 'pm0'",
                   'use migration mode normal')

    def test_not_in_sync(self):
        q = self.machine(replica_options=',connect-timeout-ms=0')
        self.r.signal(signal.SIGSTOP)
        q.start()
        q.qmp.cmd('migrate', uri='exec:cat >/dev/null')
        info = q.qmp.poll('query-migrate', lambda i: i.get('status') in
                          ('failed', 'completed'), scaled(20))
        self.assertIn("pmem-ha device 'pm0': the replica is not in sync yet "
                      '(state connecting), wait for the state in-sync',
                      info['error-desc'])
        self.r.signal(signal.SIGCONT)

    def incoming(self, name, uri='file:guest.file', **kw):
        """A destination that must fail; what it said"""
        kw.setdefault('back', f'{name}.img')
        kw.setdefault('state', f'{name}.state')
        d = self.machine(name, **kw).add('-incoming', uri)
        d.start(negotiate=False)
        self.assertEqual(d.wait(20), 1)
        return d.output()

    def test_destinations(self):
        """That do not fit the stream"""
        q = self.primary()
        q.qmp.cmd('migrate', uri='file:guest.file')
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        self.assertIn("set property 'replica' here", self.incoming(
            'd0', replica=None, state=None))
        said = self.incoming('d1', options=f',uuid={UUID}')
        self.assertIn(f"property 'uuid' is {UUID}; set it to the former", said)
        self.assertIn('the stream is of a device in slot 0, this one is in '
                      'slot 2', self.incoming('d2', options=',slot=2'))
        # A destination that fits still has it all.
        d = self.machine('d3', back='d3.img', state='d3.state').add(
            '-incoming', 'file:guest.file').start()
        d.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        d.qmp.cmd('cont')
        d.settle()
        self.assertEqual(d.query()['generation'], 2)

    def test_destination_without_its_replica(self):
        """Before the guest moves, not after"""
        self.r.kill()
        said = self.machine().add('-incoming', 'defer').expect_refusal()
        self.assertIn("pmem-ha device 'pm0': no replica 'pm0' at "
                      'unix:replica.sock within connect-timeout-ms=5000', said)

    def test_another_replica_at_the_destination(self):
        """An empty one: what was promised would have no copy."""
        q = self.primary()
        q.qmp.cmd('migrate', uri='file:guest.file')
        q.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        other = self.replica('other', image='other.img', size=SIZE).start()
        d = self.machine('d', back='d.img', state='d.state', replica=other)
        d.add('-incoming', 'file:guest.file').start()
        d.qmp.poll('query-migrate', lambda i: i.get('status') == 'completed',
                   scaled(20))
        d.qmp.cmd('cont')
        d.wait_state('failed')
        self.assertIn("export 'pm0' holds no image", d.query()['last-error'])
        q.qmp.cmd('cont')
        q.settle()

    def test_only_migratable(self):
        q = self.machine().add('-only-migratable').start()
        q.settle()


if __name__ == '__main__':
    main()
