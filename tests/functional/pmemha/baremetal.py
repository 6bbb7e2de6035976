# SPDX-License-Identifier: GPL-2.0-or-later
"""The bare-metal guest: its QEMU, its parameters, its oracle"""

import os
import subprocess
import sys

from .paths import ROOT
from .qemu import Qemu

_DIR = os.path.join(ROOT, 'tests', 'baremetal')
sys.path.insert(0, _DIR)
import oracle  # noqa: E402

HINT = 0xfed50000
HINT_STRIDE = 64
BASE = 0x100000000


def image():
    """Path of the guest, built when a source is newer"""
    run = subprocess.run([os.path.join(_DIR, 'build')], check=True,
                         stdout=subprocess.PIPE, text=True)
    return run.stdout.strip()


class BareMetal(Qemu):
    """
    A QEMU that runs the bare-metal guest.  `cmd` are the guest's parameters
    (tests/baremetal/README.rst); add NVDIMMs with pmem_file() or add().
    Reports arrive at `.out`.
    """

    def __init__(self, work, cmd, name='guest', smp=1,
                 machine='q35,nvdimm=on', memory='64M,slots=4,maxmem=4G',
                 pattern=None, **kw):
        super().__init__(work, name, smp=smp, machine=machine, memory=memory,
                         **kw)
        self.cmd = cmd
        self.params = oracle.Params(cmd, smp)
        self.pattern = pattern
        self.out = self.chardev('out')
        self.add('-bios', image(), '-no-reboot',
                 '-device', 'isa-debugcon,iobase=0xe9,chardev=out',
                 '-device', 'isa-debug-exit,iobase=0xf4,iosize=4',
                 '-fw_cfg', f'name=opt/org.pmem-ha/cmd,string={escape(cmd)}')
        if self.params.workload == 'dma':
            self.pattern = pattern or oracle.make_pattern()
            path = work.write(f'{name}.pattern', self.pattern)
            self.add('-fw_cfg', f'name=opt/org.pmem-ha/pattern,'
                                f'file={escape(path)}')

    def acks(self):
        """What was reported as flushed: {cpu: record}"""
        return oracle.acknowledged(self.out.text_lines())

    def judge(self, images, **kw):
        """Verdict of the oracle on images, for what was reported so far"""
        return oracle.check(self.params, images, self.acks(),
                            pattern=self.pattern, **kw)


def escape(text):
    """A comma in a QEMU option's value is written twice."""
    return text.replace(',', ',,')
