"""A SCSI device that commands are sent to, whatever way it is reached, and how a command ended."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from userdisk.errors import UsageError, UserdiskError

if TYPE_CHECKING:
    from userdisk.unit import StorageUnit

CHECK_CONDITION = 0x02
TIMEOUT = 10.0  #: seconds for opening a device, and for each command

MAX_DATA = 1 << 20  #: bytes of one command's data, either way


class Result(NamedTuple):
    """How a command ended: SCSI status, sense data, and what was read."""

    status: int
    sense: bytes
    data: bytes


class DeviceError(UsageError):
    """The device is not there, is no SCSI device, may not be used, or does not answer."""


class Device(Protocol):
    """A logical unit that commands can be sent to, one at a time, from one thread."""

    @property
    def name(self) -> str:
        """What it is called after everything was resolved: a URL, a path, a unit."""

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        """Run one command and wait; for the time that the device was opened with at most.

        Data is at most `MAX_DATA` bytes. Raises `DeviceError` if it cannot be run at all.
        """

    def close(self) -> None:
        """Let go of the device. Blocks."""


#: Makes a unit of its name.
Make: TypeAlias = "Callable[[str], StorageUnit]"


def _iscsi(name: str, timeout: float, make: Make | None) -> Device:
    from userdisk.scsitool.over_iscsi import IscsiDevice

    return IscsiDevice(name, timeout)


def _sg_io(name: str, timeout: float, make: Make | None) -> Device:
    from userdisk.scsitool.sg_io import SgDevice

    return SgDevice(name, timeout)


def _inside(name: str, timeout: float, make: Make | None) -> Device:
    from userdisk.scsitool.inside import InsideDevice

    return InsideDevice(name, timeout, make)


def opener(name: str) -> Callable[[str, float, Make | None], Device]:
    """Who opens a device of this name: an iSCSI URL, a device node, or anything that is a unit."""
    if name.startswith("iscsi://"):
        return _iscsi
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        mode = 0
    node = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return _sg_io if node or (not mode and name.startswith("/dev/")) else _inside


def resolved(name: str) -> str:
    """The name that the device is opened by, without opening it. Raises `UsageError`."""
    if name.startswith("iscsi://"):
        from userdisk.initiator_url import parse_url

        return str(parse_url(name))
    if os.path.exists(name):
        return os.path.realpath(name)
    return name


def open_device(name: str, timeout: float = TIMEOUT, make: Make | None = None) -> Device:
    """Open a device: `iscsi://...`, a device node, or a unit, which is run in this process.

    `make` makes the unit; it is for nothing else. Blocks. Raises `DeviceError`, or `UsageError` if
    the name makes no sense.
    """
    opens = opener(name)
    if make is not None and opens is not _inside:
        raise UsageError(f"{name}: has its own size and names; options of units are for units")
    try:
        return opens(name, timeout, make)
    except UsageError:
        raise
    except UserdiskError as error:
        raise DeviceError(str(error)) from error
