#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a device with a replica refuses, or can not be used with: the message
names the object, the values and the remedy, whichever comes first.
"""

import os
import shutil
import subprocess

from pmemha import TestCase, main, program, scaled, skip_unless
from pmemha import wire
from pmemha.baremetal import BareMetal
from pmemha.device import PmemMachine
from pmemha.devicetest import SIZE, DeviceTest
from pmemha.scripted import ScriptedReplica, honest, silent
from pmemha.wire import Msg, crc32c

PAST = ('past QEMU', 'can not be mirrored')
AWAY = ('takes pages away from the guest', 'can not be mirrored')
UUID = '00000000-0000-4000-8000-00000000000'


class Bypass(DeviceTest):
    """Devices that can not be in one guest with a replica, in any order"""

    # Its bus takes hot-plugged devices.
    machine_type = 'pc,nvdimm=on'

    def check(self, device, texts, extra=(), hot=None):
        """`device` is (driver, {property: value}), added in four ways."""
        driver, props = device
        option = ','.join([driver, 'id=other'] + [
            f'{key}={value}' for key, value in props.items()])
        first = ("pmem-ha device 'pm0'", 'has a replica', *texts)
        second = ('a pmem-ha device has a replica', *texts)
        self.refused(self.bare('cold-first', self.machine_type, [
            *extra, '-device', option]).pmem_ha(
                'p.img', SIZE, 0, self.r, 'p.state'), *first)
        self.refused(self.machine('cold-second', machine=self.machine_type)
                     .add(*extra, '-device', option), *second)
        q = self.bare('hot-first', self.machine_type,
                      [*extra, '-device', option]).start()
        self.qmp_refuses(lambda: self.plug(q), *first)
        q.kill()
        q = self.machine('hot-second', machine=self.machine_type)
        q.add(*extra).start()
        q.settle()
        self.qmp_refuses(lambda: q.qmp.raw_cmd('device_add', {
            'driver': driver, 'id': 'other', **(hot or props)}), *second)
        # Neither is half there.
        self.assertEqual(q.query()['state'], 'in-sync')
        self.assertNotIn('other', q.hmp('info qtree'))

    def setUp(self):
        super().setUp()
        self.work.sparse('p.img', SIZE)

    def test_balloon(self):
        self.check(('virtio-balloon-pci', {}), (
            "device type 'virtio-balloon-pci'", *AWAY,
            "leave it out (libvirt: <memballoon model='none'/>)"))

    def test_alias(self):
        self.check(('virtio-balloon', {}), (
            "device type 'virtio-balloon", *AWAY))

    def test_virtio_mem(self):
        self.check(('virtio-mem-pci', {'memdev': 'vm0'}), (
            "device type 'virtio-mem-pci'", *AWAY, 'use pc-dimm'),
            ['-object', 'memory-backend-ram,id=vm0,size=128M'])

    def vhost_user(self, name):
        """A vhost-user device's other end, as arguments for QEMU"""
        self.work.sparse(f'{name}.disk', 1 << 20)
        d = self.process(name, [program('VHOST_USER_BLK'),
                                f'--blk-file={name}.disk'])
        d.argv += ['--fd', d.listener(f'{name}.sock')]
        d.start()
        return ['-chardev', f'socket,id=v0,path={name}.sock']

    def test_vhost_user_device_first(self):
        for how in ('cold', 'hot'):
            q = self.bare(how, self.machine_type, [
                *self.vhost_user(f'{how}-vhost'), '-device',
                'vhost-user-rng-pci,chardev=v0'])
            texts = ("pmem-ha device 'pm0'",
                     "device type 'vhost-user-rng-pci'", *PAST,
                     'use a device that QEMU emulates')
            if how == 'cold':
                self.refused(q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state'),
                             *texts)
            else:
                q.start()
                self.qmp_refuses(lambda: self.plug(q), *texts)

    def test_vhost_user_netdev_first(self):
        q = self.bare('cold', self.machine_type, [
            *self.vhost_user('vhost'), '-netdev',
            'vhost-user,id=n0,chardev=v0', '-device',
            'virtio-net-pci,netdev=n0'])
        self.refused(q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state'),
                     "pmem-ha device 'pm0'", "vhost netdev 'n0'", *PAST,
                     'set vhost=off for a tap')

    def test_replica_first(self):
        q = self.machine().add(*self.vhost_user('vhost'), '-netdev',
                               'vhost-user,id=n0,chardev=v0', '-device',
                               'qemu-xhci').start()
        q.settle()
        emulated = 'use a device that QEMU emulates'
        known = {t['name'] for t in q.qmp.cmd('qom-list-types')}
        for n, (device, remedy) in enumerate([
                ({'driver': 'vfio-pci', 'host': '0000:00:00.0'}, emulated),
                ({'driver': 'vhost-user-rng-pci', 'chardev': 'v0'}, emulated),
                ({'driver': 'vhost-user-fs-pci', 'chardev': 'v0'}, emulated),
                ({'driver': 'vhost-user-scsi-pci', 'chardev': 'v0'}, emulated),
                ({'driver': 'vhost-vsock-pci', 'guest-cid': 3}, emulated),
                ({'driver': 'vhost-scsi-pci', 'wwpn': 'naa.0'}, emulated),
                ({'driver': 'vhost-vdpa-device-pci', 'vhostdev': 'none'},
                 emulated),
                ({'driver': 'virtio-net-pci', 'netdev': 'n0'},
                 'set vhost=off for a tap')]):
            if device['driver'] not in known:
                # Whether it is built depends on the target.
                self.diag(f"this QEMU has no {device['driver']}")
                continue
            with self.subTest(device['driver']):
                named = f"'{device.get('netdev', device['driver'])}'"
                self.qmp_refuses(lambda d=device, n=n: q.qmp.raw_cmd(
                    'device_add', {'id': f'd{n}', **d}), named, *PAST, remedy)
        q.qmp.cmd('device_add', driver='usb-mouse', id='other')

    def test_without_replica_they_may_be(self):
        q = self.machine(replica=None, state=None).add(
            *self.vhost_user('vhost'),
            '-device', 'vhost-user-blk-pci,chardev=v0',
            '-device', 'virtio-balloon-pci')
        q.start()
        self.assertEqual(q.query()['state'], 'standalone')

    def test_a_device_that_failed_forbids_nothing(self):
        q = self.bare('hot', self.machine_type).start()
        self.qmp_refuses(lambda: self.plug(q, **{'state-file': '/'}), 'pm0')
        q.qmp.cmd('device_add', driver='virtio-balloon-pci', id='other')


def may_tap():
    """A tap in a network namespace that goes with its QEMU"""
    return os.path.exists('/dev/net/tun') and shutil.which('unshare') and \
        subprocess.run(['unshare', '--net', 'true'], check=False,
                       capture_output=True, timeout=scaled(20)
                       ).returncode == 0


class Tap(DeviceTest):

    def tap(self, name, vhost):
        q = self.bare(name, 'pc,nvdimm=on', [
            '-netdev', 'tap,id=n0,ifname=tap0,script=no,downscript=no,'
            f'vhost={vhost}'])
        q.argv[:0] = ['unshare', '--net']
        self.work.sparse('p.img', SIZE)
        return q

    @skip_unless(may_tap, 'no right to a tap in a network namespace')
    def test_without_vhost_it_may_be(self):
        q = self.tap('off', 'off').add('-device', 'virtio-net-pci,netdev=n0')
        q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state').start()
        q.settle()

    @skip_unless(lambda: may_tap() and os.path.exists('/dev/vhost-net'),
                 'no /dev/vhost-net, or no right to a tap')
    def test_vhost(self):
        texts = ("vhost netdev 'n0'", *PAST, 'set vhost=off')
        nic = ['-device', 'virtio-net-pci,netdev=n0,id=other']
        self.refused(self.tap('cold-first', 'on').add(*nic).pmem_ha(
            'p.img', SIZE, 0, self.r, 'p.state'), "'pm0'", *texts)
        self.refused(self.tap('cold-second', 'on').pmem_ha(
            'p.img', SIZE, 0, self.r, 'p.state').add(*nic), *texts)
        q = self.tap('hot-first', 'on').add(*nic).start()
        self.qmp_refuses(lambda: self.plug(q), "'pm0'", *texts)
        q.kill()
        q = self.tap('hot-second', 'on').pmem_ha(
            'p.img', SIZE, 0, self.r, 'p.state').start()
        q.settle()
        self.qmp_refuses(lambda: q.qmp.cmd(
            'device_add', driver='virtio-net-pci', netdev='n0'), *texts)


class Backing(DeviceTest):
    """Memory backends and machines that contradict a replica"""

    def both(self, *texts, machine='q35,nvdimm=on', options='', extra=(),
             device=None, **mem):
        """Cold and hot-plugged; `mem` are properties of the backend."""
        q = self.machine('cold', machine=machine, options=options)
        q.add(*extra)
        for key, value in mem.items():
            text = f",{key.replace('_', '-')}={'on' if value else 'off'}"
            q.argv = [a.replace(',share=on', '') + (
                text if key == 'share' else ',share=on' + text)
                if a.startswith('memory-backend') else a for a in q.argv]
        self.refused(q, "pmem-ha device 'pm0'", *texts)
        self.assertFalse(os.path.exists(self.path('p.state')))
        q = self.bare('hot', machine, extra).start()
        self.qmp_refuses(lambda: self.plug(q, mem={
            key.replace('_', '-'): value for key, value in mem.items()},
            **(device or {})), "pmem-ha device 'pm0'", *texts)
        self.assertEqual(q.qmp.cmd('query-pmem-ha'), [])
        self.assertEqual(q.qmp.cmd('query-memory-devices'), [])
        self.assertFalse(os.path.exists(self.path('p.state')))

    def test_share_off(self):
        self.both("property 'state-file'", 'outlives QEMU',
                  'use a memory-backend-file with share=on as memdev',
                  share=False)

    def test_discard_data(self):
        self.both('memdev property discard-data=on', "'state-file'",
                  'remove one of them', discard_data=True)

    def test_unarmed(self):
        self.both('read-only memdev or unarmed=on', "remove 'replica'",
                  options=',unarmed=on', device={'unarmed': True})

    def test_readonly(self):
        self.both('read-only memdev or unarmed=on', "remove 'replica'",
                  options=',unarmed=on', device={'unarmed': True},
                  readonly=True)

    def test_readonly_without_unarmed(self):
        """nvdimm itself says what to do first."""
        q = self.machine('cold')
        q.argv = [a + ',readonly=on' if a.startswith('memory-backend') else a
                  for a in q.argv]
        texts = ("'unarmed' property must be 'on'", 'memdev mem0 is read-only')
        self.refused(q, 'id=pm0', *texts)
        q = self.bare('hot').start()
        self.qmp_refuses(lambda: self.plug(q, mem={'readonly': True}), *texts)

    def test_machine_that_needs_no_flush(self):
        self.both('machine property nvdimm-persistence=cpu',
                  'tells the guest not to flush', 'use mem-ctrl',
                  machine='q35,nvdimm=on,nvdimm-persistence=cpu')

    def test_record_and_replay(self):
        self.both("property 'replica' can not be used with record/replay",
                  "remove -icount option 'rr'", extra=[
                      '-icount', 'shift=auto,rr=record,rrfile=rr'])

    def test_no_state_file(self):
        q = self.bare('hot').start()
        self.qmp_refuses(lambda: self.plug(q, **{'state-file': ''}), 'pm0',
                         'state file')

    def test_two_devices_on_one_backend(self):
        text = "can't use already busy memdev: mem0"
        self.refused(self.machine('cold').add(
            '-device', 'pmem-ha,id=pm1,memdev=mem0'), 'id=pm1', text)
        q = self.primary()
        self.qmp_refuses(lambda: q.qmp.cmd(
            'device_add', driver='pmem-ha', id='pm1', memdev='mem0'), text)
        self.assertEqual([i['id'] for i in q.qmp.cmd('query-pmem-ha')],
                         ['pm0'])

    def test_two_backends_on_one_file(self):
        texts = ("pmem-ha device 'pm1'", "mem-path 'p.img' is in use by "
                 'another QEMU or by a replica')
        self.refused(self.machine('cold').pmem_ha('p.img', SIZE, 1), *texts,
                     'Stop the other user')
        q = self.primary()
        self.qmp_refuses(lambda: self.plug(q, 1, replica=False), *texts)
        other = self.bare('other').start()
        self.qmp_refuses(lambda: self.plug(other, 1, replica=False), *texts)
        self.refused(self.bare('other-cold').pmem_ha('p.img', SIZE, 1),
                     *texts)

    def test_two_devices_with_one_state_file(self):
        q = self.primary()
        self.qmp_refuses(lambda: self.plug(q, 1, back='p1.img'),
                         "pmem-ha device 'pm1'", "state file 'p.state'",
                         'in use by another process')


class Mismatch(DeviceTest):
    """What the replica holds is another device: both values are named."""

    def check(self, *texts, size=SIZE, uuid='a', **props):
        self.primary(options=f',uuid={UUID}a').kill()
        props = {'uuid': UUID + uuid, **props}
        options = ''.join(f',{key}={value}' for key, value in props.items())
        texts = ("export 'pm0'", *texts)
        self.refused(self.machine('other', back='other.img', size=size,
                                  state='other.state', options=options),
                     "pmem-ha device 'pm0'", *texts)
        # Plugged later, nothing waits for the replica's verdict.
        q = self.bare('hot').start()
        self.plug(q, back='hot.img', size=size,
                  **{'state-file': 'hot.state', **props})
        q.wait_state('failed')
        for text in texts:
            self.assertIn(text, q.query()['last-error'])

    def test_size(self):
        self.check(f'has size {SIZE},', f"the primary's backend has {2 * SIZE}"
                   '; give both the same size', size=2 * SIZE)

    def test_slot(self):
        self.check('in slot 0,', "the primary's is in slot 1; "
                   'give it the same slot', slot=1)

    def test_uuid(self):
        self.check(f'with uuid {UUID}a,', f"the primary's has uuid {UUID}b; "
                   'use the export of that device, or a new journal',
                   uuid='b')

    def test_label_size(self):
        self.check('with label-size 0,', f"the primary's has {128 << 10}; "
                   'give it the same label-size', **{'label-size': 128 << 10})


class Peer(TestCase):
    """What is at the replica's address is not what should be there."""

    def peer(self, script):
        return self.adopt(ScriptedReplica(self.work, script))

    def cold(self, peer, ms=1000):
        self.work.sparse('p.img', SIZE)
        q = self.adopt(PmemMachine(self.work))
        return q.pmem_ha('p.img', SIZE, 0, peer.object(), 'p.state',
                         f',connect-timeout-ms={ms}').expect_refusal()

    def check_cold(self, peer, *texts):
        said = self.cold(peer)
        for text in ("pmem-ha device 'pm0'", "no replica 'pm0' at "
                     'unix:peer.sock', 'connect-timeout-ms=1000', *texts):
            self.assertIn(text, said)

    def test_newer_version(self):
        def script(c):
            c.recv_raw()
            raw = bytearray(Msg(wire.WELCOME, payload=bytes(24)).encode(0))
            raw[4:6] = (wire.VERSION + 6).to_bytes(2, 'little')
            raw[60:64] = crc32c(bytes(raw[:60])).to_bytes(4, 'little')
            c.sock.sendall(raw)
            silent(c)

        self.check_cold(
            self.peer(script), f'protocol version {wire.VERSION + 6} of the '
            f'peer is not version {wire.VERSION} of this end',
            'use the same release on both hosts')

    def test_garbage(self):
        def script(c):
            c.sock.sendall(b'HTTP/1.1 400 Bad Request\r\n'.ljust(200, b'-'))
            silent(c)

        self.check_cold(self.peer(script), 'the peer does not speak pmem-ha')

    def test_end_in_the_middle(self):
        def script(c):
            c.recv_raw()
            c.sock.sendall(b'220 ESMTP\r\n')

        self.check_cold(self.peer(script),
                        "replica 'pm0' at unix:peer.sock closed the "
                        'connection')

    def test_silence(self):
        self.check_cold(self.peer(silent),
                        'what listens there has not answered',
                        'Start qemu-pmem-replica there')

    def check_bad_answer(self, answer, said):
        """The flush that waits for it goes on waiting."""
        def script(c):
            c.welcome()
            epoch = c.commit().epoch
            c.send(Msg(generation=c.generation, **answer(epoch)))
            silent(c)

        peer = self.peer(script)
        self.work.sparse('p.img', SIZE)
        g = self.adopt(BareMetal(self.work, 'workload=records records=3'))
        g.add('-object', f'memory-backend-file,id=mem0,size={SIZE},'
              'mem-path=p.img,share=on', '-object', peer.object(), '-device',
              'pmem-ha,id=pm0,memdev=mem0,replica=r0,state-file=p.state')
        g.start()
        info = g.qmp.poll('query-pmem-ha', lambda infos: (
            infos[0]['flushes-waiting'] and infos[0]['reconnects'] > 1 and
            said in infos[0].get('last-error', '')), scaled(30))[0]
        self.assertIn("replica 'pm0' at unix:peer.sock", info['last-error'])
        self.assertEqual(info['epoch-acked'], 0)
        self.assertEqual(info['flushes'], 1)
        self.assertEqual(g.out.count('^A '), 0)
        peer.script = honest
        g.out.wait_for('^A 0 3$', 30)

    def test_pong_for_an_epoch(self):
        self.check_bad_answer(
            lambda epoch: {'type': wire.PONG},
            'answered PONG for epoch 0 instead of ACK for epoch 1')

    def test_ack_of_another_epoch(self):
        self.check_bad_answer(
            lambda epoch: {'type': wire.ACK, 'epoch': epoch + 1},
            'answered ACK for epoch 2 instead of ACK for epoch 1')


class Late(DeviceTest):
    """No guest waits for a replica that is not there, once it runs."""

    # Longer than any test may run: a wait for it does not go unnoticed.
    HOUR = 3600 * 1000

    def check_plug(self):
        q = self.bare().start()
        q.qmp.cmd('cont')
        self.plug(q, r={'connect-timeout-ms': self.HOUR})
        self.assertEqual(q.query()['state'], 'connecting')
        self.assertTrue(q.qmp.cmd('query-status')['running'])
        return q

    def test_plug_without_replica(self):
        self.r.kill()
        os.unlink(self.path(self.r.socket))
        q = self.check_plug()
        q.qmp.poll('query-pmem-ha', lambda infos: 'Failed to connect' in
                   infos[0].get('last-error', ''), scaled(20))
        self.assertIn(self.r.socket, q.query()['last-error'])
        self.r = self.replica(size=SIZE).start()
        q.settle()

    def silent_replica(self):
        self.r.kill()
        os.unlink(self.path(self.r.socket))
        return self.adopt(ScriptedReplica(self.work, silent, self.r.socket))

    def test_plug_with_silent_replica(self):
        self.silent_replica()
        q = self.check_plug()
        self.assertEqual(q.quit(), 0)

    def test_cold_without_waiting(self):
        peer = self.silent_replica()
        self.work.sparse('p.img', SIZE)
        g = self.adopt(BareMetal(self.work, 'workload=records records=3'))
        g.add('-object', f'memory-backend-file,id=mem0,size={SIZE},'
              'mem-path=p.img,share=on',
              '-object', self.r.object() + ',connect-timeout-ms=0',
              '-device', 'pmem-ha,id=pm0,memdev=mem0,replica=r0,'
              'state-file=p.state').start()
        g.out.wait_for('^BOOT', 20)
        info, = g.qmp.poll('query-pmem-ha', lambda infos:
                           infos[0]['flushes-waiting'], scaled(20))
        self.assertIn(info['state'], ('connecting', 'stalled'))
        peer.kill()
        self.r = self.replica(size=SIZE).start()
        g.out.wait_for('^A 0 3$', 30)


if __name__ == '__main__':
    main()
