# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches as commits: what scripts/pq's commands share.

A tree (build/<base>/src) has the tag base/<version> and the branch pq.  A
patch becomes a commit by an index of its own and 'git commit-tree', so that
files of the work tree are touched once, at the end, and only where they
differ: ninja rebuilds little.
"""
import os
import re
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PATCHES = os.path.join(ROOT, 'patches')
NAME_RE = re.compile(r'^(\d{3})-[a-z0-9][a-z0-9.-]*\.patch$')
# Trailer that carries a file name through a commit; never exported
TRAILER = 'Pq-Name'
# One line of context is what survives between releases in lists of files;
# C needs git's usual three.
LISTS_RE = re.compile(r'(^|/)(meson\.build|meson_options\.txt|Kconfig[^/]*|'
                      r'MAINTAINERS|trace-events|[^/]*\.(rst|hx))$')


class PqError(Exception):
    pass


def sh(cmd, cwd=None, data=None, env=None, ok=(0,)):
    """Run cmd, return its output as bytes; a status not in ok is an error."""
    full = dict(os.environ, GIT_CONFIG_GLOBAL=os.devnull,
                GIT_CONFIG_SYSTEM=os.devnull, LC_ALL='C.UTF-8')
    full.update(env or {})
    if data is None:
        res = subprocess.run(cmd, cwd=cwd, env=full, check=False,
                             stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    else:
        res = subprocess.run(cmd, cwd=cwd, env=full, check=False, input=data,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if res.returncode not in ok:
        raise PqError('%s: %s' % (' '.join(cmd[:4]),
                                  res.stderr.decode(errors='replace').strip()
                                  or 'status %d' % res.returncode))
    return res.stdout


def text(cmd, cwd=None, **kw):
    return sh(cmd, cwd, **kw).decode(errors='replace').strip()


def bases():
    """[(id, status)] of bases.conf."""
    res = []
    with open(os.path.join(PATCHES, 'bases.conf'), encoding='utf-8') as f:
        for line in f:
            words = line.split('#')[0].split()
            if words:
                res.append((words[0], words[1]))
    return res


def primary():
    return next(b for b, status in bases() if status == 'primary')


def series():
    with open(os.path.join(PATCHES, 'series'), encoding='utf-8') as f:
        return [line.split('#')[0].strip() for line in f
                if line.split('#')[0].strip()]


def patch_path(base, name):
    """The file that holds patch name for a base, None: not needed there."""
    own = os.path.join(PATCHES, base, name)
    if os.path.exists(own):
        return own if os.path.getsize(own) else None
    return os.path.join(PATCHES, name)


class Tree:
    """A git tree with a base; path may be a bare repository."""

    def __init__(self, path, version=None, base=None):
        self.path = os.path.realpath(path)
        if version is None:
            with open(os.path.join(self.path, '.git', 'base'),
                      encoding='utf-8') as f:
                version = f.read().strip()
        self.tag = 'base/' + version
        # The name of a directory under build/ or of the release line
        self.base = base or os.path.basename(os.path.dirname(self.path))

    def git(self, *args, **kw):
        return sh(['git'] + list(args), self.path, **kw)

    def gtext(self, *args, **kw):
        return self.git(*args, **kw).decode(errors='replace').strip()

    def state(self, name):
        return os.path.join(self.path, '.git', name)

    def commits(self):
        return self.gtext('rev-list', '--reverse',
                          self.tag + '..pq').split()

    def apply(self, parent, path, name, index, three_way=False):
        """Commit the patch file on top of parent; return the commit."""
        with tempfile.TemporaryDirectory() as tmp:
            msg, diff = os.path.join(tmp, 'msg'), os.path.join(tmp, 'diff')
            with open(path, 'rb') as f:
                data = f.read()
            info = {}
            for line in self.git('mailinfo', '--encoding=UTF-8', msg, diff,
                                 data=data).decode().splitlines():
                if ': ' in line:
                    key, value = line.split(': ', 1)
                    info[key] = value
            for key in ('Author', 'Email', 'Subject', 'Date'):
                if key not in info:
                    raise PqError('%s: no %s' % (name, key))
            with open(msg, encoding='utf-8') as f:
                body = f.read()
            env = {'GIT_INDEX_FILE': index}
            if os.path.getsize(diff):
                cmd = ['apply', '--cached', '--whitespace=nowarn']
                if three_way:
                    cmd.append('--3way')
                self.git(*cmd, diff, env=env)
            tree = self.gtext('write-tree', env=env)
        message = sh(['git', 'stripspace'], data=(
            info['Subject'] + '\n\n' + body).encode()).decode()
        message = add_trailer(message, name)
        who = {'GIT_AUTHOR_NAME': info['Author'],
               'GIT_AUTHOR_EMAIL': info['Email'],
               'GIT_AUTHOR_DATE': info['Date'],
               # the same commit on every machine
               'GIT_COMMITTER_NAME': 'pq',
               'GIT_COMMITTER_EMAIL': 'pq@localhost',
               'GIT_COMMITTER_DATE': info['Date']}
        return self.gtext('commit-tree', '-p', parent, tree,
                          data=message.encode(), env=who)

    def build(self, names, three_way=False, on_three_way=None):
        """Apply the named patches to the base; return the last commit."""
        tip = self.gtext('rev-parse', self.tag + '^{commit}')
        with tempfile.TemporaryDirectory() as tmp:
            index = os.path.join(tmp, 'index')
            self.git('read-tree', tip, env={'GIT_INDEX_FILE': index})
            for name in names:
                path = patch_path(self.base, name)
                if path is None:
                    continue
                try:
                    tip = self.apply(tip, path, name, index)
                except PqError as err:
                    if not three_way:
                        raise PqError('%s does not apply to %s: %s' % (
                            name, self.tag, err)) from None
                    self.git('read-tree', tip,
                             env={'GIT_INDEX_FILE': index})
                    try:
                        tip = self.apply(tip, path, name, index, True)
                    except PqError as err2:
                        raise PqError('%s does not apply to %s: %s' % (
                            name, self.tag, err2)) from None
                    if on_three_way:
                        on_three_way(name)
        return tip


def add_trailer(message, name):
    lines = message.rstrip('\n').split('\n')
    # join the trailers' paragraph when the message ends with one
    last = lines[lines.index('') + 1:] if '' in lines else []
    while '' in last:
        last = last[last.index('') + 1:]
    if not (last and all(re.match(r'^[A-Z][A-Za-z-]+: |^\[|^\s', x)
                         for x in last)):
        lines.append('')
    lines.append('%s: %s' % (TRAILER, name))
    return '\n'.join(lines) + '\n'


def slug(subject):
    res = re.sub(r'[^a-z0-9]+', '-', subject.lower()).strip('-')
    return res[:50].strip('-')


def name_commits(tree, commits):
    """Give every commit a file name, in ascending order."""
    subjects = [tree.gtext('show', '-s', '--format=%s', c) for c in commits]
    names = []
    for c in commits:
        body = tree.gtext('show', '-s', '--format=%B', c)
        found = re.findall(r'^%s: (\S+)$' % TRAILER, body, re.M)
        name = found[-1] if found else None
        if name and not NAME_RE.match(name):
            raise PqError('bad %s: %s' % (TRAILER, name))
        names.append(name)
    previous = 0
    for i, name in enumerate(names):
        if name is None:
            later = [int(n[:3]) for n in names[i + 1:] if n]
            number = (previous // 10 + 1) * 10
            if later and number >= later[0]:
                number = (previous + later[0]) // 2
            names[i] = name = '%03d-%s.patch' % (number, slug(subjects[i]))
        number = int(name[:3])
        if number <= previous:
            raise PqError('%s follows number %03d: change its %s trailer' % (
                name, previous, TRAILER))
        previous = number
    return names


def format_patch(tree, commit):
    """The text of one patch file, without the trailer that names it."""
    files = tree.gtext('diff-tree', '--no-commit-id', '--name-only', '-r',
                       commit).split('\n')
    context = '-U1' if all(LISTS_RE.search(f) for f in files) else '-U3'
    out = tree.git(
        '-c', 'diff.algorithm=myers', '-c', 'diff.noprefix=false',
        'format-patch', '--stdout', '-1', '--zero-commit', '--no-signature',
        '--full-index', '-N', '--no-renames', '--no-attach', context, commit)
    head, mark, rest = out.partition(b'\n---\n')
    head = re.sub(rb'\n%s: \S+(?=\n|$)' % TRAILER.encode(), b'', head)
    # What follows the second @@ depends on attributes that a bare repository
    # does not see.
    rest = re.sub(rb'^(@@ -\S+ \+\S+ @@).*$', rb'\1', rest, flags=re.M)
    # The trailer may have been a paragraph of its own.
    return head.rstrip(b'\n') + mark + rest


def export_files(tree):
    """{file name: bytes} of the tree's commits, in order."""
    commits = tree.commits()
    return dict(zip(name_commits(tree, commits),
                    [format_patch(tree, c) for c in commits]))
