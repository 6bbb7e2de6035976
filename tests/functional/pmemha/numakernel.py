# SPDX-License-Identifier: GPL-2.0-or-later
"""
The kernel of another release of Debian, from where the machine's own packages
come: that of 13 has interfaces that 12 has not
"""

import fcntl
import glob
import lzma
import os
import re
import subprocess

from .paths import cache_dir

KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg'


# What a guest of the guest with vhost needs, in the order to insert it
MODULES = ('tun', 'tap', 'vhost_iotlb', 'vhost', 'vhost_net')


class NoKernel(Exception):
    """It can not be had, and why"""


def _run(*argv, **kw):
    try:
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, **kw).stdout
    except FileNotFoundError as e:
        raise NoKernel(f'{argv[0]} is not there') from e
    except subprocess.CalledProcessError as e:
        raise NoKernel(f'{argv[0]}: {e.stderr.strip()}') from e


def _source(release):
    """A line for apt: the machine's own source, of another release"""
    found = _run('apt-get', 'indextargets', '--format',
                 '$(REPO_URI) $(CODENAME)', 'Created-By: Packages')
    signed = f'[signed-by={KEYS}] ' if os.path.exists(KEYS) else ''
    for line in found.splitlines():
        uri, codename = line.split(' ')
        if re.fullmatch(r'[a-z]+', codename):       # no updates, no security
            return f'deb {signed}{uri} {release} main\n'
    raise NoKernel('apt has no source of Debian')


def _unpack(package, base):
    """Its vmlinuz and MODULES, unpacked, in the directory; the kernel last"""
    for name in MODULES:
        found = glob.glob(f'{package}/**/{name}.ko.xz', recursive=True)
        if not found:
            raise NoKernel(f'the package has no {name}.ko.xz')
        path = os.path.join(base, f'{name}.ko')
        with lzma.open(found[0]) as f, open(f'{path}.new', 'wb') as out:
            out.write(f.read())
        os.rename(f'{path}.new', path)
    [kernel] = glob.glob(os.path.join(package, 'boot', 'vmlinuz-*'))
    os.rename(kernel, os.path.join(base, 'vmlinuz'))


def debian_kernel(release='trixie'):
    """
    Path of its vmlinuz, beside which NAME.ko of MODULES are, fetched when they
    are not there; NoKernel when it can not be had.  Nothing is installed, and
    the machine's own lists stay.
    """
    base = cache_dir('guest', f'kernel-{release}')
    path = os.path.join(base, 'vmlinuz')
    for d in ('lists/partial', 'cache/archives/partial'):
        os.makedirs(os.path.join(base, d), exist_ok=True)
    with open(os.path.join(base, 'lock'), 'w', encoding='ascii') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(os.path.exists(os.path.join(base, n)) for n in
               ('vmlinuz', *(f'{m}.ko' for m in MODULES))):
            return path
        sources = os.path.join(base, 'sources.list')
        with open(sources, 'w', encoding='ascii') as f:
            f.write(_source(release))
        options = ['-qq', '-o', f'Dir::Etc::SourceList={sources}',
                   '-o', 'Dir::Etc::SourceParts=/dev/null',
                   '-o', f'Dir::State::Lists={base}/lists',
                   '-o', 'Dir::State::Status=/dev/null',
                   '-o', f'Dir::Cache={base}/cache',
                   '-o', 'Acquire::Languages=none',
                   '-o', 'APT::Sandbox::User=root']
        _run('apt-get', *options, 'update')
        depends = _run('apt-cache', *options, 'depends', 'linux-image-amd64')
        package = re.search(r'Depends: (linux-image-\d\S+)', depends)
        if not package:
            raise NoKernel(f'{release} has no linux-image-amd64')
        _run('apt-get', *options, 'download', package[1], cwd=base)
        [deb] = [n for n in os.listdir(base) if n.endswith('.deb')]
        _run('dpkg-deb', '-x', deb, 'root', cwd=base)
        _unpack(os.path.join(base, 'root'), base)
        _run('rm', '-rf', 'root', 'lists', 'cache', deb, cwd=base)
        return path
