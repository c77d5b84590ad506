"""Holes in files: punching them, zeroing ranges, and finding where the data is (Linux).

fallocate(2) has no function in the standard library, so libc's is called through ctypes, which
releases the interpreter lock meanwhile. Everything here blocks and is thread-safe.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

from userdisk.unit import Extent

#: (descriptor, offset, length) -> whether that is supported here.
Way: TypeAlias = Callable[[int, int, int], bool]

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10

#: What fallocate answers where the file system or device cannot do it.
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)

#: `extents` stops after this many: one call stays bounded on the most fragmented file.
_MOST_EXTENTS = 1024

_STEP = 64 << 10  # bytes between the places where `near_extents` looks


def punch(descriptor: int, offset: int, length: int) -> bool:
    """Deallocate the range, which then reads as zeros; False where that is not supported.

    Raises OSError for anything else that goes wrong.
    """
    return _allocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(descriptor: int, offset: int, length: int) -> bool:
    """Make the range read as zeros without writing them; False where that is not supported."""
    return _allocate(descriptor, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def extents(descriptor: int, lba: int, blocks: int, block_length: int) -> Iterator[Extent]:
    """Where the file has data and where holes, from `lba` on; stops after 1,024 extents.

    A block that holds a byte of data is mapped. Where holes cannot be found, all is mapped.
    """
    end = lba + blocks
    for _ in range(_MOST_EXTENTS):
        if lba >= end:
            return
        data = min(_seek_data(descriptor, lba * block_length, end * block_length), 1 << 63)
        first = min(data // block_length, end)
        if first > lba:
            yield Extent(lba, first - lba, mapped=False, zero=True)
            lba = first
            continue
        hole = _seek_hole(descriptor, data, end * block_length)
        last = min(max(-(-hole // block_length), lba + 1), end)
        yield Extent(lba, last - lba)
        lba = last


def near_extents(descriptor: int, lba: int, blocks: int, block_length: int) -> Iterator[Extent]:
    """Like `extents`, for a short range of a file in memory; a hole may be told too short.

    There the end of data is searched page by page, however far it is. So holes are looked for at
    steps of 64 KiB.
    """
    start, end = lba, lba + blocks  # what is known to be data begins at `start`
    step = max(_STEP // block_length, 1)
    while lba < end:
        data = _seek_data(descriptor, lba * block_length, end * block_length)
        first = min(data // block_length, end)
        if first > lba:
            if lba > start:
                yield Extent(start, lba - start)
            yield Extent(lba, first - lba, mapped=False, zero=True)
            start = lba = first
        else:
            lba = min(lba + step, end)
    if end > start:
        yield Extent(start, end - start)


def _seek_data(descriptor: int, offset: int, end: int) -> int:
    if not hasattr(os, "SEEK_DATA"):
        return offset
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole from here on
            return end
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return offset
        raise


def _seek_hole(descriptor: int, offset: int, end: int) -> int:
    if not hasattr(os, "SEEK_HOLE"):
        return end
    try:
        return os.lseek(descriptor, offset, os.SEEK_HOLE)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP):
            return end
        raise


def _allocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    function = _fallocate()
    if function is None:
        return False
    while function(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """libc's fallocate with 64-bit offsets, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]
