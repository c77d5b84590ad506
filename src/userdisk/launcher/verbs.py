"""What a shim answers on its control socket: see, mount, unmount and stop its instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from userdisk.control import Answer, Verb
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import log_file
from userdisk.launcher.attached import Attached
from userdisk.launcher.log_file import LogFile
from userdisk.launcher.processes import Processes
from userdisk.launcher.spec import State
from userdisk.launcher.standing import Standing

_LONGEST_WAIT: Final = 3600.0
_STOP_SECONDS: Final = 86400.0
_LOST_SECONDS: Final = 1.0
_KILL_SECONDS: Final = 30.0


class Verbs:
    """The verbs of one instance. They block, on threads of the control socket.

    Args:
        stop: has the main thread end the processes; returns at once.
    """

    def __init__(
        self,
        folder: Path,
        standing: Standing,
        processes: Processes,
        attached: Attached,
        log: LogFile,
        stop: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._standing = standing
        self._processes = processes
        self._attached = attached
        self._log = log
        self._stop_processes = stop
        self.patience = _STOP_SECONDS  #: for the last flush
        self.problem = ""  #: when the unit was closed
        self.ended = threading.Event()  #: all has been taken away

    def table(self) -> dict[str, Verb]:
        """The table of `Control`."""
        return {
            "status": self._say,
            "stop": self.stop,
            "mount": self._mount,
            "unmount": self._unmount,
            "unit": self._unit,
            "lost": self._lost,
            "log": self._tail,
        }

    def _say(self, request: Mapping[str, object]) -> Answer:
        return {"status": self._standing.as_json()}

    def _tail(self, request: Mapping[str, object]) -> Answer:
        lines = request.get("lines", 10)
        return {"lines": log_file.tail(self._folder, lines if isinstance(lines, int) else 10)}

    def _mount(self, request: Mapping[str, object]) -> Answer:
        """Mount the device. An error if it is mounted, or if there is none."""
        folder = request.get("folder")
        if not isinstance(folder, str) or not folder.startswith("/") or "\0" in folder:
            raise UsageError("folder: must be an absolute path")
        self._refuse_stopping()
        self._attached.mount(folder)
        return {"mountpoints": list(self._standing.status.mountpoints)}

    def _unmount(self, request: Mapping[str, object]) -> Answer:
        """Unmount the device, which stays. An error if it is in use and not forced."""
        self._refuse_stopping()
        remarks = self._attached.unmount(force=request.get("force") is True)
        return {"mountpoints": list(self._standing.status.mountpoints), "remarks": remarks}

    def _refuse_stopping(self) -> None:
        if self._standing.stopping:
            raise UserdiskError("it is being stopped")

    def _unit(self, request: Mapping[str, object]) -> Answer:
        """What the unit's process has said; waits until it is up."""
        deadline = time.monotonic() + _seconds(request, "timeout", _LONGEST_WAIT)
        standing = self._standing
        with standing.changed:
            while not standing.report:
                status = standing.status
                if standing.given_up or status.state in (State.FAILED, State.ENDED):
                    return {"gone": status.last_error or "the disk is being stopped"}
                left = deadline - time.monotonic()
                if left <= 0:
                    raise UserdiskError(status.last_error or "the unit is not ready yet")
                standing.changed.wait(left)
            return {"report": standing.report}

    def _lost(self, request: Mapping[str, object]) -> Answer:
        """Its attaching process has lost the connection: that process of the unit has to end."""
        pid = request.get("pid")
        standing = self._standing

        def ended() -> bool:
            return standing.status.unit_pid != pid

        with standing.changed:
            if not standing.changed.wait_for(ended, _LOST_SECONDS):
                self._log.note("the unit's process had closed the connection, and is killed")
                self._processes.kill_unit()
                standing.changed.wait_for(ended, _KILL_SECONDS)
            return {"reason": standing.status.last_error or "the unit's process has gone"}

    def stop(self, request: Mapping[str, object]) -> Answer:
        """Unmount, detach, flush, close. An error if it is in use and not forced."""
        force = request.get("force") is True
        timeout = _seconds(request, "timeout", _STOP_SECONDS)
        began = time.monotonic()
        standing = self._standing
        with standing.lock:
            if standing.stopping:
                raise UserdiskError("it is being stopped already")
            standing.stopping = True
            before = standing.status.state
            if not (standing.report or self._attached.attached):
                standing.given_up = True
            standing.update(state=State.STOPPING)
        if standing.given_up:  # else its device needs the unit once more, to write back
            self._processes.cancel()
        try:
            remarks = self._attached.eject(force=force, timeout=timeout)
        except BaseException:
            standing.back_to(before)
            raise
        left = max(began + timeout - time.monotonic(), 0.0)
        self.patience = min(left, self._processes.stop_timeout) if force else left
        self._stop_processes()
        self.ended.wait()
        if self.problem:
            remarks.append(self.problem)
        return {"remarks": remarks, "failed": self.problem}


def _seconds(request: Mapping[str, object], name: str, longest: float) -> float:
    value = request.get(name)
    return min(max(float(value), 0.0), longest) if isinstance(value, int | float) else longest
