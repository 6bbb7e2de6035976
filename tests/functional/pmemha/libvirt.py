# SPDX-License-Identifier: GPL-2.0-or-later
"""
libvirtd in PID, mount, network and UTS namespaces of its own.  Its files lie in
a directory of the work directory, over those of the system, so it sees no
domain of this host; and all that it started ends with it, because the kernel
kills what is in a PID namespace whose first process is gone.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from xml.sax.saxutils import escape

from .lines import Channel
from .paths import ROOT, program, scaled
from .process import Process

# Laid over the system's: (directory of the daemon's directory, path)
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


def domain_xml(name, values, args=()):
    """
    The XML tests/functional/data/<name>, which the manual shows, with its
    @PLACEHOLDERS@ replaced and further arguments for QEMU
    """
    with open(os.path.join(ROOT, 'tests', 'functional', 'data', name),
              encoding='utf-8') as f:
        text = f.read()
    for key, value in {'EMULATOR': program('QEMU'), **values}.items():
        text = text.replace(f'@{key}@', escape(value))
    args = list(args)
    if os.environ.get('QEMU_FIRMWARE'):
        # A program outside of its build tree has to be told.
        args += ['-L', os.environ['QEMU_FIRMWARE']]
    quote = {"'": '&apos;'}
    lines = ''.join(f"  <qemu:arg value='{escape(a, quote)}'/>\n  "
                    for a in args)
    return text.replace('</qemu:commandline>', lines + '</qemu:commandline>')


class Libvirtd:
    """
    name: the directory of its files in the work directory, and its host name
    uuid: of the host; two daemons with the same one are one host
    netns: a pmemha.netlab.Namespace, instead of one without a network
    binds: {directory below /run: directory of the work directory} that it
           sees, too
    """

    def __init__(self, test, name='libvirtd', uuid=None, netns=None,
                 binds=None):
        self.test = test
        self.work = test.work
        self.name = name
        self._prepare(uuid, binds or {})
        self.process = Process(self.work, f'{name}-daemon', [
            'unshare', '--fork', '--kill-child=SIGKILL', '--pid',
            '--mount-proc', '--uts', '--mount', '--propagation', 'private',
            *([] if netns else ['--net']), 'sh', f'{name}/inside.sh'])
        if netns:
            netns.put(self.process)
        test.adopt(self.process)

    def path(self, name):
        """That file, from outside"""
        return self.work.path(f'{self.name}/{name}')

    def _write(self, name, data):
        self.work.write(f'{self.name}/{name}', data)

    def _prepare(self, uuid, binds):
        """The files that libvirtd gets to see"""
        os.mkdir(self.work.path(self.name))
        for name, path in PRIVATE:
            os.mkdir(self.path(name))
            if not os.path.isdir(path):
                # A mount needs it; Debian's libvirt-daemon-system has it.
                os.makedirs(path)
                self.test.addCleanup(os.rmdir, path)
        os.mkdir(self.path('run/libvirt'))
        self._write('etc/libvirtd.conf', DAEMON_CONF + (
            f'host_uuid = "{uuid}"\n' if uuid else ''))
        self._write('etc/qemu.conf', QEMU_CONF)
        # libvirt looks its default user up before it reads what is set.
        lines = {'passwd': 'libvirt-qemu:x:64055:64055::/:/bin/false\n',
                 'group': 'libvirt-qemu:x:64055:\nkvm:x:64056:\n'}
        mounts = [f'mount --bind {self.name}/{n} {p}' for n, p in PRIVATE[1:]]
        for name, line in lines.items():
            with open(f'/etc/{name}', encoding='utf-8') as f:
                self._write(name, line + f.read())
            mounts.append(f'mount --bind {self.name}/{name} /etc/{name}')
        for there, here in binds.items():
            os.mkdir(self.path(f'run/{there}'))
            mounts.append(f'mount --bind {here} {self.name}/run/{there}')
        # /run is last: the work directory itself may be below it.
        mounts.append(f'mount --rbind {self.name}/run /run')
        # The shell stays, to reap what daemonized: libvirtd takes a zombie
        # for a QEMU that does not end.
        self._write('inside.sh', '\n'.join([
            'set -e', f'hostname {self.name}', *mounts,
            'PATH=$PATH:/usr/sbin', 'libvirtd', 'exit $?', '']))

    def start(self):
        self.process.start()
        end = time.monotonic() + scaled(20)
        while self.virsh('list', check=False).returncode:
            self.process.check_alive()
            self.test.assertLess(time.monotonic(), end,
                                 'libvirtd does not answer')
        return self

    def socket(self):
        """Its socket: a relative path, for a socket's name must be short"""
        return f'{self.name}/run/libvirt/libvirt-sock'

    def uri(self, path=None):
        return f'qemu+unix:///system?socket={path or self.socket()}'

    def command(self, *args):
        return ['virsh', '-q', '-c', self.uri(), *args]

    def virsh(self, *args, check=True, timeout=20):
        run = subprocess.run(self.command(*args), cwd=self.work.dir,
                             stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=scaled(timeout), check=False)
        if check and run.returncode:
            self.test.fail(f'virsh {args}: {run.stderr}{self.logs()}')
        return run

    def logs(self):
        """The ends of what it and its QEMUs had to say"""
        text = ''
        names = ['run/libvirtd.log']
        if os.path.isdir(self.path('log/qemu')):
            names += [f'log/qemu/{n}'
                      for n in sorted(os.listdir(self.path('log/qemu')))]
        for name in names:
            if os.path.exists(self.path(name)):
                with open(self.path(name), errors='replace',
                          encoding='utf-8') as f:
                    text += f'\n{self.name}/{name}:\n' + \
                        ''.join(f.readlines()[-30:])
        return text

    def qmp(self, domain, command, **arguments):
        out = self.virsh('qemu-monitor-command', domain, json.dumps(
            {'execute': command, 'arguments': arguments})).stdout
        reply = json.loads(out)
        self.test.assertIn('return', reply)
        return reply['return']

    def job(self, domain, *args):
        """What domjobinfo says about memory and times: {name: number}"""
        run = self.virsh('domjobinfo', domain, '--rawstats', *args,
                         check=False)
        found = {}
        for line in run.stdout.splitlines():
            name, _, value = line.strip().partition(': ')
            if value.lstrip('-').isdigit():
                found[name] = int(value)
        return found


class Listener:
    """A socket below a daemon's /run that its QEMUs connect to"""

    def __init__(self, daemon, name):
        self.daemon = daemon
        self.name = name
        self.inside = f'/run/{name}'
        self.count = 0
        self.sock = socket.socket(socket.AF_UNIX)
        daemon.test.addCleanup(self.sock.close)
        self.sock.bind(os.path.relpath(daemon.path(f'run/{name}')))
        self.sock.listen()

    def args(self):
        """Of a QEMU, which has it as a chardev of that name"""
        return ['-chardev', f'socket,id={self.name},path={self.inside}']

    def accept(self):
        """The channel of the QEMU that connected last"""
        self.sock.settimeout(scaled(20))
        sock, _ = self.sock.accept()
        self.sock.settimeout(0)
        try:
            # Those before it are of domains that did not come to life.
            while True:
                newer, _ = self.sock.accept()
                sock.close()
                sock = newer
        except BlockingIOError:
            pass
        sock.settimeout(None)
        self.count += 1
        name = f'{self.daemon.name}-{self.name}{self.count}'
        return Channel(sock, name, self.daemon.work.path(f'{name}.log'))
