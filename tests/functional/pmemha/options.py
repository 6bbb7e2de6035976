# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers that a test takes from its command line, as --name N"""

import sys


def option(name, default):
    """
    The value of --name N or --name=N, removed from sys.argv so that the
    runner does not see it.
    """
    for i, arg in enumerate(sys.argv[1:], 1):
        if arg == f'--{name}':
            value = sys.argv[i + 1]
            del sys.argv[i:i + 2]
            return int(value, 0)
        if arg.startswith(f'--{name}='):
            del sys.argv[i]
            return int(arg.split('=', 1)[1], 0)
    return default
