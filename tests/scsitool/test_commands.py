"""What commands ask: again with more room, again after a unit attention, in parts, and no more."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from userdisk.errors import UsageError, UserdiskError
from userdisk.scsi import cdb
from userdisk.scsitool.asker import Asker, CommandFailed
from userdisk.scsitool.commands import COMMANDS, Options
from userdisk.scsitool.device import Result
from userdisk.scsitool.layout import Listing, Part, as_lines

ATTENTION = bytes.fromhex("70 00 06 00000000 0a 00000000 2900 00 000000")
REFUSED = bytes.fromhex("72 05 2000 00000000")
BLOCKS = 1000


class Scripted:
    """A device that is a function, and what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[bytes], bytes | Result]) -> None:
        self._answer = answer
        self.asked: list[tuple[str, int, bytes]] = []

    def execute(self, command: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        self.asked.append((command.hex(), read_length, data_out))
        answer = self._answer(command)
        if isinstance(answer, bytes):
            return Result(0, b"", answer[:read_length])
        return answer

    def close(self) -> None:
        """Nothing to close."""


def run(name: str, device: Scripted, options: Options | None = None) -> list[Part]:
    command = next(each for each in COMMANDS if each.name == name)
    options = options or Options()
    command.check(options)
    return list(command.run(Asker(device), options))


def test_a_long_page_is_asked_for_twice() -> None:
    page = bytes([0, 0x83, 0x03, 0x00]) + bytes([2, 1, 0, 252] + [0x41] * 252) * 3
    device = Scripted(lambda command: page)
    (section,) = run("vpd83", device)
    assert [asked[:2] for asked in device.asked] == [
        ("12018300ff00", 255), ("120183030400", 0x304),
    ]  # fmt: skip
    assert not [line for line in as_lines([section]) if "WARN" in line]


def test_a_unit_attention_is_read_past() -> None:
    answers = [Result(2, ATTENTION, b""), Result(2, ATTENTION, b""), bytes(8)]
    device = Scripted(lambda command: answers.pop(0))
    run("capacity", device)
    assert len(device.asked) == 3


def test_one_that_never_ends() -> None:
    device = Scripted(lambda command: Result(2, ATTENTION, b""))
    with pytest.raises(CommandFailed, match=r"READ CAPACITY\(10\): CHECK CONDITION: unit attent"):
        run("capacity", device)
    assert len(device.asked) == 16


@pytest.mark.parametrize("status", [0x08, 0x18, 0x28])
def test_other_statuses(status: int) -> None:
    with pytest.raises(CommandFailed, match=r"^INQUIRY: [A-Z ]+$"):
        run("inquiry", Scripted(lambda command: Result(status, b"", b"")))


def test_a_device_without_subpages_and_timeouts() -> None:
    def answer(command: bytes) -> bytes | Result:
        if command[0] == 0x5A and command[3]:
            return Result(2, REFUSED, b"")
        if command[0] == 0xA3 and command[2] & 0x80:
            return Result(2, REFUSED, b"")
        return bytes.fromhex("00000008 12 00 0000 00 00 0006") if command[0] == 0xA3 else b""

    device = Scripted(answer)
    run("modes", device)
    assert [asked[0][:8] for asked in device.asked] == ["5a003fff", "5a003f00"]
    (listing,) = run("opcodes", device)
    assert isinstance(listing, Listing)
    assert listing.rows == [("12h", "", 6, "", "", "INQUIRY")]


def test_timeouts_of_commands() -> None:
    times = struct.pack(">HxBII", 10, 0, 2, 30)
    data = bytes.fromhex("00000014 2a 00 0000 00 02 000a") + times
    (listing,) = run("opcodes", Scripted(lambda command: data))
    assert isinstance(listing, Listing) and not listing.warnings
    assert listing.rows == [("2Ah", "", 10, "2 s", "30 s", "WRITE(10)")]


def disk(command: bytes) -> bytes | Result:
    """A thousand blocks; every hundred another state; three runs in an answer."""
    if command[0] == 0x9E and command[1] == 0x10:
        return struct.pack(">QI20x", BLOCKS - 1, 512)
    if command[0] == 0x9E:
        (lba,) = struct.unpack_from(">Q", command, 2)
        body = b""
        for _ in range(3):
            if lba < BLOCKS:
                end = lba // 100 * 100 + 100
                body += struct.pack(">QIB3x", lba, end - lba, lba // 100 % 2)
                lba = end
        return struct.pack(">I4x", 4 + len(body)) + body
    if command[:3] == b"\x12\x01\xb0":
        return bytes([0, 0xB0, 0, 60]) + bytes(16) + struct.pack(">II36x", 64, 1)
    return b""


def test_lba_status_in_parts() -> None:
    device = Scripted(disk)
    (listing,) = run("lba-status", device, Options(lba=50, blocks=800))
    assert isinstance(listing, Listing)
    states = ("mapped", "deallocated")
    assert listing.rows == [
        (50, 50, "mapped"),
        *((lba, min(100, 850 - lba), states[lba // 100 % 2]) for lba in range(100, 850, 100)),
    ]
    assert len(device.asked) == 1 + 3


def test_lba_status_that_does_not_go_on() -> None:
    def stuck(command: bytes) -> bytes | Result:
        return struct.pack(">I4xQI4x", 20, 0, 8) if command[1] == 0x12 else disk(command)

    device = Scripted(stuck)
    (listing,) = run("lba-status", device)
    assert isinstance(listing, Listing)
    assert listing.rows == [(0, 8, "mapped")]
    assert listing.warnings == ["the device says nothing of block 8 and what follows"]
    assert len(device.asked) == 3


def test_unmap_in_commands_as_long_as_may_be() -> None:
    device = Scripted(disk)
    run("unmap", device, Options(lba=10, blocks=150, write=True))
    sent = [data for text, _, data in device.asked if text.startswith("42")]
    assert [struct.unpack(">HH4xQI4x", data) for data in sent] == [
        (22, 16, 10, 64), (22, 16, 74, 64), (22, 16, 138, 22),
    ]  # fmt: skip
    assert cdb.of("UNMAP").encode({"PARAMETER LIST LENGTH": 24}).hex() == device.asked[-1][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(blocks=8), "add --write"),
        (Options(write=True), "a number of blocks"),
        (Options(lba=990, blocks=11, write=True), "blocks 990 to 1000: the disk has 1000"),
    ],
)
def test_unmap_refuses(options: Options, words: str) -> None:
    device = Scripted(disk)
    with pytest.raises(UsageError, match=words):
        run("unmap", device, options)
    assert not [text for text, _, _ in device.asked if text.startswith("42")]


def test_unmap_of_a_disk_that_does_not() -> None:
    def thick(command: bytes) -> bytes | Result:
        return bytes([0, 0xB0, 0, 60]) + bytes(60) if command[1] & 1 else disk(command)

    with pytest.raises(UserdiskError, match="the device does not unmap"):
        run("unmap", Scripted(thick), Options(blocks=8, write=True))


def test_reservations_in_words() -> None:
    keys = struct.pack(">IIQQ", 3, 16, 0xABC, 0x123)
    held = struct.pack(">IIQ5xBxx", 3, 16, 0xABC, 5)

    def answer(command: bytes) -> bytes | Result:
        return {0: keys, 1: held}.get(command[1], Result(2, REFUSED, b""))

    summary, *_ = run("pr", Scripted(answer))
    assert isinstance(summary, Listing)
    assert summary.rows == [
        ("key", "0xabc"),
        ("key", "0x123"),
        ("reservation", "write exclusive registrants only, held with key 0xabc"),
    ]
