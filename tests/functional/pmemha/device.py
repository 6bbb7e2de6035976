# SPDX-License-Identifier: GPL-2.0-or-later
"""
Machines with pmem-ha devices.  Stores and flushes come by the qtest protocol,
so they have no vCPU: a flush starts an epoch and waits for nothing.
"""

from .qemu import Qemu

PMEM_BASE = 0x100000000
HINT = 0xfed50000


class PmemDevices:
    """What a Qemu with a qtest channel `mem` does with pmem-ha devices"""

    def pmem_ha(self, mem_path, size, n=0, replica=None, state=None,
                replica_options='', options=''):
        """Device pm<n>; `replica` is a Replica, or the text of -object."""
        self.add('-object', f'memory-backend-file,id=mem{n},size={size},'
                 f'mem-path={mem_path},share=on')
        device = f'pmem-ha,id=pm{n},memdev=mem{n}'
        if replica:
            text = replica if isinstance(replica, str) else replica.object(
                f'r{n}')
            self.add('-object', text + replica_options)
            device += f',replica=r{n}'
        if state:
            device += f',state-file={state}'
        self.add('-device', device + options)
        return self

    def writeq(self, addr, value):
        self.mem.writeq(addr, value)

    def query(self, name='pm0'):
        for info in self.qmp.cmd('query-pmem-ha'):
            if info['id'] == name:
                return info
        raise KeyError(name)

    def settle(self, name='pm0', timeout=30):
        """Until it is in sync and all that was captured is acknowledged"""
        def done(infos):
            info = next(i for i in infos if i['id'] == name)
            return info['state'] == 'in-sync' and \
                info['epoch-captured'] == info['epoch-acked'] and \
                not info['lag-bytes']
        self.qmp.poll('query-pmem-ha', done, timeout)
        return self.query(name)

    def flush(self, n=0):
        """A flush; on return the replica has acknowledged its epoch."""
        before = self.query(f'pm{n}')['epoch-acked']
        self.writeq(HINT + 64 * n, 1)
        self.qmp.poll('query-pmem-ha', lambda infos: next(
            i for i in infos if i['id'] == f'pm{n}')['epoch-acked'] > before,
            30)

    def wait_state(self, state, name='pm0', timeout=30):
        self.qmp.poll('query-pmem-ha', lambda infos: next(
            i for i in infos if i['id'] == name)['state'] == state, timeout)

    def wait_reconnected(self, times, name='pm0', timeout=30):
        """The link was lost that often, and is in sync again."""
        self.qmp.poll('query-pmem-ha', lambda infos: next(
            i for i in infos if i['id'] == name)['reconnects'] >= times,
            timeout)
        self.wait_state('in-sync', name, timeout)


class PmemMachine(PmemDevices, Qemu):
    """Add devices with pmem_ha(); the first one is at 4 GiB."""

    def __init__(self, work, name='qemu', machine='q35,nvdimm=on', **kw):
        super().__init__(work, name, machine=machine,
                         memory='64M,slots=4,maxmem=4G', **kw)
        self.mem = self.qtest()
        self.add('-S', '-qtest-log', 'none')
