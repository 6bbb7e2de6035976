#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
All of it together: QEMU with numa-sched in mode auto runs a guest of its own in a
Linux guest that is a host with two nodes.
"""

import itertools
import json
import os
import re
import subprocess
import unittest

from pmemha import TestCase, main, skip_unless
from pmemha.disks import until
from pmemha.linux import LinuxGuest, guest_dir
from pmemha.numaguest import cpio_file
from pmemha.numakernel import MODULES, NoKernel, debian_kernel
from pmemha.paths import program, scaled
from test_numa_sched import spinning, writing

MIB = 1 << 20
PAGES = 64 * MIB // 4096        # of the inner guest


def setUpModule():
    guest_dir()                 # not within the time of a test


def libraries(path):
    """Paths of the shared objects that it needs, and the loader's"""
    out = subprocess.run(['ldd', path], check=True, stdout=subprocess.PIPE,
                         text=True).stdout
    return re.findall(r'(/\S+) \(0x', out)


def archive(work):
    """With our programs and what they need below /q, and firmware that spins, or
    writes"""
    parts = [cpio_file('q', None), cpio_file('q/spin.bin', spinning()),
             cpio_file('q/write.bin', writing())]
    needed = set()
    for name, path in ('qemu', program('QEMU')), ('plan', program('NUMA_PLAN')):
        # Debug information is most of it.
        subprocess.run(['strip', '-o', work.path(name), path], check=True)
        with open(work.path(name), 'rb') as f:
            parts.append(cpio_file(f'q/{name}', f.read()))
        needed.update(libraries(path))
    for path in sorted(needed):
        with open(path, 'rb') as f:
            parts.append(cpio_file('q/' + path.rsplit('/', 1)[1], f.read()))
    return b''.join(parts)


def counting():
    """Firmware that counts up in each of 128 of the guest's pages"""
    image = bytearray(64 * 1024)
    code = bytes.fromhex('b80010'       # mov $0x1000, %ax
                         '8ec0'         # 1: mov %ax, %es
                         '2666ff060000'  # incl %es:0
                         '050001'       # add $0x100, %ax
                         '3d0090'       # cmp $0x9000, %ax
                         '75f0ebeb')    # jne 1b; jmp to the first
    image[0xff00:0xff00 + len(code)] = code
    image[0xfff0:0xfff3] = b'\xe9\x0d\xff'
    return bytes(image)


RUN = 'env LD_LIBRARY_PATH=/q /q/ld-linux-x86-64.so.2 /q/'
SOURCE = re.compile(r'"source": "([a-z]+)"')


class Hosts(TestCase):

    timeout = 240

    def host(self, kernel=None, more=b''):
        g = LinuxGuest(self.work, 'host', memory='1536M', smp=4,
                       machine='q35')
        for n in range(2):
            g.add('-object', f'memory-backend-ram,id=m{n},size=768M',
                  '-numa', f'node,nodeid={n},memdev=m{n},cpus={2 * n}-'
                  f'{2 * n + 1}')
        g.add('-numa', 'dist,src=0,dst=1,val=30')
        at = g.argv.index('-initrd') + 1
        with open(g.argv[at], 'rb') as f:
            data = f.read()
        data += bytes(-len(data) % 4) + archive(self.work) + more
        g.argv[at] = self.work.write('host.initramfs', data)
        if kernel:
            g.argv[g.argv.index('-kernel') + 1] = kernel
        return self.adopt(g).boot()

    def wait_for_pages(self, g, pid, node):
        """Until all pages of the inner guest are there"""
        until(lambda: self.pages(g, pid).get(node, 0) >= PAGES,
              f'memory of the inner guest on node {node}', 90)

    def pages(self, g, pid):
        """{node: pages} of the inner guest's memory"""
        found = {}
        for line in g.sh(f'grep anon= /proc/{pid}/numa_maps'):
            words = dict(re.findall(r'(\S+?)=(\d+)', line))
            if int(words.get('anon', 0)) >= PAGES // 2:
                for n in range(2):
                    found[n] = found.get(n, 0) + int(words.get(f'N{n}', 0))
        return found


class Whole(Hosts):

    def measured_alone(self, g):
        """qemu-numa-plan measures, or says why not; then --latency takes it."""
        status, *lines = g.sh(f'{RUN}plan --measure > /tmp/ns 2> /tmp/why; '
                              'echo $?; cat /tmp/ns /tmp/why')
        for line in lines:
            self.diag(line)
        if status == '0':
            pairs = [line.split()[:2] for line in lines if line[0] != '#']
            self.assertEqual(sorted(pairs), [['0', '0'], ['0', '1'],
                                             ['1', '0'], ['1', '1']])
            shown = g.sh(f'{RUN}plan --latency /tmp/ns --output json')
            self.assertEqual(set(SOURCE.findall('\n'.join(shown))),
                             {'operator'})
        else:
            self.assertEqual(status, '1')
            self.assertRegex(lines[0], '--measure: (all memory|memory of|from '
                             'node|node|it takes|caches of|twice|[0-9]+ pages)')

    def measured_by_object(self, g):
        """Beside a guest that spins: the source, or the reason, is shown."""
        g.sh('mkfifo /tmp/qmp; (sleep 1000 > /tmp/qmp &)')
        g.sh(f'({RUN}qemu -L /q -M pc -accel tcg -m 64M -nodefaults '
             '-display none -bios /q/spin.bin -pidfile /tmp/pid1 '
             '-object numa-sched,id=ns0,interval-ms=500,measure-latency=on '
             '-qmp stdio < /tmp/qmp > /tmp/answers 2>/tmp/warnings &)')
        g.sh("echo '{\"execute\": \"qmp_capabilities\"}' > /tmp/qmp")
        g.sh('while ! grep -q -e \'"source": "measured"\' -e "are not measured"'
             ' /tmp/answers; do '
             "echo '{\"execute\": \"query-numa-sched\"}' > /tmp/qmp; "
             'sleep 0.5; done', timeout=scaled(90))
        last = [t for t in g.sh('cat /tmp/answers; echo') if '"plan"' in t][-1]
        sources = set(SOURCE.findall(last))
        notes = [t for t in g.sh('cat /tmp/warnings; echo')
                 if 'are not measured' in t]
        self.diag(f'the object: {sources} {notes}')
        self.assertEqual(sources, {'slit'} if notes else {'measured'})
        self.assertLessEqual(len(notes), 1)
        g.sh("echo '{\"execute\": \"quit\"}' > /tmp/qmp; pid=$(cat /tmp/pid1); "
             'while [ -e /proc/$pid ]; do sleep 0.2; done')

    def inner(self, g, firmware, options):
        """
        (pid, command) of a guest of the guest.  Its memory comes from node 1,
        then all threads are bound to one CPU of node 0: only memory may move.
        """
        command = (f'{RUN}qemu -L /q -M pc -accel tcg -m 64M -nodefaults '
                   f'-display none -bios /q/{firmware}.bin '
                   '-object memory-backend-ram,id=m0,size=64M,prealloc=on '
                   '-machine memory-backend=m0 -monitor stdio ')
        g.sh('echo 0 > /proc/sys/kernel/numa_balancing; mkfifo /tmp/hmp')
        g.sh(f'(taskset -c 2 {command} -pidfile /tmp/pid -object numa-sched,'
             f'id=ns0,mode=auto,interval-ms=500,runtime-dir=/tmp{options} '
             '< /tmp/hmp > /tmp/out 2>&1 &)')
        # Who holds the other end of the monitor
        g.sh('(sleep 1000 > /tmp/hmp &)')
        pid, = g.sh('while [ ! -s /tmp/pid ]; do sleep 0.2; done; cat /tmp/pid',
                    timeout=scaled(60))
        self.wait_for_pages(g, pid, 1)
        g.sh(f'for t in /proc/{pid}/task/*; do taskset -pc 0 ${{t##*/}}; done')
        return pid, command

    def monitor(self, g, command, said):
        """Say it again and again until the monitor has said that"""
        g.sh(f"while ! grep -q '{said}' /tmp/out; do echo {command} > /tmp/hmp;"
             ' sleep 0.5; done', timeout=scaled(90))

    @skip_unless(lambda: libraries(program('QEMU')), 'QEMU is linked statically')
    def test_migration_while_memory_moves(self):
        """It waits for a migration; the guest arrives as it was."""
        g = self.host()
        # At 1 MiB/s it takes a minute.
        pid, command = self.inner(
            g, 'write', ',estimator=none,max-migrate-bandwidth=1M')
        until(lambda: self.pages(g, pid).get(0, 0) > 100,
              'the first pages on node 0', 90)
        g.sh("echo 'migrate_set_parameter max-bandwidth 100k' > /tmp/hmp; "
             'echo \'migrate -d "exec:cat > /tmp/state"\' > /tmp/hmp')
        self.monitor(g, 'info numa-sched', 'memory: guest to node 0: paused')
        before = self.pages(g, pid)[0]
        self.assertLess(before, PAGES)
        self.monitor(g, 'info migrate', 'tatus: active')
        self.assertEqual(self.pages(g, pid)[0], before)
        g.sh("echo 'migrate_set_parameter max-bandwidth 1g' > /tmp/hmp")
        self.monitor(g, 'info migrate', 'tatus: completed')
        # What arrives is what was there.
        g.sh('mkfifo /tmp/hmp2; (sleep 1000 > /tmp/hmp2 &)')
        g.sh(f'({command} -incoming "exec:cat /tmp/state" -S '
             '< /tmp/hmp2 > /tmp/out2 2>&1 &)')
        g.sh('while ! grep -q "tatus: completed" /tmp/out2; do '
             'echo info migrate > /tmp/hmp2; sleep 0.5; done',
             timeout=scaled(60))
        # Without quotes, it would divide.
        g.sh('echo \'pmemsave 0 67108864 "/tmp/here"\' > /tmp/hmp; '
             'echo \'pmemsave 0 67108864 "/tmp/there"\' > /tmp/hmp2; '
             'for f in here there; do '
             'while ! [ "$(wc -c < /tmp/$f)" = 67108864 ]; do sleep 0.2; done; '
             'done', timeout=scaled(60))
        self.assertEqual(g.sh('cmp /tmp/here /tmp/there && echo same'),
                         ['same'])
        # There was something: the firmware writes to each of 128 pages.
        self.assertEqual(g.sh('dd if=/tmp/there bs=4096 skip=32 count=1 '
                              'status=none | od -An -tx1 -N2'), [' 20 00'])
        # The migration is over: it goes on.
        until(lambda: self.pages(g, pid)[0] > before, 'more pages', 90)
        g.sh('echo quit > /tmp/hmp; echo quit > /tmp/hmp2')

    @skip_unless(lambda: libraries(program('QEMU')), 'QEMU is linked statically')
    def test_memory_follows(self):
        g = self.host()
        self.measured_alone(g)
        self.measured_by_object(g)
        pid, _ = self.inner(g, 'spin', '')
        self.wait_for_pages(g, pid, 0)
        self.monitor(g, 'info numa-sched',
                     'memory: guest to node 0: completed')
        self.assertGreaterEqual(self.pages(g, pid)[0], PAGES)
        # Linux 6.1 has no PAGEMAP_SCAN, and says so once.
        lines = [t for t in g.sh('cat /tmp/out; echo') if '\x1b' not in t]
        notes = [t for t in lines if t.startswith('note: ')]
        self.assertIn("'pagemap-scan' can not be used", notes[0])
        for line in lines[-12:]:
            self.diag(line)
        g.sh('echo quit > /tmp/hmp; '
             f'while [ -e /proc/{pid} ]; do sleep 0.2; done')


class Inner:
    """A guest of the guest, by QMP.  Its memory comes from node 1."""

    def __init__(self, g, numa, *more):
        self.g = g
        self.ids = itertools.count(1)
        g.sh('rm -f /tmp/qmp /tmp/answers /tmp/pid; mkfifo /tmp/qmp; '
             '(sleep 1000 > /tmp/qmp &)')
        g.sh(f'(taskset -c 2-3 {RUN}qemu -L /q -M pc -accel tcg -m 64M '
             '-nodefaults -display none -bios /q/count.bin -object '
             'memory-backend-ram,id=m0,size=64M,prealloc=on -machine '
             'memory-backend=m0 -qmp stdio -pidfile /tmp/pid -object '
             'numa-sched,id=ns0,mode=auto,interval-ms=500,runtime-dir=/tmp,'
             f'{numa} {" ".join(more)} < /tmp/qmp > /tmp/answers '
             '2> /tmp/why &)')
        self.pid, = g.sh('while [ ! -s /tmp/pid ]; do sleep 0.2; done; '
                         'cat /tmp/pid', timeout=scaled(60))
        self.cmd('qmp_capabilities')

    def cmd(self, name, **arguments):
        n = next(self.ids)
        text = json.dumps({'execute': name, 'arguments': arguments, 'id': n})
        lines = self.g.sh(
            f"echo '{text}' > /tmp/qmp; until grep '\"id\": {n}}}' "
            '/tmp/answers; do usleep 50000; done', timeout=scaled(60))
        answer = json.loads(lines[-1])
        assert 'return' in answer, answer
        return answer['return']

    def info(self):
        found = self.cmd('query-numa-sched')
        return found[0] if found else None

    def count(self):
        """What the firmware has counted"""
        text = self.cmd('human-monitor-command',
                        **{'command-line': 'xp /1wx 0x10000'})
        return int(text.split()[1], 16)

    def stopped(self):
        return self.g.sh("grep -c '\"STOP\"' /tmp/answers; true") != ['0']

    def threads(self):
        """{tid: name}"""
        lines = self.g.sh(f'cd /proc/{self.pid}/task; '
                          'for t in *; do echo $t $(cat $t/comm); done')
        return {int(t): name for t, name in (x.split(' ', 1) for x in lines)}

    def vhost(self):
        return {t for t, name in self.threads().items()
                if name == f'vhost-{self.pid}'}

    def bind(self, tid, cpus):
        self.g.sh(f'taskset -pc {cpus} {tid}')

    def allowed(self, tid):
        line, = self.g.sh('grep Cpus_allowed_list '
                          f'/proc/{self.pid}/task/{tid}/status')
        return line.split()[1]

    def quit(self):
        self.cmd('quit')
        self.g.sh(f'while [ -e /proc/{self.pid} ]; do sleep 0.2; done',
                  timeout=scaled(60))


class Newer(Hosts):
    """With the kernel of Debian 13: estimators, and workers of vhost"""

    timeout = 400

    def host(self, kernel=None, more=b''):
        try:
            kernel = debian_kernel()
        except NoKernel as e:
            raise unittest.SkipTest(str(e)) from e
        more += cpio_file('q/count.bin', counting())
        for name in MODULES:
            with open(f'{os.path.dirname(kernel)}/{name}.ko', 'rb') as f:
                more += cpio_file(f'q/{name}.ko', f.read())
        g = super().host(kernel, more)
        g.sh('echo 0 > /proc/sys/kernel/numa_balancing')
        return g

    def follows(self, g, estimator):
        """What is used of the memory follows, and the guest runs meanwhile."""
        vm = Inner(g, f'estimator={estimator}')
        self.assertGreaterEqual(self.pages(g, vm.pid)[1], PAGES)
        for tid in vm.threads():
            vm.bind(tid, 0)         # not the whole node: only memory may move
        seen, last, counts = set(), {}, [vm.count()]

        def over():
            g.sh('sleep 1')         # its looks are slow enough
            info = vm.info()
            counts.append(vm.count())
            if info and 'moving' in info:
                last.update(info['moving'], us=info['microseconds'])
                seen.add((last['state'], info['estimator']))
            return last and last['state'] not in ('waiting', 'running')
        until(over, 'memory to have moved', 150)
        here = self.pages(g, vm.pid)[0]
        self.diag(f'{estimator}: {seen} {here} pages of {PAGES}; {last}; '
                  f'counted {counts}')
        self.assertEqual((last['state'], last['target']), ('completed', 0))
        self.assertIn(('waiting', estimator), seen)
        self.assertGreaterEqual(last['moved'], last['worth'])
        self.assertGreaterEqual(here * 4096, last['moved'])
        # It counted between any two looks.
        self.assertEqual(counts, sorted(set(counts)))
        self.assertFalse(vm.stopped())
        self.assertEqual(vm.cmd('query-status')['status'], 'running')
        vm.quit()
        return here, last['estimator']

    @skip_unless(lambda: libraries(program('QEMU')), 'QEMU is linked statically')
    def test_pagemap_scan(self):
        # 128 pages are used, and no others; what was a large page comes whole.
        here, by = self.follows(self.host(), 'pagemap-scan')
        self.assertEqual(by, 'pagemap-scan')
        self.assertGreaterEqual(here, 128)
        self.assertLess(here, PAGES // 4)

    @skip_unless(lambda: libraries(program('QEMU')), 'QEMU is linked statically')
    def test_damon(self):
        g = self.host()
        # TCG's TLB has to forget, or the CPU sets no accessed bits.
        g.sh('(taskset -c 0 sh -c "while :; do usleep 1000; done" &)')
        kdamonds = '/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds'
        # It draws a page of each region: that it sees 128 of all is chance, and
        # all memory follows when it did not.
        here, by = self.follows(g, 'damon')
        self.assertGreaterEqual(here, 64)
        self.assertIn(by, ('damon', 'none'))
        self.assertEqual(g.sh(f'cat {kdamonds}'), ['0'])

    @skip_unless(lambda: libraries(program('QEMU')), 'QEMU is linked statically')
    def test_vhost_workers(self):
        """They are of the group: they go where its vCPUs go, and back."""
        g = self.host()
        for name in MODULES:
            g.sh(f'insmod /q/{name}.ko')
        # A worker is there as soon as the backend of a card is.
        vm = Inner(g, 'estimator=none', '-netdev', 'tap,id=n0,ifname=tap0,'
                   'script=no,downscript=no,vhost=on', '-device',
                   'virtio-net-pci,netdev=n0,romfile=')
        # Its memory is on node 1; its vCPU goes to node 0.
        [worker] = vm.vhost()
        [vcpu] = [c['thread-id'] for c in vm.cmd('query-cpus-fast')]
        for tid in vm.pid, worker:
            vm.bind(tid, '0-3')
        vm.bind(vcpu, '0-1')
        until(lambda: vm.allowed(worker) != '0-3', 'the worker to be bound', 90)
        cpus = vm.allowed(vcpu)
        self.assertIn(cpus, ('0-1', '2-3'))
        self.assertEqual(vm.allowed(worker), cpus)

        def listed(*tids):
            [group] = vm.info()['groups']
            return {(t['thread-id'], tuple(t['vcpus']), t['bound'])
                    for t in group['threads']} == {
                        (vcpu, (0,), True), *((t, (), True) for t in tids)}
        until(lambda: listed(worker), 'the worker in query-numa-sched', 90)
        # One that comes later
        vm.cmd('netdev_add', type='tap', id='n1', ifname='tap1', script='no',
               downscript='no', vhost=True)
        [second] = vm.vhost() - {worker}
        until(lambda: vm.allowed(second) == cpus, 'another one', 90)
        until(lambda: listed(worker, second), 'both in query-numa-sched', 90)
        self.diag(f'{vm.threads()}: {vcpu}, {worker} and {second} on {cpus}')
        vm.cmd('object-del', id='ns0')
        self.assertEqual([vm.allowed(t) for t in (vcpu, worker, second)],
                         ['0-1', '0-3', '0-3'])
        vm.quit()


if __name__ == '__main__':
    main()
