"""The attaching process: it holds the unit and serves the kernel until it is told to stop.

Theory of operation. SIGINT, SIGTERM and SIGHUP stop it in order: unmount, write back, take the
device away, close the unit, remove the state folder. While the unit is being opened they interrupt;
later they only wake the main thread, so that nothing is left half made. What goes wrong at the end
(a flush that fails) stays in the state folder until `list` and `eject` have shown it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from userdisk import attach, errors
from userdisk.attach import release, state
from userdisk.attach.device import GateDevice
from userdisk.attach.state import Folder, Record
from userdisk.errors import UserdiskError
from userdisk.gate import Gate
from userdisk.unit import StorageUnit

log = logging.getLogger("userdisk")

_PR_SET_IO_FLUSHER = 57
_MAX_LOG = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be attached."""

    unit: str  #: as the user named it
    name: str  #: for the state folder
    open_unit: Callable[[], StorageUnit]
    mountpoint: str = ""
    foreground: bool = False  #: stay on the terminal, log there


def hold(task: Task, ready: Callable[[Folder, Record], None]) -> list[str]:
    """Attach, call `ready`, and hold the disk until a signal; returns what went wrong at the end.

    For the main thread. Raises `UserdiskError` or `KeyboardInterrupt` if it does not get ready;
    nothing is left then.
    """
    way = attach.choose()
    stop = _Stop()
    _become_io_flusher()
    record = state.own_record(task.unit, way.NAME, task.mountpoint)
    folder = state.create(task.name, record)
    try:
        if not task.foreground:
            _redirect(folder)
        gate = _open_gate(task, stop)
    except BaseException:
        folder.remove()
        raise
    disk = GateDevice(gate)
    attachment = way.attachment(disk, folder.mount, stop.set)
    try:
        device = attachment.open()
        record = replace(
            record,
            device=str(device),
            size=disk.size,
            block_length=disk.block_length,
            read_only=disk.read_only,
            discards=disk.unmaps and not disk.read_only,
        )
        folder.write(record)
        ready(folder, record)
    except BaseException:
        attachment.close()
        with contextlib.suppress(Exception):
            disk.close()
        folder.remove()
        raise
    if not task.foreground:
        os.chdir("/")
    stop.wait()
    problems = _release(way.devices(folder.mount)) + attachment.close() + _close(disk)
    for problem in problems:
        log.error("%s: %s", task.unit, problem)
    if problems:
        folder.write(replace(record, device="", failed="; ".join(problems)))
    else:
        folder.remove()
    return problems


def _open_gate(task: Task, stop: _Stop) -> Gate:
    with stop.interrupting():
        unit = task.open_unit()
        gate = Gate(unit, task.name)
        try:
            gate.open()
        except UserdiskError:
            raise
        except (Exception, SystemExit) as error:
            if errors.is_bug(error):
                log.exception("unit %s: open failed", task.name)
            reason = (
                str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            )
            raise UserdiskError(f"{task.unit}: opening it failed: {reason}") from None
    return gate


def _release(devices: list[Path]) -> list[str]:
    try:
        problems = release.release(devices, force=True)
    except (UserdiskError, OSError) as error:
        problems = [str(error)]
    return problems + [problem for device in devices for problem in release.write_back(device)]


def _close(disk: GateDevice) -> list[str]:
    try:
        disk.close()
    except Exception as error:
        if errors.is_bug(error):
            log.exception("closing failed")
        return [f"the last flush failed: {error}"]
    return []


def _become_io_flusher() -> None:
    """Memory for this process must not wait for a write that only this process can do.

    Holds for this thread and those that it starts.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)  # refused without CAP_SYS_RESOURCE


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


def _redirect(folder: Folder) -> None:
    """Send all output to the folder's log, which stays bounded."""
    descriptor = os.open(folder.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = _BoundedLog(descriptor)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _BoundedLog(io.TextIOBase):
    """Text to a file that starts again when it has grown to `_MAX_LOG`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if os.fstat(self._descriptor).st_size > _MAX_LOG:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"(older lines were dropped)\n")
        os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)
