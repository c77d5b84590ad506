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
