"""What the process that has a unit says of it to the attaching one."""

from __future__ import annotations

from dataclasses import dataclass

from userdisk.errors import UserdiskError


class Gone(UserdiskError):
    """The unit's process does not come back."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What the unit's process serves, as it said at its start. Lengths are in bytes."""

    export: str  #: the name of the export: the unit's GUID, so that it is no other disk
    size: int
    block_length: int
    read_only: bool
    unmaps: bool  #: see `BlockDevice.unmaps`
    persistent: bool  #: what was flushed is there when another process opens the unit
