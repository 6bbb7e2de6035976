#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A guest moves to the host of its replica, and takes the replica's image as its
backing: docs/devel/pmem-ha-handover.rst, "Adoption".
"""

import os
import re
import resource
import signal
import subprocess

from pmemha import main, scaled, wire
from pmemha.baremetal import BASE, BareMetal, oracle
from pmemha.gdb import Gdb
from pmemha.groups import SIZE as GROUP_SIZE, SPREAD, GroupTest, add_slices
from pmemha.migrate import CMD, SIZE, MigrationTest, set_caps, set_params
from pmemha.paths import program

ADOPT = 'handover=adopt'


class AdoptTest(MigrationTest):

    image = 'replica.img'
    count = 0

    def destination(self, *extra, name='dst', uri=None, paused=True,
                    image=None, props=f',{ADOPT}', **kw):
        """A QEMU on the replica's host"""
        g = self.adopt(BareMetal(self.work, CMD, name=name, smp=self.smp))
        g.add('-object', self.r.object('r0'))
        g.pmem_file(image or self.image, SIZE, device='pmem-ha',
                    props=f'replica=r0,state-file={name}.state{props}')
        g.add('-incoming', uri or f'unix:{name}.mig', '-trace',
              'pmem_ha_adopted', *(['-S'] if paused else []), *extra)
        self.guests.append(g)
        return g

    def choose(self, g, value='adopt'):
        g.qmp.cmd('qom-set', path='/machine/peripheral/nv0',
                  property='handover', value=value)

    def moved(self, uri='unix:dst.mig', **kw):
        """Source and destination, before the guest runs there"""
        src, dst = self.source(), self.destination(**kw).start()
        self.choose(src)
        self.migrate(src, uri)
        self.wait_migration(dst)
        return src, dst

    def has_adopted(self, dst):
        info = self.wait_info(dst, role='primary', state='standalone')
        self.assertEqual(info['generation'], 2)
        self.runs(dst)

    def judge_image(self, path=None):
        """What both reported is in the image, which nobody promotes."""
        for g in self.guests:
            g.kill()
        acks = {}
        for g in self.guests:
            for cpu, n in g.acks().items():
                acks[cpu] = max(n, acks.get(cpu, 0))
        verdict = oracle.check(self.guests[0].params,
                               [self.work.path(path or self.image)], acks)
        self.assertTrue(verdict.ok, verdict)

    def restart(self, crash=None):
        """The daemon again, on the same files"""
        self.r.kill()
        self.count += 1
        self.r = self.replica(f'again{self.count}', size=SIZE,
                              image=self.r.image, listen=self.r.address)
        if crash:
            self.r.env = dict(os.environ, PMEM_HA_CRASH_AT=crash)
        self.r.start()

    def refuses_to_run(self, dst, *texts):
        dst.qmp.cmd('cont')
        dst.qmp.poll('query-status', lambda s: not s['running'], scaled(30))
        # No device ran for a moment, either.
        self.assertNotIn('RESUME', [e['event'] for e in dst.qmp.events])
        for text in texts:
            self.assertIn(text, dst.output())

    def content(self, path):
        with open(self.work.path(path), 'rb') as f:
            return f.read()


class Adopt(AdoptTest):

    def test_precopy(self):
        src, dst = self.moved()
        self.assertEqual(self.pmem_ha(src)['role'], 'handed-over')
        self.assertEqual(self.digest(src), self.digest(dst))
        sent = src.qmp.cmd('query-migrate')['ram']
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.assertFalse(os.path.exists(self.work.path('replica.img.replica')))
        self.assertEqual(self.r.qmp.cmd('query-pmem-replica')[0]['state'],
                         'promoted')
        with self.assertRaisesRegex(AssertionError, 'was adopted by'):
            self.r.ctl('promote')
        # The RAM of the guest, and not the device's
        self.assertLess(sent['total'], 80 << 20)
        self.assertLess(sent['transferred'], 64 << 20)
        self.judge_image()

    def test_multifd_and_file(self):
        src = self.source()
        self.choose(src)
        for g in (src,):
            set_caps(g, mapped_ram=True, multifd=True)
        self.migrate(src, 'file:guest.file')
        dst = self.destination(uri='defer').start()
        set_caps(dst, mapped_ram=True, multifd=True)
        set_params(dst, multifd_channels=2)
        dst.qmp.cmd('migrate-incoming', uri='file:guest.file')
        self.wait_migration(dst)
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_last_epoch(self):
        """A store that no flush followed is there, too."""
        src = self.source('-gdb', 'unix:gdb.sock,server=on,wait=off',
                          cmd='workload=idle', acks=None)
        self.wait_info(src, state='in-sync')
        gdb = Gdb(self.work)
        self.assertEqual(gdb.ask('Qqemu.PhyMemMode:1'), 'OK')
        self.assertEqual(gdb.ask(f'M{BASE:x},4:deadbeef'), 'OK')
        gdb.detach()
        self.assertNotEqual(self.content('replica.img')[:4],
                            b'\xde\xad\xbe\xef')
        dst = self.destination().start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        dst.qmp.cmd('cont')
        self.wait_info(dst, state='standalone')
        self.assertEqual(self.content('replica.img')[:4], b'\xde\xad\xbe\xef')
        self.assertEqual(self.digest(src), self.digest(dst))

    def test_of_a_stopped_guest(self):
        """The last epoch is taken, although nothing stops any more."""
        src = self.source()
        src.qmp.cmd('stop')
        dst = self.destination().start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        self.assertEqual(self.digest(src), self.digest(dst))
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_runs_by_itself(self):
        """Without -S, as libvirt does not"""
        _, dst = self.moved(paused=False)
        self.has_adopted(dst)
        self.judge_image()

    def test_end_and_start(self):
        """After an end in order the state file proves the image."""
        _, dst = self.moved()
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        dst.quit()
        q = self.adopt(BareMetal(self.work, 'workload=idle', name='again'))
        q.pmem_file(self.image, SIZE, device='pmem-ha',
                    props='state-file=dst.state')
        q.start()
        self.assertEqual(self.pmem_ha(q)['generation'], 2)
        q.quit()
        self.judge_image()

    def test_back_again(self):
        """With a replica where it came from, by the next start"""
        _, dst = self.moved()
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        dst.quit()
        back = self.replica('back', image='back.img', size=SIZE).start()
        q = self.adopt(BareMetal(self.work, 'workload=idle', name='again'))
        q.add('-object', back.object('r0'))
        q.pmem_file(self.image, SIZE, device='pmem-ha',
                    props='replica=r0,state-file=dst.state')
        q.start()
        self.wait_info(q, state='in-sync')
        q.kill()
        answer = back.ctl('promote')
        self.assertEqual(answer['generation'], 3)
        self.judge_image('back.img')

    def test_migrates_on(self):
        """From then on it is a guest without a replica: content travels."""
        _, dst = self.moved()
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        third = self.adopt(BareMetal(self.work, CMD, name='third',
                                     smp=self.smp))
        self.work.sparse('third.img', SIZE)
        third.pmem_file('third.img', SIZE, device='pmem-ha',
                        props='state-file=third.state')
        third.add('-incoming', 'unix:third.mig').start()
        self.guests.append(third)
        self.migrate(dst, 'unix:third.mig')
        self.wait_migration(third)
        self.runs(third)
        self.judge_image('third.img')


class Fails(AdoptTest):
    """The role goes back, and the replica is as it was."""

    def goes_back(self, src):
        src.qmp.cmd('cont')
        self.wait_info(src, role='primary', state='in-sync')
        self.runs(src)

    def test_destination_is_killed(self):
        src, dst = self.moved()
        dst.kill()
        self.goes_back(src)
        self.judge()

    def test_source_goes_on_first(self):
        """The destination must not run, and its writes reach no image."""
        src, dst = self.moved()
        self.goes_back(src)
        self.refuses_to_run(dst, 'must not')
        self.assertNotEqual(self.pmem_ha(dst)['state'], 'standalone')
        self.assertEqual(dst.acks(), {})
        self.runs(src)
        self.judge()

    def test_store_before_adoption(self):
        """A debugger's, as no vCPU runs: it stays in that process."""
        src = self.source()
        dst = self.destination('-gdb', 'unix:gdb.sock,server=on,wait=off')
        dst.start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        before = self.content('replica.img')
        gdb = Gdb(self.work)
        self.assertEqual(gdb.ask('Qqemu.PhyMemMode:1'), 'OK')
        self.assertEqual(gdb.ask(f'M{BASE:x},4:deadbeef'), 'OK')
        self.assertEqual(gdb.ask(f'm{BASE:x},4'), 'deadbeef')
        gdb.close()
        self.assertEqual(self.content('replica.img')[:4], before[:4])
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_destination_goes_on_first(self):
        src, dst = self.moved()
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        before = src.acks()
        src.qmp.cmd('cont')
        self.wait_info(src, state='fenced')
        src.qmp.poll('query-status', lambda s: not s['running'], scaled(30))
        self.runs(dst)
        self.says_nothing_new(src, before)
        self.judge_image()

    def test_promoted_meanwhile(self):
        _, dst = self.moved()
        self.r.ctl('promote')
        before = self.content('replica.img')
        self.refuses_to_run(dst, 'must not')
        self.assertEqual(self.content('replica.img'), before)

    def test_daemon_is_away(self):
        """The guest does not run; it does when the daemon is back."""
        _, dst = self.moved()
        self.r.kill()
        self.refuses_to_run(dst, 'did not give its image')
        self.assertEqual(dst.acks(), {})
        self.restart()
        self.wait_info(dst, state='standalone')
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_daemon_dies_amid(self):
        for n, point in enumerate(('promote-decided', 'promote-applied',
                                   'promote-unmarked')):
            if n:
                self.anew(n)
                self.image = f'r{n}.img'
            src = self.source()
            self.restart(point)
            self.wait_info(src, state='in-sync')
            dst = self.destination().start()
            self.choose(src)
            self.migrate(src)
            self.wait_migration(dst)
            self.refuses_to_run(dst, 'did not give its image')
            self.assertEqual(self.r.wait(20), 99)
            self.restart()
            self.wait_info(dst, state='standalone')
            dst.qmp.cmd('cont')
            self.has_adopted(dst)
            self.judge_image()
            for name in os.listdir(self.work.dir):
                if re.match(r'(src|dst)\.(img|state)', name):
                    os.unlink(self.work.path(name))

    def test_daemon_dies_amid_and_is_promoted(self):
        """The destination is gone, too: an operator completes it."""
        src = self.source()
        self.restart('promote-decided')
        self.wait_info(src, state='in-sync')
        dst = self.destination().start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        self.refuses_to_run(dst, 'did not give its image')
        dst.kill()
        self.restart()
        answer = self.judge()
        self.assertEqual(answer['generation'], 2)

    def test_ends_without_it(self):
        """Its state file must not prove an image that it never had."""
        _, dst = self.moved()
        self.r.kill()
        self.refuses_to_run(dst, 'did not give its image')
        dst.quit()
        record = wire.read_state_file(self.work.path('dst.state'))
        self.assertFalse(record['clean'], record)

    def test_state_file_can_not_be_written(self):
        """The image was given, and nobody else gets it: it asks again."""
        src = self.source()
        dst = self.destination()
        dst.argv = ['sh', '-c', 'trap "" XFSZ; exec "$@"', 'sh', *dst.argv]
        dst.start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        limit = resource.prlimit(dst.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(dst.pid, resource.RLIMIT_FSIZE, (0, limit[1]))
        self.refuses_to_run(dst)
        dst.qmp.poll('query-pmem-ha', lambda infos: 'dst.state' in
                     infos[0].get('last-error', ''), scaled(30))
        self.assertEqual(self.pmem_ha(dst)['generation'], 1)
        resource.prlimit(dst.pid, resource.RLIMIT_FSIZE, limit)
        self.wait_info(dst, state='standalone')
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_promoted_by_then(self):
        """An operator completed it: who asked first must not get it, too."""
        src = self.source()
        self.restart('promote-decided')
        self.wait_info(src, state='in-sync')
        dst = self.destination().start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        self.refuses_to_run(dst, 'did not give its image')
        dst.signal(signal.SIGSTOP)
        self.restart()
        answer = self.r.ctl('promote')
        self.assertEqual(answer['generation'], 2)
        dst.signal(signal.SIGCONT)
        self.wait_info(dst, state='fenced')
        self.refuses_to_run(dst, 'was promoted')
        self.assertEqual(dst.acks(), {})

    def test_image_was_replaced(self):
        """A full copy has given its name to another file."""
        src = self.source()
        dst = self.destination().start()
        os.rename(self.work.path('src.img'), self.work.path('x.img'))
        src.kill()
        self.guests.remove(src)
        os.rename(self.work.path('x.img'), self.work.path('src.img'))
        again = self.guest('src', cmd='workload=idle').start()
        self.wait_info(again, state='in-sync', timeout=60)
        self.choose(again)
        self.migrate(again)
        self.wait_migration(dst)
        self.refuses_to_run(dst, 'has not mapped the image')
        again.qmp.cmd('cont')
        self.wait_info(again, role='primary', state='in-sync')

    def test_replica_away_at_the_end(self):
        """What it does not have can not be adopted."""
        src, dst = self.source(), self.destination().start()
        self.choose(src)
        src.qmp.cmd('stop')
        self.r.signal(signal.SIGSTOP)
        src.qmp.cmd('cont')
        src.qmp.cmd('migrate', uri='unix:dst.mig')
        self.wait_migration(src, 'failed')
        self.r.signal(signal.SIGCONT)
        src.qmp.poll('query-status', lambda s: s['running'], scaled(30))
        self.goes_back(src)
        dst.kill()
        # The next one carries the content again.
        self.choose(src, 'copy')
        third = self.guest('third', '-incoming', 'unix:third.mig',
                           '-S').start()
        self.migrate(src, 'unix:third.mig')
        self.wait_migration(third)
        self.assertEqual(self.digest(src), self.digest(third))
        third.qmp.cmd('cont')
        self.runs(third)
        self.judge()


class Refused(AdoptTest):

    def test_goes_on_before_it_has_it(self):
        """What is not in its memory for good can not travel on."""
        _, dst = self.moved()
        third = self.guest('third', '-incoming', 'unix:third.mig',
                           '-S').start()
        dst.qmp.cmd('migrate', uri='unix:third.mig')
        info = self.wait_migration(dst, 'failed')
        self.assertIn('has not adopted', info['error-desc'])
        third.kill()
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.judge_image()

    def test_snapshot_before_it_has_it(self):
        subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                        'disk.qcow2', '1G'], cwd=self.work.dir, check=True,
                       timeout=scaled(20))
        src = self.source()
        dst = self.destination('-blockdev', 'qcow2,node-name=disk,file.driver='
                               'file,file.filename=disk.qcow2').start()
        self.choose(src)
        self.migrate(src)
        self.wait_migration(dst)
        self.r.kill()
        # From here on its disks are active.
        self.refuses_to_run(dst, 'did not give its image')
        self.assertNotEqual(dst.hmp('savevm one', 30), '')
        self.restart()
        self.wait_info(dst, state='standalone')
        dst.qmp.cmd('cont')
        self.has_adopted(dst)
        self.assertEqual(dst.hmp('savevm one', 30), '')
        self.judge_image()

    def test_goes_on_without_having_run(self):
        """Adopted late, and still paused: its content travels."""
        src, dst = self.moved()
        self.r.kill()
        self.refuses_to_run(dst, 'did not give its image')
        self.restart()
        self.wait_info(dst, state='standalone')
        third = self.adopt(BareMetal(self.work, CMD, name='third',
                                     smp=self.smp))
        self.work.sparse('third.img', SIZE)
        third.pmem_file('third.img', SIZE, device='pmem-ha',
                        props='state-file=third.state')
        third.add('-incoming', 'unix:third.mig', '-S').start()
        self.guests.append(third)
        self.migrate(dst, 'unix:third.mig')
        self.wait_migration(third)
        self.assertEqual(self.digest(src), self.digest(third))
        third.qmp.cmd('cont')
        self.runs(third)
        self.judge_image('third.img')

    def test_only_one_side(self):
        """The image is not touched, and the guest goes on."""
        src = self.source()
        for n, (here, there) in enumerate((('copy', 'adopt'),
                                           ('adopt', 'copy'))):
            self.choose(src, here)
            if there == 'adopt':
                dst = self.destination(name=f'd{n}').start()
            else:
                dst = self.guest(f'd{n}', '-incoming', f'unix:d{n}.mig',
                                 '-S').start()
            src.qmp.cmd('migrate', uri=f'unix:d{n}.mig')
            self.assertNotEqual(dst.wait(30), 0)
            self.guests.remove(dst)
            src.qmp.poll('query-migrate', lambda i: i.get('status') in
                         ('completed', 'failed'), scaled(30))
            src.qmp.cmd('cont')
            self.wait_info(src, role='primary', state='in-sync')
            self.runs(src)
        self.judge()

    def test_no_image_of_a_replica(self):
        self.work.sparse('other.img', SIZE)
        dst = self.destination(image='other.img').start(negotiate=False)
        self.assertEqual(dst.wait(20), 1)
        self.assertIn('is not the image of a replica', dst.output())

    def test_vhost_user(self):
        """A backend maps the file itself, whatever is private in QEMU."""
        blk = ['-chardev', 'socket,id=vu,path=vu.sock,server=on,wait=off',
               '-device', 'vhost-user-blk-pci,chardev=vu']
        self.source()
        dst = self.destination(*blk).start(negotiate=False)
        self.assertEqual(dst.wait(20), 1)
        self.assertIn('before it is adopted', dst.output())

    def test_two_devices(self):
        """They could not be adopted at one instant."""
        other = self.replica('other', image='other.img', size=SIZE).start()
        dst = self.destination()
        dst.add('-object', other.object('r1'))
        dst.pmem_file('other.img', SIZE, 1, device='pmem-ha',
                      props=f'replica=r1,state-file=o.state,{ADOPT}')
        dst.start(negotiate=False)
        self.assertEqual(dst.wait(20), 1)
        self.assertIn('one device or one consistency-group', dst.output())

    def test_pmem(self):
        g = self.source()
        dst = self.adopt(BareMetal(self.work, CMD, name='d', smp=self.smp))
        dst.add('-object', self.r.object('r0'))
        dst.pmem_file(self.image, SIZE, device='pmem-ha',
                      backend='pmem=on',
                      props=f'replica=r0,state-file=d.state,{ADOPT}')
        dst.add('-incoming', 'unix:d.mig').start(negotiate=False)
        self.assertEqual(dst.wait(20), 1)
        self.assertRegex(dst.output(), 'pmem=on|libpmem|MAP_SYNC')
        g.kill()


class Group(GroupTest):

    def test_group(self):
        """All devices of a group, at their places in the image"""
        src = self.source(cmd=f'workload=records {SPREAD}')
        dst = self.adopt(BareMetal(self.work, f'workload=records {SPREAD}',
                                   name='dst', smp=self.smp))
        dst.add('-object', self.r.object('r0'))
        add_slices(dst, 'replica.img',
                   f',replica=r0,state-file=dst.state,{ADOPT}')
        dst.add('-incoming', 'unix:dst.mig', '-S').start()
        src.qmp.cmd('qom-set', path='/machine/peripheral/nv1',
                    property='handover', value='adopt')
        self.migrate(src)
        self.wait_migration(dst)
        for q in (src, dst):
            q.qmp.cmd('pmemsave', timeout=30, val=BASE, size=GROUP_SIZE,
                      filename=f'{q.name}.mem')
        with open(self.work.path('src.mem'), 'rb') as a, \
                open(self.work.path('dst.mem'), 'rb') as b:
            self.assertTrue(a.read() == b.read())
        dst.qmp.cmd('cont')
        self.wait_info(dst, role='primary', state='standalone')
        self.runs(dst)
        for g in (src, dst):
            g.kill()
        acks = {**src.acks(), **dst.acks()}
        dst.acks = lambda: acks
        self.judged(dst, self.work.path('replica.img'))


if __name__ == '__main__':
    main()
