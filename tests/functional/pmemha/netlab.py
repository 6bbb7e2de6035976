# SPDX-License-Identifier: GPL-2.0-or-later
"""
Network namespaces with links of a given rate between them.  A namespace lives
as long as its holder, a child of the harness: nothing is left behind.
"""

import subprocess
import sys

from .paths import scaled
from .process import Process

BURST = 1 << 20                 # a segment of GSO has up to 64 KiB
LATENCY = '10ms'


def may_make():
    """Whether this host grants namespaces to us"""
    return subprocess.run(['unshare', '--net', 'true'], check=False,
                          stderr=subprocess.DEVNULL).returncode == 0


def bits(text):
    """Bits per second of '250m', '1g'; 0 of 'unlimited'"""
    if text in ('unlimited', '0'):
        return 0
    unit = {'k': 1000, 'm': 1000 ** 2, 'g': 1000 ** 3}
    return int(float(text[:-1]) * unit[text[-1].lower()])


def rate_name(rate):
    if not rate:
        return 'unlimited'
    return f'{rate / 1e9:g} Gb/s' if rate >= 1e9 else f'{rate / 1e6:g} Mb/s'


class Namespace:
    """A network namespace"""

    def __init__(self, work, name):
        self.name = name
        self.holder = Process(work, f'netns-{name}', ['unshare', '--net'])
        channel, fd = self.holder.pair('held')
        self.holder.argv += ['bash', '-c',
                             f'echo READY >&{fd}; exec cat <&{fd}']
        self.holder.start()
        channel.wait_for('^READY$', 10)
        self.run('ip', 'link', 'set', 'lo', 'up')

    def command(self, *argv):
        """argv of the program in this namespace; its pid is that of argv[0]"""
        return ['nsenter', f'--net=/proc/{self.holder.pid}/ns/net', '--',
                *argv]

    def run(self, *argv):
        subprocess.run(self.command(*argv), check=True,
                       stdin=subprocess.DEVNULL, timeout=scaled(20))

    def put(self, process):
        """A process that was not started yet will run here."""
        process.argv[:0] = self.command()
        return process

    def counters(self, device):
        """(bytes received, bytes sent); what sysfs has in statistics/"""
        with open(f'/proc/{self.holder.pid}/net/dev', encoding='ascii') as f:
            for line in f:
                name, _, rest = line.partition(':')
                if name.strip() == device:
                    fields = rest.split()
                    return int(fields[0]), int(fields[8])
        raise KeyError(f'{self.name} has no interface {device}')

    def kill(self):
        self.holder.kill()


# What a stream of TCP gets from a link, without QEMU: bytes to take, then one
# back when all are there
TAKE = """
import socket, sys
s = socket.create_server((sys.argv[1], 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
buffer, left = bytearray(1 << 20), int(sys.argv[2])
while left:
    n = c.recv_into(buffer)
    left -= n or left
c.sendall(b'x')
"""
GIVE = """
import socket, sys, time
left, data = int(sys.argv[3]), bytes(1 << 20)
started = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as s:
    while left:
        left -= s.send(data[:left])
    s.recv(1)
print(time.monotonic() - started, flush=True)
"""


class Link:
    """A pair of interfaces; `rate` (bits per second, 0: none) of each end"""

    def __init__(self, name, n, one, other, rate):
        self.name, self.one, self.other, self.rate = name, one, other, 0
        one.run('ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name',
                name, 'netns', str(other.holder.pid))
        self.addresses = []
        for end, ns in enumerate((one, other), 1):
            address = f'10.77.{n}.{end}'
            self.addresses.append(address)
            ns.run('ip', 'address', 'add', f'{address}/30', 'dev', name)
            ns.run('ip', 'link', 'set', name, 'up')
        self.set_rate(rate)

    def set_rate(self, rate):
        for ns in (self.one, self.other):
            if rate:
                ns.run('tc', 'qdisc', 'replace', 'dev', self.name, 'root',
                       'tbf', 'rate', f'{rate}bit', 'burst', str(BURST),
                       'latency', LATENCY)
            elif self.rate:
                ns.run('tc', 'qdisc', 'del', 'dev', self.name, 'root')
        self.rate = rate

    def bytes(self):
        """Both directions together"""
        return sum(self.one.counters(self.name))

    def carries(self, work):
        """Bits per second of a second's stream from `one` to `other`"""
        size = min(max(self.rate // 8, 8 << 20), 1 << 30)

        def end(name, namespace, text, *args):
            p = Process(work, f'{self.name}-{name}', [])
            says, fd = p.pair('says')
            p.argv += ['bash', '-c', f'exec "$@" >&{fd}', 'bash',
                       sys.executable, '-c', text, *args]
            namespace.put(p).start()
            return p, says

        taker, says = end('take', self.other, TAKE, self.addresses[1],
                          str(size))
        port = says.wait_for(r'^\d+$', 20)[0]
        giver, says = end('give', self.one, GIVE, self.addresses[1], port,
                          str(size))
        seconds = float(says.wait_for(r'^[\d.]+$', 120)[0])
        giver.kill()
        taker.kill()
        return size * 8 / seconds
