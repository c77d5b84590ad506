"""Unmounting what is on a device, so that the device can be taken away."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from userdisk.attach import block, mounts
from userdisk.attach.mounts import UnmountFlag
from userdisk.errors import UserdiskError

_BUSY_SECONDS = 2.0
_HOLDER_SECONDS = 3.0
_WRITE_SECONDS = 10.0


def with_partitions(device: Path) -> list[Path]:
    """The device and the nodes of its partitions."""
    return [device, *block.partitions(device)]


def release(devices: Sequence[Path], *, force: bool) -> list[str]:
    """Unmount everything on the devices, and see that nothing else uses them.

    As `unmount`; what is in use otherwise is refused, or with `force` returned.
    """
    problems = unmount(devices, force=force)
    for device in devices:
        if block.in_use(device, 0 if problems else _HOLDER_SECONDS):
            line = f"{device} is in use{held_by(device)}"
            if not force:
                raise UserdiskError(f"{line}; release it, or use --force")
            if not problems:  # otherwise it is what has just been unmounted lazily
                problems.append(line)
    return problems


def unmount(devices: Sequence[Path], *, force: bool) -> list[str]:
    """Unmount everything on the devices; blocks while file systems write.

    What is busy is refused, or with `force` unmounted lazily: it stays for its users and is
    returned, one line each. Raises `UserdiskError`, naming who uses what.
    """
    problems = []
    nodes = [node for device in devices for node in with_partitions(device)]
    for mount in reversed(mounts.mounts_of(nodes)):
        stacked = [found for found in mounts.mounts() if found.folder == mount.folder]
        if stacked and stacked[-1] != mount:
            raise UserdiskError(
                f"{mount.folder}: {stacked[-1].source} is mounted on top of it; unmount that first"
            )
        if _unmount(mount.folder):
            continue
        line = f"{mount.folder} is busy{_used_by(mount.folder)}"
        if not force:
            raise UserdiskError(f"{line}; close it, or use --force")
        _write_out(mount.folder)
        mounts.unmount(mount.folder, UnmountFlag.DETACH)
        problems.append(line)
    return problems


def served_by_programs(devices: Sequence[Path]) -> bool:
    """Whether a file system on the devices is a program that has its device open (fuseblk)."""
    nodes = [node for device in devices for node in with_partitions(device)]
    return any(mount.kind.startswith("fuseblk") for mount in mounts.mounts_of(nodes))


def refuse_open(devices: Sequence[Path], advice: str) -> None:
    """Raise `UserdiskError` if a process or a loop device has a device or a partition open.

    Such a device could be taken away, and the process would not know. Who has only looked at it (as
    udev does) is waited for. `advice`: what to do.
    """
    deadline = time.monotonic() + _HOLDER_SECONDS
    for device in devices:
        while users := _users_of(device):
            if time.monotonic() > deadline:
                raise UserdiskError(f"{device} is in use{_list(users)}; {advice}")
            time.sleep(0.1)


def write_back(device: Path) -> list[str]:
    """Write what is cached for a device and flush it; returns what went wrong. Blocks."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return [f"writing back {device}: {error.strerror}"]
    return []


def _write_out(folder: str) -> None:
    """What is in memory is saved before it is taken away by force; if the disk takes it."""

    def write() -> None:
        with contextlib.suppress(OSError):
            mounts.write_out(folder)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(_WRITE_SECONDS)  # one that hangs must not keep it


def _unmount(folder: str) -> bool:
    """False if it is busy for long."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            mounts.unmount(folder)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not mounted any more
                return True
            if error.errno != errno.EBUSY:
                raise UserdiskError(f"unmounting {folder}: {error.strerror}") from None
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _used_by(folder: str) -> str:
    return _list(mounts.users_of(folder))


def held_by(device: Path) -> str:
    """Who uses a device, as the end of a sentence; empty if that is not known."""
    holders = [path.name for path in Path("/sys/block", device.name).glob("**/holders/*")]
    swaps = Path("/proc/swaps").read_text().split()
    swapped = [f"swap on {node}" for node in with_partitions(device) if str(node) in swaps]
    return _list([*swapped, *holders, *_users_of(device)])


def _users_of(device: Path) -> list[str]:
    from userdisk.attach import loop  # only where there is Linux

    nodes = with_partitions(device)
    over = [str(other) for node in nodes for other in loop.find(node)]
    return over + [user for node in nodes for user in mounts.users_of(str(node))]


def _list(users: Sequence[str]) -> str:
    if not users:
        return ""
    more = f" and {len(users) - 3} more" if len(users) > 3 else ""
    return f": used by {', '.join(users[:3])}{more}"
