"""Mode parameters from the initiator's side: parameter lists, and a disk with two nexuses."""

from __future__ import annotations

import struct
from typing import Any

from tests.kit.engine import EnginePort, Result, ready_nexus
from tests.kit.units import InlineRamUnit
from userdisk.gate import Gate
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target.logical_unit import LogicalUnit, Saved
from userdisk.target.nexus import Nexus
from userdisk.target.target import Target
from userdisk.unit import StorageUnit

PF, SP = 0x10, 0x01
CURRENT, CHANGEABLE, DEFAULT, SAVED = range(4)
CHANGED = (6, Asc.MODE_PARAMETERS_CHANGED)

#: The pages that can be changed, with nothing changed; byte 4 of control has SWP (8), byte 2
#: D_SENSE (4), byte 2 of caching WCE (4).
CACHING = bytes.fromhex("08 12 04" + "00" * 17)
CONTROL = bytes.fromhex("0a 0a 02 10 00 00 0000 ffff 0000")


def caching(*, wce: bool) -> bytes:
    return CACHING[:2] + bytes([4 * wce]) + CACHING[3:]


def control(*, swp: bool = False, d_sense: bool = False) -> bytes:
    return CONTROL[:2] + bytes([2 | 4 * d_sense, 0x10, 8 * swp]) + CONTROL[5:]


def select(length: int, flags: int = PF, *, short: bool = True) -> bytes:
    """The CDB of MODE SELECT."""
    if short:
        return struct.pack(">BB2xBx", 0x15, flags, length)
    return struct.pack(">BB5xHx", 0x55, flags, length)


def header(length: int = 0, *, short: bool = True, long_lba: bool = False) -> bytes:
    """Of a parameter list; `length` is that of the block descriptor."""
    if short:
        return bytes([0, 0, 0, length])
    return struct.pack(">4xBxH", long_lba, length)


class Disk:
    """A disk with two nexuses that have been told everything."""

    def __init__(
        self, unit: StorageUnit | None = None, saved: Saved | None = None, **how: Any
    ) -> None:
        self.unit: Any = unit or InlineRamUnit(**how)
        self.lu = LogicalUnit(Gate(self.unit), saved=saved)
        self.target = Target("iqn.2024-01.org.example:disk", [self.lu])
        self.one = ready_nexus(self.target, "iqn.2024-01.org.example:one")
        self.two = ready_nexus(self.target, "iqn.2024-01.org.example:two")

    def run(self, cdb: bytes, data: bytes = b"", nexus: Nexus | None = None) -> Result:
        return EnginePort().execute(nexus or self.one, cdb, data)

    def code(self, cdb: bytes, data: bytes = b"", nexus: Nexus | None = None) -> Any:
        """Sense key and code of a command's answer; None: GOOD."""
        result = self.run(cdb, data, nexus)
        return (result.sense.key, result.sense.code) if result.sense else None

    def select(self, *pages: bytes, flags: int = PF, nexus: Nexus | None = None) -> Result:
        """MODE SELECT(6) of these pages, without a block descriptor."""
        data = header() + b"".join(pages)
        return self.run(select(len(data), flags), data, nexus)

    def sense(self, page: int, subpage: int = 0, which: int = CURRENT) -> bytes:
        """The mode pages that MODE SENSE(10) answers, without header and block descriptor."""
        result = self.run(bytes([0x5A, 8, which << 6 | page, subpage, 0, 0, 0, 255, 255, 0]))
        assert result.status == 0, result
        return result.data[8:]

    def everything(self) -> bytes:
        """All that MODE SENSE(6) says, and the unit's calls."""
        return self.run(bytes.fromhex("1a 00 3f ff ff 00")).data + repr(self.unit.log).encode()


def pointed(result: Result) -> Pointer | None:
    """Where in the parameter list a field is wrong."""
    assert result.status == 2 and result.sense is not None
    assert (result.sense.key, result.sense.code) == (5, Asc.INVALID_FIELD_IN_PARAMETER_LIST)
    return result.sense.pointer
