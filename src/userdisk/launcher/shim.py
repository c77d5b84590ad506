"""The shim of one instance: holds its sockets, keeps its processes running, says how it is.

Theory of operation. The main thread has the unit's process (and the program, if the class has one):
it starts them, waits for their end or for a stop, and starts them again as the policy says. The
first start comes before most of this program is loaded, so that both load at the same time. The
listening sockets are made here and inherited, so that whoever connects meanwhile waits in their
queue. A thread attaches and mounts once, while the unit is still being opened; the attaching
process outlives the unit's. Verbs (verbs.py) run on threads of the control socket.

    starting --up--> running <--> degraded      what was asked for is missing, but it serves
    running --the unit's process ends--> restarting --up--> running
    restarting --no more tries, or its data went with it--> failed
    any --stop--> stopping --> the shim ends, and its folder with it

The service may come and go: nothing here depends on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import children, log_file, sockets, spec
from userdisk.launcher.news import News
from userdisk.launcher.processes import Processes
from userdisk.launcher.spec import Spec, State
from userdisk.launcher.standing import Standing

if TYPE_CHECKING:
    from userdisk.launcher.restarts import Restarts

SHIM: Final = "shim"  #: the control socket in the instance's folder
_ANSWER_SECONDS: Final = 5.0
_NEWS_SECONDS: Final = 5.0
_LAST_LINES: Final = 20
_LAST_LENGTH: Final = 200


class Shim:
    """One instance. Raises `UserdiskError` and `OSError` when its sockets cannot be had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._spec = given = spec.read_spec(folder)
        self._log = log_file.LogFile(folder, given.log_bytes, as_json=given.log_json)
        self._sockets = self._listen(given)
        self._standing = Standing(folder, self._log.note)
        news = News(self._resized)
        self._processes = Processes(
            self._spec, folder, self._sockets, self._log, news.descriptor, self._events.put
        )
        self._processes.begin()
        try:
            self._load(folder)
        except BaseException:
            self._processes.kill()
            raise

    def _load(self, folder: Path) -> None:
        """The rest, while the unit's process loads its modules, too."""
        from userdisk.control import Control
        from userdisk.launcher.attached import Attached
        from userdisk.launcher.verbs import Verbs

        children.become_reaper()
        self._attached = Attached(self._spec, folder, self._standing.update_device)
        self._verbs = Verbs(
            folder,
            self._standing,
            self._processes,
            self._attached,
            self._log,
            lambda: self._events.put("stop"),
        )
        self._control = Control(self._verbs.table(), folder / SHIM)

    def _listen(self, given: Spec) -> dict[str, socket.socket]:
        found = {sockets.NBD: sockets.listen_unix(self._folder / sockets.NBD)}
        if given.iscsi:
            from userdisk.listening import Listener

            sock = found["iscsi"] = Listener((given.host, given.port)).socket
            assert isinstance(sock, socket.socket)
            port = sock.getsockname()[1]
            if port != given.port:
                self._spec = replace(given, port=port)
                spec.write(self._folder, spec.SPEC, self._spec)
        return found

    # -- the main thread -------------------------------------------------------------------------

    def run(self, ready: int) -> int:
        """Serve until a stop; returns the exit status. `ready`: a descriptor for one line of JSON.

        A first start that fails is the end: it is said there, and nothing is left behind.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: self._events.put("child"))
        self._standing.update()
        if self._spec.attach.wanted:
            threading.Thread(target=self._attached.attach, name="attach", daemon=True).start()
        try:
            self._up(self._processes.start(self._spec.start_timeout))
        except UserdiskError as error:
            self._processes.kill()
            reason = f"{error}{self._last_words(str(error))}"
            if self._standing.stopping:
                reason = "it was stopped while it started"
            self._standing.update(state=State.FAILED, last_error=reason)
            self._attached.abandon()
            self._close()
            _say(ready, {"error": reason, "usage": isinstance(error, UsageError)})
            return 1
        threading.Thread(target=self._say_ready, args=(ready,), name="ready", daemon=True).start()
        self._supervise()
        self._close()
        return 0

    def _last_words(self, error: str) -> str:
        """The last line of the log, whose file goes with the folder; "" if `error` has it."""
        self._log.settle()
        lines = [line.strip() for line in log_file.tail(self._folder, _LAST_LINES)]
        said = [line for line in lines if line and line.isprintable()]
        if not said or said[-1] in error:
            return ""
        return f"; it said: {said[-1][:_LAST_LENGTH]}"

    def _say_ready(self, ready: int) -> None:
        self._attached.wait()
        _say(ready, {"status": self._standing.as_json()})

    def _supervise(self) -> None:
        from userdisk.launcher.restarts import Restarts

        restarts = Restarts(self._spec.policy)
        began = time.monotonic()
        while (event := self._events.get()) != "stop":
            if event == "child":
                children.reap(self._processes.kept)
                continue
            if not self._standing.report or not self._processes.has_ended(event):
                continue  # it is about a process of the past
            persistent = bool(self._standing.report["disk"]["persistent"])
            status, reason = self._processes.ended(event)
            self._down(status, reason)
            if not persistent:
                self._fail(f"{reason}; its data went with it")
                continue
            if not self._restart(restarts, status, reason, time.monotonic() - began):
                break
            began = time.monotonic()
        self._verbs.problem = self._processes.stop(self._verbs.patience)

    def _restart(self, restarts: Restarts, status: int | None, reason: str, ran: float) -> bool:
        """Start the unit again, or fail; False: a stop came before that."""
        failed = status != 0
        while True:
            delay = restarts.next(time.monotonic(), failed=failed, ran=ran)
            if delay is None:
                self._fail(f"{reason}; {restarts.why}")
                return True
            if self._wait_for_stop(delay):
                return False
            try:
                report = self._processes.start(self._spec.start_timeout)
            except UserdiskError as error:
                reason, ran, failed = str(error), 0.0, True
                ended = self._processes.exit_status
                self._processes.kill()
                self._log.note(reason)
                self._standing.update(last_error=reason, exit_status=ended)
                continue
            self._up(report, restarts=self._standing.status.restarts + 1)
            return True

    def _wait_for_stop(self, delay: float) -> bool:
        deadline = time.monotonic() + delay
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                if self._events.get(timeout=left) == "stop":
                    return True
        return False

    def _up(self, report: dict[str, Any], **more: Any) -> None:
        disk = report["disk"]
        with self._standing.changed:
            self._standing.report = report
            missing = self._attached.missing
            self._standing.update(
                state=State.DEGRADED if missing else State.RUNNING,
                unit_pid=report["pid"],
                program_pid=self._processes.program_pid,
                size=disk["size"],
                block_length=disk["block_length"],
                read_only=disk["read_only"],
                portal=report["portal"],
                target=report["target"],
                nbd_uri=report["nbd_uri"],
                control=report["control"],
                **more,
            )

    def _down(self, status: int | None, reason: str) -> None:
        self._log.note(reason)
        with self._standing.changed:
            self._standing.report = {}
            self._standing.update(
                state=State.RESTARTING,
                unit_pid=0,
                program_pid=0,
                control="",
                exit_status=status,
                last_error=reason,
            )

    def _fail(self, reason: str) -> None:
        """It stays, so that people can see why, until it is stopped."""
        self._log.note(f"failed: {reason}")
        for sock in self._sockets.values():  # whoever waits in a queue must not wait for ever
            sock.close()
        self._standing.update(state=State.FAILED, last_error=reason)

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._processes.close()
        self._standing.update(state=State.ENDED, unit_pid=0, program_pid=0)
        self._control.close()
        _remove(self._folder)
        self._verbs.ended.set()
        self._control.drain(_ANSWER_SECONDS)

    def _resized(self, pid: int, size: int) -> None:
        """The unit has another size, and its device follows; on the thread of the news."""
        standing = self._standing
        with standing.changed:  # what it says at once may come before its report
            if not standing.changed.wait_for(
                lambda: standing.status.unit_pid == pid, _NEWS_SECONDS
            ):
                return
            if standing.status.size != size:
                standing.update(size=size)
        try:
            self._attached.follow()
        except (UserdiskError, OSError) as error:
            self._log.note(f"its device has not the size of the disk, {size} bytes: {error}")

    def _on_signal(self, number: int, frame: object) -> None:
        threading.Thread(target=self._verbs.stop, args=({"force": True},), daemon=True).start()


def _say(descriptor: int, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(message).encode() + b"\n")
    os.close(descriptor)


def _remove(folder: Path) -> None:
    """The instance's folder, which has only files. (shutil would load three compressors.)"""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                path.unlink()
        folder.rmdir()


def main(arguments: list[str]) -> int:
    """`FOLDER READY`: the instance's folder, and the descriptor for the first report."""
    if os.fork():
        os._exit(0)  # nobody has to wait for the shim
    folder, ready = Path(arguments[0]), int(arguments[1])
    os.chdir("/")
    try:
        shim = Shim(folder)
    except (UserdiskError, OSError) as error:
        _remove(folder)
        _say(ready, {"error": str(error), "usage": isinstance(error, UsageError)})
        return 1
    return shim.run(ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
