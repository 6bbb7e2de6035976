# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the tests of a file and print TAP"""

import argparse
import sys
import time
import traceback
import unittest


class TapResult(unittest.TestResult):
    def __init__(self, out):
        super().__init__()
        self.out = out
        self.number = 0
        self.started = 0.0
        self.subtest_failed = False

    def print(self, text):
        print(text, file=self.out, flush=True)

    def diag(self, text):
        for line in str(text).splitlines():
            self.print(f'# {line}')

    def _line(self, status, test, suffix=''):
        self.number += 1
        took = time.monotonic() - self.started
        self.print(f"{status} {self.number} - {test.id().split('.', 1)[-1]}"
                   f"{suffix or f' # {took:.2f} s'}")

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.subtest_failed = False

    def addSuccess(self, test):
        super().addSuccess(test)
        if not self.subtest_failed:
            self._line('ok', test)

    def _bad(self, test, err):
        self._line('not ok', test)
        self.diag(''.join(traceback.format_exception(*err)))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(test, err)

    def addError(self, test, err):
        super().addError(test, err)
        self._bad(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.diag(f'subtest {subtest._subDescription()}')
            self.diag(''.join(traceback.format_exception(*err)))
            if not self.subtest_failed:
                self.subtest_failed = True
                self._line('not ok', test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line('ok', test, f' # SKIP {reason}')

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._line('not ok', test, ' # TODO')

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._line('not ok', test)


def _flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def main():
    from .process import Terminated, install_handlers

    a = argparse.ArgumentParser()
    a.add_argument('-l', '--list', action='store_true', help='name the tests')
    a.add_argument('names', nargs='*', help='run the tests whose name '
                                            'contains one of these')
    args = a.parse_args()

    module = sys.modules['__main__']
    tests = list(_flatten(unittest.defaultTestLoader
                          .loadTestsFromModule(module)))
    if args.names:
        tests = [t for t in tests if any(n in t.id() for n in args.names)]
    if args.list:
        for t in tests:
            print(t.id().split('.', 1)[-1])
        return

    install_handlers()
    result = TapResult(sys.stdout)
    result.print(f'1..{len(tests)}')
    try:
        unittest.TestSuite(tests).run(result)
    except Terminated as e:
        result.print(f'Bail out! {e}')
        sys.exit(e.status)
    sys.exit(0 if result.wasSuccessful() else 1)
