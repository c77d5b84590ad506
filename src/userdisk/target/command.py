"""A command as the engine sees it, and how a handler asks for data and for the unit's work.

A handler is a function of a logical unit and a command. It either returns a `Completion`, or is a
generator (`Steps`): it yields an `Operation` to have the unit do something and is sent the result
(a unit's failure is thrown into it as a `StorageError`), yields a `Receive` to be sent the next
bytes of data-out, yields a `Wait` until something has happened elsewhere, and returns its
`Completion`. So a handler says what happens in which order, and the port decides on which thread
and when: at once, or later (PENDING).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from userdisk.operation import Operation
from userdisk.scsi.sense import Sense
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.target.nexus import Nexus, Path


class Completion(NamedTuple):
    """How a command ended: SAM-6 status, data-in buffers, sense data (empty when GOOD).

    `wanted` is how many bytes the command moves if so many are announced, for the port's residual
    count; None: as many as `data` has (none, if it was refused or failed for a reason of its own).
    """

    status: int = 0
    data: Sequence[Buffer] = ()
    sense: bytes = b""
    wanted: int | None = None


GOOD = Completion()

CHECK_CONDITION = 0x02
BUSY = Completion(0x08)  #: try again later
CONFLICT = Completion(0x18)  #: RESERVATION CONFLICT


class Receive(NamedTuple):
    """A handler's request for the next `length` bytes of data-out, at most.

    The port sends back a read-only view of 1 to `length` bytes, a multiple of `granule` unless it
    is the last of the command; valid until the handler's next yield. An empty view: there is no
    more data-out (the initiator announced less than the CDB asks for).

    `whole` is not 0 if the handler keeps what it gets until so many bytes are together: the port
    finds room for all of them before it asks for the first.
    """

    length: int
    granule: int = 1
    whole: int = 0


class Wait(NamedTuple):
    """A handler's request to go on when `begin(done)` has called `done`, on whatever thread."""

    begin: Callable[[Callable[[], None]], None]


class Command(NamedTuple):
    """A SCSI command on its way through a logical unit.

    `cdb` is 16 bytes or more (short CDBs are zero-padded); `data_out_length` is what the initiator
    announced to send, `data_in_length` what it expects; `task` is the command's own, among the
    unit's pending ones.
    """

    cdb: bytes
    path: Path
    data_out_length: int = 0
    data_in_length: int = 0
    task: Abortable | None = None


class Abortable(Protocol):
    """A command that has not ended, as its logical unit and task management see it."""

    aborted: bool
    enabled: bool  #: it may run; else it is dormant
    attribute: int  #: as in `Attribute`

    @property
    def nexus(self) -> Nexus:
        """Where it came from."""

    def abort(self) -> None:
        """Have its owner give it up soon; called once, from any thread, `aborted` is set."""

    def wake(self) -> None:
        """It may run now: have its owner start it; from any thread."""


class Attribute(enum.IntEnum):
    """Task attributes, as in iSCSI (RFC 7143 11.3.1; SAM-6 8.6)."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


Steps: TypeAlias = "Generator[Operation | Receive | Wait, Any, Completion]"


class CheckCondition(Exception):
    """Raised by a handler to end its command with CHECK CONDITION and this sense."""

    def __init__(self, why: Sense, wanted: int | None = None) -> None:
        super().__init__(str(why))
        self.sense = why
        self.wanted = wanted
