"""What all connections of a server share, handed in by the server (no I/O of its own)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from userdisk.iscsi.budget import Budget, Buffers
from userdisk.iscsi.discovery import Portal
from userdisk.iscsi.login import Login, Negotiated, Opened
from userdisk.iscsi.session import Sessions
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target


class Peer(NamedTuple):
    """The two ends of a connection, as (host, port); for SendTargets and the log.

    `tag` is that of the portal group through which it came.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    tag: int = 1


@dataclass(slots=True)
class Counters:
    """What was done for one unit."""

    commands: int = 0  #: on the general path
    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0
    flushes: int = 0
    unmaps: int = 0
    failures: int = 0

    def add(self, other: Counters) -> None:
        """Add another's numbers to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Tally(dict["LogicalUnit | None", Counters]):
    """What one connection did, by unit (None: no such unit); written by its owner, read by anyone.

    A unit that is not in it yet is put there with zeros.
    """

    def __missing__(self, lu: LogicalUnit | None) -> Counters:
        counters = self[lu] = Counters()
        return counters

    def add(self, other: Tally) -> None:
        """Add another's numbers to these."""
        for lu, counters in list(other.items()):
            self[lu].add(counters)


@dataclass(frozen=True, slots=True)
class Environment:
    """What all connections of a server share."""

    targets: Mapping[str, Target]
    sessions: Sessions
    #: makes the login state machine of a new connection, in the portal group of this tag
    login: Callable[[Callable[[Negotiated], Opened], int], Login]
    #: TargetAddress values to show to a client that reached this portal
    addresses: Callable[[Portal], list[str]]
    #: the MaxRecvDataSegmentLength that we declare, in bytes
    max_segment: int
    #: bytes of solicited write data in flight, over all connections
    budget: Budget
    buffers: Buffers
    #: logs what is a bug in userdisk, with its traceback
    report: Callable[[Exception], None]
