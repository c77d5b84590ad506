"""What a click on an image, or on Eject, does: ask a launcher, the system's first.

No process is started here. A launcher that is not there, or that has no class for the image, or
that refuses, leads to the next one; what each said is in the error if none could do it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from userdisk.errors import UsageError, UserdiskError

_T = TypeVar("_T")

EJECT_SECONDS: Final = 120.0
_COMING_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.2
_LOOKS: Final = 10
_ADD_CLASS: Final = "`sudo userdisk desktop install --system` adds one for images"
_NO_LAUNCHER: Final = "no launcher runs; `sudo userdisk launcher install` makes one of the system"


class Absent(UserdiskError):
    """No launcher answers there."""


class Refused(UserdiskError):
    """A launcher does not let this user do it, or does not know of it: another one might."""


class Unknown(UserdiskError):
    """No launcher has to do with it."""


@dataclass(frozen=True, slots=True)
class DiskClass:
    """A class of disks, as far as opening images needs it."""

    name: str
    opens: tuple[str, ...]  #: endings of file names, each with its dot
    may_start: bool = True  #: this user
    error: str = ""  #: why it cannot be used


@dataclass(frozen=True, slots=True)
class Disk:
    """An instance of a class."""

    id: str
    name: str  #: the path of its image
    mountpoints: tuple[str, ...] = ()
    last_error: str = ""
    coming: bool = False  #: it is not ready yet


class Launcher(Protocol):
    """A launcher. Each method blocks, and raises `Absent`, `Refused` and `UserdiskError`."""

    def classes(self) -> Sequence[DiskClass]:
        """All classes."""
        ...

    def disks(self) -> Sequence[Disk]:
        """What runs, as far as this user may know."""
        ...

    def start(self, kind: str, path: str) -> Disk | None:
        """Start the disk of an image, up to its mount; None if it runs already."""
        ...

    def eject(self, disk: Disk, force: bool, timeout: float = EJECT_SECONDS) -> None:
        """Unmount, flush and stop it; `timeout`: seconds that it may take to write."""
        ...


def image_path(path: str) -> str:
    """The one path of an image, through links. Raises `UsageError` if it is no image."""
    try:
        real = os.path.realpath(path)
        mode = os.stat(real).st_mode
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path!r}: not a path") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: a folder, not a disk image")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: not a file")
    return real


def extension(path: str) -> str:
    """The ending of a file's name in lower case, with its dot; empty if it has none."""
    return os.path.splitext(os.path.basename(path))[1].lower()


def open_image(path: str, launchers: Sequence[Launcher]) -> str:
    """Start and mount the image's disk, or find it mounted; returns the folder.

    Blocks. Raises `UsageError` if it is no image, `UserdiskError` if no launcher could do it,
    `Unknown` if none has to do with such images.
    """
    real = image_path(path)
    ending = extension(real)

    def opened(launcher: Launcher) -> str | None:
        kind = _class(launcher, ending)
        if kind is None:
            return None
        disk = launcher.start(kind, real)
        if disk is not None and not disk.mountpoints:
            launcher.eject(disk, True)  # nobody has seen it yet
            reason = disk.last_error or f"class {kind} does not mount its disks"
            raise UserdiskError(f"{path}: {reason}")
        if disk is None:
            disk = _running(launcher, real)
            if not disk.mountpoints:
                reason = disk.last_error or "nobody has mounted it"
                raise UserdiskError(f"{path}: it is in use already, as {disk.id}, but {reason}")
        return disk.mountpoints[0]

    nothing = f"no class of disks opens {ending or 'such files'}; {_ADD_CLASS}"
    return _first(path, launchers, opened, nothing)


def eject(
    path: str, launchers: Sequence[Launcher], *, force: bool, timeout: float = EJECT_SECONDS
) -> str:
    """Eject the disk that is mounted on a folder, whose image a file is, or that has this id.

    `timeout`: seconds that it may take to write. Blocks. Returns its name. Raises `UserdiskError`:
    it is in use; `Unknown`: it is no disk of these launchers.
    """
    real = os.path.realpath(path)

    def ejected(launcher: Launcher) -> str | None:
        for disk in launcher.disks():
            if real in (disk.name, *disk.mountpoints) or path == disk.id:
                launcher.eject(disk, force, timeout)
                return disk.name
        return None

    return _first(path, launchers, ejected, "no disk of userdisk is mounted there")


def _class(launcher: Launcher, ending: str) -> str | None:
    """The first class for such files that this user may start; None if there is none at all."""
    found = [each for each in launcher.classes() if ending in each.opens]
    for each in found:
        if each.may_start and not each.error:
            return each.name
    for each in found:
        raise Refused(each.error or f"you may not start disks of class {each.name}")
    return None


def _running(launcher: Launcher, real: str) -> Disk:
    """What runs already; if somebody has just clicked, wait for that."""
    deadline = time.monotonic() + _COMING_SECONDS
    missing = 0
    while True:
        disk = next((each for each in launcher.disks() if each.name == real), None)
        if disk is not None and not disk.coming:
            return disk
        missing += disk is None
        if missing > _LOOKS:
            raise Refused("it is in use already, by somebody else")
        if time.monotonic() > deadline:
            raise UserdiskError(f"{real}: still not ready")
        time.sleep(_LOOK_SECONDS)


def _first(
    path: str, launchers: Sequence[Launcher], act: Callable[[Launcher], _T | None], nothing: str
) -> _T:
    refusals = []
    there = 0
    for launcher in launchers:
        try:
            found = act(launcher)
        except Absent:
            continue
        except Refused as error:
            refusals.append(str(error))
        except UserdiskError as error:
            if path in str(error) or os.path.realpath(path) in str(error):
                raise
            kind = UsageError if isinstance(error, UsageError) else UserdiskError
            raise kind(f"{path}: {error}") from None
        else:
            if found is not None:
                return found
        there += 1
    if refusals:
        raise UserdiskError(f"{path}: {'; '.join(refusals)}")
    raise Unknown(f"{path}: {nothing if there else _NO_LAUNCHER}")
