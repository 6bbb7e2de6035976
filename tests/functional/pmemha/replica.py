# SPDX-License-Identifier: GPL-2.0-or-later
"""A replica daemon and the control program"""

import json
import os
import subprocess

from .paths import program, scaled
from .process import Process
from .qmp import QmpChannel


class Replica(Process):
    """
    qemu-pmem-replica with one export on a Unix socket, <name>.sock in the
    work directory.  `address` is what -object pmem-replica wants to reach it.
    """

    def __init__(self, work, name='replica', export='pm0', image='replica.img',
                 size='8M', journal=None, listen=None, args=(), props='',
                 binary=None):
        self.export = export
        self.image = image
        self.journal = journal or f'{image}.journal'
        self.socket = f'{name}.sock'
        self.ctl_socket = f'{name}-ctl.sock'
        self.address = listen or f'addr.type=unix,addr.path={self.socket}'
        super().__init__(work, name, [
            binary or program('PMEM_REPLICA'),
            '--export', f'name={export},mem-path={image},size={size},'
                        f'journal={self.journal}{props}',
            '--listen', self.address, *args])
        self.qmp, fd = self.pair('qmp', QmpChannel)
        self.argv += ['--chardev', f'socket,id=qmp,fd={fd}',
                      '--monitor', 'chardev=qmp']
        # qemu-pmemctl makes a connection of its own
        self.argv += ['--chardev', f'socket,id=ctl,path={self.ctl_socket},'
                                   'server=on,wait=off',
                      '--monitor', 'chardev=ctl']

    def start(self, negotiate=True):
        for s in (self.socket, self.ctl_socket):
            path = self.work.path(s)
            if os.path.exists(path):
                os.unlink(path)         # left by one that was killed
        super().start()
        if negotiate:
            try:
                self.qmp.negotiate()
            except AssertionError:
                self.check_alive()
                raise
        return self

    def object(self, ident='r0', extra=''):
        """The -object that connects a QEMU to this daemon"""
        return (f'pmem-replica,id={ident},{self.address},'
                f'export={self.export}' + (f',{extra}' if extra else ''))

    def ctl(self, command, *args, timeout=20, check=True):
        return pmemctl(self.work, self.ctl_socket, command, *args,
                       timeout=timeout, check=check)


def pmemctl(work, socket, command, *args, timeout=20, check=True):
    """
    Run qemu-pmemctl with JSON output: the decoded answer; with check=False
    (exit status, answer or None, what it said on stderr).
    """
    run = subprocess.run(
        [program('PMEMCTL'), command, '--socket', socket, '--output', 'json',
         *args], cwd=work.dir, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=scaled(timeout), check=False)
    answer = None
    if run.stdout.strip():
        try:
            answer = json.loads(run.stdout)
        except ValueError:
            answer = run.stdout
    if not check:
        return run.returncode, answer, run.stderr
    if run.returncode:
        raise AssertionError(f'qemu-pmemctl {command}: exit status '
                             f'{run.returncode}: {run.stderr}')
    return answer
