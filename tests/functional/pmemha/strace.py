# SPDX-License-Identifier: GPL-2.0-or-later
"""
What `strace -f -xx` saw of a program, as calls that begin and end.

strace stops a thread before and after each system call and prints the stops
in the order in which it let them go on.  So a call happened between its two
stops; of calls of two threads that overlap there, the order is not known, and
whoever reads this must not assume one.
"""

import re
import shutil

STRACE = shutil.which('strace')

# Everything that changes a file or a directory, or tells the other side
# something.  What is not understood must be seen, so as to be refused.
CALLS = ('open,openat,openat2,creat,close,dup,dup2,dup3,'
         'write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,'
         'fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,'
         'rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,'
         'symlinkat,mkdir,mkdirat,rmdir,mknod,mknodat,'
         'copy_file_range,sendfile,splice,mmap,'
         'accept,accept4,sendto,sendmsg,sendmmsg,recvfrom,recvmsg,read')

LINE = re.compile(r'^(\d+) +(.*)$', re.S)
CALL = re.compile(r'^(\w+)\((.*)$', re.S)
RESUMED = re.compile(r'^<\.\.\. (\w+) resumed>(.*)$', re.S)
RESULT = re.compile(r'^(.*)\) += (-?\d+|0x[0-9a-f]+|\?)(.*)$', re.S)
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
# 'detached': the program was killed within it
UNFINISHED = ('<unfinished ...>', '<detached ...>')
UNFINISHED_TEXT = re.compile(r' *<(unfinished|detached) \.\.\.>$')


class NotUnderstood(Exception):
    """A line that a recording can not do without"""


def command(trace):
    """What to put before the program's own command line"""
    return [STRACE, '-f', '-qq', '-xx', '-s', str(1 << 22), '-o', trace,
            '-e', f'trace={CALLS}', '-e', 'signal=none']


class Call:
    """
    One system call.  `begin` and `end` are two places in one order of all
    stops; `end` and `ret` are None when the program did not live to see it.
    """

    def __init__(self, thread, name, args):
        self.thread = thread
        self.name = name
        self.text = args
        self.ret = None
        self.failed = False

    @property
    def strings(self):
        found = []
        for m in STRING.finditer(self.text):
            if m[2]:
                raise NotUnderstood(f'{self.name}: strace cut a string short')
            found.append(bytes.fromhex(m[1].replace('\\x', '')))
        return found

    @property
    def words(self):
        """The arguments, with strings and structures taken out"""
        return [w.strip() for w in
                re.sub(r'\{.*\}|\[.*\]', '', STRING.sub('""', self.text),
                       flags=re.S).split(',')]

    def number(self, n):
        return int(self.words[n], 0)

    def __repr__(self):
        short = re.sub(r'(\\x[0-9a-f]{2}){17,}', '...', self.text)
        return f'{self.name}({short}) = {self.ret}'


def stops(path, died):
    """
    ('begin' or 'end', call) in the order of strace's file.  Of a program that
    died, the result of each thread's last call is not known: the thread may
    have been gone when strace asked, and what it prints then is of another.
    """
    found = list(_stops(path))
    last = {call.thread: call for _, call in found}
    for call in last.values() if died else ():
        call.ret, call.failed = None, False
    return found


def _stops(path):
    open_calls = {}
    with open(path, encoding='ascii') as f:
        for line in f:
            m = LINE.match(line.rstrip('\n'))
            if not m:
                raise NotUnderstood(line[:200])
            thread, rest = m.groups()
            # '???': it died before its call was let go on, or looked at
            if rest.startswith(('+++', '---', '???')):
                open_calls.pop(thread, None)
                continue
            m = RESUMED.match(rest)
            if m:
                call = open_calls.pop(thread)
                yield finish(call, m[2])
                continue
            m = CALL.match(rest)
            if not m:
                raise NotUnderstood(line[:200])
            call = Call(thread, m[1], m[2])
            if call.text.endswith(UNFINISHED):
                call.text = UNFINISHED_TEXT.sub('', call.text)
                open_calls[thread] = call
                yield 'begin', call
            else:
                args = call.text
                call.text = RESULT.match(args)[1] if RESULT.match(args) \
                    else args
                yield 'begin', call
                call.text = ''
                yield finish(call, args)


def finish(call, rest):
    m = RESULT.match(rest)
    if not m:
        raise NotUnderstood(f'{call!r}: {rest[:200]}')
    call.text += m[1]
    if m[2] != '?':
        call.ret = int(m[2], 0)
        call.failed = call.ret < 0
    return 'end', call
