"""Changes that no flush has covered yet: what a client must repeat when its server was lost.

Pure, for the client of a server whose flushed data outlives it ("NBD_CMD_FLUSH" and "Ordering of
messages" in the protocol's doc/proto.md).

Theory of operation. A change (a write, a trim, zeroes) is held or under way, then answered, and
forgotten when a flush is answered that was sent after the answer. Changes that overlap are never
under way together: the later one is held until the earlier one is answered. So the order in which
changes began is the order in which the server made them, wherever that matters, and repeating them
in that order after a loss gives the same disk, whatever the server had kept of them. FUA is not for
these changes: one that is durable at once would still have to be repeated after an earlier one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

#: Bytes that a change costs besides its data.
OVERHEAD: Final = 512

Request = TypeVar("Request")


class State(enum.Enum):
    """Where a change is on its way."""

    HELD = enum.auto()
    UNDER_WAY = enum.auto()
    ANSWERED = enum.auto()
    FORGOTTEN = enum.auto()


class Change(Generic[Request]):
    """One change of the range from `start` to `end`; belongs to its journal.

    `request` is the caller's, who may replace it.
    """

    __slots__ = ("cost", "end", "number", "request", "start", "state")

    def __init__(self, request: Request, start: int, end: int, cost: int) -> None:
        self.request = request
        self.start = start
        self.end = end
        self.cost = cost
        self.state = State.HELD
        self.number = 0  # in the order of beginning; then in that of the answers


class Journal(Generic[Request]):
    """The changes of one client. Not thread-safe.

    Args:
        limit: bytes that changes under way and answered ones cost together; at the limit new ones
            are held until a flush makes room.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun = 0
        self._answers = 0
        #: Held and under way, in the order of beginning.
        self._open: dict[Change[Request], None] = {}
        self._held = 0
        #: In the order of the answers, with the number that the change began with.
        self._answered: dict[Change[Request], int] = {}
        self._kept = 0
        self._full = False  # a change is held because there is no room for it
        self.cost = 0  #: bytes, of what is under way or answered

    def begin(self, request: Request, start: int, length: int, data: int = 0) -> Change[Request]:
        """A change begins; it is to be sent if it is not HELD.

        Args:
            start, length: what it changes, in bytes.
            data: how many bytes are kept for it.
        """
        change = Change(request, start, start + length, data + OVERHEAD)
        self._begun += 1
        change.number = self._begun
        self._open[change] = None
        if self._may_go(change):
            self._go(change)
        else:
            self._held += 1
        return change

    def answered(self, change: Change[Request], *, made: bool) -> list[Change[Request]]:
        """The server has answered a change under way; returns those that are to be sent now.

        `made`: without an error. What failed is not repeated: nobody knows what it did.
        """
        assert change.state is State.UNDER_WAY
        del self._open[change]
        if made:
            change.state = State.ANSWERED
            self._answered[change] = change.number
            self._answers += 1
            change.number = self._answers
            self._kept += change.cost
        else:
            self._forget(change)
        return self._released()

    def dropped(self, change: Change[Request]) -> list[Change[Request]]:
        """A held change is given up; returns those that are to be sent now."""
        assert change.state is State.HELD
        del self._open[change]
        self._held -= 1
        change.state = State.FORGOTTEN
        return self._released()

    def flush_begun(self) -> int:
        """A flush is being sent; the number to give to `flush_answered`."""
        return self._answers

    def flush_answered(self, begun: int) -> list[Change[Request]]:
        """That flush was answered without an error; returns the changes to be sent now.

        Not for a flush that was sent to a server which has been lost since.
        """
        for change in list(self._answered):
            if change.number > begun:
                break
            del self._answered[change]
            self._kept -= change.cost
            self._forget(change)
        return self._released()

    @property
    def wants_flush(self) -> bool:
        """So much is kept that a flush would be good now, or a change is held for want of room."""
        return bool(self._answered) and (self._full or self._kept * 2 >= self._limit)

    def to_repeat(self, most: int, size: int) -> Iterator[list[Change[Request]]]:
        """The answered changes, for a server that has taken the place of a lost one.

        In groups of at most `most` changes and about `size` bytes. Those of a group may be under
        way together; a group begins when the one before it was answered, and everything else
        (also what was under way, and any read) after the last one.
        """
        group: list[Change[Request]] = []
        total = 0
        for change in sorted(self._answered, key=lambda each: self._answered[each]):
            apart = all(change.start >= each.end or each.start >= change.end for each in group)
            if group and (not apart or len(group) >= most or total + change.cost > size):
                yield group
                group, total = [], 0
            group.append(change)
            total += change.cost
        if group:
            yield group

    # -- which may go --------------------------------------------------------------------------

    def _may_go(self, change: Change[Request]) -> bool:
        if self.cost and self.cost + change.cost > self._limit:
            self._full = True
            return False
        for earlier in self._open:
            if earlier is change:
                break
            if earlier.start < change.end and change.start < earlier.end:
                return False
        return True

    def _go(self, change: Change[Request]) -> None:
        change.state = State.UNDER_WAY
        self.cost += change.cost

    def _released(self) -> list[Change[Request]]:
        self._full = False
        if not self._held:
            return []
        going = [each for each in self._open if each.state is State.HELD]
        released = []
        for change in going:
            if self._may_go(change):
                self._go(change)
                released.append(change)
        self._held -= len(released)
        return released

    def _forget(self, change: Change[Request]) -> None:
        change.state = State.FORGOTTEN
        self.cost -= change.cost
