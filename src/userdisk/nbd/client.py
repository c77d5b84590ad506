"""The client's side of NBD transmission, with no I/O (doc/proto.md, "Transmission").

Theory of operation. `encode` registers a request under a cookie and gives what to send. The owner
receives into `buffer()` and says how much with `received`: small replies come in batches into one
buffer; the rest of a long answer goes straight to its place in the request's own memory. `finished`
collects the requests that have ended. Whatever the server gets wrong ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from userdisk import errors
from userdisk.errors import StorageError
from userdisk.nbd import wire
from userdisk.nbd.client_negotiation import Found, NbdError, ReplyStyle
from userdisk.nbd.client_request import WRITING, Request
from userdisk.nbd.wire import Chunk, Command, CommandFlag

if TYPE_CHECKING:
    from userdisk.unit import Buffer

_STAGING = 1 << 18  # bytes received at once
_MAX_STATUS = (16 << 20) + 8  # bytes of one BLOCK_STATUS chunk
_MAX_ERROR = wire.ERROR.size + wire.MAX_STRING + wire.OFFSET.size
_LENGTH_OF_DATA = wire.OFFSET.size


class ClientTransmission:
    """Requests under way on one connection.

    `encode` may be called on any thread, one at a time; the rest on the thread that receives.
    `received` raises `NbdError` when the server breaks the protocol: then call `lost`.
    """

    def __init__(self, found: Found, rest: bytes = b"") -> None:
        self.found = found
        self.outstanding: dict[bytes, Request] = {}
        self.finished: list[Request] = []
        self._cookies = count(1)
        self._staging = memoryview(bytearray(_STAGING))
        self._start = self._end = 0
        self._landing: memoryview | None = None  # the rest of a chunk goes here
        self._landed: Callable[[], None] | None = None
        self._parse = self._simple if found.style is ReplyStyle.SIMPLE else self._chunk
        if len(rest) > _STAGING:
            raise NbdError("the server answers before it is asked")
        self._staging[: len(rest)] = rest
        self.received(len(rest))

    # -- sending ---------------------------------------------------------------------------------

    def encode(self, request: Request) -> list[Buffer]:
        """What to send for a request that the server can take (`Request.refused`)."""
        cookie = next(self._cookies).to_bytes(8, "big")
        flags, layout, magic = request.flags, wire.REQUEST, wire.REQUEST_MAGIC
        if self.found.style is ReplyStyle.EXTENDED:
            layout, magic = wire.EXTENDED_REQUEST, wire.EXTENDED_REQUEST_MAGIC
            if request.command is Command.WRITE:
                flags |= CommandFlag.PAYLOAD_LEN
        header = layout.pack(magic, flags, request.command, cookie, request.offset, request.length)
        self.outstanding[cookie] = request
        return [header] if request.data is None else [header, request.data]

    def goodbye(self) -> bytes:
        """DISC: the server ends the connection after what is under way."""
        extended = self.found.style is ReplyStyle.EXTENDED
        layout = wire.EXTENDED_REQUEST if extended else wire.REQUEST
        magic = wire.EXTENDED_REQUEST_MAGIC if extended else wire.REQUEST_MAGIC
        return layout.pack(magic, 0, Command.DISC, bytes(8), 0, 0)

    def lost(self, error: StorageError) -> None:
        """The connection is gone: whatever is under way ends with this error."""
        while self.outstanding:
            _, request = self.outstanding.popitem()
            request.result, request.error = None, error
            self.finished.append(request)

    # -- receiving -------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where to receive next; never empty."""
        if self._landing is not None:
            return self._landing
        return self._staging[self._end :]

    def received(self, size: int) -> None:
        """So many bytes have come into `buffer()`."""
        if self._landing is not None:
            self._landing = self._landing[size:]
            if len(self._landing):
                return
            self._landing = None
            assert self._landed is not None
            self._landed()
            return
        self._end += size
        while self._landing is None and self._parse():
            pass
        # What is left is less than a message, and a message in here is short: no copy of weight.
        left = self._end - self._start
        if self._start and left:
            self._staging[:left] = bytes(self._staging[self._start : self._end])
        self._start, self._end = 0, left

    def _land(self, target: memoryview, landed: Callable[[], None]) -> None:
        """Move what has come of a payload into its place; the rest is received there."""
        here = min(len(target), self._end - self._start)
        target[:here] = self._staging[self._start : self._start + here]
        self._start += here
        if here == len(target):
            landed()
        else:
            self._landing, self._landed = target[here:], landed

    def _request(self, cookie: bytes) -> Request:
        request = self.outstanding.get(cookie)
        if request is None:
            raise NbdError("the server answers what nobody asked")
        return request

    def _end_of(self, cookie: bytes) -> None:
        request = self.outstanding[cookie]
        if request.error is not None:
            request.result = None
        elif request.command is Command.READ and not request.complete:
            raise NbdError("the server left out data of an answer")
        elif request.command is Command.BLOCK_STATUS and request.result is None:
            raise NbdError("the server's answer to BLOCK_STATUS says nothing")
        del self.outstanding[cookie]  # only now: what is refused above is ended by `lost`
        self.finished.append(request)

    # -- replies ---------------------------------------------------------------------------------

    def _simple(self) -> bool:
        """Handle one simple reply, if all of its header is there."""
        if self._end - self._start < wire.SIMPLE_REPLY.size:
            return False
        magic, error, cookie = wire.SIMPLE_REPLY.unpack_from(self._staging, self._start)
        if magic != wire.SIMPLE_REPLY_MAGIC:
            raise NbdError("the server's answer is not one")
        request = self._request(cookie)
        reads = request.command is Command.READ
        if reads and self.found.style is not ReplyStyle.SIMPLE:
            raise NbdError("the server answers READ in the form that was given up")
        self._start += wire.SIMPLE_REPLY.size
        if error or not reads:
            if error:
                _fail(request, error, "", None)
            elif request.command is Command.BLOCK_STATUS:
                raise NbdError("the server's answer to BLOCK_STATUS says nothing")
            self._end_of(cookie)
            return True
        request.place(request.offset, request.length)
        self._data(request, 0, request.length, lambda: self._end_of(cookie))
        return True

    def _data(self, request: Request, start: int, length: int, landed: Callable[[], None]) -> None:
        if length == request.length and self._end - self._start >= length:
            request.result = bytes(self._staging[self._start : self._start + length])
            self._start += length
            landed()
            return
        self._land(_memory(request)[start : start + length], landed)

    def _chunk(self) -> bool:
        """Handle one chunk, as far as it is there."""
        here = self._end - self._start
        if here < 4:
            return False
        (magic,) = struct.unpack_from(">I", self._staging, self._start)
        if self.found.style is ReplyStyle.EXTENDED:
            layout, expected = wire.EXTENDED_REPLY, wire.EXTENDED_REPLY_MAGIC
        else:
            if magic == wire.SIMPLE_REPLY_MAGIC:
                return self._simple()
            layout, expected = wire.STRUCTURED_REPLY, wire.STRUCTURED_REPLY_MAGIC
        if magic != expected:
            raise NbdError("the server's answer is not one")
        if here < layout.size:
            return False
        _, flags, kind, cookie, *_, length = layout.unpack_from(self._staging, self._start)
        request = self._request(cookie)
        if layout is wire.EXTENDED_REPLY:
            (offset,) = wire.OFFSET.unpack_from(self._staging, self._start + 16)
            if offset != request.offset:
                raise NbdError("the server answers about another offset")
        done = bool(flags & wire.DONE)
        head = layout.size

        def landed() -> None:
            if done:
                self._end_of(cookie)

        if kind == Chunk.OFFSET_DATA:
            if request.command is not Command.READ or length <= _LENGTH_OF_DATA:
                raise NbdError("the server sent data outside the request")
            if here < head + _LENGTH_OF_DATA:
                return False
            (offset,) = wire.OFFSET.unpack_from(self._staging, self._start + head)
            request.count_chunk()
            start = request.place(offset, length - _LENGTH_OF_DATA)
            self._start += head + _LENGTH_OF_DATA
            self._data(request, start, length - _LENGTH_OF_DATA, landed)
            return True
        if kind in (Chunk.BLOCK_STATUS, Chunk.BLOCK_STATUS_EXT):
            self._check_status(request, kind, length)
            request.count_chunk()
            self._start += head
            payload = bytearray(length)

            def status() -> None:
                self._status(request, payload)
                landed()

            self._land(memoryview(payload), status)
            return True
        if length > _MAX_ERROR:
            raise NbdError(f"the server's answer of type {kind} is too long: {length} bytes")
        if here < head + length:
            return False
        payload_start = self._start + head
        data = bytes(self._staging[payload_start : payload_start + length])
        self._start = payload_start + length
        request.count_chunk()
        self._short(request, kind, data, done=done)
        landed()
        return True

    def _short(self, request: Request, kind: int, data: bytes, *, done: bool) -> None:
        """A chunk without data: nothing, a hole, an error."""
        if kind == Chunk.NONE:
            if data or not done:
                raise NbdError("the server's empty answer is not empty")
        elif kind == Chunk.OFFSET_HOLE:
            if request.command is not Command.READ or len(data) != wire.HOLE.size:
                raise NbdError("the server's hole is not one")
            request.place(*wire.HOLE.unpack(data))
            _memory(request)
        elif kind >> 15:
            self._error(request, kind, data)
        else:
            raise NbdError(f"the server answers with a type that is not known: {kind}")

    def _error(self, request: Request, kind: int, data: bytes) -> None:
        tail = wire.OFFSET.size if kind == Chunk.ERROR_OFFSET else 0
        if len(data) < wire.ERROR.size + tail:
            raise NbdError("the server's error is too short")
        number, length = wire.ERROR.unpack_from(data)
        known = kind in (Chunk.ERROR, Chunk.ERROR_OFFSET)
        rest = len(data) - wire.ERROR.size - tail
        if number == 0 or length > rest or (known and length != rest):
            raise NbdError("the server's error is damaged")
        offset: int | None = None
        if tail:
            (offset,) = wire.OFFSET.unpack_from(data, len(data) - tail)
            if not request.offset <= offset < request.offset + max(request.length, 1):
                raise NbdError("the server's error is about something else")
        if request.error is None:
            text = data[wire.ERROR.size : wire.ERROR.size + length].decode("utf-8", "replace")
            _fail(request, number, text, offset)

    def _check_status(self, request: Request, kind: int, length: int) -> None:
        extended = self.found.style is ReplyStyle.EXTENDED
        head = wire.EXTENDED_STATUS.size if extended else wire.CONTEXT_ID.size
        each = wire.EXTENDED_EXTENT.size if extended else wire.EXTENT.size
        good = (
            request.command is Command.BLOCK_STATUS
            and request.result is None
            and kind == (Chunk.BLOCK_STATUS_EXT if extended else Chunk.BLOCK_STATUS)
            and head < length <= _MAX_STATUS
            and (length - head) % each == 0
        )
        if not good:
            raise NbdError("the server's block status is not one")

    def _status(self, request: Request, payload: bytearray) -> None:
        extended = self.found.style is ReplyStyle.EXTENDED
        head = wire.EXTENDED_STATUS if extended else wire.CONTEXT_ID
        layout = wire.EXTENDED_EXTENT if extended else wire.EXTENT
        context, *number = head.unpack_from(payload)
        extents: list[tuple[int, int]] = list(layout.iter_unpack(payload[head.size :]))
        total = 0
        for length, _ in extents:
            if not length or total >= request.length:
                raise NbdError("the server's block status does not fit the request")
            total += length
        one = request.flags & CommandFlag.REQ_ONE
        good = (
            context == self.found.context
            and number in ([], [0], [len(extents)])
            and not (one and (len(extents) > 1 or total > request.length))
        )
        if not good:
            raise NbdError("the server's block status does not fit the request")
        request.result = extents


def _memory(request: Request) -> memoryview:
    """The memory of a READ's answer, all zeros at first."""
    if not isinstance(request.result, bytearray):
        request.result = bytearray(request.length)
    return memoryview(request.result)


def _fail(request: Request, number: int, text: str, offset: int | None) -> None:
    words = "".join(c if c.isprintable() else "�" for c in text[:200])
    try:
        name = wire.Error(number).name
    except ValueError:
        name = f"error {number}"
    at = "" if request.command is Command.FLUSH else f" at {request.offset}"
    message = f"{request.command.name}{at}: the server says {name}" + (
        f": {words}" if words else ""
    )
    if offset is not None:
        message += f" (at {offset})"
    writing = request.command in WRITING or request.command is Command.FLUSH
    request.error = errors.from_nbd(number, message, writing=writing)
