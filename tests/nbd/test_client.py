"""The client's side of NBD without sockets: what a server says, right and wrong."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable

import pytest

from userdisk.errors import (
    HardwareError,
    MediumError,
    NotReady,
    OutOfRange,
    OutOfSpace,
    Unsupported,
    WriteError,
    WriteProtected,
)
from userdisk.nbd import wire
from userdisk.nbd.client import ClientTransmission
from userdisk.nbd.client_negotiation import Found, NbdError, ReplyStyle
from userdisk.nbd.client_request import Request
from userdisk.nbd.wire import Chunk, Command, CommandFlag, TransmissionFlag

SIMPLE, STRUCTURED, EXTENDED = ReplyStyle.SIMPLE, ReplyStyle.STRUCTURED, ReplyStyle.EXTENDED
FLAGS = TransmissionFlag(0xFFF & ~TransmissionFlag.READ_ONLY)
CHUNKED = [STRUCTURED, EXTENDED]


def client(style: ReplyStyle = STRUCTURED) -> ClientTransmission:
    context = None if style is SIMPLE else 7
    return ClientTransmission(Found(1 << 40, FLAGS, style=style, context=context))


def start(side: ClientTransmission, request: Request) -> bytes:
    """Send a request; returns its cookie."""
    assert request.refused(side.found) is None
    return bytes(side.encode(request)[0])[8:16]


def feed(side: ClientTransmission, data: bytes, step: int = 1 << 30) -> None:
    view = memoryview(data)
    while view:
        buffer = side.buffer()
        size = min(len(buffer), len(view), step)
        buffer[:size] = view[:size]
        side.received(size)
        view = view[size:]


def simple(cookie: bytes, error: int = 0, data: bytes = b"") -> bytes:
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie) + data


def chunk(
    side: ClientTransmission,
    request: Request,
    cookie: bytes,
    kind: int,
    payload: bytes = b"",
    done: int = 1,
) -> bytes:
    if side.found.style is EXTENDED:
        head = wire.EXTENDED_REPLY.pack(
            wire.EXTENDED_REPLY_MAGIC, done, kind, cookie, request.offset, len(payload)
        )
    else:
        head = wire.STRUCTURED_REPLY.pack(
            wire.STRUCTURED_REPLY_MAGIC, done, kind, cookie, len(payload)
        )
    return head + payload


def piece(offset: int, data: bytes) -> bytes:
    return wire.OFFSET.pack(offset) + data


def status(style: ReplyStyle, pairs: list[tuple[int, int]], context: int = 7) -> tuple[int, bytes]:
    if style is EXTENDED:
        head = wire.EXTENDED_STATUS.pack(context, len(pairs))
        return Chunk.BLOCK_STATUS_EXT, head + b"".join(wire.EXTENDED_EXTENT.pack(*p) for p in pairs)
    head = wire.CONTEXT_ID.pack(context)
    return Chunk.BLOCK_STATUS, head + b"".join(wire.EXTENT.pack(*p) for p in pairs)


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 30])
def test_simple_replies_in_any_order(step: int) -> None:
    side = client(SIMPLE)
    read, write = Request(Command.READ, 512, 300_000), Request(Command.WRITE, 0, data=b"x" * 512)
    first, second = start(side, read), start(side, write)
    data = random.Random(1).randbytes(300_000)
    feed(side, simple(second) + simple(first, data=data), 300_000 if step == 1 else step)
    assert side.finished == [write, read]
    assert read.result == data
    assert read.error is write.error is None
    assert not side.outstanding


@pytest.mark.parametrize("style", CHUNKED)
@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_a_read_come_in_any_order(style: ReplyStyle, seed: int) -> None:
    chance = random.Random(seed)
    side = client(style)
    length = chance.choice([10, 5000, 600_000])
    read = Request(Command.READ, 1000, length)
    cookie = start(side, read)
    expected = bytearray(length)
    cuts = sorted({0, length, *(chance.randrange(1, length) for _ in range(9))})
    chunks = []
    for begin, end in itertools.pairwise(cuts):
        if chance.random() < 0.3:
            payload = wire.HOLE.pack(1000 + begin, end - begin)
            chunks.append((Chunk.OFFSET_HOLE, payload))
        else:
            expected[begin:end] = chance.randbytes(end - begin)
            chunks.append((Chunk.OFFSET_DATA, piece(1000 + begin, expected[begin:end])))
    chance.shuffle(chunks)
    stream = b"".join(chunk(side, read, cookie, kind, payload, 0) for kind, payload in chunks)
    feed(side, stream + chunk(side, read, cookie, Chunk.NONE), chance.choice([777, 65536]))
    assert side.finished == [read]
    assert read.result == expected


@pytest.mark.parametrize("style", CHUNKED)
def test_errors_are_those_of_the_table(style: ReplyStyle) -> None:
    side = client(style)
    read, write = Request(Command.READ, 0, 512), Request(Command.WRITE, 0, data=bytes(512))
    full = Request(Command.WRITE_ZEROES, 0, 512)
    first, second, third = (start(side, each) for each in (read, write, full))
    bad = wire.ERROR.pack(5, 4) + b"b\x1bd!" + wire.OFFSET.pack(100)
    feed(side, chunk(side, read, first, Chunk.OFFSET_DATA, piece(0, b"x" * 100), 0))
    feed(side, chunk(side, read, first, Chunk.ERROR_OFFSET, bad))
    feed(side, chunk(side, write, second, Chunk.ERROR, wire.ERROR.pack(5, 0)))
    feed(side, chunk(side, full, third, Chunk.ERROR, wire.ERROR.pack(28, 0)))
    assert type(read.error) is MediumError
    assert "EIO: b�d! (at 100)" in str(read.error)
    assert read.result is None
    assert type(write.error) is WriteError
    assert type(full.error) is OutOfSpace


@pytest.mark.parametrize(
    ("number", "kind"),
    [(108, NotReady), (75, HardwareError), (5, MediumError), (4711, MediumError)],
)
def test_every_number_of_a_simple_reply_is_an_error(number: int, kind: type[Exception]) -> None:
    side = client(SIMPLE)
    read = Request(Command.READ, 0, 512)
    feed(side, simple(start(side, read), number))
    assert type(read.error) is kind


@pytest.mark.parametrize("style", CHUNKED)
def test_block_status(style: ReplyStyle) -> None:
    side = client(style)
    request = Request(Command.BLOCK_STATUS, 0, 1 << 30)
    cookie = start(side, request)
    pairs = [(4096, n % 4) for n in range(100_000)]
    feed(side, chunk(side, request, cookie, *status(style, pairs)), 60_000)
    assert request.result == pairs


Answer = Callable[[ClientTransmission, Request, bytes], bytes]
READS: dict[str, Answer] = {
    "magic": lambda side, request, cookie: bytes(64),
    "cookie": lambda side, request, cookie: chunk(side, request, b"?" * 8, Chunk.NONE),
    "nothing": lambda side, request, cookie: chunk(side, request, cookie, Chunk.NONE),
    "empty, not last": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.NONE, done=0
    ),
    "missing": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_DATA, piece(4096, b"x" * 511)
    ),
    "before": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_DATA, piece(4095, b"xx")
    ),
    "after": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_DATA, piece(4607, b"xx")
    ),
    "far": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_HOLE, wire.HOLE.pack((1 << 64) - 1, 1)
    ),
    "no data": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_DATA, piece(4096, b"")
    ),
    "empty hole": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.OFFSET_HOLE, wire.HOLE.pack(4096, 0)
    ),
    "twice": lambda side, request, cookie: (
        chunk(side, request, cookie, Chunk.OFFSET_DATA, piece(4100, b"x" * 10), 0)
        + chunk(side, request, cookie, Chunk.OFFSET_HOLE, wire.HOLE.pack(4096, 5), 0)
    ),
    "huge": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.ERROR, wire.ERROR.pack(5, 60_000) + bytes(60_000)
    ),
    "no error": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.ERROR, wire.ERROR.pack(0, 0)
    ),
    "error cut": lambda side, request, cookie: chunk(side, request, cookie, Chunk.ERROR, b"123"),
    "error longer": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.ERROR, wire.ERROR.pack(5, 9)
    ),
    "error elsewhere": lambda side, request, cookie: chunk(
        side, request, cookie, Chunk.ERROR_OFFSET, wire.ERROR.pack(5, 0) + wire.OFFSET.pack(1)
    ),
    "type": lambda side, request, cookie: chunk(side, request, cookie, 99),
    "status": lambda side, request, cookie: chunk(
        side, request, cookie, *status(side.found.style, [(512, 0)])
    ),
    "simple": lambda side, request, cookie: simple(cookie, data=bytes(512)),
}


@pytest.mark.parametrize("style", CHUNKED)
@pytest.mark.parametrize("wrong", READS)
def test_what_breaks_the_protocol_ends_the_connection(style: ReplyStyle, wrong: str) -> None:
    side = client(style)
    request = Request(Command.READ, 4096, 512)
    cookie = start(side, request)
    with pytest.raises(NbdError):
        feed(side, READS[wrong](side, request, cookie))
    side.lost(NotReady("gone"))
    assert side.finished == [request]
    assert isinstance(request.error, NotReady)


@pytest.mark.parametrize("style", CHUNKED)
@pytest.mark.parametrize(
    ("pairs", "context", "flags"),
    [
        ([], 7, 0),
        ([(512, 0)], 8, 0),
        ([(0, 0), (512, 0)], 7, 0),
        ([(512, 0), (512, 1)], 7, 0),
        ([(100, 0), (100, 1)], 7, CommandFlag.REQ_ONE),
        ([(513, 0)], 7, CommandFlag.REQ_ONE),
    ],
)
def test_a_wrong_block_status(
    style: ReplyStyle, pairs: list[tuple[int, int]], context: int, flags: int
) -> None:
    side = client(style)
    request = Request(Command.BLOCK_STATUS, 0, 512, flags=flags)
    cookie = start(side, request)
    with pytest.raises(NbdError):
        feed(side, chunk(side, request, cookie, *status(style, pairs, context)))


def test_a_block_status_that_is_announced_too_long_takes_no_memory() -> None:
    side = client()
    cookie = start(side, Request(Command.BLOCK_STATUS, 0, 512))
    head = struct.pack(">IHH8sI", wire.STRUCTURED_REPLY_MAGIC, 1, 5, cookie, 0xFFFFFFFC)
    with pytest.raises(NbdError):
        feed(side, head)


def test_an_extended_reply_is_about_its_request() -> None:
    side = client(EXTENDED)
    request = Request(Command.FLUSH)
    cookie = start(side, request)
    with pytest.raises(NbdError):
        feed(side, chunk(side, Request(Command.FLUSH, 512), cookie, Chunk.NONE))


def test_errors_without_end_end() -> None:
    side = client()
    request = Request(Command.READ, 0, 512)
    cookie = start(side, request)
    one = chunk(side, request, cookie, Chunk.ERROR, wire.ERROR.pack(5, 0), 0)
    with pytest.raises(NbdError, match="no end"):
        for _ in range(140):
            feed(side, one * 1000)


HAS = TransmissionFlag.HAS_FLAGS
BLOCK = bytes(512)


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (Request(Command.READ, 0, 512), HAS),
        (Request(Command.WRITE, data=BLOCK), HAS),
        (Request(Command.WRITE, data=BLOCK, flags=CommandFlag.FUA), TransmissionFlag.SEND_FUA),
        (Request(Command.READ, 0, 512, flags=CommandFlag.DF), TransmissionFlag.SEND_DF),
        (Request(Command.TRIM, 0, 512), TransmissionFlag.SEND_TRIM),
        (Request(Command.FLUSH), TransmissionFlag.SEND_FLUSH),
        (Request(Command.CACHE, 0, 512), TransmissionFlag.SEND_CACHE),
        (Request(Command.WRITE_ZEROES, 0, 512), TransmissionFlag.SEND_WRITE_ZEROES),
    ],
)
def test_what_a_server_does_not_offer_is_not_sent(request_: Request, needs: int) -> None:
    flags = HAS | TransmissionFlag(needs)
    assert request_.refused(Found(1 << 20, flags)) is None
    if needs != HAS:
        assert isinstance(request_.refused(Found(1 << 20, HAS)), Unsupported)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (-1, 512), (1 << 20, 1), ((1 << 20) - 1, 2), (0, (1 << 15) + 1)]
)
def test_a_read_past_the_end_or_too_long_is_not_sent(offset: int, length: int) -> None:
    found = Found(1 << 20, HAS, maximum=1 << 15)
    assert isinstance(Request(Command.READ, offset, length).refused(found), OutOfRange)


def test_a_read_only_export_is_not_written() -> None:
    found = Found(1 << 20, HAS | TransmissionFlag.READ_ONLY)
    assert isinstance(Request(Command.WRITE, data=BLOCK).refused(found), WriteProtected)
