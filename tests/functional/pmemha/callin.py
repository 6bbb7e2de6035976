# SPDX-License-Identifier: GPL-2.0-or-later
"""
Call a function of a program that runs, as a debugger does: for what only
hardware makes it do.  x86_64; the program is a child of the harness, and its
main thread waits in a system call.
"""

import ctypes
import os
import signal
import subprocess

PEEK_REGS, POKE_REGS, POKE_DATA, CONT, ATTACH, DETACH = 12, 13, 5, 7, 16, 17
WALL = 0x40000000
# struct user_regs_struct
REGS = ('r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax '
        'rip cs eflags rsp ss fs_base gs_base ds es fs gs').split()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                         ctypes.c_void_p]


class Regs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in REGS]


def _ptrace(request, pid, addr=0, data=0):
    if _libc.ptrace(request, pid, addr, data) < 0:
        err = ctypes.get_errno()
        raise OSError(err, f'ptrace request {request}: {os.strerror(err)}')


def address(pid, name):
    """Where a function of the program is, which may be at any address"""
    exe = os.readlink(f'/proc/{pid}/exe')
    out = subprocess.run(['nm', '--defined-only', exe], check=True, text=True,
                         stdout=subprocess.PIPE).stdout
    at = [int(line.split()[0], 16) for line in out.splitlines()
          if line.endswith((f' T {name}', f' t {name}'))]
    if len(at) != 1:
        raise AssertionError(f'{exe} has {len(at)} functions {name}')
    with open(f'/proc/{pid}/maps', encoding='utf-8') as f:
        base = next(int(line.split('-')[0], 16) for line in f
                    if line.rstrip().endswith(exe))
    return base + at[0]


def _stopped(pid):
    """The signal that it was stopped by"""
    _, status = os.waitpid(pid, WALL)
    if not os.WIFSTOPPED(status):
        raise AssertionError(f'the program ended: status {status:#x}')
    return os.WSTOPSIG(status)


def call(pid, name, *args):
    """Up to three numbers are arguments; the result, as 64 bits"""
    function = address(pid, name)
    _ptrace(ATTACH, pid)
    while _stopped(pid) != signal.SIGSTOP:
        _ptrace(CONT, pid)
    saved, regs = Regs(), Regs()
    _ptrace(PEEK_REGS, pid, 0, ctypes.addressof(saved))
    ctypes.pointer(regs)[0] = saved
    # Below what the function that was interrupted may use of its stack.
    # It returns to address 0, which stops it again.
    regs.rsp = ((saved.rsp - 256) & ~15) - 8
    _ptrace(POKE_DATA, pid, regs.rsp, 0)
    for reg, value in zip(('rdi', 'rsi', 'rdx'), args):
        setattr(regs, reg, value)
    regs.rip, regs.rax = function, 0
    regs.orig_rax = 2 ** 64 - 1         # no system call to be restarted
    _ptrace(POKE_REGS, pid, 0, ctypes.addressof(regs))
    passed = 0
    while True:
        _ptrace(CONT, pid, 0, passed)
        passed = _stopped(pid)
        _ptrace(PEEK_REGS, pid, 0, ctypes.addressof(regs))
        if passed == signal.SIGSEGV:
            break
    at = regs.rip
    _ptrace(POKE_REGS, pid, 0, ctypes.addressof(saved))
    _ptrace(DETACH, pid)
    if at:
        raise AssertionError(f'{name} failed at {at:#x}')
    return regs.rax
