#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
A domain with pmem-ha under a real libvirtd.

The daemon runs in PID, network, UTS and mount namespaces of its own, with
files in the work directory over those of the system: it sees no domain of
this host, and all that it started ends with it, because the kernel kills what
is in a PID namespace whose first process is gone.
"""

import json
import os
import shutil
import subprocess
import time
from xml.sax.saxutils import escape

from pmemha import ROOT, TestCase, main, program, scaled, skip_unless

XML = os.path.join(ROOT, 'tests', 'functional', 'data', 'pmem-ha-domain.xml')
SIZE = 256 << 20
# Directory of the domain's files as QEMU sees it
INSIDE = '/run/pmem-ha'

# Laid over the system's: (directory of the work directory, path)
PRIVATE = [('run', '/run'), ('etc', '/etc/libvirt'),
           ('lib', '/var/lib/libvirt'), ('cache', '/var/cache/libvirt'),
           ('log', '/var/log/libvirt')]

DAEMON_CONF = '''
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:file:/run/libvirtd.log"
'''

# No cgroup, security module or namespace of its own: a container, as CI is,
# often grants none of them.
QEMU_CONF = '''
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
'''

INSTALL = ('no libvirtd: install libvirt-daemon, '
           'libvirt-daemon-driver-qemu and libvirt-clients')


def have_libvirt():
    return all(shutil.which(p, path=os.environ.get('PATH', '') + ':/usr/sbin')
               for p in ('libvirtd', 'virsh', 'unshare'))


def may_unshare():
    """Containers may forbid it even to root."""
    return subprocess.run(
        ['unshare', '--fork', '--pid', '--mount-proc', '--net', '--uts',
         '--mount', 'true'], capture_output=True, check=False).returncode == 0


class Libvirt(TestCase):

    timeout = 58

    def prepare(self):
        """The files that libvirtd gets to see"""
        for name, path in PRIVATE:
            os.mkdir(self.work.path(name))
            if not os.path.isdir(path):
                # A mount needs it; Debian's libvirt-daemon-system has it.
                os.makedirs(path)
                self.addCleanup(os.rmdir, path)
        os.mkdir(self.work.path('run/libvirt'))
        os.mkdir(self.work.path('run/pmem-ha'))
        self.work.write('etc/libvirtd.conf', DAEMON_CONF)
        self.work.write('etc/qemu.conf', QEMU_CONF)
        # libvirt looks its default user up before it reads what is set.
        lines = {'passwd': 'libvirt-qemu:x:64055:64055::/:/bin/false\n',
                 'group': 'libvirt-qemu:x:64055:\nkvm:x:64056:\n'}
        mounts = [f'mount --bind {n} {p}' for n, p in PRIVATE[1:]]
        for name, line in lines.items():
            with open(f'/etc/{name}', encoding='utf-8') as f:
                self.work.write(name, line + f.read())
            mounts.append(f'mount --bind {name} /etc/{name}')
        # /run is last: the work directory itself may be below it.
        mounts.append('mount --bind run /run')
        # The shell stays, to reap what daemonized: libvirtd takes a zombie
        # for a QEMU that does not end.
        self.work.write('inside.sh', 'set -e\n' + '\n'.join(mounts) +
                        '\nPATH=$PATH:/usr/sbin\nlibvirtd\nexit $?\n')

    def start_daemon(self):
        self.prepare()
        self.daemon = self.process('libvirtd', [
            'unshare', '--fork', '--kill-child=SIGKILL', '--pid',
            '--mount-proc', '--net', '--uts', '--mount',
            '--propagation', 'private', 'sh', 'inside.sh']).start()
        end = time.monotonic() + scaled(20)
        while self.virsh('list', check=False).returncode:
            self.daemon.check_alive()
            self.assertLess(time.monotonic(), end, 'libvirtd does not answer')

    def virsh(self, *args, check=True, timeout=20):
        # A relative path, for a socket's name must be short.
        run = subprocess.run(
            ['virsh', '-q', '-c',
             'qemu+unix:///system?socket=run/libvirt/libvirt-sock', *args],
            cwd=self.work.dir, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=scaled(timeout), check=False)
        if check and run.returncode:
            logs = ''
            for name in ('run/libvirtd.log', 'log/qemu/pmem-ha.log'):
                if os.path.exists(self.work.path(name)):
                    with open(self.work.path(name), errors='replace',
                              encoding='utf-8') as f:
                        logs += f'\n{name}:\n' + ''.join(f.readlines()[-30:])
            self.fail(f'virsh {args}: {run.stderr}{logs}')
        return run

    def qmp(self, command):
        out = self.virsh('qemu-monitor-command', 'pmem-ha',
                         json.dumps({'execute': command})).stdout
        return json.loads(out)['return']

    def domain(self):
        """The XML of the manual, with its placeholders replaced"""
        with open(XML, encoding='utf-8') as f:
            text = f.read()
        for name, value in (('@EMULATOR@', program('QEMU')),
                            ('@DIR@', INSIDE),
                            ('@REPLICA@', f'{INSIDE}/replica.sock')):
            text = text.replace(name, escape(value))
        firmware = os.environ.get('QEMU_FIRMWARE')
        if firmware:
            # A program outside of its build tree has to be told.
            text = text.replace(
                '</qemu:commandline>',
                "  <qemu:arg value='-L'/>\n    <qemu:arg value="
                f"'{escape(firmware)}'/>\n  </qemu:commandline>")
        return self.work.write('domain.xml', text)

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
        self.work.sparse('run/pmem-ha/pmem0.img', SIZE)
        r = self.replica(size=SIZE, listen='addr.type=unix,addr.path='
                                           'run/pmem-ha/replica.sock').start()
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
