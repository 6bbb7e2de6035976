# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests/bench/page-map measures when nothing is named: parts, each with its
rates, and the workloads, peers and rounds of each.
"""

import time

from .mappeers import MOVES, PAIR, SAVES
from .mapwork import WORKLOADS
from .netlab import bits, rate_name

# The peers of --quick: those that the claims name, and the worst case
MAIN = ('stock', 'stock again', 'multifd', 'multifd+zstd', 'postcopy',
        'drop caches+hint', 'ours', 'ours+multifd', 'ours, sample')


class Part:
    """
    Workloads with the same rates.  `claims`: the link is what limits, so W1 is
    held against the design's claims.  `saved`: snapshots, on this host alone,
    where W1 always is.
    """

    def __init__(self, name, workloads, link='1g', disk='unlimited',
                 peers=None, rounds=None, claims=False, saved=False):
        self.name = name
        self.workloads = workloads
        self.link = bits(link)
        self.disk = bits(disk)
        self.peers = peers
        self.rounds = rounds
        self.claims = claims or saved
        self.saved = saved

    def names(self, work):
        """Peers of a workload; what others are compared with comes first"""
        wanted = self.peers or (SAVES if self.saved else work.peers)
        if self.saved:
            wanted = [p for p in SAVES if p in wanted]
            need = [p.replace('ours, ', '') for p in wanted]
            return [p for p in SAVES if p in wanted or p in need]
        return ['stock', *(p for p in wanted if p in MOVES and p != 'stock')]

    def times(self, work):
        return self.rounds or work.rounds

    def title(self):
        if self.saved:
            return f'{self.name}: snapshots; the disk is a file of this host'
        return (f'{self.name}: link {rate_name(self.link)}, storage '
                f'{rate_name(self.disk)}')


def full():
    return [
        Part('1g', ['W0', 'W1', 'W3', 'W5'], claims=True),
        Part('saved', ['W1', 'W3', 'W5'], rounds=2, saved=True),
        Part('others', ['W2', 'W2-nosync', 'W4', 'W6', 'W8'], rounds=3),
        Part('1g-storage-1g', ['W1', 'W5'], disk='1g', peers=PAIR, rounds=3),
        Part('250m', ['W1'], '250m', peers=PAIR, rounds=3),
        Part('250m-storage-1g', ['W1'], '250m', '1g', PAIR, 2),
        Part('5g', ['W1', 'W5'], '5g', peers=PAIR, rounds=3),
        Part('5g-storage-1g', ['W1'], '5g', '1g', PAIR, 3),
    ]


def quick():
    return [
        Part('1g', ['W1'], peers=MAIN, rounds=3, claims=True),
        Part('worst', ['W3', 'W5'], peers=MAIN, rounds=1),
        Part('saved', ['W1'], rounds=1, saved=True),
        Part('others', ['W0', 'W2', 'W2-nosync', 'W4', 'W6', 'W8'],
             peers=PAIR, rounds=1),
        Part('1g-storage-1g', ['W1'], disk='1g', peers=PAIR, rounds=1),
        Part('250m', ['W1'], '250m', peers=PAIR, rounds=1),
        Part('5g', ['W1'], '5g', peers=PAIR, rounds=1),
    ]


def own(link, disk, workloads, peers, rounds):
    """One part, of what the command line names, and its snapshots if any"""
    names = workloads or list(WORKLOADS)
    parts = []
    if not peers or set(peers) - set(SAVES):
        parts.append(Part('named', names, link, disk, peers, rounds,
                          claims=bits(link) == bits('1g') and not bits(disk)))
    if peers and set(peers) & set(SAVES):
        parts.append(Part('saved', names, peers=peers, rounds=rounds,
                          saved=True))
    return parts


class TimeUp(Exception):
    """No further round begins"""


class Clock:
    """A bound for all of it; 0: none"""

    def __init__(self, minutes):
        self.minutes = minutes
        self.end = time.monotonic() + minutes * 60 if minutes else None

    def over(self):
        return self.end is not None and time.monotonic() > self.end

    def why(self):
        return f'not measured: the {self.minutes} minutes were over'
