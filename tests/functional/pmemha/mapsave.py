# SPDX-License-Identifier: GPL-2.0-or-later
"""
The snapshots of tests/bench/page-map: a guest is saved to a file (mapped-ram)
or within its image (savevm), and restored in another process, whose memory is
compared with what was saved.  Its disk is qcow2 on top of the set of files,
all of it on this host.
"""

import os
import subprocess
import time

from .compare import cpu_ms
from .maphosts import digest, linux, started
from .paths import program, scaled
from .qmp import QmpError

ENDED = ('completed', 'failed', 'cancelled')
TAG = 'bench'


class Refused(AssertionError):
    """QEMU says no; its reason"""


def allocated(path):
    return os.stat(path).st_blocks * 512


def transferred(q):
    """Bytes that a process read and wrote by system calls: of files, and the
    little of its sockets"""
    with open(f'/proc/{q.pid}/io', encoding='ascii') as f:
        found = dict(line.split(': ') for line in f.read().splitlines())
    return int(found['rchar']), int(found['wchar'])


class Meter:
    """What a process did since then"""

    def __init__(self, q):
        self.q, self.cpu, self.io = q, cpu_ms(q), transferred(q)
        self.started = time.monotonic()

    def figures(self, what):
        read, written = transferred(self.q)
        return {f'{what}-s': time.monotonic() - self.started,
                f'{what}-cpu-ms': cpu_ms(self.q) - self.cpu,
                f'{what}-read-bytes': read - self.io[0],
                f'{what}-written-bytes': written - self.io[1]}


class SaveLab:
    """One guest of each kind, that is saved again and again"""

    def __init__(self, work, image, accel='tcg', prealloc=True):
        self.work = work
        self.image = image
        self.accel = accel
        self.prealloc = prealloc
        self.sources = {}
        self.n = 0

    def _disk(self, kind):
        path = self.work.path(f'save-{kind}.qcow2')
        if not os.path.exists(path):
            subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                            '-b', self.image, '-F', 'raw', path], check=True,
                           stdin=subprocess.DEVNULL, timeout=scaled(60))
        return path

    def _guest(self, name, kind, disk=None):
        self.n += 1
        g = linux(self.work, f'{name}{self.n}', kind, self.accel)
        # What a deleted snapshot leaves is given back to the host.
        # Nobody writes to the set, but who serves it has it locked.
        file = disk or self._disk(kind)
        return g.add('-blockdev', 'driver=qcow2,node-name=d0,discard=unmap,'
                     f'file.driver=file,file.filename={file},'
                     'file.discard=unmap,backing.driver=raw,'
                     'backing.file.driver=file,backing.file.locking=off,'
                     f'backing.file.filename={self.image}', '-device',
                     'virtio-blk-pci,drive=d0,id=disk0')

    def source(self, kind):
        g = self.sources.get(kind)
        if not g:
            g = self.sources[kind] = self._guest(f'save-{kind}', kind)
            g.boot()
            g.sh('mount -o ro,noload /dev/vda /mnt')
        return g

    def forget(self, *kinds):
        """Guests of these kinds (none: all) are booted anew when needed."""
        for kind in kinds or list(self.sources):
            g = self.sources.pop(kind, None)
            if g:
                g.kill()
                os.unlink(self._disk(kind))

    def refused(self, peer):
        return peer.refused(self.source)

    def save(self, peer, work):
        """One save and one restore; {figure: value}"""
        src = self.source(peer.source)
        peer.settings(src)
        return (self._file if peer.way == 'mapped-ram' else
                self._image)(src, peer, work)

    def _restorer(self, peer, *args, disk=None):
        g = self._guest(f'load-{peer.source}', peer.source, disk)
        if self.prealloc:
            g.add('-mem-prealloc')
        started(g.add('-S', *args))
        peer.settings(g)
        return g

    def _file(self, src, peer, work):
        path = self.work.path(f'{src.name}.ram')
        meter = Meter(src)
        # As libvirt saves a guest, and as a map of its disks needs it
        src.qmp.cmd('stop')
        try:
            src.qmp.cmd('migrate', uri=f'file:{path}')
        except QmpError as e:
            src.qmp.cmd('cont')
            raise Refused(e.desc) from e
        end = time.monotonic() + work.limit
        info = src.qmp.poll('query-migrate', lambda i: i['status'] in ENDED or
                            time.monotonic() > end, work.limit + scaled(60))
        found = {'finished': info['status'] == 'completed', 'info': info,
                 **meter.figures('save'), 'allocated-bytes': allocated(path)}
        if info['status'] == 'failed':
            src.qmp.cmd('cont')
            raise Refused(info.get('error-desc', str(info)))
        if not found['finished']:
            src.qmp.cmd('migrate_cancel')
            src.qmp.poll('query-migrate', lambda i: i['status'] in ENDED,
                         scaled(30))
            src.qmp.cmd('cont')
            os.unlink(path)
            return found
        found['pause-ms'] = round(found['save-s'] * 1000)
        dst = self._restorer(peer, '-incoming', 'defer')
        try:
            meter = Meter(dst)
            dst.qmp.cmd('migrate-incoming', uri=f'file:{path}')
            info = dst.qmp.poll('query-migrate', lambda i: i.get('status') in
                                ENDED, scaled(120))
            if info['status'] != 'completed':
                raise AssertionError(f'{peer.name}: restore: {info}')
            found.update(meter.figures('restore'))
            found['same-memory'] = digest(src) == digest(dst)
        finally:
            dst.kill()
            os.unlink(path)
        src.qmp.cmd('cont')
        return found

    @staticmethod
    def _job(q, command, **arguments):
        """A job of snapshots; Refused if it fails"""
        q.qmp.raw_cmd(command, {'job-id': command, 'tag': TAG, 'devices':
                                ['d0'], **arguments})
        jobs = q.qmp.poll('query-jobs', lambda jobs: all(
            j['status'] == 'concluded' for j in jobs), scaled(120))
        q.qmp.raw_cmd('job-dismiss', {'id': command})
        for j in jobs:
            if 'error' in j:
                raise Refused(j['error'])

    def _image(self, src, peer, _work):
        """The guest goes on in the process that was restored."""
        path = self._disk(peer.source)
        before = allocated(path)
        meter = Meter(src)
        # As savevm does it, and it stays stopped: its memory is compared.
        src.qmp.cmd('stop')
        self._job(src, 'snapshot-save', vmstate='d0')
        found = {'finished': True, **meter.figures('save')}
        found['pause-ms'] = round(found['save-s'] * 1000)
        found['allocated-bytes'] = allocated(path) - before
        # All of it is there: the job's end is after the last flush.  Loading
        # writes to an image, so it is a copy that is loaded.
        copy = f'{path}.copy'
        subprocess.run(['cp', '--sparse=always', path, copy], check=True,
                       stdin=subprocess.DEVNULL, timeout=scaled(120))
        dst = self._restorer(peer, disk=copy)
        try:
            meter = Meter(dst)
            self._job(dst, 'snapshot-load', vmstate='d0')
            found.update(meter.figures('restore'))
            found['same-memory'] = digest(src) == digest(dst)
        finally:
            dst.kill()
            os.unlink(copy)
        self._job(src, 'snapshot-delete')
        src.qmp.cmd('cont')
        left = allocated(path) - before
        if left > found['allocated-bytes'] // 2:
            raise AssertionError(f'{peer.name}: the snapshot was deleted, and '
                                 f'{left} bytes of it are still allocated')
        return found
