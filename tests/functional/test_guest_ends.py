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
from pmemha.wire import read_state_file

CF9 = 0xcf9             # 6: reset
PVPANIC = 0x505         # 1: the guest's kernel panicked
WATCHDOG = 0x443        # of ib700; 15: expires at once
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

    def freeze(self):
        """It answers nothing any more."""
        self.r.signal(signal.SIGSTOP)

    def port(self, kind, port, value):
        """Its answer may be lost, as QEMU ends."""
        self.mem.send(f'out{kind} {port:#x} {value:#x}\n')


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
        self.check_end(lambda g: self.port('b', PVPANIC, 1),
                       '-device', 'pvpanic', '-action', 'panic=shutdown')

    def test_panic_exit_failure(self):
        self.check_end(lambda g: self.port('b', PVPANIC, 1), '-device',
                       'pvpanic', '-action', 'panic=exit-failure', status=1)

    def test_watchdog_reset_with_no_reboot(self):
        self.check_end(lambda g: self.port('b', WATCHDOG, 15),
                       '-device', 'ib700', '-action', 'watchdog=reset')

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
        self.check_pause(lambda: self.port('b', PVPANIC, 1), '-device',
                         'pvpanic', '-action', 'panic=pause',
                         status='guest-panicked')

    def test_watchdog_pause(self):
        self.check_pause(lambda: self.port('b', WATCHDOG, 15), '-device',
                         'ib700', '-action', 'watchdog=pause',
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
        self.freeze()
        self.dirty(range(5), 1)
        self.mem.writeq(HINT, 1)
        self.g.qmp.poll('query-pmem-ha', lambda i:
                        i[0]['lag-bytes'] == 5 * PAGE, scaled(20))
        self.dirty((3, 4, 50, 51, 52), 7)
        self.check_bytes(8 * PAGE)

    def test_silent_without_an_epoch(self):
        """The last epoch is the one that is not acknowledged."""
        self.running(props='link-timeout-ms=600000')
        self.freeze()
        self.dirty((8, 9, 20), 1)
        self.check_bytes(3 * PAGE)

    def test_watchdog_poweroff(self):
        """QEMU's exit() while the guest runs: no epoch, but the number"""
        self.running('-device', 'ib700', '-action', 'watchdog=poweroff')
        self.dirty((8, 9, 20, 21), 1)
        self.check_bytes(4 * PAGE, lambda: self.port('b', WATCHDOG, 15))
        self.assertFalse(read_state_file(self.path('p.state'))['clean'])

    def test_never_in_sync(self):
        self.r.kill()
        self.g = self.guest(props='connect-timeout-ms=0').start()
        self.dirty((1, 2), 1)
        self.check_bytes(SIZE)


class Reboot(Ends):
    """The flush that waits goes with the guest that made it."""

    def check_reboot(self, reset, *extra):
        g = self.running(*extra, cmd='workload=stalltest',
                         props='link-timeout-ms=600000')
        g.qmp.cmd('set-action', reboot='reset')
        g.out.wait_for('^T 0', 20)
        self.freeze()
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 1,
                   scaled(20))
        self.dirty((300, 301), 0x5000)
        lines = len(g.out.lines)
        before, = g.qmp.cmd('query-pmem-ha')
        reset(g)
        g.qmp.wait_event('RESET', 20)
        if g.qmp.cmd('query-status')['status'] != 'running':
            g.qmp.cmd('cont')
        g.out.wait(lambda: any(text.startswith('BOOT') for _, text in
                               g.out.lines[lines:]) or None, 20, 'BOOT')
        # The next boot's flush waits in its turn; none was acknowledged.
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['flushes-waiting'] == 1,
                   scaled(20))
        after, = g.qmp.cmd('query-pmem-ha')
        self.assertEqual(after['epoch-acked'], before['epoch-acked'])
        self.assertEqual(after['flush-latency-us']['count'],
                         before['flush-latency-us']['count'])
        self.assertFalse([t for _, t in g.out.lines[lines:]
                          if t.startswith('T ')])
        cursor = len(g.out.lines)
        self.r.signal(signal.SIGCONT)
        g.out.wait(lambda: any(text.startswith('T 0') for _, text in
                               g.out.lines[cursor:]) or None, 20, 'flush')
        g.kill()
        image = self.promoted()
        for n in (300, 301):
            self.assertEqual(int.from_bytes(
                image[n * PAGE:n * PAGE + 8], 'little'), 0x5000 + n)

    def test_system_reset(self):
        self.check_reboot(lambda g: g.qmp.cmd('system_reset'))

    def test_by_the_guest(self):
        self.check_reboot(lambda g: self.port('b', CF9, 6))

    def test_by_the_watchdog(self):
        def reset(g):
            # Its clock stands while the guest is paused for the flush.
            g.qmp.poll('query-status', lambda s: s['status'] == 'io-error',
                       scaled(20))
            g.qmp.cmd('cont')
            self.port('b', WATCHDOG, 15)
        self.check_reboot(reset, '-device', 'ib700', '-action',
                          'watchdog=reset')


if __name__ == '__main__':
    main()
