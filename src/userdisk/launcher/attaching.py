"""The attaching process of an instance: its unit is in another process, which the shim keeps."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from userdisk import control
from userdisk.attach import state
from userdisk.attach.disk import Gone
from userdisk.attach.launch import main as hold_and_report
from userdisk.attach.nbd_device import WAIT
from userdisk.attach.process import Task
from userdisk.control import Answer
from userdisk.errors import UserdiskError
from userdisk.launcher import sockets
from userdisk.log_format import Wanted

_PATIENCE: Final = 3600.0
_LOST_SECONDS: Final = 60.0
_MARGIN: Final = 5.0  # seconds more than the shim itself waits
_LONGEST_SOCKET: Final = 100  # bytes


class HeldUnit:
    """The unit of an instance, as its shim answers for it; see `userdisk.attach.process.Source`.

    `start_timeout`: seconds that it may take at the start.
    """

    def __init__(self, folder: Path, start_timeout: float) -> None:
        self._folder = folder
        self._start_timeout = start_timeout
        self._pid = 0  # of the process that was seen last
        self._control = Path()  # where that answers
        self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = str(folder / sockets.NBD)
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            path = f"/proc/self/fd/{self._descriptor}/{sockets.NBD}"
        self.socket = path

    def _ask(self, verb: str, seconds: float, **fields: object) -> Answer:
        try:
            return control.ask(self._folder / "shim", {"verb": verb, **fields}, seconds)
        except OSError as error:
            raise UserdiskError(f"the launcher's process of it has gone: {error}") from None

    def start(self) -> Mapping[str, Any]:
        """See `Source`."""
        return self._report(self._start_timeout)

    def _report(self, timeout: float) -> dict[str, Any]:
        answer = self._ask("unit", timeout + _MARGIN, timeout=timeout)
        report = answer.get("report")
        if not isinstance(report, dict):
            raise Gone(str(answer.get("gone")))
        self._pid, self._control = report["pid"], Path(report["control"])
        return report

    def revive(self, timeout: float) -> None:
        """See `Source`."""
        self._report(timeout)

    def lost(self) -> str:
        """See `Source`."""
        try:
            return str(self._ask("lost", _LOST_SECONDS, pid=self._pid)["reason"])
        except UserdiskError as error:
            return str(error)

    def pid(self) -> int:
        """See `Source`."""
        return self._pid

    def control(self) -> Path:
        """See `Source`."""
        return self._control

    def stop(self) -> str:
        """See `Source`: the shim closes it."""
        return ""

    def kill(self) -> None:
        """See `Source`: the shim ends it."""


def _end_with(pid: int, started: int) -> None:
    """Stop this process in order when the shim has been killed: nobody else would."""
    with state.opened_process(pid, started) as process:
        while process is not None and not state.wait_for_end(process, _PATIENCE):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Hold the device until a signal; returns the exit status."""
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    shim = os.getppid()
    threading.Thread(
        target=_end_with, args=(shim, state.start_time(shim) or 0), daemon=True
    ).start()
    task = Task(
        sys.argv[1],
        request["name"],
        (),
        {},
        request["mountpoint"],
        foreground=False,
        logs=Wanted(as_json=request["log_json"]),
        wait=WAIT + request["start_timeout"],
    )
    return hold_and_report(task, HeldUnit(folder, request["start_timeout"]))


if __name__ == "__main__":
    sys.exit(main())
