"""The attaching process: serves the kernel until it is told to stop; another one has the unit.

Theory of operation. SIGINT, SIGTERM and SIGHUP stop it in order: unmount, write back, take the
device away, flush, have the unit's process close the unit, remove the state folder. While the unit
is being opened they interrupt; later they only wake the main thread, so that nothing is left half
made. What goes wrong at the end (a flush that fails) stays in the state folder until `list` and
`eject` have shown it. What goes wrong before is there as well, as the record's `trouble`. Another
size is asked for on the control socket (`resize`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from userdisk import attach, control, errors
from userdisk.attach import daemon, release, state
from userdisk.attach.device import BlockDevice
from userdisk.attach.disk import Disk
from userdisk.attach.nbd_device import WAIT, NbdDevice
from userdisk.attach.resize import Resizing
from userdisk.attach.state import Folder, Record
from userdisk.attach.unit_process import UnitProcess
from userdisk.errors import UserdiskError
from userdisk.log_format import DEFAULT, Wanted
from userdisk.nbd.uri import Uri

log = logging.getLogger("userdisk")


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be attached."""

    unit: str  #: as the user named it
    name: str  #: for the state folder
    command: Sequence[str]  #: starts the unit's process
    request: Mapping[str, Any]  #: what that is given: a JSON object
    mountpoint: str = ""
    foreground: bool = False  #: stay on the terminal, log there
    logs: Wanted = DEFAULT
    wait: float = WAIT  #: seconds that requests wait for the unit's process when it has died


class Source(Protocol):
    """Where the unit is: a process that serves it over NBD on a Unix socket."""

    @property
    def socket(self) -> str:
        """The path of the socket, for this process."""
        ...

    def pid(self) -> int:
        """Of the process that has the unit now."""
        ...

    def control(self) -> Path:
        """Where that process answers (`userdisk.control`)."""
        ...

    def start(self) -> Mapping[str, Any]:
        """Wait until it serves; its report, with `disk`. Raises `UserdiskError`."""
        ...

    def revive(self, timeout: float) -> None:
        """See that it serves again within `timeout` seconds. Raises `UserdiskError`: why not."""
        ...

    def lost(self) -> str:
        """What became of it, in words."""
        ...

    def stop(self) -> str:
        """The disk is not used any more; returns what went wrong when the unit was closed."""
        ...

    def kill(self) -> None:
        """It is not wanted."""
        ...


def hold(
    task: Task, ready: Callable[[Folder, Record], None], source: Source | None = None
) -> list[str]:
    """Attach, call `ready`, and hold the disk until a signal; returns what went wrong at the end.

    `source`: has the unit; None: a process of our own, as the task says. For the main thread.
    Raises `UserdiskError` or `KeyboardInterrupt` if it does not get ready; nothing is left then.
    """
    way = attach.choose()
    stop = _Stop()
    daemon.become_io_flusher()
    notes = _Notes(task, way.NAME)
    folder = notes.folder
    where = _current_folder()
    log_file = "" if task.foreground else str(folder.log)
    disk: NbdDevice | None = None
    resizing: Resizing | None = None

    def revive(left: float) -> None:
        unit.revive(left)
        if resizing is not None:
            resizing.restore()

    def ended() -> None:
        if disk is not None:
            disk.process_ended()

    unit = source or _OwnProcess(
        notes,
        task.command,
        {
            **task.request,
            "folder": str(folder.path),
            "log": log_file,
            "logs": asdict(task.logs),
        },
        ended,
    )
    try:
        if not task.foreground:
            daemon.log_to(folder.log, replace(task.logs, level=min(task.logs.level, logging.INFO)))
        with stop.interrupting():
            served = Disk(**unit.start()["disk"])
            disk = NbdDevice(
                served,
                Uri(export=served.export, socket=unit.socket),
                revive=revive,
                why_lost=unit.lost,
                trouble=notes.trouble,
                wait=task.wait,
            )
    except BaseException:
        unit.kill()
        folder.remove()
        raise
    attachment = way.attachment(disk, folder.mount, stop.set)
    resizing = Resizing(folder.name, task.unit, where, disk, attachment, unit, notes.resized)
    try:
        device = attachment.open()
        record = notes.update(
            device=str(device),
            size=disk.size,
            block_length=disk.block_length,
            read_only=disk.read_only,
            discards=disk.unmaps and not disk.read_only,
        )
        resizing.listen(device)
        ready(folder, record)
    except BaseException:
        resizing.stop()
        attachment.close()
        _close(disk, unit)
        folder.remove()
        raise
    if not task.foreground:
        os.chdir("/")
    stop.wait()
    resizing.stop()
    problems = _release(way.devices(folder.mount)) + attachment.close() + _close(disk, unit)
    for problem in problems:
        log.error("%s: %s", task.unit, problem)
    if problems:
        notes.update(device="", failed="; ".join(problems))
    else:
        folder.remove()
    return problems


def _current_folder() -> str:
    """Where relative paths begin; the root if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _release(devices: list[Path]) -> list[str]:
    try:
        problems = release.release(devices, force=True)
    except (UserdiskError, OSError) as error:
        problems = [str(error)]
    return problems + [problem for device in devices for problem in release.write_back(device)]


class _OwnProcess(UnitProcess):
    """A unit's process for this disk alone."""

    def __init__(
        self,
        notes: _Notes,
        command: Sequence[str],
        request: Mapping[str, Any],
        ended: Callable[[], None],
    ) -> None:
        # Relative paths mean the same when it is started again, and this process is elsewhere.
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        how = {"cwd": f"/proc/self/fd/{here}"}
        super().__init__(command, request, started=notes.unit_started, ended=ended, how=how)
        self.pid = notes.unit_pid
        self._sockets = control.folder()  # it may depend on the current folder

    def control(self) -> Path:
        """See `Source`."""
        return self._sockets / str(self.pid())

    @property
    def socket(self) -> str:
        """See `Source`."""
        return state.reachable_socket(Folder(Path(self.request["folder"])))


def _close(disk: BlockDevice, unit: Source) -> list[str]:
    """Flush, disconnect, and have the unit's process end."""
    problems = []
    try:
        disk.close()
    except Exception as error:  # the unit's process is to end all the same
        if errors.is_bug(error):
            log.exception("closing failed")
        problems.append(f"the last flush failed: {errors.in_words(error)}")
    failed = unit.stop()
    if failed and not problems:
        problems.append(failed)
    return problems


class _Notes:
    """The record in the state folder; thread-safe."""

    def __init__(self, task: Task, way: str) -> None:
        self._record = state.own_record(task.unit, way, task.mountpoint)
        self._lock = threading.Lock()
        self.folder = state.create(task.name, self._record)

    def update(self, **fields: Any) -> Record:
        with self._lock:
            self._record = record = replace(self._record, **fields)
            self.folder.write(record)
        return record

    def unit_pid(self) -> int:
        return self._record.unit_pid

    def resized(self, size: int) -> None:
        try:
            self.update(size=size)
        except OSError as error:  # the disk has it all the same
            log.error("%s: %s", self.folder.path, error.strerror)

    def unit_started(self, pid: int) -> None:
        self.update(unit_pid=pid, unit_start_time=state.start_time(pid) or 0)

    def trouble(self, line: str) -> None:
        try:
            self.update(trouble=line)
        except OSError as error:  # nobody must wait for a disk because a note is not written
            log.error("%s: %s", self.folder.path, error.strerror)


class _Stop:
    """Signals, and the disk going away, as one thing to wait for."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._raises = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        # The wake-up goes through the pipe, whichever thread the signal was delivered to.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def set(self) -> None:
        """Stop; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def wait(self) -> None:
        """Return when stopped."""
        select.select([self._read], [], [])

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within, a signal raises KeyboardInterrupt."""
        self._raises = True
        try:
            if select.select([self._read], [], [], 0)[0]:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt
