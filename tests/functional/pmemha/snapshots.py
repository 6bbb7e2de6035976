# SPDX-License-Identifier: GPL-2.0-or-later
"""
Snapshots of a guest with a page map, into its image and to files.  As in
pmemha.pagemap no guest code runs.
"""

import os

from .pagemap import OTHER, PAGE, PageMapTest

REMEDY = 'restore it with its disks as they were when it was taken'


class SnapshotTest(PageMapTest):

    # Ways to write a file: capabilities
    WAYS = ({}, {'mapped_ram': True}, {'mapped_ram': True, 'multifd': True})

    def qcow2(self, name='disk.qcow2', node='n0', extra='', make=True):
        if make:
            self.raw()
            self.image('convert', '-O', 'qcow2', 'disk.img', name)
        return ('-blockdev', f'driver=qcow2,node-name={node},file.driver=file,'
                f'file.locking=off,file.filename={name}{extra}')

    def allocated(self, name):
        return os.stat(self.work.path(name)).st_blocks * 512

    def info(self, q):
        return q.qmp.cmd('query-migrate')

    def anon(self, q, pages=64):
        """Memory that is on no disk"""
        for n in range(pages):
            self.store(q, OTHER + n * PAGE)

    def stopped(self, disk, caps=None, **kw):
        src = self.source(disk, caps=caps, **kw)
        pages = self.fill(src)
        self.anon(src)
        src.qmp.cmd('stop')
        return src, pages

    def save(self, src, want='completed'):
        self.begin(src, 'file:guest.file')
        return self.end(src, want)

    def restored(self, disk, caps=None, name='dst'):
        dst = self.destination(disk, name=name, uri='defer', caps=caps)
        dst.qmp.cmd('migrate-incoming', uri='file:guest.file')
        return dst

    def remove(self):
        os.unlink(self.work.path('guest.file'))

    def held(self, caps, which=lambda offset, size: True):
        """A save that waits for the disk"""
        server = self.nbd()
        src, pages = self.stopped(server.blockdev('src', 'n0'), caps)
        view = server.views['src']
        view.hold(which)
        self.begin(src, 'file:guest.file')
        view.wait_held()
        return server, src, pages
