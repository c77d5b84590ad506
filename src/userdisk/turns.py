"""Who may be in a unit: one at a time, or many; and now and then somebody alone.

A serial unit has one lock. A concurrent one counts who is inside; who wants to be alone keeps
newcomers out, waits until the last has left, and so sees no half of what others do. A newcomer
counts itself first and looks then whether somebody is alone, who does it the other way round: one
of the two sees the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial


class Turns:
    """The turns of one unit. All methods may be called from any thread.

    Attributes:
        enter: go in; waits for it. True.
        try_enter: go in, if that needs no waiting; whether it did.
        leave: go out after either.
        enter_alone: go in when everybody else has left, and keep them out. Blocks.
        leave_alone: go out after that.

    Args:
        serial: nobody is ever inside together with another.
    """

    def __init__(self, *, serial: bool) -> None:
        self.serial = serial
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside: list[None] = []  # one for each that is inside
        self._alone = False  # somebody is alone, or waits for it
        lock = self._lock
        # callables of the lock itself where that will do: a batch calls two of them
        self.enter: Callable[[], bool] = lock.acquire if serial else self._enter
        self.try_enter: Callable[[], bool] = (
            partial(lock.acquire, False) if serial else self._try_enter
        )
        self.leave: Callable[[], None] = lock.release if serial else self._leave
        self.enter_alone: Callable[[], object] = lock.acquire if serial else self._enter_alone
        self.leave_alone: Callable[[], None] = lock.release if serial else self._leave_alone

    def vacant(self) -> bool:
        """Whether there was a moment in this call with nobody inside."""
        if not self.serial:
            return not self._inside
        free = self._lock.acquire(False)
        if free:
            self._lock.release()
        return free

    def _enter(self) -> bool:
        while not self._try_enter():
            with self._lock:
                while self._alone:
                    self._changed.wait()
        return True

    def _try_enter(self) -> bool:
        # a list's own append and pop are atomic, and a fraction of a lock's cost
        self._inside.append(None)
        if not self._alone:
            return True
        self._leave()
        return False

    def _leave(self) -> None:
        self._inside.pop()
        if self._alone and not self._inside:
            with self._lock:
                self._changed.notify_all()

    def _enter_alone(self) -> None:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._inside:
                self._changed.wait()

    def _leave_alone(self) -> None:
        with self._lock:
            self._alone = False
            self._changed.notify_all()
