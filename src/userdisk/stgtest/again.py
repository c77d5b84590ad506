"""Operations that a disk did not begin, for a reason that passes: they wait, and are sent again.

Theory of operation. A busy disk gets no new operations before all that it refused are done. After
each that has ended two may be sent; with nothing under way one, after a pause that is longer each
time that it is refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from userdisk.stgtest.port import Op

_PAUSE = 0.0005  # seconds, twice as long for each refusal
_LONGEST = 9  # that count


class Again:
    """What waits. For one thread.

    Args:
        patience: seconds after its begin in which an operation may be refused.
    """

    def __init__(self, patience: float, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._patience = patience
        self._sleep = sleep
        self._waiting: deque[Op] = deque()
        self._room = 0  # operations that may be sent now
        self.count = 0  #: refusals

    def __bool__(self) -> bool:
        """Something waits."""
        return bool(self._waiting)

    def keep(self, ended: Iterable[Op], now: float) -> list[Op]:
        """Keep what is to be sent again; returns the others, which have ended for good."""
        others: list[Op] = []
        for op in ended:
            if op.error is None or not op.again or now - op.began > self._patience:
                others.append(op)
                continue
            op.error, op.again = None, False
            op.refusals += 1
            self._waiting.append(op)
            self.count += 1
        self._room = 2 * len(others)
        return others

    def take(self, flying: int) -> list[Op]:
        """What is to be sent now, with so many under way; if none are, it pauses first."""
        if not flying and not self._room:
            times = min(self._waiting[0].refusals, _LONGEST)
            self._sleep(_PAUSE * 2**times)
            self._room = 1
        count = min(self._room, len(self._waiting))
        self._room = 0
        return [self._waiting.popleft() for _ in range(count)]
