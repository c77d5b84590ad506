"""What was done for each unit, counted by connection and summed when it is read."""

from __future__ import annotations

from dataclasses import dataclass

from userdisk.gate import Gate


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


class Tally(dict["Gate | None", Counters]):
    """What one connection did, by unit (None: no such unit); written by its owner, read by anyone.

    A unit that is not in it yet is put there with zeros.
    """

    def __missing__(self, gate: Gate | None) -> Counters:
        counters = self[gate] = Counters()
        return counters

    def add(self, other: Tally) -> None:
        """Add another's numbers to these."""
        for gate, counters in list(other.items()):
            self[gate].add(counters)
