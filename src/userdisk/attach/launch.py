"""Starting the attaching process and hearing from it; both ends of the pipe between them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from userdisk import attach
from userdisk.attach import state
from userdisk.attach.state import Folder, Record
from userdisk.errors import UsageError, UserdiskError

if TYPE_CHECKING:
    from userdisk.attach.process import Source, Task

_MAX_REPORT: Final = 64 << 10
_STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Attached:
    """A disk that is ready."""

    folder: Folder
    record: Record

    @property
    def device(self) -> Path:
        """The block device."""
        return Path(self.record.device)


def launch(module: str, unit: str, request: Mapping[str, Any], timeout: float) -> Attached:
    """Start `python -m module UNIT`, hand it the request, and wait until its disk is ready.

    The process stays. Blocks at most about `timeout` seconds. Raises `UsageError` and
    `UserdiskError` as the process does; nothing is left behind then.
    """
    attach.choose()
    read, write = os.pipe()
    with open(read, "rb") as reports:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, unit],
                stdin=subprocess.PIPE,
                stdout=write,
                start_new_session=True,
            )
        finally:
            os.close(write)
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(dict(request)).encode())
            report = _read_report(reports, time.monotonic() + timeout)
        except BaseException:
            _stop(process)
            raise
    if report is None:
        _stop(process)
        raise UserdiskError(f"{unit}: not ready after {timeout:g} s; gave up")
    if "folder" in report:
        process.returncode = 0  # it stays; Popen need not wait for it
        return Attached(Folder(Path(report["folder"])), Record(**report["record"]))
    _stop(process)
    if "error" not in report:
        raise UserdiskError(f"{unit}: the attaching process ended (status {process.returncode})")
    raise (UsageError if report["usage"] else UserdiskError)(report["error"])


def _read_report(reports: BinaryIO, deadline: float) -> dict[str, Any] | None:
    """The process' one line; empty if it ended without, None if the time is over."""
    line = b""
    while len(line) < _MAX_REPORT:
        ready = select.select([reports], [], [], max(deadline - time.monotonic(), 0))[0]
        if not ready:
            return None
        part = os.read(reports.fileno(), _MAX_REPORT)
        line += part
        if not part:
            return {}
        if line.endswith(b"\n"):
            break
    report: dict[str, Any] = json.loads(line)
    return report


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and undo what it had done."""
    from userdisk.attach import eject  # when all goes well nobody needs it

    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    for folder in state.folders():
        record = folder.read()
        if record is not None and record.pid == process.pid:
            eject.clean(folder, record)
    process.wait()


def main(task: Task, source: Source | None = None) -> int:
    """The other end: hold the task's disk, and report on standard output once. Exit status."""
    from userdisk.attach.process import hold  # who only launches does not need it

    pipe = os.dup(sys.stdout.fileno())  # the log takes its place

    def report(message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, json.dumps(message).encode() + b"\n")
        os.close(pipe)

    def ready(folder: Folder, record: Record) -> None:
        report({"folder": str(folder.path), "record": state.as_json(record)})

    try:
        return 1 if hold(task, ready, source) else 0
    except UserdiskError as error:
        report({"error": str(error), "usage": isinstance(error, UsageError)})
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        report({"error": f"{where}{error.strerror or error}", "usage": False})
    except KeyboardInterrupt:
        report({"error": "interrupted", "usage": False})
    return 1
