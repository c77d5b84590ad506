"""The processes that have the unit of an instance: the unit's own, and the program behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from userdisk.attach.unit_process import UnitProcess
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import children, sockets
from userdisk.launcher.log_file import LogFile
from userdisk.launcher.spec import Limits, Spec

if TYPE_CHECKING:
    from userdisk.launcher.confinement import Confinement

#: Where the program listens, in the instance's folder; and what the unit is then.
_PROGRAM: Final = "program"
_UNITS: Final = {"spd": "spd:{path}", "nbd": "nbd:nbd+unix:///?socket={path}"}

_LOOK: Final = 0.02  # seconds between looks whether the program listens
_KILL_SECONDS: Final = 2.0
_LONGEST_EXPORT: Final = 255  # bytes


class Processes:
    """Starts and ends them. One thread uses it; `cancel` is for any other.

    Args:
        held: the listening sockets that the unit's process inherits.
        news: the descriptor on which it says what is new (see news.py).
        ended: called with "unit" or "program" when that has ended unasked; on some thread.

    Raises `UsageError` for a user, folder or limit that cannot be had.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        held: Mapping[str, socket.socket],
        log: LogFile,
        news: int,
        ended: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._log = log
        self._socket = folder / _PROGRAM
        self._ended = ended
        self._program: subprocess.Popen[bytes] | None = None
        self._unit_pid = 0
        self._control = ""  # its control socket
        self._cancelled = threading.Event()
        directory = spec.directory or "/"
        if not os.path.isdir(directory):
            raise UsageError(f"directory {directory}: no such folder")
        self._confinement = confinement = self._confined()
        inherited = children.environment()
        if confinement is not None:
            inherited = confinement.environment(inherited)
        self._how: dict[str, Any] = {
            "stderr": log.descriptor,
            "env": {**inherited, **spec.environment},
            "cwd": directory,
        }
        descriptors = {name: sock.fileno() for name, sock in held.items()}
        self._unit = UnitProcess(
            self._command([sys.executable, "-P", "-m", "userdisk.cli.instance", spec.id]),
            _request(spec, folder, self._socket, held) | {"news": news},
            started=self._started,
            ended=lambda: ended("unit"),
            how={**self._how, "pass_fds": (news, *descriptors.values())},
        )

    @property
    def program_pid(self) -> int:
        """Of the program; 0 without one."""
        return self._program.pid if self._program is not None else 0

    @property
    def exit_status(self) -> int | None:
        """Of the last process of the unit, if it has ended."""
        return self._unit.exit_status

    @property
    def stop_timeout(self) -> float:
        """Seconds from being told to end to being killed."""
        return self._spec.stop_timeout

    @property
    def kept(self) -> list[int]:
        """Children that are waited for here, and by nobody else."""
        return [self._unit_pid, self.program_pid]

    def begin(self) -> None:
        """Start the unit's process, if there is nothing to wait for before: see `start`.

        Raises `UserdiskError`.
        """
        if not self._spec.program:
            self._unit.begin()

    def start(self, timeout: float) -> dict[str, Any]:
        """Start them and wait until they serve; returns the unit's report.

        Raises `UsageError` and `UserdiskError`; `kill` then.
        """
        deadline = time.monotonic() + timeout
        if self._spec.program:
            self._start_program(deadline)
        self._refuse_cancelled()
        report = self._unit.start(max(deadline - time.monotonic(), 0.1))
        report["pid"] = self._unit_pid  # whatever it says itself
        self._control = report["control"]
        return report

    def cancel(self) -> None:
        """See to it that no `start` goes on, nor begins. From any thread; does not block."""
        self._cancelled.set()
        if self._unit_pid:
            _end_late(self._unit_pid, self._spec.stop_timeout)

    def kill_unit(self) -> None:
        """Kill the unit's process, as if it had died. From any thread; does not block."""
        _signal(self._unit_pid, signal.SIGKILL)

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
        more = ""
        if self._confinement is not None and self._confinement.out_of_memory():
            more = f": it wanted more memory than its limit, {self._spec.limits.memory} bytes"
        return status, f"{name} {_words(status)}{more}"

    def stop(self, patience: float) -> str:
        """Flush for `patience` seconds at most, close and end within the stop's time-out.

        What does not is killed. Returns what went wrong, or nothing.
        """
        if not self._unit_pid:
            return ""
        timeout = self._spec.stop_timeout
        _signal(self._unit_pid, signal.SIGTERM)  # the end of its pipe alone might be our death
        if self._unit.hear(patience) is None:
            self._log.note(f"it has not flushed within {patience:g} s, and is killed")
            timeout = 0.0
        late = threading.Timer(timeout, self._unit.kill)
        late.daemon = True
        late.start()
        problem = self._unit.stop()
        late.cancel()
        self._end_program(self._spec.stop_timeout)
        self._clear()
        return problem

    def kill(self) -> None:
        """End them at once."""
        self._unit.kill()
        self._end_program(_KILL_SECONDS)
        self._clear()

    def close(self) -> None:
        """They have ended, and are not started again."""
        if self._confinement is not None:
            self._confinement.close()

    def _confined(self) -> Confinement | None:
        """None where there is nothing to be confined; loading that takes its time."""
        spec = self._spec
        if spec.limits == Limits() and not spec.user:
            return None
        from userdisk.launcher.confinement import Confinement

        confinement = Confinement(spec.limits, spec.user, spec.id, as_json=spec.log_json)
        if confinement.note:
            self._log.note(confinement.note)
        return confinement

    def _command(self, command: list[str]) -> list[str]:
        return command if self._confinement is None else self._confinement.command(command)

    def _started(self, pid: int) -> None:
        self._unit_pid = pid
        if self._cancelled.is_set():
            _end_late(pid, self._spec.stop_timeout)

    def _clear(self) -> None:
        """Nothing that they have started, or left, outlives them."""
        if self._unit_pid:
            children.end_session(self._unit_pid)
            with contextlib.suppress(OSError):  # of one that was killed
                Path(self._control).unlink()
        self._unit_pid = 0
        ended = children.end_strays(self.kept)
        if ended:
            self._log.note(f"killed what was left: processes {', '.join(map(str, ended))}")

    def _refuse_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise UserdiskError("it is being stopped")

    # -- the program -----------------------------------------------------------------------------

    def _start_program(self, deadline: float) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        place = str(self._socket)
        command = [word.replace("{socket}", place) for word in self._spec.program]
        how = {**self._how, "env": {**self._how["env"], "USERDISK_SOCKET": place}}
        try:
            program = self._program = subprocess.Popen(
                self._command(command),
                stdin=subprocess.DEVNULL,
                stdout=self._log.descriptor,
                start_new_session=True,
                **how,
            )
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise UserdiskError(f"{command[0]}: cannot be started: {said}") from None
        while not sockets.is_listening(self._socket):
            self._refuse_cancelled()
            status = program.poll()
            if status is not None:
                raise UserdiskError(f"{command[0]}: {_words(status)} before it listened on {place}")
            if time.monotonic() > deadline:
                raise UserdiskError(
                    f"{command[0]}: does not listen on {place} after {self._spec.start_timeout:g} s"
                )
            time.sleep(_LOOK)
        from userdisk.attach import state

        # Nobody else ends it when this process is killed.
        self._unit.request["program"] = [program.pid, state.start_time(program.pid) or 0]
        threading.Thread(target=self._watch, args=(program,), name="program", daemon=True).start()

    def _watch(self, program: subprocess.Popen[bytes]) -> None:
        program.wait()
        if program is self._program:
            self._ended("program")

    def _end_program(self, timeout: float) -> None:
        program = self._program
        if program is None:
            return
        _signal_group(program, signal.SIGTERM)
        try:
            program.wait(timeout)
        except subprocess.TimeoutExpired:
            self._log.note(f"{self._spec.program[0]} did not end within {timeout:g} s")
        _signal_group(program, signal.SIGKILL)  # and what it has left behind
        program.wait()
        self._program = None
        children.end_session(program.pid)


def _request(
    spec: Spec, folder: Path, program: Path, held: Mapping[str, socket.socket]
) -> dict[str, Any]:
    """What the unit's process is given."""
    iscsi = held.get("iscsi")
    return {
        "unit": _UNITS[spec.speaks].format(path=program) if spec.program else spec.unit,
        "options": dict(spec.options),
        "export": spec.name if len(os.fsencode(spec.name)) <= _LONGEST_EXPORT else spec.id,
        "nbd": {
            "descriptor": held[sockets.NBD].fileno(),
            "path": str(folder / sockets.NBD),
        },
        "iscsi": None
        if iscsi is None
        else {
            "descriptor": iscsi.fileno(),
            "host": spec.host,
            "port": iscsi.getsockname()[1],
            "target": spec.target,
            "chap_file": spec.chap_file,
            "initiators": list(spec.initiators),
        },
        "attached": spec.attach.wanted,
        "log_json": spec.log_json,
        "program": None,
        "stop_timeout": spec.stop_timeout,
    }


def _end_late(pid: int, seconds: float) -> None:
    """Have a child end now, or be killed after so many seconds."""
    from userdisk.attach import state

    _signal(pid, signal.SIGTERM)
    started = state.start_time(pid)

    def kill() -> None:
        if started is not None and state.start_time(pid) == started:
            _signal(pid, signal.SIGKILL)

    late = threading.Timer(seconds, kill)
    late.daemon = True
    late.start()


def _signal(pid: int, number: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


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
