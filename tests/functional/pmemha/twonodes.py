# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that believes that this host has a second NUMA node, and its faults"""

import os

from .numaguest import built
from .paths import ROOT

SOURCE = os.path.join(ROOT, 'tests', 'functional', 'twonodes', 'twonodes.c')


def library():
    return built('twonodes.so', [SOURCE], [],
                 ['gcc', '-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall',
                  '-Wextra', '-Werror', '-shared', '-fPIC'], '-ldl')


def environment(**faults):
    """Of the process: @faults are the variables that twonodes.c names"""
    return {**os.environ, 'LD_PRELOAD': library(),
            **{f'TWONODES_{name.upper()}': str(value)
               for name, value in faults.items()}}
