# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest protocol: memory, ports and the clock of a machine without CPUs"""

import base64

from .lines import Channel


class QtestChannel(Channel):
    def ask(self, request, timeout=10):
        """Send a request; the words of its OK line, without OK"""
        with self.cond:
            self.cursor = len(self.lines)
        self.send(request + '\n')
        m = self.wait_for(r'^(OK|FAIL|ERR)\b ?(.*)', timeout)
        if m[1] != 'OK':
            raise AssertionError(f'qtest: {request}: {m[0]}')
        return m[2].split()

    def _number(self, request):
        return int(self.ask(request)[0], 0)

    def readb(self, addr):
        return self._number(f'readb {addr:#x}')

    def readw(self, addr):
        return self._number(f'readw {addr:#x}')

    def readl(self, addr):
        return self._number(f'readl {addr:#x}')

    def readq(self, addr):
        return self._number(f'readq {addr:#x}')

    def writeb(self, addr, value):
        self.ask(f'writeb {addr:#x} {value:#x}')

    def writew(self, addr, value):
        self.ask(f'writew {addr:#x} {value:#x}')

    def writel(self, addr, value):
        self.ask(f'writel {addr:#x} {value:#x}')

    def writeq(self, addr, value):
        self.ask(f'writeq {addr:#x} {value:#x}')

    def inb(self, port):
        return self._number(f'inb {port:#x}')

    def inw(self, port):
        return self._number(f'inw {port:#x}')

    def inl(self, port):
        return self._number(f'inl {port:#x}')

    def outl(self, port, value):
        self.ask(f'outl {port:#x} {value:#x}')

    def outb(self, port, value):
        self.ask(f'outb {port:#x} {value:#x}')

    def read(self, addr, size):
        return base64.b64decode(self.ask(f'b64read {addr:#x} {size:#x}')[0])

    def write(self, addr, data):
        text = base64.b64encode(data).decode()
        self.ask(f'b64write {addr:#x} {len(data):#x} {text}')

    def memset(self, addr, size, value):
        self.ask(f'memset {addr:#x} {size:#x} {value:#x}')

    def clock_step(self, ns=None):
        """To the next timer, or by ns; the new time"""
        return self._number('clock_step' if ns is None
                            else f'clock_step {ns}')

    def clock_set(self, ns):
        return self._number(f'clock_set {ns}')
