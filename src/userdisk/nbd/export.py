"""An export: a unit under a name, and what the protocol says of it."""

from __future__ import annotations

from dataclasses import dataclass

from userdisk.gate import Gate

MAX_PAYLOAD = 32 << 20  #: bytes of data that one READ or WRITE may move


@dataclass(frozen=True, slots=True)
class Export:
    """A unit that NBD clients can ask for.

    Args:
        name: as clients ask for it; UTF-8 of 4096 bytes at most.
        gate: the way into the unit.
        description: for people.
        read_only: refuse to change it, even if the unit could be written.
    """

    name: str
    gate: Gate
    description: str = ""
    read_only: bool = False
