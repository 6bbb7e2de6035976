# SPDX-License-Identifier: GPL-2.0-or-later
"""
A Linux guest that is a host with NUMA nodes, its load of
tests/functional/numaload, and the accesses that tests/plugins/numa-score.c
counts from outside
"""

import fcntl
import glob
import hashlib
import os
import re
import subprocess

from .linux import LinuxGuest
from .paths import ROOT, build_dir
from .ranks import overlap, spearman

LOAD = os.path.join(ROOT, 'tests', 'functional', 'numaload')
HEADER = 'src/include/qemu/qemu-plugin.h'

# as numaload.h has them
BEGIN, END, WATCHED = 1 << 31, (1 << 31) + 1, (1 << 31) + 2
DATA, MARK = 0x200000000000, 0x200000000000 - (2 << 20)
PAGES = MARK + 8
CODE, CODE_BYTES = 0x100000000000, 64 << 12

# Time of the guest is the number of instructions run, so that neither the
# machine nor its load changes a figure; idle time passes at once.
ICOUNT = 'shift=2,sleep=off'

# An instruction for each byte that is cleared or copied would make the move of
# a page ten times as dear as it is.
CPU = 'max,erms=off,fsrm=off'
APPEND = 'init_on_alloc=0'


def built(name, sources, more, command, *libs):
    """Path of what @command makes of @sources, which include @more; kept while
    neither they nor the command change"""
    path = os.path.join(build_dir('tools'), name)
    command = [*command, '-o', f'{path}.new', *sources, *libs]
    h = hashlib.sha256('\0'.join(command).encode())
    for source in sources + more:
        with open(source, 'rb') as f:
            h.update(f.read())
    with open(f'{path}.made-of', 'a+', encoding='ascii') as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        made.seek(0)
        if made.read() != h.hexdigest() or not os.path.exists(path):
            run = subprocess.run(command, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True,
                                 check=False)
            assert not run.returncode, f'{name}: {run.stdout}'
            os.rename(f'{path}.new', path)
            made.truncate(0)
            made.write(h.hexdigest())
    return path


def flags(*words):
    return subprocess.run(['pkg-config', *words, 'glib-2.0'], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.split()


def qemu_base():
    """Of the QEMU whose sources and objects are there"""
    for base in ('10.0', '10.2'):
        path = os.path.join(ROOT, 'build', base)
        if os.path.exists(os.path.join(path, HEADER)):
            return path
    return None


def have_sources():
    return qemu_base() is not None


def source(*path):
    """Of the prepared tree, where a mutation breaks it"""
    return os.path.join(qemu_base(), 'src', *path)


def have_mover():
    return have_sources() and all(
        os.path.exists(source('accel/kvm/numa-sched', n))
        for n in ('mover.c', 'heat.c'))


def plugin():
    include = os.path.dirname(os.path.join(qemu_base(), HEADER))
    return built('numa-score.so', [source('tests/plugins/numa-score.c')], [],
                 ['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra',
                  '-Wno-unused-parameter', '-shared', '-fPIC',
                  '-I', include], *flags('--cflags', '--libs'))


def in_dir(base, pattern):
    return sorted(glob.glob(os.path.join(base, pattern)))


def load_program():
    """With the mover and what it needs, as the tree has them"""
    mine = [os.path.join(LOAD, n) for n in ('main.c', 'load.c', 'peers.c')]
    command = ['gcc', '-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall', '-static',
               '-s']
    if not have_mover():
        return built('numaload', mine + [os.path.join(LOAD, 'ours-none.c')],
                     in_dir(LOAD, '*.h'), command, '-lm', '-lpthread')
    base = qemu_base()
    sched = source('accel/kvm/numa-sched')
    theirs = [f for pattern in ('move*.c', 'heat*.c', 'pagemap*.c',
                                 'damon*.c', 'perf*.c', 'ring.c', 'parse.c')
              for f in in_dir(sched, pattern)]
    include = [sched, ROOT, f'{base}/src/include', f'{base}/obj',
               f'{base}/obj/qapi']
    return built('numaload-ours', mine + [os.path.join(LOAD, 'ours.c')] +
                 theirs, in_dir(LOAD, '*.h') + in_dir(sched, '*.h'),
                 [*command, *(f'-I{d}' for d in include)],
                 '-Wl,--start-group', f'{base}/obj/libqemuutil.a',
                 *in_dir(f'{base}/obj/libqom.a.p', '*.o'),
                 *flags('--static', '--cflags', '--libs'), '-lm', '-lpthread',
                 '-Wl,--end-group')


def cpio_file(name, data):
    """An archive in the kernel's format with one program; None: a directory"""
    out = b''
    for n, mode, content in (
            (name, 0o40755 if data is None else 0o100755, data or b''),
            ('TRAILER!!!', 0, b'')):
        fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(n) + 1,
                  0)
        out += b'070701' + ''.join(f'{v:08x}' for v in fields).encode()
        out += n.encode() + b'\0'
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return out


class Result:
    """
    A run.  `steps`: of each interval, {(node of the CPU, of the memory):
    accesses}; figures of the program are attributes.  `counts`: accesses to
    each page while the load was at home; `scores`: what was known of them then,
    or None.
    """

    def __init__(self, words, notes, marks, node_of, interval, counts, scores):
        self.notes = notes
        self.counts = counts
        self.scores = scores
        self.interval = interval
        self.words = {}
        for name, value in (w.split('=') for w in words.split()):
            self.words[name] = int(value) if value.isdigit() else value
        totals = []
        for counts in marks:
            at = {}
            for vcpu, per_node in counts.items():
                for node, n in per_node.items():
                    key = node_of[vcpu], node
                    at[key] = at.get(key, 0) + n
            totals.append(at)
        self.steps = [{k: b[k] - a.get(k, 0) for k in b if
                       b[k] != a.get(k, 0)} for a, b in
                      zip(totals, totals[1:])]
        self.remote = []
        for s in self.steps:
            # nothing ran: as before
            before = self.remote[-1] if self.remote else 1.0
            self.remote.append(self.share(s) if s else before)

    def __getattr__(self, name):
        if name == 'words' or name not in self.words:
            raise AttributeError(name)
        return self.words[name]

    @staticmethod
    def share(step):
        """Of accesses, those to another node"""
        return sum(n for (a, b), n in step.items() if a != b) / \
            sum(step.values())

    @property
    def work(self):
        """Accesses in the window: what the load could do meanwhile"""
        return sum(n for s in self.steps for n in s.values())

    @property
    def watched(self):
        """Accesses while the load was at home: what it could do there"""
        return sum(self.counts)

    @property
    def correlation(self):
        """Of what was known of pages with their accesses: that of ranks"""
        return spearman(self.scores, self.counts)

    @property
    def top(self):
        """Share of the most accessed tenth of pages that is known as such"""
        return overlap(self.scores, self.counts, .1)

    def costs(self, order):
        """
        What an estimator costs, in comparison to the run in which memory moves
        in the order of addresses, which was at home as long.  vCPUs run in
        turns and have one clock: while a look runs, the load does, too.
        """
        assert order.warm == self.warm and order.window == self.window
        text = []
        for phase, ms, mine, other in (
                ('watching', self.warm, self.watched, order.watched),
                ('moving', self.window, self.work, order.work)):
            look, kernel = (self.words[f'{phase}-{w}'] / 10 / ms
                            for w in ('look', 'kernel'))
            text.append(f'{phase}: looks {look:.1f} %, kernel thread '
                        f'{kernel:.1f} % of a vCPU, load {mine / other:.3f}')
        return '; '.join(text)

    @property
    def area(self):
        """Mean remote share of the window"""
        return sum(self.remote) / len(self.remote)

    def cost(self, distance):
        """Mean distance of an access in the window"""
        total = sum(n for s in self.steps for n in s.values())
        return sum(n * distance[a][b] for s in self.steps
                   for (a, b), n in s.items()) / total

    def t(self, local):
        """ms until that share of accesses is local; None: never"""
        for i, remote in enumerate(self.remote):
            if 1 - remote >= local:
                return (i + 1) * self.interval
        return None

    def __str__(self):
        w = self.words
        more = ' '.join(f'{k}={v}' for k, v in w.items() if k not in (
            'run', 'peer', 'moved', 'large', 'kept', 'calls', 'accesses',
            'us', 'warm', 'window', 'look'))
        known = '' if self.scores is None else \
            f', correlation {self.correlation:.3f} top {self.top:.3f}'
        return (f'area {self.area:.3f} t50 {self.t(.5)} '
                f't90 {self.t(.9)} ms, {w["moved"] * 4 / 1024:.1f} MiB in '
                f'{w["calls"]} calls, large pages {w["large"]} -> '
                f'{w["kept"]}, {self.work} accesses, {w["us"] // 1000} ms '
                f'of CPU{known}, {more}')


class NumaGuest(LinuxGuest):
    """
    Nodes of @mib with @cpus each.  @distance: of the nodes, rows; @hmat:
    latencies by ns, rows, too.  @kernel: another one than the guest's.
    """

    def __init__(self, work, name='numa', nodes=2, cpus=2, mib=384,
                 distance=None, hmat=None, append='',
                 kernel=os.environ.get('NUMA_KERNEL'),
                 **kw):
        super().__init__(
            work, name, memory=f'{nodes * mib}M', smp=nodes * cpus,
            machine='q35,hmat=on' if hmat else 'q35',
            cpu=CPU, append=f'{APPEND} {append}'.strip(), **kw)
        assert nodes * mib <= 2048          # nothing above 4 GiB
        self.node_of = [c // cpus for c in range(nodes * cpus)]
        self.score = work.path(f'{name}.score')
        self.runs = 0
        self.distance = distance or [
            [10 if a == b else 20 for b in range(nodes)]
            for a in range(nodes)]
        options = [f'out={self.score}', f'code={CODE:#x}:{CODE_BYTES}',
                   f'data={DATA:#x}:{1 << 32}', f'mark={MARK:#x}',
                   f'pages={PAGES:#x}']
        for n in range(nodes):
            self.add('-object', f'memory-backend-ram,id=m{n},size={mib}M',
                     '-numa', f'node,nodeid={n},memdev=m{n},'
                     f'cpus={n * cpus}-{(n + 1) * cpus - 1}'
                     + (f',initiator={n}' if hmat else ''))
            options.append(f'node={n}:{n * mib << 20:#x}:{mib << 20:#x}')
        for a in range(nodes):
            for b in range(nodes):
                self.add('-numa', f'dist,src={a},dst={b},'
                         f'val={self.distance[a][b]}')
                if hmat:
                    for what, value in (('latency', f'latency={hmat[a][b]}'),
                                        ('bandwidth', 'bandwidth=10G')):
                        self.add('-numa', f'hmat-lb,initiator={a},target={b},'
                                 'hierarchy=memory,'
                                 f'data-type=access-{what},{value}')
        self.add('-icount', ICOUNT, '-plugin',
                 f'{plugin()},{",".join(options)}')
        # The kernel unpacks what follows the archive of the guest, too.
        at = self.argv.index('-initrd') + 1
        with open(self.argv[at], 'rb') as f:
            archive = f.read()
        with open(load_program(), 'rb') as f:
            archive += bytes(-len(archive) % 4) + \
                cpio_file('bin/numaload', f.read())
        self.argv[at] = work.write(f'{name}.initramfs', archive)
        if kernel:
            self.argv[self.argv.index('-kernel') + 1] = kernel

    def marks(self, run):
        """{value: what was counted at a mark of a run, {vCPU: {node: n}}}"""
        found = {}
        with open(self.score, encoding='ascii') as f:
            for line in f:
                m = re.match(r'mark (\d+)(.*)\n', line)
                if m and int(m[1]) >> 32 == run:
                    found[int(m[1]) & 0xffffffff] = {
                        int(v): {int(a): int(b) for a, b in (
                            w.split('=') for w in per.split(','))}
                        for v, per in (p.split(':') for p in m[2].split())}
        return found

    def page_counts(self, run, pages):
        """Accesses to each page of a run's load while it was at home"""
        found = {}
        with open(self.score, encoding='ascii') as f:
            for line in f:
                word, value, *at = line.split()
                if word == 'pages' and int(value) >> 32 == run:
                    found[int(value) & 0xffffffff] = {
                        int(i): int(n) for i, n in (w.split('=') for w in at)}
        before, after = found[BEGIN], found[WATCHED]
        return [after.get(i, 0) - before.get(i, 0) for i in range(pages)]

    def run(self, peer, timeout=120, interval=50, window=4000, mib=32,
            **options):
        """A load and who moves its memory; options as main.c has them"""
        self.runs += 1
        words = ' '.join(f'{k.replace("_", "-")}={int(v)}' for k, v in
                         options.items())
        lines = self.sh(f'numaload peer={peer} run={self.runs} '
                        f'interval={interval} window={window} mib={mib} '
                        f'{words}',
                        timeout)
        [done] = [t for t in lines if t.startswith('DONE ')]
        notes = [t for t in lines if not t.startswith(('DONE ', 'SCORES '))]
        scores = [int(n) for t in lines if t.startswith('SCORES ')
                  for n in t.split()[1:]]
        marks = self.marks(self.runs)
        result = Result(done[5:], notes,
                        [marks[i] for i in range(window // interval + 1)],
                        self.node_of, interval,
                        self.page_counts(self.runs, mib * 256), scores or None)
        counted = total(marks[END]) - total(marks[BEGIN])
        assert counted == result.accesses, \
            f'{counted} accesses of {result.accesses} were counted'
        return result


def total(counts):
    return sum(sum(per.values()) for per in counts.values())
