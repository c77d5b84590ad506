"""What `raw` sends without being told that it may write, and what it never sends."""

from __future__ import annotations

import pytest

from userdisk.errors import UsageError
from userdisk.scsitool import raw
from userdisk.target import operations
from userdisk.target.row import Access, Direction, Flags, Row

#: Commands that write nothing and are still kept back: they change the state of the device.
_KEPT_BACK = {
    "RESERVE(6)", "RESERVE(10)", "RELEASE(6)", "RELEASE(10)", "START STOP UNIT",
    "PREVENT ALLOW MEDIUM REMOVAL", "SYNCHRONIZE CACHE(10)", "SYNCHRONIZE CACHE(16)",
    "POPULATE TOKEN", "SANITIZE (EXIT FAILURE MODE)",
}  # fmt: skip


@pytest.mark.parametrize("row", operations.ROWS, ids=lambda row: row.name)
def test_nothing_that_the_engine_calls_a_write_is_safe(row: Row) -> None:
    first = bytes([row.opcode, row.service_action or 0]).ljust(len(row.usage), b"\0")
    writes = row.flags & Flags.WRITES or row.access is Access.WRITING
    changes = writes or row.name.startswith(("PERSISTENT RESERVE OUT", "EXTENDED COPY"))
    if raw.may_write(first):
        assert changes or row.name in _KEPT_BACK or row.direction is Direction.OUT
    else:
        assert not changes and row.name not in _KEPT_BACK


@pytest.mark.parametrize("opcode", range(256))
def test_unknown_codes_are_not_safe(opcode: int) -> None:
    known = {row.opcode for row in operations.ROWS}
    if opcode not in known:
        for action in range(32):
            assert raw.may_write(bytes([opcode, action]).ljust(16, b"\0"))


def test_log_sense_that_saves_is_not_safe() -> None:
    assert raw.may_write(bytes.fromhex("4d 01 00 00 00 00 00 00 ff 00"))
    assert not raw.may_write(bytes.fromhex("4d 00 00 00 00 00 00 00 ff 00"))


@pytest.mark.parametrize(
    ("cdb", "read", "out", "words"),
    [
        ("12 00 00", 0, b"", "6 to 16 bytes, not 3"),
        ("00" * 17, 0, b"", "6 to 16 bytes, not 17"),
        ("28 00 00 00 00 00", 0, b"", r"28h \(READ\(10\)\) has 10 bytes, not 6"),
        ("12 00 00 00 24 00", 1 << 21, b"", "at most 1048576 bytes"),
        ("12 00 00 00 24 00", 36, b"x", "not both"),
        ("04 00 00 00 00 00", 0, b"", "FORMAT UNIT may change the device; add --write"),
        ("c0 00 00 00 00 00", 0, b"", "vendor specific command may change"),
    ],
)
def test_refusals(cdb: str, read: int, out: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        raw.check(bytes.fromhex(cdb), read, out, write=False)


def test_with_write_anything_goes() -> None:
    raw.check(bytes.fromhex("04 00 00 00 00 00"), 0, b"", write=True)


@pytest.mark.parametrize("text", ["12 00", "1200", "0x12,0x00", "12 0"])
def test_hexadecimal(text: str) -> None:
    assert raw.parse_hex(text) == b"\x12\0"


@pytest.mark.parametrize("text", ["1 2 g", "120", "héx"])
def test_not_hexadecimal(text: str) -> None:
    with pytest.raises(UsageError, match="not bytes in hexadecimal"):
        raw.parse_hex(text)
