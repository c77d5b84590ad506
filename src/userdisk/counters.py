"""What was done for each unit, counted by connection and summed when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from userdisk.errors import Aborted
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.timing import TIMED, Sampler, Timing

#: Where operations of a kind are counted, and their bytes.
_COUNTS: Final = ("reads", "writes", "flushes", "unmaps", "zeros")
_BYTES: Final = {Kind.READ: "read_bytes", Kind.WRITE: "written_bytes"}


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
    zeros: int = 0
    failures: int = 0  #: commands
    errors: list[int] = field(default_factory=lambda: [0] * len(TIMED))  #: operations, by kind
    times: list[Timing] = field(default_factory=lambda: [Timing() for _ in TIMED])  #: by kind

    def done(self, operation: Operation, size: int, sampler: Sampler | None = None) -> None:
        """Count an operation that went well: its bytes; with the sampler if that has run it."""
        kind = operation.kind
        if kind not in TIMED:
            return
        name = _COUNTS[kind]
        count = getattr(self, name) + 1
        setattr(self, name, count)
        if kind in _BYTES:
            setattr(self, _BYTES[kind], getattr(self, _BYTES[kind]) + size)
        if operation.ended:
            timing = self.times[kind]
            weight = 1 if sampler is None else count - timing.accounted
            timing.add(operation.asked, operation.began, operation.ended, weight)
            if sampler is not None:
                sampler.timed(self.reads + self.writes)

    def failed(self, kind: Kind, error: BaseException) -> None:
        """Count an operation that raised; one that was cancelled is none."""
        if kind in TIMED and not isinstance(error, Aborted):
            self.errors[kind] += 1

    def take(self, sampler: Sampler) -> None:
        """The operation that the fast path timed, which is counted by now."""
        if sampler.sample is None:
            return
        kind, began, ended = sampler.sample
        sampler.sample = None
        timing = self.times[kind]
        count = self.reads if kind is Kind.READ else self.writes
        timing.add(sampler.arrived, began, ended, count - timing.accounted)
        sampler.timed(self.reads + self.writes)

    def count(self, kind: Kind) -> int:
        """Operations of one of the kinds that are timed."""
        count: int = getattr(self, _COUNTS[kind])
        return count

    def bytes(self, kind: Kind) -> int:
        """Bytes that operations of the kind have read or written."""
        count: int = getattr(self, _BYTES[kind]) if kind in _BYTES else 0
        return count

    def add(self, other: Counters) -> None:
        """Add another's numbers to these."""
        for name in ("commands", "failures", *_COUNTS, *_BYTES.values()):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors = [
            mine + theirs for mine, theirs in zip(self.errors, other.errors, strict=True)
        ]
        for mine, theirs in zip(self.times, other.times, strict=True):
            mine.merge(theirs)


class Tally(dict["Gate | None", Counters]):
    """What one connection did, by unit (None: no such unit); written by its owner, read by anyone.

    A unit that is not in it yet is put there with zeros.

    Args:
        clock: seconds, for the times of operations.
    """

    def __init__(self, clock: Callable[[], float] = float) -> None:
        super().__init__()
        self.sampler = Sampler(clock)
        self.protocol = ""  #: "iscsi", "nbd" or "spd"
        self.client = ""  #: the initiator's name, or the client's address

    def __missing__(self, gate: Gate | None) -> Counters:
        counters = self[gate] = Counters()
        return counters

    def add(self, other: Tally) -> None:
        """Add another's numbers to these."""
        for gate, counters in list(other.items()):
            self[gate].add(counters)
