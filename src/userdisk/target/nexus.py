"""Nexus and path: who talks to which target, and its way to each logical unit (SAM-6 4.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from userdisk.operation import Era
from userdisk.target.unit_attention import Attentions

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target


class NexusName(NamedTuple):
    """What makes an I_T nexus the same one after it was away: two ports, as names."""

    initiator: str  #: iSCSI name
    isid: int
    port: int  #: relative target port identifier


class Nexus:
    """An initiator port connected to a target port (I_T nexus): a session, in iSCSI.

    `paths` is keyed by the 8-byte LUN field as a big-endian number. `port` is the target port's
    relative identifier, which is also the tag of its portal group and target port group. Belongs
    to its transport.
    """

    __slots__ = ("initiator", "isid", "paths", "port", "target", "tell")

    def __init__(self, target: Target, initiator: str, isid: int, port: int = 1) -> None:
        self.target = target
        self.initiator = initiator
        self.isid = isid
        self.port = port
        self.paths: dict[int, Path] = {}
        #: sends an asynchronous event: lun field, sense data; from any thread; None: cannot
        self.tell: Callable[[int, bytes], None] | None = None

    @property
    def name(self) -> NexusName:
        """The nexus as reservations know it."""
        return NexusName(self.initiator, self.isid, self.port)


class Path:
    """One nexus' way to one logical unit (I_T_L nexus).

    `ready` is False while a unit attention waits or the path is `restricted`: a port's fast path
    reads only this, while it holds the unit's gate. `lane` is what that fast path has learned of
    the unit; it is forgotten when the unit changes. `era` is that of the commands that begin now.
    Everything else is for the logical unit, under its lock.
    """

    __slots__ = ("attentions", "era", "lane", "lu", "lun", "nexus", "ready", "restricted")

    def __init__(self, nexus: Nexus, lu: LogicalUnit, lun: int) -> None:
        self.nexus = nexus
        self.lu = lu
        self.lun = lun
        self.attentions = Attentions()
        self.ready = True
        self.restricted = False  #: an aspect of the unit may refuse commands
        self.lane: Any = None
        self.era = Era()
