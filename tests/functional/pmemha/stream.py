# SPDX-License-Identifier: GPL-2.0-or-later
"""
A migration stream without what chance decides.

RAM is sent in sections of about 50 ms, and between two of them the dirty
bitmap may be read again, after which the search for pages goes on elsewhere:
where a section ends and the order of the pages depend on how fast the machine
was.  Which pages there are, their content and every other byte do not.
"""

import re
import struct

# Of migration/ram.c: in the low bits of a page's offset
ZERO, PAGE, EOS, CONTINUE = 0x02, 0x08, 0x10, 0x20
TARGET_PAGE = 4096

# Of migration/savevm.c
PART, END, COMMAND, FOOTER = 2, 3, 8, 0x7e

# The end of RAM's first section, which lists the blocks, and the header of
# the next one: both carry RAM's number.
_FIRST_PAGES = re.compile(rb'\0{7}\x10\x7e(.{4})[\x02\x03]\1', re.S)


def _pages(stream, at, number):
    """
    The pages from `at` on, by (block, offset), the commands between their
    sections, and where RAM ends
    """
    pages = {}
    commands = b''
    block = None
    while True:
        header, = struct.unpack_from('>Q', stream, at)
        at += 8
        offset, flags = header & ~(TARGET_PAGE - 1), header & (TARGET_PAGE - 1)
        if flags == EOS:
            if stream[at:at + 5] != bytes([FOOTER]) + number:
                raise ValueError(f'no footer of RAM at {at:#x}')
            at += 5
            while stream[at] == COMMAND:
                size = 5 + struct.unpack_from('>H', stream, at + 3)[0]
                commands += stream[at:at + size]
                at += size
            if stream[at] not in (PART, END) or \
                    stream[at + 1:at + 5] != number:
                return pages, commands, at
            at += 5
            continue
        if not flags & CONTINUE:
            size = stream[at]
            block = stream[at + 1:at + 1 + size]
            at += 1 + size
        size = {ZERO: 1, PAGE: TARGET_PAGE}.get(flags & ~CONTINUE)
        if size is None or block is None:
            raise ValueError(f'no header of a page at {at:#x}: {header:#x}')
        pages[block, offset] = stream[at:at + size]
        at += size


def canonical(stream):
    """
    The stream with RAM's pages in the order of their addresses, each with
    its block and offset, in place of RAM's sections after the first one
    """
    first = _FIRST_PAGES.search(stream)
    if not first:
        raise ValueError('no pages of RAM in the stream')
    pages, commands, end = _pages(stream, first.end(), first[1])
    ram = (b'%s:%#x:%s' % (*key, page) for key, page in sorted(pages.items()))
    return stream[:first.start()] + b''.join(ram) + commands + stream[end:]
