"""Commands as bytes and answers as numbers, for tests of what an initiator sends and looks at.

Nothing here knows how userdisk makes its answers: offsets are those of the standards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.kit.server import Served
from userdisk.initiator_client import Initiator, ScsiError, parse_url, sense_codes
from userdisk.iscsi.initiator_login import Settings


def number(data: bytes, start: int, length: int) -> int:
    """A big-endian number."""
    assert len(data) >= start + length, f"{len(data)} bytes are too short"
    return int.from_bytes(data[start : start + length], "big")


def login(served: Served, name: str, url: int = 0) -> Initiator:
    """A session by the URL of that number, under a name ending as given."""
    found = parse_url(served.urls[url])
    settings = Settings(f"iqn.2026-11.example:{name}", found.target)
    return Initiator((found.host, found.port), settings, lun=found.lun)


def refused(
    initiator: Initiator, cdb: bytes, *, data_out: bytes = b"", read_length: int = 0
) -> tuple[int, int, int]:
    """The sense key, ASC and ASCQ that a command ends with; it must not succeed."""
    try:
        initiator.execute(cdb, data_out=data_out, read_length=read_length)
    except ScsiError as error:
        assert error.status == 2
        return sense_codes(error.sense)
    raise AssertionError(f"{cdb.hex()} succeeded")


def inquiry(initiator: Initiator, length: int = 96) -> bytes:
    """INQUIRY."""
    return initiator.execute(struct.pack(">BBBHB", 0x12, 0, 0, length, 0), read_length=length)


def vpd(initiator: Initiator, page: int, length: int = 255) -> bytes:
    """INQUIRY for a page; the answer's own fields agree with what was asked."""
    cdb = struct.pack(">BBBHB", 0x12, 1, page, length, 0)
    data = initiator.execute(cdb, read_length=length)
    assert data[0] == 0 and data[1] == page
    assert len(data) == min(length, number(data, 2, 2) + 4)
    return data


@dataclass(frozen=True, slots=True)
class Designator:
    """One of VPD page 83 (SPC-5 7.7.6)."""

    association: int
    kind: int
    code_set: int
    value: bytes


def designators(initiator: Initiator) -> Iterator[Designator]:
    """Those of VPD page 83, in their order."""
    data = vpd(initiator, 0x83)[4:]
    while data:
        length = data[3]
        assert len(data) >= 4 + length
        yield Designator(
            data[1] >> 4 & 3, data[1] & 0xF, data[0] & 0xF, bytes(data[4 : 4 + length])
        )
        data = data[4 + length :]


def mode_sense(initiator: Initiator, page: int, control: int = 0) -> tuple[bytes, bytes]:
    """MODE SENSE(6) without block descriptors: the header and the page."""
    cdb = bytes([0x1A, 0x08, control << 6 | page, 0, 255, 0])
    data = initiator.execute(cdb, read_length=255)
    assert data[0] == len(data) - 1 and data[3] == 0
    return data[:4], data[4:]


def mode_select(initiator: Initiator, page: bytes, *, save: bool) -> None:
    """MODE SELECT(6) of one page as MODE SENSE gave it, but for what was changed."""
    data = bytes(4) + bytes([page[0] & 0x3F]) + page[1:]
    cdb = bytes([0x15, 0x10 | save, 0, 0, len(data), 0])
    initiator.execute(cdb, data_out=data)
