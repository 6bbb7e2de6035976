# SPDX-License-Identifier: GPL-2.0-or-later
"""
Network namespaces with links of a given rate between them.  A namespace lives
as long as its holder, a child of the harness: nothing is left behind.
"""

import subprocess

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
                       stdin=subprocess.DEVNULL)

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


class Link:
    """A pair of interfaces; `rate` (bits per second, 0: none) of each end"""

    def __init__(self, name, n, one, other, rate):
        self.name, self.one, self.rate = name, one, rate
        one.run('ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name',
                name, 'netns', str(other.holder.pid))
        self.addresses = []
        for end, ns in enumerate((one, other), 1):
            address = f'10.77.{n}.{end}'
            self.addresses.append(address)
            ns.run('ip', 'address', 'add', f'{address}/30', 'dev', name)
            ns.run('ip', 'link', 'set', name, 'up')
            if rate:
                ns.run('tc', 'qdisc', 'add', 'dev', name, 'root', 'tbf',
                       'rate', f'{rate}bit', 'burst', str(BURST),
                       'latency', LATENCY)

    def bytes(self):
        """Both directions together"""
        return sum(self.one.counters(self.name))
