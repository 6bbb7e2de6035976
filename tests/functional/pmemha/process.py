# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU, the replica daemon and qemu-pmemctl as objects of a test."""
import json
import os
import signal
import socket
import subprocess

from .lines import Lines
from .qmp import Qmp
from .workdir import die_with_parent

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '../../..'))


def program(variable, name):
    return os.environ.get(variable) or os.path.join(ROOT, 'build/bin', name)


def qemu_binary():
    return program('QEMU', 'qemu-system-x86_64')


def firmware_args():
    """Only a QEMU that runs outside of its build tree needs them."""
    path = os.environ.get('QEMU_FIRMWARE')
    return ['-L', path] if path else []


class Process:
    def __init__(self, work, name, argv, stdout=None, env=None, pass_fds=()):
        self.work, self.name, self.argv = work, name, argv
        self.log = work.file(name + '.log')
        with open(self.log, 'ab') as log:
            log.write(('+ %s\n' % ' '.join(argv)).encode())
            log.flush()
            self.popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stdout or log,
                stderr=log, preexec_fn=die_with_parent, pass_fds=pass_fds,
                env=dict(os.environ, **(env or {})))
        work.own(self)

    def alive(self):
        return self.popen.poll() is None

    def wait(self, timeout=30):
        return self.popen.wait(timeout)

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        if self.alive():
            self.popen.kill()
        self.popen.wait(30)

    def terminate(self, timeout=30):
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout)

    def errors(self):
        with open(self.log, errors='replace') as f:
            return ''.join(l for l in f if not l.startswith('+ '))


class Replica(Process):
    """qemu-pmem-replica with exports named pm0, pm1, ...

    address is the value of -object pmem-replica's addr.* options.
    """

    def __init__(self, work, size, name='replica', exports=1, listen=None,
                 extra=(), env=None, wait=True, image='replica%d.img'):
        self.sock = work.file(name + '.sock')
        self.qmp_path = work.file(name + '.qmp')
        self.images = [work.file(image % i) for i in range(exports)]
        for path in (self.sock, self.qmp_path):
            if os.path.exists(path):
                os.unlink(path)
        argv = [program('PMEM_REPLICA', 'qemu-pmem-replica')]
        for i, path in enumerate(self.images):
            argv += ['--export', 'name=pm%d,mem-path=%s,size=%d,journal=%s'
                     % (i, path, size, path + '.journal')]
        argv += ['--listen', listen or 'addr.type=unix,addr.path=' + self.sock,
                 '--chardev', 'socket,id=m,path=%s,server=on,wait=off'
                 % self.qmp_path, '--monitor', 'chardev=m', *extra]
        super().__init__(work, name, argv, stdout=subprocess.PIPE, env=env)
        self.out = Lines(self.popen.stdout, name=name)
        self._qmp = None
        if wait:
            self.out.wait('^ready:', 20)

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.qmp_path, alive=self.alive)
        return self._qmp

    def query(self, name='pm0'):
        for export in self.qmp.cmd('query-pmem-replica'):
            if export['name'] == name:
                return export
        raise KeyError(name)

    def promote(self, **args):
        return self.qmp.cmd('pmem-replica-promote', **args)


def pmemctl(work, *args, check=True):
    """Output of qemu-pmemctl; parsed when --output json is among args."""
    done = subprocess.run([program('PMEMCTL', 'qemu-pmemctl'), *args],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60, check=False)
    text = done.stdout.decode()
    if check and done.returncode:
        raise RuntimeError('qemu-pmemctl %s: %s' % (' '.join(args), text))
    return json.loads(text) if check and 'json' in args else text


class Qemu(Process):
    """qemu-system-x86_64 with a QMP socket and consoles as Lines.

    consoles maps a name to the options that use it: {'dbg': ['-debugcon',
    'chardev:dbg']}; the harness connects to each before the guest runs.
    """

    def __init__(self, work, args, name='qemu', consoles=None, env=None,
                 monitor=True):
        self.consoles, self.raw = {}, {}
        argv = [qemu_binary(), *firmware_args(), '-nodefaults', '-display',
                'none', '-no-user-config', '-accel', 'tcg']
        pairs = {}
        for key, options in (consoles or {}).items():
            ours, theirs = socket.socketpair()
            pairs[key] = (ours, theirs)
            argv += ['-chardev', 'socket,id=%s,fd=%d' % (key, theirs.fileno()),
                     *options]
        self.qmp_path = work.file(name + '.qmp')
        if os.path.exists(self.qmp_path):
            os.unlink(self.qmp_path)
        if monitor:
            argv += ['-qmp', 'unix:%s,server=on,wait=off' % self.qmp_path]
        argv += list(args)
        super().__init__(work, name, argv, env=env,
                         pass_fds=[t.fileno() for _, t in pairs.values()])
        for key, (ours, theirs) in pairs.items():
            theirs.close()
            self.raw[key] = ours
            self.consoles[key] = Lines(ours, work.file('%s-%s.log'
                                                       % (name, key)),
                                       name=key)
        self._qmp = None

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.qmp_path, alive=self.alive)
        return self._qmp

    def send(self, console, text):
        self.raw[console].sendall(text.encode())

    def query(self, name='pm0'):
        for info in self.qmp.cmd('query-pmem-ha'):
            if info['id'] == name:
                return info
        raise KeyError(name)

    def wait_state(self, state, name='pm0', timeout=30):
        """Now in that state, or an event says so."""
        while self.query(name)['state'] != state:
            self.qmp.wait_event('PMEM_HA_STATE', timeout, id=name)


def pmem_args(mem_path, size, index=0, replica=None, state=None, addr=None,
              device='pmem-ha', object_options='', device_options=''):
    """-object and -device of one device, as in docs/system."""
    ident = 'pm%d' % index
    args = ['-object', 'memory-backend-file,id=mem%d,mem-path=%s,size=%d,'
            'share=on' % (index, mem_path, size)]
    dev = '%s,id=%s,memdev=mem%d' % (device, ident, index)
    if replica:
        addr = addr or 'addr.type=unix,addr.path=' + replica.sock
        args += ['-object', 'pmem-replica,id=r%d,%s%s'
                 % (index, addr, object_options)]
        dev += ',replica=r%d' % index
    if state:
        dev += ',state-file=' + state
    return args + ['-device', dev + device_options]
