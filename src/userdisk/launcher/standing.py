"""How one instance is now: its status, and what its unit's process has said; thread-safe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from userdisk.launcher import spec
from userdisk.launcher.spec import State, Status

#: A stop that is under way hides what comes and goes meanwhile.
_HIDDEN: Final = (State.RUNNING, State.DEGRADED, State.RESTARTING)
_SERVING: Final = (State.RUNNING, State.DEGRADED)


class Standing:
    """What the shim's threads share; each change is written to status.json.

    Args:
        folder: the instance's.
        note: called with a line about what could not be written.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.status = Status(State.STARTING, time.time(), os.getpid(), spec.start_time())
        self.report: dict[str, Any] = {}  #: of the unit's process that is up
        self.stopping = False
        self.given_up = False  #: nobody waits for the unit to come back

    def as_json(self) -> dict[str, Any]:
        """The status, as the file has it."""
        with self.lock:
            return asdict(self.status)

    def update(self, **fields: Any) -> None:
        """Fields of the status are different."""
        with self.changed:
            state = fields.get("state", self.status.state)
            if self.stopping and state in _HIDDEN:
                fields.pop("state", None)
            elif state is not self.status.state:
                fields["since"] = time.time()
            self.status = replace(self.status, **fields)
            self.changed.notify_all()
            try:
                spec.write(self._folder, spec.STATUS, self.status)
            except OSError as error:
                self._note(f"{spec.STATUS}: {error.strerror}")

    def update_device(self, *, missing: bool, **fields: Any) -> None:
        """Something is different with the device; `missing`: what was asked for is not there."""
        with self.changed:
            if self.status.state in _SERVING:
                fields["state"] = State.DEGRADED if missing else State.RUNNING
            self.update(**fields)

    def back_to(self, state: State) -> None:
        """The stop was refused: it is as it was before."""
        with self.changed:
            self.stopping = False
            self.update(state=state)
