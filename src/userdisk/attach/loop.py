"""Loop devices: the kernel driver that makes a block device of a file (Linux uapi/linux/loop.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path
from typing import Final

from userdisk.errors import UserdiskError

CONTROL: Final = Path("/dev/loop-control")

_CTL_GET_FREE: Final = 0x4C82
_CLR_FD: Final = 0x4C01
_SET_CAPACITY: Final = 0x4C07
_CONFIGURE: Final = 0x4C0A

#: struct loop_config: descriptor, block_size; loop_info64: device inode rdevice offset sizelimit,
#: number encrypt_type key_size flags, file_name; the rest is zero.
_CONFIG: Final = struct.Struct("=II QQQQQ IIII 64s 64x 32x 16x 64x")

_TRIES: Final = 32


class LoopFlag(IntFlag):
    """lo_flags."""

    READ_ONLY = 1
    PARTSCAN = 8
    DIRECT_IO = 16


def attach(file: Path, block_length: int, *, read_only: bool) -> Path:
    """Make a loop device of a file; returns /dev/loopN. Raises `UserdiskError`, `OSError`."""
    flags = LoopFlag.PARTSCAN | (LoopFlag.READ_ONLY if read_only else LoopFlag(0))
    backing = os.open(file, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            device = _free_device()
            try:
                _configure(device, backing, block_length, flags, file)
            except OSError as error:
                if error.errno != errno.EBUSY:  # somebody else took it first
                    raise _explained(error, device) from None
                continue
            return device
    finally:
        os.close(backing)
    raise UserdiskError(f"no free loop device after {_TRIES} tries")


def _configure(device: Path, backing: int, block_length: int, flags: LoopFlag, file: Path) -> None:
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        for wanted in (flags | LoopFlag.DIRECT_IO, flags):
            name = os.fsencode(file)[:63]
            config = _CONFIG.pack(backing, block_length, 0, 0, 0, 0, 0, 0, 0, 0, wanted, name)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, config)
            except OSError as error:
                if error.errno == errno.EINVAL and wanted & LoopFlag.DIRECT_IO:
                    continue
                raise
            return
    finally:
        os.close(descriptor)


def _free_device() -> Path:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _CTL_GET_FREE)
    finally:
        os.close(control)
    device = Path(f"/dev/loop{number}")
    if not device.is_block_device():
        raise UserdiskError(
            f"{device}: the kernel has it, but there is no such node"
            f" (mknod {device} b 7 {number}, or give the container the host's /dev)"
        )
    return device


def _explained(error: OSError, device: Path) -> Exception:
    if error.errno in (errno.ENOTTY, errno.EINVAL):
        return UserdiskError(f"{device}: {error.strerror} (LOOP_CONFIGURE needs Linux 5.8)")
    return OSError(error.errno, error.strerror, str(device))


def find(file: Path) -> list[Path]:
    """The loop devices whose backing file has this path."""
    return [device for device, backing in _all() if backing == str(file)]


def backing_file(device: Path) -> str | None:
    """The path of what a loop device shows; None if it is free."""
    try:
        return (_sys_folder(device) / "loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def detach(device: Path, timeout: float) -> bool:
    """Free a loop device; False if somebody still has it open after `timeout` seconds.

    The kernel then frees it when the last one closes it. Raises `OSError`.
    """
    backing = backing_file(device)
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:  # free already
            raise
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + timeout
    while backing is not None and backing_file(device) == backing:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def set_capacity(device: Path) -> None:
    """Have a loop device take the size that its file has now. Raises `OSError`."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SET_CAPACITY)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(device)) from None
    finally:
        os.close(descriptor)


def _all() -> Iterator[tuple[Path, str]]:
    for folder in Path("/sys/block").glob("loop*"):
        device = Path("/dev") / folder.name
        backing = backing_file(device)
        if backing is not None:
            yield device, backing


def _sys_folder(device: Path) -> Path:
    return Path("/sys/block") / device.name
