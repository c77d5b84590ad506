"""A fake link to an NBD connection: a plain client's bytes, with no socket or thread of its own.

It knows the layouts only from `userdisk.nbd.wire`, checks every reply's form, and keeps nothing
that the server says for true. What the connection posts runs when the link is pumped.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from userdisk.budget import PROCESS_LIMIT, Budget, Buffers
from userdisk.gate import Gate
from userdisk.nbd import wire
from userdisk.nbd.connection import Connection
from userdisk.nbd.environment import Environment, TlsMode
from userdisk.nbd.export import Export
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Chunk, Command, CommandFlag, Option
from userdisk.target.logical_unit import LogicalUnit
from userdisk.unit import StorageUnit


def raise_it(error: Exception) -> None:
    """A bug in userdisk fails the test."""
    raise error


def environment_of(
    *exports: Export, tls: TlsMode = TlsMode.NONE, budget: int = PROCESS_LIMIT
) -> Environment:
    """What connections to these exports share."""
    return Environment(
        exports={export.name: export for export in exports},
        tls=tls,
        budget=Budget(budget, threading.Lock()),
        buffers=Buffers(threading.Lock()),
        report=raise_it,
    )


class Chunks(NamedTuple):
    """The whole answer to one request."""

    error: int = 0
    data: bytes = b""  #: holes are zeros
    holes: tuple[tuple[int, int], ...] = ()  #: offset, length
    extents: tuple[tuple[int, int], ...] = ()  #: length, flags
    message: str = ""
    offset: int | None = None  #: where the error is


class Link:
    """One connection to one unit, which the link opens.

    Args:
        unit: the disk.
        replies: what is negotiated.
        allocation: ask for `base:allocation`.
        piece: bytes that go over at a time; 0: as many as fit.
    """

    def __init__(
        self,
        unit: StorageUnit | Gate,
        replies: Replies = Replies.STRUCTURED,
        *,
        allocation: bool = True,
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
        self.environment = environment_of(
            Export("disk", self.gate, read_only=read_only), budget=budget
        )
        self.replies = replies
        self.piece = piece
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.connection = Connection(self.environment, self._inbox.put, 0.0)
        self.received = bytearray()
        self._cookie = 0
        self._open(allocation)

    def close(self) -> None:
        """The client goes; the unit is closed if the link has opened it."""
        self.connection.lost("closed")
        while not self.connection.finished:
            self._inbox.get(timeout=10)()
        self.connection.end()
        if self._opened:
            self.gate.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- bytes ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Bring bytes to the connection, and its output back."""
        connection = self.connection
        at = 0
        while at < len(data) and not (connection.closing or connection.closed):
            while connection.paused:
                self.wait()
            room = connection.buffer()
            count = min(len(room), len(data) - at, self.piece or len(data))
            room[:count] = data[at : at + count]
            at += count
            connection.received(count)
            self._collect()
        self._collect()

    def _collect(self) -> None:
        connection = self.connection
        while True:
            while not self._inbox.empty():
                connection.handle(self._inbox.get())
            live = connection.out.live
            size = connection.out.size
            taken = connection.take_output() if connection.out.buffers else []
            assert sum(map(len, taken)) == size
            assert live or not any(
                type(each) is memoryview and isinstance(each.obj, bytearray) for each in taken
            )
            for buffer in taken:
                self.received += buffer
            if not connection.more:
                if not taken:
                    return
                continue
            connection.resume()

    def wait(self) -> None:
        """Wait for one thing that is posted."""
        self.connection.handle(self._inbox.get(timeout=10))
        self._collect()

    def take(self, count: int) -> bytes:
        """The next bytes of what was received; waits for operations that are under way."""
        while len(self.received) < count:
            assert self.connection.pending, f"{len(self.received)} bytes instead of {count}"
            self.wait()
        data = bytes(self.received[:count])
        del self.received[:count]
        return data

    # -- negotiation ---------------------------------------------------------------------------

    def _open(self, allocation: bool) -> None:
        self._collect()
        magic, options, flags = wire.GREETING.unpack(self.take(wire.GREETING.size))
        assert (magic, options) == (wire.NBD_MAGIC, wire.OPTION_MAGIC)
        assert flags == 3
        self.send(wire.CLIENT_FLAGS.pack(3))
        if self.replies is not Replies.SIMPLE:
            extended = self.replies is Replies.EXTENDED
            self.option(Option.EXTENDED_HEADERS if extended else Option.STRUCTURED_REPLY)
            if allocation:
                name, query = b"disk", wire.ALLOCATION.encode()
                data = struct.pack(">I", len(name)) + name + struct.pack(">I", 1)
                self.option(Option.SET_META_CONTEXT, data + struct.pack(">I", len(query)) + query)
        answers = self.option(Option.GO, struct.pack(">I4sHH", 4, b"disk", 1, 3))
        info = {int.from_bytes(data[:2], "big"): data for kind, data in answers if kind == 3}
        _, self.size, flags = wire.INFO_EXPORT.unpack(info[0])
        self.flags = wire.TransmissionFlag(flags)
        _, self.minimum, self.preferred, self.maximum = wire.INFO_BLOCK_SIZE.unpack(info[3])
        assert not self.received

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; returns (type, data) of each answer, the last an ACK."""
        self.send(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)
        answers = []
        while True:
            magic, echoed, kind, length = wire.OPTION_REPLY.unpack(self.take(20))
            assert (magic, echoed) == (wire.OPTION_REPLY_MAGIC, option)
            answers.append((kind, self.take(length)))
            if kind == 1 or kind >= 1 << 31:
                break
        assert answers[-1][0] == 1, answers
        return answers

    # -- requests ------------------------------------------------------------------------------

    def request(
        self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
    ) -> bytes:
        """The bytes of a request, with the next cookie."""
        self._cookie += 1
        cookie = self._cookie.to_bytes(8, "big")
        if self.replies is Replies.EXTENDED:
            if data:
                flags |= CommandFlag.PAYLOAD_LEN
            layout, magic = wire.EXTENDED_REQUEST, wire.EXTENDED_REQUEST_MAGIC
        else:
            layout, magic = wire.REQUEST, wire.REQUEST_MAGIC
        return layout.pack(magic, flags, command, cookie, offset, length) + data

    def answers(self, requests: Sequence[tuple[bytes, int, int]]) -> list[Chunks]:
        """Send requests (bytes, offset, length to read) together; their answers, in order."""
        first = self._cookie - len(requests) + 1
        self.send(b"".join(data for data, _, _ in requests))
        found: dict[int, Chunks] = {}
        partial: dict[int, list[Any]] = {}
        while len(found) < len(requests):
            cookie = self._answer(requests, first, partial, found)
            assert first <= cookie < first + len(requests)
        return [found[first + number] for number in range(len(requests))]

    def _answer(
        self,
        requests: Sequence[tuple[bytes, int, int]],
        first: int,
        partial: dict[int, list[Any]],
        found: dict[int, Chunks],
    ) -> int:
        if self.replies is Replies.SIMPLE:
            magic, error, cookie = wire.SIMPLE_REPLY.unpack(self.take(16))
            assert magic == wire.SIMPLE_REPLY_MAGIC
            number = int.from_bytes(cookie, "big")
            assert number not in found
            length = 0 if error else requests[number - first][2]
            found[number] = Chunks(error, self.take(length))
            return number
        if self.replies is Replies.STRUCTURED:
            magic, flags, kind, cookie, size = wire.STRUCTURED_REPLY.unpack(self.take(20))
            assert magic == wire.STRUCTURED_REPLY_MAGIC
        else:
            magic, flags, kind, cookie, at, size = wire.EXTENDED_REPLY.unpack(self.take(32))
            assert magic == wire.EXTENDED_REPLY_MAGIC
        number = int.from_bytes(cookie, "big")
        _, offset, length = requests[number - first]
        if self.replies is Replies.EXTENDED:
            assert at == offset
        assert number not in found
        chunks = partial.setdefault(number, [])
        chunks.append((kind, self.take(size)))
        if flags & wire.DONE:
            found[number] = self._joined(partial.pop(number), offset, length)
        return number

    def _joined(self, chunks: list[tuple[int, bytes]], offset: int, length: int) -> Chunks:
        data = bytearray(length)
        covered: set[tuple[int, int]] = set()
        holes, answer = [], Chunks()
        for kind, payload in chunks:
            if kind == Chunk.OFFSET_DATA:
                (at,) = wire.OFFSET.unpack_from(payload)
                content = payload[8:]
                assert content
                data[at - offset : at - offset + len(content)] = content
                covered.add((at, at + len(content)))
            elif kind == Chunk.OFFSET_HOLE:
                at, size = wire.HOLE.unpack(payload)
                holes.append((at, size))
                covered.add((at, at + size))
            elif kind == Chunk.BLOCK_STATUS:
                assert payload[:4] == bytes([0, 0, 0, 1])
                answer = answer._replace(extents=tuple(wire.EXTENT.iter_unpack(payload[4:])))
            elif kind == Chunk.BLOCK_STATUS_EXT:
                context, count = wire.EXTENDED_STATUS.unpack_from(payload)
                extents = tuple(wire.EXTENDED_EXTENT.iter_unpack(payload[8:]))
                assert (context, count) == (1, len(extents))
                answer = answer._replace(extents=extents)
            elif kind in (Chunk.ERROR, Chunk.ERROR_OFFSET):
                error, size = wire.ERROR.unpack_from(payload)
                assert error
                message = payload[6 : 6 + size].decode()
                rest = payload[6 + size :]
                where = wire.OFFSET.unpack(rest)[0] if kind == Chunk.ERROR_OFFSET else None
                assert kind == Chunk.ERROR_OFFSET or not rest
                return Chunks(error, message=message, offset=where)
            else:
                assert kind == Chunk.NONE and not payload and len(chunks) == 1
        if length:
            at = offset
            for start, end in sorted(covered):
                assert start == at, "parts overlap, or are missing"
                at = end
            assert at == offset + length
        return answer._replace(data=bytes(data), holes=tuple(holes))

    def do(
        self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
    ) -> Chunks:
        """One request, and its answer."""
        read = length if command == Command.READ else 0
        return self.answers([(self.request(command, offset, length, flags, data), offset, read)])[0]

    def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        """Data that must be readable."""
        answer = self.do(Command.READ, offset, length, flags)
        assert not answer.error, answer
        return answer.data

    def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        """Write; returns the error or 0."""
        return self.do(Command.WRITE, offset, len(data), flags, data).error
