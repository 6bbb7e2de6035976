# SPDX-License-Identifier: GPL-2.0-or-later
"""
Epochs of a stated size: what a capture takes of the guest's time, and what
memory of its own the device needs for it.
"""

import os
import re
import threading

from .baremetal import BareMetal
from .replica import Replica

PAGE = 4096
STAGING = 64 << 20              # the default of staging-size
# What else may be needed: a list of ranges (16 bytes each, grown by doubling:
# 24 MiB for every second page of 8 GiB), one message, what TCG keeps of the
# guest's addresses, threads and their heaps.
SLACK = 32 << 20
MEMORY = '64M,slots=4,maxmem=16G'
SLOWEST = 600                   # seconds for one epoch, on a slow disk


class Anonymous(threading.Thread):
    """
    The most anonymous memory that a process has while the block runs.  The
    NVDIMM is a shared file and so is not in it, the guest's RAM is.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path = f'/proc/{pid}/status'
        self.before = self.peak = self.now()
        self.over = threading.Event()

    def now(self):
        with open(self.path, encoding='ascii') as f:
            return int(re.search(r'^RssAnon:\s+(\d+) kB', f.read(), re.M)[1]) \
                << 10

    def run(self):
        while not self.over.wait(0.002):
            self.peak = max(self.peak, self.now())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join()
        if not any(exc):
            self.peak = max(self.peak, self.now())

    @property
    def grown(self):
        return self.peak - self.before


def same_content(a, b):
    """Whether two files are equal; holes are read as what they are."""
    chunk = 4 << 20
    if os.path.getsize(a) != os.path.getsize(b):
        return False
    with open(a, 'rb') as f, open(b, 'rb') as g:
        while True:
            x, y = f.read(chunk), g.read(chunk)
            if x != y:
                return False
            if not x:
                return True


def captures(work, adopt, name, epoch, count, staging=STAGING, size=None,
             stride=1):
    """
    `count` epochs of `epoch` bytes each by a vCPU that stores to each page (to
    each `stride`th one) and flushes: what query-pmem-ha says in the end, the
    anonymous memory of both programs, and whether the replica has all.
    """
    size = size or epoch * stride
    r = adopt(Replica(work, f'{name}-rep', size=size,
                      image=f'{name}-rep.img')).start()
    work.sparse(f'{name}.img', size)
    pages = epoch // PAGE
    g = adopt(BareMetal(work, f'workload=records cpus=1 pages={pages} words=1 '
                        f'area={pages} stride={stride} records={count}',
                        name=name, memory=MEMORY))
    g.add('-object', r.object('r0'), '-S')
    g.pmem_file(f'{name}.img', size, device='pmem-ha',
                props=f'replica=r0,state-file={name}.state,'
                      f'staging-size={staging}')
    g.start()
    g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync', SLOWEST)
    with Anonymous(g.pid) as qemu, Anonymous(r.pid) as replica:
        g.qmp.cmd('cont')
        g.out.wait_for('^END', SLOWEST * max(count // 4, 1))
    acks = g.acks()
    info = g.qmp.cmd('query-pmem-ha')[0]
    g.kill()
    image = r.qmp.cmd('pmem-replica-promote', timeout=SLOWEST)['mem-path']
    equal = same_content(work.path(f'{name}.img'), work.path(image))
    r.kill()
    for leftover in os.listdir(work.dir):
        if leftover.endswith(('.img', '.img.journal')):
            os.unlink(work.path(leftover))      # gigabytes
    return {'epoch-bytes': epoch, 'acks': acks, 'replica-equal': equal,
            **{key: info[key] for key in
               ('flushes', 'capture-us', 'flush-latency-us', 'reconnects',
                'wire-bytes')},
            'qemu-anonymous': [qemu.before, qemu.peak],
            'replica-anonymous': [replica.before, replica.peak]}
