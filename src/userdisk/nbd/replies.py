"""Replies in the three forms that can be agreed on (doc/proto.md, "Reply message").

An encoder is chosen once for a connection. Pure functions from a request and what became of it to
buffers; payload goes out as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from userdisk.nbd import wire
from userdisk.nbd.wire import Chunk, Error
from userdisk.unit import Buffer


class Replies(enum.Enum):
    """The form of replies that client and server agreed on."""

    SIMPLE = enum.auto()
    STRUCTURED = enum.auto()
    EXTENDED = enum.auto()


class Request(NamedTuple):
    """A request of the transmission phase. `offset` and `length` are in bytes."""

    flags: int
    command: int
    cookie: bytes
    offset: int
    length: int


class Part(NamedTuple):
    """Some of what a READ found: data, or None for a hole, at an offset in bytes."""

    offset: int
    length: int
    data: Buffer | None


class Encoder:
    """Simple replies: a header, and the data of a READ that went well."""

    sparse = False  #: a READ can be answered in parts

    def good(self, request: Request) -> list[Buffer]:
        """Done, with nothing to return."""
        return [wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, request.cookie)]

    def error(
        self, request: Request, error: Error, message: str = "", offset: int | None = None
    ) -> list[Buffer]:
        """It failed, for a reason that may be told, at this byte of the disk if that is known."""
        return [wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, request.cookie)]

    def data(self, request: Request, parts: Sequence[Part]) -> list[Buffer]:
        """What a READ found, in order and without gaps."""
        return self.good(request) + [
            bytes(part.length) if part.data is None else part.data for part in parts
        ]

    def status(
        self, request: Request, context: int, extents: Iterable[tuple[int, int]]
    ) -> list[Buffer]:
        """What BLOCK_STATUS found in a context: lengths in bytes, and flags."""
        raise AssertionError("contexts need structured replies")


class StructuredEncoder(Encoder):
    """Structured replies: chunks with a header each."""

    sparse = True

    def header(self, request: Request, chunk: Chunk, length: int, *, done: bool = True) -> bytes:
        """The header of a chunk, whose payload has `length` bytes."""
        flags = wire.DONE if done else 0
        return wire.STRUCTURED_REPLY.pack(
            wire.STRUCTURED_REPLY_MAGIC, flags, chunk, request.cookie, length
        )

    def good(self, request: Request) -> list[Buffer]:
        """See `Encoder.good`."""
        return [self.header(request, Chunk.NONE, 0)]

    def error(
        self, request: Request, error: Error, message: str = "", offset: int | None = None
    ) -> list[Buffer]:
        """See `Encoder.error`."""
        text = message.encode()
        payload = wire.ERROR.pack(error, len(text)) + text
        chunk = Chunk.ERROR
        if offset is not None:
            chunk = Chunk.ERROR_OFFSET
            payload += wire.OFFSET.pack(offset)
        return [self.header(request, chunk, len(payload)) + payload]

    def data(self, request: Request, parts: Sequence[Part]) -> list[Buffer]:
        """See `Encoder.data`."""
        buffers: list[Buffer] = []
        last = len(parts) - 1
        for number, part in enumerate(parts):
            done = number == last
            if part.data is None:
                buffers.append(
                    self.header(request, Chunk.OFFSET_HOLE, wire.HOLE.size, done=done)
                    + wire.HOLE.pack(part.offset, part.length)
                )
            else:
                length = wire.OFFSET.size + part.length
                buffers.append(
                    self.header(request, Chunk.OFFSET_DATA, length, done=done)
                    + wire.OFFSET.pack(part.offset)
                )
                buffers.append(part.data)
        return buffers

    def status(
        self, request: Request, context: int, extents: Iterable[tuple[int, int]]
    ) -> list[Buffer]:
        """See `Encoder.status`."""
        body = b"".join(wire.EXTENT.pack(length, flags) for length, flags in extents)
        payload = wire.CONTEXT_ID.pack(context) + body
        return [self.header(request, Chunk.BLOCK_STATUS, len(payload)) + payload]


class ExtendedEncoder(StructuredEncoder):
    """Replies with extended headers: longer lengths, and the offset that was asked for."""

    def header(self, request: Request, chunk: Chunk, length: int, *, done: bool = True) -> bytes:
        """See `StructuredEncoder.header`."""
        flags = wire.DONE if done else 0
        return wire.EXTENDED_REPLY.pack(
            wire.EXTENDED_REPLY_MAGIC, flags, chunk, request.cookie, request.offset, length
        )

    def status(
        self, request: Request, context: int, extents: Iterable[tuple[int, int]]
    ) -> list[Buffer]:
        """See `Encoder.status`."""
        descriptors = [wire.EXTENDED_EXTENT.pack(length, flags) for length, flags in extents]
        payload = wire.EXTENDED_STATUS.pack(context, len(descriptors)) + b"".join(descriptors)
        return [self.header(request, Chunk.BLOCK_STATUS_EXT, len(payload)) + payload]


ENCODERS: dict[Replies, Encoder] = {
    Replies.SIMPLE: Encoder(),
    Replies.STRUCTURED: StructuredEncoder(),
    Replies.EXTENDED: ExtendedEncoder(),
}
