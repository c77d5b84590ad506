"""When a process that has ended is started again: after longer and longer delays, up to a number.

Pure: the time comes in as an argument.
"""

from __future__ import annotations

from collections import deque

from userdisk.launcher.spec import Policy, Restart


class Restarts:
    """Decides for one instance. Times in seconds of any clock that does not jump."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._delay = policy.first_delay
        self._past: deque[float] = deque()

    def next(self, now: float, *, failed: bool, ran: float) -> float | None:
        """Seconds to wait before the next start; None: it is not started again.

        Args:
            failed: it was killed, or its exit status was not 0.
            ran: how long it was up. What was up for the longest delay is patient again.
        """
        policy = self._policy
        if policy.restart is Restart.NEVER or (policy.restart is Restart.ON_FAILURE and not failed):
            return None
        while self._past and now - self._past[0] > policy.period:
            self._past.popleft()
        if len(self._past) >= policy.starts:
            return None
        self._past.append(now)
        if ran >= policy.longest_delay:
            self._delay = policy.first_delay
        delay = self._delay
        self._delay = min(2 * delay, policy.longest_delay)
        return delay
