"""A blocking iSCSI initiator in user space: reads and writes a disk without root.

`Initiator` is a session with one logical unit behind it; `discover` asks a portal for its targets;
`read_image` and `write_image` copy a whole disk. The protocol is `userdisk.iscsi.initiator`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

from userdisk.errors import UsageError, UserdiskError
from userdisk.iscsi import digest
from userdisk.iscsi.initiator import InitiatorSession, Task
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.unit import Buffer

T = TypeVar("T")

DEFAULT_NAME = "iqn.2026-11.io.userdisk:initiator"
_PORT = 3260
_STEP = 1 << 18  #: bytes in one command of an image copy
_DEPTH = 8  #: commands in flight
_READ_CAPACITY_16 = b"\x9e\x10" + struct.pack(">QIxx", 0, 32)
_UNIT_ATTENTION = 6


@dataclass(frozen=True, slots=True)
class Url:
    """iscsi://[user@]host[:port]/iqn/lun; a secret never stands in a URL."""

    host: str
    port: int
    target: str
    lun: int
    user: str | None = None


def parse_url(text: str) -> Url:
    """Take an iscsi:// URL apart. Raises `UsageError` with what is wrong."""
    parts = urlsplit(text)
    path = parts.path.strip("/").split("/")
    try:
        port = parts.port or _PORT
        lun = int(path[1]) if len(path) == 2 else -1
    except ValueError:
        port, lun = 0, -1
    if parts.scheme != "iscsi" or not parts.hostname or not 0 <= lun < 256 or not port:
        raise UsageError(f"{text}: not of the form iscsi://host:port/target-name/lun")
    if parts.password is not None or (parts.username and "%" in parts.username):
        raise UsageError("iscsi URL: give the user only; the secret goes in a file")
    user = unquote(parts.username) if parts.username else None
    return Url(parts.hostname, port, unquote(path[0]), lun, user)


class ScsiError(UserdiskError):
    """A command ended with another status than GOOD."""

    def __init__(self, what: str, task: Task) -> None:
        self.status, self.sense = task.status, task.sense
        key, asc, ascq = sense_codes(task.sense)
        super().__init__(
            f"{what}: SCSI status {task.status:02x}, sense {key:x}/{asc:02x}/{ascq:02x}"
            if not task.response
            else f"{what}: iSCSI response {task.response:02x}"
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
        timeout: seconds to wait for the target before `InitiatorError` is raised.

    Every method raises `InitiatorError` when the session fails, and `ScsiError` when a command
    ends badly. A context manager: leaving it logs out.
    """

    def __init__(
        self, address: tuple[str, int], settings: Settings, *, lun: int = 0, timeout: float = 30
    ) -> None:
        self.lun = lun
        if (settings.header_digest or settings.data_digest) and not digest.available():
            raise UsageError("digests need the package crc32c: pip install 'userdisk[digest]'")
        self.session = InitiatorSession(settings, random=os.urandom)
        where = f"{address[0]}:{address[1]}"
        try:
            self.socket = socket.create_connection(address, timeout)
        except OSError as error:
            raise InitiatorError(f"{where}: {error.strerror or error}") from error
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.session.start()
            self.run(lambda: self.session.logged_in)
        except BaseException:
            self.socket.close()
            raise

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

    # -- moving bytes --------------------------------------------------------------------------

    def send(self) -> None:
        """Send what the session has queued."""
        output = b"".join(self.session.take_output())
        if output:
            self._io(lambda: self.socket.sendall(output))

    def run(self, until: Callable[[], bool]) -> None:
        """Send and receive until the condition holds."""
        self.send()
        while not until():
            data = self._io(lambda: self.socket.recv(1 << 18))
            if not data:
                raise InitiatorError("iscsi: the target closed the connection")
            self.session.received(data)
            self.send()

    def _io(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except TimeoutError:
            raise InitiatorError("iscsi: the target does not answer") from None
        except OSError as error:
            raise InitiatorError(f"iscsi: the connection broke: {error.strerror}") from error

    def finish(self, task: Task) -> Task:
        """Wait until a task has ended; returns it."""
        self.run(lambda: task.done)
        return task

    # -- SCSI ----------------------------------------------------------------------------------

    def execute(self, cdb: bytes, *, data_out: Buffer = b"", read_length: int = 0) -> bytes:
        """Run one command and return its data-in; unit attentions are read past.

        Raises `ScsiError` for any other status than GOOD.
        """
        for _ in range(16):
            task = self.finish(
                self.session.command(cdb, lun=self.lun, data_out=data_out, read_length=read_length)
            )
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
