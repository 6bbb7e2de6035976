# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/pq check: what must hold of patches/ and of the overlay.

Needs no build: patches are applied in an index of their own on the releases
that the cache holds.
"""
import concurrent.futures
import functools
import hashlib
import os
import re
import subprocess
import tempfile

import pqlib
from pqlib import PATCHES, PqError, ROOT, Tree, sh, text

CACHE = os.environ.get('PMEM_HA_CACHE') or os.path.join(
    os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
    'qemu-pmem-ha')
# design of the series: hooks stay few
MAX_PATCHES, MAX_ADDED = 20, 400
# What checkpatch.pl says and does not apply here: new files are listed in the
# MAINTAINERS hook, which it does not see.  The sign-off is checked below.
IGNORED = re.compile(r'does MAINTAINERS need updating|Missing Signed-off-by')
# The check that names the patch says why.
UNAPPLIED = 'SKIP the patches do not apply'
# A guest without an operating system is not QEMU code: it shares variables
# between CPUs and with the hardware, and links with symbols of its own.
BARE = re.compile(r'^tests/baremetal/.*(Use of volatile|externs should be)')


def released(base):
    """Newest release of a base in the cache, or None."""
    git = os.path.join(CACHE, 'base.git')
    if not os.path.isdir(git):
        return None
    tags = text(['git', 'tag', '-l', 'base/%s.*' % base,
                 '--sort=-version:refname'], git).split()
    return tags[0][len('base/'):] if tags else None


def not_cached(base):
    return ('SKIP no QEMU %s in the cache; scripts/prepare --base %s fetches it'
            % (base, base))


def overlay():
    return text([os.path.join(ROOT, 'scripts', 'overlay'), 'list']).split('\n')


def check_series():
    """patches/series lists exactly the files, in the order of their names."""
    files = sorted(f for f in os.listdir(PATCHES) if f.endswith('.patch'))
    bad = []
    if files != pqlib.series():
        bad.append('patches/series differs from the files: %s' % ', '.join(
            sorted(set(files) ^ set(pqlib.series())) or ['order']))
    bad += ['%s: not NNN-slug.patch' % f for f in files
            if not pqlib.NAME_RE.match(f)]
    for base, _ in pqlib.bases():
        own = os.path.join(PATCHES, base)
        for name in os.listdir(own) if os.path.isdir(own) else []:
            if name not in files:
                bad.append('patches/%s/%s overrides nothing' % (base, name))
    return bad


def check_size():
    """Hooks are few and small."""
    added = 0
    for name in pqlib.series():
        with open(os.path.join(PATCHES, name), encoding='utf-8') as f:
            # Lines that say something
            added += sum(1 for line in f if line[:1] == '+' and
                         line[1:].strip() and not line.startswith('+++ '))
    bad = []
    if len(pqlib.series()) > MAX_PATCHES:
        bad.append('%d patches, at most %d' % (len(pqlib.series()),
                                               MAX_PATCHES))
    if added > MAX_ADDED:
        bad.append('%d added lines, at most %d' % (added, MAX_ADDED))
    return bad


def check_creates():
    """No patch creates a file: files are overlay."""
    bad = []
    for top, _, files in os.walk(PATCHES):
        for name in files:
            if not name.endswith('.patch'):
                continue
            with open(os.path.join(top, name), encoding='utf-8') as f:
                if re.search(r'^(new file mode|copy to|rename to) ', f.read(),
                             re.M):
                    bad.append(name + ' creates a file')
    return bad


def patch_files():
    """Every patch, those of single bases included"""
    files = [os.path.join(PATCHES, n) for n in pqlib.series()]
    for base, _ in pqlib.bases():
        own = [os.path.join(PATCHES, base, n) for n in pqlib.series()]
        # An empty one says that the base does not need the hook.
        files += [f for f in own if os.path.exists(f) and os.path.getsize(f)]
    return [f for f in files if os.path.exists(f)]


def check_messages():
    """Every hook says why it is one and carries a sign-off."""
    bad = []
    for path in patch_files():
        name = os.path.relpath(path, PATCHES)
        with open(path, encoding='utf-8') as f:
            head = f.read().split('\n---\n')[0]
        subject = re.search(r'^Subject: \[PATCH\] (.*(?:\n .*)*)', head, re.M)
        if not subject or not re.match(r'[\w/.,{}+ -]+: \S', subject[1]):
            bad.append(name + ': the subject has no subsystem prefix')
        elif subject[1].endswith('.'):
            bad.append(name + ': the subject ends with a dot')
        if '\nSigned-off-by: ' not in head:
            bad.append(name + ': no Signed-off-by')
        if pqlib.TRAILER + ':' in head:
            bad.append(name + ': has a %s trailer' % pqlib.TRAILER)
    return bad


@functools.lru_cache(None)
def apply_series(base, version):
    """{file name: bytes} of what the series exports on a release"""
    git = os.path.join(CACHE, 'base.git')
    with tempfile.TemporaryDirectory() as tmp:
        # A clone that borrows the objects: nothing is added to the cache.
        repo = os.path.join(tmp, 'r')
        sh(['git', 'clone', '-q', '--bare', '--shared', git, repo])
        tree = Tree(repo, version, base)
        tip = tree.build(pqlib.series())
        tree.git('update-ref', 'refs/heads/pq', tip)
        return pqlib.export_files(tree)


def check_round_trip(base):
    """Importing and exporting gives the same bytes: of every patch on the
    primary base, of a base's own ones elsewhere."""
    version = released(base)
    if not version:
        return not_cached(base)
    try:
        files = apply_series(base, version)
    except PqError:
        return UNAPPLIED
    bad = []
    for name in pqlib.series():
        path = pqlib.patch_path(base, name)
        if path is None or (base != pqlib.primary() and
                            path == os.path.join(PATCHES, name)):
            continue
        with open(path, 'rb') as f:
            if f.read() != files.get(name):
                bad.append('%s differs from its export'
                           % os.path.relpath(path, ROOT))
    return bad


def check_tree():
    """The commits of the primary's tree are what patches/ holds."""
    path = os.path.join(ROOT, 'build', pqlib.primary(), 'src')
    if not os.path.exists(os.path.join(path, '.git', 'ready')):
        return 'SKIP no tree yet; scripts/prepare makes it'
    tree = Tree(path)
    if tree.gtext('status', '--porcelain', '--untracked-files=no'):
        return ['build/%s/src has uncommitted changes' % pqlib.primary()]
    # Equal patches are equal commits.
    try:
        if tree.build(pqlib.series()) == tree.gtext('rev-parse', 'pq'):
            return []
    except PqError:
        return UNAPPLIED
    files = pqlib.export_files(tree)
    bad = []
    for name in sorted(set(files) | set(pqlib.series())):
        try:
            with open(os.path.join(PATCHES, name), 'rb') as f:
                have = f.read()
        except OSError:
            have = None
        if have != files.get(name):
            bad.append(name)
    return ["%s: patches/ and build/%s/src differ; 'scripts/pq export'"
            % (', '.join(bad) or 'commits', pqlib.primary())]


def check_applies(base):
    version = released(base)
    if not version:
        return not_cached(base)
    try:
        apply_series(base, version)
    except PqError as err:
        return [str(err)]
    return []


def check_shadow(base):
    version = released(base)
    if not version:
        return not_cached(base)
    theirs = set(text(['git', 'ls-tree', '-r', '--name-only',
                       'base/' + version],
                      os.path.join(CACHE, 'base.git')).split('\n'))
    return ['%s is a file of QEMU %s' % (f, version)
            for f in overlay() if f in theirs]


def checkpatch(args):
    src = os.path.join(ROOT, 'build', pqlib.primary(), 'src')
    script = os.path.join(src, 'scripts', 'checkpatch.pl')
    if not os.path.exists(script):
        return 'SKIP no tree yet; scripts/prepare makes it'
    if not args:
        return []
    opts = ['--no-tree', '--terse', '--no-summary']
    if args[0] == '-f':
        opts.append(args.pop(0))

    def part(names):
        # From our root: some rules look at the path, as in 'tests/'.
        return subprocess.run(['perl', script] + opts + names, cwd=ROOT,
                              stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT).stdout.decode()

    parts = [args[i:i + 8] for i in range(0, len(args), 8)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        out = ''.join(pool.map(part, parts))
    return [line for line in out.splitlines()
            if re.search(r'(WARNING|ERROR)', line)
            and not IGNORED.search(line) and not BARE.search(line)]


def style_marks(files):
    """{file: what exists once checkpatch.pl has had no objection to it}"""
    base = os.path.join(ROOT, 'build', pqlib.primary())
    with open(os.path.join(base, 'src/scripts/checkpatch.pl'), 'rb') as f:
        script = f.read()
    res = {}
    for name in files:
        with open(os.path.join(ROOT, name), 'rb') as f:
            key = hashlib.sha256(b'\0'.join((
                script, IGNORED.pattern.encode(), BARE.pattern.encode(),
                name.encode(), f.read())))
        res[name] = os.path.join(base, 'checkpatch', key.hexdigest())
    return res


def check_mutations():
    """tests/mutations fit the files that they break: a run takes a build."""
    out = subprocess.run([os.path.join(ROOT, 'tests', 'mutations', 'run'),
                          '--check'], stdout=subprocess.PIPE, check=False,
                         stdin=subprocess.DEVNULL,
                         stderr=subprocess.STDOUT)
    lines = out.stdout.decode(errors='replace').splitlines()
    return [line.lstrip('# ') for line in lines
            if not re.match(r'ok |1\.\.', line)] if out.returncode else []


def check_style_patches():
    return checkpatch(patch_files())


def check_style_overlay():
    """It takes most of the time, so a file is looked at once."""
    files = [f for f in overlay() if f.endswith(('.c', '.h', '.c.inc'))]
    try:
        marks = style_marks(files)
    except FileNotFoundError:
        return checkpatch(files)            # says why not
    files = [f for f in files if not os.path.exists(marks[f])]
    found = checkpatch(['-f'] + files) if files else []
    if not found:
        for name in files:
            os.makedirs(os.path.dirname(marks[name]), exist_ok=True)
            with open(marks[name], 'w'):
                pass
    return found


def checks():
    yield 'series lists the patches', check_series
    yield 'hooks are few', check_size
    yield 'no patch creates a file', check_creates
    yield 'messages', check_messages
    yield 'tree equals patches', check_tree
    for base, status in pqlib.bases():
        yield 'export equals patches' + (
            '' if status == 'primary' else '/' + base), \
            lambda base=base: check_round_trip(base)
        yield 'applies without fuzz to %s' % base, \
            lambda base=base: check_applies(base)
        yield 'overlay shadows no file of %s' % base, \
            lambda base=base: check_shadow(base)
    yield 'checkpatch: patches', check_style_patches
    yield 'checkpatch: overlay', check_style_overlay
    yield 'mutations fit the overlay', check_mutations


def run(tap, words=()):
    failed = 0
    number = 0
    for name, func in checks():
        if words and not any(w in name for w in words):
            continue
        number += 1
        try:
            res = func()
        except (PqError, OSError) as err:
            res = [str(err)]
        if isinstance(res, str):
            print('ok %d - %s # %s' % (number, name, res))
        elif res:
            failed += 1
            print('not ok %d - %s' % (number, name))
            for line in res[:50]:
                print('# ' + line)
        else:
            print('ok %d - %s' % (number, name))
    if tap:
        print('1..%d' % number)
    return 1 if failed else 0
