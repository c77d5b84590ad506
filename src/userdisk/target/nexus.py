"""Nexus and path: who talks to which target, and its way to each logical unit (SAM-6 4.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.target.unit_attention import Attentions

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target


class Nexus:
    """An initiator port connected to a target port (I_T nexus): a session, in iSCSI.

    `paths` is keyed by the 8-byte LUN field as a big-endian number. Belongs to its port.
    """

    __slots__ = ("initiator", "isid", "paths", "target")

    def __init__(self, target: Target, initiator: str, isid: int) -> None:
        self.target = target
        self.initiator = initiator
        self.isid = isid
        self.paths: dict[int, Path] = {}


class Path:
    """One nexus' way to one logical unit (I_T_L nexus).

    `ready` is False while a unit attention waits: a port's fast path reads only this, from any
    thread; everything else is for the logical unit, under its lock.
    """

    __slots__ = ("attentions", "lu", "lun", "nexus", "ready")

    def __init__(self, nexus: Nexus, lu: LogicalUnit, lun: int) -> None:
        self.nexus = nexus
        self.lu = lu
        self.lun = lun
        self.attentions = Attentions()
        self.ready = True
