"""Budgets in bytes: how much memory the peers together can make a server hold, and its reuse."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

SESSION_LIMIT = 8 << 20  #: bytes of solicited data, or of data-in under way, for one session
PROCESS_LIMIT = 128 << 20  #: the same for all of them; their buffers may take twice as much


class Budget:
    """A number of bytes that connections take from and give back; from any thread."""

    def __init__(self, limit: int, lock: AbstractContextManager[Any]) -> None:
        self._left = limit
        self._lock = lock

    def take(self, amount: int, *, force: bool = False) -> bool:
        """Take `amount` if that much is left, or whatever is left if `force`d."""
        with self._lock:
            if amount > self._left and not force:
                return False
            self._left -= amount
            return True

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._left += amount


class Share:
    """What one connection has of a budget: for requests, and in replies until these are sent.

    Requests of up to 64 KiB are left out: their number bounds them. Who has nothing of it may
    always take `always` bytes, so that everybody goes on. For the connection's own thread.
    """

    __slots__ = ("_always", "_budget", "_queued", "_sending", "held")

    _SMALL = 64 << 10

    def __init__(self, budget: Budget, always: int) -> None:
        self._budget = budget
        self._always = always
        self._queued = self._sending = 0  # bytes, in replies
        self.held = 0  #: bytes of requests under way, also of small ones

    @property
    def owes(self) -> bool:
        """Whether replies hold memory of the budget."""
        return bool(self._queued or self._sending)

    @property
    def full(self) -> bool:
        """Whether the requests under way hold as much as they may."""
        return self.held >= SESSION_LIMIT

    def take(self, cost: int) -> bool:
        """Take the bytes of a request, if they are to be had now."""
        if cost > self._SMALL:
            if self.held and self.held + cost > SESSION_LIMIT:
                return False
            alone = cost <= self._always and not (self.held or self.owes)
            if not self._budget.take(cost, force=alone):
                return False
        self.held += cost
        return True

    def release(self, cost: int, *, queued: bool = False) -> None:
        """The request has ended; `queued`: its bytes are in the output now."""
        self.held -= cost
        if cost <= self._SMALL:
            return
        if queued:
            self._queued += cost
        else:
            self._budget.give(cost)

    def taken(self) -> None:
        """The owner takes the output; what it took before has been sent."""
        self.sent()
        self._sending, self._queued = self._queued, 0

    def sent(self) -> None:
        """All output that was taken has been sent."""
        if self._sending:
            self._budget.give(self._sending)
            self._sending = 0

    def abandon(self) -> None:
        """Nothing will be sent any more."""
        self.taken()
        self.sent()


class Buffers:
    """Burst buffers that are used again, because a fresh one costs a page fault for each page.

    They come in few lengths, each at most twice as long as what asks for it. From any thread. What
    is taken need not be given back: then it is freed like any other memory.
    """

    _LENGTHS = (128 << 10, 256 << 10, 512 << 10, (1 << 20) + (64 << 10))
    _SMALL = 64 << 10  # up to here the allocator does as well
    _KEPT = 8  # of each length

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._free: dict[int, list[bytearray]] = {length: [] for length in self._LENGTHS}
        self._lock = lock

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes or more, with anything in it."""
        if size <= self._SMALL:
            return bytearray(size)
        for length in self._LENGTHS:
            if size <= length:
                with self._lock:
                    return self._free[length].pop() if self._free[length] else bytearray(length)
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Give back what nobody uses any more."""
        free = self._free.get(len(buffer))
        if free is not None:
            with self._lock:
                if len(free) < self._KEPT:
                    free.append(buffer)
