# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with NUMA nodes, as its sysfs has it"""

import os


class Host:
    """A sysfs tree: nodes are (id, CPUs, MiB of memory, distances)"""

    def __init__(self, work, nodes, name='host'):
        self.dir = work.path(name)
        self.sys = os.path.join(self.dir, 'sys/devices/system')
        cpus = sorted(c for _, own, _, _ in nodes for c in own)
        self.put('cpu/online', ','.join(map(str, cpus)))
        self.put('node/online', ','.join(str(n[0]) for n in nodes))
        for c in cpus:
            self.put(f'cpu/cpu{c}/topology/thread_siblings_list', str(c))
        for node, own, mib, distances in nodes:
            self.put(f'node/node{node}/cpulist', ','.join(map(str, own)))
            self.put(f'node/node{node}/distance',
                     ' '.join(map(str, distances)))
            self.put(f'node/node{node}/meminfo',
                     f'Node {node} MemTotal: {mib * 1024} kB\n'
                     f'Node {node} MemFree: {mib * 1024} kB')

    def put(self, name, text):
        path = os.path.join(self.sys, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='ascii') as f:
            f.write(text + '\n')

    def table(self, name, data):
        """A table of the firmware"""
        path = os.path.join(self.dir, 'sys/firmware/acpi/tables')
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, name), 'wb') as f:
            f.write(data)
