"""Third-party copies from the initiator's side: parameter lists, CDBs, what comes back."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.kit.engine import IQN, EnginePort, Result, ready_nexus
from tests.kit.units import InlineRamUnit
from userdisk.gate import Gate
from userdisk.scsi import inquiry
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus
from userdisk.target.target import Target
from userdisk.unit import Buffer, StorageUnit

HOLD, RESERVED, DISCARD, NO_ID = range(4)  # LIST ID USAGE
IMMED, RTV, DEL_TKN = 1, 2, 2
ZERO_TOKEN = bytes.fromhex("ffff0001 0000 01f8").ljust(512, b"\0")

#: A range of blocks: lba, blocks.
Range = tuple[int, int]


def lun(number: int) -> int:
    return number << 48


# -- EXTENDED COPY -----------------------------------------------------------------------------


def cscd(
    unit: StorageUnit, *, block_length: int | None = None, device: int = 0, name: bytes = b""
) -> bytes:
    """An identification descriptor with the unit's NAA name, as initiators make it of VPD 83h."""
    name = name or bytes([1, 3, 0, 8]) + inquiry.naa(unit.parameters.guid)
    length = unit.block_length if block_length is None else block_length
    return struct.pack(">BBH24sI", 0xE4, device, 0, name, length)


def segment(
    source: int, target: int, blocks: int, source_lba: int, target_lba: int, *, flags: int = 0
) -> bytes:
    """A block to block segment descriptor; `flags` 2: `blocks` are the destination's (DC)."""
    return struct.pack(
        ">BBHHHHHQQ", 2, flags, 24, source, target, 0, blocks, source_lba, target_lba
    )


def copy_list(
    cscds: Sequence[bytes],
    segments: Sequence[bytes],
    *,
    identifier: int = 1,
    usage: int = HOLD,
    inline: int = 0,
) -> bytes:
    """An EXTENDED COPY(LID1) parameter list."""
    names, parts = b"".join(cscds), b"".join(segments)
    head = struct.pack(">BBH4xII", identifier, usage << 3, len(names), len(parts), inline)
    return head + names + parts


def extended_copy(length: int) -> bytes:
    return struct.pack(">BBxxxxxxxxIxx", 0x83, 0x00, length)


def copy_status(identifier: int, allocation: int = 255) -> bytes:
    return struct.pack(">BBB7xIxx", 0x84, 0x00, identifier, allocation)


def failure_details(identifier: int, allocation: int = 255) -> bytes:
    return struct.pack(">BBB7xIxx", 0x84, 0x04, identifier, allocation)


# -- tokens ------------------------------------------------------------------------------------


def _ranges(ranges: Sequence[Range]) -> bytes:
    return b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in ranges)


def populate_list(
    ranges: Sequence[Range], *, flags: int = 0, timeout: int = 0, kind: int = 0
) -> bytes:
    """A POPULATE TOKEN parameter list."""
    body = _ranges(ranges)
    return struct.pack(">HBxII2xH", 14 + len(body), flags, timeout, kind, len(body)) + body


def write_list(token: bytes, ranges: Sequence[Range], *, offset: int = 0, flags: int = 0) -> bytes:
    """A WRITE USING TOKEN parameter list."""
    body = _ranges(ranges)
    return struct.pack(">HB5xQ512s6xH", 534 + len(body), flags, offset, token, len(body)) + body


def populate_token(identifier: int, length: int) -> bytes:
    return struct.pack(">BB4xIIxx", 0x83, 0x10, identifier, length)


def write_using_token(identifier: int, length: int) -> bytes:
    return struct.pack(">BB4xIIxx", 0x83, 0x11, identifier, length)


def token_information(identifier: int, allocation: int = 4096) -> bytes:
    return struct.pack(">BBI4xIxx", 0x84, 0x07, identifier, allocation)


def copy_status_lid4(identifier: int, allocation: int = 4096) -> bytes:
    return struct.pack(">BBI4xIxx", 0x84, 0x05, identifier, allocation)


class Information(NamedTuple):
    """RECEIVE ROD TOKEN INFORMATION data, read by SPC-5 tables 247 and 256."""

    action: int
    state: int
    delay: int
    status: int
    units: int
    transferred: int
    segments: int
    sense: bytes
    token: bytes

    @classmethod
    def read(cls, data: bytes) -> Information:
        available, action, state, _, delay, status, field, length, units, count, segments = (
            struct.unpack_from(">IBBHIBBBBQH", data)
        )
        assert available == len(data) - 4
        assert not field % 4 and length <= field
        sense = data[32 : 32 + length]
        (tokens,) = struct.unpack_from(">I", data, 32 + field)
        rest = data[36 + field :]
        assert len(rest) == tokens
        return cls(action, state, delay, status, units, count, segments, sense, rest[2:])


class Host:
    """An initiator that copies with tokens; every answer is checked by the caller."""

    def __init__(self, nexus: Nexus, port: EnginePort | None = None) -> None:
        self.nexus = nexus
        self.port = port or EnginePort()

    def run(self, cdb: bytes, data: bytes = b"", unit: int = 0) -> Result:
        return self.port.execute(self.nexus, cdb, data, lun(unit))

    def copy(self, data: bytes, unit: int = 0) -> Result:
        return self.run(extended_copy(len(data)), data, unit)

    def populate(self, data: bytes, identifier: int = 1, unit: int = 0) -> Result:
        return self.run(populate_token(identifier, len(data)), data, unit)

    def write(self, data: bytes, identifier: int = 2, unit: int = 0) -> Result:
        return self.run(write_using_token(identifier, len(data)), data, unit)

    def information(self, identifier: int, unit: int = 0) -> Information:
        result = self.run(token_information(identifier), unit=unit)
        assert result.status == 0
        return Information.read(result.data)

    def token(self, ranges: Sequence[Range], unit: int = 0, timeout: int = 0) -> bytes:
        """A token for the ranges."""
        assert self.populate(populate_list(ranges, timeout=timeout), 99, unit).status == 0
        token = self.information(99, unit).token
        assert len(token) == 512
        return token


# -- disks and hosts -----------------------------------------------------------------------------


class Clock:
    """A clock that goes when the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def filled(**parameters: Any) -> InlineRamUnit:
    """A disk whose data is another one's nowhere."""
    unit = InlineRamUnit(**parameters)
    pattern = uuid.uuid4().bytes + bytes(range(251))
    unit.memory[:] = (pattern * (len(unit.memory) // len(pattern) + 1))[: len(unit.memory)]
    return unit


def pair(**second: Any) -> tuple[InlineRamUnit, InlineRamUnit, Host]:
    """Two such disks of one target, and who copies."""
    a, b = filled(), filled(**second)
    return a, b, host_of(a, b)


def code(result: Result) -> tuple[int, int]:
    """Sense key and additional sense code of a CHECK CONDITION."""
    assert result.status == 2 and result.sense is not None
    return result.sense.key, result.sense.code


def same(one: Buffer, other: Buffer) -> bool:
    """Whether they are equal; so that nobody prints their differences for minutes."""
    return one == other


def host_of(*units: StorageUnit, clock: Clock | None = None) -> Host:
    """Who copies between these units of one target."""
    target = Target(IQN, [LogicalUnit(Gate(unit), clock=clock) for unit in units])
    return Host(ready_nexus(target))
