"""Who may be in a unit: one at a time, or many; and now and then somebody alone.

A serial unit has one lock. A concurrent one counts who is inside; who wants to be alone keeps
newcomers out, waits until the last has left, and so sees no half of what others do.
"""

from __future__ import annotations

import threading


class Turns:
    """The turns of one unit. All methods may be called from any thread.

    Args:
        serial: nobody is ever inside together with another.
    """

    def __init__(self, *, serial: bool) -> None:
        self.serial = serial
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._alone = False  # somebody is alone, or waits for it

    def enter(self, *, wait: bool = True) -> bool:
        """Go in; False if that would have to wait and must not."""
        if self.serial:
            return self._lock.acquire(blocking=wait)
        with self._lock:
            while self._alone:
                if not wait:
                    return False
                self._changed.wait()
            self._inside += 1
        return True

    def leave(self) -> None:
        """Go out after `enter` returned True."""
        if self.serial:
            self._lock.release()
            return
        with self._lock:
            self._inside -= 1
            if self._alone and not self._inside:
                self._changed.notify_all()

    def enter_alone(self) -> None:
        """Go in when everybody else has left, and keep them out. Blocks."""
        if self.serial:
            self._lock.acquire()
            return
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._alone = True
            while self._inside:
                self._changed.wait()

    def leave_alone(self) -> None:
        """Go out after `enter_alone`."""
        if self.serial:
            self._lock.release()
            return
        with self._lock:
            self._alone = False
            self._changed.notify_all()
