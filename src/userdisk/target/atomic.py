"""Writes that nobody sees half of: COMPARE AND WRITE, ORWRITE(16), WRITE ATOMIC(16).

SBC-4 5.3, 5.11, 5.43. The first two read and write with nobody else in the unit; ORWRITE so for
each step, since it promises no more. The third is a promise of the unit, and one of its writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import sense
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_out import receive_all, receive_blocks
from userdisk.target.extent import addressed, announced, steps, transferred
from userdisk.target.verify import difference

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

MAX_COMPARED = 255  #: blocks: what the CDB can say
_MAX_ATOMIC = (1 << 16) - 1  # as well


def compare_and_write(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """COMPARE AND WRITE: writes the second half of data-out if the blocks are the first."""
    lba, blocks, fua, _ = addressed(lu, command.cdb)
    if not blocks:
        if command.data_out_length:  # more blocks than the field can say
            raise CheckCondition(sense.invalid_field_in_cdb(13))
        return GOOD
    wanted = 2 * blocks * lu.block_length
    if command.data_out_length != wanted:
        raise CheckCondition(sense.data_out_too_short(), wanted)
    return _compare_and_write(lu, command, lba, blocks, fua, wanted)


def _compare_and_write(
    lu: LogicalUnit, command: Command, lba: int, blocks: int, fua: bool, wanted: int
) -> Steps:
    data = yield from receive_all(command, wanted)
    yield Exclusive(lambda: _exchange(lu, lba, blocks, data, fua), lba, blocks)
    return Completion(wanted=wanted)


def _exchange(lu: LogicalUnit, lba: int, blocks: int, data: bytes, fua: bool) -> Sequel:
    length, half = lu.block_length, memoryview(data)[len(data) // 2 :]
    for at, count in steps(lu, lba, blocks):
        start = (at - lba) * length
        found = yield Operation(Kind.READ, at, count)
        found = lu.gate.checked_read(found, count * length)
        offset = difference(data[start : start + count * length], found)
        if offset is not None:
            raise CheckCondition(sense.miscompare(start + offset), len(data))
    for at, count in steps(lu, lba, blocks):
        start = (at - lba) * length
        piece = half[start : start + count * length]
        yield Operation(Kind.WRITE, at, count, data=piece, fua=fua)


def orwrite(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """ORWRITE(16): sets the bits of data-out in the blocks."""
    lba, blocks, fua, _ = transferred(lu, command.cdb)
    whole = announced(lu, command, blocks)
    return _orwrite(lu, lba, whole, fua, blocks * lu.block_length) if blocks else GOOD


def _orwrite(lu: LogicalUnit, lba: int, left: int, fua: bool, wanted: int) -> Steps:
    while left:
        data = bytes((yield from receive_blocks(lu, left, wanted)))
        blocks = len(data) // lu.block_length
        yield _or_step(lu, lba, blocks, data, fua)
        lba += blocks
        left -= blocks
    return Completion(wanted=wanted)


def _or_step(lu: LogicalUnit, lba: int, blocks: int, data: bytes, fua: bool) -> Exclusive:
    def merge() -> Sequel:
        found = yield Operation(Kind.READ, lba, blocks)
        found = lu.gate.checked_read(found, len(data))
        bits = int.from_bytes(found, "big") | int.from_bytes(data, "big")
        merged = memoryview(bits.to_bytes(len(data), "big"))
        yield Operation(Kind.WRITE, lba, blocks, data=merged, fua=fua)

    return Exclusive(merge, lba, blocks)


def offered(lu: LogicalUnit) -> bool:
    """Whether the unit promises atomic writes."""
    return bool(lu.parameters.atomic_blocks)


def max_atomic(lu: LogicalUnit) -> int:
    """MAXIMUM ATOMIC TRANSFER LENGTH."""
    return min(lu.parameters.atomic_blocks, lu.step, _MAX_ATOMIC)


def write_atomic(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """WRITE ATOMIC(16), without atomic boundaries: all of it, as one write of the unit."""
    lba, blocks, fua, _ = addressed(lu, command.cdb)
    if blocks > max_atomic(lu):
        raise CheckCondition(sense.invalid_field_in_cdb(12))
    return _write_atomic(lu, command, lba, blocks, fua) if blocks else GOOD


def _write_atomic(lu: LogicalUnit, command: Command, lba: int, blocks: int, fua: bool) -> Steps:
    wanted = blocks * lu.block_length
    data = yield from receive_all(command, wanted)
    yield Operation(Kind.WRITE, lba, blocks, data=memoryview(data), fua=fua)
    return Completion(wanted=wanted)
