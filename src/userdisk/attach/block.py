"""What the kernel says about a block device, whichever driver it belongs to."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FLUSH_BUFFERS: Final = 0x1261  # BLKFLSBUF
_LARGEST_PAGE: Final = 4 << 20  # bytes: more than the page cache keeps in one piece


def size(device: Path) -> int:
    """How many bytes the device has now. Raises `OSError`."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def read_anew(device: Path, offset: int) -> None:
    """Have the page with an offset read anew: beyond a former end it has zeros. Raises `OSError`.

    What was written to it goes to the driver first.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        start = offset // _LARGEST_PAGE * _LARGEST_PAGE
        os.posix_fadvise(descriptor, start, _LARGEST_PAGE, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def emptied(device: Path) -> Iterator[None]:
    """Within, no file system, swap or device mapper takes the device or a partition of it.

    What was written to it is with the driver and flushed, and nothing of it is cached. Raises
    `OSError`: EBUSY if somebody has taken it.
    """
    import fcntl  # this module is imported, though not used, where there is none

    descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        fcntl.ioctl(descriptor, _FLUSH_BUFFERS)
        yield
    finally:
        os.close(descriptor)


def partitions(device: Path) -> list[Path]:
    """The nodes of the partitions, in the order of their numbers."""
    folders = Path("/sys/block", device.name).glob(f"{device.name}p*")
    numbers = sorted(int(folder.name[len(device.name) + 1 :]) for folder in folders)
    return [Path(f"{device}p{number}") for number in numbers]


def in_use(device: Path, timeout: float) -> bool:
    """Whether a file system, swap or device mapper still holds the disk or a partition of it.

    Waits up to `timeout` seconds for holders to go.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False
        else:
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
