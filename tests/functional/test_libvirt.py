#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain with pmem-ha under a real libvirtd (pmemha.libvirt)."""

import os
import time

from pmemha import TestCase, main, scaled, skip_unless
from pmemha.libvirt import (INSTALL, Libvirtd, domain_xml, have_libvirt,
                            may_unshare)

SIZE = 256 << 20
# Directory of the domain's files, and that as QEMU sees it
FILES = 'libvirtd/run/pmem-ha'
INSIDE = '/run/pmem-ha'


class Libvirt(TestCase):

    timeout = 58

    def start_daemon(self):
        self.daemon = Libvirtd(self)
        os.mkdir(self.work.path(FILES))
        self.daemon.start()
        self.virsh = self.daemon.virsh

    def qmp(self, command):
        return self.daemon.qmp('pmem-ha', command)

    def domain(self):
        """The XML of the manual, with its placeholders replaced"""
        return self.work.write('domain.xml', domain_xml(
            'pmem-ha-domain.xml', {'DIR': INSIDE,
                                   'REPLICA': f'{INSIDE}/replica.sock'}))

    def wait_in_sync(self):
        end = time.monotonic() + scaled(20)
        while True:
            info, = self.qmp('query-pmem-ha')
            if info['state'] == 'in-sync':
                return info
            self.assertLess(time.monotonic(), end, info)

    @skip_unless(lambda: os.getuid() == 0, 'namespaces and mounts need root')
    @skip_unless(have_libvirt, INSTALL)
    @skip_unless(may_unshare, 'this host grants no namespaces')
    def test_domain(self):
        self.start_daemon()
        self.work.sparse(f'{FILES}/pmem0.img', SIZE)
        r = self.replica(size=SIZE, listen='addr.type=unix,addr.path='
                                           f'{FILES}/replica.sock').start()
        self.virsh('create', self.domain(), timeout=40)

        info = self.wait_in_sync()
        self.assertEqual((info['id'], info['role'], info['mode'],
                          info['generation']), ('pm0', 'primary', 'sync', 1))
        self.assertEqual(self.virsh('domstate', 'pmem-ha').stdout.strip(),
                         'running')
        text = self.virsh('qemu-monitor-command', 'pmem-ha', '--hmp',
                          'info pmem-ha').stdout
        self.assertIn('pm0', text)

        # The mirror is handed over to the file, and taken back from it.
        self.virsh('save', 'pmem-ha', INSIDE + '/saved', timeout=40)
        self.assertEqual(self.virsh('list', '--name').stdout.strip(), '')
        self.virsh('restore', INSIDE + '/saved', timeout=40)
        info = self.wait_in_sync()
        self.assertEqual((info['role'], info['generation']), ('primary', 2))
        self.assertEqual(self.virsh('domstate', 'pmem-ha').stdout.strip(),
                         'running')

        self.virsh('destroy', 'pmem-ha')
        self.assertEqual(self.virsh('list', '--name').stdout.strip(), '')
        exports = r.qmp.cmd('query-pmem-replica')
        self.assertEqual(exports[0]['generation'], 2)
        self.diag('libvirt ' + self.virsh('--version').stdout.strip())


if __name__ == '__main__':
    main()
