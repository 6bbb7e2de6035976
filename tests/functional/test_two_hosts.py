#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The README's recipe, 'By hand, on two hosts', with both hosts on loopback:
mutually authenticated TLS, the death of A, promotion on B, and the way back.

The commands are those of the README.  Only what one machine must change is
changed: names of hosts, ports, paths, and the size of memory.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess

from pmemha import ROOT, TestCase, main, program, scaled
from pmemha.baremetal import BareMetal, oracle
from pmemha.qmp import QmpChannel

SIZE = 8 << 20
CPUS = 2
AREAS = CPUS * 16 * 4096            # what the guest stores to
CMD = 'workload=records seed=1'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Recipe:
    """The commands of the README's section, by program"""

    def __init__(self):
        with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as f:
            text = f.read()
        section = text.split('## By hand, on two hosts\n')[1]
        block = re.search('```\n(.*?)```', section, re.S)[1]
        self.commands = []
        for line in block.replace('\\\n', ' ').splitlines():
            m = re.search(r'\b([AB])\$ (.*)', line)
            if m:
                self.commands.append((m[1], shlex.split(m[2], comments=True)))

    def find(self, host, name, n=0):
        """The words of the n-th such command, after the program's name"""
        found = [words[1:] for where, words in self.commands
                 if where == host and words[0] == name]
        return found[n]


def options(words, *names):
    """Those of a QEMU's options that describe the device, in order"""
    found = []
    for name, value in zip(words, words[1:]):
        if name in names:
            found += [name, value]
    return found


class Host:
    """A place with files of its own; what is reached by TCP is a port"""

    def __init__(self, work, name):
        self.work = work
        self.name = name
        self.port = None
        self.round = 0
        os.mkdir(work.path(name))
        shutil.copytree(work.path('pki'), work.path(f'{name}/pki'))

    def translate(self, words, peer=None):
        """The README's words for this host"""
        r, a = (f'{self.name}/{name}{self.round}' for name in 'ra')
        changes = (('/etc/pki/qemu', f'{self.name}/pki'),
                   ('/pmem/a.img', f'{a}.img'),
                   ('/var/lib/a.state', f'{a}.state'),
                   ('/pmem/r.img', f'{r}.img'),
                   ('/ssd/r.journal', f'{r}.journal'),
                   ('/run/r.qmp', f'{r}.qmp'),
                   ('size=8G', f'size={SIZE}'),
                   ('addr.host=0.0.0.0', 'addr.host=127.0.0.1'),
                   ('addr.host=A', 'addr.host=localhost'),
                   ('addr.host=B', 'addr.host=localhost'),
                   ('addr.port=7000', f'addr.port={(peer or self).port}'))
        result = []
        for word in words:
            for old, new in changes:
                word = word.replace(old, new)
            result.append(word)
        return result

    def destroy(self):
        shutil.rmtree(self.work.path(self.name))


class TwoHosts(TestCase):

    timeout = 180

    def setUp(self):
        self.recipe = Recipe()
        os.mkdir(self.work.path('pki'))
        self.certificates('pki')
        self.a = Host(self.work, 'a')
        self.b = Host(self.work, 'b')

    # certificates

    def certtool(self, template, *args):
        path = self.work.write('template', '\n'.join(template) + '\n')
        subprocess.run(['certtool', '--template', path, *args],
                       cwd=self.work.dir, check=True, capture_output=True,
                       timeout=scaled(60))

    def key(self, path):
        subprocess.run(['certtool', '--generate-privkey', '--key-type=ecdsa',
                        '--outfile', path], cwd=self.work.dir, check=True,
                       capture_output=True, timeout=scaled(60))

    def certificates(self, where):
        """A CA of its own, and what each side shows the other"""
        self.key(f'{where}/ca-key.pem')
        self.certtool(['cn = ca', 'ca', 'cert_signing_key',
                       'expiration_days = 2'], '--generate-self-signed',
                      '--load-privkey', f'{where}/ca-key.pem',
                      '--outfile', f'{where}/ca-cert.pem')
        for side, lines in (
                ('server', ['cn = localhost', 'dns_name = localhost',
                            'ip_address = 127.0.0.1', 'tls_www_server']),
                ('client', ['cn = host-a', 'tls_www_client'])):
            self.key(f'{where}/{side}-key.pem')
            self.certtool([*lines, 'signing_key', 'expiration_days = 2'],
                          '--generate-certificate',
                          '--load-privkey', f'{where}/{side}-key.pem',
                          '--load-ca-certificate', f'{where}/ca-cert.pem',
                          '--load-ca-privkey', f'{where}/ca-key.pem',
                          '--outfile', f'{where}/{side}-cert.pem')
        os.unlink(self.work.path(f'{where}/ca-key.pem'))

    # the commands

    def daemon(self, host, change=lambda words: words, start=True):
        """qemu-pmem-replica, as the README starts it on B"""
        host.port = free_port()
        words = change(host.translate(self.recipe.find('B',
                                                       'qemu-pmem-replica')))
        d = self.process(f'daemon-{host.name}',
                         [program('PMEM_REPLICA'), *words])
        # It answers once it listens.
        d.qmp, fd = d.pair('qmp', QmpChannel)
        d.argv += ['--chardev', f'socket,id=harness,fd={fd}',
                   '--monitor', 'chardev=harness']
        d.start()
        if start:
            d.qmp.negotiate()
        return d

    def guest(self, name, cmd, *args):
        return self.adopt(BareMetal(self.work, cmd, name=name, smp=CPUS)) \
            .add(*args)

    def primary(self, name='first', change=lambda words: words):
        """The README's guest on A"""
        words = options(self.recipe.find('A', 'qemu-system-x86_64'),
                        '-object', '-device')
        return self.guest(name, CMD, *change(self.a.translate(words, self.b)))

    def promote(self, host):
        """qemu-pmemctl promote: what its last line gives QEMU"""
        words = host.translate(self.recipe.find('B', 'qemu-pmemctl'))
        run = subprocess.run([program('PMEMCTL'), *words], cwd=self.work.dir,
                             stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=scaled(60), check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        return shlex.split(run.stdout.splitlines()[-1])

    def mirrored(self, that_line):
        """The options of the way back, from B to A, with a replica again"""
        first = options(self.recipe.find('A', 'qemu-system-x86_64'), '-object')
        again = self.recipe.find('B', 'qemu-system-x86_64', 1)
        self.assertEqual(again[-2:], ['THAT', 'LINE,replica=r0'])
        self.assertIn('addr.host=A', ' '.join(options(again, '-object')))
        # '...' of the README: as in the command for A
        both = [w for pair in zip(first[::2], first[1::2])
                if not pair[1].startswith('memory-backend') for w in pair]
        return (self.b.translate(both, self.a) + that_line[:-1] +
                [that_line[-1] + ',replica=r0'])

    def image(self, that_line):
        """(path, size) of the backend that was printed"""
        m = re.search(r'mem-path=([^,]*),size=(\d+)', ' '.join(that_line))
        return self.work.path(m[1]), int(m[2])

    def judge(self, g, that_line):
        """The oracle on the promoted image; the stores of each CPU"""
        path, size = self.image(that_line)
        self.assertEqual(size, SIZE)
        verdict = g.judge([path])
        self.assertTrue(verdict.ok, f'{g.name}: {verdict}')
        return [int(verdict.state[c].split()[0]) for c in range(CPUS)]

    def write_some(self, g, records=40):
        for cpu in range(CPUS):
            g.out.wait_seen(rf'^A {cpu} {records}$', 60)

    def reads(self, name, that_line):
        """A guest with the printed device sees what is in the image."""
        with open(self.image(that_line)[0], 'rb') as f:
            content = f.read(AREAS)
        g = self.guest(name, f'workload=sum length={AREAS}',
                       *that_line).start()
        self.assertEqual(g.out.wait_for('^SUM (.*)', 60)[1],
                         f'{oracle.guest_sum(content):x}')
        self.assertEqual(g.quit(), 0)

    # tests

    def test_there_and_back(self):
        """A dies, B goes on, A is mirrored to, B ends, A goes on."""
        on_b = self.daemon(self.b)
        first = self.primary().start()
        self.write_some(first)
        first.kill()
        self.a.destroy()
        line = self.promote(self.b)
        stores = self.judge(first, line)
        self.diag(f'A died after {sum(first.acks().values())} records')
        on_b.kill()

        # B$ qemu-system-x86_64 ... THAT LINE
        self.assertEqual(self.recipe.find('B', 'qemu-system-x86_64')[-2:],
                         ['THAT', 'LINE'])
        self.reads('second', line)

        # A is back, with nothing of what it had.
        self.a = Host(self.work, 'a')
        self.a.round = 1
        self.daemon(self.a)
        again = self.guest('again', f'{CMD} first=' +
                           ','.join(map(str, stores)),
                           *self.mirrored(line)).start()
        more = max(first.acks().values()) + 40
        self.write_some(again, more)
        self.assertEqual(again.quit(), 0)
        with open(self.image(line)[0], 'rb') as f:
            content = f.read()
        self.b.destroy()
        line = self.promote(self.a)
        with open(self.image(line)[0], 'rb') as f:
            self.assertEqual(content, f.read(), 'after an orderly end')
        self.judge(again, line)
        self.reads('third', line)
        self.diag(f'{sum(again.acks().values())} records in three hosts')

    def refused(self, g):
        """It does not start; what it says names replica and timeout."""
        g.argv = [re.sub(r'^(pmem-replica,.*)', r'\1,connect-timeout-ms=1500',
                         w) for w in g.argv]
        said = g.expect_refusal()
        self.assertIn(f'localhost:{self.b.port}', said)
        self.assertIn('connect-timeout-ms=1500', said)
        return said

    def no_image(self, d):
        """What was refused left nothing with the replica."""
        info = d.qmp.cmd('query-pmem-replica')[0]
        self.assertNotIn('uuid', info)
        self.assertEqual(info['state'], 'empty')

    def test_other_ca(self):
        """The client's certificate is of a CA that B does not know."""
        d = self.daemon(self.b)
        os.mkdir(self.work.path('other'))
        self.certificates('other')
        for name in ('client-cert.pem', 'client-key.pem'):
            shutil.copy(self.work.path(f'other/{name}'),
                        self.work.path(f'a/pki/{name}'))
        # A's own check would stop it before B sees it.
        self.assertIn('TLS', self.refused(self.primary(change=lambda words: [
            w.replace('endpoint=client', 'endpoint=client,sanity-check=off')
            for w in words])))
        self.no_image(d)
        self.assertRegex(d.output(), 'connection from tcp:.*issuer')

    def test_server_of_other_ca(self):
        """A does not talk to whoever has taken B's address."""
        os.mkdir(self.work.path('other'))
        self.certificates('other')
        shutil.rmtree(self.work.path('b/pki'))
        shutil.copytree(self.work.path('other'), self.work.path('b/pki'))
        d = self.daemon(self.b)
        self.assertIn('certificate', self.refused(self.primary()).lower())
        self.no_image(d)

    def authz(self, identity):
        """The daemon's words, with the names that it lets in"""
        def change(words):
            at = words.index('--listen')
            words[at + 1] += ',tls-authz=az0'
            return words[:at] + ['--object', 'authz-simple,id=az0,identity=' +
                                 identity] + words[at:]
        return change

    def test_authz(self):
        """tls-authz: the right name gets in, another one does not."""
        d = self.daemon(self.b, self.authz('CN=host-x'))
        self.assertIn('TLS', self.refused(self.primary('wrong')))
        self.no_image(d)
        self.assertRegex(d.output(), 'connection from tcp:.*CN=host-a')
        d.kill()
        self.b.round += 1
        self.daemon(self.b, self.authz('CN=host-a'))
        g = self.primary('right').start()
        self.write_some(g, 1)
        g.kill()
        self.judge(g, self.promote(self.b))

    def refused_daemon(self, *texts, **kw):
        d = self.daemon(self.b, start=False, **kw)
        self.assertEqual(d.wait(20), 1)
        for text in texts:
            self.assertIn(text, d.output())

    def test_plaintext_beyond_loopback(self):
        """Refused, and both remedies are named."""
        def plain(words):
            at = words.index('--object')
            return [w.replace('127.0.0.1', '0.0.0.0')
                    .replace(',tls-creds=tls0', '')
                    for w in words[:at] + words[at + 2:]]

        self.refused_daemon('0.0.0.0', 'tls-creds', '--allow-plaintext',
                            change=plain)

    def test_port_in_use(self):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            s.listen()
            port = s.getsockname()[1]
            self.refused_daemon(
                f'addr.port={port}', 'in use', change=lambda words: [
                    re.sub(r'addr\.port=\d+', f'addr.port={port}', w)
                    for w in words])


if __name__ == '__main__':
    main()
