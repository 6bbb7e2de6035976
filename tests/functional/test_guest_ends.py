#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The end of QEMU, or of the guest alone, with data that no flush has taken:
a last epoch, or else the number of bytes that the replica lacks.
"""

import re
import signal

from pmemha import main, scaled
from pmemha.baremetal import BareMetal
from pmemha.device import HINT, PMEM_BASE
from pmemha.devicetest import PAGE, SIZE, DeviceTest
from pmemha.virtio import CONFIG_DATA, MMIO, config_select, map_bar
from pmemha.wire import read_state_file

CF9 = 0xcf9             # 6: reset
PVPANIC = 0x505         # 1: the guest's kernel panicked
WATCHDOG = 0x443        # of ib700; 15: expires at once
ESB = ('-device', 'i6300esb,addr=6')
ESB_TIMER1, ESB_TIMER2, ESB_RELOAD, ESB_LOCK = 0, 4, 12, 0x68
DEBUG_EXIT = 0xf4
PM1_CNT = 0x604         # 0x2000: sleep state S5 of q35


class Ends(DeviceTest):
    """A guest that runs and does nothing; qtest writes as its devices do."""

    def guest(self, *extra, props='', name='guest', cmd='workload=idle'):
        g = self.adopt(BareMetal(self.work, cmd, name=name))
        self.mem = g.qtest()
        g.add('-qtest-log', 'none', '-object', self.r.object('r0', props))
        self.work.sparse('p.img', SIZE)
        g.pmem_file('p.img', SIZE, device='pmem-ha',
                    props='replica=r0,state-file=p.state')
        return g.add(*extra)

    def running(self, *extra, **kw):
        g = self.guest(*extra, **kw).start()
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync',
                   scaled(30))
        self.g = g
        return g

    def dirty(self, pages, value):
        for n in pages:
            self.mem.writeq(PMEM_BASE + n * PAGE, value + n)

    def unsent(self):
        """Bytes in the warning; None without one"""
        m = re.search(r'does not have \(last acknowledged epoch \d+, '
                      r'(\d+) bytes\)', self.g.output())
        return int(m[1]) if m else None

    def check_equal(self):
        """The replica is what the memory was at the end."""
        self.assertIsNone(self.unsent(), self.g.output())
        image = self.promoted()
        self.assertTrue(image == self.content('p.img'))
        self.assertEqual(int.from_bytes(image[3 * PAGE:3 * PAGE + 8],
                                        'little'), 0x1003)

    def port(self, kind, port, value):
        """Its answer may be lost, as QEMU ends."""
        self.mem.send(f'out{kind} {port:#x} {value:#x}\n')

    def panic(self):
        self.port('b', PVPANIC, 1)

    def bite(self):
        """What a guest lets i6300esb do: its two times are over at once."""
        map_bar(self.mem, 6, 0, MMIO)
        for timer in (ESB_TIMER1, ESB_TIMER2):
            for at, value in ((ESB_RELOAD, 0x80), (ESB_RELOAD, 0x86),
                              (timer, 0)):
                self.mem.writel(MMIO + at, value)
        config_select(self.mem, 6, ESB_LOCK)
        self.port('b', CONFIG_DATA, 2)

    def leave(self):
        """It ends, and comes back with what it has."""
        self.r.kill()
        self.g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] in
                        ('connecting', 'stalled'), scaled(20))

    def come_back(self):
        if self.r.alive:
            self.r.thaw()
        else:
            self.r = self.replica(size=SIZE).start()

    def waiting(self, *extra, away=False, props='link-timeout-ms=600000'):
        """A vCPU waits for its flush, and more was stored since."""
        g = self.running(*extra, cmd='workload=stalltest', props=props)
        g.out.wait_for('^T 0', 20)
        # No acknowledgement may be under way when the replica stops.
        g.qmp.cmd('stop')
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 0 and
                   i[0]['epoch-captured'] == i[0]['epoch-acked'], scaled(20))
        (self.leave if away else self.r.freeze)()
        g.qmp.cmd('cont')
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 1,
                   scaled(20))
        self.dirty((300, 301), 0x5000)
        return g

    def let_the_clock_run(self):
        """It stands while the guest is paused for a flush."""
        self.g.qmp.poll('query-status', lambda s: s['status'] == 'io-error',
                        scaled(20))
        self.g.qmp.cmd('cont')

    def lines_since(self, cursor, start):
        return [text for _, text in self.g.out.lines[cursor:]
                if text.startswith(start)]


class Last(Ends):
    """With a replica that answers, nothing is missing."""

    def check_end(self, end, *extra, status=0):
        g = self.running(*extra)
        self.dirty((0, 3, 9, 700), 0x1000)
        end(g)
        self.assertEqual(g.wait(20), status, g.output())
        self.check_equal()

    def test_quit(self):
        self.check_end(lambda g: g.qmp.start_cmd('quit'))

    def test_sigterm(self):
        self.check_end(lambda g: g.signal(signal.SIGTERM))

    def test_sigint(self):
        self.check_end(lambda g: g.signal(signal.SIGINT))

    def test_poweroff(self):
        def end(_g):
            # What the firmware does: address and enabling of ACPI's registers
            self.mem.outl(0xcf8, 0x8000f840)
            self.mem.outl(0xcfc, 0x601)
            self.mem.outl(0xcf8, 0x8000f844)
            self.mem.outl(0xcfc, 0x80)
            self.port('w', PM1_CNT, 0x2000)
        self.check_end(end)

    def test_debug_exit(self):
        self.check_end(lambda g: self.port('l', DEBUG_EXIT, 1), status=3)

    def test_reset_with_no_reboot(self):
        self.check_end(lambda g: self.port('b', CF9, 6))

    def test_panic_shutdown(self):
        self.check_end(lambda g: self.panic(),
                       '-device', 'pvpanic', '-action', 'panic=shutdown')

    def test_panic_exit_failure(self):
        self.check_end(lambda g: self.panic(), '-device',
                       'pvpanic', '-action', 'panic=exit-failure', status=1)

    def test_watchdog_reset_with_no_reboot(self):
        self.check_end(lambda g: self.port('b', WATCHDOG, 15),
                       '-device', 'ib700', '-action', 'watchdog=reset')

    def test_i6300esb_reset_with_no_reboot(self):
        self.check_end(lambda g: self.bite(), *ESB, '-action',
                       'watchdog=reset')

    def check_pause(self, end, *extra, status):
        g = self.running(*extra)
        self.dirty((0, 3, 9, 700), 0x1000)
        end()
        g.qmp.poll('query-status', lambda s: s['status'] == status,
                   scaled(20))
        self.assertEqual(g.quit(), 0)
        self.check_equal()
        self.assertTrue(read_state_file(self.path('p.state'))['clean'])

    def test_panic_pause(self):
        self.check_pause(self.panic, '-device', 'pvpanic', '-action',
                         'panic=pause', status='guest-panicked')

    def test_watchdog_pause(self):
        self.check_pause(lambda: self.port('b', WATCHDOG, 15), '-device',
                         'ib700', '-action', 'watchdog=pause',
                         status='watchdog')

    def test_i6300esb_pause(self):
        self.check_pause(self.bite, *ESB, '-action', 'watchdog=pause',
                         status='watchdog')


class Missing(Ends):
    """Without, the warning tells how much."""

    def check_bytes(self, want, end=None):
        if end:
            end()
            self.g.wait(20)
        else:
            self.assertEqual(self.g.quit(), 0)
        self.assertEqual(self.unsent(), want, self.g.output())

    def test_link_down(self):
        self.running()
        self.r.kill()
        self.g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] ==
                        'connecting', scaled(20))
        self.dirty((1, 2, 3, 64, 65, 1000, 4095), 1)
        self.check_bytes(7 * PAGE)

    def test_nothing_dirty(self):
        """A replica that is away but has everything is no loss."""
        self.running()
        self.r.kill()
        self.g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] ==
                        'connecting', scaled(20))
        self.check_bytes(None)
        self.r = self.replica('again', size=SIZE).start()
        q = self.machine().start()
        q.wait_state('in-sync')
        self.assertEqual(q.query()['epoch-captured'],
                         q.query()['epoch-acked'])
        self.assertLess(q.query()['wire-bytes'], PAGE, 'a full copy')

    def test_silent(self):
        """What changed since the epoch under way counts once."""
        self.running(props='link-timeout-ms=600000')
        self.r.freeze()
        self.dirty(range(5), 1)
        self.mem.writeq(HINT, 1)
        self.g.qmp.poll('query-pmem-ha', lambda i:
                        i[0]['lag-bytes'] == 5 * PAGE, scaled(20))
        self.dirty((3, 4, 50, 51, 52), 7)
        self.check_bytes(8 * PAGE)

    def test_silent_without_an_epoch(self):
        """The last epoch is the one that is not acknowledged."""
        self.running(props='link-timeout-ms=600000')
        self.r.freeze()
        self.dirty((8, 9, 20), 1)
        self.check_bytes(3 * PAGE)

    def check_poweroff(self, bite, *extra):
        """QEMU's exit() while the guest runs: no epoch, but the number"""
        self.running(*extra, '-action', 'watchdog=poweroff')
        self.dirty((8, 9, 20, 21), 1)
        self.check_bytes(4 * PAGE, bite)
        self.assertFalse(read_state_file(self.path('p.state'))['clean'])

    def test_watchdog_poweroff(self):
        self.check_poweroff(lambda: self.port('b', WATCHDOG, 15),
                            '-device', 'ib700')

    def test_i6300esb_poweroff(self):
        self.check_poweroff(self.bite, *ESB)

    def test_never_in_sync(self):
        self.r.kill()
        self.g = self.guest(props='connect-timeout-ms=0').start()
        self.dirty((1, 2), 1)
        self.check_bytes(SIZE)


class Reboot(Ends):
    """The flush that waits goes with the guest that made it."""

    def check_reboot(self, reset, *extra, **kw):
        g = self.waiting(*extra, **kw)
        g.qmp.cmd('set-action', reboot='reset')
        cursor = len(g.out.lines)
        before, = g.qmp.cmd('query-pmem-ha')
        reset(g)
        g.qmp.wait_event('RESET', 20)
        if g.qmp.cmd('query-status')['status'] != 'running':
            g.qmp.cmd('cont')
        g.out.wait(lambda: self.lines_since(cursor, 'BOOT') or None, 20,
                   'BOOT')
        # The next boot's flush waits in its turn; none was acknowledged.
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 1,
                   scaled(20))
        after, = g.qmp.cmd('query-pmem-ha')
        self.assertEqual(after['epoch-acked'], before['epoch-acked'])
        self.assertEqual(after['flush-latency-us']['count'],
                         before['flush-latency-us']['count'])
        self.assertEqual(self.lines_since(cursor, 'T '), [])
        cursor = len(g.out.lines)
        self.come_back()
        g.out.wait(lambda: self.lines_since(cursor, 'T 0') or None, 20,
                   'flush')
        g.kill()
        image = self.promoted()
        for n in (300, 301):
            self.assertEqual(int.from_bytes(
                image[n * PAGE:n * PAGE + 8], 'little'), 0x5000 + n)

    def test_system_reset(self):
        self.check_reboot(lambda g: g.qmp.cmd('system_reset'))

    def test_by_the_guest(self):
        self.check_reboot(lambda g: self.port('b', CF9, 6))

    def test_by_the_guest_without_replica(self):
        self.check_reboot(lambda g: self.port('b', CF9, 6), away=True)

    def test_system_reset_without_replica(self):
        self.check_reboot(lambda g: g.qmp.cmd('system_reset'), away=True)

    def test_by_the_watchdog(self):
        def reset(_g):
            self.let_the_clock_run()
            self.port('b', WATCHDOG, 15)
        self.check_reboot(reset, '-device', 'ib700', '-action',
                          'watchdog=reset')

    def test_by_i6300esb(self):
        def reset(_g):
            self.let_the_clock_run()
            self.bite()
        self.check_reboot(reset, *ESB, '-action', 'watchdog=reset')


class Waiting(Ends):
    """The end comes while a vCPU waits for its flush."""

    def check_missing(self, end, *extra, status=0, **kw):
        """It is not acknowledged, and its page counts with the later ones."""
        g = self.waiting(*extra, **kw)
        cursor = len(g.out.lines)
        end(g)
        self.assertEqual(g.wait(20), status, g.output())
        self.assertEqual(self.unsent(), 3 * PAGE, g.output())
        self.assertEqual(self.lines_since(cursor, 'T '), [])

    def test_quit(self):
        self.check_missing(lambda g: g.qmp.start_cmd('quit'))

    def test_quit_without_replica(self):
        self.check_missing(lambda g: g.qmp.start_cmd('quit'), away=True)

    def test_sigterm(self):
        self.check_missing(lambda g: g.signal(signal.SIGTERM))

    def test_panic(self):
        self.check_missing(lambda g: self.panic(), '-device', 'pvpanic',
                           '-action', 'panic=shutdown')

    def test_i6300esb_poweroff(self):
        def end(_g):
            self.let_the_clock_run()
            self.bite()
        self.check_missing(end, *ESB, '-action', 'watchdog=poweroff')

    def check_goes_on(self, act, event, *extra):
        """A guest that is not ended gets its flush when the replica is back."""
        g = self.waiting(*extra)
        cursor = len(g.out.lines)
        act()
        g.qmp.wait_event(event, 20)
        info, = g.qmp.cmd('query-pmem-ha')
        self.assertEqual(info['flushes-waiting'], 1)
        self.assertEqual(self.lines_since(cursor, 'T '), [])
        self.come_back()
        return g, cursor

    def test_i6300esb_inject_nmi(self):
        """The vCPU has an interrupt to take, and waits all the same."""
        def act():
            self.let_the_clock_run()
            self.bite()
        g, cursor = self.check_goes_on(act, 'WATCHDOG', *ESB, '-action',
                                       'watchdog=inject-nmi')
        g.out.wait(lambda: self.lines_since(cursor, 'T 0') or None, 20,
                   'flush')

    def test_panic_pause(self):
        """Paused for good: the flush is acknowledged, the vCPU stays."""
        g, cursor = self.check_goes_on(self.panic, 'GUEST_PANICKED', '-device',
                                       'pvpanic', '-action', 'panic=pause')
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 0,
                   scaled(20))
        self.assertEqual(g.qmp.cmd('query-status')['status'],
                         'guest-panicked')
        self.assertEqual(self.lines_since(cursor, 'T '), [])
        self.assertEqual(g.quit(), 0)
        self.assertIsNone(self.unsent(), g.output())
        self.assertTrue(self.promoted() == self.content('p.img'))


if __name__ == '__main__':
    main()
