#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The page map under libvirt: two daemons, each with a network, a host name, a
UUID and files of its own, and virsh that migrates the domain of the manual.
The guest finds each page as it must be, before and after.
"""

import os
import subprocess

from pmemha import TestCase, main
from pmemha.baremetal import escape, image
from pmemha.libvirt import (INSTALL, Libvirtd, Listener, domain_xml,
                            have_libvirt, may_unshare)
from pmemha.mapguest import MIB, PAGE, DiskTalk, disk_content
from pmemha.netlab import Link, Namespace

DOMAIN = 'page-map'
RAM = 64 * MIB                  # as in the XML
FILL = 32                       # MiB of it that are read from the disk
LINK = 16                       # MiB/s, which leaves most to the map


class Guest(DiskTalk):
    def __init__(self, name, out, ctl):
        self.name, self.out, self.ctl = name, out, ctl


class Host(Libvirtd):
    """One of the two, which can be told from each other"""

    def __init__(self, test, name, **kw):
        super().__init__(test, name, uuid=f'6d61702d-{name}-4000-8000-'
                                          '000000000000', **kw)
        # What its QEMU says, and the serial port
        self.listeners = [Listener(self, n) for n in ('out', 'ctl')]

    def guest(self):
        """That of the QEMU that was started last"""
        return Guest(self.name, *(n.accept() for n in self.listeners))


class LibvirtTest(TestCase):

    timeout = 58

    def setUp(self):
        if os.getuid():
            self.skipTest('namespaces and mounts need root')
        if not have_libvirt():
            self.skipTest(INSTALL)
        if not may_unshare():
            self.skipTest('this host grants no namespaces')
        self.content = disk_content(FILL)
        ns = [self.adopt(Namespace(self.work, f'net{n}')) for n in (1, 2)]
        self.link = Link('lab0', 0, *ns, 0)
        for name in ('shared', 'own1', 'own2'):
            os.mkdir(self.work.path(name))
        self.theirs = Host(self, 'bbbb', netns=ns[1], binds={
            'shared': 'shared', 'own': 'own2'})
        self.ours = Host(self, 'aaaa', netns=ns[0], binds={
            'shared': 'shared', 'own': 'own1', 'peer': 'bbbb/run/libvirt'})
        for host in (self.theirs, self.ours):
            host.start()
        self.assertNotEqual(*(h.virsh('capabilities').stdout.split(
            '<uuid>')[1][:36] for h in (self.ours, self.theirs)))

    def xml(self, name, disk, *args, cmd=''):
        """The manual's domain, with a guest that can be asked"""
        cmd = f'workload=disk disks=1 fill={FILL} {cmd}'
        out, ctl = self.ours.listeners
        return self.work.write(name, domain_xml(
            'page-map-domain.xml', {'DISK': disk}, [
                '-bios', image(), *out.args(), *ctl.args(),
                '-device', 'isa-debugcon,iobase=0xe9,chardev=out',
                '-serial', 'chardev:ctl', '-fw_cfg',
                f'name=opt/org.pmem-ha/cmd,string={escape(cmd)}', *args]))

    def boot(self, *args, **kw):
        """The domain runs here, and has read its disk."""
        # What libvirt defined stays, so its completed job can be asked for.
        self.ours.virsh('define', self.xml('ours.xml', *args, **kw))
        self.ours.virsh('start', DOMAIN, timeout=40)
        guest = self.ours.guest()
        self.assertEqual(guest.filled() * PAGE, FILL * MIB)
        return guest

    def migrate(self, *args, to=None, link=LINK, want=0, meanwhile=None):
        """
        virsh migrate; its output.  domjobinfo is asked while it goes on, and
        meanwhile(job) called with the answer; true once it has ended the job.
        QEMU has no figures of a migration that was cancelled, and libvirt
        shows zeros until it has seen that it was.
        """
        sent = self.link.bytes()
        run = subprocess.Popen(
            self.ours.command('migrate', DOMAIN, to or self.theirs.uri(),
                              '--migrateuri',
                              f'tcp://{self.link.addresses[1]}', '--live',
                              '--bandwidth', str(link), *args),
            cwd=self.work.dir, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(run.kill)
        processed = 0
        ended = False
        while run.poll() is None:
            job = self.ours.job(DOMAIN)
            if 'memory_total' in job and (job['memory_total'] or not ended):
                self.assertLessEqual(job['memory_remaining'],
                                     job['memory_total'], job)
                self.assertGreaterEqual(job['memory_processed'], processed)
                processed = job['memory_processed']
                if meanwhile:
                    ended = meanwhile(job)
        text = run.stdout.read()
        self.assertEqual(run.returncode, want, text + self.ours.logs() +
                         self.theirs.logs())
        self.wire = self.link.bytes() - sent
        return text

    def arrived(self):
        """It runs there and is as it was: its guest, and pages fetched"""
        self.assertEqual(self.theirs.virsh('domstate', DOMAIN).stdout.strip(),
                         'running')
        # Nothing is read or written by the guest: the map has what came by it.
        mapped = self.theirs.qmp(DOMAIN, 'query-page-map')['mapped-pages']
        guest = self.theirs.guest()
        guest.verify()
        return guest, mapped

    def jobs(self, mapped):
        """What both ends say of the job that is over; it adds up"""
        job = self.ours.job(DOMAIN, '--completed', '--keep-completed')
        theirs = self.theirs.job(DOMAIN, '--completed', '--keep-completed')
        for key in ('memory_total', 'memory_processed', 'memory_remaining',
                    'memory_normal', 'memory_constant', 'downtime'):
            self.assertEqual(job[key], theirs[key], key)
        self.diag(f'{mapped} pages mapped, {self.wire >> 10} KiB of wire: ' +
                  ' '.join(f'{k}={v}' for k, v in job.items()
                           if k.startswith(('memory', 'disk', 'down'))))
        self.assertGreaterEqual(job['memory_total'], RAM)
        self.assertLess(job['memory_total'], RAM + 16 * MIB)
        self.assertEqual(job['memory_remaining'], 0)
        self.assertLessEqual(job['memory_processed'], self.wire)
        self.assertEqual(job['memory_normal_bytes'],
                         job['memory_normal'] * PAGE)
        self.assertGreaterEqual(job['memory_processed'],
                                job['memory_normal_bytes'])
        # Each page has gone one way at least.
        self.assertGreaterEqual(job['memory_normal'] + job['memory_constant'] +
                                mapped, job['memory_total'] // PAGE)
        self.assertLessEqual(job['downtime'], job['time_elapsed'])
        self.assertLessEqual(job['setup_time'], job['time_elapsed'])
        return job

    def assert_saved(self, job, mapped):
        """Much of what was read is fetched, and so is not sent."""
        self.assertGreaterEqual(mapped * PAGE, FILL * MIB * 2 // 5)
        self.assertLess(job['memory_processed'], FILL * MIB - mapped * PAGE +
                        4 * MIB)


class Migrate(LibvirtTest):

    def test_shared_storage(self):
        """With the map and without it"""
        self.work.write('shared/disk.img', self.content)
        jobs = {}
        for state in ('off', 'on'):
            self.boot('/run/shared/disk.img', '-global',
                      f'migration.x-page-map={state}').verify()
            # libvirt does not know that it is shared.
            self.migrate('--unsafe')
            _, mapped = self.arrived()
            jobs[state] = self.jobs(mapped)
            if state == 'off':
                self.assertEqual(mapped, 0)
            else:
                self.assert_saved(jobs['on'], mapped)
            self.theirs.virsh('destroy', DOMAIN)
            self.ours.virsh('undefine', DOMAIN)
        self.assertGreater(jobs['off']['memory_processed'], FILL * MIB)
        self.assertLess(jobs['on']['memory_processed'] * 2,
                        jobs['off']['memory_processed'])

    def test_storage_moves(self):
        """The daemon migrates by itself, over two connections and NBD."""
        self.work.write('own1/disk.img', self.content)
        self.work.sparse('own2/disk.img', len(self.content))
        self.boot('/run/own/disk.img', cmd='check=1 every=8').verify()
        self.migrate('--p2p', '--parallel', '--copy-storage-all',
                     to=self.theirs.uri('/run/peer/libvirt-sock'))
        guest, mapped = self.arrived()
        job = self.jobs(mapped)
        self.assert_saved(job, mapped)
        self.assertEqual(job['disk_remaining'], 0)
        self.assertGreaterEqual(job['disk_processed'], FILL * MIB)
        # From here on its disk is what it reads.
        guest.phase('reread')
        guest.goes_on('reread', 2)
        guest.verify()

    def test_refused(self):
        """It stays where it is, and can go when the reason is gone."""
        self.work.write('shared/disk.img', self.content)
        guest = self.boot('/run/shared/disk.img')
        # A capability that excludes it
        text = self.migrate('--unsafe', '--compressed', want=1)
        self.assertIn('x-page-map', text)
        # A destination that was told nothing of it
        xml = self.ours.virsh('dumpxml', DOMAIN, '--migratable').stdout
        self.assertIn('x-page-map=on', xml)
        off = self.work.write('off.xml', xml.replace('x-page-map=on',
                                                     'x-page-map=off'))
        text = self.migrate('--unsafe', '--xml', off, want=1)
        # libvirt reports it, if it does not see the lost connection first.
        self.assertIn("section or instance 'page-map'",
                      text + self.theirs.logs())
        self.assertEqual(self.ours.virsh('domstate', DOMAIN).stdout.strip(),
                         'running')
        guest.verify()
        self.migrate('--unsafe')
        _, mapped = self.arrived()
        self.assert_saved(self.jobs(mapped), mapped)

    def test_saved(self):
        """A file of libvirt's has all that memory has."""
        self.work.write('own1/disk.img', self.content)
        self.boot('/run/own/disk.img')
        self.ours.virsh('save', DOMAIN, '/run/own/saved', timeout=40)
        self.assertGreater(os.path.getsize(self.work.path('own1/saved')),
                           FILL * MIB)
        # A restore reads no disk: it gets by with another content.
        self.work.write('own1/disk.img', disk_content(FILL, salt=1))
        self.ours.virsh('restore', '/run/own/saved', timeout=40)
        self.assertEqual(self.ours.virsh('domstate', DOMAIN).stdout.strip(),
                         'running')
        self.ours.guest().verify()

    def test_aborted(self):
        """The guest goes on here, and gets there the next time."""
        self.work.write('shared/disk.img', self.content)
        # Half of its pages have to be sent: that takes long enough.
        guest = self.boot('/run/shared/disk.img', cmd='anon=50')
        aborted = []

        def abort(job):
            if not aborted and job['memory_iteration']:
                aborted.append(self.ours.virsh('domjobabort', DOMAIN))
            return bool(aborted)

        self.migrate('--unsafe', link=1, want=1, meanwhile=abort)
        self.assertTrue(aborted)
        self.assertEqual(self.ours.virsh('domstate', DOMAIN).stdout.strip(),
                         'running')
        self.assertEqual(self.theirs.virsh('list', '--name').stdout.strip(),
                         '')
        guest.verify()
        self.migrate('--unsafe')
        _, mapped = self.arrived()
        self.jobs(mapped)
        self.assertGreater(mapped * PAGE, FILL * MIB // 8)


if __name__ == '__main__':
    main()
