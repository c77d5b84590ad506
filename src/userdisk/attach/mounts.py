"""Mounting and unmounting, and who uses what (mount(2), umount2(2), proc(5) mountinfo)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path


class MountFlag(IntFlag):
    """Flags of mount(2)."""

    NOSUID = 2
    NODEV = 4
    NOEXEC = 8


class UnmountFlag(IntFlag):
    """Flags of umount2(2)."""

    FORCE = 1
    DETACH = 2
    NOFOLLOW = 8


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    device: str  #: major:minor
    folder: str
    kind: str
    source: str


def mount(source: str, folder: Path, kind: str, flags: MountFlag, options: str) -> None:
    """mount(2). Raises `OSError`."""
    _checked(
        _libc().mount(
            source.encode(), os.fsencode(folder), kind.encode(), int(flags), options.encode()
        ),
        folder,
    )


def unmount(folder: str | Path, flags: UnmountFlag = UnmountFlag.NOFOLLOW) -> None:
    """umount2(2); blocks while a file system writes what it has cached. Raises `OSError`."""
    _checked(_libc().umount2(os.fsencode(folder), int(flags | UnmountFlag.NOFOLLOW)), folder)


def write_out(folder: str) -> None:
    """syncfs(2): all that a file system has in memory; blocks. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_libc().syncfs(descriptor), folder)
    finally:
        os.close(descriptor)


def mounts(table: str | None = None) -> list[Mount]:
    """Everything that is mounted in this mount namespace, in the order of mounting."""
    if table is None:
        table = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    found = []
    for line in table.split("\n"):
        left, dash, right = line.partition(" - ")
        if not dash:
            continue
        words, (kind, source, *_) = left.split(" "), right.split(" ")
        found.append(Mount(words[2], _unescape(words[4]), kind, _unescape(source)))
    return found


def mounts_of(devices: Iterable[Path]) -> list[Mount]:
    """The mounts of block devices, in the order of mounting; none for a device that is gone."""
    names, numbers = set(), set()
    for device in devices:
        names.add(str(device))
        try:
            number = os.stat(device).st_rdev
        except FileNotFoundError:
            continue
        numbers.add(f"{os.major(number)}:{os.minor(number)}")
    # By source as well: btrfs shows a device number of its own.
    return [found for found in mounts() if found.device in numbers or found.source in names]


def users_of(folder: str) -> list[str]:
    """Processes with files in a folder, or with this very file open, as "name (pid 12)"."""
    inside = folder.rstrip("/") + "/"
    return [
        f"{_process_name(process)} (pid {process.name})"
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        and any(path == folder or path.startswith(inside) for path in _paths(process))
    ]


def _paths(process: Path) -> Iterator[str]:
    links = [process / "cwd", process / "root", process / "exe"]
    try:
        links += (process / "fd").iterdir()
    except OSError:  # it has ended
        return
    for link in links:
        try:
            yield os.readlink(link)
        except OSError:
            continue
    try:
        for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
            yield line.partition("/")[1] + line.partition("/")[2]
    except OSError:
        return


def _process_name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, folder: str | Path) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), str(folder))
