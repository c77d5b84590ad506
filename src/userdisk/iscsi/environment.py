"""What all connections of a server share, handed in by the server (no I/O of its own)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from userdisk.budget import Budget, Buffers
from userdisk.iscsi.discovery import Portal, Record
from userdisk.iscsi.login import Login, Negotiated, Opened
from userdisk.iscsi.session import Sessions
from userdisk.target.target import Target


class Peer(NamedTuple):
    """The two ends of a connection, as (host, port); for SendTargets and the log.

    `tag` is that of the portal group through which it came.
    """

    local: tuple[str, int]
    remote: tuple[str, int]
    tag: int = 1


@dataclass(frozen=True, slots=True)
class Environment:
    """What all connections of a server share."""

    targets: Mapping[str, Target]
    sessions: Sessions
    #: makes the login state machine of a new connection, in the portal group of this tag
    login: Callable[[Callable[[Negotiated], Opened], int], Login]
    #: the targets to show to a client that reached this portal
    records: Callable[[Portal], list[Record]]
    #: the MaxRecvDataSegmentLength that we declare, in bytes
    max_segment: int
    #: bytes of solicited write data in flight, over all connections
    budget: Budget
    buffers: Buffers
    #: logs what is a bug in userdisk, with its traceback
    report: Callable[[Exception], None]
    #: seconds, for the times of operations
    clock: Callable[[], float] = float
