# SPDX-License-Identifier: GPL-2.0-or-later
"""
What tests/bench/page-map promises, and whether it was kept: the bars that a
row of its tables is held against.  `found` is {peer: [figures of each round]}.
"""

import collections
import statistics

from .mappeers import LOSING, OWN

AGAIN = 'stock again'

# Bars: most of what stock (bytes, downtime) or the best peer (time) needs
LINK_BAR = 0.15
TIME_BAR = 0.35
DOWNTIME_BAR = 5                # ms more
SLOWER_BAR = 0.02               # beyond the noise
ALLOCATED_BAR = 0.20

# short: what a row says when it was missed
Bar = collections.namedtuple('Bar', 'short text met')


def done(runs):
    return [r for r in runs if r.get('finished')]


def median(runs, key):
    values = [r[key] for r in done(runs) if key in r]
    return statistics.median(values) if values else None


def ratios(runs, base, key):
    """Of each round"""
    return [a[key] / b[key] for a, b in zip(runs, base)
            if a.get('finished') and b.get('finished') and b.get(key)]


def limit(what, text, value, most, digits=3):
    """`value` may be `most`"""
    return Bar(f'{what} {value:.{digits}f} > {most:.{digits}f}',
               f'{text}: {value:.{digits}f}, allowed {most:.{digits}f}',
               value <= most)


def noise(found):
    """The largest factor between two measurements of stock; 1 without them"""
    same = ratios(found.get(AGAIN, []), found['stock'], 'total-time-ms')
    return max((max(r, 1 / r) for r in same if r), default=1)


def downtime_noise(found):
    """The largest difference of two downtimes of stock in a round, as text"""
    pairs = [abs(a['downtime-ms'] - b['downtime-ms']) for a, b in
             zip(found.get(AGAIN, []), found['stock'])
             if a.get('finished') and b.get('finished')]
    return f'{max(pairs)} ms' if pairs else 'not measured'


def wrong_memory(runs):
    return sum(not r.get('same-memory', True) for r in runs)


def common(name, found):
    """([bars that any row of ours has], whether times can be compared)"""
    runs, stock = found[name], found['stock']
    bars = []
    errors = [r['error'] for r in runs if 'error' in r]
    if errors:
        bars.append(Bar('failed', f'fails in no round ({len(errors)} did)',
                        False))
    if wrong_memory(runs):
        bars.append(Bar('memory differs', 'the same memory: '
                        f'{wrong_memory(runs)} rounds differ', False))
    if any(not r.get('finished') and 'error' not in r for r in runs):
        bars.append(Bar('does not finish', 'finishes in each round', False))
    elif runs and not errors and not done(stock):
        bars.append(Bar('', 'finishes, stock does not', True))
    return bars, bool(ratios(runs, stock, 'total-time-ms'))


def move_bars(name, found, claims=False):
    """
    [Bar] of a row of migrations.  claims: the link is the limit and the
    storage is none, so the claims of the design hold.
    """
    if name not in OWN or not found.get(name) or not found.get('stock'):
        return []
    runs, stock = found[name], found['stock']
    bars, comparable = common(name, found)
    if not comparable:
        return bars
    bars.append(limit(
        'time x', 'total time, x stock (A/A maximum + 2 %)',
        statistics.median(ratios(runs, stock, 'total-time-ms')),
        noise(found) + SLOWER_BAR))
    bars.append(limit(
        'downtime, ms,', 'downtime, ms more than stock (whose A/A is '
        f'{downtime_noise(found)})',
        median(runs, 'downtime-ms') - median(stock, 'downtime-ms'),
        DOWNTIME_BAR, 0))
    if claims and name != 'ours, off':
        bars.append(limit('link x', 'bytes on the link, x stock',
                          statistics.median(ratios(runs, stock,
                                                   'link-bytes')), LINK_BAR))
        best, time = best_peer(found)
        bars.append(limit(
            f'time x {best}', 'total time, x the best peer that keeps the '
            f'page cache ({best})',
            median(runs, 'total-time-ms') / time, TIME_BAR))
    return bars


def best_peer(found):
    """(name, ms) of the fastest that moves everything"""
    times = {n: median(r, 'total-time-ms') for n, r in found.items()
             if n not in OWN and n not in LOSING}
    times = {n: t for n, t in times.items() if t}
    best = min(times, key=times.get)
    return best, times[best]


def against_losing(name, found):
    """Lines about peers whose guest has to read its files again"""
    runs = found.get(name)
    if not runs or not done(runs) or median(runs, 'reread-s') is None:
        return
    own = median(runs, 'total-time-ms') / 1000
    for peer in LOSING:
        if not done(found.get(peer, [])):
            continue
        time = median(found[peer], 'total-time-ms') / 1000
        both = ((own + median(runs, 'reread-s')) /
                (time + median(found[peer], 'reread-s')))
        yield (f'{name}: total time, x {peer}: {own / time:.3f}; with the '
               f'next reading of the files: {both:.3f}')


def save_bars(name, found, claims=False):
    """[Bar] of a row of snapshots, held against stock's of the same kind"""
    if name not in OWN or not found.get(name):
        return []
    stock = found.get(name.replace('ours, ', ''))
    if not stock:
        return []
    runs = found[name]
    bars, _ = common(name, {**found, 'stock': stock})
    pairs = ratios(runs, stock, 'allocated-bytes')
    if not pairs:
        return bars
    if claims:
        bars.append(limit('allocated x', 'allocated bytes, x stock',
                          statistics.median(pairs), ALLOCATED_BAR))
    for key, what in (('save-s', 'save'), ('restore-s', 'restore')):
        own = [r[key] for r in done(stock)]
        spread = max(own) / min(own)
        bars.append(limit(f'{what} x',
                          f'time to {what}, x stock (its spread + 2 %)',
                          statistics.median(ratios(runs, stock, key)),
                          spread + SLOWER_BAR))
    return bars


def cell(bars):
    """What a row says of them"""
    if not bars:
        return '-'
    lost = [b.short for b in bars if not b.met]
    return 'loses: ' + ', '.join(lost) if lost else 'met'


def lines(name, bars):
    for b in bars:
        yield f"- {name}: {b.text}: {'met' if b.met else 'MISSED'}"
