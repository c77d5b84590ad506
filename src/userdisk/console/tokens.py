"""One-time tokens for the login, and the tries that wrong ones cost (pure but for comparing).

A token is good for one login, within ten minutes. There is always one that is younger than half of
that, so whoever is handed it has time. Not thread-safe: for an event loop.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

LIFE: Final = 600.0  #: seconds that a token is good for
_FRESH: Final = 270.0  #: the age up to which it is handed out
_TRIES: Final = 10  #: wrong tokens in a row, for each who tries
_TRY_SECONDS: Final = 6.0  #: after which one more is allowed
_WHO: Final = 256  #: so many are told apart


class Tokens:
    """The tokens that open a session now.

    Args:
        clock: seconds that never go back.
        make: a new token each time, that nobody can guess.
    """

    def __init__(self, clock: Callable[[], float], make: Callable[[], str]) -> None:
        self._clock = clock
        self._make = make
        self._made: dict[str, float] = {}

    def current(self) -> str:
        """One to hand out, good for five minutes at least."""
        now = self._clock()
        self._made = {token: made for token, made in self._made.items() if now - made < LIFE}
        for token, made in self._made.items():
            if now - made < _FRESH:
                return token
        token = self._make()
        self._made[token] = now
        return token

    def take(self, given: str) -> bool:
        """Whether it is good; it is not any more."""
        now = self._clock()
        found = None
        for token, made in self._made.items():  # all of them: the time tells nothing
            same = hmac.compare_digest(token.encode(), given.encode(errors="replace"))
            if same and now - made < LIFE:
                found = token
        if found is None:
            return False
        del self._made[found]
        return True


class Tries:
    """How often somebody may still be wrong: ten times at once, then ten times a minute.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._free: dict[str, float] = {}  # who -> when all tries are there again

    def wait(self, who: str) -> float:
        """Seconds until `who` may try; 0: now."""
        return max(self._until(who) - (_TRIES - 1) * _TRY_SECONDS - self._clock(), 0.0)

    def wrong(self, who: str) -> None:
        """It was."""
        now = self._clock()
        if who not in self._free:
            self._free = {name: until for name, until in self._free.items() if until > now}
            if len(self._free) >= _WHO:
                who = ""  # all others together
        self._free[who] = max(self._free.get(who, now), now) + _TRY_SECONDS

    def _until(self, who: str) -> float:
        if who not in self._free and len(self._free) >= _WHO:
            who = ""
        return self._free.get(who, 0.0)
