"""A fake link to a connection of the pipe protocol: a plain client's bytes, with no socket.

It knows the layouts from the protocol's description, not from `userdisk.spd.wire`.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

from userdisk.budget import PROCESS_LIMIT, Budget
from userdisk.gate import Gate
from userdisk.spd.connection import Connection
from userdisk.spd.pipe import Pipe
from userdisk.target.logical_unit import LogicalUnit
from userdisk.unit import StorageUnit

READ, WRITE, FLUSH, UNMAP = 1, 2, 3, 4


def raise_it(error: Exception) -> None:
    """A bug in userdisk fails the test."""
    raise error


class Answer(NamedTuple):
    """A response, taken apart."""

    hint: int
    kind: int
    status: tuple[int, int, int, int]
    information: int | None
    data: bytes

    @property
    def sense(self) -> tuple[int, int, int] | None:
        """Sense key, code, qualifier; None: it went well."""
        return self.status[1:] if self.status[0] else None


def request(
    kind: int, hint: int, lba: int = 0, blocks: int = 0, *, fua: bool = False, payload: bytes = b""
) -> bytes:
    """A READ, WRITE or FLUSH, with its length in front."""
    body = struct.pack("<QB7xQII16x", hint, kind, lba, blocks, fua) + payload
    return struct.pack("<I", len(body)) + body


def unmap(hint: int, extents: list[tuple[int, int]], *, count: int | None = None) -> bytes:
    """An UNMAP, with its length in front; `count`: descriptors that it says it has."""
    body = struct.pack("<QB7xI28x", hint, UNMAP, len(extents) if count is None else count)
    body += b"".join(struct.pack("<QII", lba, blocks, 0) for lba, blocks in extents)
    return struct.pack("<I", len(body)) + body


def decode(message: bytes) -> Answer:
    """A response; checks that what is reserved is zero."""
    assert len(message) >= 48
    hint, kind, *status, information, csi, sks, flags = struct.unpack_from(
        "<QB7xBBBB4xQQII", message
    )
    assert (csi, sks, flags & ~0x100) == (0, 0, 0)
    codes = (status[0], status[1], status[2], status[3])
    return Answer(hint, kind, codes, information if flags else None, message[48:])


class Link:
    """One connection to one unit, which the link opens.

    Args:
        piece: bytes that go over at a time; 0: as many as fit.
    """

    def __init__(
        self,
        unit: StorageUnit | Gate,
        *,
        piece: int = 0,
        read_only: bool = False,
        budget: int = PROCESS_LIMIT,
    ) -> None:
        if isinstance(unit, Gate):
            self.gate = unit
        else:
            self.gate = Gate(unit)
            LogicalUnit(self.gate)
            self.gate.open()
        self._opened = not isinstance(unit, Gate)
        self.budget = Budget(budget, threading.Lock())
        self.piece = piece
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        pipe = Pipe(self.gate, self.budget, raise_it, read_only)
        self.connection = Connection(pipe, self._inbox.put, 0.0)
        self.received = bytearray()
        self.collect()
        self.parameters = self.message()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.lost("closed")
        while not self.connection.finished:
            self._inbox.get(timeout=10)()
        self.connection.end()
        if self._opened:
            self.gate.close()

    def send(self, data: bytes) -> None:
        """Bring bytes to the connection, and its output back."""
        connection, at = self.connection, 0
        while at < len(data) and not connection.closing:
            while connection.paused:
                self.wait()
            room = connection.buffer()
            count = min(len(room), len(data) - at, self.piece or len(data))
            room[:count] = data[at : at + count]
            at += count
            connection.received(count)
            self.collect()

    def collect(self) -> None:
        """Run what was posted, take the output."""
        connection = self.connection
        while True:
            while not self._inbox.empty():
                connection.handle(self._inbox.get())
            size = connection.out.size
            taken = connection.take_output()
            assert sum(map(len, taken)) == size
            for buffer in taken:
                self.received += buffer
            if connection.more:
                connection.resume()
            elif not taken:
                return

    def wait(self) -> None:
        """Wait for one thing that is posted."""
        self.handle()
        self.collect()

    def handle(self) -> None:
        """The same, and leave the output where it is."""
        self.connection.handle(self._inbox.get(timeout=30))

    def message(self) -> bytes:
        """The next message of the device; waits for operations that are under way."""
        while len(self.received) < 4 or len(self.received) < 4 + self._length():
            assert self.connection.pending, f"no answer, only {bytes(self.received)!r}"
            self.wait()
        length = self._length()
        data = bytes(self.received[4 : 4 + length])
        del self.received[: 4 + length]
        return data

    def _length(self) -> int:
        return int.from_bytes(self.received[:4], "little")

    def do(self, message: bytes) -> Answer:
        """One request, and its answer."""
        self.send(message)
        answer = decode(self.message())
        assert (answer.hint, answer.kind) == struct.unpack_from("<QB", message, 4)
        return answer
