# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test takes from its command line, as --name N"""

import sys


def number(text):
    return int(text, 0)


def option(name, default, kind=number):
    """
    The value of --name N or --name=N, removed from sys.argv so that the
    runner does not see it.  `kind` makes it of the text.
    """
    for i, arg in enumerate(sys.argv[1:], 1):
        if arg == f'--{name}':
            value = sys.argv[i + 1]
            del sys.argv[i:i + 2]
            return kind(value)
        if arg.startswith(f'--{name}='):
            del sys.argv[i]
            return kind(arg.split('=', 1)[1])
    return default
