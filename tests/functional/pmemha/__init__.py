# SPDX-License-Identifier: GPL-2.0-or-later
"""
Harness of the functional tests.  Only /usr/bin/python3 and its library.

A test is a subclass of TestCase in tests/functional/test_*.py that ends with
``main()``; see tests/functional/README.rst.
"""

from .paths import ROOT, program, scaled  # noqa: F401
from .paths import NO_STOCK, stock_program  # noqa: F401
from .lines import ChannelClosed, ChannelTimeout  # noqa: F401
from .process import Process, ProcessDied  # noqa: F401
from .qmp import QmpError  # noqa: F401
from .qemu import Qemu  # noqa: F401
from .replica import Replica  # noqa: F401
from .testcase import TestCase, skip_unless  # noqa: F401
from .tap import main  # noqa: F401
