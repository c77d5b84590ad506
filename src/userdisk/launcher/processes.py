"""The processes that have the unit of an instance: the unit's own, and the program behind it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from userdisk.attach.unit_process import UnitProcess
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import limits, sockets
from userdisk.launcher.log_file import LogFile
from userdisk.launcher.spec import Spec

#: Where the program listens, in the instance's folder; and what the unit is then.
_PROGRAM: Final = "program"
_UNITS: Final = {"spd": "spd:{path}", "nbd": "nbd:nbd+unix:///?socket={path}"}

_LOOK: Final = 0.02  # seconds between looks whether the program listens
_KILL_SECONDS: Final = 2.0


class Processes:
    """Starts and ends them. One thread uses it.

    Args:
        held: the listening sockets that the unit's process inherits.
        ended: called with "unit" or "program" when that has ended unasked; on some thread.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        held: Mapping[str, socket.socket],
        log: LogFile,
        ended: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._log = log
        self._socket = folder / _PROGRAM
        self._ended = ended
        self._program: subprocess.Popen[bytes] | None = None
        self._how = _how(spec, log)
        unit = _UNITS[spec.speaks].format(path=self._socket) if spec.program else spec.unit
        descriptors = {name: sock.fileno() for name, sock in held.items()}
        self._unit = UnitProcess(
            [sys.executable, "-P", "-m", "userdisk.cli.instance", spec.id],
            {
                "unit": unit,
                "options": dict(spec.options),
                "export": spec.name if len(spec.name.encode()) <= 255 else spec.id,
                "nbd": {"descriptor": descriptors["nbd"], "path": str(folder / sockets.NBD)},
                "iscsi": {
                    "descriptor": descriptors["iscsi"],
                    "host": spec.host,
                    "port": held["iscsi"].getsockname()[1],
                    "target": spec.target,
                    "chap_file": spec.chap_file,
                    "initiators": list(spec.initiators),
                }
                if spec.iscsi
                else None,
                "flusher": spec.attach.wanted,
            },
            started=self._started,
            ended=lambda: ended("unit"),
            how={**self._how, "pass_fds": tuple(descriptors.values())},
        )  # fmt: skip

    @property
    def program_pid(self) -> int:
        """Of the program; 0 without one."""
        return self._program.pid if self._program is not None else 0

    def start(self, timeout: float) -> dict[str, Any]:
        """Start them and wait until they serve; returns the unit's report.

        Raises `UsageError` and `UserdiskError`; `kill` then.
        """
        deadline = time.monotonic() + timeout
        if self._spec.program:
            self._start_program(deadline)
        return self._unit.start(max(deadline - time.monotonic(), 0.1))

    def has_ended(self, what: str) -> bool:
        """Whether it is true of the processes that are meant to run now."""
        if what == "program":
            return self._program is not None and self._program.poll() is not None
        return self._unit.exit_status is not None

    def ended(self, what: str) -> tuple[int | None, str]:
        """One has ended unasked: ends the other; returns its exit status, and what happened."""
        if what == "program":
            assert self._program is not None
            status: int | None = self._program.wait()
            name = os.path.basename(self._spec.program[0])
        else:
            status, name = self._unit.exit_status, "the unit's process"
        self.kill()
        return status, f"{name} {_words(status)}"

    def stop(self, timeout: float) -> str:
        """Flush, close and end; what does not within `timeout` seconds is killed.

        Returns what went wrong, or nothing.
        """
        late = threading.Timer(timeout, self._unit.kill)
        late.daemon = True
        late.start()
        problem = self._unit.stop()
        late.cancel()
        self._end_program(timeout)
        return problem

    def kill(self) -> None:
        """End them at once."""
        self._unit.kill()
        self._end_program(_KILL_SECONDS)

    def _started(self, pid: int) -> None:
        self._limit(pid)

    def _limit(self, pid: int) -> None:
        for problem in limits.apply(pid, self._spec.limits, self._spec.id):
            self._log.note(problem)

    # -- the program -----------------------------------------------------------------------------

    def _start_program(self, deadline: float) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        place = str(self._socket)
        command = [word.replace("{socket}", place) for word in self._spec.program]
        how = dict(self._how)
        how["env"] = {**how["env"], "USERDISK_SOCKET": place}
        try:
            program = self._program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log.descriptor,
                start_new_session=True,
                **how,
            )
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise UserdiskError(f"{command[0]}: cannot be started: {said}") from None
        self._limit(program.pid)
        while not sockets.is_listening(self._socket):
            status = program.poll()
            if status is not None:
                raise UserdiskError(f"{command[0]}: {_words(status)} before it listened on {place}")
            if time.monotonic() > deadline:
                raise UserdiskError(
                    f"{command[0]}: does not listen on {place} after {self._spec.start_timeout:g} s"
                )
            time.sleep(_LOOK)
        threading.Thread(target=self._watch, args=(program,), name="program", daemon=True).start()

    def _watch(self, program: subprocess.Popen[bytes]) -> None:
        program.wait()
        if program is self._program:
            self._ended("program")

    def _end_program(self, timeout: float) -> None:
        program, self._program = self._program, None
        if program is None:
            return
        _signal_group(program, signal.SIGTERM)
        try:
            program.wait(timeout)
        except subprocess.TimeoutExpired:
            self._log.note(f"{self._spec.program[0]} did not end within {timeout:g} s")
        _signal_group(program, signal.SIGKILL)  # and what it has left behind
        program.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a program and what it has started; it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _words(status: int | None) -> str:
    if status is None:
        return "has ended"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed ({signal.Signals(-status).name})"
    return f"ended with status {status}"


def _how(spec: Spec, log: LogFile) -> dict[str, Any]:
    """What is the same for both, as `subprocess.Popen` takes it. Raises `UsageError`."""
    how: dict[str, Any] = {
        "stderr": log.descriptor,
        "env": {**os.environ, **spec.environment},
        "cwd": spec.directory or "/",
    }
    if not os.path.isdir(how["cwd"]):
        raise UsageError(f"directory {how['cwd']}: no such folder")
    if spec.user:
        try:
            user = pwd.getpwnam(spec.user)
        except KeyError:
            raise UsageError(f"user {spec.user}: there is no such user") from None
        if user.pw_uid != os.getuid():
            if os.getuid() != 0:
                raise UsageError(f"user {spec.user}: only root's launcher can start as others")
            groups = [group.gr_gid for group in grp.getgrall() if spec.user in group.gr_mem]
            how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}
            how["env"] |= {"HOME": user.pw_dir, "USER": spec.user, "LOGNAME": spec.user}
    return how
