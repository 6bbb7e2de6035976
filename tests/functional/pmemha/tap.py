# SPDX-License-Identifier: GPL-2.0-or-later
"""Run test functions and print TAP.

A test module ends in ``tap.main(globals())``.  Each function whose name
starts with ``test_`` is one test; it takes a WorkDir, raises Skip(reason) to
skip, and any other exception to fail.  ``@cases(a, b)`` makes one test of
each argument.

    test_x.py [-k PATTERN] [--seed N] [--count N]
"""
import argparse
import fnmatch
import os
import random
import sys
import time
import traceback

from .workdir import WorkDir


class Skip(Exception):
    pass


class Options:
    """Set by main(); read by tests."""
    seed = 0
    count = None


def cases(*args):
    def mark(func):
        func.cases = args
        return func
    return mark


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(have, want, what):
    if have != want:
        raise AssertionError('%s: %r, expected %r' % (what, have, want))


def _collect(namespace):
    for name, func in list(namespace.items()):
        if not name.startswith('test_') or not callable(func):
            continue
        for case in getattr(func, 'cases', (None,)):
            label = name[5:].replace('_', ' ')
            if case is None:
                yield label, func, ()
            else:
                yield '%s [%s]' % (label, case), func, (case,)


def main(namespace):
    parser = argparse.ArgumentParser()
    parser.add_argument('-k', metavar='PATTERN', default='*')
    parser.add_argument('--seed', type=int,
                        default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument('--count', type=int, default=None)
    args = parser.parse_args()
    Options.seed, Options.count = args.seed, args.count
    tests = [t for t in _collect(namespace)
             if fnmatch.fnmatch(t[0], '*' + args.k + '*')]
    failed = 0
    print('TAP version 13\n1..%d\n# seed %d' % (len(tests), args.seed),
          flush=True)
    for n, (label, func, more) in enumerate(tests, 1):
        start = time.monotonic()
        with WorkDir(label) as work:
            try:
                func(work, *more)
                print('ok %d - %s' % (n, label))
            except Skip as e:
                print('ok %d - %s # SKIP %s' % (n, label, e))
            except Exception:       # pylint: disable=broad-except
                failed += 1
                work.keep = True
                print('not ok %d - %s' % (n, label))
                for line in traceback.format_exc().splitlines():
                    print('# ' + line)
                for line in work.tails():
                    print('# ' + line)
                print('# logs: %s' % work.path)
        print('# %.1f s' % (time.monotonic() - start), flush=True)
    sys.exit(1 if failed else 0)
