# SPDX-License-Identifier: GPL-2.0-or-later
"""Harness of the functional tests: processes, monitors, consoles, TAP.

Nothing here sleeps to wait for a state: every wait is for an event, a line
or a reply, and every one is bounded.
"""
