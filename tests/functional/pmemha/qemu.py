# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process: options, QMP, consoles, and its end"""

import os

from .paths import program
from .process import Process
from .qmp import QmpChannel
from .qtest import QtestChannel


class Qemu(Process):
    """
    Options are added with add() before start().  Paths in them may be
    relative: the work directory is QEMU's current directory, which keeps the
    names of sockets short wherever the checkout is.
    """

    def __init__(self, work, name='qemu', machine='q35', accel='tcg', smp=1,
                 memory='128M', binary=None):
        super().__init__(work, name, [
            binary or program('QEMU'), '-nodefaults', '-no-user-config',
            '-display', 'none', '-name', name, '-machine', machine,
            '-accel', accel, '-m', memory, '-smp', str(smp)])
        if os.environ.get('QEMU_FIRMWARE'):
            # A program that runs outside of its build tree needs it.
            self.add('-L', os.environ['QEMU_FIRMWARE'])
        self.qmp, fd = self.pair('qmp', QmpChannel)
        self.add('-chardev', f'socket,id=qmp,fd={fd}',
                 '-mon', 'chardev=qmp,mode=control')

    def add(self, *args):
        self.argv += [str(a) for a in args]
        return self

    def chardev(self, name):
        """A chardev of that id; the channel at its other end"""
        channel, fd = self.pair(name)
        self.add('-chardev', f'socket,id={name},fd={fd}')
        return channel

    def serial(self, name='serial'):
        """The next serial port; its channel"""
        channel = self.chardev(name)
        self.add('-serial', f'chardev:{name}')
        return channel

    def qtest(self):
        """A qtest channel; give accel='qtest' too unless vCPUs shall run."""
        channel, fd = self.pair('qtest', QtestChannel)
        self.add('-chardev', f'socket,id=qtest,fd={fd}',
                 '-object', 'qtest,id=qtest0,chardev=qtest,log=none')
        return channel

    def pmem_file(self, name, size, n=0, device='nvdimm', backend='',
                  props=''):
        """A file backend mem<n>, and a device nv<n> on it"""
        self.add('-object', f'memory-backend-file,id=mem{n},mem-path={name},'
                 f'size={size},share=on' + (f',{backend}' if backend else ''))
        self.add('-device', f'{device},id=nv{n},memdev=mem{n}' +
                 (f',{props}' if props else ''))
        return self

    def start(self, negotiate=True):
        super().start()
        if negotiate:
            try:
                self.qmp.negotiate()
            except AssertionError:
                if not self.popen.poll():
                    self.popen.poll()
                self.check_alive()
                raise
        return self

    def hmp(self, line, timeout=10):
        return self.qmp.raw_cmd('human-monitor-command',
                                {'command-line': line}, timeout)

    def quit(self, timeout=20):
        """End in order; the exit status"""
        self.qmp.start_cmd('quit')
        return self.wait(timeout)

    def expect_refusal(self, timeout=20):
        """Start a QEMU that must not come up; what it says about it"""
        super().start()
        status = self.wait(timeout)
        if status != 1:
            raise AssertionError(f'{self.name}: exit status {status}, not 1: '
                                 f'{self.output()}')
        return self.output()
