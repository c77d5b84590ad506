"""Runs a program to which Linux refuses a system call: a disk or a file system that cannot do it.

python refusing.py CALL=ERRNO PROGRAM ARGUMENT...; calls: fdatasync, fallocate. The filter is
seccomp's (seccomp(2)): load the call's number; if it is that one, return the error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBERS = {
    "x86_64": {"fdatasync": 75, "fallocate": 285},
    "aarch64": {"fdatasync": 83, "fallocate": 47},
}
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000  # linux/seccomp.h
_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _refuse(call: str, error: int) -> None:
    number = _NUMBERS[platform.machine()][call]
    instructions = b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, 0),
            (_JUMP_EQUAL, 0, 1, number),
            (_RETURN, 0, 0, _ERRNO | error),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions) // 8, instructions)
    for arguments in (
        (_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    name, value = sys.argv[1].split("=")
    _refuse(name, getattr(errno, value))
    os.execvp(sys.argv[2], sys.argv[2:])
