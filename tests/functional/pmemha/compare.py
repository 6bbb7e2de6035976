# SPDX-License-Identifier: GPL-2.0-or-later
"""
Two builds of the series beside each other: the same work by each in turn, and
by each of them twice, which is the noise.
"""

import contextlib
import os
import random
import shutil
import statistics
import subprocess
import time

from .baremetal import BareMetal
from .linux import PMEM_SIZE, LinuxGuest, latency
from .paths import PROGRAMS, ROOT, build_dir, program_path
from .process import kill_all
from .replica import Replica
from .testcase import WorkDir

ROUNDS = 11
CALLS = 200                     # of fsync, in a round
RECORDS = 4000                  # of the bare-metal guest, in a round
TMPFS = '/dev/shm'
TMPFS_WANTED = 3 << 30
SMALL = 8 << 20


THIS = 'this build', 'this build again'
BASE = 'baseline', 'baseline again'
PAIRS = THIS, BASE


def programs_of(baseline):
    """
    Directory of the programs of a commit of this repository, built once in a
    clone below build/; or the directory that is named.
    """
    if os.path.isdir(baseline):
        return baseline
    known = subprocess.run(['git', 'rev-parse', '-q', '--verify',
                            f'{baseline}^{{commit}}'], cwd=ROOT, text=True,
                           stdout=subprocess.PIPE, check=False)
    if known.returncode:
        raise SystemExit(f'--baseline {baseline}: neither a directory nor a '
                         'commit that this clone has; give the directory with '
                         "the programs of a build (its build/bin)")
    commit = known.stdout.strip()
    clone = os.path.join(build_dir('baseline'), commit[:12])
    if not os.path.isdir(os.path.join(clone, '.git')):
        subprocess.run(['git', 'clone', '-q', '--shared', '--no-checkout',
                        ROOT, clone], check=True)
    # Also after a run that was killed between the two
    subprocess.run(['git', '-C', clone, 'checkout', '-q', '--detach', commit],
                   check=True)
    env = {k: v for k, v in os.environ.items() if k not in PROGRAMS}
    return subprocess.run(
        ['scripts/build', 'qemu-system-x86_64',
         'tools/qemu-pmem-replica/qemu-pmem-replica'], cwd=clone, env=env,
        text=True, stdout=subprocess.PIPE, check=True).stdout.split()[-1]


class Build:
    """The programs of one build"""

    def __init__(self, name, directory=None):
        self.name = name
        self.tag = name.replace(' ', '-')
        self.paths = {}
        for key in ('QEMU', 'PMEM_REPLICA'):
            path = os.path.join(directory, PROGRAMS[key]) if directory \
                else program_path(key)
            if not os.access(path, os.X_OK):
                raise SystemExit(f'{path} is missing: run scripts/build, or '
                                 'give --baseline a directory with programs')
            self.paths[key] = os.path.realpath(path)

    def replica(self, work, name, **kw):
        return Replica(work, f'{self.tag}-{name}', image=f'{self.tag}-{name}'
                       '.img', binary=self.paths['PMEM_REPLICA'], **kw)


def builds(baseline):
    directory = programs_of(baseline)
    return [*(Build(name) for name in THIS),
            *(Build(name, directory) for name in BASE)]


def cpu_ms(*processes):
    ticks = 0
    for p in processes:
        with open(f'/proc/{p.pid}/stat', encoding='utf-8') as f:
            fields = f.read().rpartition(')')[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * 1000 / os.sysconf('SC_CLK_TCK')


def in_turn(items, n):
    """Another one is the first of each round."""
    at = n % len(items)
    return items[at:] + items[:at]


class Debian:
    """fsync of 4 KiB in a guest of each build, all running at once"""

    figures = (('fsync of 4 KiB in a Debian guest, p50', 'us'),)

    def __init__(self, work, which):
        self.guests = {}
        for b in which:
            r = b.replica(work, 'deb', size=PMEM_SIZE).start()
            g = LinuxGuest(work, f'{b.tag}-guest', binary=b.paths['QEMU'])
            g.add('-object', r.object('r0'))
            work.sparse(f'{b.tag}.img', PMEM_SIZE)
            g.pmem(f'{b.tag}.img', 0, device='pmem-ha',
                   props=f'replica=r0,state-file={b.tag}.state')
            g.boot()
            g.sh('pmem-setup /ha', 120)
            g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync',
                       60)
            self.guests[b.name] = g, r

    def measure(self, build, _n):
        lines = self.guests[build.name][0].sh(
            f'fsyncer -q -m fsync -n {CALLS} -w 16 /ha/f', 120)
        return (latency(lines)['fsync']['p50'] / 1000,)

    def close(self):
        for g, r in self.guests.values():
            g.kill()
            r.kill()


class Bare:
    """Records of one page by one vCPU: a new guest and replica each time"""

    figures = ((f'{RECORDS} records of the bare-metal guest', 'ms'),
               ('processor time of QEMU and the replica for them', 'ms'))

    def __init__(self, work, _which):
        self.work = work

    def measure(self, b, n):
        r = b.replica(self.work, f'bare{n}', size=SMALL).start()
        name = f'{b.tag}-{n}'
        g = BareMetal(self.work, f'workload=records pages=1 words=1 area=4 '
                      f'records={RECORDS}', name=name, binary=b.paths['QEMU'])
        g.add('-object', r.object('r0'), '-S')
        g.pmem_file(f'{name}.img', SMALL, device='pmem-ha',
                    props=f'replica=r0,state-file={name}.state')
        g.start()
        g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync', 60)
        started, used = time.monotonic(), cpu_ms(g, r)
        g.qmp.cmd('cont')
        when, _ = g.out.wait_line('^END', 120)
        used = cpu_ms(g, r) - used
        g.kill()
        r.kill()
        for file in os.listdir(self.work.dir):
            os.unlink(self.work.path(file))
        return (when - started) * 1000, used

    def close(self):
        pass


@contextlib.contextmanager
def places(work):
    """
    Directories with what to call them: on a disk, each fdatasync counts and
    the disk's own speed varies; on a tmpfs the programs alone count.
    """
    found = {'disk': work}
    if os.path.isdir(TMPFS) and shutil.disk_usage(TMPFS).free >= TMPFS_WANTED:
        found['tmpfs'] = WorkDir('bench-fsync', TMPFS)
    try:
        yield found
    finally:
        kill_all()
        if 'tmpfs' in found:
            found['tmpfs'].close(False)


def compare(work, baseline, step):
    """{workload: {'unit', 'rounds': {build: [figure of each round]}}}"""
    which = builds(baseline)
    found = {}
    with places(work) as dirs:
        for place, directory in dirs.items():
            for kind in (Debian, Bare):
                measure(kind(directory, which), which, place, found, step)
    return found


def measure(bench, which, place, found, step):
    names = [f'{name}, files on {place}' for name, _ in bench.figures]
    for name, (_, unit) in zip(names, bench.figures):
        found[name] = {'unit': unit, 'rounds': {b.name: [] for b in which}}
    for n in range(ROUNDS + 1):
        step(f'{names[0]}: round {n} of {ROUNDS}')
        for b in in_turn(which, n):
            measured = bench.measure(b, n)
            if not n:                   # the first round warms up
                continue
            for name, figure in zip(names, measured):
                found[name]['rounds'][b.name].append(figure)
    bench.close()


def noise_of_median(ratios, n):
    """
    Between what a median of `n` such ratios of equals lies in 95 of 100 cases:
    drawn anew from them, either of the two being the first one.
    """
    both = ratios + [1 / r for r in ratios]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(both, k=n))
                     for _ in range(2000))
    return medians[50], medians[-51]


def spread(values, digits=0):
    return (f'{statistics.median(values):.{digits}f} '
            f'({min(values):.{digits}f} to {max(values):.{digits}f})')


def report(found, baseline):
    """Lines of a table, and the ratios round by round"""
    yield (f'This build beside {baseline}: median of {ROUNDS} rounds in turn '
           '(min to max), TCG')
    for name, f in found.items():
        rounds = f['rounds']
        yield ''
        yield f"{name}, {f['unit']}"
        for build, values in rounds.items():
            yield f'  {build:<16} {spread(values)}'
        equal = []
        for one, other in PAIRS:
            ratios = [a / b for a, b in zip(rounds[other], rounds[one])]
            equal += ratios
            yield f'  A/A   {spread(ratios, 3)} {other} : {one}'
        ratios = [a / b for pair in zip(*PAIRS)
                  for a, b in zip(*(rounds[n] for n in pair))]
        yield f'  ratio {spread(ratios, 3)} this build : baseline'
        low, high = noise_of_median(equal, len(ratios))
        middle = statistics.median(ratios)
        yield (f'  the median ratio is %s {low:.3f} to {high:.3f}, the noise of '
               'such a median (95 %%)'
               % ('above' if middle > high else
                  'below' if middle < low else 'within'))
