# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of tests/bench/page-map, in Markdown"""

import statistics

OWN = ('ours', 'ours+multifd', 'ours, sample')
AGAIN = 'stock again'
# They throw away what others move.
LOSING = ('drop caches', 'drop caches+hint')

# Bars: most of what stock (bytes, downtime) or the best peer (time) needs
LINK_BAR = 0.15
TIME_BAR = 0.35
DOWNTIME_BAR = 5                # ms more
SLOWER_BAR = 0.02               # beyond the noise


def spread(values, digits=0):
    values = [v for v in values if v is not None]
    if not values:
        return '-'
    middle = f'{statistics.median(values):.{digits}f}'
    if len(values) == 1:
        return middle
    return (f'{middle} ({min(values):.{digits}f} to '
            f'{max(values):.{digits}f})')


def column(runs, key, scale=1):
    return [r[key] / scale if key in r and r['finished'] else None
            for r in runs]


def ratios(runs, base, key):
    """Of each round"""
    return [a[key] / b[key] for a, b in zip(runs, base)
            if a['finished'] and b['finished']]


def map_text(runs):
    last = [r['info']['page-map'] for r in runs if 'page-map' in r['info']]
    if not last:
        return '-'

    def of(key, scale=1):
        return round(statistics.median(m[key] for m in last) / scale)

    return (f"{of('mapped-bytes', 1e6)} MB mapped, {of('nacked')} refused, "
            f"{of('stale')} stale, {of('fetch-requests')} reads")


HEAD = ('peer', 'link MB', 'x stock', 'total s', 'x stock', 'downtime ms',
        'setup ms', 'CPU s, both', 'storage MB', 're-read s', 'page map')


def row(name, runs, stock, limit):
    unfinished = sum(not r['finished'] for r in runs)
    if unfinished == len(runs):
        mb = spread([r['link-bytes'] / 1e6 for r in runs])
        return (name, mb, '-', f'did not finish in {limit} s', '-',
                *['-'] * 5, map_text(runs))
    cpu = [(r['cpu-ms-source'] + r['cpu-ms-destination']) / 1000
           for r in runs if r['finished']]
    note = f' ({unfinished} did not finish)' if unfinished else ''
    return (name, spread(column(runs, 'link-bytes', 1e6)),
            spread(ratios(runs, stock, 'link-bytes'), 3),
            spread(column(runs, 'total-time-ms', 1000), 2) + note,
            spread(ratios(runs, stock, 'total-time-ms'), 3),
            spread(column(runs, 'downtime-ms')),
            spread(column(runs, 'setup-time-ms')), spread(cpu, 2),
            spread(column(runs, 'storage-bytes', 1e6)),
            spread(column(runs, 'reread-s'), 2), map_text(runs))


def median(runs, key):
    values = [r[key] for r in runs if r['finished']]
    return statistics.median(values) if values else None


def bar(text, value, most, digits=3):
    return (f'- {text}: {value:.{digits}f}, allowed {most:.{digits}f}: '
            f"{'met' if value <= most else 'MISSED'}")


def bars(workload, found, fast):
    """Lines about 'ours'; fast: the storage is no limit"""
    ours, stock = found.get('ours'), found.get('stock')
    if not ours or not stock:
        return
    if not all(r['finished'] for r in ours):
        yield '- ours finishes: MISSED'
        return
    if not any(r['finished'] for r in stock):
        yield '- ours finishes, stock does not: met'
        return
    time = statistics.median(ratios(ours, stock, 'total-time-ms'))
    if AGAIN in found:
        same = ratios(found[AGAIN], stock, 'total-time-ms')
        noise = max(max(r, 1 / r) for r in same)
        yield bar('total time, x stock (A/A maximum + 2 %)', time,
                  noise + SLOWER_BAR)
    yield bar('downtime, ms more than stock',
              median(ours, 'downtime-ms') - median(stock, 'downtime-ms'),
              DOWNTIME_BAR, 0)
    if workload.name != 'W1' or not fast:
        return
    yield bar('bytes on the link, x stock', statistics.median(
        ratios(ours, stock, 'link-bytes')), LINK_BAR)
    times = {n: median(r, 'total-time-ms') for n, r in found.items()
             if n not in OWN}
    times = {n: t for n, t in times.items() if t}
    own = median(ours, 'total-time-ms')
    best = min((n for n in times if n not in LOSING), key=times.get)
    yield bar(f'total time, x the best peer that keeps the page cache ({best})',
              own / times[best], TIME_BAR)
    for n in sorted(set(times) & set(LOSING)):
        yield (f'- total time, x {n}: {own / times[n]:.3f}; with the next '
               'reading of the files: %.3f' %
               ((own / 1000 + median(ours, 'reread-s')) /
                (times[n] / 1000 + median(found[n], 'reread-s'))))


def table(workload, found, refused, fast=True):
    """Lines of one workload; found: {peer: [figures of each round]}"""
    n = max(len(r) for r in found.values())
    yield f'## {workload.name}: {workload.what}'
    yield ''
    yield f'Median of {n} rounds (min to max)'
    yield ''
    yield '| ' + ' | '.join(HEAD) + ' |'
    yield '|' + ' --- |' * len(HEAD)
    for name, runs in found.items():
        yield '| ' + ' | '.join(row(name, runs, found['stock'],
                                    workload.limit)) + ' |'
    yield ''
    if AGAIN in found:
        yield 'A/A of stock: time x ' + spread(ratios(
            found[AGAIN], found['stock'], 'total-time-ms'), 3) + \
            ', bytes x ' + spread(ratios(found[AGAIN], found['stock'],
                                         'link-bytes'), 3)
    for name, why in refused.items():
        yield f'Not measured: {name}: {why}'
    wrong = sum(not r.get('same-memory', True)
                for runs in found.values() for r in runs)
    compared = sum('same-memory' in r for runs in found.values() for r in runs)
    yield (f'All RAM of source and destination by SHA-256: {compared} '
           f'migrations compared, {wrong} DIFFER' if wrong else
           f'All RAM of source and destination is equal by SHA-256 after '
           f'each of {compared} migrations.')
    yield ''
    yield from bars(workload, found, fast)
