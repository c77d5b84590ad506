"""What the operation table says of a command: the types of its columns (SPC-5 6.34, SAM-6 5)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from userdisk.target.command import Command, Completion, Steps

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

Handler: TypeAlias = "Callable[[LogicalUnit, Command], Completion | Steps]"


class Direction(enum.Enum):
    """Which way a command's data goes."""

    NONE = "none"
    IN = "in"
    OUT = "out"


class Access(enum.Enum):
    """What a command does, in the eyes of a persistent reservation (SPC-5 5.14, SBC-4 4.20)."""

    ALWAYS = "always"  #: every nexus may, whatever is reserved (or the handler decides itself)
    READING = "reading"  #: exclusive access keeps others out, write exclusive does not
    WRITING = "writing"  #: either keeps others out


class Flags(enum.Flag):
    """In which states a command runs that keep others out, and what it does."""

    NONE = 0
    DESPITE_ATTENTION = enum.auto()  #: runs while a unit attention waits, and leaves it
    DESPITE_RESERVE = enum.auto()  #: runs while another nexus holds a RESERVE(6) or (10)
    WITHOUT_MEDIUM = enum.auto()  #: runs while no medium is loaded
    WHILE_SANITIZING = enum.auto()  #: runs during SANITIZE, and after one that failed
    IN_STANDBY = enum.auto()  #: runs through a port in ALUA state standby
    WHILE_UNAVAILABLE = enum.auto()  #: runs through a port in ALUA state unavailable
    WRITES = enum.auto()  #: changes the medium: refused while it is write protected
    #: INQUIRY and what else tells who and how one is: runs in every state
    ALWAYS = DESPITE_RESERVE | WITHOUT_MEDIUM | WHILE_SANITIZING | IN_STANDBY | WHILE_UNAVAILABLE


def _always(lu: LogicalUnit) -> bool:
    return True


class Row(NamedTuple):
    """One command."""

    name: str
    opcode: int
    handler: Handler
    usage: bytes
    direction: Direction = Direction.NONE
    #: or what decides it by the CDB
    access: Access | Callable[[bytes], Access] = Access.ALWAYS
    flags: Flags = Flags.NONE
    offered: Callable[[LogicalUnit], bool] = _always
    service_action: int | None = None

    def access_of(self, cdb: bytes) -> Access:
        """What this CDB of the command does, in the eyes of a reservation."""
        return self.access if isinstance(self.access, Access) else self.access(cdb)
