# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one suite after another and count what they say: scripts/check's engine.

A suite gets, in its environment:
  PMEM_HA_OBJ    the build directory (build/<base>/obj)
  PMEM_HA_SRC    the QEMU tree it was built from
  PMEM_HA_BIN    the programs (build/bin)
  PMEM_HA_STOCK  the programs of QEMU as released, when they were built
  WORK_DIR       an empty directory; kept when the suite fails, or by KEEP=1
  TMPDIR         the same with a path short enough for a socket's name
With a target 'asan:T', OBJ and BIN are those of the build with sanitizers,
and TIMEOUT_FACTOR says that it is slower.
"""
import ctypes
import fnmatch
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
Suite = namedtuple('Suite', 'name tier budget targets command')

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# What a suite gets to unmount and to remove its namespaces
GRACE = 8
# What a daemon gets to notice that its suite is over
LINGER = 2

LINE = re.compile(r'^(not )?ok\b\s*(\d+)?\s*-?\s*([^#]*?)\s*'
                  r'(?:#\s*(?:(SKIP|TODO)\b)?\s*(.*))?$', re.I)
PLAN = re.compile(r'^1\.\.(\d+)\s*(?:#\s*SKIP\b\s*(.*))?', re.I)


def prctl(option, value):
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants():
    """Live processes below this one; orphans count, we are their reaper."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/stat' % pid, encoding='utf-8',
                      errors='replace') as f:
                fields = f.read().rpartition(')')[2].split()
        except OSError:
            continue
        if fields[0] != 'Z':
            parents[int(pid)] = int(fields[1])
    found, more = set(), {os.getpid()}
    while more:
        more = {p for p, up in parents.items() if up in more} - found
        found |= more
    return found


def signal_all(pids, sig):
    for pid in pids:
        try:
            os.kill(pid, sig)
        except OSError:
            pass


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def kill_rest(grace):
    """End every descendant; return how many outlived the grace."""
    end = time.monotonic() + grace
    while descendants() and time.monotonic() < end:
        reap()
        time.sleep(0.05)
    left = descendants()
    count = len(left)
    while left:
        signal_all(left, signal.SIGKILL)
        time.sleep(0.02)
        reap()
        left = descendants()
    return count


def unmount_below(*dirs):
    """Unmount what a suite left there; return how much that was.

    A suite that was killed could not do it, and removing the directory would
    empty a file system that is mounted on it.
    """
    with open('/proc/self/mounts', encoding='utf-8') as f:
        points = [line.split(' ')[1].encode().decode('unicode_escape')
                  for line in f]
    left = [p for p in points for d in dirs
            if p.startswith(os.path.realpath(d) + os.sep)]
    for point in reversed(left):
        subprocess.run(['umount', '-l', point], check=False,
                       stdin=subprocess.DEVNULL)
    return len(left)


class Interrupted(Exception):
    pass


class Tap:
    """Counts one suite's lines."""

    def __init__(self, suite, expected, show):
        self.suite, self.expected, self.show = suite, expected, show
        self.passed = self.seen = 0
        self.plan = self.plan_skip = None
        self.bad, self.skips = [], []

    def allowed(self, test, reason):
        return any(fnmatch.fnmatchcase(self.suite, s) and
                   fnmatch.fnmatchcase(test, t) and
                   (not unless_root or
                    (os.getuid() != 0 and re.search('root|right', reason)))
                   for s, t, unless_root in self.expected)

    def skip(self, test, reason):
        self.skips.append((test, reason or 'no reason given'))
        if not self.allowed(test, reason):
            self.bad.append('%s: skipped, and tests/expected-skips does not '
                            'list it (%s)' % (test or 'all', reason))

    def line(self, line):
        m = PLAN.match(line)
        if m:
            self.plan = int(m[1])
            if self.plan == 0:
                self.plan_skip = m[2] or ''
                self.skip('', self.plan_skip)
            return
        if line.startswith('Bail out!'):
            self.bad.append(line)
            return
        m = LINE.match(line)
        if not m:
            return
        self.seen += 1
        name = m[3] or m[2] or ''
        if m[1]:
            self.bad.append(name)
        elif (m[4] or '').upper() == 'SKIP':
            self.skip(name, m[5].strip())
        else:
            self.passed += 1
        self.show(self.seen, name)

    def finish(self, status):
        if self.plan is None:
            self.bad.append('no plan: the suite did not reach its end')
        elif self.plan != self.seen:
            self.bad.append('planned %d tests and ran %d'
                            % (self.plan, self.seen))
        # A suite with a failed test may exit with an error, too.
        if status != 0 and not self.bad:
            self.bad.append('exit status %d' % status)


class Runner:
    def __init__(self, keep):
        self.keep = keep
        self.passed = self.failed = 0
        self.skips, self.failures = [], []
        self.tty = sys.stderr.isatty()
        self.expected = self.read_expected()
        self.logs = os.path.join(ROOT, 'build', 'logs')
        os.makedirs(self.logs, exist_ok=True)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, self.on_signal)

    @staticmethod
    def on_signal(sig, _frame):
        # Once is enough; the way down must not be interrupted.
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(s, signal.SIG_IGN)
        raise Interrupted(sig)

    @staticmethod
    def read_expected():
        """[(suite, test, unless root)]; the file's head has the format."""
        res = []
        try:
            with open(os.path.join(ROOT, 'tests', 'expected-skips'),
                      encoding='utf-8') as f:
                for line in f:
                    line = line.split('#')[0].strip()
                    if line:
                        suite, _, test = line.partition(':')
                        test = test.strip()
                        plain = test.removesuffix(' unless root')
                        res.append((suite.strip(), plain.strip(),
                                    plain != test))
        except OSError:
            pass
        return res

    def say(self, text):
        if self.tty:
            sys.stderr.write('\r\033[K')
            sys.stderr.flush()
        print(text, flush=True)

    def show(self, suite, number, name):
        if self.tty:
            sys.stderr.write('\r\033[K%s'
                             % ('%s: %d %s' % (suite, number, name))[:78])
            sys.stderr.flush()

    def build(self, suite):
        """Build a suite's targets; return False when that fails.

        'stock' is QEMU as released, 'default' everything of ours,
        'asan:T' target T with the sanitizers; '@ID' behind it: of base ID,
        whatever QEMU_SRC says.
        """
        groups = {}
        for target in suite.targets.split(','):
            if target == '-':
                continue
            target, _, base = target.partition('@')
            options = ('--base=' + base,) if base else ()
            if target == 'stock':
                options += ('--stock',)
            elif target.startswith('asan:'):
                options += ('--sanitize',)
                target = target[5:]
            groups.setdefault(options, []).append(target)
        for options, targets in groups.items():
            if 'default' in targets or 'stock' in targets:
                targets = []
            cmd = [os.path.join(ROOT, 'scripts', 'build'), *options, *targets]
            env = dict(os.environ)
            if any(o.startswith('--base') for o in options):
                env.pop('QEMU_SRC', None)
            res = subprocess.run(cmd, stdout=subprocess.DEVNULL, check=False,
                                 stdin=subprocess.DEVNULL, env=env)
            if res.returncode:
                return False
        return True

    def environment(self, suite, work, short):
        from pqlib import primary
        bases = {t.split('@')[1] for t in suite.targets.split(',') if '@' in t}
        base = bases.pop() if bases else \
            'user' if os.environ.get('QEMU_SRC') else primary()
        build = os.path.join(ROOT, 'build')
        kind = base + ('-asan' if self.sanitized(suite) else '')
        env = dict(os.environ)
        env.update(PMEM_HA_OBJ=os.path.join(build, kind, 'obj'),
                   PMEM_HA_SRC=os.path.join(build, base, 'src'),
                   PMEM_HA_BIN=os.path.join(build, kind, 'bin'),
                   PMEM_HA_STOCK=os.path.join(build, base + '-stock', 'bin'),
                   WORK_DIR=work, TMPDIR=short, KEEP='1' if self.keep else '',
                   SUITE=suite.name, LC_ALL='C.UTF-8', PYTHONUNBUFFERED='1')
        if self.sanitized(suite):
            # Into files: a program's own log goes with a test that passed.
            # What QEMU does not free at its end is no defect.
            report = 'log_path=%s' % self.reports(suite)
            env.update(ASAN_OPTIONS=report + ':detect_leaks=0',
                       UBSAN_OPTIONS=report + ':print_stacktrace=1',
                       TIMEOUT_FACTOR=os.environ.get('TIMEOUT_FACTOR', '4'))
        return env

    @staticmethod
    def sanitized(suite):
        return any(t.startswith('asan:') for t in suite.targets.split(','))

    @staticmethod
    def is_finding(path):
        """Coroutines make ASan warn in each process; that is none."""
        with open(path, encoding='utf-8', errors='replace') as f:
            found = re.search('ERROR: |runtime error', f.read())
        if not found:
            os.unlink(path)
        return found

    def reports(self, suite):
        """The sanitizers add '.PID' to this path."""
        return os.path.join(self.logs, suite.name + '.sanitizer')

    def run(self, suite, build=True):
        start = time.monotonic()
        log = os.path.join(self.logs, suite.name + '.log')
        tap = Tap(suite.name, self.expected,
                  lambda n, name: self.show(suite.name, n, name))
        work = os.path.join(ROOT, 'build', 'work', suite.name)
        unmount_below(work)
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        for path in glob.glob(self.reports(suite) + '.*'):
            os.unlink(path)
        short = tempfile.mkdtemp(prefix='pmem-ha-', dir='/tmp')
        try:
            if build and not self.build(suite):
                tap.bad.append('build failed')
            else:
                start = time.monotonic()
                tap.finish(self.execute(suite, log, tap, work, short))
            left = unmount_below(work, short)
            if left:
                tap.bad.append('left %d mounts behind' % left)
            tap.bad += ['a sanitizer reports: ' + path for path in
                        sorted(glob.glob(self.reports(suite) + '.*'))
                        if self.is_finding(path)]
        except Interrupted as err:
            kill_rest(0)
            unmount_below(work, short)
            shutil.rmtree(short, ignore_errors=True)
            self.say('interrupted in %s; log: %s' % (suite.name, log))
            sys.exit(128 + err.args[0])
        if self.keep:
            self.say('# kept: %s %s' % (work, short))
        else:
            shutil.rmtree(short, ignore_errors=True)
            if not tap.bad:
                shutil.rmtree(work, ignore_errors=True)
        self.account(suite, tap, log, work, time.monotonic() - start)

    def execute(self, suite, log, tap, work, short):
        """Run the command within its budget; return its status."""
        with open(log, 'wb') as out:
            proc = subprocess.Popen(
                ['/bin/bash', '-c', 'exec ' + suite.command], cwd=ROOT,
                env=self.environment(suite, work, short),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out,
                start_new_session=True,
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))

            def pump():
                for raw in proc.stdout:
                    out.write(raw)
                    out.flush()
                    tap.line(raw.decode(errors='replace').rstrip('\n'))

            reader = threading.Thread(target=pump, daemon=True)
            reader.start()
            try:
                proc.wait(suite.budget)
            except subprocess.TimeoutExpired:
                tap.bad.append('not done within %d s' % suite.budget)
                self.stop(proc)
            except Interrupted:
                self.stop(proc)
                raise
            left = kill_rest(LINGER)
            # The pipe ends once its last writer is gone.
            reader.join(10)
            if left:
                tap.bad.append('left %d processes behind' % left)
            return proc.returncode if proc.returncode is not None else 1

    @staticmethod
    def stop(proc):
        """Ask the suite's session to clean up, then end what remains."""
        try:
            os.killpg(proc.pid, signal.SIGTERM)
        except OSError:
            pass
        try:
            proc.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        kill_rest(0)
        try:
            proc.wait(1)
        except subprocess.TimeoutExpired:
            pass

    def account(self, suite, tap, log, work, seconds):
        self.passed += tap.passed
        self.failed += len(tap.bad)
        self.skips += [(suite.name, t, r) for t, r in tap.skips]
        self.failures += [(suite.name, b) for b in tap.bad]
        self.say('%-20s %s  %d passed, %d failed, %d skipped  '
                 '(%.1f s of %d s)'
                 % (suite.name, 'FAIL' if tap.bad else 'ok  ', tap.passed,
                    len(tap.bad), len(tap.skips), seconds, suite.budget))
        for bad in tap.bad[:20]:
            self.say('    not ok: ' + bad)
        if tap.bad:
            self.say('    log: %s  files: %s' % (log, work))

    def summary(self, seconds):
        if len(self.failures) > 20 or self.failures:
            self.say('failed:')
            for name, bad in self.failures:
                self.say('  %s: %s' % (name, bad))
        self.say('total time: %.0f s' % seconds)
        for name, test, reason in self.skips:
            self.say('skipped: %s: %s: %s' % (name, test or 'all', reason))
        self.say('%d passed, %d failed' % (self.passed, self.failed))
        return 1 if self.failed else 0
