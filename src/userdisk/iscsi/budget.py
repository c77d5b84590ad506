"""Budgets in bytes: how much memory the peers together can make a server hold."""

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
