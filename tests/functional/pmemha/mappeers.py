# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to move or to save a guest that tests/bench/page-map compares"""

from .paths import stock_program
from .qmp import QmpError

# What settings() switches off unless a peer has it
CAPABILITIES = ('multifd', 'xbzrle', 'postcopy-ram', 'mapped-ram',
                'pause-before-switchover')
# More than any link here: the link is what limits.
NO_LIMIT = 100 << 30

DROP = 'sync; echo 3 > /proc/sys/vm/drop_caches'


class Peer:
    """
    One way.  `source` says which guest it needs: 'stock' (QEMU as released),
    'hint' (that with a balloon), 'ours' (with a map), 'sample' (a map with
    digests).  `way` is 'live', 'postcopy' (live, and postcopy after the first
    pass), 'mapped-ram' (to a file, stopped) or 'savevm' (within the image).
    """

    def __init__(self, name, source='stock', caps=(), params=None, before=None,
                 way='live'):
        self.name = name
        self.source = source
        self.caps = list(caps)
        self.params = params or {}
        self.before = before            # command in the guest, in the time
        self.way = way

    @property
    def stock(self):
        """Whether its program is QEMU as released"""
        return self.source in ('stock', 'hint')

    def refused(self, guest):
        """Why it cannot be done, None if it can; `guest`: makes its guest"""
        if self.stock and not stock_program('QEMU'):
            return 'no QEMU as released: run scripts/build --stock'
        try:
            self.settings(guest(self.source))
        except QmpError as e:
            return e.desc
        return None

    def settings(self, q, extra=()):
        """Capabilities and parameters of one side; QmpError: refused"""
        known = CAPABILITIES + (() if self.stock else ('x-page-map',))
        on = [*self.caps, *extra]
        q.qmp.cmd('migrate-set-capabilities', capabilities=[
            {'capability': c, 'state': c in on} for c in known])
        q.qmp.raw_cmd('migrate-set-parameters',
                      {'max-bandwidth': NO_LIMIT,
                       'multifd-compression': 'none', **self.params})


MAP = 'x-page-map'

PEERS = {p.name: p for p in (
    Peer('stock'),
    Peer('stock again'),
    Peer('multifd', caps=['multifd']),
    Peer('multifd+zstd', caps=['multifd'],
         params={'multifd-compression': 'zstd'}),
    Peer('xbzrle', caps=['xbzrle']),
    Peer('postcopy', caps=['postcopy-ram'], way='postcopy'),
    Peer('free-page-hint', source='hint'),
    Peer('drop caches', before=DROP),
    Peer('drop caches+hint', source='hint', before=DROP),
    Peer('ours, off', source='ours'),
    Peer('ours', source='ours', caps=[MAP]),
    Peer('ours+multifd', source='ours', caps=[MAP, 'multifd']),
    Peer('ours, sample', source='sample', caps=[MAP]),
    Peer('mapped-ram', caps=['mapped-ram'], way='mapped-ram'),
    Peer('ours, mapped-ram', source='ours', caps=[MAP, 'mapped-ram'],
         way='mapped-ram'),
    Peer('savevm', way='savevm'),
    Peer('ours, savevm', source='ours', caps=[MAP], way='savevm'),
)}

SAVES = ('mapped-ram', 'ours, mapped-ram', 'savevm', 'ours, savevm')
# All that move a guest, and those that tell whether it is slower than stock
MOVES = tuple(n for n in PEERS if n not in SAVES)
PAIR = ('stock', 'stock again', 'ours')
OWN = tuple(n for n, p in PEERS.items() if not p.stock)
# They throw away what others move.
LOSING = ('drop caches', 'drop caches+hint')
