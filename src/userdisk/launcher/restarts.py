"""When a process that has ended is started again: after longer and longer delays, up to a number.

Pure: the time comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from userdisk.launcher.spec import Policy, Restart

#: What runs for so many times as long as it was waited for is as good as new.
_WORTH: Final = 10.0


class Restarts:
    """Decides for one instance. Times in seconds of any clock that does not jump."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._delay = policy.first_delay
        self._last = policy.first_delay
        self._past: deque[float] = deque()
        self.why = ""  #: it is not started again, in words

    def next(self, now: float, *, failed: bool, ran: float) -> float | None:
        """Seconds to wait before the next start; None: it is not started again.

        Args:
            failed: it was killed, or its exit status was not 0.
            ran: how long it was up. What was up for ten times the last delay may come back soon.
        """
        policy = self._policy
        if policy.restart is Restart.NEVER or (policy.restart is Restart.ON_FAILURE and not failed):
            self.why = f"it is not started again (restart = {policy.restart})"
            return None
        while self._past and now - self._past[0] > policy.period:
            self._past.popleft()
        if len(self._past) >= policy.starts:
            self.why = f"it was started {policy.starts} times within {policy.period:g} s"
            return None
        self._past.append(now)
        if ran >= _WORTH * self._last:
            self._delay = policy.first_delay
        delay = self._last = self._delay
        self._delay = min(2 * delay, policy.longest_delay)
        return delay
