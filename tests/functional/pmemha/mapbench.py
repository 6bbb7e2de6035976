# SPDX-License-Identifier: GPL-2.0-or-later
"""
The migrations of tests/bench/page-map: one guest, migrated again and again.
The destination is killed after each and the source goes on, so that each peer
and each round finds the same guest.
"""

import time

from .compare import cpu_ms
from .maphosts import Hosts, linux, same_memory, started
from .paths import scaled

PORT = 4444
ENDED = ('completed', 'failed', 'cancelled', 'postcopy-paused')


class Lab(Hosts):
    """The guests on two hosts"""

    def __init__(self, work, storage='local', accel='tcg', mib=1024, seed=1,
                 prealloc=True):
        super().__init__(work, storage, mib, seed)
        self.accel = accel
        # What a virtual machine that runs this takes to get memory from its
        # own host, 3 s for 1.5 GiB, says nothing of QEMU.
        self.prealloc = prealloc
        self.sources = {}
        self.n = 0

    def _guest(self, name, kind, at_source, overlay=None):
        """overlay: file of a qcow2 image on top of the second disk"""
        g = linux(self.work, name, kind, self.accel)
        # Shared: the guests of all sources have it, and mount it read-only.
        g.add(*self.disk('d0', self.image, at_source), '-device',
              'virtio-blk-pci,drive=d0,id=disk0,share-rw=on')
        g.add(*self.disk('base' if overlay else 'd1', self.scratch(kind),
                         at_source))
        if overlay:
            g.add('-blockdev', 'driver=qcow2,node-name=d1,backing=base,'
                  f'file.driver=file,file.filename={overlay}')
        g.add('-device', 'virtio-blk-pci,drive=d1,id=disk1')
        return (self.src if at_source else self.dst).put(g)

    def source(self, kind):
        """The guest of that kind; the others are stopped"""
        for other, g in self.sources.items():
            if other != kind and g.qmp.cmd('query-status')['running']:
                g.qmp.cmd('stop')
        g = self.sources.get(kind)
        if not g:
            g = self.sources[kind] = self._guest(f'src-{kind}', kind, True)
            g.boot()
            g.sh('mkdir -p /w; mount -o ro,noload /dev/vda /mnt && '
                 'mount /dev/vdb /w')
            if kind == 'hint':
                g.sh('load balloon')
        elif not g.qmp.cmd('query-status')['running']:
            g.qmp.cmd('cont')
        return g

    def forget(self, *kinds):
        """Guests of these kinds (none: all) are booted anew when needed."""
        for kind in kinds or list(self.sources):
            g = self.sources.pop(kind, None)
            if g:
                g.kill()

    def destination(self, kind, overlay=None):
        self.n += 1
        g = self._guest(f'dst{self.n}', kind, False, overlay)
        if self.prealloc:
            g.add('-mem-prealloc')
        return started(g.add('-S', '-incoming', 'defer'))

    def refused(self, peer):
        """Why this build cannot do it, None if it can"""
        return peer.refused(self.source)

    def migrate(self, peer, work):
        """
        One migration of the running guest; {figure: value}.  One that has not
        ended after work.limit seconds is cancelled.
        """
        src = self.source(peer.source)
        dst = self.destination(peer.source, work.overlay)
        extra = ['pause-before-switchover'] if work.switchover else []
        try:
            for q in (src, dst):
                peer.settings(q, extra)
            uri = f'tcp:{self.link.addresses[1]}:{PORT}'
            dst.qmp.cmd('migrate-incoming', uri=uri)
            figures = self._timed(src, dst, peer, uri, work)
            if figures['finished']:
                dst.qmp.poll('query-migrate', lambda i: i.get('status') in
                             ENDED, scaled(30))
                figures['same-memory'] = same_memory(src, dst)
                if work.reread:
                    figures['reread-s'] = self._reread(dst)
        finally:
            dst.kill()
        return figures

    def _timed(self, src, dst, peer, uri, work):
        before = self._counters(src, dst)
        began = time.monotonic()
        if peer.before:
            src.sh(peer.before)
        prepared = time.monotonic() - began
        src.qmp.cmd('migrate', uri=uri)
        info = self._wait(src, peer, work)
        if info['status'] not in ENDED:
            src.qmp.cmd('migrate_cancel')
            src.qmp.poll('query-migrate', lambda i: i['status'] in ENDED,
                         scaled(30))
        elif info['status'] != 'completed':
            raise AssertionError(f'{peer.name}: {info}\n{dst.output()}')
        after = self._counters(src, dst)
        figures = {k: after[k] - before[k] for k in after}
        figures.update({
            'finished': info['status'] == 'completed',
            'prepare-seconds': prepared,
            'total-time-ms': info['total-time'] + round(prepared * 1000),
            'info': info,
        })
        if 'x-page-map' not in peer.caps:
            info.pop('page-map', None)          # of the migration before
        for key in ('downtime', 'setup-time'):
            if key in info:
                figures[f'{key}-ms'] = info[key]
        # Of a disk that does not come by the link, what the map says
        if (not self.disk_link or work.overlay) and 'page-map' in info:
            figures['storage-bytes'] = info['page-map']['fetched-bytes']
        return figures

    def _counters(self, src, dst):
        found = {'link-bytes': self.link.bytes(),
                 'cpu-ms-source': cpu_ms(src),
                 'cpu-ms-destination': cpu_ms(dst)}
        if self.disk_link:
            found['storage-bytes'] = self.disk_link.bytes()
            found['source-storage-bytes'] = self.src_disk_link.bytes()
        return found

    @staticmethod
    def _wait(src, peer, work):
        """What it answers when it has ended or its time is over"""
        end = time.monotonic() + work.limit
        done = set()

        def once(what):
            new = what not in done
            done.add(what)
            return new

        def ended(info):
            if info['status'] == 'pre-switchover' and once('switchover'):
                work.switchover(src)
                src.qmp.cmd('migrate-continue', state='pre-switchover')
            if peer.way == 'postcopy' and info['status'] == 'active' and \
                    info['ram']['dirty-sync-count'] > 1 and once('postcopy'):
                src.qmp.cmd('migrate-start-postcopy')
            # The rest of a postcopy is finite, and cannot be cancelled.
            return info['status'] in ENDED or \
                (time.monotonic() > end and 'postcopy' not in done)

        return src.qmp.poll('query-migrate', ended, work.limit + scaled(120))

    @staticmethod
    def _reread(g):
        g.qmp.cmd('cont')
        began = time.monotonic()
        g.sh('cat /mnt/f* > /dev/null', 300)
        return time.monotonic() - began
