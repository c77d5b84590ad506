"""How long operations take: histograms, and which operations are timed (pure).

Theory of operation. An operation that a thread of the unit runs is always timed. Those that run
inline are too short for that: one in `EVERY` is, and the first one after a pause, so that a disk
with little to do is seen, too. A timed operation stands for all of its kind since the one before,
so a histogram counts about as many operations as there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from userdisk.operation import Kind, Operation

#: Inline operations for each one that is timed. Odd, so that it is not always at the same place of
#: batches that are all of one length, a power of two as a rule.
EVERY: Final = 61
PAUSE: Final = 0.01  #: seconds since the last one, after which the next is timed

_PER_SECOND = 4_000_000  # the resolution: a quarter of a microsecond
_OCTAVES = 26
#: The ends of all buckets but the last, in microseconds: 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, ...
BOUNDS_US: Final[Sequence[float]] = (
    0.25,
    *(part * (1 << octave) / 4 for octave in range(1, _OCTAVES + 1) for part in (1, 1.5)),
)
_LAST = len(BOUNDS_US)

#: Of which kinds operations are timed; the values are indices.
TIMED: Final = (Kind.READ, Kind.WRITE, Kind.FLUSH, Kind.UNMAP, Kind.ZERO)


def bucket(seconds: float) -> int:
    """Which bucket a time is in; a bucket begins where the one before ends."""
    quarters = int(seconds * _PER_SECOND)
    if quarters < 2:
        return quarters if quarters > 0 else 0
    bits = quarters.bit_length()
    return min(2 * bits - 2 + (quarters >> (bits - 2) & 1), _LAST)


class Histogram:
    """Times of operations. Its owner's thread writes it; read from any, without a lock."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts: list[int] = []  #: one more than bounds; empty: nothing was timed
        self.seconds = 0.0  #: sum

    def add(self, seconds: float, weight: int = 1) -> None:
        """Add a time, of so many operations."""
        if not self.counts:
            self.counts = [0] * (_LAST + 1)
        self.counts[bucket(seconds)] += weight
        self.seconds += seconds * weight

    def merge(self, other: Histogram) -> None:
        """Add another's times to these."""
        if other.counts:
            self.counts = [
                mine + theirs
                for mine, theirs in zip(self.counts or [0] * (_LAST + 1), other.counts, strict=True)
            ]
            self.seconds += other.seconds


class Timing:
    """Times of the operations of one kind: in the queue, and in the unit."""

    __slots__ = ("accounted", "queue", "service")

    def __init__(self) -> None:
        self.queue = Histogram()
        self.service = Histogram()
        self.accounted = 0  #: operations that the histograms have

    def add(self, queued: float, served: float, weight: int) -> None:
        """Add an operation's times in seconds, which stand for `weight` operations."""
        self.accounted += weight
        self.queue.add(queued, weight)
        self.service.add(served, weight)

    def merge(self, other: Timing) -> None:
        """Add another's times to these."""
        self.accounted += other.accounted
        self.queue.merge(other.queue)
        self.service.merge(other.service)


class Sampler:
    """Chooses the inline operations of one connection that are timed; for its owner's thread.

    The fast path reads and writes `due`, and calls `time` just before the operation that is due.

    Args:
        clock: seconds.
    """

    __slots__ = ("_late", "_read", "_write", "arrived", "clock", "due", "sample")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.arrived = 0.0  #: when the batch was received that is handled now
        self.due = 0  #: inline operations before the next one that is timed
        #: the operation that was timed, and is not counted yet: what it was, when it began, ended
        self.sample: tuple[Kind, float, float] | None = None
        self._late = 0.0
        self._read: Callable[..., Any]
        self._write: Callable[..., Any]

    def batch(self) -> None:
        """A batch was received."""
        self.arrived = now = self.clock()
        if now >= self._late:
            self.due = 0

    def time(
        self, read: Callable[..., Any], write: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What to call instead of these methods of the unit, once."""
        self._read, self._write = read, write
        return self._timed_read, self._timed_write

    def _timed_read(self, lba: int, blocks: int, fua: bool) -> Any:
        began = self.clock()
        data = self._read(lba, blocks, fua)
        self._took(Kind.READ, began)
        return data

    def _timed_write(self, lba: int, data: memoryview, fua: bool) -> None:
        began = self.clock()
        self._write(lba, data, fua)
        self._took(Kind.WRITE, began)

    def _took(self, kind: Kind, began: float) -> None:
        ended = self.clock()
        self.sample = kind, began, ended
        self._late = ended + PAUSE

    def chosen(self) -> bool:
        """Whether the next inline operation is timed; called once for it."""
        if self.due > 0:
            self.due -= 1
            return False
        self.due = EVERY - 1
        return True

    def run(self, run: Callable[[Operation], None], operation: Operation) -> None:
        """Run an inline operation with `run`; times it if it is due."""
        if not self.chosen():
            run(operation)
            return
        operation.asked, operation.began = self.arrived, self.clock()
        run(operation)
        operation.ended = ended = self.clock()
        self._late = ended + PAUSE
