#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from outside, with stores and flushes by the qtest protocol"""

import os
import shutil

from pmemha import main
from pmemha.device import HINT, PMEM_BASE, PmemMachine
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.replica import pmemctl


class Mirror(DeviceTest):

    def test_flush_reaches_the_replica(self):
        q = self.primary()
        q.writeq(PMEM_BASE + 8, 0x1122334455667788)
        q.mem.write(PMEM_BASE + SIZE - 16, b'end')
        q.flush()
        q.writeq(PMEM_BASE + 5 * PAGE, 0xdead)      # never flushed
        q.kill()
        os.unlink(self.path('p.img'))
        image = self.promoted()
        self.assertEqual(image[8:16].hex(), '8877665544332211')
        self.assertEqual(image[-16:-13], b'end')
        self.assertEqual(image[5 * PAGE:5 * PAGE + 2], b'\0\0')

    def test_hint_of_any_width(self):
        q = self.primary()
        for n, (op, width) in enumerate([('b', 1), ('w', 2), ('l', 4),
                                         ('q', 8)], 1):
            q.mem.ask(f'write{op} {HINT + 64 - width:#x} 0xff')
            self.assertEqual(q.query()['flushes'], n)
            self.assertEqual(q.mem.readq(HINT), 0)
        q.writeq(HINT + 64, 1)                      # the hint of slot 1
        self.assertEqual(q.query()['flushes'], 4)

    def test_copy_of_scattered_pages(self):
        """Runs of zero pages and of content alternate, in every length."""
        content = bytearray(SIZE)
        page, n = 0, 1
        while page + 2 * n < SIZE // PAGE:
            content[page * PAGE:(page + n) * PAGE] = os.urandom(n * PAGE)
            page += 2 * n
            n = n % 7 + 1
        self.work.write('p.img', bytes(content))
        q = self.primary(options=',staging-size=64K')
        q.writeq(PMEM_BASE + SIZE - 8, 1)
        q.flush()
        q.kill()
        content[SIZE - 8] = 1
        self.assertTrue(self.promoted() == content)

    def test_large_epoch_is_sent_from_guest_memory(self):
        q = self.primary(options=',staging-size=64K')
        for n in range(64):
            q.writeq(PMEM_BASE + n * PAGE, n + 1)
        q.flush()
        q.kill()
        image = self.promoted()
        self.assertEqual([image[n * PAGE] for n in range(64)],
                         list(range(1, 65)))

    def test_ack_levels(self):
        q = None
        for n, ack in enumerate(['received', 'journaled', 'applied']):
            q = self.primary(ack, options=',ack=' + ack)
            q.writeq(PMEM_BASE + n * PAGE, n + 1)
            q.flush()
            self.assertEqual(q.query()['ack'], ack)
            self.assertEqual(q.quit(), 0)
        image = self.promoted()
        self.assertEqual([image[n * PAGE] for n in range(3)], [1, 2, 3])

    def test_hot_plug(self):
        self.work.sparse('p.img', SIZE)
        q = self.adopt(PmemMachine(self.work)).start()
        q.qmp.cmd('object-add', qom_type='memory-backend-file', id='mem0',
                  mem_path='p.img', size=SIZE, share=True)
        q.qmp.raw_cmd('object-add', {
            'qom-type': 'pmem-replica', 'id': 'r0',
            'addr': {'type': 'unix', 'path': self.r.socket}})
        q.qmp.cmd('device_add', driver='pmem-ha', id='pm0', memdev='mem0',
                  replica='r0', state_file='p.state')
        q.settle()
        q.writeq(PMEM_BASE, 2)
        q.flush()
        q.kill()
        self.assertEqual(self.promoted()[0], 2)


class TwoDevices(DeviceTest):

    def test_each_has_its_own_epochs(self):
        other = self.replica('other', export='pm1', image='other.img',
                             size=SIZE).start()
        self.work.sparse('p1.img', SIZE)
        q = self.machine().pmem_ha('p1.img', SIZE, 1, other, 'p1.state')
        q.start()
        q.settle('pm0')
        q.settle('pm1')
        q.writeq(PMEM_BASE, 1)
        q.writeq(PMEM_BASE + SIZE, 2)
        q.flush(1)
        q.kill()
        answer = other.qmp.cmd('pmem-replica-promote')
        self.assertEqual(self.content(answer['mem-path'])[0], 2)
        self.assertEqual(self.promoted()[0], 0, 'pm0 was not flushed')


class Restart(DeviceTest):

    def test_orderly_restart_needs_no_copy(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 7)
        q.flush()
        self.assertEqual(q.quit(), 0)
        q = self.primary('again')
        self.assertEqual(q.query()['epoch-captured'], 2)
        self.assertLess(q.query()['wire-bytes'], 4096)
        q.writeq(PMEM_BASE + PAGE, 8)
        q.flush()
        q.kill()
        image = self.promoted()
        self.assertEqual((image[0], image[PAGE]), (7, 8))

    def test_killed_primary_copies_again(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 7)
        q.kill()                                    # a store, no flush
        self.primary('again').kill()
        self.assertEqual(self.promoted()[0], 7)

    def test_last_epoch_at_quit(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 9)
        self.assertEqual(q.quit(), 0)
        self.assertEqual(self.promoted()[0], 9)

    def run_on_after_a_copy_of(self, *files):
        """The files are put back as they were before the last run."""
        q = self.primary()
        q.writeq(PMEM_BASE, 1)
        q.quit()
        for name in files:
            shutil.copy(self.path(name), self.path(name + '.old'))
        q = self.primary('second')
        q.writeq(PMEM_BASE, 2)
        q.flush()
        q.quit()
        for name in files:
            shutil.copy(self.path(name + '.old'), self.path(name))

    def test_older_backing_file_is_refused(self):
        self.run_on_after_a_copy_of('p.img')
        self.refused(self.machine('third'), "pmem-ha device 'pm0'",
                     'holds epoch 3 of generation 1',
                     'does not hold what it recorded, about epoch 3 of '
                     'generation 1', 'nothing was overwritten')
        self.assertEqual(self.promoted()[0], 2)

    def test_older_backing_and_state_are_refused(self):
        self.run_on_after_a_copy_of('p.img', 'p.state')
        self.refused(self.machine('third'), 'holds epoch 3 of generation 1',
                     'epoch 2 of generation 1', 'nothing was overwritten')
        self.assertEqual(self.promoted()[0], 2)

    def test_older_backing_after_a_kill_is_refused(self):
        """Its content proves nothing then; that it changed later does."""
        q = self.primary()
        q.writeq(PMEM_BASE, 1)
        q.flush()
        shutil.copy(self.path('p.img'), self.path('old'))
        q.writeq(PMEM_BASE, 2)
        q.flush()
        q.kill()
        shutil.copy(self.path('old'), self.path('p.img'))
        past = os.stat(self.path('p.state')).st_mtime - 10
        os.utime(self.path('p.state'), (past, past))
        self.refused(self.machine('again'), 'holds epoch 3 of generation 1',
                     'changed or replaced', 'nothing was overwritten')
        self.assertEqual(self.promoted()[0], 2)

    def test_lost_state_file_is_refused(self):
        self.primary().kill()
        os.unlink(self.path('p.state'))
        self.refused(self.machine('again'), 'uuid')
        uuid = self.r.qmp.cmd('query-pmem-replica')[0]['uuid']
        self.refused(self.machine('same', options=',uuid=' + uuid),
                     'holds epoch 1 of generation 1',
                     'nothing was overwritten')

    def test_standalone_run_is_not_taken_for_equal(self):
        q = self.primary()
        q.quit()
        q = self.machine('alone', replica=None).start()
        q.writeq(PMEM_BASE, 3)
        q.quit()
        self.primary('again').kill()
        self.assertEqual(self.promoted()[0], 3)

    def test_replica_restarts(self):
        q = self.primary()
        for n in range(5):
            q.writeq(PMEM_BASE + n * PAGE, n + 1)
            q.flush()
            self.r.kill()
            self.r = self.replica(f'replica{n}', size=SIZE)
            self.r.socket = 'replica.sock'
            self.r.argv = [a.replace(f'replica{n}.sock', 'replica.sock')
                           for a in self.r.argv]
            self.r.start()
            q.wait_reconnected(n + 1)
        self.assertLess(q.query()['wire-bytes'], SIZE, 'copied each time')
        q.kill()
        image = self.promoted()
        self.assertEqual([image[n * PAGE] for n in range(5)],
                         [1, 2, 3, 4, 5])

    def test_replica_without_its_data_gets_a_copy(self):
        q = self.machine().add(
            '-chardev', 'socket,id=ctl,path=q-ctl.sock,server=on,wait=off',
            '-mon', 'chardev=ctl,mode=control').start()
        q.settle()
        q.writeq(PMEM_BASE, 4)
        q.flush()
        self.r.kill()
        for name in os.listdir(self.work.dir):
            if name.startswith('replica.img'):
                os.unlink(self.path(name))
        self.r = self.replica(size=SIZE).start()
        q.qmp.poll('query-pmem-ha', lambda i: 'allow a full copy to this one '
                   'by pmem-ha-resync' in i[0].get('last-error', ''), 30)
        pmemctl(self.work, 'q-ctl.sock', 'resync', '--export', 'pm0')
        q.wait_reconnected(1)
        q.kill()
        self.assertEqual(self.promoted()[0], 4)

    def test_replica_comes_later(self):
        self.r.kill()
        q = self.machine(replica_options=',connect-timeout-ms=0').start()
        self.assertEqual(q.query()['state'], 'connecting')
        self.r = self.replica(size=SIZE).start()
        q.wait_state('in-sync')
        q.writeq(PMEM_BASE, 3)
        q.flush()
        q.kill()
        self.assertEqual(self.promoted()[0], 3)


class Promote(DeviceTest):

    def test_primary_is_fenced(self):
        q = self.primary()
        q.qmp.cmd('cont')
        self.r.qmp.cmd('pmem-replica-promote')
        q.qmp.wait_event('PMEM_HA_STATE', 10,
                         lambda d: d['state'] == 'fenced')
        q.qmp.wait_event('STOP', 10)
        self.assertEqual(q.query()['state'], 'fenced')
        q.qmp.cmd('cont')
        q.qmp.wait_event('STOP', 10)
        self.assertFalse(q.qmp.cmd('query-status')['running'])
        q.kill()
        self.refused(self.machine('again'), 'promoted to generation 2')

    def test_second_host_and_way_back(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 5)
        q.flush()
        q.kill()
        answer = self.r.ctl('promote')
        self.r.signal(15)
        self.r.wait(10)
        args = answer['command-line']
        # The printed arguments as they are
        second = self.adopt(PmemMachine(self.work, 'second')).add(*args)
        second.start()
        self.assertEqual(second.mem.readq(PMEM_BASE), 5)
        self.assertEqual(second.query()['generation'], 2)
        self.assertEqual(second.query()['state'], 'standalone')
        second.writeq(PMEM_BASE, 6)
        second.quit()
        # The way back: a new replica where the first primary was
        self.r = self.replica('back', image='back.img', size=SIZE).start()
        device = args.index('-device') + 1
        args[device] += ',replica=r0'
        third = self.adopt(PmemMachine(self.work, 'third'))
        third.add('-object', self.r.object(), *args).start()
        third.settle()
        third.kill()
        self.assertEqual(self.promoted()[0], 6)

    def test_image_of_a_replica_is_refused(self):
        self.primary().kill()
        self.refused(self.machine('live', back='replica.img', replica=None,
                                  state='x.state'), 'pm0', 'replica')
        self.r.kill()
        self.refused(self.machine('dead', back='replica.img', replica=None,
                                  state='x.state'),
                     'is the image of a replica')
        os.symlink('replica.img', self.path('link.img'))
        self.refused(self.machine('link', back='link.img', replica=None,
                                  state='x.state'),
                     'is the image of a replica')


class Refusals(DeviceTest):

    def test_backing_file_in_use(self):
        self.primary()
        self.refused(self.machine('other', replica=None, state=None),
                     'in use by another QEMU')

    def test_replica_absent(self):
        self.r.kill()
        self.refused(self.machine(replica_options=',connect-timeout-ms=300'),
                     'replica.sock', 'connect-timeout-ms=300',
                     'Start qemu-pmem-replica')
        self.assertFalse(os.path.getsize(self.path('p.state')))

    def test_backing_that_shrank(self):
        self.primary().quit()
        os.truncate(self.path('p.img'), SIZE // 2)
        self.refused(self.machine('again'), 'backing store')
        self.assertEqual(os.path.getsize(self.path('p.img')), SIZE // 2)

    def test_options_by_name(self):
        for n, option in enumerate([
                'on-link-loss=solo', 'flush-track=insn',
                'staging-size=1', 'ack=never',
                'mode=maybe', 'flush-track=maybe']):
            with self.subTest(option):
                self.refused(self.machine(f'q{n}', options=',' + option),
                             option.split('=', maxsplit=1)[0])

    def test_replica_options_by_name(self):
        for n, option in enumerate(['transport=rdma', 'transport=shm',
                                    'link-timeout-ms=1', 'tls-creds=none']):
            with self.subTest(option):
                self.refused(self.machine(f'q{n}',
                                          replica_options=',' + option),
                             option.split('=', maxsplit=1)[0])

    def test_no_state_file(self):
        self.refused(self.machine(state=None), 'state-file')

    def test_backing_that_is_emptied_after_all(self):
        q = self.primary()
        q.writeq(PMEM_BASE, 7)
        q.flush()
        q.qmp.cmd('qom-set', path='/objects/mem0', property='discard-data',
                  value=True)
        self.assertEqual(q.quit(), 0)
        self.refused(self.machine('again'), 'nothing was overwritten')
        self.assertEqual(self.promoted()[0], 7)

    def test_state_file_of_another_kind(self):
        self.work.write('p.state', b'not a state file' * 512)
        self.refused(self.machine(), 'p.state')

    def test_state_file_of_another_size(self):
        self.primary().quit()
        self.refused(self.machine('other', back='big.img', size=2 * SIZE,
                                  replica=None), 'p.state', str(SIZE))


class Tls(DeviceTest):
    """The link with a pre-shared key"""

    KEY = 'b8c4e6d0a1f23947586b7c8d9eafb0c1'

    def setUp(self):
        for side, key in (('server', self.KEY), ('client', self.KEY),
                          ('wrong', self.KEY[::-1])):
            os.mkdir(self.path(side))
            self.work.write(f'{side}/keys.psk', f'qemu:{key}\n')
        self.r = self.replica(size=SIZE)
        i = self.r.argv.index('--listen')
        self.r.argv[i + 1] += ',tls-creds=tls0'
        self.r.argv[i:i] = ['--object', 'tls-creds-psk,id=tls0,'
                            'endpoint=server,dir=server']
        self.r.start()

    def secured(self, side, name='qemu'):
        q = self.adopt(PmemMachine(self.work, name))
        self.work.sparse('p.img', SIZE)
        q.add('-object', f'tls-creds-psk,id=tls0,endpoint=client,dir={side},'
              'username=qemu')
        return q.pmem_ha('p.img', SIZE, 0, self.r, 'p.state', ',tls-creds=tls0'
                         ',tls-hostname=localhost,connect-timeout-ms=1500')

    def test_flush_over_tls(self):
        q = self.secured('client').start()
        q.settle()
        q.writeq(PMEM_BASE, 7)
        q.flush()
        q.kill()
        self.assertEqual(self.promoted()[0], 7)

    def test_wrong_key(self):
        self.refused(self.secured('wrong'), 'connect-timeout-ms=1500')

    def test_plain_primary(self):
        self.refused(self.machine(
            replica_options=',connect-timeout-ms=1500'),
            'connect-timeout-ms=1500')


class Off(DeviceTest):

    def test_standalone_makes_no_epoch(self):
        q = self.machine(replica=None, state=None)
        q.add('-trace', 'pmem_ha_capture', '-trace', 'pmem_ha_flush').start()
        for _ in range(20):
            q.writeq(HINT, 1)
        self.assertEqual(q.query()['flushes'], 20)
        q.quit()
        self.assertNotIn('pmem_ha_capture', q.output())
        self.assertNotIn('pmem_ha_flush', q.output())

    def test_no_device(self):
        q = self.qemu(machine='none').start()
        self.assertEqual(q.qmp.cmd('query-pmem-ha'), [])
        self.assertIn('No pmem-ha', q.hmp('info pmem-ha'))


if __name__ == '__main__':
    main()
