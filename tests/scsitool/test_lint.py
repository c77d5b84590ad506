"""Every rule speaks up about a disk that breaks it, and about no other."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.units import AbleRamUnit
from userdisk.scsi import cdb
from userdisk.scsitool import lint
from userdisk.scsitool.asker import Asker
from userdisk.scsitool.device import Result
from userdisk.scsitool.lint import RULES, Severity

REFUSED = bytes.fromhex("70 00 05 00000000 0a 00000000 2400 00 000000")

#: The answer to a CDB, changed; None: it is refused.
Edit = Callable[[bytes, bytes], bytes | None]


class Edited:
    """Our own disk, whose answers are changed on the way."""

    name = "edited"

    def __init__(self, *edits: Edit) -> None:
        self._nexus = ready_nexus(target_of(AbleRamUnit(soft_threshold=75)))
        self._port = EnginePort()
        self._edits = edits

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        result = self._port.execute(self._nexus, cdb, data_out)
        if result.status:
            return Result(2, REFUSED, b"")
        data: bytes | None = result.data
        for edit in self._edits:
            data = None if data is None else edit(cdb, data)
        return Result(2, REFUSED, b"") if data is None else Result(0, b"", data)

    def close(self) -> None:
        """Nothing to close."""


def refuse(prefix: str) -> Edit:
    first = bytes.fromhex(prefix)
    return lambda command, data: None if command.startswith(first) else data


def patch(prefix: str, at: int, new: str) -> Edit:
    first, put = bytes.fromhex(prefix), bytes.fromhex(new)

    def edit(command: bytes, data: bytes) -> bytes:
        if not command.startswith(first) or len(data) <= at:
            return data
        return data[:at] + put + data[at + len(put) :]

    return edit


def becomes(prefix: str, new: str) -> Edit:
    first = bytes.fromhex(prefix)
    return lambda command, data: bytes.fromhex(new) if command.startswith(first) else data


def without(*names: str) -> Edit:
    """The commands are not listed."""
    gone = {(cdb.of(name).opcode, cdb.of(name).service_action or 0) for name in names}

    def edit(command: bytes, data: bytes) -> bytes:
        if command[:2] != b"\xa3\x0c" or command[2] & 7:
            return data
        records = [data[at : at + 8] for at in range(4, len(data), 8)]
        kept = [one for one in records if (one[0], int.from_bytes(one[2:4], "big")) not in gone]
        return struct.pack(">I", 8 * len(kept)) + b"".join(kept)

    return edit


def no_page(code: int) -> Edit:
    """A VPD page is neither listed nor answered."""

    def edit(command: bytes, data: bytes) -> bytes | None:
        if command[:2] != b"\x12\x01":
            return data
        if command[2] == code:
            return None
        if command[2]:
            return data
        listed = bytes(each for each in data[4:] if each != code)
        return bytes([0, 0, 0, len(listed)]) + listed

    return edit


B0, B1, B2, IDS = "1201b0", "1201b1", "1201b2", "120183"
CAPACITY, MODES, CACHING, CHANGEABLE = "9e10", "1a003f", "1a0008", "1a0048"
RESERVES = "5e02"
#: Where WCE is: behind a header of 4 bytes, a block descriptor of 8, and 2 bytes of the page.
_WCE = 14

BROKEN: dict[str, tuple[Edit, ...]] = {
    "block-length": (patch("25", 4, "00000208"),),
    "flush": (without("SYNCHRONIZE CACHE(10)"),),
    "page-order": (becomes("120100", "00000003 00b080"),),
    "no-identity": (becomes(IDS, "0083000c 01030008 0000000000000000"),),
    "unmap-limits": (patch(B0, 20, "00000000"),),
    "unmap-missing": (without("UNMAP"),),
    "no-lock": (without("COMPARE AND WRITE", "RESERVE(6)"),),
    "lock-claimed": (without("COMPARE AND WRITE"),),
    "alua": (patch("120000", 5, "28"),),
    "lun-0": (becomes("a0", "00000008 00000000 0001000000000000"),),
    "lengths": (patch(B2, 2, "0008"),),
    "old-version": (patch("120000", 2, "04"),),
    "queueing": (patch("120000", 7, "00"),),
    "pages": (refuse("120100"),),
    "naa": (becomes(IDS, "0083000c 02010008 4142434445464748"),),
    "weak-identity": (becomes(IDS, "0083000c 01030008 3000000100000001"),),
    "request-sense": (refuse("03"),),
    "serial": (no_page(0x80),),
    "limits": (no_page(0xB0),),
    "limits-short": (lambda command, data: data[:3] + b"\x0c" + data[4:16]
                     if command.startswith(bytes.fromhex(B0)) else data,),
    "characteristics": (no_page(0xB1),),
    "characteristics-length": (patch(B1, 2, "0008"),),
    "rotation": (patch(B1, 4, "0000"),),
    "no-unmap": (patch(CAPACITY, 14, "00"), patch(B2, 5, "00")),
    "provisioning": (no_page(0xB2),),
    "provisioning-short": (becomes(B2, "00b20002 0080"),),
    "unmap-bit": (patch(B2, 5, "44"),),
    "mapping": (patch(CAPACITY, 14, "00"),),
    "zeroes": (patch(CAPACITY, 14, "80"),),
    "granularity": (patch(B0, 28, "00001000"),),
    "capacity-16": (refuse(CAPACITY),),
    "caching": (refuse(CACHING),),
    "fua": (patch(MODES, 2, "00"),),
    "compare-and-write": (patch(B0, 5, "00"),),
    "write-same": (without("WRITE SAME(16)"),),
    "verify": (without("VERIFY(10)"),),
    "reservations": (refuse("5e00"),),
    "reservation-types": (patch(RESERVES, 4, "0a"),),
    "preempt-and-abort": (without("PERSISTENT RESERVE OUT (PREEMPT AND ABORT)"),),
    "full-status": (without("PERSISTENT RESERVE IN (READ FULL STATUS)"),),
    "ports": (becomes(IDS, "0083000c 01030008 3123456789abcdef"),),
    "log-sense": (without("LOG SENSE"),),
    "lba-status": (without("GET LBA STATUS"),),
    "copy": (without("EXTENDED COPY(LID1)"),),
    "odx": (no_page(0x8F),),
    "odx-order": (patch("12018f", 4, "0001"),),
    "optimal-transfer": (patch(B0, 12, "00ffffff"),),
    "commands": (refuse("a30c"),),
    "one-command": (refuse("a30c01"),),
    "new-version": (patch("120000", 2, "07"),),
    "reservations-kept": (patch(RESERVES, 2, "0c"),),
    "cache-switch": (patch(CHANGEABLE, _WCE, "00"),),
    "4k": (patch("25", 4, "00001000"),),
    "read-only": (patch(MODES, 2, "90"),),
}  # fmt: skip


def found(*edits: Edit) -> dict[str, Severity]:
    findings = lint.findings(lint.gather(Asker(Edited(*edits))))
    return {each.rule.name: each.rule.severity for each in findings}


#: What our own disk in memory is told: its reservations end with the process.
OWN = {"reservations-kept": Severity.NOTE}


def test_our_own_disk() -> None:
    assert found() == OWN


def test_every_rule_is_tested_and_named_once() -> None:
    names = [rule.name for rule in RULES]
    assert sorted(names) == sorted(set(names)) == sorted(BROKEN)


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_is_broken(name: str) -> None:
    told = found(*BROKEN[name])
    assert name in told
    others = set(told) - set(OWN) - {name}
    assert len(others) <= 6, others


def test_the_worst_comes_first() -> None:
    findings = lint.findings(lint.gather(Asker(Edited(without("LOG SENSE", "UNMAP")))))
    severities = [each.rule.severity for each in findings]
    assert severities == sorted(severities) and severities[0] is Severity.ERROR
    listing = lint.listing(findings)
    assert listing.rows[0][0] == "error"


def test_a_device_that_breaks_off_is_an_error_not_a_finding() -> None:
    from userdisk.scsitool.asker import CommandFailed

    class Broken(Edited):
        def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
            if cdb[0] == 0x5A or cdb[0] == 0x1A:
                return Result(8, b"", b"")  # BUSY
            return super().execute(cdb, read_length, data_out)

    with pytest.raises(CommandFailed, match=r"MODE SENSE\(6\): BUSY"):
        lint.gather(Asker(Broken()))
