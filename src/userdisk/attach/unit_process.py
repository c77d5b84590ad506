"""The unit's process: starting it, hearing from it, telling it to stop; both ends of its pipes.

Theory of operation. Its standard input brings one line of JSON, what to open and where to listen,
and then nothing: the end of it means that the attaching process wants it to stop, or has died.
Either way it flushes, closes the unit and ends, so that nothing holds an image for ever. On its
standard output it says one line when it listens (or why it cannot), and one more when it has closed
the unit. It is in a session of its own: Ctrl-C on a terminal does not reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from userdisk.errors import UsageError, UserdiskError

#: So often may it be started again in `_PERIOD` seconds.
_STARTS: Final = 5
_PERIOD: Final = 60.0

_MAX_LINE: Final = 64 << 10
_STOP_SECONDS: Final = 2.0
_LOST_SECONDS: Final = 1.0


class UnitProcess:
    """The process that has the unit, and those that take its place when it dies.

    The methods block and belong to one thread at a time; `stop` and `kill` only after `start`.

    Args:
        command: starts the program; its end of the pipes is `Told`.
        request: the JSON that it is given. What its first report calls `again` is what the next
            ones are given.
        started: called with the process id when a process has been started.
        ended: called on some thread when the process has ended unasked.
        how: more for `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[str],
        request: Mapping[str, Any],
        *,
        started: Callable[[int], None] = lambda pid: None,
        ended: Callable[[], None] = lambda: None,
        how: Mapping[str, Any] | None = None,
    ) -> None:
        self._command = command
        self.request = dict(request)
        self._started = started
        self._ended = ended
        self._how = dict(how or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""  # of its output, what is not taken yet
        self._starts: list[float] = []
        self._stopping = False
        self._begun = False  # by `begin`, and nobody has waited for it

    def begin(self) -> None:
        """Start it, and wait for nothing: `start` then goes on from there.

        Raises `UserdiskError` if it cannot be started; there is no process then.
        """
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                **self._how,
            )
        except OSError as error:
            raise UserdiskError(f"the unit's process cannot be started: {error.strerror}") from None
        self._said = b""
        self._begun = True
        try:
            self._started(process.pid)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(self.request).encode() + b"\n")
                process.stdin.flush()
        except BaseException:
            self.kill()
            raise

    def start(self, timeout: float | None = None) -> dict[str, Any]:
        """Start it and wait until it listens; returns its report.

        `timeout` in seconds; None: as long as it takes. Raises `UsageError` and `UserdiskError` as
        it does; there is no process then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._begun:
            self.begin()
        self._begun = False
        process = self._process
        assert process is not None
        try:
            report = self._report(deadline)
        except BaseException:
            self.kill()
            raise
        if report is None or "error" in report or not report:
            self.kill()
            if report is None:
                raise UserdiskError(f"the unit's process is not ready after {timeout:g} s")
            if not report:
                raise UserdiskError(self._end())
            raise (UsageError if report["usage"] else UserdiskError)(report["error"])
        self.request |= report.get("again", {})
        threading.Thread(target=self._watch, args=(process,), name="watch", daemon=True).start()
        return report

    def revive(self, timeout: float) -> None:
        """Start it again if it has ended. Raises `UserdiskError`: why it does not run."""
        if self._process is not None and self._process.poll() is None:
            return
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < _PERIOD]
        if len(self._starts) >= _STARTS:
            raise UserdiskError(
                f"it was started {_STARTS} times within {_PERIOD:g} s, and waits for its turn"
            )
        self._starts.append(now)
        self.start(timeout)

    def lost(self) -> str:
        """What became of it, in words. One that has only closed the connection is ended, too."""
        assert self._process is not None
        try:
            self._process.wait(_LOST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "the unit's process had closed the connection"
        return self._end()

    def _end(self) -> str:
        assert self._process is not None
        status = self._process.wait()
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"the unit's process was killed ({signal.Signals(-status).name})"
        return f"the unit's process ended (status {status})"

    @property
    def exit_status(self) -> int | None:
        """Of the last process, once it has ended; negative: the signal that killed it."""
        return None if self._process is None else self._process.poll()

    def hear(self, timeout: float) -> dict[str, Any] | None:
        """Its next report; empty if it has ended, None if there is none within `timeout` s."""
        return self._report(time.monotonic() + timeout)

    def stop(self) -> str:
        """Have it flush, close and end; returns what went wrong, or nothing. Waits for its end."""
        process = self._process
        if process is None:
            return ""
        self._stopping = True
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        report = self._report(None)
        process.wait()
        if not report:
            return f"{self._end()} before it had closed the unit"
        return str(report.get("failed", ""))

    def kill(self) -> None:
        """End it, whatever it does: in order if it can within a moment."""
        process = self._process
        if process is None:
            return
        self._stopping = True
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._stopping = False

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process.pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
        if not self._stopping and process is self._process:
            self._ended()

    def _report(self, deadline: float | None) -> dict[str, Any] | None:
        """The next line of the process; empty if it ended without, None if the time is over."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while len(self._said) < _MAX_LINE and b"\n" not in self._said:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([descriptor], [], [], left)[0]:
                return None
            part = os.read(descriptor, 4096)
            if not part:
                break
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        try:
            report = json.loads(line)
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}


class Told:
    """The other end, in the unit's process: what it was told, and what it says.

    Takes standard input and output for itself; what else prints there goes to standard error.
    """

    def __init__(self) -> None:
        self._input = os.dup(0)
        self._output = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def request(self) -> dict[str, Any]:
        """The line of JSON. Blocks."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._input, 4096)
            if not part:
                raise UserdiskError("the attaching process has gone")
            line += part
        request: dict[str, Any] = json.loads(line)
        return request

    def wait_for_end(self) -> None:
        """Return when the attaching process wants an end, or has died."""
        while os.read(self._input, 4096):
            pass

    def say(self, report: Mapping[str, Any]) -> None:
        """One line; nothing happens if nobody listens any more."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._output, json.dumps(report).encode() + b"\n")
