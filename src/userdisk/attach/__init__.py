"""Making a unit a block device of this machine, and the choice between the ways to do it.

device         what an attached disk asks of the unit: the seam between the two sides
fuse           the FUSE protocol, pure            fuse_server   its thread
loop           loop devices                       fuse_loop     a way to attach: both together
block, mounts  what the kernel says               release       unmounting what is on a device
state          what is attached                   process       the attaching process
resize         another size, while it is attached
launch         starting that process              eject         finding, and taking away
filesystem     mkfs and mount
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

from userdisk.attach.device import BlockDevice
from userdisk.errors import UserdiskError

#: The ways to attach, best first: modules that are a `Way`. FUSE and loop work everywhere.
WAYS: Final = {"fuse_loop": "userdisk.attach.fuse_loop"}


class Attachment(Protocol):
    """A disk that is being attached."""

    device: Path | None

    def open(self) -> Path:
        """Make the block device, all or nothing; returns its path."""
        ...

    def resize(self, size: int) -> None:
        """Show so many bytes from now on; not beside `close`. Raises `UserdiskError`, `OSError`."""
        ...

    def close(self) -> list[str]:
        """Take it away; returns what went wrong."""
        ...


class Way(Protocol):
    """What a module of `WAYS` offers."""

    NAME: str

    def missing(self) -> list[str]:
        """What this machine or user lacks for it."""
        ...

    def clean(self, folder: Path) -> list[str]:
        """Remove what a killed process left; returns what went wrong."""
        ...

    def devices(self, folder: Path) -> list[Path]:
        """The block devices that exist for an attachment, also of a killed process."""
        ...

    def attachment(self, disk: BlockDevice, folder: Path, ended: Callable[[], None]) -> Attachment:
        """A disk about to be attached; `ended` is called if it goes away by itself."""
        ...


def way(name: str) -> Way:
    """The way of this name; the first if the name is unknown (a record that was never written)."""
    return cast(Way, importlib.import_module(WAYS.get(name, next(iter(WAYS.values())))))


def choose() -> Way:
    """The first way that this machine and user allow. Raises `UserdiskError`: what is missing."""
    if sys.platform != "linux":
        raise UserdiskError(
            f"attaching needs Linux, and this is {sys.platform}; `userdisk serve` works here"
        )
    lacks = []
    for name in WAYS:
        found = way(name).missing()
        if not found:
            return way(name)
        lacks.append(" and ".join(found))
    raise UserdiskError(f"attaching needs {'; or '.join(lacks)}")
