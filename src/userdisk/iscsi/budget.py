"""Budgets in bytes: how much memory the peers together can make a server hold, and its reuse."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

SESSION_LIMIT = 8 << 20  #: bytes of solicited data, or of data-in under way, for one session
PROCESS_LIMIT = 256 << 20  #: the same for all of them


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


class Buffers:
    """Burst buffers that are used again, because a fresh one costs a page fault for each page.

    From any thread. What is taken need not be given back: then it is freed like any other memory.
    """

    SIZE = (1 << 20) + (64 << 10)  #: bytes: the longest burst and what was left over before it
    _SMALL = 64 << 10  # up to here the allocator does as well
    _KEPT = 16

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._free: list[bytearray] = []
        self._lock = lock

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes or more, with anything in it."""
        if not self._SMALL < size <= self.SIZE:
            return bytearray(size)
        with self._lock:
            if self._free:
                return self._free.pop()
        return bytearray(self.SIZE)

    def give(self, buffer: bytearray) -> None:
        """Give back what nobody uses any more."""
        with self._lock:
            if len(buffer) == self.SIZE and len(self._free) < self._KEPT:
                self._free.append(buffer)
