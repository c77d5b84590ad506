"""The client's side against devices that say anything."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.spd.test_wire import PARAMETERS
from userdisk import errors
from userdisk.spd.client import Exchange, Request
from userdisk.spd.wire import Kind, ProtocolError

_STEP = 1000


def framed(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message


def begun() -> Exchange:
    exchange = Exchange()
    feed(exchange, framed(PARAMETERS))
    assert exchange.parameters is not None
    return exchange


def feed(exchange: Exchange, data: bytes, step: int = _STEP) -> None:
    at = 0
    while at < len(data):
        room = exchange.buffer()
        count = min(len(room), len(data) - at, step)
        room[:count] = data[at : at + count]
        at += count
        exchange.received(count)


def response(
    hint: int,
    kind: int,
    data: bytes = b"",
    status: tuple[int, int, int, int] = (0, 0, 0, 0),
    information: int | None = None,
) -> bytes:
    flags = 0 if information is None else 0x100
    head = struct.pack("<QB7xBBBB4xQQII", hint, kind, *status, information or 0, 0, 0, flags)
    return framed(head + data)


@pytest.mark.parametrize("step", [1, 7, 100000])
def test_answers_in_any_order(step: int) -> None:
    exchange = begun()
    requests = [Request(Kind.READ, 0, 2), Request(Kind.WRITE, 0, 1, data=bytes(512))]
    for each in requests:
        exchange.encode(each)
    feed(exchange, response(2, 2) + response(1, 1, b"a" * 1024), step)
    assert exchange.finished == requests[::-1]
    assert requests[0].result == b"a" * 1024
    assert not exchange.outstanding


def test_what_was_read_stays_when_more_comes() -> None:
    exchange = begun()
    requests = [Request(Kind.READ, 0, 1) for _ in range(2)]
    for hint, (each, data) in enumerate(zip(requests, (b"a" * 512, b"b" * 512), strict=True), 1):
        exchange.encode(each)
        feed(exchange, response(hint, 1, data), 100000)
    assert [each.result for each in requests] == [b"a" * 512, b"b" * 512]


@pytest.mark.parametrize(
    ("kind", "status", "expected", "lba"),
    [
        (Kind.READ, (2, 3, 0x11, 0), errors.MediumError, 6),
        (Kind.WRITE, (2, 3, 0x0C, 0), errors.WriteError, 6),
        (Kind.WRITE, (2, 7, 0x27, 0), errors.WriteProtected, 6),
        (Kind.FLUSH, (2, 3, 0x11, 0), errors.WriteError, None),
        (Kind.READ, (2, 5, 0x21, 0), errors.OutOfRange, None),
        (Kind.READ, (2, 5, 0x20, 0), errors.Unsupported, None),
        (Kind.READ, (8, 0, 0, 0), errors.HardwareError, None),
    ],
)
def test_errors(
    kind: Kind, status: tuple[int, int, int, int], expected: type[Exception], lba: int | None
) -> None:
    exchange = begun()
    request = Request(kind, 5, 0 if kind is Kind.FLUSH else 2, data=bytes(1024))
    exchange.encode(request)
    data = bytes(1024) if kind is Kind.READ else b""  # which a device may send all the same
    feed(exchange, response(1, kind, data, status, 6 if lba else 99))
    assert type(request.error) is expected
    assert request.error.lba == lba


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (response(9, 1, bytes(512)), "0x9"),
        (response(1, 2), "as another request"),
        (response(1, 1, bytes(511)), "with 511"),
        (response(1, 1), "with 0"),
        (response(1, 1, bytes(1024)), "with 1024"),
        (framed(bytes(47)), "47 bytes"),
        (framed(b""), "0 bytes"),
        (struct.pack("<I", 65536 + 49), "65585 bytes"),
        (struct.pack("<I", 0xFFFFFFFF), "4294967295 bytes"),
        (response(1, 1, bytes(512)) + response(1, 1, bytes(512)), "not in use"),
    ],
)
def test_what_a_device_may_not_say(data: bytes, what: str) -> None:
    exchange = begun()
    request = Request(Kind.READ, 0, 1)
    exchange.encode(request)
    with pytest.raises(ProtocolError, match=what):
        feed(exchange, data)
    exchange.lost(errors.NotReady("gone"))
    assert exchange.finished == [request]
    assert not exchange.outstanding


@pytest.mark.parametrize(
    "data",
    [
        framed(PARAMETERS[:127]),
        framed(PARAMETERS + b"x"),
        framed(PARAMETERS) + b"x",
        struct.pack("<I", 1 << 30),
    ],
)
def test_a_bad_beginning(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(Exchange(), data, len(data))


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_taken_or_refused(data: bytes, first: bool) -> None:
    exchange = Exchange() if first else begun()
    exchange.encode(Request(Kind.READ, 0, 1))
    try:
        feed(exchange, data)
    except ProtocolError as error:
        assert "\n" not in str(error)
