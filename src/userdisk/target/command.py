"""A command as the engine sees it, and how a handler asks for data and for the unit's work.

A handler is a function of a logical unit and a command. It either returns a `Completion`, or is a
generator (`Steps`): it yields an `Operation` to have the unit do something and is sent the result
(a unit's failure is thrown into it as a `StorageError`), yields a `Receive` to be sent the next
bytes of data-out, and returns its `Completion`. So a handler says what happens in which order, and
the port decides on which thread and when: at once, or later (PENDING).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from userdisk.operation import Operation
from userdisk.scsi.sense import Sense
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.target.nexus import Path


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


class Receive(NamedTuple):
    """A handler's request for the next `length` bytes of data-out, at most.

    The port sends back a read-only view of 1 to `length` bytes, a multiple of `granule` unless it
    is the last of the command; valid until the handler's next yield. An empty view: there is no
    more data-out (the initiator announced less than the CDB asks for).
    """

    length: int
    granule: int = 1


class Command(NamedTuple):
    """A SCSI command on its way through a logical unit.

    `cdb` is 16 bytes or more (short CDBs are zero-padded); `data_out_length` is what the initiator
    announced to send, `data_in_length` what it expects.
    """

    cdb: bytes
    path: Path
    data_out_length: int = 0
    data_in_length: int = 0
    attribute: int = 0


Steps: TypeAlias = "Generator[Operation | Receive, Any, Completion]"


class CheckCondition(Exception):
    """Raised by a handler to end its command with CHECK CONDITION and this sense."""

    def __init__(self, why: Sense, wanted: int | None = None) -> None:
        super().__init__(str(why))
        self.sense = why
        self.wanted = wanted
