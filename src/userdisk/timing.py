"""How long operations take: histograms, and which operations are timed (pure).

Theory of operation. An operation that a thread of the unit runs is always timed. Those that run
inline are too short for that: one in `EVERY` is, and the first one after a pause of a tick, so that
a disk with little to do is seen, too. A timed operation stands for all of its kind since the one
before, so a histogram counts about as many operations as there were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from userdisk.operation import Kind, Operation

#: Inline operations for each one that is timed, about.
EVERY: Final = 64
_TURNS = 7  # by which the distance varies: what goes in step with it would be seen always or never

_OCTAVES = 26
#: The ends of all buckets but the last, in microseconds: 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, ...
BOUNDS_US: Final[Sequence[float]] = (
    0.25,
    *(part * (1 << octave) / 4 for octave in range(1, _OCTAVES + 1) for part in (1, 1.5)),
)
_BUCKETS = len(BOUNDS_US) + 1
_BOUNDS = [bound / 1e6 for bound in BOUNDS_US]

#: Of which kinds operations are timed; the values are indices.
TIMED: Final = (Kind.READ, Kind.WRITE, Kind.FLUSH, Kind.UNMAP, Kind.ZERO)


class Histogram:
    """Times of operations. Its owner's thread writes it; read from any, without a lock."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.seconds = 0.0  #: sum

    def merge(self, other: Histogram) -> None:
        """Add another's times to these."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


class Timing:
    """Times of the operations of one kind: in the queue, and in the unit."""

    __slots__ = ("accounted", "queue", "service")

    def __init__(self) -> None:
        self.queue = Histogram()
        self.service = Histogram()
        self.accounted = 0  #: operations that the histograms have

    def add(self, asked: float, began: float, ended: float, weight: int) -> None:
        """Add an operation's times, which stand for `weight` operations."""
        waited, took = began - asked, ended - began
        queue, service = self.queue, self.service
        self.accounted += weight
        queue.counts[bisect_right(_BOUNDS, waited)] += weight
        queue.seconds += waited * weight
        service.counts[bisect_right(_BOUNDS, took)] += weight
        service.seconds += took * weight

    def merge(self, other: Timing) -> None:
        """Add another's times to these."""
        self.accounted += other.accounted
        self.queue.merge(other.queue)
        self.service.merge(other.service)


class Sampler:
    """Chooses the inline operations of one connection that are timed; for its owner's thread.

    Who receives calls `begin` for the batch with number `next`. In that batch, while it is
    `active`, one operation is timed: in the fast path, which takes the one after `position` others
    and puts it into `sample`, or any by `run`. `timed` then says which batch is the next: by how
    many operations there were in those before, one in `EVERY` is timed.

    Args:
        clock: seconds.
    """

    __slots__ = (
        "_batch",
        "_total",
        "_turn",
        "active",
        "arrived",
        "clock",
        "next",
        "position",
        "sample",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.next = 0  #: number of the next batch in which an operation is timed
        self.active = False
        self.position = 0
        self.arrived = 0.0  #: when that batch was received
        #: the operation that was timed, and is not counted yet: what it was, when it began, ended
        self.sample: tuple[Kind, float, float] | None = None
        self._batch = self._total = 0  # of the last sample
        self._turn = 0

    def begin(self, batch: int) -> None:
        """The batch with this number was received: the next one to be timed, or a later one."""
        self.arrived = self.clock()
        self.active = True
        self.next = batch

    def run(self, run: Callable[[Operation], None], operation: Operation) -> None:
        """Run an inline operation with `run`; times it in a batch that is to be timed."""
        if not self.active:
            run(operation)
            return
        operation.asked, operation.began = self.arrived, self.clock()
        run(operation)
        operation.ended = self.clock()

    def timed(self, total: int) -> None:
        """An operation was timed and counted; `total` operations of its unit were counted by now.

        The next one is due after as many batches as have `EVERY` operations, by the last ones.
        """
        self.active = False
        batches = self.next - self._batch
        operations = total - self._total
        self._batch, self._total = self.next, total
        if operations > 0 < batches:  # else it was another unit's
            each = max(operations // batches, 1)
            self._turn = turn = (self._turn + 3) % _TURNS
            self.position = self.next * _TURNS % each
            self.next += max((EVERY + turn - _TURNS // 2 + each // 2) // each, 1)
        else:
            self.next += 1
