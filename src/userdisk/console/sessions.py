"""Sessions of browsers that have logged in: a cookie each, bounded in number and in idle time.

A cookie knows no port: another server on this machine may be sent it. So a session belongs to who
has opened it (`peers.py`), and only a digest of the cookie is kept. Not thread-safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

IDLE: Final = 12 * 3600.0  #: seconds
MOST: Final = 64


@dataclass
class Session:
    """One browser.

    Attributes:
        csrf: what a request that changes something must also know.
        who: has opened it.
        used: when it was used last.
    """

    csrf: str
    who: str
    used: float
    open: bool = True


class Sessions:
    """Those that are open.

    Args:
        clock: seconds that never go back.
        make: a secret, another each time.
    """

    def __init__(self, clock: Callable[[], float], make: Callable[[], str]) -> None:
        self._clock = clock
        self._make = make
        self._sessions: dict[bytes, Session] = {}  # the one that was used last is the last

    def begin(self, who: str) -> str:
        """The cookie of a new session; the one that was used least ends if there are too many."""
        self._drop_idle()
        while len(self._sessions) >= MOST:
            self._end(next(iter(self._sessions)))
        cookie = self._make()
        self._sessions[_digest(cookie)] = Session(self._make(), who, self._clock())
        return cookie

    def find(self, cookies: Iterable[str], who: str) -> Session | None:
        """The session of one of the cookies, which is used by this."""
        self._drop_idle()
        for cookie in cookies:
            key = _digest(cookie)
            session = self._sessions.get(key)
            if session is not None and session.who == who:
                session.used = self._clock()
                self._sessions[key] = self._sessions.pop(key)
                return session
        return None

    def end(self, session: Session) -> None:
        """Its cookie is worth nothing any more."""
        for key in [key for key, each in self._sessions.items() if each is session]:
            self._end(key)

    def _drop_idle(self) -> None:
        oldest = self._clock() - IDLE
        for key in [key for key, each in self._sessions.items() if each.used <= oldest]:
            self._end(key)

    def _end(self, key: bytes) -> None:
        self._sessions.pop(key).open = False


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="replace")).digest()
