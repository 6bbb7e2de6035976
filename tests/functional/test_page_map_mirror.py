#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Storage that moves in the same migration: the destination begins with an empty
image, exports it by NBD as libvirt has it do, and the source mirrors its disk to
there.  What the page map reads is that copy.  Memory is compared after each
migration, and the copy with the source's disk.
"""

import hashlib
import os
import re
import subprocess

from pmemha import main, program, scaled
from pmemha.migrate import set_caps
from pmemha.mapguest import (Disk, MIB, PageMapTest, disk_content,
                             file_disk, qemu_img)

NBD = {'type': 'unix', 'data': {'path': 'nbd.sock'}}
# What a mirror that is to go no further has copied at most
STEP = MIB


class MirrorTest(PageMapTest):
    fmt = 'raw'

    def setUp(self):
        super().setUp()
        self.nodes = []             # that are mirrored
        self.copies = 0

    def empty_copy(self, size=None, fmt=None):
        """An image of the destination with nothing in it; its Disk"""
        fmt = fmt or self.fmt
        self.copies += 1
        path = f'copy{self.copies}.{fmt}'
        qemu_img(self.work, 'create', '-q', '-f', fmt, path,
                 str(size or len(self.content)))
        return file_disk(path, fmt)

    def export(self, dst, *nodes):
        dst.qmp.cmd('nbd-server-start', addr=NBD)
        for n in nodes or ['node0']:
            dst.qmp.cmd('block-export-add', type='nbd', id=f'export-{n}',
                        node_name=n, writable=True)

    def copy_of(self, src, *extra, **kw):
        """A destination whose disk is an empty image, exported"""
        dst = self.destination([self.empty_copy()], *extra, **kw)
        self.export(dst)
        return dst

    def mirror(self, src, node='node0', ready=True, **kw):
        """Begin to copy a node to the export of that name."""
        src.qmp.cmd('blockdev-add', driver='nbd', node_name=f'to-{node}',
                    server={'type': 'unix', 'path': 'nbd.sock'}, export=node)
        src.qmp.cmd('blockdev-mirror', job_id=f'job-{node}', device=node,
                    target=f'to-{node}', sync='full', **kw)
        self.nodes.append(node)
        if ready:
            self.wait_ready(src)

    def jobs(self, src):
        return {j['device']: j for j in src.qmp.cmd('query-block-jobs')}

    def wait_ready(self, src):
        src.qmp.poll('query-block-jobs', lambda jobs: len(jobs) ==
                     len(self.nodes) and all(j['ready'] for j in jobs),
                     scaled(30))

    def pair(self, cmd='', *extra, **kw):
        src = self.source([self.image()], cmd, *extra, **kw)
        return src, self.copy_of(src, *extra, **kw)

    def begin(self, src, dst, **params):
        self.turn_on(src, dst)
        set_caps(src, pause_before_switchover=True, events=True)
        self.start_migration(src, **params)

    def finish(self, src, dst, phase='idle'):
        """
        From a migration that goes on and mirrors that are ready: as libvirt
        does.  The figures of the page map
        """
        info = src.qmp.poll('query-migrate', lambda i: i['status'] in (
            'pre-switchover', 'failed', 'completed'), scaled(60))
        self.assertEqual(info['status'], 'pre-switchover', info)
        for node in self.nodes:
            # In a mirror that is ready it ends with an equal copy.
            src.qmp.cmd('block-job-cancel', device=f'job-{node}')
        src.qmp.poll('query-block-jobs', lambda jobs: not jobs, scaled(30))
        src.qmp.cmd('migrate-continue', state='pre-switchover')
        self.ended(src, 'completed')
        self.ended(dst, 'completed')
        stats = self.stats(src)
        self.diag(' '.join(f'{k}={v}' for k, v in stats.items() if v))
        self.assert_same_memory(src, dst)
        self.assert_same_disks(src, dst)
        dst.qmp.cmd('nbd-server-stop')
        src.kill()
        self.runs_on(dst, phase)
        # From here on its disk is what it reads.
        dst.phase('reread')
        dst.goes_on('reread', 4)
        dst.verify()
        return stats

    def assert_same_disks(self, src, dst):
        """By what each end says its nodes are; the guest is stopped."""
        for node in self.nodes:
            ours, theirs = (
                next(n for n in q.qmp.cmd('query-named-block-nodes')
                     if n['node-name'] == node) for q in (src, dst))
            done = subprocess.run(
                [program('QEMU_IMG'), 'compare', '-U', '-f', ours['drv'], '-F',
                 theirs['drv'], ours['file'], theirs['file']],
                cwd=self.work.dir, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.STDOUT, check=False, timeout=scaled(30))
            self.assertEqual(done.returncode, 0, done.stdout)

    def verdict(self, dst):
        """Of the probes, once it is there; dst has the trace."""
        if not self.map_on:
            return None
        dst.qmp.poll('query-status', lambda _: 'page_map_device ' in
                     dst.output(), scaled(30))
        return int(re.search(r'page_map_device .* verdict (\d)',
                             dst.output())[1])


class Ready(MirrorTest):
    """The copy is complete before the migration begins: libvirt's order"""

    def check(self, *args, least=0.5, **kw):
        src, dst = self.pair(*args, **kw)
        self.mirror(src)
        self.begin(src, dst)
        stats = self.finish(src, dst)
        self.assert_mapped(stats, least)
        self.assertEqual(stats['nacked'], 0)

    def test_raw(self):
        self.check()

    def test_qcow2(self):
        self.fmt = 'qcow2'
        self.check()

    def test_iothread(self):
        self.check('', '-object', 'iothread,id=io0', props=',iothread=io0')

    def test_global(self):
        """
        As libvirt has it: a -global switches it on, and each capability that
        it knows is switched off afterwards.
        """
        src, dst = self.pair('', '-global', 'migration.x-page-map=' +
                             ('on' if self.map_on else 'off'))
        self.mirror(src)
        for q in (src, dst):
            set_caps(q, **{c['capability'].replace('-', '_'): False
                           for c in q.qmp.cmd('query-migrate-capabilities')
                           if not c['capability'].startswith('x-')})
        set_caps(src, pause_before_switchover=True, events=True)
        self.start_migration(src)
        self.assert_mapped(self.finish(src, dst), 0.4)

    def test_one_of_two(self):
        """Of two disks one is on storage that both reach."""
        disks = [self.image(content=disk_content(self.mib, disk=k, disks=2),
                            name=f'd{k}') for k in range(2)]
        src = self.source(disks)
        dst = self.destination([disks[0], self.empty_copy(
            self.mib * MIB // 2)])
        self.export(dst, 'node1')
        self.mirror(src, 'node1')
        self.begin(src, dst)
        # More than one disk has: both are used.
        stats = self.finish(src, dst)
        self.assert_mapped(stats, 0.55)
        self.assertEqual(stats['nacked'], 0)


class Writes(MirrorTest):
    """The guest writes while its disk is mirrored."""

    CHUNK = 32                  # pages that a step of the guest writes

    def written(self, **kw):
        """A mirror that was ready, and four chunks written since"""
        src, dst = self.pair('records=4 every=4')
        self.mirror(src, **kw)
        if self.paused:
            src.qmp.cmd('block-job-pause', device='job-node0')
            src.qmp.poll('query-jobs', lambda jobs: jobs[0]['status'] ==
                         'standby', scaled(20))
        src.phase('write')
        src.out.wait_for('^D write 4$', 60)
        # So slow that few of the pages take the link.
        self.begin(src, dst, max_bandwidth=4 * MIB)
        if self.paused:
            src.qmp.poll('query-migrate', lambda i: i['status'] ==
                         'pre-switchover', scaled(60))
            src.qmp.cmd('block-job-resume', device='job-node0')
        stats = self.finish(src, dst)
        self.assert_mapped(stats, 0.3)
        return stats

    paused = False

    def test_write_blocking(self):
        """What the guest wrote is in the copy before it knows."""
        stats = self.written(copy_mode='write-blocking')
        self.assertEqual(stats['nacked'], 0)

    def test_not_copied_yet(self):
        """The mirror is behind: those pages are refused, and sent."""
        self.paused = True
        stats = self.written(copy_mode='background')
        if self.map_on:
            self.assertGreaterEqual(stats['nacked'], self.CHUNK // 2)
            self.assertLessEqual(stats['nacked'], 4 * self.CHUNK)

    def goes_on(self, phase, copy_mode):
        seed = int.from_bytes(os.urandom(3), 'little')
        self.diag(f'seed={seed}')
        src, dst = self.pair(f'seed={seed} every=8 think=20000 check=1')
        self.mirror(src, copy_mode=copy_mode)
        src.phase(phase)
        src.goes_on(phase, 1)
        self.begin(src, dst, downtime_limit=2000)
        stats = self.finish(src, dst, phase)
        self.assert_mapped(stats, 0.2)

    def test_writing_write_blocking(self):
        self.goes_on('write', 'write-blocking')

    def test_mix_background(self):
        self.goes_on('mix', 'background')


class NotReady(MirrorTest):
    """The migration begins while the copy is incomplete."""

    def begun(self, cmd='', **kw):
        """The mirror goes no further than a step."""
        src, dst = self.pair(cmd, '-trace', 'page_map_device', **kw)
        self.mirror(src, ready=False, speed=1, buf_size=STEP)
        src.qmp.poll('query-block-jobs', lambda jobs: jobs[0]['offset'] > 0,
                     scaled(20))
        return src, dst

    def test_disk_is_left_alone(self):
        """It is another one when it is asked for; that is not asked again."""
        src, dst = self.begun()
        self.begin(src, dst)
        self.assertIn(self.verdict(dst), (3, None))
        src.qmp.cmd('block-job-set-speed', device='job-node0', speed=0)
        self.wait_ready(src)
        self.assert_nothing_mapped(self.finish(src, dst))

    def test_meanwhile(self):
        """It may be the same or another; the guest goes on."""
        src, dst = self.begun('every=8 think=20000 check=1 phase=mix')
        src.qmp.cmd('block-job-set-speed', device='job-node0',
                    speed=self.mib * MIB)
        at = int.from_bytes(os.urandom(1), 'little') % self.mib * MIB
        self.diag(f'from {at // MIB} MiB on')
        src.qmp.poll('query-block-jobs', lambda jobs: jobs[0]['offset'] >= at,
                     scaled(30))
        self.begin(src, dst, downtime_limit=2000)
        self.wait_ready(src)
        self.finish(src, dst, 'mix')


class Fails(MirrorTest):
    """The copy ends before its time: libvirt then cancels the migration."""

    def gives_up(self, src, dst):
        event = src.qmp.wait_event('BLOCK_JOB_COMPLETED', scaled(30))
        self.assertIn('error', event['data'])
        src.qmp.cmd('migrate_cancel')
        self.ended(src, 'cancelled|failed')
        self.assertEqual(src.qmp.cmd('query-status')['status'], 'running')
        src.verify()
        self.assertEqual(dst.wait(20), 1, dst.output())
        src.qmp.cmd('blockdev-del', node_name='to-node0')
        self.nodes.clear()

    def next_one(self, src):
        """With another image, from the beginning"""
        dst = self.copy_of(src, name='dst2', uri='unix:mig2')
        self.mirror(src)
        self.begin(src, dst, uri='unix:mig2')
        self.assert_mapped(self.finish(src, dst), 0.3)

    def test_not_ready(self):
        src, dst = self.pair('', '-trace', 'page_map_device')
        self.mirror(src, ready=False, speed=1, buf_size=STEP)
        self.begin(src, dst)
        self.verdict(dst)
        dst.qmp.cmd('block-export-del', id='export-node0', mode='hard')
        src.qmp.cmd('block-job-set-speed', device='job-node0', speed=0)
        self.gives_up(src, dst)
        os.unlink(self.work.path('nbd.sock'))
        self.next_one(src)

    def test_ready(self):
        """Its node is read on, whoever still writes there."""
        src, dst = self.pair('every=1 records=2', '-trace', 'page_map_device')
        self.mirror(src)
        # What the link would carry is not enough.
        self.begin(src, dst, max_bandwidth=MIB)
        self.verdict(dst)
        dst.qmp.cmd('nbd-server-stop')
        src.phase('write')
        src.out.wait_for('^D write 2$', 60)
        src.qmp.poll('query-migrate', lambda i: not self.map_on or
                     i['page-map']['mapped-pages'] >= self.pages() // 4,
                     scaled(60))
        self.gives_up(src, dst)
        self.next_one(src)


class Readers(MirrorTest):
    """
    An image that is exported is active: nothing else keeps copy-on-read from
    writing to it.  Such a disk is not read.
    """

    def digest(self, name):
        with open(self.work.path(name), 'rb') as f:
            return hashlib.sha256(f.read()).hexdigest()

    def untouched(self, disk, image):
        src = self.source([self.image()])
        dst = self.destination([disk], '-trace', 'page_map_device')
        self.export(dst)
        before = self.digest(image)
        self.turn_on(src, dst)
        self.start_migration(src)
        self.ended(src, 'completed')
        stats = self.stats(src)
        self.ended(dst, 'completed')
        self.assertEqual(self.digest(image), before)
        self.assertIn(self.verdict(dst), (5, None))
        self.assert_nothing_mapped(stats)
        self.arrived(src, dst)

    def test_copy_on_read(self):
        raw = self.image().options.split('=')[-1]
        qemu_img(self.work, 'create', '-q', '-f', 'qcow2', '-b', raw, '-F',
                 'raw', 'top.qcow2')
        self.untouched(Disk(
            'driver=copy-on-read,node-name={node},file.driver=qcow2,'
            'file.file.driver=file,file.file.filename=top.qcow2'),
            'top.qcow2')


if __name__ == '__main__':
    main()
