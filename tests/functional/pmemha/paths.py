# SPDX-License-Identifier: GPL-2.0-or-later
"""Where programs are, and how patient tests are"""

import os

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..',
                                     '..'))

# The environment may name another build of each program (QEMU=path), or a
# directory with all of them (PMEM_HA_BIN, from scripts/check).
PROGRAMS = {
    'QEMU': 'qemu-system-x86_64',
    'PMEM_REPLICA': 'qemu-pmem-replica',
    'PMEMCTL': 'qemu-pmemctl',
    'QEMU_IMG': 'qemu-img',
    'QEMU_IO': 'qemu-io',
    'PAGE_MAP_FLATTEN': 'qemu-page-map-flatten',
    'NUMA_PLAN': 'qemu-numa-plan',
    'VHOST_USER_BLK': 'vhost-user-blk',
}

# A build with sanitizers, or a loaded machine, wants more.
TIMEOUT_FACTOR = float(os.environ.get('TIMEOUT_FACTOR', '1'))


def scaled(seconds):
    """A bound as used: every wait of the harness goes through here."""
    return seconds * TIMEOUT_FACTOR


def program_path(name):
    base = os.environ.get('PMEM_HA_BIN') or os.path.join(ROOT, 'build', 'bin')
    return os.environ.get(name) or os.path.join(base, PROGRAMS[name])


def stock_program(name):
    """The program of QEMU as released, or None when that was not built"""
    base = os.environ.get('PMEM_HA_STOCK') or \
        os.path.join(ROOT, 'build', '10.0-stock', 'obj')
    path = os.environ.get(f'{name}_STOCK') or \
        os.path.join(base, PROGRAMS[name])
    return path if os.access(path, os.X_OK) else None


NO_STOCK = ('no QEMU as released to compare with: run scripts/build --stock, '
            'or set QEMU_STOCK')


def program(name):
    """Path of a program; an error that says how to get it when missing"""
    path = program_path(name)
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f'{path} is missing: run scripts/build, or '
                                f'set {name} to the program')
    return os.path.abspath(path)


def work_base():
    """Where the work directories of tests go"""
    return os.environ.get('WORK_DIR') or build_dir('work')


def build_dir(*names):
    path = os.path.join(ROOT, 'build', *names)
    os.makedirs(path, exist_ok=True)
    return path


def cache_dir(*names):
    """Downloads outlive the checkout (the scripts use the same place)."""
    base = os.environ.get('PMEM_HA_CACHE')
    if not base:
        base = os.path.join(os.environ.get('XDG_CACHE_HOME') or
                            os.path.expanduser('~/.cache'), 'qemu-pmem-ha')
    return os.path.join(base, *names)
