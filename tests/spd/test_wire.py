"""The messages: recorded bytes of WinSpd's protocol, and what is refused."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.spd import wire
from userdisk.spd.client import Exchange, Request
from userdisk.spd.requests import decode
from userdisk.spd.wire import Flag, Kind, Parameters, ProtocolError, Response, Status

DISK = Parameters(
    uuid.UUID("4112a9a1-f079-4f3d-ba53-2d5df27d28b5"),
    1048576,
    512,
    "RawDisk",
    "1.0",
    Flag.CACHE_SUPPORTED | Flag.UNMAP_SUPPORTED,
    65536,
)
PARAMETERS = bytes.fromhex(
    "a1a9124179f03d4fba532d5df27d28b5"
    "00001000000000000002000052617744"
    "69736b000000000000000000312e3000"
    "00000000060000000000010000000000"
) + bytes(64)
READ = bytes.fromhex(
    "01000000443322110100000000000000"
    "07000000000000000500000000000000"
    "00000000000000000000000000000000"
)
WRITE = bytes.fromhex(
    "02000000443322110200000000000000"
    "07000000000000000100000001000000"
    "00000000000000000000000000000000"
)
UNMAP = bytes.fromhex(
    "03000000443322110400000000000000"
    "01000000000000000000000000000000"
    "00000000000000000000000000000000"
    "07000000000000000100000000000000"
)
GOOD = bytes.fromhex(
    "01000000443322110100000000000000"
    "00000000000000000000000000000000"
    "00000000000000000000000000000000"
)
FAILED = bytes.fromhex(
    "01000000443322110100000000000000"
    "02031100000000000b00000000000000"
    "00000000000000000000000000010000"
)
HINT = 0x1122334400000001


def test_parameters() -> None:
    assert DISK.encode() == PARAMETERS
    assert wire.decode_parameters(PARAMETERS) == DISK


def test_requests_are_read() -> None:
    assert decode(memoryview(READ))[:5] == (HINT, Kind.READ, 7, 5, False)
    data = bytes(range(256)) * 2
    request = decode(memoryview(WRITE + data))
    assert request[:5] == (HINT + 1, Kind.WRITE, 7, 1, True)
    assert request.payload == data
    request = decode(memoryview(UNMAP))
    assert request[:5] == (HINT + 2, Kind.UNMAP, 0, 1, False)
    assert list(wire.DESCRIPTOR.iter_unpack(request.payload)) == [(7, 1, 0)]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(Kind.READ, 7, 5), READ),
        (Request(Kind.WRITE, 7, 1, data=bytes(512), fua=True), WRITE + bytes(512)),
        (Request(Kind.UNMAP, extents=[(7, 1)]), UNMAP),
    ],
)
def test_requests_are_made(request_: Request, expected: bytes) -> None:
    message = b"".join(Exchange().encode(request_))
    assert int.from_bytes(message[:4], "little") == len(message) - 4 == len(expected)
    assert message[4:12] == (1).to_bytes(8, "little"), "the first hint"
    assert message[12:] == expected[8:]


def test_responses() -> None:
    failed = Status(2, 3, 0x11, 0, 11)
    assert Response(HINT, Kind.READ).encode() == GOOD
    assert Response(HINT, Kind.READ, failed).encode() == FAILED
    assert wire.decode_response(GOOD) == Response(HINT, Kind.READ)
    assert wire.decode_response(FAILED) == Response(HINT, Kind.READ, failed)


@pytest.mark.parametrize(
    ("at", "layout", "value", "what"),
    [
        (16, "<Q", 0, "no blocks"),
        (16, "<Q", 1 << 54, "2\\^63"),
        (24, "<I", 0, "blocks of 0 bytes"),
        (24, "<I", 15, "blocks of 15 bytes"),
        (48, "B", 5, "device type 5"),
        (56, "<I", 0, "transfers of up to 0 bytes"),
        (56, "<I", 513, "transfers of up to 513 bytes"),
        (56, "<I", 128 << 20, "transfers of up to"),
    ],
)
def test_parameters_that_cannot_be(at: int, layout: str, value: int, what: str) -> None:
    wrong = bytearray(PARAMETERS)
    struct.pack_into(layout, wrong, at, value)
    with pytest.raises(ProtocolError, match=what):
        wire.decode_parameters(wrong)


def test_parameters_that_are_short() -> None:
    with pytest.raises(ProtocolError, match="127 bytes instead of 128"):
        wire.decode_parameters(PARAMETERS[:-1])


@given(st.binary(min_size=128, max_size=200))
def test_any_parameters_are_taken_or_refused(data: bytes) -> None:
    try:
        found = wire.decode_parameters(data)
    except ProtocolError as error:
        assert "\n" not in str(error)
    else:
        assert found.product_id.isascii()
        assert found.max_transfer_length % found.block_length == 0
