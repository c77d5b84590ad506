"""Starting shims, asking them, and finding those that run: the service's side."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from userdisk import control
from userdisk.attach import state as processes
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places, spec
from userdisk.launcher.spec import Spec, State, Status
from userdisk.log_format import configured

_SHIM: Final = "shim"
_MARGIN: Final = 10.0  # seconds more than the shim's own time limits
_MAX_REPORT: Final = 64 << 10
ASK_SECONDS: Final = 5.0


class Exists(UserdiskError):
    """There is such an instance already."""


def start(given: Spec) -> Status:
    """Start an instance and wait until it is up, or has failed. Blocks.

    Raises `Exists`, and `UsageError` and `UserdiskError` as the shim does; nothing is left then.
    """
    folder = places.instance_folder(given.id)
    control.own_folder(folder.parent, 0o755)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise Exists(f"{given.class_} {given.name}: it is there already") from None
    if configured().as_json:
        given = replace(given, log_json=True)
    try:
        spec.write(folder, spec.SPEC, given)
        report = _launch(folder, given.start_timeout * 2 + _MARGIN)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if "error" in report:
        raise (UsageError if report.get("usage") else UserdiskError)(str(report["error"]))
    return spec.decode_status(report["status"])


def _launch(folder: Path, timeout: float) -> dict[str, Any]:
    read, write = os.pipe()
    with open(read, "rb") as reports:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "userdisk.launcher.shim", str(folder), str(write)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(write,),
                start_new_session=True,
            )
        finally:
            os.close(write)
        process.wait()  # the shim itself goes on as nobody's child
        line = b""
        deadline = time.monotonic() + timeout
        while not line.endswith(b"\n") and len(line) < _MAX_REPORT:
            if not select.select([reports], [], [], max(deadline - time.monotonic(), 0))[0]:
                with contextlib.suppress(UserdiskError, OSError):
                    ask(folder, "stop", ASK_SECONDS, force=True)
                raise UserdiskError(f"not ready after {timeout:g} s; gave up")
            part = os.read(reports.fileno(), 4096)
            if not part:
                raise UserdiskError("the process that was to keep it has ended")
            line += part
    report: dict[str, Any] = json.loads(line)
    return report


def ask(folder: Path, verb: str, seconds: float, /, **fields: object) -> dict[str, Any]:
    """Ask a shim; blocks for so many seconds at most.

    Raises `UserdiskError` as the shim does, and `OSError` if there is none.
    """
    return control.ask(folder / _SHIM, {"verb": verb, **fields}, seconds)


def running() -> list[tuple[Spec, Status]]:
    """All instances whose shim runs. What a killed one has left is in `orphans`."""
    return [(known, status) for known, status, alive in _all() if alive]


def orphans() -> list[tuple[Spec, Status]]:
    """Instances whose shim was killed."""
    return [(known, status) for known, status, alive in _all() if not alive]


def unfinished() -> list[Path]:
    """Folders of instances that nobody began: who made them was killed."""
    try:
        folders = sorted(places.instances_folder().iterdir())
    except FileNotFoundError:
        return []
    return [each for each in folders if not (each / spec.SPEC).exists()]


def reap(known: Spec, status: Status) -> list[str]:
    """Take away what the shim of an orphan has left; returns remarks. Blocks for some seconds.

    Its processes end by themselves when it dies, in order; the device last.
    """
    from userdisk.attach import eject

    remarks = []
    for entry in eject.entries():
        if entry.record.pid == status.attach_pid and entry.folder.name.startswith(known.id[:40]):
            with contextlib.suppress(UserdiskError, OSError):
                remarks += eject.eject(entry, force=True, timeout=60.0)
    shutil.rmtree(places.instance_folder(known.id), ignore_errors=True)
    return [*remarks, "the process that kept it was killed"]


def alive(status: Status) -> bool:
    """Whether the shim that has said this still runs."""
    return bool(status.pid) and processes.start_time(status.pid) == status.start_time


def _all() -> list[tuple[Spec, Status, bool]]:
    found = []
    try:
        folders = sorted(places.instances_folder().iterdir())
    except FileNotFoundError:
        return []
    for folder in folders:
        try:
            known = spec.read_spec(folder)
        except UserdiskError:
            continue
        try:
            status = spec.read_status(folder)
        except UserdiskError as error:
            status = replace(Status(), state=State.FAILED, last_error=str(error))
        found.append((known, status, alive(status)))
    return found
