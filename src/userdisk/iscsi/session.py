"""Sessions: the initiator's tie to a target, their registry and reinstatement (RFC 7143 6.3.5).

A session has one connection (MaxConnections is 1). Two sessions of one initiator port (name and
ISID) at one target port (target name and portal group tag) cannot exist: a second login replaces
the first session, and is answered only when the last command of the first has left its unit, so
that no late write can overtake.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from userdisk.target.nexus import Nexus
from userdisk.target.target import Target


class Key(NamedTuple):
    """What identifies a session at a server: I_T nexus, as names."""

    target: str
    initiator: str
    isid: int
    tag: int = 1  #: of the portal group


class Session:
    """A session in full feature phase; owned by its connection's thread."""

    __slots__ = ("drop", "key", "nexus", "target", "tsih")

    def __init__(self, key: Key, target: Target, tsih: int, drop: Callable[[], None]) -> None:
        self.key = key
        self.target = target
        self.tsih = tsih
        #: ends the session's connection; may be called from any thread
        self.drop = drop
        self.nexus: Nexus = target.attach(key.initiator, key.isid, key.tag)


class Sessions:
    """The registry of all sessions of a server. Methods may be called from any thread.

    Args:
        lock: guards the registry; never held while anything else is called that may block.
    """

    def __init__(self, lock: AbstractContextManager[Any], limit: int = 256) -> None:
        self._lock = lock
        self._limit = limit
        self._open: dict[Key, Session] = {}
        self._waiting: dict[Key, tuple[Callable[[Session], None], Target, Callable[[], None]]] = {}
        self._last_tsih = 0

    def open(
        self,
        key: Key,
        target: Target,
        drop: Callable[[], None],
        ready: Callable[[Session], None],
    ) -> Session | bool | None:
        """Open a session; None: there are too many; False: `ready(session)` is called later.

        The latter when an older session has to end first; a login that was already waiting for
        that is dropped.
        """
        superseded: Callable[[], None] | None = None
        with self._lock:
            old = self._open.get(key)
            if old is None:
                if len(self._open) >= self._limit:
                    return None
                return self._register(key, target, drop)
            if key in self._waiting:
                superseded = self._waiting[key][2]
            self._waiting[key] = (ready, target, drop)
        if superseded is not None:
            superseded()
        old.drop()
        return False

    def forget(self, drop: Callable[[], None]) -> Session | None:
        """A connection is gone and waits for `ready` no more; the session that it has, if any.

        It may have one without knowing: `ready` was just called.
        """
        with self._lock:
            self._waiting = {k: entry for k, entry in self._waiting.items() if entry[2] != drop}
            return next((each for each in self._open.values() if each.drop == drop), None)

    def end_all(self, target: Target, but: Session) -> None:
        """Have the sessions of a target end soon, all but one."""
        with self._lock:
            ending = [each for each in self._open.values() if each.target is target]
        for session in ending:
            if session is not but:
                session.drop()

    def close(self, session: Session) -> None:
        """A session has ended and its last command has left; opens the one that waits for that."""
        session.target.detach(session.nexus)
        with self._lock:
            if self._open.get(session.key) is not session:
                return
            del self._open[session.key]
            waiting = self._waiting.pop(session.key, None)
            if waiting is None:
                return
            ready, target, drop = waiting
            successor = self._register(session.key, target, drop)
        ready(successor)

    def _register(self, key: Key, target: Target, drop: Callable[[], None]) -> Session:
        tsihs = {session.tsih for session in self._open.values()}
        while True:
            self._last_tsih = self._last_tsih % 0xFFFF + 1
            if self._last_tsih not in tsihs:
                break
        session = self._open[key] = Session(key, target, self._last_tsih, drop)
        return session
