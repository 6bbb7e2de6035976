# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of tests/bench/page-map, in Markdown"""

import statistics

from .mapbars import (AGAIN, against_losing, cell, done, lines,
                      move_bars, ratios, save_bars, wrong_memory)
from .mappeers import OWN

MOVE_HEAD = ('peer', 'link MB', 'storage MB', 'link x stock', 'total s',
             'x stock', 'downtime ms', 'setup ms', 'CPU s source',
             'CPU s destination', 're-read s', 'page map', 'bars')
SAVE_HEAD = ('peer', 'allocated MB', 'x stock', 'save s', 'VM paused ms',
             'saved: written MB', 'read MB', 'CPU s', 'restore s',
             'restored: read MB', 'CPU s', 'bars')


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
    return [r[key] / scale for r in done(runs) if key in r]


def map_text(runs):
    last = [r['info']['page-map'] for r in runs
            if 'page-map' in r.get('info', ())]
    if not last:
        return '-'

    def of(key, scale=1):
        return round(statistics.median(m[key] for m in last) / scale)

    return (f"{of('mapped-bytes', 1e6)} MB mapped, {of('nacked')} refused, "
            f"{of('stale')} stale, {of('fetch-requests')} reads")


def unfinished(runs, limit):
    """What is said of rounds without figures, or ''"""
    errors = sum('error' in r for r in runs)
    endless = len(runs) - len(done(runs)) - errors
    said = []
    if endless:
        said.append(f'{endless} of {len(runs)} did not finish in {limit} s')
    if errors:
        said.append(f'{errors} of {len(runs)} failed')
    return ', '.join(said)


def text_of(time, note):
    if time == '-':
        return note or '-'
    return f'{time} ({note})' if note else time


def move_row(name, found, limit, claims):
    runs, stock = found[name], found['stock']
    # Bytes also of one that did not finish: they were on the link.
    counted = done(runs) or [r for r in runs if 'error' not in r]
    return (name, spread([r['link-bytes'] / 1e6 for r in counted]),
            spread([r['storage-bytes'] / 1e6 for r in counted
                    if 'storage-bytes' in r]),
            spread(ratios(runs, stock, 'link-bytes'), 3),
            text_of(spread(column(runs, 'total-time-ms', 1000), 2),
                    unfinished(runs, limit)),
            spread(ratios(runs, stock, 'total-time-ms'), 3),
            spread(column(runs, 'downtime-ms')),
            spread(column(runs, 'setup-time-ms')),
            spread([r['cpu-ms-source'] / 1000 for r in counted], 2),
            spread([r['cpu-ms-destination'] / 1000 for r in counted], 2),
            spread(column(runs, 'reread-s'), 2), map_text(runs),
            cell(move_bars(name, found, claims)))


def save_row(name, found, limit, claims):
    runs = found[name]
    stock = found.get(name.replace('ours, ', ''), [])
    return (name, spread(column(runs, 'allocated-bytes', 1e6)),
            spread(ratios(runs, stock, 'allocated-bytes'), 3),
            text_of(spread(column(runs, 'save-s'), 2),
                    unfinished(runs, limit)),
            spread(column(runs, 'pause-ms')),
            spread(column(runs, 'save-written-bytes', 1e6)),
            spread(column(runs, 'save-read-bytes', 1e6)),
            spread(column(runs, 'save-cpu-ms', 1000), 2),
            spread(column(runs, 'restore-s'), 2),
            spread(column(runs, 'restore-read-bytes', 1e6)),
            spread(column(runs, 'restore-cpu-ms', 1000), 2),
            cell(save_bars(name, found, claims)))


def grid(head, rows):
    yield '| ' + ' | '.join(head) + ' |'
    yield '|' + ' --- |' * len(head)
    for row in rows:
        yield '| ' + ' | '.join(row) + ' |'


def not_measured(head, refused):
    """Rows of peers that this build has not, or that there was no time for"""
    for name, why in refused.items():
        yield name, why, *['-'] * (len(head) - 2)


def memory_line(found):
    wrong = sum(wrong_memory(runs) for runs in found.values())
    compared = sum('same-memory' in r for runs in found.values() for r in runs)
    if wrong:
        who = ', '.join(n for n, runs in found.items() if wrong_memory(runs))
        return (f'All RAM of both sides by SHA-256: {compared} compared, '
                f'{wrong} DIFFER ({who})')
    return (f'All RAM of both sides is equal by SHA-256 in each of {compared} '
            'comparisons.')


def failures(found):
    for name, runs in found.items():
        for error in sorted({r['error'] for r in runs if 'error' in r}):
            yield f'Failed: {name}: {error.splitlines()[0][:300]}'


def table(workload, found, refused, part=None, claims=False, saved=False):
    """Lines of one workload; refused: {peer: why it has no figures}"""
    found = {n: runs for n, runs in found.items() if runs}
    n = max((len(r) for r in found.values()), default=0)
    head = SAVE_HEAD if saved else MOVE_HEAD
    yield f"## {workload.name}{f', {part}' if part else ''}: {workload.what}"
    yield ''
    if n:
        yield ('1 round' if n == 1 else
               f'Median of {n} rounds (minimum to maximum)')
        yield ''
    rows = [save_row(name, found, workload.limit, claims) if saved else
            move_row(name, found, workload.limit, claims) for name in found]
    yield from grid(head, [*rows, *not_measured(head, refused)])
    yield ''
    if not n:
        return
    if AGAIN in found:
        yield 'A/A of stock: time x ' + spread(ratios(
            found[AGAIN], found['stock'], 'total-time-ms'), 3) + \
            ', bytes x ' + spread(ratios(found[AGAIN], found['stock'],
                                         'link-bytes'), 3)
    yield memory_line(found)
    yield from failures(found)
    yield ''
    for name in found:
        yield from lines(name, (save_bars if saved else move_bars)(
            name, found, claims))
    yield from (f'- {line}' for line in against_losing('ours', found))


def losses(workload, found, part=None, claims=False, saved=False):
    """Lines that say where ours is behind"""
    found = {n: runs for n, runs in found.items() if runs}
    if not found or not saved and 'stock' not in found:
        return
    for name in found:
        if name not in OWN:
            continue
        for b in (save_bars if saved else move_bars)(name, found, claims):
            if not b.met:
                yield (f"- {workload.name}{f', {part}' if part else ''}, "
                       f'{name}: {b.text}')
