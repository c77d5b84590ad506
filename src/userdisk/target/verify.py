"""VERIFY and WRITE AND VERIFY: are the blocks readable, and what they should be (SBC-4 5.36, 5.48).

Blocks are read with FUA: what matters is the medium, not a cache before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_out import receive_all, receive_blocks
from userdisk.target.extent import (
    addressed,
    announced,
    is_long,
    steps,
    transferred,
)

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.unit import Buffer

#: BYTCHK: how the blocks are compared with data-out.
_NOT_COMPARED, _COMPARED, _RESERVED, _ONE_WITH_ALL = range(4)


def difference(data: bytes, found: Buffer) -> int | None:
    """Where two buffers of one length differ first; None: nowhere."""
    other = bytes(found)
    if data == other:
        return None
    bits = (int.from_bytes(data, "big") ^ int.from_bytes(other, "big")).bit_length()
    return len(data) - (bits + 7) // 8


def _bytchk(cdb: bytes) -> int:
    return cdb[1] >> 1 & 3


def verify(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """VERIFY(10), (12) and (16). Data-out that is sent though none is compared is left."""
    cdb = command.cdb
    bytchk = _bytchk(cdb)
    if bytchk == _RESERVED:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 2))
    where = transferred(lu, cdb) if bytchk == _COMPARED else addressed(lu, cdb)
    if not where.blocks:
        return GOOD
    if bytchk == _NOT_COMPARED:
        return _read(lu, where.lba, where.blocks)
    if bytchk == _COMPARED:
        return _compare(lu, command, where.lba, where.blocks)
    return _compare_each(lu, command, where.lba, where.blocks)


def _read(lu: LogicalUnit, lba: int, blocks: int) -> Steps:
    offload = is_long(lu, blocks)
    for at, count in steps(lu, lba, blocks):
        found = yield Operation(Kind.READ, at, count, fua=True, offload=offload)
        lu.gate.checked_read(found, count * lu.block_length)
    return GOOD


def _compare(lu: LogicalUnit, command: Command, lba: int, left: int) -> Steps:
    wanted, offset = left * lu.block_length, 0
    offload = is_long(lu, left)
    if command.data_out_length < wanted:
        raise CheckCondition(sense.data_out_too_short(), wanted)
    while left:
        data = bytes((yield from receive_blocks(lu, left, wanted)))
        blocks = len(data) // lu.block_length
        found = yield Operation(Kind.READ, lba, blocks, fua=True, offload=offload)
        _check(data, lu.gate.checked_read(found, len(data)), offset, wanted)
        lba += blocks
        left -= blocks
        offset += len(data)
    return Completion(wanted=wanted)


def _compare_each(lu: LogicalUnit, command: Command, lba: int, blocks: int) -> Steps:
    wanted = lu.block_length
    block = yield from receive_all(command, wanted)
    offload = is_long(lu, blocks)
    for at, count in steps(lu, lba, blocks):
        found = yield Operation(Kind.READ, at, count, fua=True, offload=offload)
        whole = bytes(lu.gate.checked_read(found, count * wanted))
        if whole != block * count:
            for start in range(0, len(whole), wanted):
                _check(block, whole[start : start + wanted], 0, wanted)
    return Completion(wanted=wanted)


def _check(data: bytes, found: Buffer, offset: int, wanted: int) -> None:
    at = difference(data, found)
    if at is not None:
        raise CheckCondition(sense.miscompare(offset + at), wanted)


def write_and_verify(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """WRITE AND VERIFY(10), (12) and (16)."""
    where = transferred(lu, command.cdb)
    whole = announced(lu, command, where.blocks)
    compare = _bytchk(command.cdb) == _COMPARED
    wanted = where.blocks * lu.block_length
    return _write_and_verify(lu, where.lba, whole, compare, wanted) if where.blocks else GOOD


def _write_and_verify(lu: LogicalUnit, lba: int, left: int, compare: bool, wanted: int) -> Steps:
    offset = 0
    offload = is_long(lu, left)
    while left:
        data = bytes((yield from receive_blocks(lu, left, wanted)))
        blocks = len(data) // lu.block_length
        view = memoryview(data)
        yield Operation(Kind.WRITE, lba, blocks, data=view, fua=True, offload=offload)
        found = yield Operation(Kind.READ, lba, blocks, fua=True, offload=offload)
        found = lu.gate.checked_read(found, len(data))
        if compare:
            _check(data, found, offset, wanted)
        lba += blocks
        left -= blocks
        offset += len(data)
    return Completion(wanted=wanted)
