"""A blocking iSCSI initiator in user space: reads and writes a disk without root.

`Initiator` is a session with one logical unit behind it, for one thread; `discover` asks a portal
for its targets; `read_image` and `write_image` copy a whole disk. For many threads there is
`userdisk.iscsi_client.Client`. The protocol is `userdisk.iscsi.initiator`.
"""

from __future__ import annotations

import os
import selectors
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from userdisk.errors import UsageError, UserdiskError
from userdisk.initiator_url import DEFAULT_NAME, Url, parse_url, settings_for
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_task import BlockRead, Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi_client import Client, SessionLost, connect, wait_for
from userdisk.transport import set_tick
from userdisk.unit import Buffer

__all__ = [
    "DEFAULT_NAME",
    "Capacity",
    "Client",
    "Initiator",
    "InitiatorError",
    "ScsiError",
    "SessionLost",
    "Settings",
    "Task",
    "Url",
    "discover",
    "parse_url",
    "read_image",
    "sense_codes",
    "settings_for",
    "write_image",
]

_TICK = 0.5  # seconds between looks at the clock while nothing comes
_STEP = 1 << 18  #: bytes in one command of an image copy
_DEPTH = 8  #: commands in flight
_READ_CAPACITY_16 = b"\x9e\x10" + struct.pack(">QIxx", 0, 32)
_UNIT_ATTENTION = 6


class ScsiError(UserdiskError):
    """A command ended with another status than GOOD."""

    def __init__(self, what: str, task: Task) -> None:
        self.status, self.sense = task.status, task.sense
        key, asc, ascq = sense_codes(task.sense)
        super().__init__(
            f"{what}: SCSI status {task.status:02x}, sense {key:x}/{asc:02x}/{ascq:02x}"
            if not task.response
            else f"{what}: {task.problem}"
        )


def sense_codes(sense: bytes) -> tuple[int, int, int]:
    """Sense key, additional sense code and qualifier, of either format (SPC-6 4.4)."""
    if len(sense) >= 4 and sense[0] & 0x7F in (0x72, 0x73):
        return sense[1] & 0xF, sense[2], sense[3]
    return (sense[2] & 0xF, sense[12], sense[13]) if len(sense) >= 14 else (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """A disk's size: blocks, and bytes in a block."""

    block_count: int
    block_length: int


class Initiator:
    """A session, logged in on creation. Every method blocks; not thread-safe.

    Args:
        address: host and port of the portal.
        settings: names, secrets, what to offer.
        lun: the logical unit that the methods are about.
        timeout: seconds for connecting and logging in, and for each wait for the target, after
            which `InitiatorError` is raised.

    Every method raises `InitiatorError` when the session fails, and `ScsiError` when a command
    ends badly. A context manager: leaving it logs out.
    """

    def __init__(
        self, address: tuple[str, int], settings: Settings, *, lun: int = 0, timeout: float = 30
    ) -> None:
        self.lun = lun
        self.session, self.socket, self._stream = connect(address, settings, timeout)
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self.socket.close()

    def close(self) -> None:
        """Log out and close the connection."""
        try:
            if self.session.logged_in and not self.session.closed:
                self.finish(self.session.logout())
        finally:
            self.socket.close()

    @property
    def timeout(self) -> float:
        """Seconds for each wait; may be set."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._timeout = seconds
        set_tick(self.socket, min(seconds, _TICK))

    # -- moving bytes --------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task]) -> None:
        """Send commands, many with one call; `completed` tells when they have ended."""
        self.session.submit(tasks)
        self._push()

    def submit_reads(self, tasks: Sequence[BlockRead], block_length: int) -> None:
        """The same for reads that may be used again (see the session's `submit_reads`)."""
        self.session.submit_reads(tasks, self.lun, block_length)
        self._push()

    def completed(self) -> list[Task]:
        """Wait for tasks to end, and return those that have, all that came together."""
        until = 0.0
        while not (ended := self._exchange()):
            until = self._check_the_clock(until)
        return ended

    def send(self) -> None:
        """Send what the session has queued; returns when all of it was taken."""
        self._push()
        until = 0.0
        while self._stream.rest:
            if not wait_for(self.socket, selectors.EVENT_WRITE, min(self._timeout, _TICK)):
                until = self._check_the_clock(until)
            self._flush()

    def run(self, until: Callable[[], bool]) -> None:
        """Send and receive until the condition holds."""
        self._push()
        deadline = 0.0
        while not until():
            self._exchange()
            deadline = self._check_the_clock(deadline)

    def finish(self, task: Task) -> Task:
        """Wait until a task has ended; returns it."""
        self.run(lambda: task.done)
        return task

    def _check_the_clock(self, until: float) -> float:
        now = time.monotonic()
        if until and now >= until:
            raise InitiatorError("iscsi: the target does not answer")
        return until or now + self._timeout

    def _exchange(self) -> list[Task]:
        """Send what can be sent, and receive once; waits for a tick at most."""
        try:
            if self._stream.rest:
                wanted = selectors.EVENT_READ | selectors.EVENT_WRITE
                ready = wait_for(self.socket, wanted, min(self._timeout, _TICK))
                if ready & selectors.EVENT_WRITE:
                    self._flush()
                if not ready & selectors.EVENT_READ:
                    return []
            size = self._stream.receive(self.session.buffer())
        except OSError as error:
            raise _broken(error) from error
        if not size:
            raise InitiatorError("iscsi: the target closed the connection")
        if size < 0:
            return []
        ended = self.session.advance(size)
        self._push()
        return ended

    def _push(self) -> None:
        output = [] if self._stream.rest else self.session.take_output()
        if output:
            try:
                self._stream.send(output)
            except OSError as error:
                raise _broken(error) from error

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _broken(error) from error
        self._push()

    # -- SCSI ----------------------------------------------------------------------------------

    def execute(self, cdb: bytes, *, data_out: Buffer = b"", read_length: int = 0) -> bytes:
        """Run one command and return its data-in; unit attentions are read past.

        Raises `ScsiError` for any other status than GOOD.
        """
        for _ in range(16):
            task = Task(cdb, read_length, data_out, self.lun)
            self.submit([task])
            self.finish(task)
            if task.status != 2 or sense_codes(task.sense)[0] != _UNIT_ATTENTION:
                break
        return _checked(task, f"command {cdb[0]:02x}")

    def capacity(self) -> Capacity:
        """The size of the logical unit."""
        data = self.execute(_READ_CAPACITY_16, read_length=32)
        last, length = struct.unpack_from(">QI", data)
        return Capacity(last + 1, length)

    def read(self, lba: int, blocks: int, block_length: int = 512) -> bytes:
        """Read blocks: one READ(16)."""
        cdb = struct.pack(">BBQIxx", 0x88, 0, lba, blocks)
        return self.execute(cdb, read_length=blocks * block_length)

    def write(self, lba: int, data: Buffer, block_length: int = 512) -> None:
        """Write whole blocks: one WRITE(16)."""
        cdb = struct.pack(">BBQIxx", 0x8A, 0, lba, memoryview(data).nbytes // block_length)
        self.execute(cdb, data_out=data)

    def flush(self) -> None:
        """SYNCHRONIZE CACHE(16) of the whole disk: what was written is durable afterwards."""
        self.execute(struct.pack(">BBQIxx", 0x91, 0, 0, 0))

    def unmap(self, lba: int, blocks: int) -> None:
        """UNMAP one range."""
        data = struct.pack(">HHxxxxQIxxxx", 22, 16, lba, blocks)
        self.execute(struct.pack(">BBxxxxxHx", 0x42, 0, len(data)), data_out=data)


def _broken(error: OSError) -> InitiatorError:
    return InitiatorError(f"iscsi: the connection broke: {error.strerror or error}")


def _checked(task: Task, what: str) -> bytes:
    if task.response or task.status:
        raise ScsiError(what, task)
    return bytes(task.data)


def discover(
    address: tuple[str, int], settings: Settings, *, timeout: float = 30
) -> dict[str, list[str]]:
    """The targets behind a portal: name -> addresses (`host:port,group`). Blocks."""
    with Initiator(address, settings, timeout=timeout) as initiator:
        data = bytes(initiator.finish(initiator.session.text([("SendTargets", "All")])).data)
    found: dict[str, list[str]] = {}
    name = ""
    for item in data.decode("utf-8", "replace").split("\0"):
        key, _, value = item.partition("=")
        if key == "TargetName":
            name = value
            found[name] = []
        elif key == "TargetAddress" and name:
            found[name].append(value)
    return found


def read_image(initiator: Initiator, path: str, *, progress: Callable[[int], object] = int) -> int:
    """Copy the whole disk into a file, zeros as holes; returns the bytes. Blocks.

    `progress(n)` is called with the bytes done so far.
    """
    size = initiator.capacity()
    step = max(1, _STEP // size.block_length)
    with open(path, "wb") as file:
        file.truncate(size.block_count * size.block_length)
        waiting: deque[tuple[int, Task]] = deque()
        lba = 0
        while waiting or lba < size.block_count:
            while lba < size.block_count and len(waiting) < _DEPTH:
                blocks = min(step, size.block_count - lba)
                cdb = struct.pack(">BBQIxx", 0x88, 0, lba, blocks)
                length = blocks * size.block_length
                task = initiator.session.command(cdb, lun=initiator.lun, read_length=length)
                waiting.append((lba * size.block_length, task))
                lba += blocks
            offset, task = waiting.popleft()
            data = _checked(initiator.finish(task), "read")
            if data.strip(b"\0"):
                file.seek(offset)
                file.write(data)
            progress(offset + len(data))
    return size.block_count * size.block_length


def write_image(initiator: Initiator, path: str, *, progress: Callable[[int], object] = int) -> int:
    """Copy a file onto the start of the disk, then flush; returns the bytes. Blocks.

    Blocks of zeros are written too, so that the disk holds the file whatever it held before.
    Raises `UsageError` if the file does not fit.
    """
    size = initiator.capacity()
    length = os.path.getsize(path)
    if length > size.block_count * size.block_length:
        raise UsageError(f"{path}: {length} bytes do not fit on the disk")
    if length % size.block_length:
        raise UsageError(f"{path}: not a whole number of blocks of {size.block_length} bytes")
    waiting: deque[tuple[int, Task]] = deque()
    with open(path, "rb") as file:
        offset = 0
        while waiting or offset < length:
            while offset < length and len(waiting) < _DEPTH:
                data = file.read(_STEP)
                if not data:
                    raise UsageError(f"{path}: became shorter while it was read")
                blocks = len(data) // size.block_length
                cdb = struct.pack(">BBQIxx", 0x8A, 0, offset // size.block_length, blocks)
                task = initiator.session.command(cdb, lun=initiator.lun, data_out=data)
                offset += len(data)
                waiting.append((offset, task))
            done, task = waiting.popleft()
            _checked(initiator.finish(task), "write")
            progress(done)
    initiator.flush()
    return length
