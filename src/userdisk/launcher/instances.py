"""The instances that there are: what their shims have written, kept in memory and watched.

A shim replaces `status.json` at each change; the watch looks at the time of the file, which costs
the service next to nothing, and asks no shim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from userdisk.errors import UserdiskError
from userdisk.launcher import places, shims, spec
from userdisk.launcher.rights import user_name
from userdisk.launcher.spec import Spec, State, Status
from userdisk.launcher.types import Instance

_LOOK = 0.1  # seconds between looks
_ALIVE = 20  # looks between those whether the shims still run


@dataclass(slots=True)
class Known:
    """One instance; `stamp` is that of the status that was read."""

    spec: Spec
    status: Status
    stamp: int
    alive: bool = True


class Instances:
    """Knows all instances of this user. Thread-safe.

    Args:
        changed: called on the watch's thread with an instance that is different; True: it is gone.
    """

    def __init__(self, changed: Callable[[Known, bool], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._stop = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._watch, name="instances", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        self._thread.join()

    def all(self) -> list[Known]:
        """By their ID."""
        with self._lock:
            return [self._known[id_] for id_ in sorted(self._known)]

    def get(self, id_: str) -> Known | None:
        """One of them, as it is now; None also for what is no ID."""
        if not places.is_instance_id(id_):
            return None
        self.look(id_)
        with self._lock:
            return self._known.get(id_)

    def look(self, only: str | None = None, *, at_shims: bool = True) -> None:
        """Read what is new. `at_shims`: whether they run, too."""
        news: list[tuple[Known, bool]] = []
        with self._lock:
            found = self._names() if only is None else [only]
            for id_ in found:
                news += self._look_at(id_, at_shims)
            if only is None:
                for id_ in self._known.keys() - set(found):
                    news.append((self._known.pop(id_), True))
        for known, gone in news:
            self._changed(known, gone)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in places.instances_folder().iterdir()]
        except FileNotFoundError:
            return []

    def _look_at(self, id_: str, at_shims: bool) -> list[tuple[Known, bool]]:
        folder = places.instance_folder(id_)
        before = self._known.get(id_)
        try:
            stamp = (folder / spec.STATUS).stat().st_mtime_ns
            if before is not None and before.stamp == stamp:
                if at_shims and before.alive and not shims.alive(before.status):
                    self._known[id_] = known = replace(before, alive=False)
                    return [(known, False)]
                return []
            status = spec.read_status(folder)
            given = spec.read_spec(folder)  # the port may have been chosen since
        except (OSError, UserdiskError):
            if before is None or folder.exists():
                return []  # it is being made
            return [(self._known.pop(id_), True)]
        self._known[id_] = known = Known(given, status, stamp, shims.alive(status))
        return [(known, False)]

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(_LOOK):
            looks += 1
            self.look(at_shims=looks % _ALIVE == 0)


def as_instance(known: Known, log_tail: list[str] | None = None) -> Instance:
    """As the API shows it."""
    given, status = known.spec, known.status
    state, error = status.state, status.last_error
    if not known.alive:
        state, error = State.FAILED, "the process that kept it was killed"
    return Instance(
        id=given.id,
        class_=given.class_,
        name=given.name,
        arguments=list(given.arguments),
        user=user_name(given.started_by),
        state=state,
        since=status.since,
        uptime=max(time.time() - status.since, 0.0),
        pid=status.pid,
        unit_pid=status.unit_pid,
        restarts=status.restarts,
        exit_status=status.exit_status,
        last_error=error,
        unit=given.unit or " ".join(given.program),
        size=status.size,
        block_length=status.block_length,
        read_only=status.read_only,
        target=status.target,
        portal=status.portal,
        nbd_uri=status.nbd_uri,
        device=status.device,
        mountpoints=list(status.mountpoints),
        persistent=given.persistent,
        log_tail=log_tail or [],
    )
