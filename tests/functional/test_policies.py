#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What the guest notices of its replica: on-link-loss, mode, snapshots, threads
of vCPUs; and what the programs beside it show.
"""

import os
import signal
import subprocess

from pmemha import TestCase, main, program, scaled
from pmemha.baremetal import BASE, HINT, HINT_STRIDE, BareMetal
from pmemha.device import PMEM_BASE
from pmemha.devicetest import PAGE, DeviceTest
from pmemha.devicetest import SIZE as DEVICE_SIZE
from pmemha.replica import pmemctl

SIZE = 8 << 20
HPET = 0xfed00000


class Guest(TestCase):
    """A bare-metal guest with a replica for each of its devices"""

    def guest(self, cmd, props=('',), smp=1, replica_props='', mirrored=True,
              **kw):
        """One device for each of `props`"""
        if len(props) > 1:
            cmd += f' devs={len(props)} base=' + ','.join(
                f'{BASE + SIZE * i:#x}' for i in range(len(props)))
            cmd += ' hint=' + ','.join(f'{HINT + HINT_STRIDE * i:#x}'
                                       for i in range(len(props)))
        if mirrored:
            self.rep = [self.replica(f'rep{i}', export=f'pm{i}', size=SIZE,
                                     image=f'rep{i}.img').start()
                        for i in range(len(props))]
        g = self.adopt(BareMetal(self.work, cmd, smp=smp, **kw))
        self.qtest = g.qtest()
        g.add('-qtest-log', 'none')
        for i, p in enumerate(props):
            if not os.path.exists(self.work.path(f'p{i}.img')):
                self.work.sparse(f'p{i}.img', SIZE)
            g.add('-object', f'memory-backend-file,id=mem{i},size={SIZE},'
                  f'mem-path=p{i}.img,share=on')
            if mirrored:
                g.add('-object', self.rep[i].object(f'r{i}', replica_props))
                p += f',replica=r{i}'
            g.add('-device', f'pmem-ha,id=pm{i},memdev=mem{i},'
                  f'state-file=p{i}.state{p}')
        self.g = g
        return g

    def run_guest(self, *args, **kw):
        """Until each device is in sync"""
        g = self.guest(*args, **kw).start()
        self.wait_info(lambda infos: all(
            i['state'] == 'in-sync' for i in infos))
        return g

    def info(self, n=0):
        return self.g.qmp.cmd('query-pmem-ha')[n]

    def wait_info(self, condition):
        return self.g.qmp.poll('query-pmem-ha', condition, scaled(30))

    def wait_state(self, state, n=0):
        self.wait_info(lambda infos: infos[n]['state'] == state)

    def wait_status(self, status):
        self.g.qmp.poll('query-status', lambda s: s['status'] == status,
                        scaled(20))

    def status(self):
        return self.g.qmp.cmd('query-status')['status']

    def events(self, name):
        return [e.get('data', {}) for e in list(self.g.qmp.events)
                if e['event'] == name]

    def wait_lines(self, regex):
        """A line that the guest has not written yet"""
        with self.g.out.cond:
            self.g.out.cursor = len(self.g.out.lines)
        return self.g.out.wait_for(regex, 30)

    def freeze(self, n=0):
        """On return it is stopped, and answers nothing any more."""
        self.rep[n].signal(signal.SIGSTOP)
        os.waitpid(self.rep[n].pid, os.WUNTRACED)

    def restart(self, n=0):
        old = self.rep[n]
        self.rep[n] = self.replica(old.name, export=old.export, size=SIZE,
                                   image=old.image).start()

    def promote(self):
        """Path of the image"""
        return self.rep[0].qmp.cmd('pmem-replica-promote')['mem-path']

    def stays_paused(self):
        """What would let it go on has happened already."""
        self.assertEqual(self.status(), 'io-error')
        self.g.hmp('info pmem-ha')      # the main loop has gone round
        self.assertEqual(self.status(), 'io-error')
        self.assertEqual(self.events('RESUME'), [])

    def cont(self):
        self.g.qmp.cmd('cont')
        self.g.qmp.wait_event('RESUME', 10)


class Stop(Guest):
    """on-link-loss=stop: an operator decides."""

    PROPS = [',on-link-loss=stop']

    def test_loss_stops_and_only_cont_goes_on(self):
        """No flush waits: it is the loss of the link that counts."""
        g = self.run_guest('workload=idle', self.PROPS)
        g.out.wait_for('^END', 20)
        self.rep[0].kill()
        event = g.qmp.wait_event('PMEM_HA_STATE', 20,
                                 lambda d: d['state'] == 'connecting')
        self.assertEqual(event['data']['id'], 'pm0')
        g.qmp.wait_event('STOP', 20)
        self.assertEqual(self.status(), 'io-error')
        self.restart()
        self.wait_state('in-sync')
        self.stays_paused()
        self.cont()
        self.assertEqual(self.status(), 'running')

    def test_waiting_flush_stops_it_again(self):
        g = self.run_guest('workload=stalltest', self.PROPS)
        self.wait_lines('^T 0')
        self.rep[0].kill()
        g.qmp.wait_event('STOP', 20)
        self.cont()
        g.qmp.wait_event('PMEM_HA_STATE', 20, lambda d: (
            d['id'], d['state']) == ('pm0', 'stalled'))
        g.qmp.wait_event('STOP', 20)
        self.assertEqual(self.status(), 'io-error')
        self.assertEqual(self.info()['flushes-waiting'], 1)
        resumed = len(self.events('RESUME'))
        self.restart()
        self.wait_info(lambda infos: infos[0]['state'] == 'in-sync' and
                       not infos[0]['lag-bytes'])
        self.assertEqual(self.status(), 'io-error')
        self.assertEqual(len(self.events('RESUME')), resumed)
        self.cont()
        self.wait_lines('^T 0')

    def test_cont_before_the_replica_is_back(self):
        """A guest that does not flush goes on without its replica."""
        g = self.run_guest('workload=idle', self.PROPS)
        g.out.wait_for('^END', 20)
        self.rep[0].kill()
        g.qmp.wait_event('STOP', 20)
        self.cont()
        # The next attempts to connect are no losses of a link.
        self.wait_info(lambda infos: 'Failed to connect' in
                       infos[0].get('last-error', ''))
        self.assertEqual(self.status(), 'running')
        self.assertEqual(len(self.events('STOP')), 1)


class Stall(Guest):

    def test_event_names_the_device(self):
        g = self.run_guest('workload=stalltest', ('', ''))
        self.wait_lines('^T 0')
        self.freeze(1)
        event = g.qmp.wait_event('PMEM_HA_STATE', 20, lambda d: (
            d['id'], d['state']) == ('pm1', 'stalled'))
        self.assertIn("a flush waits for replica 'pm1' at unix:rep1.sock",
                      event['data']['reason'])
        g.qmp.wait_event('STOP', 20)
        self.assertEqual(self.status(), 'io-error')
        self.assertEqual(self.info(0)['state'], 'in-sync')
        self.rep[1].signal(signal.SIGCONT)
        g.qmp.wait_event('RESUME', 20)
        self.wait_lines('^T 0')

    def stalled(self):
        """A guest that waits for its replica, which was killed"""
        g = self.run_guest('workload=stalltest')
        self.wait_lines('^T 0')
        self.rep[0].kill()
        g.qmp.wait_event('STOP', 20)
        self.assertEqual(self.info()['state'], 'stalled')
        return g

    def test_stop_meanwhile_is_remembered(self):
        g = self.stalled()
        g.qmp.cmd('stop')
        self.restart()
        self.wait_state('in-sync')
        self.stays_paused()
        self.cont()
        self.wait_lines('^T 0')

    def test_stop_and_cont_meanwhile(self):
        """What counts is the last word: then it goes on by itself."""
        g = self.stalled()
        g.qmp.cmd('stop')
        self.cont()
        g.qmp.wait_event('STOP', 20)    # as the flush still waits
        self.restart()
        g.qmp.wait_event('RESUME', 20)
        self.wait_lines('^T 0')

    def clock(self):
        return self.qtest.readq(HPET + 0xf0)

    def test_clock_of_the_guest_stands(self):
        g = self.run_guest('workload=stalltest', machine='q35,nvdimm=on,'
                           'hpet=on')
        self.qtest.writeq(HPET + 0x10, 1)
        self.wait_lines('^T 0')
        before = self.clock()
        self.assertLess(before, self.clock())
        self.rep[0].kill()
        g.qmp.wait_event('STOP', 20)
        stopped = self.clock()
        self.assertLess(before, stopped)
        # An attempt to connect fails meanwhile: real time passes.
        self.wait_info(lambda infos: 'Failed to connect' in
                       infos[0].get('last-error', ''))
        self.assertEqual(self.clock(), stopped)
        self.restart()
        g.qmp.wait_event('RESUME', 20)
        self.wait_lines('^T 0')
        self.assertLess(stopped, self.clock())


class Mixed(Guest):
    """One device that stops (pm0) and one that stalls (pm1)"""

    PROPS = (',on-link-loss=stop', ',on-link-loss=stall')

    def start(self):
        g = self.run_guest('workload=stalltest', self.PROPS)
        self.wait_lines('^T 0')
        return g

    def check_return(self):
        """Neither replica lets the guest go on, only cont does."""
        for n in (1, 0):
            self.restart(n)
            self.wait_state('in-sync', n)
            self.stays_paused()
        self.cont()
        self.wait_lines('^T 0')
        self.wait_lines('^T 0')         # the other device

    def test_stop_comes_first(self):
        g = self.start()
        self.rep[0].kill()
        g.qmp.wait_event('STOP', 20)
        self.rep[1].kill()
        self.wait_info(lambda infos: infos[1]['state'] != 'in-sync')
        self.check_return()

    def test_stall_comes_first(self):
        g = self.start()
        self.rep[1].kill()
        g.qmp.wait_event('STOP', 20)
        self.assertEqual(self.info(1)['state'], 'stalled')
        self.rep[0].kill()
        self.wait_state('connecting', 0)
        self.check_return()

    def test_stall_alone_goes_on(self):
        g = self.start()
        self.rep[1].kill()
        g.qmp.wait_event('STOP', 20)
        self.restart(1)
        g.qmp.wait_event('RESUME', 20)
        self.wait_lines('^T 0')


class Async(Guest):

    CMD = 'workload=records area=256'           # an MiB

    def silence(self, max_lag):
        """No acknowledgement arrives any more: the state of the device"""
        g = self.run_guest(self.CMD, [f',mode=async,max-lag={max_lag}'],
                           replica_props='link-timeout-ms=600000')
        self.wait_lines('^A 0')
        self.freeze()
        return g

    def test_flush_returns_before_the_acknowledgement(self):
        self.silence(2 * SIZE)
        before = self.info()
        after, = self.wait_info(lambda infos: infos[0]['flushes'] >
                                before['flushes'] + 100)
        self.assertEqual(after['flushes-waiting'], 0)
        self.assertEqual(after['state'], 'lagging')
        self.assertEqual(after['epoch-captured'], after['epoch-acked'] + 1)
        # One acknowledgement may have been on its way.
        self.assertLessEqual(after['epoch-acked'], before['epoch-acked'] + 1)
        self.wait_lines('^A 0')

    def test_flush_beyond_max_lag_waits(self):
        g = self.silence('256K')
        g.qmp.wait_event('PMEM_HA_STATE', 20, lambda d: (
            d['id'], d['state']) == ('pm0', 'stalled'))
        g.qmp.wait_event('STOP', 20)
        held = self.info()
        self.assertEqual(held['flushes-waiting'], 1)
        self.assertEqual(held['epoch-captured'], held['epoch-acked'] + 1)
        self.rep[0].signal(signal.SIGCONT)
        g.qmp.wait_event('RESUME', 20)
        self.wait_lines('^A 0')
        self.assertGreater(self.info()['epoch-acked'], held['epoch-acked'])

    def test_flush_waits_without_a_link(self):
        g = self.guest(self.CMD, [',mode=async'],
                       replica_props='connect-timeout-ms=0')
        self.rep[0].kill()
        g.start()
        g.out.wait_for('^BOOT', 20)
        self.wait_info(lambda infos: infos[0]['flushes-waiting'])
        self.assertEqual(g.out.count('^A'), 0)
        self.restart()
        self.wait_lines('^A 0')


class Threads(Guest):
    """Of vCPUs: one for all, or one for each"""

    def check_progress(self, thread, count):
        self.run_guest('workload=records', smp=2, accel='tcg,thread=' + thread)
        for cpu in (0, 1):
            self.g.out.wait_seen(f'^A {cpu} {count}$', 50)
        self.assertGreaterEqual(self.info()['flush-latency-us']['count'],
                                2 * count)
        self.g.kill()
        verdict = self.g.judge([self.promote()])
        self.assertTrue(verdict.ok, verdict)

    def test_one_thread(self):
        # A hang needed the right order of events: it came after some hundreds.
        self.check_progress('single', 2000)

    def test_thread_for_each(self):
        self.check_progress('multi', 300)

    def test_unplug_of_a_vcpu_that_waits(self):
        """
        Its flush goes with it; that of the other vCPU waits on.  Not with one
        thread: there any unplug hangs, also in QEMU as released.
        """
        g = self.guest('workload=stalltest', smp=2, accel='tcg,thread=multi')
        g.argv[g.argv.index('-smp') + 1] = '1,maxcpus=2,sockets=2'
        g.add('-device', 'qemu64-x86_64-cpu,id=cpu1,socket-id=1,core-id=0,'
              'thread-id=0')
        g.start()
        for cpu in (0, 1):
            g.out.wait_seen(f'^T {cpu} 2$', 30)
        self.freeze()
        self.wait_info(lambda infos: infos[0]['flushes-waiting'] == 2)
        # What the guest's ACPI code does: use the newer registers; choose
        # CPU 1, eject it.
        self.qtest.outb(0xcd8, 0)
        g.qmp.cmd('device_del', id='cpu1')
        self.qtest.outl(0xcd8, 1)
        self.qtest.outb(0xcdc, 8)
        # That of the CPU itself is never sent with TCG, as its object stays.
        g.qmp.wait_event('DEVICE_DELETED', 20, lambda d: d['path'] ==
                         '/machine/peripheral/cpu1/lapic')
        self.wait_info(lambda infos: infos[0]['flushes-waiting'] == 1)
        self.assertEqual(len(g.qmp.cmd('query-cpus-fast')), 1)
        self.rep[0].signal(signal.SIGCONT)
        self.wait_lines('^T 0')
        self.wait_status('running')
        self.assertEqual(g.quit(), 0)


DISK = ['-blockdev', 'qcow2,node-name=disk,file.driver=file,'
        'file.filename=disk.qcow2']


def make_disk(work):
    subprocess.run([program('QEMU_IMG'), 'create', '-q', '-f', 'qcow2',
                    'disk.qcow2', '1G'], cwd=work.dir, check=True,
                   timeout=scaled(20))


class Snapshot(DeviceTest):
    """loadvm is not refused: it counts as a change of all memory."""

    def test_loadvm(self):
        make_disk(self.work)
        q = self.machine('alone', replica=None).add(*DISK).start()
        q.writeq(PMEM_BASE, 1)
        q.writeq(PMEM_BASE + 3 * PAGE, 3)
        self.assertEqual(q.hmp('savevm one', 30), '')
        self.assertEqual(q.quit(), 0)
        q = self.machine().add(*DISK).start()
        q.settle()
        for n in range(8):
            q.writeq(PMEM_BASE + n * PAGE, 0x77)
        q.flush()
        self.assertEqual(q.hmp('loadvm one', 30), '')
        self.assertEqual(q.mem.readq(PMEM_BASE), 1)
        q.flush()
        q.kill()
        memory = self.content('p.img')
        self.assertEqual([memory[n * PAGE] for n in range(5)],
                         [1, 0, 0, 3, 0])
        self.assertTrue(self.promoted() == memory)


class RunningSnapshot(Guest):

    def test_loadvm(self):
        """The guest runs, and goes on where it was when it was saved."""
        make_disk(self.work)
        cmd = 'workload=records'
        g = self.guest(cmd, name='alone', mirrored=False).add(*DISK).start()
        g.out.wait_for('^A 0 50$', 30)
        self.assertEqual(g.hmp('savevm one', 30), '')
        self.assertEqual(g.quit(), 0)
        saved = g.acks()[0]
        g = self.guest(cmd).add(*DISK).start()
        g.out.wait_for(f'^A 0 {saved + 1000}$', 50)
        self.assertEqual(g.hmp('loadvm one', 30), '')
        back = saved + 1000
        while back >= saved + 1000:     # some lines are from before
            back = int(g.out.wait_for('^A 0 ([0-9]+)$', 30)[1])
        self.assertEqual(self.status(), 'running')
        g.out.wait_for(f'^A 0 {back + 50}$', 30)
        # Its end in order takes all that is in memory to the replica.
        self.assertEqual(g.quit(), 0)
        self.assertNotIn('does not have', g.output())
        with open(self.work.path('p0.img'), 'rb') as f:
            memory = f.read()
        with open(self.promote(), 'rb') as f:
            self.assertTrue(f.read() == memory)


class Programs(DeviceTest):

    def text(self, socket, *args):
        return subprocess.run(
            [program('PMEMCTL'), 'status', '--socket', socket, *args],
            cwd=self.work.dir, capture_output=True, text=True,
            timeout=scaled(20), check=False)

    def check_status(self, socket, name, known):
        """`known` is what the command behind it answers."""
        answer, = pmemctl(self.work, socket, 'status')
        self.assertEqual(sorted(answer), sorted(known))
        for key in ('state', 'uuid', 'generation'):
            self.assertEqual(answer[key], known[key], key)
        run = self.text(socket)
        self.assertEqual((run.returncode, run.stderr), (0, ''))
        first, *rest = run.stdout.splitlines()
        self.assertEqual(first, f'{name}: {known["state"]}')
        shown = dict(line.split(None, 1) for line in rest)
        self.assertEqual(set(shown), set(known) - {'id', 'name', 'state'})
        self.assertEqual(shown['uuid'], known['uuid'])
        one = pmemctl(self.work, socket, 'status', '--export', name)
        self.assertEqual(one['uuid'], known['uuid'])
        run = self.text(socket, '--export', 'none')
        self.assertEqual(run.returncode, 1)
        self.assertIn("no export or device 'none' there", run.stderr)

    def test_status(self):
        q = self.machine().add(
            '-chardev', 'socket,id=ctl,path=q.sock,server=on,wait=off',
            '-mon', 'chardev=ctl,mode=control').start()
        q.settle()
        q.writeq(PMEM_BASE, 1)
        q.flush()
        self.check_status('q.sock', 'pm0', q.query())
        self.check_status(self.r.ctl_socket, 'pm0',
                          self.r.qmp.cmd('query-pmem-replica')[0])

    def test_pidfile(self):
        def daemon(name, args=('--pidfile', 'pid')):
            return self.replica(name, image=f'{name}.img', size=DEVICE_SIZE,
                                args=args)

        def written():
            return int(self.content('pid'))

        first = daemon('first').start()
        self.assertEqual(written(), first.pid)
        # Somebody else's file stays as it is.
        second = daemon('second').start(negotiate=False)
        self.assertEqual(second.wait(20), 1)
        self.assertIn('pid', second.output())
        self.assertEqual(written(), first.pid)
        first.signal(signal.SIGTERM)
        self.assertEqual(first.wait(20), 0)
        self.assertRaises(FileNotFoundError, written)
        third = daemon('third').start()
        third.kill()                    # leaves it behind
        self.assertEqual(written(), third.pid)
        fourth = daemon('third').start()
        self.assertEqual(written(), fourth.pid)
        fourth.qmp.start_cmd('quit')
        self.assertEqual(fourth.wait(20), 0)
        self.assertRaises(FileNotFoundError, written)


if __name__ == '__main__':
    main()
